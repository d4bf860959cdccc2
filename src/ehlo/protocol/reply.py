"""Replies: the value, its encoding, the catalogue of every reply of the server, and `Reject`.

A reply is encoded here, and nowhere else. The greeting and the replies to HELO and EHLO
carry no enhanced code (RFC 2034 4); every other 2xx, 4xx and 5xx does, on each of its lines.
`Reject` tells the client that it is at fault; `Disconnect` tells it nothing; `ProtocolError` is a
bug of the caller.

The module is longer than others, since the whole catalogue stands in it.
"""

from __future__ import annotations

import re
from typing import Final

from ehlo.protocol.grammar import CONTROL

# RFC 3463 2: status-code = class "." subject "." detail
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_ENHANCED_AND_TEXT = re.compile(rf"({_ENHANCED.pattern}) (.+)", re.DOTALL)
_MEANT_AS_ENHANCED = re.compile(r"[\d.\s]+")

# RFC 5321 4.5.3.1.5: a reply line is at most 512 bytes, with code and CRLF
_LINE_LIMIT = 512

_FORMS: Final = (
    'write (code, enhanced, text), such as (550, "5.1.1", "No such user"), or (code, text)'
)
_DEFAULTS: Final = {
    4: ("4.3.0", "Requested action not taken"),
    5: ("5.7.1", "Requested action refused"),
}


