"""What a session awaits: `Wait` ends once, and `AwaitSlot` runs the one coroutine that awaits it.

No event loop steps these coroutines: whoever ends a wait does, so that nothing happens in between.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

Work = Coroutine[Any, Any, None]
"""What a session awaits; each of its awaits ends in a `Wait`."""

logger = logging.getLogger("ehlo.server")


class DeadlineError(Exception):
    """Raised in what a session awaits when its deadline has passed."""


class GoneError(Exception):
    """Raised by a coroutine that has nothing more to do, since the client has gone."""


def _not_awaited(_result: object) -> NoReturn:
    """Fail at once: an end that nothing hears of would leave the session waiting for ever."""
    raise RuntimeError("a wait has ended before it was awaited")


class Wait(Generic[T]):
    """Ends once, from the loop, and never before it is awaited (`RuntimeError`).

    Example::

        wait: Wait[None] = Wait()
        timer = loop.call_later(1.0, wait.end, None)
        try:
            await wait
        finally:
            timer.cancel()
    """

    __slots__ = ("resume",)

    def __init__(self) -> None:
        self.resume: Callable[[T], object] | None = _not_awaited
        """Called with the result; `None` when nothing awaits it any more."""

    def __await__(self) -> Generator[Wait[T], T, T]:
        return (yield self)

    def end(self, result: T) -> bool:
        """Resume what awaits this; return whether anything does."""
        resume, self.resume = self.resume, None
        if resume is None:
            return False
        resume(result)
        return True


class AwaitSlot:
    """Runs the one coroutine that a session awaits.

    Example::

        slot.begin(answers.message(event))
        slot.expire()                       # raises DeadlineError in it, at its await
        slot.drop()                         # closes it
    """

    __slots__ = ("_over", "_wait", "work")

    def __init__(self, over: Callable[[Exception | None], None]) -> None:
        """`over` is called after each coroutine that has waited, with what it has raised."""
        self._over = over
        self._wait: Wait[Any] | None = None
        self.work: Work | None = None
        """The coroutine under way; only the slot itself sets it."""

    def begin(self, work: Work) -> bool:
        """Run `work` until it waits, and return whether it does.

        Raises `RuntimeError` if something is awaited already, and what `work` raises.
        """
        if self.work is not None:
            work.close()
            raise RuntimeError("the session awaits something else already")
        self.work = work
        try:
            wait = work.send(None)
            if self.work is work:
                self._wait = wait
                wait.resume = self._resume  # an AttributeError if this is no Wait
                return True
            _close(work)  # it was dropped while it ran
        except BaseException as end:
            if self.work is work:
                self.work = self._wait = None
            if type(end) is not StopIteration:
                _close(work)
                raise
        return False

    def expire(self) -> None:
        """Raise `DeadlineError` in the coroutine."""
        if self.work is None or self._wait is None:
            raise RuntimeError("the session awaits nothing")
        self._wait.resume = None
        self._resume(None, DeadlineError())

    def drop(self) -> None:
        """Close the coroutine, if there is one; `over` is not called.

        One that is running just now, as where a log handler ends the session, is closed at its
        next await.
        """
        work, wait = self.work, self._wait
        self.work = self._wait = None
        if wait is not None:
            wait.resume = None
        if work is not None and inspect.getcoroutinestate(work) != inspect.CORO_RUNNING:
            _close(work)

    def retire(self) -> None:
        """Let go of the driver of a session that has ended, which has this slot."""
        self._over = _ignore

    def _resume(self, result: object, problem: Exception | None = None) -> None:
        """Step on, with the result of what was awaited, or with a problem instead."""
        work, error = self.work, None
        assert work is not None  # noqa: S101  a wait that was let go of resumes nothing
        try:
            wait = work.send(result) if problem is None else work.throw(problem)
            if self.work is work:
                self._wait = wait
                wait.resume = self._resume
            else:
                _close(work)
            return
        except StopIteration:
            pass
        except Exception as failure:  # noqa: BLE001  the driver knows what to do
            error = failure
            _close(work)
        if self.work is work:
            self.work = self._wait = None
            try:
                self._over(error)
            finally:
                del error  # its traceback refers to this frame


def _close(work: Work) -> None:
    """Close a coroutine; what it does wrong then must not keep the session from ending."""
    try:
        work.close()
    except Exception:
        logger.exception("a coroutine could not be closed")


def _ignore(_error: Exception | None) -> None:
    pass
