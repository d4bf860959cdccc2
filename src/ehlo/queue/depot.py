"""A depot: one open file of a queue, its writer, its bodies, and who delivers from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from functools import partial
from pathlib import Path

from ehlo.queue import ledger
from ehlo.queue.attempts import OnMessage
from ehlo.queue.consumer import Consumer, Terms
from ehlo.queue.family import BodyFiles, Lock
from ehlo.queue.meter import Levels
from ehlo.queue.timing import Timekeeper
from ehlo.store.database import in_words
from ehlo.store.writer import Writer


class Depot:
    """Holds an open file, until `close`. Make one with `Depot.opened`."""

    def __init__(self, path: Path, database: ledger.Database, accept: Lock | None) -> None:
        self.path: Path = path
        self.files: BodyFiles = BodyFiles(path)
        self.writer: Writer = Writer(str(path), database, ledger.Flushes(path))
        self._accept = accept
        self._deliver: Lock | None = None
        self._consumer: Consumer | None = None
        self._delivering: asyncio.Task[None] | None = None

    @classmethod
    def opened(cls, path: Path, accept: Lock | None) -> Depot:
        """Open a file; `accept` is its lock, if mail is accepted. Raises `StoreError`."""
        database = ledger.open_ledger(path)
        depot = cls(path, database, accept)
        if accept is not None:  # no process writes a body there now
            depot.files.sweep(ledger.files_in_use(database))
        depot.writer.start()
        return depot

    @property
    def accepts(self) -> bool:
        """Whether this process accepts mail for the file."""
        return self._accept is not None

    @property
    def delivers(self) -> bool:
        """Whether this process delivers from the file."""
        return self._delivering is not None and not self._delivering.done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to deliver."""
        return self._consumer is None or self._consumer.is_idle

    async def deliver(
        self,
        lock: Lock,
        handler: OnMessage,
        terms: Terms,
        time: Timekeeper,
        counts: Counter[str],
        *,
        streams: bool,
    ) -> None:
        """Begin to deliver, since this process has the lock. Raises `StoreError`."""
        self._deliver = lock
        work = partial(ledger.recover, now=time.now(), patience=terms.patience)
        await self.writer.do(work)
        self._consumer = Consumer(
            self.writer, self.files, handler, terms, time, counts, streams=streams
        )
        self._delivering = asyncio.create_task(self._consumer.run(), name="ehlo queue")

    async def levels(self, now: float) -> Levels:
        """Return how many deliveries there are. Raises `StoreError`."""
        return await asyncio.to_thread(_levels, self.path, now)

    def wake(self) -> None:
        """Called when a message was put."""
        if self._consumer is not None:
            self._consumer.wake()

    def stop(self) -> None:
        """Claim nothing more."""
        if self._consumer is not None:
            self._consumer.stop()

    async def ended(self) -> None:
        """Wait until what is under way has ended, after `stop`.

        If this is canceled, so is what is under way.
        """
        if self._delivering is not None:
            await asyncio.gather(self._delivering, return_exceptions=True)

    async def abandon(self) -> None:
        """Cancel what is under way, and wait for that."""
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.gather(self._delivering, return_exceptions=True)

    async def close(self) -> None:
        """Close the file, and let go of its locks."""
        await self.abandon()
        await asyncio.to_thread(self.writer.close)
        for lock in (self._deliver, self._accept):
            if lock is not None:
                lock.release()


def _levels(path: Path, now: float) -> Levels:
    with in_words(str(path)), contextlib.closing(ledger.connect(path, writes=False)) as database:
        return ledger.levels(database, now)
