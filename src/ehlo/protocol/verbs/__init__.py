"""The commands: their table, and all that follows from it.

Each command is a row in one of the modules of this package, and needs nothing elsewhere: legal
moves, gates, HELP, the questions to the server, and the hooks that answer them come from the rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

from ehlo.protocol import events, grammar
from ehlo.protocol import reply as replies
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.output import UNKNOWN, Rejected
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import State
from ehlo.protocol.verbs import greeting, login, mail
from ehlo.protocol.verbs.verb import (
    SESSION,
    AnyQuestion,
    AnyVerb,
    Ask,
    Told,
    Verb,
    agree,
    any_argument,
    say,
    take,
)

_DOES_NOT_WORK: Final = (
    replies.NOT_OFFERED,
    replies.NOT_FOR_THIS_PROTOCOL,
    replies.NOT_AUTHORIZED,
    replies.TLS_REQUIRED,
    replies.AUTH_REQUIRED,
)

_TLS_HELLO: Final = b"\x16\x03"  # RFC 8446 5.1: a handshake record
_NAMES: Final = frozenset({b"HELO ", b"EHLO ", b"LHLO "})  # what comes before a client's name
# A browser or a scanner: what follows its first line must not be read as commands
_HTTP_VERBS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})

# -- HELP, and commands of the user ----------------------------------------------------------------


def _accept_help(conversation: Conversation, _argument: str, _answer: Reply | None) -> Reply:
    own = map(_own, sorted(conversation.settings.own_verbs))
    return replies.help_text(
        [
            verb.name
            for verb in (*VERBS.values(), *own)
            if verb.works(conversation) and refusal_of(conversation, verb) not in _DOES_NOT_WORK
        ]
    )


HELP: Final = Verb(
    "HELP", since=SESSION, to=None, parse=any_argument, accept=_accept_help, before_login=True
)


@functools.lru_cache(maxsize=64)
def _own(name: str) -> Verb[events.Command]:
    """Make the row of a command that an extension of the user defines."""

    def parse(_conversation: Conversation, argument: str) -> events.Command:
        return events.Command(name, argument.strip())

    return Verb(
        name,
        since={State.READY, State.MAIL, State.RCPT},
        to=None,
        parse=parse,
        accept=agree,
        reject=say,
        event=events.Command,
        hook="on_command",
        arguments=lambda event: (event.verb, event.argument),
        always=True,
    )


# -- the table -----------------------------------------------------------------------------------


def table_of(*rows: AnyVerb) -> Mapping[str, AnyVerb]:
    """Return the rows by name. Raises `ValueError` for a name that two have."""
    table = {row.name: row for row in rows}
    if len(table) != len(rows):
        raise ValueError("two rows have the same name")
    return table


# A plain dict, as it is looked into for each command; in the order of HELP
VERBS: Final = table_of(
    greeting.HELO,
    greeting.EHLO,
    greeting.LHLO,
    greeting.STARTTLS,
    login.AUTH,
    mail.MAIL,
    mail.RCPT,
    mail.DATA,
    mail.BDAT,
    mail.RSET,
    greeting.NOOP,
    greeting.VRFY,
    greeting.EXPN,
    HELP,
    greeting.QUIT,
    greeting.XCLIENT,
    greeting.XFORWARD,
)
"""The commands of SMTP and LMTP by name."""

ASKED: Final[Mapping[type[Event], AnyQuestion]] = MappingProxyType(
    {
        row.event: row
        for row in (
            greeting.CONNECT,
            *VERBS.values(),
            mail.MESSAGE,
            login.SECRET,
            login.LOGIN,
            _own("OWN"),
        )
        if row.event is not None
    }
)
"""The questions to the server by their event: its hooks, and the arguments for them."""

QUESTIONS: Final = frozenset(event for event, row in ASKED.items() if not row.always)
"""The events that are accepted without being asked, unless the server wants them."""

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = MappingProxyType(
    {
        **{
            (state, row.name): row.after(state)
            for row in VERBS.values()
            for state in State
            if state in row.since
        },
        (State.DATA, "."): State.ENDED,
        (State.BDAT, "."): State.ENDED,
        (State.ENDED, "."): State.READY,
    }
)
"""The legal moves of a session, by state and command; `"."` is the end of a message."""


Usual: TypeAlias = tuple[
    AnyVerb,
    Callable[[Conversation, bytes], Any],
    Callable[[Conversation, Any, None], Reply],
    State,
]
"""The plain form of a command: its row, and its `usual`, `accept` and `to`, never `None` there."""

# A NamedTuple would be unpacked by iteration, for 400 instructions a command
USUAL: Final[Mapping[bytes, Usual]] = {
    name: (
        row,
        row.usual,
        cast("Callable[[Conversation, Any, None], Reply]", row.accept),
        row.to,
    )
    for row in VERBS.values()
    if row.usual is not None and row.to is not None
    for name in (row.name.encode(), row.name.lower().encode())
}
"""The plain forms by the first four bytes of a packet."""


# -- what may be sent when -----------------------------------------------------------------------


def argument_of(verb: AnyVerb, packet: bytes) -> str:
    """Return the argument in a packet that is one plain command."""
    return packet[len(verb.name) + 1 : -2].decode()


def hear(conversation: Conversation) -> Ask | Told | Literal[Waiting.NEED_DATA]:
    """Read a line; return a question to the server, or `None` if it was dealt with here."""
    settings, output = conversation.settings, conversation.output
    line = conversation.buffer.take_line(settings.line_limit)
    if line is None:
        return None if _is_tls(conversation) else NEED_DATA
    if conversation.exchange is not None:
        ask = login.respond(conversation, line)
        return None if ask is None else take(conversation, *ask)
    command = command_of(line, settings)
    if not isinstance(command, tuple):
        _reject_line(conversation, line, command)
        return None
    name, argument = command
    verb = VERBS.get(name)
    if verb is None and name in settings.own_verbs:
        verb = _own(name)
    if output.narrator is not None:
        output.narrator.command(name, argument, known=verb is not None)
    if verb is None or not verb.progress:
        if conversation.counts.is_idle(settings.limits.idle_commands):
            output.reject(replies.TOO_MANY_IDLE, to=name if verb is not None else UNKNOWN)
            return None
        if verb is None:
            _reject_unknown(conversation, name)
            return None
    output.said.append(name)
    if settings.gated or not verb.simple or conversation.state not in verb.since:
        refusal = refusal_of(conversation, verb)
        if refusal is not None:
            fail(conversation, verb, argument, refusal)
            return None
    subject = verb.parse(conversation, argument)
    if type(subject) is Reply:
        fail(conversation, verb, argument, subject)
        return None
    return None if subject is None else take(conversation, verb, subject)


def fail(conversation: Conversation, verb: AnyVerb, argument: str, reply: Reply) -> None:
    """Reject a command that the core does not let pass."""
    now = reply if verb.fail is None else verb.fail(conversation, argument, reply)
    if now is not None:
        about = Rejected(conversation.transaction, argument)
        conversation.output.answer(now, verb.name, about)


def refusal_of(conversation: Conversation, verb: AnyVerb) -> Reply | None:
    """Return why `verb` may not be sent now: not offered, not yet allowed, or out of sequence."""
    settings, state = conversation.settings, conversation.state
    if state not in verb.since and state is State.REFUSED:
        return conversation.refusal
    if verb.lmtp is not None and verb.lmtp is not settings.lmtp:
        return replies.NOT_FOR_THIS_PROTOCOL
    if verb.trusted and verb.name not in conversation.trusted:
        return replies.NOT_AUTHORIZED
    if not verb.exists(conversation):
        return replies.NOT_OFFERED
    if settings.tls_required and not conversation.tls and not verb.before_tls:
        return replies.TLS_REQUIRED
    if settings.auth_required and not conversation.authenticated and not verb.before_login:
        return replies.AUTH_REQUIRED
    if state in verb.since:
        return None
    reply = verb.elsewhere.get(state, replies.BAD_SEQUENCE)
    return reply if isinstance(reply, Reply) else reply(conversation)


# -- a line ---------------------------------------------------------------------------------------


def command_of(line: bytes, settings: Settings) -> tuple[str, str] | Reply:
    """Split a line with its end into the verb in upper case and the argument as it came.

    In a client's name, bytes that are not UTF-8 are surrogate escapes.
    """
    if len(line) > settings.command_limit and not (
        _is_auth(line) and len(line) <= settings.limits.auth_line
    ):
        return replies.AUTH_LINE_TOO_LONG if _is_auth(line) else replies.LINE_TOO_LONG
    if line[-2:] == b"\r\n":
        line = line[:-2]
    elif settings.strict_eol:
        return replies.BARE_LINE_END
    else:
        line = line[:-1]
    try:
        text = line.decode()
    except UnicodeDecodeError:
        if line[:5].upper() not in _NAMES:
            return replies.BAD_CHARACTERS
        text = line.decode(errors="surrogateescape")
    text = text.rstrip(" \t")
    if not text.isprintable() and grammar.CONTROL.search(text):
        return replies.BAD_CHARACTERS
    verb, _, argument = text.partition(" ")
    return verb.upper() if verb.isascii() else verb, argument


def _is_auth(line: bytes) -> bool:
    return line[:5].upper() == b"AUTH "


def _reject_line(conversation: Conversation, line: bytes, reply: Reply) -> None:
    """Reject a line that is no command; what may be a BDAT ends the connection."""
    output = conversation.output
    output.said.append(UNKNOWN)
    if output.narrator is not None:
        output.narrator.no_command(line)
    if line[:4].upper() == b"BDAT":
        conversation.lose_sync(to=UNKNOWN)
    elif line.startswith(_TLS_HELLO):
        output.reject(replies.NOT_SMTP, to=UNKNOWN)
    else:
        output.answer(_unless_turned_away(conversation, reply), to=UNKNOWN)


def _unless_turned_away(conversation: Conversation, reply: Reply) -> Reply:
    return conversation.refusal if conversation.state is State.REFUSED else reply


def _is_tls(conversation: Conversation) -> bool:
    """Reject a TLS handshake, which need never have a line end; return whether it was one."""
    if conversation.exchange is not None or not conversation.buffer.line_startswith(_TLS_HELLO):
        return False
    conversation.output.reject(replies.NOT_SMTP, to=UNKNOWN)
    return True


def _reject_unknown(conversation: Conversation, verb: str) -> None:
    """Reject a command that this server does not know; what may be a BDAT ends the connection."""
    output = conversation.output
    output.said.append(UNKNOWN)
    if verb[:4].upper() == "BDAT":
        conversation.lose_sync(to=UNKNOWN)
    elif verb in _HTTP_VERBS:
        output.reject(replies.NOT_SMTP, to=UNKNOWN)
    elif verb == "*" and conversation.pardon:
        # Go's net/smtp sends one after a login that failed: no error of its user
        conversation.pardon = False
        output.reject(replies.UNKNOWN_COMMAND, to=UNKNOWN)
    else:
        reply = _unless_turned_away(conversation, replies.UNKNOWN_COMMAND)
        output.answer(reply, to=UNKNOWN)
