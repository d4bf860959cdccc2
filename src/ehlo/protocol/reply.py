"""Replies: the value, its encoding, the catalogue of every reply of the server, and `Reject`.

A reply is built and encoded here, and nowhere else. The greeting and the replies to HELO and EHLO
carry no enhanced code (RFC 2034 4); every other 2xx, 4xx and 5xx does, on each of its lines.
`Reject` tells the client that it is at fault; `ProtocolError` is a bug of the caller.
"""

from __future__ import annotations

import re
from typing import Final

from ehlo.protocol.grammar import CONTROL

# RFC 3463 2: status-code = class "." subject "." detail
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")

# RFC 5321 4.5.3.1.5: a reply line is at most 512 bytes, with code and CRLF
_LINE_LIMIT = 512


_DEFAULTS: Final = {
    4: ("4.3.0", "Requested action not taken"),
    5: ("5.7.1", "Requested action refused"),
}


class Reply:
    """Holds a reply of the server: a code, an enhanced status code or `None`, and a text.

    A reply is immutable and compared by value. Raises `ValueError` for a code out of range, an
    enhanced code of another class, control characters in the text, or a line of more than 512
    bytes.

    Example:

        >>> print(ehlo.Reply(452, "4.2.2", "Mailbox full"))
        452 4.2.2 Mailbox full
    """

    __slots__ = ("closes", "code", "enhanced", "refuses", "text", "wire")

    code: int
    """The code, from 200 to 599 (RFC 5321 4.2)."""
    enhanced: str | None
    """The enhanced status code (RFC 3463), or `None`."""
    text: str
    """One line, or several separated by LF; text beyond ASCII is sent as UTF-8."""
    wire: bytes
    """The reply as it is sent, with its line ends."""
    refuses: bool
    """Whether it rejects: a 4xx or a 5xx."""
    closes: bool
    """Whether the connection ends after it (RFC 5321 3.8, RFC 7504)."""

    def __init__(self, code: int, enhanced: str | None = None, text: str = "") -> None:
        if not 200 <= code <= 599:
            raise ValueError(f"no reply code: {code}")
        if enhanced is not None:
            if code // 100 == 3:
                raise ValueError("a 3xx reply has no enhanced code")
            if _ENHANCED.fullmatch(enhanced) is None or int(enhanced[0]) != code // 100:
                raise ValueError(f"enhanced code {enhanced} does not fit {code}")
        assign = object.__setattr__
        assign(self, "code", code)
        assign(self, "enhanced", enhanced)
        assign(self, "text", text)
        assign(self, "wire", _encode(code, enhanced, text))
        assign(self, "refuses", code >= 400)
        assign(self, "closes", code in (421, 521))

    @property
    def lines(self) -> list[str]:
        """The lines of the text."""
        return self.text.split("\n")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Reply does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __str__(self) -> str:
        return self.wire.decode().rstrip("\r\n").replace("\r\n", " / ")

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.enhanced!r}, {self.text!r})"


def _encode(code: int, enhanced: str | None, text: str) -> bytes:
    # RFC 5321 4.2: *( Reply-code "-" textstring CRLF ) Reply-code SP textstring CRLF
    lead = f"{enhanced} " if enhanced else ""
    most, several, last = text.rpartition("\n")
    wire = f"{code} {lead}{last}\r\n"
    if several:
        begin = f"{code}-{lead}"
        wire = begin + most.replace("\n", f"\r\n{begin}") + "\r\n" + wire
    flat = text.replace("\n", "")
    if not flat.isprintable() and CONTROL.search(flat):
        raise ValueError("control characters in the text of a reply")
    encoded = wire.encode()
    if len(encoded) > _LINE_LIMIT and max(map(len, encoded.split(b"\r\n"))) + 2 > _LINE_LIMIT:
        raise ValueError(f"a reply line is longer than {_LINE_LIMIT} bytes")
    return encoded


