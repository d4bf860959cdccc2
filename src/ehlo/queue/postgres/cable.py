"""A cable to PostgreSQL: one connection, which is made when it is used, and again when it was lost.

Whatever is done on it ends within a time: a server that no longer answers is one that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from ehlo.queue.urls import DatabaseURL
from ehlo.sqlite.errors import DiskFullError, StoreError

T = TypeVar("T")


class Pg(Protocol):
    """Defines what the queue uses of a connection of asyncpg, which has no types of its own."""

    async def execute(self, query: str, *values: object) -> str:
        """Run a statement, or several without values."""

    async def fetch(self, query: str, *values: object) -> list[Any]:
        """Return all rows."""

    async def fetchrow(self, query: str, *values: object) -> Any:
        """Return the first row, or `None`."""

    async def fetchval(self, query: str, *values: object) -> Any:
        """Return the first value of the first row, or `None`."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Return a transaction for a block."""

    async def add_listener(self, channel: str, heard: Callable[..., None]) -> None:
        """Call `heard` with the connection, a process id, the channel and a text."""

    def get_server_pid(self) -> int:
        """Return the id of the process that serves the connection."""

    def is_closed(self) -> bool:
        """Return whether the connection has ended."""

    def terminate(self) -> None:
        """End the connection now; whatever waits for it fails."""

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109  it is asyncpg's
        """End the connection."""


Prepare = Callable[[Pg], Awaitable[None]]
"""What is done first on each connection."""

LIMIT: Final = 10.0
"""Seconds that one piece of work may take."""
_CONNECT: Final = 5.0  # seconds
_FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # also TimeoutError
)
# Errors after which a connection is as good as before: of data and of locks
_HARMLESS: Final = ("22", "23", "40")


class Cable:
    """Does one piece of work at a time. `prepare` is called with each new connection."""

    def __init__(self, url: DatabaseURL, prepare: Prepare) -> None:
        self._url = url
        self._prepare = prepare
        self._connection: Pg | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self.waiting: int = 0
        """How many pieces of work are not done yet."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._connection is not None and not self._connection.is_closed()

    async def do(self, work: Callable[[Pg], Awaitable[T]], more: float = 0) -> T:
        """Return the result of `work`, within `LIMIT` seconds and `more`. Raises `StoreError`.

        It is not known then whether anything was committed.
        """
        self.waiting += 1
        try:
            async with self._lock:
                return await self._do(work, LIMIT + more)
        except _FAILURES as error:
            raise self._in_words(error) from error
        finally:
            self.waiting -= 1

    async def _do(self, work: Callable[[Pg], Awaitable[T]], limit: float) -> T:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._connected()
        # To cancel the work would open a connection for that: it may hang as this one does
        loop = asyncio.get_running_loop()
        timer = loop.call_later(limit, connection.terminate)
        try:
            return await work(connection)
        except BaseException as error:
            lost = connection.is_closed()
            if not (getattr(error, "sqlstate", None) or "").startswith(_HARMLESS):
                self._drop()
            if lost and loop.time() >= timer.when():
                raise TimeoutError(f"no answer within {limit:g} seconds") from error
            raise
        finally:
            timer.cancel()

    async def _connected(self) -> Pg:
        if self._closed:
            raise ConnectionError("closed")
        try:
            connection: Pg = await asyncpg.connect(
                self._url.dsn,
                timeout=_CONNECT,
                statement_cache_size=self._url.cache,
                server_settings={"application_name": "ehlo"},
            )
        except ValueError:  # its text may have a part of the password
            wrong = "cannot be read; write postgresql://user@host:5432/database"
            raise StoreError(f"{self._url.name}: {wrong}") from None
        timer = asyncio.get_running_loop().call_later(_CONNECT, connection.terminate)
        try:
            await self._prepare(connection)
        except StoreError as error:
            connection.terminate()
            raise type(error)(f"{self._url.name}: {error}") from error
        except BaseException:
            connection.terminate()
            raise
        finally:
            timer.cancel()
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """End the connection once what is under way has ended. Nothing can be done afterwards."""
        self._closed = True
        async with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1)
            except _FAILURES:
                connection.terminate()

    def _in_words(self, error: BaseException) -> StoreError:
        name, text = self._url.name, str(error) or type(error).__name__
        if isinstance(error, asyncpg.DiskFullError):
            return DiskFullError(f"{name}: {text}; free some space")
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            return StoreError(f"{name}: {text}; grant it to the user of the queue")
        state = getattr(error, "sqlstate", None) or "08"
        if not state.startswith(("08", "57P")):
            return StoreError(f"{name}: {text}")
        return StoreError(f"{name}: cannot be reached ({text}); start PostgreSQL, or check the URL")
