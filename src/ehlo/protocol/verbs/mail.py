"""The mail transaction: MAIL, RCPT, RSET, DATA, BDAT, and the end of a message (RFC 5321 3.3).

It is longer than other modules, since a reader of one of these commands needs the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ehlo.protocol import address, events, grammar, parameters
from ehlo.protocol import reply as replies
from ehlo.protocol.address import NO_PARAMETERS, NULL_PATH, Address, Parameters
from ehlo.protocol.body import DataReader, Skipper, has_bare_newline, middle, whole
from ehlo.protocol.conversation import Chunk, Conversation, Reader, no_transaction
from ehlo.protocol.output import Rejected
from ehlo.protocol.parameters import ExtensionError, Parameter
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import State, Transaction
from ehlo.protocol.verbs.verb import SESSION, Ask, Question, Verb, agree, say

_RECIPIENT_COST: Final = 200  # bytes, in addition to its text
_PARAMETERS_COST: Final = 500
_ENDED: Final = State.ENDED  # used for each message, and slow to look up before Python 3.12


def _transaction(conversation: Conversation) -> Transaction:
    return conversation.transaction or no_transaction()


# -- paths ---------------------------------------------------------------------------------------

# RFC 5321 4.1.2: Path = "<" [ A-d-l ":" ] Mailbox ">". One space after the colon is tolerated;
# several before and between parameters too.
_MAIL = re.compile(
    rf"(?i:FROM): ?(?:<(?:{grammar.SOURCE_ROUTE})?{grammar.MAILBOX}>|<>)(?P<rest> .*)?"
)
_RCPT = re.compile(rf"(?i:TO): ?<(?:{grammar.SOURCE_ROUTE})?{grammar.MAILBOX}>(?P<rest> .*)?")
# RFC 5321 4.1.1.3: "<Postmaster>", in any case, is a path of its own
_POSTMASTER = re.compile(r"(?i:TO): ?<(?P<local>(?ai:postmaster))(?P<domain>)>(?P<rest> .*)?")
# With `lenient_addresses`: in brackets, or bare
_LENIENT = (
    rf" ?<(?:{grammar.SOURCE_ROUTE})?{grammar.LENIENT_MAILBOX}>(?P<rest> .*)?",
    rf" ?{grammar.LENIENT_MAILBOX}(?P<rest> .*)?",
)
_LENIENT_MAIL = tuple(re.compile(f"(?i:FROM):{path}") for path in _LENIENT)
_LENIENT_RCPT = tuple(re.compile(f"(?i:TO):{path}") for path in _LENIENT)
_MAIL_ANY_PATH = re.compile(rf"(?i:FROM): ?{grammar.ANY_PATH.pattern}(?: .*)?")
_RCPT_ANY_PATH = re.compile(rf"(?i:TO): ?{grammar.ANY_PATH.pattern}(?: .*)?")


# The usual form of the same, as a whole packet of ASCII: a Dot-string at a Domain. What it leaves
# out is no error, but rarer
_PLAIN_PATH = rf"<({grammar.DOT_STRING}@{grammar.DOMAIN})>"
_PLAIN_MAIL = re.compile(
    rf"(?i:MAIL FROM):{_PLAIN_PATH}((?: (?i:SIZE=[0-9]++|BODY=8BITMIME|BODY=7BIT))*+)\r\n".encode()
)
_PLAIN_RCPT = re.compile(rf"(?i:RCPT TO):{_PLAIN_PATH}\r\n".encode())


def _match(patterns: Iterable[re.Pattern[str]], argument: str) -> re.Match[str] | None:
    return next(filter(None, (pattern.fullmatch(argument) for pattern in patterns)), None)


def reverse_path(conversation: Conversation, argument: str) -> Address | Reply:
    """Parse MAIL's argument, a reverse path with parameters (RFC 5321 4.1.1.2)."""
    match = _MAIL.fullmatch(argument)
    if match is None and conversation.settings.lenient_addresses:
        match = _match(_LENIENT_MAIL, argument)
    if match is None:
        is_path = _MAIL_ANY_PATH.fullmatch(argument)
        return replies.BAD_SENDER if is_path else replies.MAIL_SYNTAX
    local, domain, rest = match.groups()
    params = NO_PARAMETERS
    if rest:  # whether the client speaks UTF-8 stands in the parameters
        found = _parameters(conversation, rest, conversation.settings.mail_params, utf8=True)
        if isinstance(found, Reply):
            return found
        params = found
    if "SMTPUTF8" not in params and not argument.isascii():
        return replies.SENDER_NEEDS_SMTPUTF8
    if local is None:
        return Address("", "", params) if params else NULL_PATH
    return address.parsed(local, domain or "", params) or replies.BAD_SENDER


