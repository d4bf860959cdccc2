"""One run of a hook: in a task or in a thread, and what is to be made of its result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Generator
from contextvars import Context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from ehlo.server.hooks import Hook, Outcome
from ehlo.server.journal import about
from ehlo.server.threads import Job

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["HookRun"]

logger = logging.getLogger("ehlo.server")

_BLOCKED = 1.0  # seconds that an `async def` hook may run without an await


class _Timed:
    """Awaits a hook, and notes each stretch in which it kept the loop from all other clients."""

    __slots__ = ("_run", "_work")

    def __init__(self, work: Awaitable[Any], run: HookRun) -> None:
        self._work = work
        self._run = run

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        go_on: Any = partial(next, steps)
        while True:
            begun = time.monotonic()
            try:
                awaited = go_on()
            except StopIteration as end:
                return end.value
            finally:
                seconds = time.monotonic() - begun
                if seconds > _BLOCKED:
                    self._run.note_blocked(seconds)
            try:
                sent = yield awaited
            except BaseException as error:  # noqa: BLE001  a cancellation: it is the hook's to hear of
                go_on = partial(steps.throw, error)
            else:
                go_on = partial(steps.send, sent)


class HookRun:
    """A hook under way. When it has ended the driver is told, once, in the loop's thread.

    `event` is what its answer is for, `outcome` what makes an answer of its result.
    """

    __slots__ = (
        "_driver",
        "_told",
        "_work",
        "asked",
        "began",
        "event",
        "hook",
        "octets",
        "outcome",
    )

    def __init__(self, driver: Driver, hook: Hook, event: object, outcome: Outcome) -> None:
        self.hook = hook
        self.event = event
        self.outcome = outcome
        self.asked = monotonic()
        self.began: float | None = None  # by the same clock; until then it waits for its turn
        self._told: tuple[Any, BaseException | None] = None, None
        self.octets = 0  # of memory that are given back when this ends, and not before
        self._driver = driver
        self._work: asyncio.Task[None] | Job | None = None  # until it is its turn

    def start(self, arguments: tuple[object, ...], context: Context) -> None:
        """Begin, or wait for one's turn: nothing of the hook has run when this returns."""
        runtime = self._driver.runtime
        turns = runtime.turns
        if self.hook.needs_turn:
            if not turns.free:
                turns.wait(self, partial(self.start, arguments, context))
                return
            turns.free -= 1
        if self.hook.is_async:
            # Not by way of the loop's factory, which might begin at once (3.12's eager tasks)
            self.began = monotonic()
            work = self._await(arguments)
            self._work = asyncio.Task(work, loop=runtime.loop, context=context)
        else:
            # A copy: the loop, or the thread of a hook that is late, may be in the context still
            run = partial(context.copy().run, self._call, *arguments)
            self._work = runtime.threads.submit(run, self._ended_in_thread)

    def _call(self, *arguments: object) -> Any:
        """What a thread does, when it comes to it."""
        self.began = monotonic()
        return self.hook.call(*arguments)

    async def _await(self, arguments: tuple[object, ...]) -> None:
        """What the task does: the hook, and all that follows from it."""
        result: object = None
        error: BaseException | None = None
        try:
            result = await _Timed(self.hook.call(*arguments), self)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # noqa: BLE001  answered and logged, whatever it is
            error = problem
        try:
            self._ended(result, error)
        finally:  # its traceback refers to this frame, and the frame to the whole message
            del result, error, arguments

    def note_blocked(self, seconds: float) -> None:
        """Nobody else was served meanwhile."""
        about(logger, self._driver.session.id).warning(
            "%s blocked the event loop for %.1f s; a `def` hook has a thread",
            self.hook.name,
            seconds,
        )

    def _ended(self, result: object, error: BaseException | None) -> None:
        driver = self._driver
        if self.hook.needs_turn:
            turns = driver.runtime.turns
            turns.free += 1
            if turns.are_awaited:
                turns.next()
        driver.hook_ended(self, result, error)

    def _ended_in_thread(self, result: Any, error: BaseException | None) -> None:
        try:
            # Without arguments: a loop may log them, and the result may be a secret
            self._told = result, error
            self._driver.runtime.loop.call_soon_threadsafe(self._ended_in_loop)
        except RuntimeError:  # the loop was closed at once, with the thread still busy
            log = about(logger, self._driver.session.id)
            log.warning("%s ended after the server", self.hook.name)
            self._driver.runtime.memory.forget(self.octets)
        del result, error

    def _ended_in_loop(self) -> None:
        (result, error), self._told = self._told, (None, None)
        try:
            self._ended(result, error)
        finally:
            del result, error

    def cancel(self) -> None:
        """Nobody waits for it: a task ends, a thread that has begun does not."""
        if self._work is None:
            self._driver.runtime.turns.forget(self)
            self._driver.runtime.loop.call_soon(self._never_begun)
            return
        cancelled = self._work.cancel()
        # What has not begun would never say that it has ended
        if isinstance(self._work, asyncio.Task):
            self._work.add_done_callback(self._cancelled)
        elif cancelled:
            self._driver.runtime.loop.call_soon(self._cancelled)

    def _cancelled(self, task: asyncio.Task[None] | None = None) -> None:
        if task is None or task.cancelled():  # else it began, and has told of its end
            self._ended(None, asyncio.CancelledError())

    def _never_begun(self) -> None:
        self._driver.hook_ended(self, None, asyncio.CancelledError())
