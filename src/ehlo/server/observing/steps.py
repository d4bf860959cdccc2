"""Steps: the `async def` hook that an event loop runs, and a thread that logs one that blocks it.

A blocked loop cannot log that itself, so a thread looks at it twice a second. The thread reads
what the loop's thread notes at each step, without a lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ehlo.server.observing.journal import about

_LOOK_EVERY = 0.5  # seconds

logger: logging.Logger = logging.getLogger("ehlo.server")


class Named(Protocol):
    """Has names, for the log: of a hook, and of its session."""

    @property
    def names(self) -> tuple[str, str]:
        """The names of the hook and of the session; the latter is empty if there is none."""


class Steps:
    """Holds the hook that a loop runs now: the loop's thread writes it, and others read it."""

    __slots__ = ("begun", "run", "when_blocked")

    BLOCKED = 1.0
    """Seconds that an `async def` hook may run without an await."""

    def __init__(self) -> None:
        self.begun: float = 0.0
        self.run: Named | None = None
        self.when_blocked: Callable[[bool], None] | None = None
        """Called by the thread that looks: with `True` for a step that it has not seen blocked
        before, otherwise with `False`."""

    def blocked(self) -> Named | None:
        """Return the hook whose step has taken too long already; `None` without one."""
        run = self.run  # first: `begun` of the next one is later, and then nothing is blocked
        return run if run is not None and monotonic() - self.begun > self.BLOCKED else None

    def note_blocked(self, run: Named, seconds: float) -> None:
        """Log a step that took too long."""
        hook, session_id = run.names
        about(logger, session_id).warning("%s blocked the event loop for %.1f s", hook, seconds)


class Watch:
    """Runs a thread that names a hook while it blocks the loop, once each time."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="ehlo-watch", daemon=True)

    def start(self) -> None:
        """Start to look. If no thread can be started, log that nothing looks."""
        try:
            self._thread.start()
        except RuntimeError as error:
            logger.warning("hooks that block the event loop are not named: %s", error)

    def stop(self) -> None:
        """Stop looking, and wait for the thread, but not longer than one of its looks takes."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_LOOK_EVERY)

    def _look_on(self) -> None:
        steps, told = self._steps, 0.0  # when the step began that was logged last
        while not self._end.wait(_LOOK_EVERY):
            run, begun = steps.blocked(), steps.begun
            if run is None:
                continue
            is_new, told = begun != told, begun
            if is_new:
                hook, session_id = run.names
                about(logger, session_id).warning(
                    "%s has blocked the event loop for %.1f s; no other client is served. "
                    "Use a def hook for blocking code.",
                    *(hook, monotonic() - begun),
                )
            if steps.when_blocked is not None:
                steps.when_blocked(is_new)