class Reply:
    """Holds a reply of the server: a code, an enhanced status code or `None`, and a text.

    A hook returns one to answer in its own words: a 2xx accepts (in `on_data` a 354), and a 4xx or
    5xx rejects. A reply is immutable and compared by value.

    - `code`: an `int` from 200 to 599 (RFC 5321 4.2). 421 and 521 close the connection.
    - `enhanced`: a `str` such as `"5.1.1"` (RFC 3463), of the class of `code`, or `None` to send
      none. It may be left out: `Reply(550, "No such user")` is sent with `5.0.0`.
    - `text`: a `str` of one line, or of several separated by LF. Text beyond ASCII is sent as
      UTF-8.

    Raises `TypeError` for an argument of another type, and `ValueError` for a code out of range, an
    enhanced code of another class, control characters in the text, or a line of more than 512
    bytes (RFC 5321 4.5.3.1.5).

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
        if not isinstance(code, int):
            raise _wrong_type("code", "an int", code)
        if not 200 <= code <= 599:
            raise ValueError(f"code is {code}; it must be from 200 to 599; {_FORMS}")
        if not isinstance(text, str):
            raise _wrong_type("text", "a str", text)
        if enhanced is not None:
            if not isinstance(enhanced, str):
                raise _wrong_type("enhanced", "a str or None", enhanced)
            if not text:
                enhanced, text = _told_apart(code, enhanced)
            if enhanced is not None:
                _check_enhanced(code, enhanced)
        _fill(self, code, enhanced, text, _encode(code, enhanced, text))

    @property
    def lines(self) -> list[str]:
        """The lines of the text."""
        return self.text.split("\n")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Reply does not change: {name}")

    def __reduce__(self) -> tuple[object, ...]:
        return Reply, (self.code, self.enhanced, self.text)  # copied and pickled by its arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __str__(self) -> str:
        return self.wire.decode().rstrip("\r\n").replace("\r\n", " / ")

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.enhanced!r}, {self.text!r})"


# Past `__setattr__`; half of the instructions that `object.__setattr__` takes
_set_code, _set_enhanced, _set_text, _set_wire, _set_refuses, _set_closes = (
    Reply.__dict__[name].__set__
    for name in ("code", "enhanced", "text", "wire", "refuses", "closes")
)


def _fill(reply: Reply, code: int, enhanced: str | None, text: str, wire: bytes) -> None:
    """Give a new reply its values, which are good ones."""
    _set_code(reply, code)
    _set_enhanced(reply, enhanced)
    _set_text(reply, text)
    _set_wire(reply, wire)
    _set_refuses(reply, code >= 400)
    _set_closes(reply, code in (421, 521))


def _accepting(enhanced: str | None, text: str, plain: str, lines: bytes = b"") -> Reply:
    """Return a 250 of the server's own, for a fifth of the instructions that `Reply` takes.

    `plain` is the first line as it is sent, and `lines` are the others.
    """
    if not (plain.isascii() and plain.isprintable() and len(plain) <= _LINE_LIMIT - 2):
        return Reply(250, enhanced, text)
    reply = object.__new__(Reply)
    _fill(reply, 250, enhanced, text, f"{plain}\r\n".encode() + lines)
    return reply


def _wrong_type(argument: str, wanted: str, given: object) -> TypeError:
    return TypeError(f"{argument} must be {wanted}, not {type(given).__name__}; {_FORMS}")


def _told_apart(code: int, given: str) -> tuple[str | None, str]:
    """Return the enhanced code and the text in `given`, which may be one of them, or both."""
    if _MEANT_AS_ENHANCED.fullmatch(given) is not None:
        return given, ""
    both = _ENHANCED_AND_TEXT.fullmatch(given)
    return (both[1], both[2]) if both is not None else (_undefined(code), given)


def _undefined(code: int) -> str | None:
    """Return the enhanced code that says no more than `code` does (RFC 3463 3.1: X.0.0)."""
    return None if code // 100 == 3 else f"{code // 100}.0.0"


def _check_enhanced(code: int, enhanced: str) -> None:
    if code // 100 == 3:
        raise ValueError(f"enhanced is {enhanced!r}; a 3xx reply has none; {_FORMS}")
    if _ENHANCED.fullmatch(enhanced) is None or int(enhanced[0]) != code // 100:
        raise ValueError(
            f"enhanced is {enhanced[:_LINE_LIMIT]!r}; with {code} it must be an enhanced code "
            f"{code // 100}.x.y; {_FORMS}"
        )


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
        raise ValueError("text has control characters; separate lines by LF, and escape the others")
    try:
        encoded = wire.encode()
    except UnicodeEncodeError:
        raise ValueError("text has surrogates, which cannot be sent; escape them") from None
    if len(encoded) > _LINE_LIMIT and max(map(len, encoded.split(b"\r\n"))) + 2 > _LINE_LIMIT:
        raise ValueError(
            f"text has a line that is longer than {_LINE_LIMIT} bytes as a reply; shorten it"
        )
    return encoded


class Reject(Exception):  # noqa: N818  the name says what it does, as the field's others do
    """Raised by a hook to reject, with the reply that the client gets.

    - `code`: an `int` from 400 to 599. A 4xx asks the client to try again later, a 5xx is final
      (RFC 5321 4.2.1). 421 and 521 close the connection after the reply.
    - `enhanced`: a `str` such as `"5.1.1"` (RFC 3463), of the class of `code`. It may be left out:
      `Reject(550, "No such user")` is sent with `5.0.0`, and a 4xx with `4.0.0`.
    - `text`: a `str` of one line, or of several separated by LF. By default, it is the usual text.

    Raises `TypeError` and `ValueError` as `Reply` does, and `ValueError` for a code under 400.

    Example:

        >>> from ehlo.protocol import Reject
        >>> raise Reject(550, "5.1.1", "No such user here")
        Traceback (most recent call last):
        ...
        ehlo.protocol.reply.Reject: 550 5.1.1 No such user here
    """

    __slots__ = ("reply",)

    reply: Reply
    """The reply to send."""

    def __init__(self, code: int, enhanced: str | None = None, text: str | None = None) -> None:
        if not isinstance(code, int):
            raise _wrong_type("code", "an int", code)
        if not 400 <= code <= 599:
            raise ValueError(f"code is {code}; it must be from 400 to 599; {_FORMS}")
        if text and not enhanced:
            enhanced = _undefined(code)
        usual_enhanced, usual_text = _DEFAULTS[code // 100]
        reply = Reply(code, enhanced or usual_enhanced, text or "")
        self.reply = reply if reply.text else Reply(code, reply.enhanced, usual_text)
        super().__init__(code, self.reply.enhanced, self.reply.text)

    def __str__(self) -> str:
        return str(self.reply)

    @classmethod
    def of(cls, reply: Reply) -> Reject:
        """Return the rejection that sends `reply`, which must be 4xx or 5xx."""
        return cls(reply.code, reply.enhanced, reply.text)


class Disconnect(Exception):  # noqa: N818  the name says what it does, as the field's others do
    """Returned or raised instead of a reply: the connection is closed without one.

    Replies to earlier commands are still sent.

    Example:

        >>> def decide(event):
        ...     return ehlo.Disconnect() if event.__class__.__name__ == "MessageEnd" else None
    """

    __slots__ = ()


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


def hello(hostname: str, name: str, extensions: Reply | None = None) -> Reply:
    """Return the reply to HELO, and with the lines of `extensions` to EHLO (RFC 5321 4.1.1.1).

    The client has not asked for UTF-8 (RFC 6531 3.7.4): other characters of its name become `?`.
    """
    lead = f"{hostname} greets "
    shown = name if name.isascii() else name.encode("ascii", "replace").decode()
    greets = lead + shown[: _LINE_LIMIT - 6 - len(lead)]
    if extensions is None:
        return _accepting(None, greets, f"250 {greets}")
    return _accepting(None, f"{greets}\n{extensions.text}", f"250-{greets}", extensions.wire)


def queued_as(queue_id: str) -> Reply:
    """Return the reply to a message accepted under an id. Raises `ValueError` as `Reply` does."""
    text = f"Ok: queued as {queue_id}"
    return _accepting("2.0.0", text, f"250 2.0.0 {text}")


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
