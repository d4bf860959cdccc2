"""Serving one client over a pair of streams instead of a socket that we accepted."""

from __future__ import annotations

import asyncio
from typing import Any

from ehlo.server.driver import Driver

__all__ = ["serve_streams"]

_READ = 65_536


class _StreamTransport(asyncio.Transport):
    """What the driver sees of a writer: the transport below it, and reading under our control."""

    def __init__(self, writer: asyncio.StreamWriter, driver: Driver) -> None:
        super().__init__()
        self._writer = writer
        self._driver = driver
        self._drain: asyncio.Task[None] | None = None
        self.may_read = asyncio.Event()
        self.may_read.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._writer.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.write(data)
        if self._drain is None and self.get_write_buffer_size():
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        """The streams' own protocol is told of a full buffer; here the driver hears of it, too."""
        self._driver.pause_writing()
        try:
            await self._writer.drain()
        except OSError:
            return  # the reader hears of it as well
        finally:
            self._drain = None
        self._driver.resume_writing()

    def forget(self) -> None:
        """The connection has ended."""
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
        self.may_read.set()  # nothing comes any more; who waits to read it must not wait for ever

    def abort(self) -> None:
        self._writer.transport.abort()
        self.may_read.set()


async def serve_streams(
    driver: Driver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Drive one session until its client has gone."""
    transport = _StreamTransport(writer, driver)
    driver.connection_made(transport)
    lost: Exception | None = None
    try:
        while not transport.is_closing():
            await transport.may_read.wait()
            data = await reader.read(_READ)
            if not data:
                driver.eof_received()
                break
            driver.data_received(data)
        await writer.wait_closed()
    except OSError as error:
        lost = error
    finally:
        transport.forget()
        transport.abort()  # nobody would close it, where this was cancelled
        driver.connection_lost(lost)
