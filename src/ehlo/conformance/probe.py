"""`Probe`: one connection to a server under test; every wait and every buffer is bounded."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ehlo.net import Peer

_READ: Final = 65_536
_LONGEST_REPLY: Final = 65_536  # bytes, with all its lines
_MOST_REPLIES: Final = 20  # that `rest` reads
_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\r\n\0]*))?")
_ENHANCED: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}( |$)")  # RFC 3463 2
_WIDE: Final = 200  # characters of what is shown

NOTHING: Final = -1
GARBAGE: Final = -2
CLOSED: Final = 0


class Heard(NamedTuple):
    """A reply of the server, or `CLOSED`, `NOTHING` or `GARBAGE` as its code."""

    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        shown = " / ".join(self.lines)
        return readable(f"{shown[:_WIDE]}…" if len(shown) > _WIDE else shown)

    @property
    def is_reply(self) -> bool:
        """Whether the server has replied."""
        return self.code > 0

    @property
    def keywords(self) -> dict[str, str]:
        """The keywords of a reply to EHLO, with what follows each (RFC 5321 4.1.1.1)."""
        pairs = (line[4:].strip().partition(" ") for line in self.lines[1:])
        return {keyword.upper(): argument for keyword, _, argument in pairs}

    @property
    def is_enhanced(self) -> bool:
        """Whether each line has an enhanced status code of its class (RFC 2034 4)."""
        return all(
            _ENHANCED.match(line[4:]) is not None and line[4:5] == line[:1] for line in self.lines
        )

    def fits(self, expected: str) -> bool:
        """Return whether this is what a case expects.

        `expected` is words, one of which must fit: codes (`250`, `55x`) or `closed`. `!500` fits
        any reply except 500. `one-line` and `enhanced` must hold, too, and so must each word behind
        `<ehlo>`: a keyword that is offered, or `!KEYWORD`.
        """
        words = expected.split()
        if words[0] == "<ehlo>":
            return self.code == 250 and all(
                (word.removeprefix("!") in self.keywords) != word.startswith("!")
                for word in words[1:]
            )
        if "one-line" in words and len(self.lines) != 1:
            return False
        if "enhanced" in words and not self.is_enhanced:
            return False
        unwanted = [word[1:] for word in words if word.startswith("!")]
        wanted = [word for word in words if _is_code(word)]
        if any(self._is(word) for word in unwanted):
            return False
        return any(self._is(word) for word in wanted) if wanted else self.is_reply

    def _is(self, word: str) -> bool:
        if word == "closed":
            return self.code == CLOSED
        pattern = word.replace("x", ".")
        return self.is_reply and re.fullmatch(pattern, str(self.code)) is not None


def _is_code(word: str) -> bool:
    return word == "closed" or re.fullmatch(r"[2-5][0-9x]{2}", word) is not None


def readable(text: str) -> str:
    """Return text as a terminal may print it, with escapes for all that it might obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def shown(data: bytes) -> str:
    r"""Return bytes as `readable` text, with `\r\n` for line ends; a long middle is left out."""
    if len(data) > _WIDE:
        head, tail = data[: _WIDE // 2], data[-_WIDE // 4 :]
        left_out = len(data) - len(head) - len(tail)
        return f"{shown(head)}…({left_out:,} bytes)…{shown(tail)}"
    return readable(data.decode("utf-8", "backslashreplace"))


class CaseFailedError(Exception):
    """Raised when the server does something else than a case expects."""

    def __init__(self, sent: bytes, expected: str, heard: Sequence[Heard]) -> None:
        self.sent: str = shown(sent)
        self.expected: str = expected
        self.replied: str = "; ".join(map(str, heard)) or "nothing"
        super().__init__(f"sent {self.sent}, expected {expected}, replied {self.replied}")


class NotTriedError(Exception):
    """Raised when a case cannot be tried; the text is the reason."""


class NotOfferedError(Exception):
    """Raised when the server does not offer what a case needs; the text names it."""


class OutOfTimeError(NotTriedError):
    """Raised when the time for all cases is over."""


@dataclass(frozen=True)
class Patience:
    """How long to wait: for one reply, for silence, and for all cases.

    Example:

        >>> from ehlo.conformance import Patience
        >>> Patience(reply=2).total
        300.0
    """

    reply: float = 10.0
    """Seconds for a reply."""
    hush: float = 0.3
    """Seconds without a reply, after which a server is taken to wait for more."""
    total: float = 300.0
    """Seconds for all cases."""
    began: float = field(default_factory=time.monotonic)

    def until(self, seconds: float) -> float:
        """Return when a wait of `seconds` ends, by `time.monotonic`. Raises `OutOfTimeError`."""
        now = time.monotonic()
        if now >= self.began + self.total:
            raise OutOfTimeError(f"the {self.total:g} s for all cases are over")
        return min(now + seconds, self.began + self.total)


class Probe:
    """Sends bytes to a server, and hears its replies.

    Raises `OSError` if there is no connection. No method raises for what the server does; it is
    `Heard`.
    """

    def __init__(self, address: Peer, patience: Patience) -> None:
        self._patience = patience
        until = patience.until(patience.reply)
        self._sock: socket.socket = socket.create_connection(address, until - time.monotonic())
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._ended = False
        self._takes_no_more = False
        self._answered = True
        self.sent: bytes = b""
        """What was sent before the last reply."""
        self.last: Heard = Heard(NOTHING, ())
        """What was heard last."""

    def send(self, data: bytes) -> None:
        """Send bytes, as far as the server takes them in time."""
        self._note(data)
        self._send(data)

    def send_often(self, line: bytes, times: int) -> None:
        """Send a line many times, without holding all of it."""
        self._note(line + b"(%d times)" % times)
        per_block = _READ // len(line) + 1
        blocks, rest = divmod(times, per_block)
        block = line * per_block
        for _ in range(blocks):
            self._send(block)
        self._send(line * rest)

    def _note(self, data: bytes) -> None:
        self.sent = data if self._answered else self.sent + data
        self._answered = False

    def _send(self, data: bytes) -> None:
        until = self._patience.until(self._patience.reply)
        if self._takes_no_more:
            return
        try:
            self._sock.settimeout(max(0.001, until - time.monotonic()))
            self._sock.sendall(data)
        except OSError:  # whether it has closed is heard
            self._takes_no_more = True

    def hear(self) -> Heard:
        """Return the next reply, with all of its lines."""
        self.last = self._reply(self._patience.until(self._patience.reply))
        self._answered = True
        return self.last

    def rest(self) -> list[Heard]:
        """Return all replies until the server closes, without the closing.

        It ends with `NOTHING` if the server neither replies nor closes, or with `GARBAGE`.
        """
        heard: list[Heard] = []
        while len(heard) < _MOST_REPLIES:
            reply = self.hear()
            if reply.code == CLOSED:
                break
            heard.append(reply)
            if not reply.is_reply:
                break
        return heard

    def expect(self, expected: str) -> Heard:
        """Return the next reply. Raises `CaseFailedError` if it does not fit."""
        heard = self.hear()
        if not heard.fits(expected):
            raise CaseFailedError(self.sent, expected, [heard])
        return heard

    def expect_silence(self, seconds: float = 0) -> None:
        """Wait for `seconds`. Raises `CaseFailedError` if the server says anything."""
        until = time.monotonic() + seconds
        while not self._buffer and self._receive(until):
            pass
        if self._buffer:
            raise CaseFailedError(self.sent, "no further reply", [self.last, self.hear()])

    def secure(self) -> bool:
        """Do the TLS handshake, with any certificate; return whether it worked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        until = self._patience.until(self._patience.reply)
        try:
            self._sock.settimeout(max(0.001, until - time.monotonic()))
            self._sock = context.wrap_socket(self._sock)
        except OSError:  # `ssl.SSLError` and timeouts, too
            self._ended = True
            return False
        return True

    def close(self) -> None:
        """Leave at once."""
        self._sock.close()

    def _reply(self, until: float) -> Heard:
        lines: list[str] = []
        size = 0
        while True:
            raw = self._line(until)
            if isinstance(raw, int):
                if raw == NOTHING:
                    seconds = self._patience.reply
                    partly = f" but {shown(bytes(self._buffer))}" if self._buffer else ""
                    return Heard(NOTHING, (*lines, f"nothing within {seconds:g} s{partly}"))
                if self._buffer or lines:
                    what = " / ".join([*lines, shown(bytes(self._buffer))])
                    return Heard(GARBAGE, (f"half a reply, and closed: {what}",))
                return Heard(CLOSED, ("the connection is closed",))
            size += len(raw)
            found = _LINE.fullmatch(raw.removesuffix(b"\r\n")) if raw[-2:] == b"\r\n" else None
            if found is None or size > _LONGEST_REPLY:
                why = "too long" if size > _LONGEST_REPLY else "not a reply"
                return Heard(GARBAGE, (f"{why}: {shown(raw)}",))
            lines.append(raw[:-2].decode("utf-8", "backslashreplace"))
            if lines[-1][:3] != lines[0][:3]:
                return Heard(GARBAGE, (f"two codes in one reply: {' / '.join(lines)}",))
            if found[2] != b"-":
                return Heard(int(found[1]), tuple(lines))

    def _line(self, until: float) -> bytes | int:
        """Return the next line with its end, or `CLOSED` or `NOTHING`."""
        while b"\n" not in self._buffer and len(self._buffer) <= _LONGEST_REPLY:
            if not self._receive(until):
                return CLOSED if self._ended else NOTHING
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def _receive(self, until: float) -> bool:
        """Wait for bytes; return whether there were some."""
        if self._ended:
            return False
        try:
            self._sock.settimeout(max(0.0, until - time.monotonic()))
            data = self._sock.recv(_READ)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        self._ended = not data
        self._buffer += data
        return bool(data)
