"""A client that says exactly what a test tells it to: a blocking socket, with a deadline for all.

It knows lines and replies, and nothing else of SMTP, so that it can be as wrong as it likes.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from ehlo import Peer

__all__ = ["Client"]

_READ = 65_536


class Client:
    """One connection. Everything that waits raises `TimeoutError` after `timeout` seconds."""

    def __init__(
        self,
        address: Peer,
        *,
        timeout: float = 15.0,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int = 0,
    ) -> None:
        self._received = b""
        self.sock: socket.socket | ssl.SSLSocket
        family = _family(address)
        sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock = sock
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(timeout)
            target: Any = (address.host, address.port)
            sock.connect(address.host.removeprefix("unix:") if address.is_unix else target)
            if tls is not None:
                self.wrap(tls)
        except BaseException:
            self.sock.close()
            raise

    # -- the life of the connection --------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def wrap(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Shake hands now."""
        self.sock = wrapped = context.wrap_socket(self.sock, server_hostname="localhost")
        return wrapped

    def end(self) -> None:
        """Close the sending side (FIN)."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Cut the connection (RST)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    # -- what is said ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """These octets."""
        self.sock.sendall(data)

    def say(self, line: str) -> str:
        """A command; its reply, as `reply` gives it."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def hello(self, name: str = "client.example") -> str:
        """Read the greeting and say EHLO."""
        self.reply()
        return self.say(f"EHLO {name}")

    def mail(
        self,
        body: bytes = b"Subject: a test\r\n\r\nHello.\r\n",
        *,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.com",),
    ) -> str:
        """A whole transaction, one command at a time; the final reply."""
        answer = self.say(f"MAIL FROM:<{sender}>")
        assert answer.startswith("250"), answer
        for recipient in recipients:
            answer = self.say(f"RCPT TO:<{recipient}>")
            assert answer.startswith("250"), answer
        answer = self.say("DATA")
        assert answer.startswith("354"), answer
        self.send(body + b".\r\n")
        return self.reply()

    def begin_message(self, body: bytes = b"x\r\n", end: bytes = b".\r\n") -> None:
        """A whole transaction in one write, and nothing heard."""
        self.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + body + end)

    def begin_message_from(self, sender: str) -> None:
        """The same, with a sender of one's own."""
        self.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n".encode())

    def begin(self, *commands: str) -> list[str]:
        """Hello and these commands; the replies to the latter."""
        self.hello()
        return [self.say(command) for command in commands]

    # -- what is heard ---------------------------------------------------------------------------

    def line(self) -> str:
        """The next line, without its end. Raises `EOFError` where there is none."""
        while b"\r\n" not in self._received:
            data = self.sock.recv(_READ)
            if not data:
                raise EOFError(f"closed, with {self._received!r} before it")
            self._received += data
        line, self._received = self._received.split(b"\r\n", 1)
        return line.decode()

    def reply(self) -> str:
        """The next reply, its lines separated by `\\n`."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def replies(self, count: int) -> list[str]:
        """The next `count` replies."""
        return [self.reply() for _ in range(count)]

    def rest(self) -> bytes:
        """All until the server closes; a reset counts as one."""
        while True:
            try:
                data = self.sock.recv(_READ)
            except (ConnectionError, ssl.SSLEOFError):
                data = b""
            if not data:
                rest, self._received = self._received, b""
                return rest
            self._received += data

    def is_closed(self) -> bool:
        """Whether the server closes without another word; waits for it."""
        return self.rest() == b""


def _family(address: Peer) -> socket.AddressFamily:
    if address.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
