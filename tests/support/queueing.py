"""A queue under test: a clock that a test moves, a handler that does as told, and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from ehlo import Queue, Server, Session
from ehlo.queue import QueuedMessage
from support.client import Client
from support.postgres import Database
from support.serving import DEADLINE

__all__ = [
    *("Bench", "FileBench", "Jump", "Player", "PostgresBench", "bench", "deliver", "expect"),
    *("rows", "serving", "wait_until"),
]


class Jump:
    """A clock that stands still until `advance` is called, and that `set_clock` sets."""

    def __init__(self) -> None:
        self._now = 1_700_000_000.0
        self._set = 0.0  # how much the clock was set
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.waits: Counter[float] = Counter()
        """How many waits have begun, by their length."""

    def now(self) -> float:
        return self._now + self._set

    def ticks(self) -> float:
        return self._now

    def set_clock(self, seconds: float) -> None:
        """Set the clock forwards or backwards; no time passes by that."""
        self._set += seconds

    async def wait(self, wake: asyncio.Event, until: float) -> None:
        moved = asyncio.Event()
        with self._lock:
            self.waits[until - self._now] += 1
            if until <= self._now:
                moved.set()
            self._waiting.append((until, asyncio.get_running_loop(), moved))
        tasks = {asyncio.ensure_future(each.wait()) for each in (wake, moved)}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            due = [each for each in self._waiting if each[0] <= self._now]
            self._waiting = [each for each in self._waiting if each[0] > self._now]
        for _, loop, moved in due:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(moved.set)


class Player:
    """A handler that notes each call, and returns or raises what it is told, else `None`."""

    def __init__(self, *script: object) -> None:
        self._script = list(script)
        self.calls: queue.SimpleQueue[tuple[Session, QueuedMessage]] = queue.SimpleQueue()

    async def __call__(self, session: Session, message: Any) -> Any:
        step = self._script.pop(0) if self._script else None
        if callable(step) and not isinstance(step, BaseException):
            step = step(message)
            if asyncio.iscoroutine(step):
                step = await step
        self.calls.put((session, message))
        if isinstance(step, BaseException):
            raise step
        return step

    def next(self) -> tuple[Session, QueuedMessage]:
        return self.calls.get(timeout=DEADLINE)

    def taken(self) -> list[QueuedMessage]:
        """Return the messages of all calls that `next` has not returned."""
        found = []
        while not self.calls.empty():
            found.append(self.calls.get()[1])
        return found


@contextlib.contextmanager
def serving(handler: Queue, **options: Any) -> Iterator[Server]:
    with Server(handler, addr="127.0.0.1:0", **options).in_thread() as server:
        yield server


def deliver(server: Server, *recipients: str, body: bytes = b"Subject: x\r\n\r\nx\r\n") -> str:
    """Send a mail; return the reply to its end."""
    with Client(server.addresses[0]) as client:
        client.begin("MAIL FROM:<a@x.test>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA")
        client.send(body + b".\r\n")
        return client.reply()


def rows(path: Path, columns: str = "recipient, state") -> list[tuple[Any, ...]]:
    """Return the deliveries in a file, as they are committed."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(
            f"SELECT {columns} FROM deliveries"  # noqa: S608  the columns are the test's
            " JOIN messages ON messages.number = message ORDER BY deliveries.number"
        ).fetchall()


class Bench(Protocol):
    """A queue under test, on either engine, whose time a test moves."""

    url: str
    jump: Jump

    def rows(self, columns: str = "recipient, state") -> list[tuple[Any, ...]]:
        """Return the deliveries, as they are committed."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def now(self) -> float:
        """Return the time of the database."""

    def queue(self, handler: Any, **options: Any) -> Queue:
        """Return a queue whose time stands still."""

    def expect(self, server: Server, columns: str, *wanted: tuple[Any, ...]) -> None:
        """Return once the deliveries are `wanted`."""


class FileBench:
    """A queue on SQLite."""

    def __init__(self, directory: Path) -> None:
        self.url = str(directory / "mail.db")
        self.file = directory / "mail-0.db"
        self.jump = Jump()

    def rows(self, columns: str = "recipient, state") -> list[tuple[Any, ...]]:
        return rows(self.file, columns)

    def advance(self, seconds: float) -> None:
        self.jump.advance(seconds)

    def now(self) -> float:
        return self.jump.now()

    def queue(self, handler: Any, **options: Any) -> Queue:
        return Queue(self.url, handler, time=self.jump, **options)

    def expect(self, server: Server, columns: str, *wanted: tuple[Any, ...]) -> None:
        wait_until(server, lambda: self.rows(columns) == list(wanted))


class PostgresBench:
    """A queue on PostgreSQL: its rows become older, since its clock cannot be moved."""

    def __init__(self, database: Database) -> None:
        self.url = database.url
        self.database = database
        self.jump = Jump()

    def rows(self, columns: str = "recipient, state") -> list[tuple[Any, ...]]:
        return self.database.rows(columns)

    def advance(self, seconds: float) -> None:
        self.database.advance(seconds)
        self.jump.advance(seconds)

    def now(self) -> float:
        ((now,),) = self.database.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(now)

    def queue(self, handler: Any, **options: Any) -> Queue:
        return Queue(self.url, handler, time=self.jump, **options)

    def expect(self, server: Server, columns: str, *wanted: tuple[Any, ...]) -> None:
        wait_until(server, lambda: self.rows(columns) == list(wanted))


@pytest.fixture(params=["sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """A queue on each engine."""
    if request.param == "sqlite":
        return FileBench(tmp_path)
    return PostgresBench(request.getfixturevalue("database"))


def wait_until(server: Server, condition: Callable[[], bool]) -> None:
    """Return once `condition()` holds; it is looked at after each turn of the server's loop."""
    run = server.running
    assert run is not None
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), run.loop).result(DEADLINE)


def expect(server: Server, path: Path, columns: str, *wanted: tuple[Any, ...]) -> None:
    """Return once the deliveries in a file are `wanted`."""
    wait_until(server, lambda: rows(path, columns) == list(wanted))
