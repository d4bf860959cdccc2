"""One line to one event, or to the `Reply` that says why not.

`split` takes a line apart; `refusal_of` knows what may be said when; `VERBS` has a function for
each verb, which looks at the connection and changes nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ehlo.protocol import events, grammar, path, sasl
from ehlo.protocol import reply as replies
from ehlo.protocol.events import Event
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import OUT_OF_SEQUENCE, TRANSITIONS, State

if TYPE_CHECKING:
    from ehlo.protocol.connection import Connection

__all__ = ["HTTP_VERBS", "LEGAL", "VERBS", "refusal_of", "split"]

Verb = Callable[["Connection", str], Event | Reply | sasl.Exchange]

# A browser or a scanner speaks to us: what follows its first line must not be read as commands
HTTP_VERBS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})

_BEFORE_TLS: Final = frozenset({"NOOP", "EHLO", "HELO", "STARTTLS", "QUIT"})
_BEFORE_AUTH: Final = _BEFORE_TLS | {"AUTH", "RSET"}
_OPTIONAL: Final = frozenset({"STARTTLS", "AUTH"})
_GATES: Final = (replies.NOT_OFFERED, replies.TLS_REQUIRED, replies.AUTH_REQUIRED)


def split(line: bytes, *, strict_eol: bool) -> tuple[str, str] | Reply:
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
    if verb in _OPTIONAL and not _has(connection, verb):
        return replies.NOT_OFFERED
    if settings.tls_required and not connection.tls and verb not in _BEFORE_TLS:
        return replies.TLS_REQUIRED
    if settings.auth_required and not connection.authenticated and verb not in _BEFORE_AUTH:
        return replies.AUTH_REQUIRED
    if (connection.state, verb) not in TRANSITIONS:
        return _out_of_sequence(connection, verb)
    return None


def _has(connection: Connection, verb: str) -> bool:
    """Whether an optional verb is there at all on this server."""
    if verb == "STARTTLS":
        return connection.settings.tls_available or connection.tls
    return bool(connection.settings.mechanisms)


def _out_of_sequence(connection: Connection, verb: str) -> Reply:
    transaction = connection.transaction
    if verb == "DATA" and transaction is not None and transaction.refused:
        return replies.NO_VALID_RECIPIENTS
    return OUT_OF_SEQUENCE.get((connection.state, verb), replies.BAD_SEQUENCE)


def _works(connection: Connection, verb: str) -> bool:
    """Whether `verb` would do something now, or when its turn comes."""
    if verb == "EXPN" or (verb == "STARTTLS" and connection.tls):
        return False
    if verb == "AUTH" and not connection.usable_mechanisms():
        return False
    return refusal_of(connection, verb) not in _GATES


# -- the verbs -----------------------------------------------------------------------------------


def _helo(connection: Connection, argument: str) -> Event | Reply:
    return _hello(connection, argument, esmtp=False)


def _ehlo(connection: Connection, argument: str) -> Event | Reply:
    return _hello(connection, argument, esmtp=True)


def _hello(_connection: Connection, argument: str, *, esmtp: bool) -> Event | Reply:
    """Words after the first are ignored: some clients say more than their name."""
    words = argument.split(maxsplit=1)
    if not words or grammar.HELLO_NAME.fullmatch(words[0]) is None:
        return replies.NO_HELLO_NAME
    return events.Hello(words[0], esmtp)


def _mail(connection: Connection, argument: str) -> Event | Reply:
    settings = connection.settings
    sender = path.reverse_path(argument, settings)
    if isinstance(sender, Reply):
        return sender
    if sender.params.get("SIZE", 0) > settings.max_size > 0:
        return replies.TOO_LARGE
    return events.Mail(sender)


def _rcpt(connection: Connection, argument: str) -> Event | Reply:
    transaction, settings = connection.transaction, connection.settings
    assert transaction is not None  # noqa: S101  the table lets RCPT in only within one
    recipient = path.forward_path(argument, settings, smtputf8=transaction.smtputf8)
    if isinstance(recipient, Reply):
        return recipient
    if len(transaction.recipients) >= settings.max_recipients:
        return replies.TOO_MANY_RECIPIENTS
    return events.Rcpt(recipient)


def _data(_connection: Connection, argument: str) -> Event | Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else events.DATA


def _rset(_connection: Connection, argument: str) -> Event | Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else events.RESET


def _noop(_connection: Connection, _argument: str) -> Reply:
    return replies.OK


def _quit(connection: Connection, argument: str) -> Reply:
    return replies.NO_ARGUMENT_ALLOWED if argument else connection.settings.closing


def _vrfy(_connection: Connection, argument: str) -> Event | Reply:
    text = argument.strip()
    return events.Vrfy(text) if text else replies.ARGUMENT_REQUIRED


def _expn(_connection: Connection, _argument: str) -> Reply:
    return replies.NOT_OFFERED


def _help(connection: Connection, _argument: str) -> Reply:
    return replies.help_text([verb for verb in VERBS if _works(connection, verb)])


def _starttls(connection: Connection, argument: str) -> Event | Reply:
    if argument:
        return replies.NO_ARGUMENT_ALLOWED
    if connection.tls:
        return replies.TLS_ACTIVE
    if connection.buffered:
        # RFC 3207 6, CVE-2011-0411: said in clear, to be taken as if it had come under TLS
        return events.Close()
    return events.StartTLS()


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
    return sasl.Exchange(mechanism, response if initial else None, context)


VERBS: Final[Mapping[str, Verb]] = MappingProxyType(
    {
        "HELO": _helo,
        "EHLO": _ehlo,
        "STARTTLS": _starttls,
        "AUTH": _auth,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "RSET": _rset,
        "NOOP": _noop,
        "VRFY": _vrfy,
        "EXPN": _expn,
        "HELP": _help,
        "QUIT": _quit,
    }
)

# The rows of the table that begin in a state, as functions; what is optional has to be looked at
LEGAL: Final[Mapping[State, Mapping[str, Verb]]] = MappingProxyType(
    {
        state: {
            verb: VERBS[verb]
            for at, verb in TRANSITIONS
            if at is state and verb in VERBS and verb not in _OPTIONAL
        }
        for state in State
    }
)