class Reject(Exception):  # noqa: N818  the name says what it does, as the field's others do
    """Raised by a hook to reject, with the reply that the client gets.

    `code` is 400 to 599; 421 and 521 close the connection after the reply. `enhanced` has the same
    class (RFC 3463), or is `None` for `5.7.1` or `4.3.0`. `text` is one line, or several separated
    by LF. Raises `ValueError` if code and enhanced code do not fit, or the text cannot be sent.

    Example:

        raise ehlo.Reject(550, "5.1.1", "No such user here")
    """

    __slots__ = ("reply",)

    reply: Reply
    """The reply to send."""

    def __init__(self, code: int, enhanced: str | None = None, text: str | None = None) -> None:
        if not 400 <= code <= 599:
            raise ValueError(f"a refusal is 4xx or 5xx, not {code}")
        default_enhanced, default_text = _DEFAULTS[code // 100]
        self.reply = Reply(code, enhanced or default_enhanced, text or default_text)
        super().__init__(code, self.reply.enhanced, self.reply.text)

    def __str__(self) -> str:
        return str(self.reply)

    @classmethod
    def of(cls, reply: Reply) -> Reject:
        """Return the rejection that sends `reply`, which must be 4xx or 5xx."""
        return cls(reply.code, reply.enhanced, reply.text)


class ProtocolError(Exception):
    """Raised when the caller misuses the core: an answer without a question, for instance."""


def limited(text: str, size: int) -> str:
    """Return `text` cut to at most `size` bytes of UTF-8, never inside a character."""
    return text.encode()[:size].decode(errors="ignore")


# Positive, in the order of a session
MAIL_OK: Final = Reply(250, "2.1.0", "Ok")
RCPT_OK: Final = Reply(250, "2.1.5", "Ok")
OK: Final = Reply(250, "2.0.0", "Ok")
START_DATA: Final = Reply(354, None, "Start mail input; end with <CRLF>.<CRLF>")
QUEUED: Final = Reply(250, "2.0.0", "Ok: queued")
START_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED: Final = Reply(235, "2.7.0", "Authentication successful")
CANNOT_VRFY: Final = Reply(
    252, "2.5.0", "Cannot VRFY user, but will accept message and attempt delivery"
)
VRFY_IN_UTF8: Final = Reply(252, "2.6.8", "The answer needs SMTPUTF8")

# Syntax
NO_HELO_NAME: Final = Reply(501, None, "Syntax: HELO hostname")
NO_EHLO_NAME: Final = Reply(501, None, "Syntax: EHLO hostname")
NO_LHLO_NAME: Final = Reply(501, None, "Syntax: LHLO hostname")
UNKNOWN_COMMAND: Final = Reply(500, "5.5.2", "Command not recognized")
NOT_FOR_THIS_PROTOCOL: Final = Reply(500, "5.5.1", "Command not recognized")
BAD_CHARACTERS: Final = Reply(500, "5.5.2", "Syntax error: characters that no command has")
BARE_LINE_END: Final = Reply(500, "5.5.2", "Syntax error: line must end with CRLF")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Line too long")
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Authentication exchange line is too long")
NO_ARGUMENT_ALLOWED: Final = Reply(501, "5.5.4", "Syntax error: no argument allowed")
ARGUMENT_REQUIRED: Final = Reply(501, "5.5.4", "Syntax error: argument required")
MAIL_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
RCPT_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
BAD_PARAMETERS: Final = Reply(501, "5.5.4", "Syntax error in parameters")
BAD_CHUNK: Final = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
BAD_ATTRIBUTE: Final = Reply(501, "5.5.4", "Syntax error in attributes")
BAD_SENDER: Final = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT: Final = Reply(501, "5.1.3", "Bad recipient address syntax")
SENDER_NEEDS_SMTPUTF8: Final = Reply(550, "5.6.7", "Address needs SMTPUTF8")
RECIPIENT_NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "Address needs SMTPUTF8")

