"""The depots of a process: the file it accepts mail for, and those without another deliverer.

This is the engine of a queue on SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ehlo.message import Message
from ehlo.queue import ledger
from ehlo.queue.depot import Depot
from ehlo.queue.engine import Deliverer, Ledger
from ehlo.queue.entries import Arrival, Levels
from ehlo.queue.family import Family
from ehlo.queue.timing import Persistence, Timekeeper
from ehlo.sqlite.connecting import connect
from ehlo.sqlite.errors import StoreError
from ehlo.sqlite.locking import Lock

_LOOK: Final = 5.0  # seconds between two looks for files that no process delivers from

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Depots:
    """Holds the open files of a queue; `patience` is for what ended with another process."""

    def __init__(self, family: Family, patience: Persistence, time: Timekeeper) -> None:
        self._family = family
        self._patience = patience
        self._time = time
        self._accepts = False
        self._threshold = 0
        self._own: Depot | None = None
        self._adopted: dict[Path, Depot] = {}
        self._failing: dict[Path, str] = {}
        self._opening = asyncio.Lock()
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    # -- accepting ---------------------------------------------------------------------------------

    async def start(self, *, accepts: bool, threshold: int) -> None:
        """Open a file of this process's own, if it accepts mail. Raises `StoreError`."""
        self._accepts, self._threshold = accepts, threshold
        if accepts:
            await self._open()

    async def put(self, arrival: Arrival, message: Message) -> None:
        """Store a message, as `Engine` says."""
        depot = self._own or await self._open()
        try:
            await depot.put(arrival, message, self._threshold)
        except ledger.GoneFileError:
            await self._lose(depot)
            raise

    async def _open(self) -> Depot:
        async with self._opening:
            if self._own is None:
                path, lock = await asyncio.to_thread(self._family.own)
                try:
                    self._own = await asyncio.to_thread(Depot.opened, path, lock, self._time)
                except BaseException:
                    lock.release()
                    raise
                self._wake.set()
            return self._own

    async def _lose(self, depot: Depot) -> None:
        """Close a file that was removed, once; the next message opens another in its place."""
        if not any(each is depot for each in self._all):
            return  # another caller closes it
        if self._own is depot:
            self._own = None
        self._adopted = {path: each for path, each in self._adopted.items() if each is not depot}
        await depot.close()

    # -- delivering --------------------------------------------------------------------------------

    def deliver(self, make: Callable[[Ledger], Deliverer]) -> None:
        """Deliver from the file of this process, and from those that no process does."""
        self._looking = asyncio.create_task(self._look_after(make), name="ehlo queue files")

    async def _look_after(self, make: Callable[[Ledger], Deliverer]) -> None:
        is_first = True
        while True:
            try:
                await self._close_gone()
                paths = await asyncio.to_thread(self._family.members)
                for path in paths:
                    await self._try_to_take(path, make)
                if is_first and not self._accepts:
                    self._say_what_is_awaited(paths)
                is_first = False
                if self._accepts:
                    await self._let_go_of_idle()
            except Exception:  # too few descriptors or threads, say: there is another look
                logger.exception("cannot look for the files of the queue")
            await self._time.wait(self._wake, self._time.ticks() + _LOOK)
            self._wake.clear()

    def _say_what_is_awaited(self, paths: Sequence[Path]) -> None:
        """Log why nothing is delivered after the first look."""
        if not paths:  # the path may be misspelled
            logger.info("waiting for a file of the queue: path=%s", self._family.member(0))
        elif not (self._adopted or self._failing):
            logger.info("waiting for the process that delivers: path=%s", paths[0])

    async def _close_gone(self) -> None:
        """Close what was removed or replaced, so that the lock of its path is free."""
        for depot in self._all:
            if depot.is_gone:
                await self._lose(depot)

    async def _try_to_take(self, path: Path, make: Callable[[Ledger], Deliverer]) -> None:
        """Deliver from a file; log why that fails, once for each reason."""
        try:
            await self._take(path, make)
        except StoreError as error:
            if self._failing.get(path) != str(error):
                logger.warning("cannot deliver from a file of the queue: error=%s", error)
            self._failing[path] = str(error)
        else:
            self._failing.pop(path, None)

    async def _take(self, path: Path, make: Callable[[Ledger], Deliverer]) -> None:
        """Deliver from a file, unless a process does. Raises `StoreError`."""
        own = self._own if self._own is not None and self._own.path == path else None
        depot = own or self._adopted.get(path)
        if depot is not None:
            if depot.delivers:
                return
            depot.let_go()
        if own is None and self._accepts and not await asyncio.to_thread(_has_mail, path):
            return
        lock = Lock.taken(path, "deliver")
        if lock is None:
            return
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(lock.release)
            found = depot
            if found is None:
                found = await asyncio.to_thread(Depot.opened, path, None, self._time)
                undo.push_async_callback(found.close)
            await found.deliver(lock, make, self._patience)
            undo.pop_all()
        if own is None:
            self._adopted[path] = found
            logger.info("delivering from %s", path)

    async def _let_go_of_idle(self) -> None:
        """Let go of the files of others from which all is delivered."""
        for path, depot in list(self._adopted.items()):
            if depot.is_idle or not depot.delivers:
                del self._adopted[path]
                await depot.close()

    # -- the end -----------------------------------------------------------------------------------

    @property
    def _all(self) -> list[Depot]:
        own = [] if self._own is None else [self._own]
        return own + list(self._adopted.values())

    async def levels(self) -> Mapping[str, Levels]:
        """Return what the files hold that this process has open. Raises `StoreError`."""
        return {str(each.path): await each.levels() for each in self._all}

    async def stop(self) -> None:
        """Claim nothing more, and return when what is under way has ended."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for depot in self._all:
            depot.stop()
        await asyncio.gather(*(depot.ended() for depot in self._all))

    async def close(self) -> None:
        """Cancel what is under way, and close all files."""
        depots = self._all
        self._own, self._looking = None, None
        self._adopted.clear()
        await asyncio.gather(*(depot.close() for depot in depots))


def _has_mail(path: Path) -> bool:
    """Return whether something in a file is to be delivered."""
    try:
        with contextlib.closing(connect(str(path), writes=False)) as database:
            return ledger.has_mail(database)
    except sqlite3.OperationalError:
        return False  # locked, or not ready: there is another look later
    except sqlite3.DatabaseError:
        return True  # no queue, or damaged, which is an error once it is opened
