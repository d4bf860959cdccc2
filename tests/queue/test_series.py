"""Attempts that share a task as long as none of them waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from itertools import pairwise

from ehlo.queue.series import Series, Waits, in_context
from support.serving import DEADLINE

Handler = Callable[[], Awaitable[object]]

seen: ContextVar[str] = ContextVar("seen", default="nothing")


class Deliveries:
    """Attempts that call a handler each; `most` of them may be under way."""

    def __init__(self, *handlers: Handler, most: int = 8) -> None:
        self._waiting = deque(handlers)
        self._left = len(handlers)
        self._places = most
        self._series = Series(self._next, self._make, self._begin, most)
        self._done = asyncio.Event()
        self.results: list[object] = []

    def _next(self) -> Handler | None:
        if not self._waiting or not self._places:
            return None
        self._places -= 1
        return self._waiting.popleft()

    async def _make(self, handler: Handler, waits: Waits) -> None:
        async def work() -> object:
            try:
                return await handler()
            except BaseException as error:  # noqa: BLE001  as the consumer does
                return error

        self.results.append(await in_context(copy_context(), work(), waits))
        self._places += 1
        self._left -= 1
        if not self._left:
            self._done.set()
        self._begin()

    def _begin(self) -> None:
        if self._waiting and self._places:
            self._series.begin()

    async def end(self) -> list[object]:
        self._begin()
        await asyncio.wait_for(self._done.wait(), DEADLINE)
        return self.results


async def task() -> object:
    return asyncio.current_task()


def run(*handlers: Handler, most: int = 8) -> list[object]:
    async def deliver() -> list[object]:
        return await Deliveries(*handlers, most=most).end()

    return asyncio.run(deliver())


def test_attempts_that_do_not_wait_share_a_task() -> None:
    tasks = run(*[task] * 30)
    assert len(tasks) == 30
    assert len(set(tasks)) == 1
    assert isinstance(tasks[0], asyncio.Task)


def test_the_next_attempt_begins_while_one_waits_and_in_another_task() -> None:
    begun: list[object] = []

    async def deliver() -> list[object]:
        go = asyncio.Event()

        async def slow() -> object:
            begun.append(asyncio.current_task())
            await go.wait()
            return "slow", asyncio.current_task()

        async def quick() -> object:
            begun.append(asyncio.current_task())
            if len(begun) == 3:
                go.set()
            return "quick"

        return await Deliveries(slow, quick, quick).end()

    assert asyncio.run(deliver()) == ["quick", "quick", ("slow", begun[0])]
    assert begun[0] is not begun[1]
    assert begun[1] is begun[2]


def test_each_attempt_has_a_context_of_its_own_before_and_after_it_waits() -> None:
    async def leaves() -> object:
        before = seen.get()
        seen.set("something")
        return before

    async def waits() -> object:
        before = seen.get()
        seen.set("mine")
        await asyncio.sleep(0)
        return before, seen.get()

    results = run(leaves, waits, leaves, waits, leaves)
    assert sorted(map(str, results)) == ["('nothing', 'mine')"] * 2 + ["nothing"] * 3


def test_an_attempt_that_cancels_its_task_cancels_no_other() -> None:
    async def cancels() -> object:
        current = asyncio.current_task()
        assert current is not None
        return current.cancel()

    async def waits() -> object:
        await asyncio.sleep(0)
        return "whole"

    results = run(cancels, waits, cancels, cancels, waits)
    assert (results.count(True), results.count("whole")) == (3, 2)


def test_a_timeout_ends_what_waits_in_its_own_attempt_alone() -> None:
    async def times_out() -> object:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return "never"

    async def waits() -> object:
        async with asyncio.timeout(DEADLINE):
            await asyncio.sleep(0)
        return "whole"

    results = run(times_out, waits, times_out, waits)
    assert sorted(type(each).__name__ for each in results) == ["TimeoutError"] * 2 + ["str"] * 2


def test_what_an_attempt_waits_for_may_fail() -> None:
    async def fails() -> object:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(OSError("no"))
        await asyncio.sleep(0)
        await failed
        return "never"

    assert [str(each) for each in run(fails, fails)] == ["no", "no"]


def test_the_loop_has_its_turn_after_as_many_attempts_as_may_be_under_way() -> None:
    turns: list[int] = []

    async def deliver() -> None:
        loop, count = asyncio.get_running_loop(), 0

        def turn() -> None:
            turns.append(count)
            if count < 20:
                loop.call_soon(turn)

        async def counts() -> None:
            nonlocal count
            count += 1

        loop.call_soon(turn)
        await Deliveries(*[counts] * 20, most=4).end()

    asyncio.run(deliver())
    assert max(after - before for before, after in pairwise(turns)) <= 4
