"""The commands around mail: greeting, TLS, trusted proxies, and those that only get a reply."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from ehlo.protocol import events, xclient
from ehlo.protocol import reply as replies
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import State
from ehlo.protocol.verbs.verb import SESSION, Question, Verb, agree, any_argument, say
from ehlo.protocol.xclient import Attributes

_HELLO: Final = State.HELLO  # 700 instructions at each look-up before Python 3.12


def plain(answer: Reply) -> Reply:
    """Drop the enhanced code (RFC 2034 4), unless a 421 ends the connection."""
    return answer if answer.closes else Reply(answer.code, None, answer.text)


# -- the connection ------------------------------------------------------------------------------


def _greet(conversation: Conversation, _event: events.Connect, answer: Reply | None) -> Reply:
    return conversation.settings.greeting if answer is None else plain(answer)


def _turn_away(conversation: Conversation, _event: events.Connect, answer: Reply) -> Reply:
    """Wait for QUIT after a 554, and answer 503 to all else (RFC 5321 3.1)."""
    conversation.turn_away(replies.REFUSED_CONNECTION)
    return plain(answer)


CONNECT: Final = Question(
    "",
    to=State.HELLO,
    accept=_greet,
    reject=_turn_away,
    event=events.Connect,
    hook="on_connect",
)

# -- HELO, EHLO, LHLO ----------------------------------------------------------------------------


_LONGEST_NAME: Final = 255  # bytes


def _name(conversation: Conversation, argument: str, *, syntax: Reply) -> str | Reply:
    """Return the first word; clients exist that send more than their name.

    RFC 5321 4.1.1.1 asks for a domain or an address literal, and real clients send the name that
    their machine has. Bytes that are not UTF-8 are replaced.
    """
    if conversation.transaction is not None and conversation.has_refused_too_many:
        return replies.TOO_MANY_REFUSED
    name = argument.lstrip(" ").partition(" ")[0]
    octets = name.encode(errors="surrogateescape")
    if not 0 < len(octets) <= _LONGEST_NAME:
        return syntax
    return name if name.isascii() else octets.decode(errors="replace")


# Its usual form, as a whole packet
_PLAIN_HELLO: Final = re.compile(rb"(?i:EHLO|HELO) ([A-Za-z0-9.\-_\[\]:]++)\r\n")


def _usual_hello(conversation: Conversation, packet: bytes) -> str | None:
    """Return the name in EHLO or HELO of a client that has sent nothing before it."""
    if conversation.state is not _HELLO or conversation.counts.idle or conversation.settings.lmtp:
        return None
    match = _PLAIN_HELLO.fullmatch(packet)
    if match is None:
        return None
    conversation.counts.idle = 1  # until it is accepted
    return match[1].decode()


def _propose_hello(conversation: Conversation, _name: str, *, esmtp: bool) -> None:
    conversation.esmtp_before, conversation.esmtp = conversation.esmtp, esmtp


def _accept_helo(conversation: Conversation, name: str, answer: Reply | None) -> Reply:
    return _hello(conversation, name, answer, None, esmtp=False)


def _accept_ehlo(conversation: Conversation, name: str, answer: Reply | None) -> Reply:
    return _hello(conversation, name, answer, conversation.offers(), esmtp=True)


def _hello(
    conversation: Conversation,
    name: str,
    answer: Reply | None,
    extensions: Reply | None,
    *,
    esmtp: bool,
) -> Reply:
    conversation.helo, conversation.esmtp = name, esmtp
    conversation.counts.idle -= conversation.state is _HELLO  # the first is progress
    if answer is None:
        return replies.hello(conversation.settings.hostname, name, extensions)
    first = answer.lines[0]
    text = first if extensions is None else f"{first}\n{extensions.text}"
    return Reply(answer.code, None, text)


def _reject_hello(conversation: Conversation, _name: str, answer: Reply) -> Reply:
    conversation.esmtp = conversation.esmtp_before
    return plain(answer)


def _hello_verb(name: str, syntax: Reply, *, esmtp: bool, lmtp: bool) -> Verb[str]:
    return Verb(
        name,
        since=SESSION,
        to=State.READY,
        ends=True,  # RFC 5321 4.1.4: it is a RSET, too
        parse=partial(_name, syntax=syntax),
        usual=None if lmtp else _usual_hello,
        usual_is_whole=True,
        accept=_accept_ehlo if esmtp else _accept_helo,
        reject=_reject_hello,
        event=events.Hello,
        propose=partial(_propose_hello, esmtp=esmtp),
        made_of=partial(events.Hello, esmtp=esmtp),
        hook="on_hello",
        arguments=lambda event: (event.name,),
        before_tls=True,
        before_login=True,
        lmtp=lmtp,
    )


HELO: Final = _hello_verb("HELO", replies.NO_HELO_NAME, esmtp=False, lmtp=False)
EHLO: Final = _hello_verb("EHLO", replies.NO_EHLO_NAME, esmtp=True, lmtp=False)
# RFC 2033 4.1: EHLO by another name
LHLO: Final = _hello_verb("LHLO", replies.NO_LHLO_NAME, esmtp=True, lmtp=True)

# -- STARTTLS ------------------------------------------------------------------------------------


def _parse_starttls(conversation: Conversation, argument: str) -> events.StartTLS | Reply | None:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    if conversation.tls:
        return replies.TLS_ACTIVE
    if not conversation.buffer.empty:
        # RFC 3207 6, CVE-2011-0411: sent in clear, to be read as if it had come under TLS
        conversation.output.over = True
        if conversation.output.narrator is not None:
            conversation.output.narrator.note("bytes followed STARTTLS in its packet")
        return None
    return events.START_TLS


def _accept_starttls(
    conversation: Conversation, _event: events.StartTLS, _answer: Reply | None
) -> Reply | None:
    if not conversation.buffer.empty:  # it came while the server was asked: the same attack
        conversation.output.over = True
        return None
    return replies.START_TLS


STARTTLS: Final = Verb(
    "STARTTLS",
    since={State.HELLO, State.READY},
    to=State.TLS,
    parse=_parse_starttls,
    accept=_accept_starttls,
    reject=say,
    event=events.StartTLS,
    hook="on_starttls",
    always=True,
    before_tls=True,
    before_login=True,
    progress=True,
    exists=lambda conversation: conversation.settings.tls_available or conversation.tls,
    works=lambda conversation: not conversation.tls,
)

# -- XCLIENT, XFORWARD ---------------------------------------------------------------------------


def _parse_xclient(conversation: Conversation, argument: str) -> Attributes | Reply:
    attributes = xclient.attributes(argument, xclient.XCLIENT)
    if attributes is None:
        return replies.BAD_ATTRIBUTE
    return {**xclient.endpoints(conversation.xclient), **attributes}


def _accept_xclient(
    conversation: Conversation, attributes: Attributes, _answer: Reply | None
) -> None:
    """Begin as if the client behind the proxy had just connected."""
    conversation.xclient = attributes
    conversation.helo = attributes.get("HELO") or ""
    conversation.esmtp = attributes.get("PROTO") == "ESMTP"
    conversation.authenticated = bool(attributes.get("LOGIN"))


XCLIENT: Final = Verb(
    "XCLIENT",
    since={State.HELLO, State.READY},
    to=State.GREETING,
    ends=True,
    parse=_parse_xclient,
    accept=_accept_xclient,
    reject=say,
    event=events.XClient,
    always=True,
    before_login=True,  # it may be the login, when the proxy has checked it
    trusted=True,
    elsewhere={State.BDAT: replies.AMID_CHUNKS},
)


def _parse_xforward(_conversation: Conversation, argument: str) -> Attributes | Reply:
    return xclient.attributes(argument, xclient.XFORWARD) or replies.BAD_ATTRIBUTE


def _accept_xforward(
    conversation: Conversation, attributes: Attributes, _answer: Reply | None
) -> Reply:
    conversation.forwarded = {**(conversation.forwarded or {}), **attributes}
    return replies.OK


XFORWARD: Final = Verb(
    "XFORWARD",
    since={State.READY},
    to=None,
    parse=_parse_xforward,
    accept=_accept_xforward,
    trusted=True,
)

# -- NOOP, VRFY, EXPN, QUIT ----------------------------------------------------------------------


NOOP: Final = Verb(
    "NOOP",
    since=SESSION,
    to=None,
    parse=any_argument,
    accept=agree,
    before_tls=True,
    before_login=True,
)


def _parse_vrfy(conversation: Conversation, argument: str) -> events.Vrfy | Reply:
    """Parse `VRFY SP String [ SP "SMTPUTF8" ]` (RFC 6531 3.7.4.2).

    String may be beyond ASCII in any case; the parameter says whether the answer may be.
    """
    text = argument.strip()
    before, _, last = text.rpartition(" ")
    smtputf8 = before != "" and last.upper() == "SMTPUTF8"
    if (smtputf8 or not text.isascii()) and not conversation.settings.smtputf8:
        unknown = replies.unknown_parameter("SMTPUTF8")
        return unknown if smtputf8 else replies.RECIPIENT_NEEDS_SMTPUTF8
    if smtputf8:
        text = before.rstrip()
    return events.Vrfy(text, smtputf8) if text else replies.ARGUMENT_REQUIRED


def _accept_vrfy(_conversation: Conversation, event: events.Vrfy, answer: Reply | None) -> Reply:
    answer = answer or replies.CANNOT_VRFY
    # RFC 6531 3.7.4.2: no UTF-8 for a client that did not ask for it
    return answer if event.smtputf8 or answer.text.isascii() else replies.VRFY_IN_UTF8


VRFY: Final = Verb(
    "VRFY",
    since=SESSION,
    to=None,
    parse=_parse_vrfy,
    accept=_accept_vrfy,
    reject=say,
    event=events.Vrfy,
    hook="on_vrfy",
    arguments=lambda event: (event.text,),
)


def _parse_expn(_conversation: Conversation, _argument: str) -> Reply:
    return replies.NOT_OFFERED


EXPN: Final = Verb(
    "EXPN",
    since=SESSION,
    to=None,
    parse=_parse_expn,
    accept=agree,
    works=lambda _conversation: False,
)


def _parse_quit(_conversation: Conversation, argument: str) -> str | Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else argument


def _usual_quit(_conversation: Conversation, packet: bytes) -> str | None:
    return "" if packet in (b"QUIT\r\n", b"quit\r\n") else None


def _accept_quit(conversation: Conversation, _argument: str, _answer: Reply | None) -> Reply:
    conversation.output.over = True
    return conversation.settings.closing


QUIT: Final = Verb(
    "QUIT",
    since=SESSION | {State.REFUSED},
    to=State.CLOSED,
    parse=_parse_quit,
    usual=_usual_quit,
    accept=_accept_quit,
    before_tls=True,
    before_login=True,
    progress=True,
)
