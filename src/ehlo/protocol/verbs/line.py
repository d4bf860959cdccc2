"""One line of a client: taken apart, or rejected where it is no command of this server."""

from __future__ import annotations

from typing import Final

from ehlo.protocol import grammar
from ehlo.protocol import reply as replies
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.output import UNKNOWN
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings

__all__ = ["command_of", "is_tls", "reject_line", "reject_unknown"]

_TLS_HELLO: Final = b"\x16\x03"  # RFC 8446 5.1: a handshake record
# A browser or a scanner: what follows its first line must not be read as commands
_HTTP_VERBS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})


def command_of(line: bytes, settings: Settings) -> tuple[str, str] | Reply:
    """Split a line with its end into the verb in upper case and the argument as it came."""
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
        text = line.decode().rstrip(" \t")
    except UnicodeDecodeError:
        return replies.BAD_CHARACTERS
    if not text.isprintable() and grammar.CONTROL.search(text):
        return replies.BAD_CHARACTERS
    verb, _, argument = text.partition(" ")
    return verb.upper() if verb.isascii() else verb, argument


def _is_auth(line: bytes) -> bool:
    return line[:5].upper() == b"AUTH "


def _is_bdat(line: bytes) -> bool:
    return line[:4].upper() == b"BDAT" and not line[4:5].isalnum()


def reject_line(conversation: Conversation, line: bytes, reply: Reply) -> None:
    """Reject a line that is no command."""
    output = conversation.output
    output.said.append(UNKNOWN)
    if output.transcript is not None:
        output.transcript.no_command(line)
    if _is_bdat(line):
        conversation.body.lose_sync(to=UNKNOWN)
    elif line.startswith(_TLS_HELLO):
        output.reject(replies.NOT_SMTP, to=UNKNOWN)
    else:
        output.mistake(reply, to=UNKNOWN)


def is_tls(conversation: Conversation) -> bool:
    """Reject a TLS handshake, which need never have a line end; return whether it was one."""
    if conversation.exchange is not None or not conversation.buffer.line_startswith(_TLS_HELLO):
        return False
    conversation.output.reject(replies.NOT_SMTP, to=UNKNOWN)
    return True


def reject_unknown(conversation: Conversation, verb: str) -> None:
    """Reject a command that this server does not know."""
    output = conversation.output
    output.said.append(UNKNOWN)
    if verb in _HTTP_VERBS:
        output.reject(replies.NOT_SMTP, to=UNKNOWN)
    elif verb == "*" and conversation.pardon:
        # Go's net/smtp sends one after a login that failed: no error of its user
        conversation.pardon = False
        output.reject(replies.UNKNOWN_COMMAND, to=UNKNOWN)
    else:
        output.mistake(replies.UNKNOWN_COMMAND, to=UNKNOWN)
