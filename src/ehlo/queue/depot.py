"""A depot: one open file of a queue, its writer, its bodies, and who delivers from it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from ehlo.message import Message, Spool
from ehlo.queue import ledger
from ehlo.queue.delivering import Delivering
from ehlo.queue.engine import Deliverer, Ledger, Reserved
from ehlo.queue.entries import Arrival, Claimed, Haul, Levels, Settled
from ehlo.queue.facts import body_of
from ehlo.queue.family import BodyFiles, FiledBody
from ehlo.queue.timing import Persistence, Timekeeper
from ehlo.sqlite.connecting import Database, connect
from ehlo.sqlite.errors import StoreError, in_words
from ehlo.sqlite.locking import Lock
from ehlo.sqlite.writer import Writer

_SMALL: Final = 65_536  # bytes of a body that waits for its delivery in memory
_MOST_BACK: Final = 10.0  # seconds by which a wait may become longer

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Depot:
    """Holds an open file, until `close`; it is the `Ledger` of it. Make one by `Depot.opened`."""

    def __init__(
        self, path: Path, database: Database, accept: Lock | None, time: Timekeeper
    ) -> None:
        self.path: Path = path
        self._files = BodyFiles(path)
        self._flushes = ledger.Flushes(path)
        self._writer = Writer(str(path), database, self._flushes)
        self._time = time
        self._clock = time.now() - time.ticks()
        self._accept = accept
        self._deliver: Lock | None = None
        self._delivering: Delivering | None = None

    @classmethod
    def opened(cls, path: Path, accept: Lock | None, time: Timekeeper) -> Depot:
        """Open a file; `accept` is its lock, if mail is accepted. Raises `StoreError`."""
        database = ledger.open_ledger(path)
        try:
            depot = cls(path, database, accept, time)
            if accept is not None:  # no process writes a body there now
                with in_words(str(path)):
                    depot._files.sweep(ledger.files_in_use(database))
            depot._writer.start()
        except BaseException:
            database.close()
            raise
        return depot

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed or replaced; there is nothing to do then but to close it."""
        return self._flushes.is_gone

    # -- accepting ---------------------------------------------------------------------------------

    async def put(self, arrival: Arrival, message: Message, threshold: int) -> None:
        """Store a message; a body over `threshold` bytes is a file. Raises `StoreError`."""
        file: str | None = None
        body: bytes | None = None
        if message.size > threshold:
            digest = hashlib.sha256(arrival.seed)
            file = await asyncio.to_thread(self._files.write, message, digest.update)
        elif message.spooled:
            digest = hashlib.sha256(arrival.seed)
            body = await asyncio.to_thread(_read, message, digest.update)
        else:
            body = message.body
            digest = hashlib.sha256(arrival.seed + body)  # an update takes 1.4 us more
        place: Reserved | None = None
        if self._delivering is not None and body is not None and len(body) <= _SMALL:
            place = self._delivering.reserve()
        row = ledger.FiledRow(arrival, place, digest.hexdigest(), self._time.now(), file, body)
        then = None if place is None else partial(_receive, row, place.receive)
        try:
            await self._writer.share(ledger.insert, row, len(body or b""), then)
        except StoreError:
            if file is not None:
                await asyncio.to_thread(self._files.delete, [file])
            raise
        if place is None and self._delivering is not None:
            self._delivering.wake()

    # -- delivering --------------------------------------------------------------------------------

    @property
    def delivers(self) -> bool:
        """Whether this process delivers from the file."""
        return self._delivering is not None and not self._delivering.has_ended

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to deliver."""
        return self._delivering is None or self._delivering.is_idle

    async def deliver(
        self, lock: Lock, make: Callable[[Ledger], Deliverer], patience: Persistence
    ) -> None:
        """Begin to deliver, since this process has the lock. Raises `StoreError`."""
        self._deliver = lock
        await self._writer.do(partial(ledger.recover, now=self._time.now(), patience=patience))
        self._delivering = Delivering(make(self))

    def let_go(self) -> None:
        """Let go of the lock of deliveries if they have failed, so that they can begin again."""
        if self._delivering is None:
            return
        if failure := self._delivering.failure:
            logger.error("delivering from %s failed", self.path, exc_info=failure)
        self._delivering = None
        if self._deliver is not None:
            self._deliver.release()

    async def claim(
        self,
        owner: str,
        most: int,
        lease: float,
        patience: Persistence,
        held: Sequence[int],  # noqa: ARG002  all that is leased by `owner` is held
    ) -> Haul:
        """Return messages that are due, as `Ledger` says."""
        await self._follow_clock()
        work = partial(
            ledger.claim,
            now=self._time.now(),
            owner=owner,
            lease=lease,
            most=most,
            patience=patience,
        )
        return await self._writer.do(work, flush=False)

    async def _follow_clock(self) -> None:
        """Keep all waits as long as they are if the clock was set back; they may become shorter."""
        moved = self._time.now() - self._time.ticks() - self._clock
        if moved > 0:
            self._clock += moved
        elif moved < -_MOST_BACK:
            await self._writer.do(partial(ledger.shift, seconds=moved), flush=False)
            logger.warning("the clock was set back: seconds=%.0f file=%s", -moved, self.path)
            self._clock += moved

    async def load(self, claimed: Claimed) -> Spool:
        """Return the body in a file. Raises `OSError`."""
        return FiledBody(self._files.path(claimed.place or ""), claimed.size)

    async def renew(self, numbers: Sequence[int], owner: str, lease: float) -> None:
        """Extend leases, as `Ledger` says."""
        until = self._time.now() + lease
        work = partial(ledger.renew, numbers=numbers, owner=owner, until=until)
        await self._writer.do(work, flush=False)

    async def settle(self, settled: Sequence[Settled], owner: str, *, durable: bool) -> None:
        """Note the ends of attempts, as `Ledger` says."""
        now = self._time.now()
        work = partial(ledger.settle, settled=settled, owner=owner, now=now, has_files=durable)
        await self._delete(await self._writer.do(work, flush=durable, patient=not durable))

    async def purge(self, keep: float) -> None:
        """Delete what ended long ago, as `Ledger` says."""
        work, more = partial(ledger.purge, before=self._time.now() - keep), True
        while more:
            names, more = await self._writer.do(work)
            await self._delete(names)

    async def _delete(self, names: Sequence[str]) -> None:
        if names:
            await asyncio.to_thread(self._files.delete, names)

    async def levels(self) -> Levels:
        """Return how many deliveries there are. Raises `StoreError`."""
        return await asyncio.to_thread(_levels, self.path, self._time.now())

    # -- the end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Claim nothing more."""
        if self._delivering is not None:
            self._delivering.stop()

    async def ended(self) -> None:
        """Wait until what is under way has ended, after `stop`."""
        if self._delivering is not None:
            await self._delivering.ended()

    async def close(self) -> None:
        """Close the file, and let go of its locks."""
        if self._delivering is not None:
            await self._delivering.abandon()
        await asyncio.to_thread(self._writer.close)
        for lock in (self._deliver, self._accept):
            if lock is not None:
                lock.release()


def _receive(
    row: ledger.FiledRow, receive: Callable[[Claimed | None], object], number: int | None
) -> None:
    receive(None if number is None else ledger.claimed_at_once(row, number))


def _levels(path: Path, now: float) -> Levels:
    with in_words(str(path)), contextlib.closing(connect(str(path), writes=False)) as database:
        return ledger.levels(database, now)


def _read(message: Message, update: Callable[[bytes], object]) -> bytes:
    body = b"".join(body_of(message))
    update(body)
    return body
