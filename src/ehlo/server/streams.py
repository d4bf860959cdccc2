"""Clients that no listener of the server accepted: over streams, or while no server runs."""

from __future__ import annotations

import asyncio
from typing import cast

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.server.options.config import Options

_READ = 65_536


class Rejecting(asyncio.Protocol):
    """Rejects a client, since no server runs that could serve it.

    Without a `reply` it is only disconnected.
    """

    def __init__(self, reply: Reply | None) -> None:
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a client has connected."""
        client = cast("asyncio.Transport", transport)
        if self._reply is not None:
            client.write(self._reply.wire)
        client.close()


def rejecting(options: Options, reply: Reply = replies.DRAINING) -> Rejecting:
    """Return a protocol that rejects a client of a listener with these options.

    A client that expects a TLS handshake, and a proxy, get no reply.
    """
    return Rejecting(None if options.tls_listener or options.proxy_networks else reply)


class _StreamTransport(asyncio.Transport):
    """Presents a writer as a transport whose reading can be paused."""

    def __init__(self, writer: asyncio.StreamWriter, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._writer = writer
        self._protocol = protocol
        self._drain: asyncio.Task[None] | None = None
        self.may_read = asyncio.Event()
        self.may_read.set()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._writer.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.write(data)
        if self._drain is None and self.get_write_buffer_size():
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        """Tell the protocol of a full buffer, as well as that of the streams."""
        self._protocol.pause_writing()
        try:
            await self._writer.drain()
        except OSError:
            return  # the reader gets it as well
        finally:
            self._drain = None
        self._protocol.resume_writing()

    def forget(self) -> None:
        """Stop waiting, since the connection has ended."""
        if self._drain is not None:
            self._drain.cancel()

    def can_write_eof(self) -> bool:
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        self._writer.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._writer.transport.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()

    def is_closing(self) -> bool:
        return self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()
        self.may_read.set()  # nothing comes any more, and the reader must see that

    def abort(self) -> None:
        self._writer.transport.abort()
        self.may_read.set()


async def serve_streams(
    protocol: asyncio.Protocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one client by `protocol` until it has gone."""
    transport = _StreamTransport(writer, protocol)
    protocol.connection_made(transport)
    lost: Exception | None = None
    try:
        while not transport.is_closing():
            await transport.may_read.wait()
            data = await reader.read(_READ)
            if not data:
                protocol.eof_received()
                break
            protocol.data_received(data)
        await writer.wait_closed()
    except OSError as error:
        lost = error
    finally:
        transport.forget()
        transport.abort()  # nothing else closes it when this is cancelled
        protocol.connection_lost(lost)
