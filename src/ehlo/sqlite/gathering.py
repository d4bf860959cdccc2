"""The gathering: the tasks of one loop, which a writer's thread gets together.

While a commit is under way, tasks wait for its end. Then the clients that it was for send their
next messages. So shared work waits until there are as many messages as clients, but at most twice
as long as the commit took, and at most 8 ms. A client that is alone does not wait. The thread wakes
once for each commit, while the loop is idle: to wake it more often costs more than the work itself.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ehlo.sqlite.errors import StoreError

_PATIENCE: Final = 0.02  # seconds that what is in no hurry waits for other tasks
_SHARE: Final = 2.0  # times as long as a commit took, to wait for the next messages
_LONGEST: Final = 0.008  # seconds of that


@dataclass(slots=True, eq=False)
class Task:
    """Work that waits, and the future of its result; it is shared if there is an `item`."""

    work: Callable[..., Any]
    weight: int
    future: asyncio.Future[Any]
    item: object = None
    then: Callable[[Any], object] | None = None
    is_patient: bool = False
    flushed: bool = True
    gathering: Gathering | None = None
    """What gathered it; `None` for a search."""
    result: object = None
    error: BaseException | None = None

    def end(self) -> None:
        """Pass on the result, in the loop that waits for it."""
        if self.then is not None:
            self.then(self.result if self.error is None else None)
        if self.future.done():  # canceled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            _let_go(self.error)
            self.future.set_exception(self.error)


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that an exception came through, since they hold all tasks."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Gathering:
    """Holds what one loop asks for, until `put` hands it to the thread, or raises `StoreError`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, put: Callable[[list[Task]], object]
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._put = put
        self._tasks: list[Task] = []
        self._under_way = 0
        self._clients = 0  # that share work, as far as the last commit tells
        self._until = 0.0  # when to wait for them no longer
        self._due = math.inf
        self._timer: asyncio.Handle | None = None

    def add(self, task: Task) -> None:
        """Add a task that this turn of the loop asks for."""
        task.gathering = self
        self._tasks.append(task)
        if not self._under_way:
            self._hand_over_at(self._time_of(task))

    def ended(self, tasks: list[Task], seconds: float) -> None:
        """Pass on the results of a commit, which has taken so many seconds."""
        for task in tasks:
            task.end()
        self._under_way -= len(tasks)
        if self._under_way > 0:
            return
        now = self.loop.time()
        self._clients = sum(each.item is not None for each in (*tasks, *self._tasks))
        self._until = now + min(seconds * _SHARE, _LONGEST)
        if self._tasks:
            due = min(map(self._time_of, self._tasks))
            if due <= now:
                self._hand_over()
            else:
                self._hand_over_at(due)

    def _time_of(self, task: Task) -> float:
        """Return when a task has to be handed over."""
        if task.is_patient:
            return self.loop.time() + _PATIENCE
        if task.item is None or len(self._tasks) >= self._clients:
            return 0.0
        return self._until

    def _hand_over_at(self, due: float) -> None:
        if due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        if due <= self.loop.time():
            self._timer = self.loop.call_soon(self._hand_over)
        else:
            self._timer = self.loop.call_at(due, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf
        tasks, self._tasks = self._tasks, []
        self._under_way = len(tasks)
        try:
            self._put(tasks)
        except StoreError as error:
            for task in tasks:
                task.error = error
            self.ended(tasks, 0.0)
