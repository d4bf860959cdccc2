"""A connection in memory: two transports, joined without a socket, and a client's streams on one.

What one end writes, the other end reads in a later turn of the loop, 64 KiB at most. As between
sockets, a writer whose reader is slow is paused, each direction ends on its own, and an end that
has gone resets the other. The client's end can begin TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Final

from ehlo.net import Peer

_TURN: Final = 65_536  # bytes that are passed on at once
_HIGH: Final = 65_536  # bytes that wait for the other end, and above which a writer is paused
_HANDSHAKE: Final = 60.0  # seconds, as in asyncio


class Pipe(asyncio.Transport):
    """One end of a connection in memory; `join` gives it the other one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        ends: tuple[Peer, Peer],
        then: Callable[[], None] | None = None,
    ) -> None:
        """`ends` are the addresses of this end and of the other; `then` is called at the end."""
        own, other = ends
        super().__init__(
            {name: _socket_name(end) for name, end in (("sockname", own), ("peername", other))}
        )
        self._loop = loop
        self._protocol = protocol
        self._then = then
        self._other: Pipe | None = None
        self._unread = bytearray()  # written here, and not read by the other end
        self._high, self._low = _HIGH, _HIGH // 4
        self._paused = False  # this writer
        self.reading: bool = True
        self._ends = False  # no more is written
        self._told = False  # the other end knows that
        self.closing: bool = False
        self.lost: bool = False
        self._flowing = False  # `_flow` will be called

    def join(self, other: Pipe) -> None:
        """Connect this end to another one."""
        self._other, other._other = other, self

    # -- writing ---------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Pass bytes to the other end, in a later turn of the loop."""
        if self._ends or self.lost:
            return
        self._unread += data
        self.schedule()
        if len(self._unread) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Return whether one direction can end alone."""
        return True

    def write_eof(self) -> None:
        """End this direction, once the other end has read what was written."""
        self._ends = True
        self.schedule()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other end has not read."""
        return len(self._unread)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the bytes above which this writer is paused, and under which it goes on."""
        self._high = _HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def schedule(self) -> None:
        """Pass on what was written, and its end, in the next turn of the loop."""
        if not self._flowing and not self.lost:
            self._flowing = True
            self._loop.call_soon(self._flow)

    def _flow(self) -> None:
        """Pass on what was written, if the other end reads; then what follows from that."""
        self._flowing = False
        other = self._other
        if self.lost or other is None:
            return
        if other.lost:
            if self._unread or self.closing:
                self.lose(None if self.closing else ConnectionResetError("the peer has gone"))
            return
        if self._unread and other.reading and not other.closing:
            data = bytes(self._unread[:_TURN])
            del self._unread[:_TURN]
            if self._paused and len(self._unread) <= self._low:
                self._paused = False
                self._protocol.resume_writing()
            other.receive(data)
            self.schedule()
            return
        if other.closing:
            self._unread.clear()  # it reads no more
        if self._unread:
            return
        if self._ends and not self._told:
            self._told = True
            if not other.closing:
                other.receive_eof()
        if self.closing:
            self.lose(None)

    # -- reading ---------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the other end."""
        self._protocol.data_received(data)

    def receive_eof(self) -> None:
        """Take the end of the other direction."""
        if not self._protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """Read no more for now: the other end waits, and is paused when it has written much."""
        self.reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self.reading = True
        if self._other is not None:
            self._other.schedule()

    def is_reading(self) -> bool:
        """Return whether this end reads."""
        return self.reading and not self.closing

    # -- the end ---------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Return whether this end is closing, or closed."""
        return self.closing

    def close(self) -> None:
        """Read no more, and close once the other end has read what was written."""
        if not self.closing:
            self.closing = self._ends = True
            self.schedule()
            if self._other is not None:
                self._other.schedule()

    def abort(self) -> None:
        """Close now, and drop what was not read; the other end is reset."""
        if self.lost:
            return
        self.closing = True
        other = self._other
        self.lose(None)
        if other is not None and not other.lost:
            other.closing = True
            other.lose(ConnectionResetError("the peer has aborted the connection"))

    def lose(self, error: Exception | None) -> None:
        """End this end of the connection; `error` is why, if it did not close."""
        self.lost = self.closing = True
        self._unread.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)
        if self._then is not None:
            self._loop.call_soon(self._then)
        if self._other is not None:
            self._other.schedule()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol that gets what the other end writes."""
        assert isinstance(protocol, asyncio.Protocol)  # noqa: S101
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol


class ClientPipe(Pipe):
    """The client's end, which can begin TLS."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, ends: tuple[Peer, Peer]
    ) -> None:
        super().__init__(loop, protocol, ends)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._handshake: asyncio.Future[None] | None = None  # until it is over
        self._heard_eof = False

    async def secure(self, context: ssl.SSLContext, hostname: str | None, seconds: float) -> None:
        """Begin TLS. Raises `ssl.SSLError`, `TimeoutError`, or `OSError` if the server closes."""
        if self._tls is not None:
            raise RuntimeError("TLS has begun already")
        if self.closing:
            raise ConnectionResetError("the connection is closed")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._handshake = handshake = self._loop.create_future()
        self._shake_hands()
        try:
            async with asyncio.timeout(seconds):
                await handshake
        except BaseException:
            self.abort()
            raise
        finally:
            self._handshake = None

    def _shake_hands(self) -> None:
        handshake, tls = self._handshake, self._tls
        if handshake is None or handshake.done() or tls is None:
            return
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            handshake.set_exception(error)
        else:
            handshake.set_result(None)
        self._send_tls()

    def _send_tls(self) -> None:
        if self._outgoing.pending:
            super().write(self._outgoing.read())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Pass bytes to the other end, under TLS if there is TLS."""
        if self._tls is None:
            super().write(data)
            return
        rest = memoryview(bytes(data))
        while rest and not self._ends:
            rest = rest[self._tls.write(rest) :]
        self._send_tls()

    def receive(self, data: bytes) -> None:
        """Take bytes from the other end, and decrypt them if there is TLS."""
        if self._tls is None:
            super().receive(data)
            return
        self._incoming.write(data)
        self._shake_hands()
        if self._handshake is not None and not _succeeded(self._handshake):
            return
        try:
            while chunk := self._tls.read(_TURN):
                super().receive(chunk)
        except ssl.SSLWantReadError:
            self._send_tls()
            return
        except ssl.SSLError as error:
            self.lose(error)
            return
        self.receive_eof()

    def receive_eof(self) -> None:
        """Take the end of the other direction, which ends a handshake."""
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_exception(ConnectionResetError("the server has closed"))
        elif not self._heard_eof:
            self._heard_eof = True
            super().receive_eof()

    def close(self) -> None:
        """Send the end of TLS, if there is TLS, and close."""
        if self._tls is not None and not self._ends:
            with contextlib.suppress(ssl.SSLError):  # the server's close_notify is not awaited
                self._tls.unwrap()
            self._send_tls()
        super().close()

    def lose(self, error: Exception | None) -> None:
        """End this end of the connection, and a handshake that is under way."""
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_exception(error or ConnectionResetError("the server has closed"))
        super().lose(error)

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the addresses, and `ssl_object` and `sslcontext` under TLS."""
        tls = self._tls
        if tls is not None and name in ("ssl_object", "sslcontext"):
            return tls if name == "ssl_object" else tls.context
        return super().get_extra_info(name, default)


