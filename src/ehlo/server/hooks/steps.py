"""The step of an `async def` hook that an event loop is in, and who sees when it does not end.

A loop that is blocked can say nothing: a thread looks at it twice a second. It reads what the
loop's thread notes at each step, and takes no lock.
"""

from __future__ import annotations

import logging
import threading
import types
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any, Protocol

from ehlo.server.observing.journal import about

__all__ = ["Named", "Steps", "Watch", "timed"]

_BLOCKED = 1.0  # seconds that an `async def` hook may run without an await
_LOOK_EVERY = 0.5  # seconds

logger = logging.getLogger("ehlo.server")


class Named(Protocol):
    """Whose step it is."""

    @property
    def names(self) -> tuple[str, str]:
        """Of the hook, and of the session, which is empty where there is none."""


class Steps:
    """What a loop is in: the loop's thread writes it, and others read it."""

    __slots__ = ("begun", "run", "when_blocked")

    def __init__(self) -> None:
        self.begun = 0.0
        self.run: Named | None = None
        self.when_blocked: Callable[[bool], None] | None = None
        """Called by the thread that looks: with `True` when it sees it first, else with `False`."""

    def blocked(self) -> Named | None:
        """Whose step has taken too long already."""
        run = self.run  # first: of one that comes after it `begun` is later, and nothing is blocked
        return run if run is not None and monotonic() - self.begun > _BLOCKED else None


@types.coroutine
def timed(work: Awaitable[Any], run: Named, steps: Steps) -> Generator[Any, Any, Any]:
    """Await a hook, and note each stretch in which it keeps the loop from all other clients."""
    awaiting = work.__await__()
    step: Callable[[Any], Any] = awaiting.send
    sent: Any = None
    while True:
        steps.begun = begun = monotonic()
        steps.run = run
        try:
            awaited = step(sent)
        except StopIteration as end:
            return end.value
        finally:
            steps.run = None
            seconds = monotonic() - begun
            if seconds > _BLOCKED:
                _tell_blocked(run, seconds)
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001  a cancellation: it is the hook's to hear of
            step, sent = awaiting.throw, error
        else:
            step = awaiting.send


def _tell_blocked(run: Named, seconds: float) -> None:
    """Nobody else was served meanwhile."""
    hook, session_id = run.names
    about(logger, session_id).warning(
        "%s blocked the event loop for %.1f s; a `def` hook has a thread", hook, seconds
    )


def _tell_blocking(run: Named, seconds: float) -> None:
    """It may never end."""
    hook, session_id = run.names
    about(logger, session_id).warning(
        "%s blocks the event loop for %.1f s now: nobody else is served", hook, seconds
    )


class Watch:
    """A thread that names a hook while it blocks the loop, once each time."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="ehlo-watch", daemon=True)
        self._told = 0.0  # when the step began of which it has told

    def start(self) -> None:
        """Look from now on. Without a thread to be had nobody does."""
        try:
            self._thread.start()
        except RuntimeError as error:
            logger.warning("hooks that block the event loop are not named: %s", error)

    def stop(self) -> None:
        """Look no more. The thread has ended then, unless what it tells holds it up."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_LOOK_EVERY)

    def _look_on(self) -> None:
        while not self._end.wait(_LOOK_EVERY):
            self._look()

    def _look(self) -> None:
        steps = self._steps
        run, begun = steps.blocked(), steps.begun
        if run is None:
            return
        is_new, self._told = begun != self._told, begun
        if is_new:
            _tell_blocking(run, monotonic() - begun)
        if steps.when_blocked is not None:
            steps.when_blocked(is_new)
