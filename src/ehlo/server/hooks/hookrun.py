"""One run of a hook: in a task or in a thread, and what is to be made of its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ehlo.server.hooks.hooks import Hook, Outcome
from ehlo.server.hooks.steps import timed
from ehlo.server.observing.journal import about
from ehlo.server.system.threads import Job

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["HookRun", "Notice", "Secured"]

logger = logging.getLogger("ehlo.server")


class Secured(NamedTuple):
    """A TLS handshake is done. The core knows nothing of it: the driver asks."""


class Notice(NamedTuple):
    """A hook is told something, and nobody waits for an answer."""


class HookRun:
    """A hook under way. When it has ended the driver is told, once, in the loop's thread.

    `event` is what its answer is for, `outcome` what makes an answer of its result.
    """

    __slots__ = (
        "_driver",
        "_told",
        "_work",
        "asked",
        "at_end",
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
        self.at_end: Callable[[], None] | None = None  # called then, whoever waits for it still
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
            steps = self._driver.runtime.steps
            result = await timed(self.hook.call(*arguments), self, steps)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # noqa: BLE001  answered and logged, whatever it is
            error = problem
        try:
            self._ended(result, error)
        finally:  # its traceback refers to this frame, and the frame to the whole message
            del result, error, arguments

    @property
    def names(self) -> tuple[str, str]:
        """Of the hook, and of the session."""
        return self.hook.name, self._driver.session.id

    @property
    def is_notice(self) -> bool:
        """Whether a hook is told something, and not asked."""
        return type(self.event) is Notice

    def expire(self) -> None:
        """It is over its deadline, unless it is to be told in any case and has just begun."""
        left = self._time_left() if self.is_notice else 0.0
        if left > 0:
            self._driver.deadlines.allow(left)
            return
        about(logger, self._driver.session.id).warning("%s is over its deadline", self.hook.name)
        self._driver.hook_is_late(self)

    def _time_left(self) -> float:
        """What is told has the time of a hook from when it begins, and not while it waits."""
        spent = 0.0 if self.began is None else monotonic() - self.began
        return self._driver.rules.times.handler - spent

    def note_not_called(self) -> None:
        """It is dropped: who was to be told something may never have heard of it."""
        if self.is_notice and self.began is None:
            about(logger, self._driver.session.id).warning("%s was never called", self.hook.name)

    def note_dropped(self, error: BaseException | None) -> None:
        """It has ended when its deadline was over."""
        if not isinstance(error, asyncio.CancelledError):
            about(logger, self._driver.session.id).warning(
                "%s ended when nobody waited any more; its result is dropped (%s)",
                self.hook.name,
                "it returned" if error is None else "it failed",
            )

    def _ended(self, result: object, error: BaseException | None) -> None:
        if self.hook.needs_turn:
            turns = self._driver.runtime.turns
            turns.free += 1
            if turns.are_awaited:
                turns.next()
        self._tell(result, error)

    def _tell(self, result: object, error: BaseException | None) -> None:
        if self.at_end is not None:
            self.at_end()
        self._driver.hook_ended(self, result, error)

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
        self._tell(None, asyncio.CancelledError())