def forward_path(conversation: Conversation, argument: str, *, smtputf8: bool) -> Address | Reply:
    """Parse RCPT's argument, a forward path with parameters (RFC 5321 4.1.1.3)."""
    match = _RCPT.fullmatch(argument) or _POSTMASTER.fullmatch(argument)
    if match is None and conversation.settings.lenient_addresses:
        match = _match(_LENIENT_RCPT, argument)
    if match is None:
        is_path = _RCPT_ANY_PATH.fullmatch(argument)
        return replies.BAD_RECIPIENT if is_path else replies.RCPT_SYNTAX
    local, domain, rest = match.groups()
    if not smtputf8 and not argument.isascii() and not argument.removesuffix(rest or "").isascii():
        return replies.RECIPIENT_NEEDS_SMTPUTF8
    params = NO_PARAMETERS
    if rest:
        found = _parameters(conversation, rest, conversation.settings.rcpt_params, utf8=smtputf8)
        if isinstance(found, Reply):
            return found
        params = found
    return address.parsed(local, domain or "", params) or replies.BAD_RECIPIENT


def _parameters(
    conversation: Conversation, text: str, known: Mapping[str, Parameter], *, utf8: bool
) -> Parameters | Reply:
    ignore = conversation.settings.ignore_unknown_params
    try:
        return parameters.read(text, known, conversation.facts, utf8=utf8, ignore_unknown=ignore)
    except ExtensionError as error:
        conversation.output.note_failure(error)
        return replies.TROUBLE


# -- MAIL ----------------------------------------------------------------------------------------


def _parse_mail(conversation: Conversation, argument: str) -> Address | Reply:
    sender = reverse_path(conversation, argument)
    if not isinstance(sender, Address):
        return sender
    return _checked_sender(conversation, sender)


def _usual_mail(conversation: Conversation, packet: bytes) -> Address | Reply | None:
    match = _PLAIN_MAIL.fullmatch(packet) if packet.isascii() else None
    if match is None:
        return None
    path, rest = match.groups()
    params = NO_PARAMETERS
    if rest:
        known = conversation.settings.mail_params
        found = _parameters(conversation, rest.decode(), known, utf8=False)
        if isinstance(found, Reply):
            return found
        params = found
    return _checked_sender(conversation, address.plain(path, params))


def _checked_sender(conversation: Conversation, sender: Address) -> Address | Reply:
    settings = conversation.settings
    if 0 < settings.max_messages <= conversation.counts.messages:
        return replies.TOO_MANY_MESSAGES
    params = sender.params
    if params:
        if params.get("SIZE", 0) > settings.max_size > 0:
            return replies.TOO_LARGE
        if params.get("BODY") == "BINARYMIME" and not settings.binarymime:
            return replies.unknown_parameter("BODY")
    return conversation.admission.admit_sender(sender) or sender


def _propose_mail(conversation: Conversation, sender: Address) -> None:
    """Open the transaction before the hook is asked, which may keep values in it."""
    conversation.transaction = Transaction(sender, "SMTPUTF8" in sender.params)


def _accept_mail(conversation: Conversation, sender: Address, answer: Reply | None) -> Reply:
    conversation.counts.messages += 1
    if conversation.transaction is None:
        conversation.transaction = Transaction(sender, "SMTPUTF8" in sender.params)
    return answer or replies.MAIL_OK


def _reject_mail(conversation: Conversation, sender: Address, reply: Reply) -> Reply:
    conversation.transaction = None
    return _fail_mail(conversation, sender, reply)


def _fail_mail(conversation: Conversation, _sender: object, reply: Reply) -> Reply:
    conversation.counts.messages += 1  # RFC 9422 4.1: whether they succeed or fail
    return reply


MAIL: Final = Verb(
    "MAIL",
    since={State.READY},
    to=State.MAIL,
    parse=_parse_mail,
    propose=_propose_mail,
    usual=_usual_mail,
    accept=_accept_mail,
    reject=_reject_mail,
    event=events.Mail,
    hook="on_mail",
    arguments=lambda event: (event.sender, event.sender.params),
    fail=_fail_mail,
    progress=True,
    elsewhere={
        State.HELLO: replies.HELLO_FIRST,
        State.MAIL: replies.NESTED_MAIL,
        State.RCPT: replies.NESTED_MAIL,
        State.BDAT: replies.AMID_CHUNKS,
    },
)

