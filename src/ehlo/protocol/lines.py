"""What comes of a line: it is heard, refused as no command, or taken to what it means.

`commands.py` says what a command means and whether it may be said now. Here that is followed: a
question becomes the connection's event, a refusal is said and counted, AUTH begins a login, and
BDAT a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ehlo.protocol import commands, events, sasl
from ehlo.protocol import reply as replies
from ehlo.protocol.answers import ACCEPT
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.login import Login
from ehlo.protocol.output import UNKNOWN
from ehlo.protocol.reply import Reply

if TYPE_CHECKING:
    from ehlo.protocol.connection import Connection

__all__ = ["read"]

_TLS_HELLO: Final = b"\x16\x03"  # RFC 8446 5.1: a handshake record
# What brings mail nearer where it is not refused; a refusal of it is counted as any other is
_PROGRESS: Final = frozenset({"MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "QUIT"})


def read(connection: Connection) -> Event | Waiting | None:
    """The event that the next line brings; `None` when it has been dealt with here."""
    settings, output = connection.settings, connection.output
    line = connection.buffer.take_line(settings.line_limit)
    if line is None:
        return _wait_for_line(connection)
    login = connection.login
    if login is not None:
        return connection.go_on(login.respond(line))
    if len(line) > settings.command_limit and not _may_be_long(connection, line):
        _no_command(connection, line, _too_long(line))
        return None
    command = commands.split(line, settings.strict_eol)
    if isinstance(command, Reply):
        _no_command(connection, line, command)
        return None
    verb, argument = command
    if output.transcript is not None:
        known = verb in commands.VERBS or verb in settings.own_verbs
        output.transcript.command(verb, argument, known=known)
    if verb not in _PROGRESS and connection.counts.is_idle(settings.limits.idle_commands):
        named = verb in commands.VERBS or verb in settings.own_verbs
        output.reject(replies.TOO_MANY_IDLE, to=verb if named else UNKNOWN)
        return None
    function = connection.legal[connection.state].get(verb)
    if function is None or settings.gated:
        return _look_closer(connection, verb, argument)
    output.said.append(verb)
    result = function(connection, argument)
    # The plain cases of `_come_of`, without its calls
    kind = type(result)
    if kind in connection.asks:
        connection.asked = result  # type: ignore[assignment]  # the set holds types of events
        return result  # type: ignore[return-value]  # likewise
    if kind in events.QUESTIONS:
        return ACCEPT[kind](connection, result, None)
    return _come_of(connection, verb, result)


def _look_closer(connection: Connection, verb: str, argument: str) -> Event | None:
    """What is not simply legal in this state: optional, behind a gate, unknown, or refused."""
    function = commands.VERBS.get(verb)
    if function is None and verb not in connection.settings.own_verbs:
        _unknown(connection, verb)
        return None
    connection.output.said.append(verb)
    refusal = commands.refusal_of(connection, verb)
    if refusal is not None:
        _refuse(connection, verb, argument, refusal)
        return None
    if function is None:
        return connection.ask(events.Command(verb, argument.strip()))
    return _come_of(connection, verb, function(connection, argument))


def _come_of(connection: Connection, verb: str, result: commands.Outcome) -> Event | None:
    match result:
        case Reply():
            return _answered(connection, verb, result)
        case sasl.Exchange():
            return _begin_login(connection, result)
        case commands.Chunk():
            return _begin_chunk(connection, result)
        case commands.Forwarded():
            connection.forwarded = {**(connection.forwarded or {}), **result.attributes}
            connection.output.reply(replies.OK, to=verb)
            return None
        case events.Close():
            return connection.close()
        case _:
            return connection.ask_about(result)


def _begin_login(connection: Connection, exchange: sasl.Exchange) -> Event | None:
    login = Login(exchange, connection.settings, connection.counts, connection.output)
    connection.login = login
    return connection.go_on(login.start())


def _begin_chunk(connection: Connection, chunk: commands.Chunk) -> Event | None:
    transaction = connection.transaction
    assert transaction is not None  # noqa: S101  the table lets BDAT in only within one
    question = connection.intake.begin_chunk(chunk, transaction)
    return None if question is None else connection.ask_about(question)


# -- no command ----------------------------------------------------------------------------------


def _is_auth(line: bytes) -> bool:
    return line[:5].upper() == b"AUTH "


def _is_bdat(line: bytes) -> bool:
    return line[:4].upper() == b"BDAT" and not line[4:5].isalnum()


def _may_be_long(connection: Connection, line: bytes) -> bool:
    return _is_auth(line) and len(line) <= connection.settings.limits.auth_line


def _wait_for_line(connection: Connection) -> Waiting | None:
    """A TLS handshake need never have a line end."""
    if connection.login is not None or not connection.buffer.line_startswith(_TLS_HELLO):
        return NEED_DATA
    connection.output.reject(replies.NOT_SMTP, to=UNKNOWN)
    return None


def _too_long(line: bytes) -> Reply:
    return replies.AUTH_LINE_TOO_LONG if _is_auth(line) else replies.LINE_TOO_LONG


def _no_command(connection: Connection, line: bytes, refusal: Reply) -> None:
    connection.output.said.append(UNKNOWN)
    if connection.output.transcript is not None:
        connection.output.transcript.no_command(line)
    if _is_bdat(line):
        connection.intake.lose_sync(to=UNKNOWN)
    elif line.startswith(_TLS_HELLO):
        connection.output.reject(replies.NOT_SMTP, to=UNKNOWN)
    else:
        connection.output.mistake(refusal, to=UNKNOWN)


def _unknown(connection: Connection, verb: str) -> None:
    connection.output.said.append(UNKNOWN)
    if verb in commands.HTTP_VERBS:
        connection.output.reject(replies.NOT_SMTP, to=UNKNOWN)
    elif verb == "*" and connection.pardon:
        # Go's net/smtp says it once after a login that failed: no error of its user's
        connection.pardon = False
        connection.output.reject(replies.UNKNOWN_COMMAND, to=UNKNOWN)
    else:
        connection.output.mistake(replies.UNKNOWN_COMMAND, to=UNKNOWN)


# -- what is answered at once --------------------------------------------------------------------


def _refuse(connection: Connection, verb: str, argument: str, refusal: Reply) -> None:
    """It cannot be said now. The octets of a chunk come first."""
    if verb != "BDAT":
        _say_refusal(connection, verb, refusal)
    elif (chunk := commands.chunk_of(argument)) is not None:
        connection.intake.skip_chunk(chunk, refusal)
    else:
        connection.intake.lose_sync(to="BDAT")


def _answered(connection: Connection, verb: str, reply: Reply) -> events.Close | None:
    """A command that answers itself, by its nature or because it is wrong."""
    transaction = connection.transaction
    if reply is connection.settings.closing:
        connection.output.reply(reply, to=verb)
        return connection.close()
    if reply is replies.TOO_MANY_RECIPIENTS or reply is replies.TOO_MANY_DOMAINS:
        _over_limit(connection, reply)
    elif reply is replies.BAD_CHUNK:
        connection.intake.lose_sync(to="BDAT")
    else:
        if verb == "RCPT" and transaction is not None:
            transaction.refused += 1
        _say_refusal(connection, verb, reply)
    return None


def _say_refusal(connection: Connection, verb: str, reply: Reply) -> None:
    connection.counts.messages += verb == "MAIL"  # RFC 9422 4.1, as for a hook's refusals
    connection.output.answer(reply, to=verb)


def _over_limit(connection: Connection, reply: Reply) -> None:
    """RFC 5321 4.5.3.1.10: the transaction goes on; it is no error to try, within reason."""
    transaction = connection.transaction
    assert transaction is not None  # noqa: S101  only RCPT says so
    transaction.over_limit += 1
    if transaction.over_limit > connection.settings.limits.excess_recipients:
        connection.output.mistake(reply, to="RCPT")
    else:
        connection.output.reject(reply, to="RCPT")
