"""The writer: one thread that does all writing, and commits all that waits at once.

Work is a function of the database. Its result comes after the commit, in the loop that asked for
it. Work that many ask for is called once for all that is committed together. If several tasks fail
together, each is tried alone, so that one mail does not fail others. Work that is not urgent waits
for the next commit. Between commits there is time for chores, such as the index: a few milliseconds
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar, Final, TypeVar

from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import DiskFullError, StoreError, in_words
from ehlo.sqlite.gathering import Gathering, Task

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Database], Result]
Shared = Callable[[Database, Sequence[Item]], Sequence[Result]]
"""Work on several items at once, which returns a result for each."""
_MOST_AT_ONCE: Final = 500  # tasks
_MOST_WEIGHT: Final = 64 << 20  # bytes
_PAUSE: Final = 0.02  # seconds without tasks before chores that nothing waits for begin
_REST: Final = 5.0  # seconds between such chores when there were none

_logger = logging.getLogger("ehlo.sqlite")


class Chores:
    """Defines what a writer does in addition to tasks; each method runs in its thread."""

    tidies: ClassVar[bool] = True
    """Whether `tidy` may have something to do."""

    def prepare(self, database: Database, /, *, flush: bool) -> None:
        """Called before each transaction of tasks; `flush` is false if none has to be on disk."""

    def finish(self, database: Database, /) -> None:
        """Called in each transaction of tasks, after their work."""
        raise NotImplementedError

    def settle(self, database: Database, /, *, done: bool) -> None:
        """Called after each transaction; `done` is false if it was rolled back."""
        raise NotImplementedError

    def aim(self, database: Database, /) -> None:
        """Called when a search waits: all that is stored now is what it needs."""
        raise NotImplementedError

    def catch_up(self, database: Database, is_wanted: Callable[[], bool], /) -> bool:
        """Do a part of what a search waits for, in a transaction; return whether more remains.

        `is_wanted` says whether tasks wait, so that the part ends.
        """
        raise NotImplementedError

    def tidy(self, database: Database, is_wanted: Callable[[], bool], /) -> bool:
        """Do a part of what nothing waits for, as in `catch_up`."""
        raise NotImplementedError


class Writer:
    """Owns a thread, and the connection that it writes to."""

    def __init__(self, path: str, database: Database, chores: Chores) -> None:
        self._path = path
        self._database = database
        self._chores = chores
        # Tasks that were handed over together; none at all wake the thread, and `None` ends it
        self._handed: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self._tasks: deque[Task] = deque()  # of the thread
        self._lock = threading.Lock()
        self._closed = False
        self._rests = False
        self._trouble = ""  # why the last chore failed
        self._searches: list[Task] = []
        self._gatherings: dict[asyncio.AbstractEventLoop, Gathering] = {}
        self._thread = threading.Thread(target=self._run, name="ehlo writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish all tasks, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._handed.put(None)
        self._thread.join()

    def wake(self) -> None:
        """Wake the thread, in any thread, so that it does its chores soon."""
        if self._rests:
            self._rests = False
            self._handed.put([])

    async def do(
        self, work: Work[Result], weight: int = 0, *, flush: bool = True, patient: bool = False
    ) -> Result:
        """Return the result of `work` once it is committed. `weight` is its size in bytes.

        Without `flush`, it need not be on disk by then; see `Chores.prepare`. If `patient`, it may
        wait a little, so that it needs no commit of its own. If the caller is canceled, the work is
        done nevertheless. Raises `StoreError`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._gather(loop, Task(work, weight, future, is_patient=patient, flushed=flush))
        try:
            return await future
        finally:
            del future  # its exception refers to this frame, and the frame to the work

    def share(
        self,
        work: Shared[Item, Result],
        item: Item,
        weight: int = 0,
        then: Callable[[Result | None], object] | None = None,
    ) -> asyncio.Future[Result]:
        """Return what to await for the result of `work` for an item, as of `do`.

        It is called once for all items. `then` is called in the loop with the result, or with
        `None` if it failed, even if the caller was canceled. Raises `StoreError`, as the future
        may.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        try:
            self._gather(loop, Task(work, weight, future, item, then))
        except StoreError:
            if then is not None:
                then(None)
            raise
        return future

    async def catch_up(self) -> None:
        """Wait until the chores that a search needs are done for all that is stored now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put([Task(self._chores.aim, 0, future)])
        try:
            await future
        finally:
            del future  # as in `do`

    def _gather(self, loop: asyncio.AbstractEventLoop, task: Task) -> None:
        """Hand over what a loop asks for together. Raises `StoreError`."""
        if self._closed:
            raise StoreError(f"{self._path}: closed")
        gathering = self._gatherings.get(loop)
        if gathering is None:
            open_ = {each: at for each, at in self._gatherings.items() if not each.is_closed()}
            gathering = Gathering(loop, self._put)
            self._gatherings = {**open_, loop: gathering}
        gathering.add(task)

    def _put(self, tasks: list[Task]) -> None:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._path}: closed")
            self._handed.put(tasks)

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        error = StoreError(f"{self._path}: closed")
        try:
            self._work()
        except Exception as failure:
            _logger.exception("writing %s ended", self._path)
            error = StoreError(f"{self._path}: writing ended ({failure}); restart ehlo")
        with self._lock:
            self._closed = True
        self._settle_searches(error)
        while left := self._next_tasks(0)[0]:
            for task in left:
                task.error = error
            self._resolve(left)
        self._database.close()

    def _work(self) -> None:
        wait: float = 0
        while True:
            tasks, ends = self._next_tasks(0 if self._searches else wait)
            self._rests = False
            if tasks:
                begun = monotonic()
                try:
                    self._commit(tasks)
                except BaseException:
                    self._tasks.extendleft(reversed(tasks))  # `_run` says that it failed
                    raise
                self._resolve(tasks, monotonic() - begun)
                wait = _PAUSE
            if ends:
                return
            if self._searches:
                self._catch_up()
            elif not tasks:
                self._rests = True  # before the look at what there is to do
                tidies = self._chores.tidies and self._do_chore(self._chores.tidy)
                wait = _PAUSE if tidies else _REST

    def _next_tasks(self, wait: float) -> tuple[list[Task], bool]:
        """Return what waits, for at most `wait` seconds, and whether nothing follows."""
        tasks: list[Task] = []
        weight = 0
        with contextlib.suppress(queue.Empty):
            while len(tasks) < _MOST_AT_ONCE and weight < _MOST_WEIGHT:
                if not self._tasks:
                    block = not tasks and wait > 0
                    handed = self._handed.get(block, wait) if block else self._handed.get_nowait()
                    if handed is None:
                        return tasks, True
                    if not handed:
                        wait = 0
                        continue
                    self._tasks.extend(handed)
                tasks.append(self._tasks.popleft())
                weight += tasks[-1].weight
        return tasks, False

    def _commit(self, tasks: list[Task]) -> None:
        database = self._database
        try:
            with in_words(self._path):
                self._chores.prepare(database, flush=any(task.flushed for task in tasks))
                database.execute("BEGIN IMMEDIATE")
        except StoreError as error:  # locked, mostly: another try would wait as long
            for task in tasks:
                task.error = error
            return
        try:
            with in_words(self._path):
                _work_on(database, tasks)
                self._chores.finish(database)
                database.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  it is raised where the task is
            self._roll_back(is_full=isinstance(error, DiskFullError))
            if len(tasks) > 1:
                for task in tasks:
                    self._commit([task])
            else:
                tasks[0].error = error
        else:
            self._chores.settle(database, done=True)

    def _roll_back(self, *, is_full: bool) -> None:
        """Undo a transaction; on a full disk, make room for a smaller one in the log of SQLite."""
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
            if self._database.in_transaction:
                self._database.rollback()
        if is_full:
            with contextlib.suppress(sqlite3.Error):  # without room for it, nothing changes
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._chores.settle(self._database, done=False)

    def _resolve(self, tasks: list[Task], seconds: float = 0.0) -> None:
        """Give the results to the loops that wait for them, with one call for each loop."""
        gatherings: dict[Gathering, list[Task]] = {}
        for task in tasks:
            if task.gathering is not None:
                gatherings.setdefault(task.gathering, []).append(task)
            elif task.error is None:
                self._searches.append(task)
            else:
                self._end_searches([task])
        for gathering, those in gatherings.items():
            with contextlib.suppress(RuntimeError):  # a closed loop awaits nothing
                gathering.loop.call_soon_threadsafe(gathering.ended, those, seconds)

    def _catch_up(self) -> None:
        """Do a part of what the searches wait for, and serve them when it was the last."""
        try:
            more = self._do(self._chores.catch_up)
        except Exception as error:  # noqa: BLE001  it is raised where the search is
            self._settle_searches(error)
            return
        if not more:
            self._settle_searches(None)

    def _settle_searches(self, error: BaseException | None) -> None:
        served, self._searches = self._searches, []
        for task in served:
            task.error = error
        self._end_searches(served)

    def _end_searches(self, served: list[Task]) -> None:
        for task in served:
            with contextlib.suppress(RuntimeError):
                task.future.get_loop().call_soon_threadsafe(task.end)

    def _do_chore(self, chore: _Chore) -> bool:
        try:
            more = self._do(chore)
        except StoreError as error:  # a full disk, say, which is full for long
            level = logging.DEBUG if str(error) == self._trouble else logging.ERROR
            _logger.log(level, "tidying failed: error=%s", error)
            self._trouble = str(error)
        except Exception:
            _logger.exception("tidying %s failed", self._path)
        else:
            self._trouble = ""
            return more
        return False

    def _is_wanted(self) -> bool:
        return bool(self._tasks) or not self._handed.empty()

    def _do(self, chore: _Chore) -> bool:
        try:
            with in_words(self._path):
                self._database.execute("BEGIN IMMEDIATE")
                more = chore(self._database, self._is_wanted)
                self._database.execute("COMMIT")
        except BaseException as error:
            self._roll_back(is_full=isinstance(error, DiskFullError))
            raise
        self._chores.settle(self._database, done=True)
        return more


_Chore = Callable[[Database, Callable[[], bool]], bool]


def _work_on(database: Database, tasks: list[Task]) -> None:
    """Do the work of tasks; what they share is done after the rest."""
    shared: dict[Callable[..., Any], list[Task]] = {}
    for task in tasks:
        if task.item is None:
            task.result = task.work(database)
        else:
            shared.setdefault(task.work, []).append(task)
    for work, those in shared.items():
        results = work(database, [task.item for task in those])
        for task, result in zip(those, results, strict=True):
            task.result = result
