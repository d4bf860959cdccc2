"""One line to one event, or to the `Reply` that says why not.

`split` takes a line apart; `refusal_of` knows what may be said when; `VERBS` has a function for
each verb, which looks at the connection and changes nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from ehlo.protocol import events, grammar, path, sasl, xclient
from ehlo.protocol import reply as replies
from ehlo.protocol.events import Event
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import OUT_OF_SEQUENCE, TRANSITIONS, State

if TYPE_CHECKING:
    from ehlo.protocol.connection import Connection

__all__ = [
    "HTTP_VERBS",
    "LEGAL",
    "LEGAL_IN_LMTP",
    "VERBS",
    "Chunk",
    "Forwarded",
    "chunk_of",
    "refusal_of",
    "split",
]


class Chunk(NamedTuple):
    """BDAT: so many octets follow, and whether they are the last."""

    size: int
    last: bool


class Forwarded(NamedTuple):
    """XFORWARD, by one who may say it."""

    attributes: xclient.Attributes


Outcome = Event | Reply | sasl.Exchange | Chunk | Forwarded
Verb = Callable[["Connection", str], Outcome]

# A browser or a scanner speaks to us: what follows its first line must not be read as commands
HTTP_VERBS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})

_BEFORE_TLS: Final = frozenset({"NOOP", "EHLO", "HELO", "LHLO", "STARTTLS", "QUIT"})
# XCLIENT may be the login, when a proxy has taken it
_BEFORE_AUTH: Final = _BEFORE_TLS | {"AUTH", "RSET", "XCLIENT"}
_OPTIONAL: Final = frozenset({"STARTTLS", "AUTH", "BDAT", "XCLIENT", "XFORWARD"})
_FOR_THE_TRUSTED: Final = frozenset({"XCLIENT", "XFORWARD"})
_HELLO_IN_SMTP: Final = frozenset({"HELO", "EHLO"})
_HELLO_IN_LMTP: Final = frozenset({"LHLO"})
_OWN_VERBS_FROM: Final = frozenset({State.READY, State.MAIL, State.RCPT})
_DOES_NOT_WORK: Final = (
    replies.NOT_OFFERED,
    replies.NOT_FOR_THIS_PROTOCOL,
    replies.NOT_AUTHORISED,
    replies.TLS_REQUIRED,
    replies.AUTH_REQUIRED,
)


def split(line: bytes, strict_eol: bool) -> tuple[str, str] | Reply:
    """Take a line, with its end, apart: the verb in upper case, the argument as it came."""
    if line[-2:] == b"\r\n":
        line = line[:-2]
    elif strict_eol:
        return replies.BARE_LINE_END
    else:
        line = line[:-1]
    try:
        text = line.decode().rstrip(" \t")
    except UnicodeDecodeError:
        return replies.BAD_CHARACTERS
    if not text.isprintable() and grammar.CONTROL.search(text):
        return replies.BAD_CHARACTERS
    verb, _, argument = text.partition(" ")
    return verb.upper() if verb.isascii() else verb, argument


# -- what may be said when -----------------------------------------------------------------------


def refusal_of(connection: Connection, verb: str) -> Reply | None:
    """Why `verb` cannot be said now, if so: not offered, not yet allowed, out of sequence."""
    settings = connection.settings
    if connection.state is State.REFUSED and verb != "QUIT":
        return replies.REFUSED_CONNECTION
    if verb in (_HELLO_IN_SMTP if settings.lmtp else _HELLO_IN_LMTP):
        return replies.NOT_FOR_THIS_PROTOCOL
    if verb in _FOR_THE_TRUSTED and verb not in connection.trusted:
        return replies.NOT_AUTHORISED
    if verb in _OPTIONAL and not _has(connection, verb):
        return replies.NOT_OFFERED
    if settings.tls_required and not connection.tls and verb not in _BEFORE_TLS:
        return replies.TLS_REQUIRED
    if settings.auth_required and not connection.authenticated and verb not in _BEFORE_AUTH:
        return replies.AUTH_REQUIRED
    if verb in settings.own_verbs:
        return None if connection.state in _OWN_VERBS_FROM else replies.BAD_SEQUENCE
    if (connection.state, verb) not in TRANSITIONS:
        return _out_of_sequence(connection, verb)
    return None


def _has(connection: Connection, verb: str) -> bool:
    """Whether an optional verb is there at all on this server."""
    settings = connection.settings
    match verb:
        case "STARTTLS":
            return settings.tls_available or connection.tls
        case "AUTH":
            return bool(settings.mechanisms)
        case "BDAT":
            return settings.chunking
        case _:
            return True


def _out_of_sequence(connection: Connection, verb: str) -> Reply:
    transaction = connection.transaction
    if (
        verb in ("DATA", "BDAT")
        and connection.state is State.MAIL
        and transaction is not None
        and transaction.refused
    ):
        lmtp = connection.settings.lmtp  # RFC 2033 4.2
        return replies.NO_VALID_RECIPIENTS_LMTP if lmtp else replies.NO_VALID_RECIPIENTS
    return OUT_OF_SEQUENCE.get((connection.state, verb), replies.BAD_SEQUENCE)


def _works(connection: Connection, verb: str) -> bool:
    """Whether `verb` would do something now, or when its turn comes."""
    if verb == "EXPN" or (verb == "STARTTLS" and connection.tls):
        return False
    if verb == "AUTH" and not connection.usable_mechanisms():
        return False
    return refusal_of(connection, verb) not in _DOES_NOT_WORK


# -- the verbs -----------------------------------------------------------------------------------


def _helo(connection: Connection, argument: str) -> Event | Reply:
    return _hello(connection, argument, esmtp=False)


def _ehlo(connection: Connection, argument: str) -> Event | Reply:
    """EHLO, and LMTP's LHLO, which is the same by another name (RFC 2033 4.1)."""
    return _hello(connection, argument, esmtp=True)


