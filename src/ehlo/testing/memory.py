"""The engine of an inbox in memory: ends of a connection that no network carries.

`MemorySocket` is what smtplib needs of a socket, and `MemoryTransport` what asyncio needs of a
transport. TLS is only simulated: nothing is encrypted, and no certificate is checked.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from typing import Final

from ehlo.session import TLSInfo
from ehlo.testing.guest import Guest

PRETENDED: Final = TLSInfo("TLSv1.3", "pretended", None, None)
"""The TLS of a connection in memory."""


class MemorySocket:
    """Stands for a connected socket: replies are there as soon as a command was sent.

    A delay is waited for when a reply is read. If the timeout is shorter, it is raised at once.
    """

    def __init__(self, guest: Guest, timeout: float | None) -> None:
        self._guest = guest
        self._timeout = timeout
        self._replies = bytearray()
        self._delay = 0.0
        self._closed = False
        self._take(guest.feed(b""))

    def _take(self, replies: bytes) -> None:
        self._replies += replies
        self._delay += self._guest.take_delay()

    def sendall(self, data: bytes) -> None:
        """Send `data`. Raises `BrokenPipeError` if the server has closed the connection."""
        if self._closed or self._guest.closed:
            raise BrokenPipeError("the server has closed the connection")
        self._take(self._guest.feed(bytes(data)))

    def makefile(self, _mode: str) -> MemoryFile:
        """Return a file to read the replies from."""
        return MemoryFile(self)

    def readline(self, limit: int) -> bytes:
        """Return the next line of a reply; `b""` if the connection is closed.

        Raises `TimeoutError` if no reply comes within the timeout.
        """
        if self._delay:
            delay, self._delay = self._delay, 0.0
            if self._timeout is not None and delay >= self._timeout:
                self._replies.clear()
                raise TimeoutError("timed out")
            time.sleep(delay)
        if not self._replies and not self._guest.closed:
            raise TimeoutError("timed out")  # nothing will come any more
        end = self._replies.find(b"\n") + 1 or len(self._replies)
        end = min(end, limit) if limit >= 0 else end
        line = bytes(self._replies[:end])
        del self._replies[:end]
        return line

    def secure(self) -> None:
        """Change to TLS, without a real handshake."""
        self._guest.secured(PRETENDED)

    def settimeout(self, timeout: float | None) -> None:
        """Set the timeout in seconds."""
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds."""
        return self._timeout

    def close(self) -> None:
        """Disconnect."""
        if not self._closed:
            self._closed = True
            if not self._guest.awaits_tls:
                self._guest.feed_eof()
            self._guest.end()


class MemoryFile(io.RawIOBase):
    """Reads the replies of a `MemorySocket`."""

    def __init__(self, sock: MemorySocket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line."""
        return self._sock.readline(-1 if size is None else size)


class MemoryTransport(asyncio.Transport):
    """Stands for a transport: replies come in a later turn of the loop, after their delay."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, guest: Guest
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._guest = guest
        self._context: object = None
        self._late: deque[bytes] = deque()
        self._due = 0.0  # when the last of them is to be received
        self._closing = False

    def begin(self, context: object) -> None:
        """Tell the protocol of the connection, and send the greeting.

        `context` is that of implicit TLS, or `None`.
        """
        self._context = context
        self._protocol.connection_made(self)
        self._send(self._guest.feed(b""))

    def secure(self, context: object) -> None:
        """Change to TLS, without a real handshake; `context` is the client's."""
        self._context = context
        self._guest.secured(PRETENDED)

    def get_protocol(self) -> asyncio.Protocol:
        """Return the protocol."""
        return self._protocol

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the TLS context as `sslcontext`; nothing else is known in memory."""
        return self._context if name == "sslcontext" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`."""
        if not self._closing:
            self._send(self._guest.feed(bytes(data)))

    def _send(self, replies: bytes) -> None:
        now, delay = self._loop.time(), self._guest.take_delay()
        self._due = max(self._due, now) + delay
        self._late.append(replies)
        if self._due > now:
            self._loop.call_at(self._due, self._arrive)
        else:
            self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        """Pass the earliest replies on that have not arrived."""
        replies = self._late.popleft()
        if self._closing:
            return
        if replies:
            self._protocol.data_received(replies)
        if self._guest.closed and not self._late:
            self._protocol.eof_received()
            self.close()

    def close(self) -> None:
        """Disconnect."""
        if not self._closing:
            self._closing = True
            if not self._guest.awaits_tls:
                self._guest.feed_eof()
            self._guest.end()
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        """Return whether it is closed."""
        return self._closing