# Order
NOT_OFFERED: Final = Reply(502, "5.5.1", "Command not implemented")
HELLO_FIRST: Final = Reply(503, "5.5.1", "Bad sequence of commands: say EHLO first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "Bad sequence of commands: nested MAIL")
MAIL_FIRST: Final = Reply(503, "5.5.1", "Bad sequence of commands: need MAIL before RCPT")
RCPT_FIRST: Final = Reply(503, "5.5.1", "Bad sequence of commands: need RCPT before DATA")
NO_VALID_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")
NO_VALID_RECIPIENTS_LMTP: Final = Reply(503, "5.5.1", "No valid recipients")
RCPT_BEFORE_BDAT: Final = Reply(503, "5.5.1", "Bad sequence of commands: need RCPT before BDAT")
AMID_CHUNKS: Final = Reply(503, "5.5.1", "Bad sequence of commands: the body has begun with BDAT")
CHUNK_FAILED: Final = Reply(503, "5.5.1", "Bad sequence of commands: a chunk was refused")
BINARY_NEEDS_BDAT: Final = Reply(503, "5.5.1", "Bad sequence of commands: BINARYMIME needs BDAT")
BAD_SEQUENCE: Final = Reply(503, "5.5.1", "Bad sequence of commands")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "TLS is already active")
AUTH_IN_TRANSACTION: Final = Reply(503, "5.5.1", "AUTH is not permitted during a mail transaction")
AUTH_REPEATED: Final = Reply(503, "5.5.1", "Already authenticated")
REFUSED_CONNECTION: Final = Reply(503, "5.5.1", "Bad sequence of commands: only QUIT is left")

# Gates
TLS_REQUIRED: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
AUTH_REQUIRED: Final = Reply(530, "5.7.0", "Authentication required")
NOT_AUTHORIZED: Final = Reply(550, "5.7.0", "Not authorized")
TLS_UNAVAILABLE: Final = Reply(454, "4.7.0", "TLS not available due to local problem")

# Login
NO_SUCH_MECHANISM: Final = Reply(504, "5.5.4", "Authentication mechanism not available")
MECHANISM_NEEDS_TLS: Final = Reply(
    538, "5.7.11", "Encryption required for requested authentication mechanism"
)
NO_INITIAL_RESPONSE: Final = Reply(501, "5.5.4", "This mechanism takes no initial response")
BAD_BASE64: Final = Reply(501, "5.5.2", "Invalid base64 in authentication exchange")
BAD_RESPONSE: Final = Reply(501, "5.5.2", "Malformed authentication response")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
BAD_CREDENTIALS: Final = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_TROUBLE: Final = Reply(454, "4.7.0", "Temporary authentication failure")
TOO_MANY_LOGINS: Final = Reply(421, "4.7.0", "Too many failed logins")