class MemoryWriter(asyncio.StreamWriter):
    """The client's `StreamWriter`, whose `start_tls` works on every event loop."""

    async def start_tls(
        self,
        sslcontext: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        **_later: float | None,
    ) -> None:
        """Begin TLS. Raises `ssl.SSLError`, `TimeoutError`, or `OSError` if the server closes."""
        await self.drain()
        pipe = self.transport
        assert isinstance(pipe, ClientPipe)  # noqa: S101  see `connected`
        await pipe.secure(sslcontext, server_hostname, ssl_handshake_timeout or _HANDSHAKE)


def connected(
    loop: asyncio.AbstractEventLoop,
    server: asyncio.Protocol,
    ends: tuple[Peer, Peer],
    then: Callable[[], None],
) -> tuple[Pipe, asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the server's transport of a new connection, and the client's streams.

    `ends` are the addresses of client and server. `then` is called when the server's end is lost,
    after its protocol.
    """
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    theirs = ClientPipe(loop, protocol, ends)
    ours = Pipe(loop, server, (ends[1], ends[0]), then)
    ours.join(theirs)
    protocol.connection_made(theirs)
    return ours, reader, MemoryWriter(theirs, protocol, reader, loop)


def _succeeded(handshake: asyncio.Future[None]) -> bool:
    return handshake.done() and not handshake.cancelled() and handshake.exception() is None


def _socket_name(end: Peer) -> str | tuple[str, int] | tuple[str, int, int, int]:
    """Return an end as a socket names it."""
    if end.is_unix:
        return end.host.removeprefix("unix:")
    return (end.host, end.port, 0, 0) if ":" in end.host else (end.host, end.port)