def _hello(connection: Connection, argument: str, *, esmtp: bool) -> Event | Reply:
    """Words after the first are ignored: some clients say more than their name."""
    words = argument.split(maxsplit=1)
    if not words or grammar.HELLO_NAME.fullmatch(words[0]) is None:
        return replies.NO_LHLO_NAME if connection.settings.lmtp else replies.NO_HELLO_NAME
    return events.Hello(words[0], esmtp)


def _mail(connection: Connection, argument: str) -> Event | Reply:
    settings = connection.settings
    sender = path.reverse_path(argument, connection)
    if isinstance(sender, Reply):
        return sender
    if 0 < settings.max_messages <= connection.counts.messages:
        return replies.TOO_MANY_MESSAGES
    params = sender.params
    if params:
        if params.get("SIZE", 0) > settings.max_size > 0:
            return replies.TOO_LARGE
        if params.get("BODY") == "BINARYMIME" and not settings.binarymime:
            return replies.unknown_parameter("BODY")
    return events.Mail(sender)


def _rcpt(connection: Connection, argument: str) -> Event | Reply:
    transaction, settings = connection.transaction, connection.settings
    assert transaction is not None  # noqa: S101  the table lets RCPT in only within one
    recipient = path.forward_path(argument, connection, transaction.smtputf8)
    if isinstance(recipient, Reply):
        return recipient
    if len(transaction.recipients) >= settings.max_recipients:
        return replies.TOO_MANY_RECIPIENTS
    if settings.max_recipient_domains and _is_one_domain_more(connection, recipient.domain):
        return replies.TOO_MANY_DOMAINS
    return events.Rcpt(recipient)


def _data(connection: Connection, argument: str) -> Event | Reply:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    transaction = connection.transaction
    assert transaction is not None  # noqa: S101  the table lets DATA in only within one
    params = transaction.sender.params
    return replies.BINARY_NEEDS_BDAT if params and transaction.binary else events.DATA


def chunk_of(argument: str) -> Chunk | None:
    """BDAT's argument (RFC 3030 2); `None` when nobody knows how many octets follow."""
    match = grammar.CHUNK.fullmatch(argument.strip())
    return Chunk(int(match[1]), match[2] is not None) if match else None


def _bdat(_connection: Connection, argument: str) -> Chunk | Reply:
    return chunk_of(argument) or replies.BAD_CHUNK


def _is_one_domain_more(connection: Connection, domain: str) -> bool:
    """RFC 9422 4.3; <Postmaster> has no domain, and is always taken (RFC 5321 4.5.1)."""
    domains = connection.counts.domains
    full = len(domains) >= connection.settings.max_recipient_domains
    return full and domain.lower() not in domains and domain != ""


def _rset(_connection: Connection, argument: str) -> Event | Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else events.RESET


def _noop(_connection: Connection, _argument: str) -> Reply:
    return replies.OK


def _quit(connection: Connection, argument: str) -> Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else connection.settings.closing