# -- RCPT ----------------------------------------------------------------------------------------


def _parse_rcpt(conversation: Conversation, argument: str) -> Address | Reply:
    transaction = conversation.transaction or no_transaction()
    recipient = forward_path(conversation, argument, smtputf8=transaction.smtputf8)
    if not isinstance(recipient, Address):
        return recipient
    return _checked_recipient(conversation, recipient, argument)


def _usual_rcpt(conversation: Conversation, packet: bytes) -> Address | Reply | None:
    match = _PLAIN_RCPT.fullmatch(packet) if packet.isascii() else None
    if match is None:
        return None
    return _checked_recipient(conversation, address.plain(match[1]))


def _checked_recipient(
    conversation: Conversation, recipient: Address, argument: str = ""
) -> Address | Reply:
    """Check a recipient against the limits; `argument` is that of RCPT, if it is not plain."""
    transaction, settings = conversation.transaction or no_transaction(), conversation.settings
    if len(transaction.recipients) >= settings.max_recipients:
        return replies.TOO_MANY_RECIPIENTS
    if settings.max_recipient_domains and _is_one_domain_more(conversation, recipient.domain):
        return replies.TOO_MANY_DOMAINS
    if conversation.admission.counts_recipients:
        refusal = conversation.admission.admit_recipient()
        if refusal is not None:
            return refusal
    if transaction.recipients and not _hold(conversation, transaction, argument, recipient):
        return replies.NO_MEMORY
    return recipient


def _hold(
    conversation: Conversation, transaction: Transaction, argument: str, recipient: Address
) -> bool:
    """Count about as many bytes as a recipient takes; return whether there is room for them.

    A text takes four bytes for each character if one is beyond U+FFFF, and an address is two.
    """
    argument = argument or str(recipient)
    size = _RECIPIENT_COST + 2 * argument.__sizeof__()
    if recipient.params:  # which are decoded
        size += _PARAMETERS_COST + 4 * len(argument)
    if not conversation.admission.hold(size):
        return False
    transaction.held += size
    return True


def _is_one_domain_more(conversation: Conversation, domain: str) -> bool:
    """Whether `domain` exceeds RFC 9422 4.3; <Postmaster> has none (RFC 5321 4.5.1)."""
    domains = conversation.counts.domains
    full = len(domains) >= conversation.settings.max_recipient_domains
    return full and domain.lower() not in domains and domain != ""


def _accept_rcpt(conversation: Conversation, recipient: Address, answer: Reply | None) -> Reply:
    transaction = conversation.transaction or no_transaction()
    transaction.recipients.append(recipient)
    if conversation.settings.max_recipient_domains and recipient.domain:
        conversation.counts.add_domain(recipient.domain)
    return answer or replies.RCPT_OK


def _reject_rcpt(conversation: Conversation, _recipient: Address, answer: Reply) -> Reply:
    _transaction(conversation).refused += 1
    conversation.counts.refused_recipients += answer.code >= 500  # a 4xx may be a local error
    return answer


def _fail_rcpt(conversation: Conversation, argument: str, reply: Reply) -> Reply | None:
    transaction = conversation.transaction
    if transaction is None:
        return reply
    if reply is not replies.TOO_MANY_RECIPIENTS and reply is not replies.TOO_MANY_DOMAINS:
        transaction.refused += 1
        return reply
    # RFC 5321 4.5.3.1.10: the transaction goes on, and trying is no error, within reason
    transaction.over_limit += 1
    if transaction.over_limit <= conversation.settings.limits.excess_recipients:
        return reply
    conversation.output.mistake(reply, "RCPT", Rejected(transaction, argument))
    return None


RCPT: Final = Verb(
    "RCPT",
    since={State.MAIL, State.RCPT},
    to=State.RCPT,
    parse=_parse_rcpt,
    usual=_usual_rcpt,
    accept=_accept_rcpt,
    reject=_reject_rcpt,
    event=events.Rcpt,
    hook="on_rcpt",
    arguments=lambda event: (event.recipient, event.recipient.params),
    fail=_fail_rcpt,
    progress=True,
    elsewhere={
        State.HELLO: replies.MAIL_FIRST,
        State.READY: replies.MAIL_FIRST,
        State.BDAT: replies.AMID_CHUNKS,
    },
)

