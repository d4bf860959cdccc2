"""A client that sends exactly what a test tells it to, over a blocking socket with a deadline.

It knows lines and replies, and nothing else of SMTP, so that it can send anything.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from ehlo import Peer

__all__ = ["SMALL", "Client", "note_sends", "set_buffers"]

SMALL = 8192
"""A size of the kernel's buffers that unread data fills quickly."""

_READ = 65_536


def set_buffers(sock: socket.socket, size: int) -> None:
    """Fix both buffers of a socket, whatever sizes the kernel is set to. Call before it connects.

    The sockets that a listening one accepts inherit them.
    """
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, size)


def note_sends(monkeypatch: pytest.MonkeyPatch, port: int) -> list[int]:
    """Return a list that gets the size of each send of a server of asyncio on a port."""
    sizes: list[int] = []
    plain = socket.socket.send

    def send(sock: socket.socket, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        if sock.getsockname()[1] == port:
            sizes.append(len(memoryview(data)))
        return plain(sock, data, flags)

    monkeypatch.setattr(socket.socket, "send", send)
    return sizes


class Client:
    """One connection. Each method that waits raises `TimeoutError` after `timeout` seconds."""

    def __init__(
        self,
        address: Peer,
        *,
        timeout: float = 60.0,
        tls: ssl.SSLContext | None = None,
        buffers: int = 0,
        source: str = "",
    ) -> None:
        """`source` is the client's own address, such as 127.0.0.2."""
        self._received = b""
        self.sent = 0
        """Bytes sent, before TLS is added to them."""
        self.sock: socket.socket | ssl.SSLSocket
        family = _family(address)
        sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock = sock
        try:
            if buffers:
                set_buffers(sock, buffers)
            if family != socket.AF_UNIX:  # what is sent leaves at once, and waits for no ACK
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout)
            if source:
                sock.bind((source, 0))
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
        """Start TLS: complete the handshake."""
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

    # -- sending ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send `data`."""
        self.sock.sendall(data)
        self.sent += len(data)

    @contextlib.contextmanager
    def sending(self, data: bytes) -> Iterator[None]:
        """Send `data` in a thread, which may wait for the server; all is sent at the end."""
        sender = threading.Thread(target=self._send_or_be_cut, args=(data, 1))
        sender.start()
        try:
            yield
        except BaseException:
            self._cut()
            raise
        finally:
            sender.join()

    @contextlib.contextmanager
    def flooding(self, data: bytes) -> Iterator[None]:
        """Send `data` again and again in a thread, until the connection is closed."""
        sender = threading.Thread(target=self._send_or_be_cut, args=(data * 1000, 1 << 30))
        sender.start()
        try:
            yield
        finally:
            self._cut()
            sender.join()

    def _send_or_be_cut(self, data: bytes, times: int) -> None:
        with contextlib.suppress(OSError):
            for _ in range(times):
                self.send(data)

    def _cut(self) -> None:
        """Wake a thread that sends: closing the socket would not."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def say(self, line: str) -> str:
        """Send a command; return its reply."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def hello(self, name: str = "client.example") -> str:
        """Read the greeting and send EHLO; return its reply."""
        self.reply()
        return self.say(f"EHLO {name}")

    def mail(
        self,
        body: bytes = b"Subject: a test\r\n\r\nHello.\r\n",
        *,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.com",),
    ) -> str:
        """Send a message, one command at a time; return the final reply."""
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
        """Send a message in one write, without reading replies."""
        self.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + body + end)

    def begin_message_from(self, sender: str) -> None:
        """Send a message from `sender` in one write, without reading replies."""
        self.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n".encode())

    def begin(self, *commands: str) -> list[str]:
        """Send EHLO and these commands; return the replies to the commands."""
        self.hello()
        return [self.say(command) for command in commands]

    # -- receiving ---------------------------------------------------------------------------

    def line(self) -> str:
        """Return the next line, without its end. Raises `EOFError` at the end."""
        while b"\r\n" not in self._received:
            data = self.sock.recv(_READ)
            if not data:
                raise EOFError(f"closed, with {self._received!r} before it")
            self._received += data
        line, self._received = self._received.split(b"\r\n", 1)
        return line.decode()

    def reply(self) -> str:
        """Return the next reply, its lines separated by `\\n`."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def has_heard_nothing(self) -> bool:
        """Return whether nothing has arrived since the last reply."""
        patience = self.sock.gettimeout()
        self.sock.setblocking(False)
        try:
            self._received += self.sock.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self.sock.settimeout(patience)
        return not self._received

    def replies(self, count: int) -> list[str]:
        """Return the next `count` replies."""
        return [self.reply() for _ in range(count)]

    def rest(self) -> bytes:
        """Return everything until the server closes or resets the connection."""
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
        """Wait until the server closes; return whether it sent nothing more."""
        return self.rest() == b""


def _family(address: Peer) -> socket.AddressFamily:
    if address.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