def _vrfy(connection: Connection, argument: str) -> Event | Reply:
    """RFC 6531 3.7.4.2: VRFY SP String [ SP "SMTPUTF8" ]; String may be beyond ASCII in any case.

    The parameter is about the answer: whether that may be.
    """
    text = argument.strip()
    before, _, last = text.rpartition(" ")
    smtputf8 = before != "" and last.upper() == "SMTPUTF8"
    if (smtputf8 or not text.isascii()) and not _offers_smtputf8(connection):
        unknown = replies.unknown_parameter("SMTPUTF8")
        return unknown if smtputf8 else replies.RECIPIENT_NEEDS_SMTPUTF8
    if smtputf8:
        text = before.rstrip()
    return events.Vrfy(text, smtputf8) if text else replies.ARGUMENT_REQUIRED


def _offers_smtputf8(connection: Connection) -> bool:
    known = connection.settings.mail_params.get("SMTPUTF8")
    if known is None:
        return False
    return known.offered is None or known.offered(connection.facts())


def _expn(_connection: Connection, _argument: str) -> Reply:
    return replies.NOT_OFFERED


def _help(connection: Connection, _argument: str) -> Reply:
    verbs = [*VERBS, *sorted(connection.settings.own_verbs)]
    return replies.help_text([verb for verb in verbs if _works(connection, verb)])


def _starttls(connection: Connection, argument: str) -> Event | Reply:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    if connection.tls:
        return replies.TLS_ACTIVE
    if connection.buffered:
        # RFC 3207 6, CVE-2011-0411: said in clear, to be taken as if it had come under TLS
        return events.Close()
    return events.START_TLS


def _auth(connection: Connection, argument: str) -> sasl.Exchange | Reply:
    """RFC 4954 4: the mechanism and its initial response, if any."""
    if connection.authenticated:
        return replies.AUTH_REPEATED
    name, _, initial = argument.strip().partition(" ")
    if not name:
        return replies.ARGUMENT_REQUIRED
    mechanism = connection.settings.mechanisms.get(name.upper())
    if mechanism is None:
        return replies.NO_SUCH_MECHANISM
    if mechanism.name not in connection.usable_mechanisms():
        return replies.NO_SUCH_MECHANISM if connection.tls else replies.MECHANISM_NEEDS_TLS
    return _exchange(connection, mechanism, initial.strip())


def _exchange(
    connection: Connection, mechanism: sasl.Mechanism, initial: str
) -> sasl.Exchange | Reply:
    if initial and not mechanism.client_first:
        return replies.NO_INITIAL_RESPONSE
    # RFC 4954 4: a single "=" is an initial response of no octets
    response = sasl.decoded("" if initial == "=" else initial)
    if response is None:
        return replies.BAD_BASE64
    context = sasl.AuthContext(
        nonce=connection.nonce,
        hostname=connection.settings.hostname,
        bindings=connection.bindings,
        certificate=connection.certificate,
        offered=connection.usable_mechanisms(),
        salt_key=connection.settings.salt_key,
    )
    return sasl.Exchange(mechanism, response if initial else None, context, connection.note_failure)


def _xclient(connection: Connection, argument: str) -> Event | Reply:
    attributes = xclient.attributes(argument, xclient.XCLIENT)
    if attributes is None:
        return replies.BAD_ATTRIBUTE
    return events.XClient({**xclient.endpoints(connection.xclient), **attributes})


def _xforward(_connection: Connection, argument: str) -> Forwarded | Reply:
    attributes = xclient.attributes(argument, xclient.XFORWARD)
    return replies.BAD_ATTRIBUTE if attributes is None else Forwarded(attributes)


VERBS: Final[Mapping[str, Verb]] = MappingProxyType(
    {
        "HELO": _helo,
        "EHLO": _ehlo,
        "LHLO": _ehlo,
        "STARTTLS": _starttls,
        "AUTH": _auth,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "BDAT": _bdat,
        "RSET": _rset,
        "NOOP": _noop,
        "VRFY": _vrfy,
        "EXPN": _expn,
        "HELP": _help,
        "QUIT": _quit,
        "XCLIENT": _xclient,
        "XFORWARD": _xforward,
    }
)


def _legal_without(verbs: frozenset[str]) -> Mapping[State, Mapping[str, Verb]]:
    """The rows of the table that begin in a state, as functions.

    What is not in here has to be looked at closer.
    """
    return MappingProxyType(
        {
            state: {
                verb: VERBS[verb]
                for at, verb in TRANSITIONS
                if at is state
                and verb in VERBS
                and verb not in verbs
                # that gives up a body which has begun
                and not (state is State.BDAT and TRANSITIONS[at, verb] is State.READY)
            }
            for state in State
        }
    )


LEGAL: Final = _legal_without(_OPTIONAL | _HELLO_IN_LMTP)
LEGAL_IN_LMTP: Final = _legal_without(_OPTIONAL | _HELLO_IN_SMTP)