# -- RSET ----------------------------------------------------------------------------------------


def _parse_rset(conversation: Conversation, argument: str) -> events.Reset | Reply:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    too_many = conversation.transaction is not None and conversation.has_refused_too_many
    return replies.TOO_MANY_REFUSED if too_many else events.RESET


RSET: Final = Verb(
    "RSET",
    since=SESSION,
    to=None,
    ends=True,
    parse=_parse_rset,
    accept=agree,
    reject=say,
    event=events.Reset,
    hook="on_reset",
    before_login=True,
)

# -- DATA ----------------------------------------------------------------------------------------

_PLAIN_DATA = (b"DATA\r\n", b"data\r\n")


def _no_recipients(conversation: Conversation) -> Reply:
    """Return the reply to a body before the first accepted recipient."""
    if not _transaction(conversation).refused:
        return replies.RCPT_FIRST
    lmtp = conversation.settings.lmtp  # RFC 2033 4.2
    return replies.NO_VALID_RECIPIENTS_LMTP if lmtp else replies.NO_VALID_RECIPIENTS


def _parse_data(conversation: Conversation, argument: str) -> events.Data | Reply:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    transaction = conversation.transaction or no_transaction()
    binary = transaction.sender.params and transaction.binary
    return replies.BINARY_NEEDS_BDAT if binary else events.DATA


def _usual_data(conversation: Conversation, packet: bytes) -> events.Data | Reply | None:
    return _parse_data(conversation, "") if packet in _PLAIN_DATA else None


def _accept_data(conversation: Conversation, _event: events.Data, answer: Reply | None) -> Reply:
    conversation.reader = DataReader()
    return answer or replies.START_DATA


DATA: Final = Verb(
    "DATA",
    since={State.RCPT},
    to=State.DATA,
    parse=_parse_data,
    usual=_usual_data,
    accept=_accept_data,
    reject=say,
    event=events.Data,
    hook="on_data",
    progress=True,
    elsewhere={
        State.HELLO: replies.RCPT_FIRST,
        State.READY: replies.RCPT_FIRST,
        State.MAIL: _no_recipients,
        State.BDAT: replies.AMID_CHUNKS,
    },
)

# -- BDAT (RFC 3030) -----------------------------------------------------------------------------


def _chunk(argument: str) -> Chunk | None:
    """Parse BDAT's argument; return `None` if the number of bytes is unknown."""
    match = grammar.CHUNK.fullmatch(argument.strip(" "))
    return Chunk(int(match[1]), match[2] is not None) if match else None


def _parse_bdat(_conversation: Conversation, argument: str) -> Chunk | Reply:
    return _chunk(argument) or replies.BAD_CHUNK


def _accept_bdat(conversation: Conversation, chunk: Chunk, _answer: Reply | None) -> Ask | None:
    """Begin to read a chunk; ask first if it is the first one."""
    is_first = conversation.begin_chunk(chunk)
    return (_FIRST_CHUNK, events.DATA) if is_first else None


def _fail_bdat(conversation: Conversation, argument: str, reply: Reply) -> None:
    """Skip the chunk before it gets its reply, or end the connection if its size is unknown."""
    chunk = _chunk(argument)
    if chunk is None:
        conversation.lose_sync(to="BDAT")
    else:
        conversation.skip_chunk(chunk, reply)


def _no_recipients_for_chunk(conversation: Conversation) -> Reply:
    reply = _no_recipients(conversation)
    return replies.RCPT_BEFORE_BDAT if reply is replies.RCPT_FIRST else reply


BDAT: Final = Verb(
    "BDAT",
    since={State.RCPT, State.BDAT},
    to=State.BDAT,
    parse=_parse_bdat,
    accept=_accept_bdat,
    fail=_fail_bdat,
    progress=True,
    exists=lambda conversation: conversation.settings.chunking,
    elsewhere={
        State.HELLO: replies.RCPT_BEFORE_BDAT,
        State.READY: replies.RCPT_BEFORE_BDAT,
        State.MAIL: _no_recipients_for_chunk,
    },
)


def _accept_chunks(conversation: Conversation, _event: events.Data, _answer: Reply | None) -> None:
    """Read the first chunk; its reply comes after its bytes, so a 354 is not sent."""
    conversation.reader = _transaction(conversation).chunks


