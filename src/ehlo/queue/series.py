"""Series: attempts of an `async def` handler, one after another in one task until one waits.

Each has a context of its own, as in a task. A task for each of them takes 5 us more.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

Next = TypeVar("Next")
T = TypeVar("T")

Waits = Callable[[], object]
"""Called when an attempt waits for the first time."""


class Series(Generic[Next]):
    """Makes attempts; in one turn of the loop at most `most` of those that do not wait.

    `take` returns the next attempt, and `None` if none can begin now. `make` makes it. `go_on` is
    called when the task waits or has ended: it must call `begin` if an attempt can begin.
    """

    def __init__(
        self,
        take: Callable[[], Next | None],
        make: Callable[[Next, Waits], Awaitable[None]],
        go_on: Callable[[], object],
        most: int,
    ) -> None:
        self._take = take
        self._make = make
        self._go_on = go_on
        self._most = most
        self._context = copy_context()
        self._task: asyncio.Task[None] | None = None  # takes attempts, and none waits in it

    @property
    def is_taking(self) -> bool:
        """Whether a task takes attempts, so that `begin` has nothing to do."""
        return self._task is not None

    def begin(self) -> None:
        """Make the attempts that can begin, from the next turn of the loop on."""
        if self._task is None:
            # Not by the loop's factory, which might begin at once (eager tasks of Python 3.12)
            self._task = asyncio.Task(self._run(), context=self._context)

    async def _run(self) -> None:
        task, count = self._task, 0
        assert task is not None  # noqa: S101  it is this one
        try:
            # A handler may have cancelled its task, which is not for the next one to hear of
            while task is self._task and not task.cancelling():
                if (found := self._take()) is None:
                    break
                await self._make(found, self._leave)
                del found  # which has the message
                count += 1
                if count % self._most == 0:
                    await asyncio.sleep(0)
        finally:
            if task is self._task:
                self._leave()

    def _leave(self) -> None:
        self._task = None
        self._go_on()


@types.coroutine
def in_context(
    context: Context, work: Coroutine[Any, Any, T], waits: Waits | None = None
) -> Generator[Any, Any, T]:
    """Await a coroutine in a context; `waits` is called once, if it waits."""
    step: Callable[[Any], object] = work.send
    sent: object = None
    while True:
        try:
            awaited = context.run(step, sent)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            sent = None  # an exception that was thrown refers to this frame, and to the message
        if waits is not None:
            waits()
            waits = None
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001  a cancellation: it is the handler's to hear of
            step, sent = work.throw, error
        else:
            step = work.send