# Refusals and limits
CLIENT_REFUSED: Final = Reply(554, "5.7.1", "No SMTP service here")
TLS_REFUSED: Final = Reply(554, "5.7.0", "Command refused due to lack of security")
REFUSED: Final = Reply(550, "5.7.1", "Requested action refused")
MESSAGE_REFUSED: Final = Reply(554, "5.7.1", "Transaction failed")
MAILBOX_UNAVAILABLE: Final = Reply(550, "5.1.1", "Requested action not taken: mailbox unavailable")
TOO_LARGE: Final = Reply(552, "5.3.4", "Message size exceeds fixed limit")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients")
TOO_MANY_DOMAINS: Final = Reply(452, "4.5.3", "Too many domains of recipients")
TOO_MANY_MESSAGES: Final = Reply(421, "4.7.0", "Too many messages in this session")
TOO_MANY_REFUSED: Final = Reply(421, "4.7.0", "Too many recipients refused")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors")
TOO_MANY_CHUNKS: Final = Reply(421, "4.7.0", "Too many chunks for the size of the message")
TOO_MANY_IDLE: Final = Reply(421, "4.7.0", "Too many commands without mail")
TOO_MANY_CONNECTIONS: Final = Reply(421, "4.7.0", "Too many connections")
TOO_MUCH_MAIL: Final = Reply(450, "4.7.1", "Too many messages from your address")
TOO_MUCH_RCPT: Final = Reply(450, "4.7.1", "Too many recipients from your address")
NO_MEMORY: Final = Reply(452, "4.3.1", "Insufficient system storage")
NO_MEMORY_AHEAD: Final = Reply(421, "4.3.1", "Insufficient system storage for input ahead")
NOT_SMTP: Final = Reply(421, "4.7.0", "This is an SMTP port")
MAIL_LOOP: Final = Reply(554, "5.4.6", "Too many hops: mail loop detected")
BARE_NEWLINE: Final = Reply(550, "5.6.0", "Message has a bare CR or LF in it")
DRAINING: Final = Reply(421, "4.3.2", "Service shutting down")
TROUBLE: Final = Reply(451, "4.3.0", "Requested action aborted: local error in processing")
CONNECT_TROUBLE: Final = Reply(421, "4.3.0", "Service not available: local error in processing")
HANDLER_TIMEOUT: Final = Reply(451, "4.4.5", "Requested action aborted: took too long")


def greeting(service: str) -> Reply:
    """Return the greeting; `service` is host name, name and protocol (RFC 5321 4.3.1)."""
    return Reply(220, None, f"{service} Service ready")


def closing(service: str) -> Reply:
    """Return the reply to QUIT."""
    return Reply(221, "2.0.0", f"{service} Service closing transmission channel")


def timed_out(service: str) -> Reply:
    """Return the reply for a client that was idle too long."""
    text = f"{service} Service closing transmission channel after timeout exceeded"
    return Reply(421, "4.4.2", text)


def octets_received(count: int) -> Reply:
    """Return the reply to a chunk that is not the last one (RFC 3030 2)."""
    return Reply(250, "2.0.0", f"{count} octets received")


def hello(hostname: str, name: str, extensions: list[str] | None = None) -> Reply:
    """Return the reply to HELO, and with lines of `extensions` to EHLO (RFC 5321 4.1.1.1).

    The client has not asked for UTF-8 (RFC 6531 3.7.4): other characters of its name become `?`.
    """
    lead = f"{hostname} greets "
    shown = name if name.isascii() else name.encode("ascii", "replace").decode()
    greets = lead + shown[: _LINE_LIMIT - 6 - len(lead)]
    return Reply(250, None, "\n".join([greets, *(extensions or ())]))


def queued_as(queue_id: str) -> Reply:
    """Return the reply to a message accepted under an id. Raises `ValueError` as `Reply` does."""
    return Reply(250, "2.0.0", f"Ok: queued as {queue_id}")


def challenge(text: str) -> bytes:
    """Encode a challenge (RFC 4954 4), which may be longer than another reply line."""
    return f"334 {text}\r\n".encode()


def unknown_parameter(keyword: str) -> Reply:
    """Return the reply to a parameter that is not offered (RFC 5321 4.1.1.11)."""
    return Reply(555, "5.5.4", f"Unsupported parameter: {limited(keyword, 64)}")


def unsupported_value(keyword: str) -> Reply:
    """Return the reply to a value that is valid, but not supported here (RFC 2852 4)."""
    return Reply(555, "5.5.4", f"Unsupported value for parameter {limited(keyword, 64)}")


def bad_parameter(keyword: str) -> Reply:
    """Return the reply to an invalid value of a known parameter (RFC 5321 4.1.1.11)."""
    return Reply(501, "5.5.4", f"Bad value for parameter {limited(keyword, 64)}")


def help_text(verbs: list[str]) -> Reply:
    """Return the reply to HELP: the verbs that work now, eight to a line."""
    rows = [" ".join(verbs[i : i + 8]) for i in range(0, len(verbs), 8)]
    return Reply(214, "2.0.0", "\n".join(["Commands:", *rows]))