def _reject_chunks(conversation: Conversation, event: events.Data, answer: Reply) -> None:
    """Read the chunk all the same, and reject it at its end."""
    _transaction(conversation).refusal = answer
    _accept_chunks(conversation, event, None)


_FIRST_CHUNK: Final = Question(
    "BDAT",
    to=None,
    accept=_accept_chunks,
    reject=_reject_chunks,
    event=events.Data,
    hook="on_data",
)

# -- the end of a message ------------------------------------------------------------------------


def hear_body(
    conversation: Conversation, reader: Reader, packet: bytes
) -> events.MessageEnd | events.BodyChunk | None:
    """Ask about a message whose body ends with this packet, or return a large chunk of a body.

    Returns `None` for any other packet: one that has a dot to drop, or line ends to change.
    """
    transaction, settings = conversation.transaction, conversation.settings
    if transaction is None or type(reader) is not DataReader or transaction.refusal is not None:
        return None
    if (reader.at_start and packet[:1] == b".") or transaction.crs:
        return None
    body = whole(packet)
    chunk = middle(packet) if body is None else body
    if chunk is None:
        return None
    size = transaction.size + len(chunk)
    if size > settings.max_size > 0:
        return None
    if not settings.keeps_newlines and has_bare_newline(chunk):
        return None
    narrator = conversation.output.narrator
    if narrator is not None:
        narrator.body(chunk, dots=True)
    transaction.size = size
    if body is None:
        reader.at_start = False
        return events.BodyChunk(chunk)
    if narrator is not None:
        narrator.end_body(dots=True)
    conversation.counts.idle = 0
    conversation.reader, conversation.state = None, _ENDED
    return events.MessageEnd(transaction, body)


def end_of_body(conversation: Conversation, reader: Reader) -> Ask | None:
    """Ask about a message that is complete, or send the rejection that waited for its end."""
    if type(reader) is Skipper:
        _end_skipping(conversation, reader)
        return None
    transaction = conversation.transaction or no_transaction()
    refusal = transaction.refusal
    conversation.counts.idle = 0
    if refusal is None:
        conversation.state = _ENDED
        return MESSAGE, transaction
    chunks = transaction.chunks
    permanent = refusal.code >= 500  # otherwise the client must know that it may try again
    if permanent and chunks is not None and chunks.failed and not conversation.settings.lmtp:
        refusal = replies.CHUNK_FAILED  # the chunk that failed was told why
    _reject_message(conversation, transaction, refusal)
    return None


def _end_skipping(conversation: Conversation, reader: Skipper) -> None:
    none = reader.refusal in (replies.RCPT_BEFORE_BDAT, replies.NO_VALID_RECIPIENTS_LMTP)
    lmtp = conversation.settings.lmtp
    if lmtp and reader.last and none and conversation.state is State.MAIL:
        # RFC 2033 4.3: one reply per accepted recipient, and there is none
        conversation.end_transaction()
        turn_away_after_refusals(conversation)
    else:
        conversation.output.answer(reader.refusal, "BDAT", Rejected(conversation.transaction))


def _accept_message(
    conversation: Conversation, transaction: Transaction, answer: Reply | None
) -> Reply | None:
    """Return the reply; in LMTP, there is one per recipient (RFC 2033 4.2)."""
    reply = answer or replies.QUEUED
    if conversation.settings.lmtp:
        conversation.output.outcome(reply, transaction)
        return None
    if conversation.counts.refusals:
        conversation.output.forgive()
    return reply


def _reject_message(conversation: Conversation, transaction: Transaction, answer: Reply) -> None:
    """End the transaction, as acceptance does (RFC 5321 3.3)."""
    conversation.end_transaction()
    conversation.output.outcome(answer, transaction)
    turn_away_after_refusals(conversation)


def turn_away_after_refusals(conversation: Conversation) -> None:
    """End the session with the next command if too many recipients were rejected.

    The message has its own reply: a 421 instead of a 5xx would have it sent again.
    """
    if conversation.has_refused_too_many:
        conversation.turn_away(replies.TOO_MANY_REFUSED)


MESSAGE: Final = Question(
    ".",
    to=None,
    ends=True,
    accept=_accept_message,
    reject=_reject_message,
    event=events.MessageEnd,
    made_of=events.MessageEnd,
    always=True,
)
