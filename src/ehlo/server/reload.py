"""What a running server takes anew: contexts for TLS and files of passwords.

Files are read in a thread of its own, one after the other, so that a slow disk stalls no client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from ehlo.server.certificates import Holder
from ehlo.server.threads import Threads

__all__ = ["Reloader"]

LOOK_EVERY = 10.0  # seconds from one look at the files of certificates to the next


class Reloader:
    """Takes anew what may have changed, when it is told to, and by itself what has changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = Threads(1, "ehlo-reload")
        self._holders: list[Holder] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def watch(self, holders: Iterable[Holder]) -> None:
        """Look after these from now on."""
        self._holders = list(holders)
        if self._timer is None and any(holder.is_watched for holder in self._holders):
            self._look_later()

    def reload(self, more: Iterable[Callable[[], None]] = ()) -> None:
        """Take everything anew, and do `more`; none of it may raise."""
        self._run([*(holder.renew for holder in self._holders), *more], lambda: None)

    def stop(self) -> None:
        """Look at nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._threads.stop()

    def _look_later(self) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._run([holder.look for holder in self._holders], self._look_later)

    def _run(self, steps: list[Callable[[], None]], then: Callable[[], None]) -> None:
        def run() -> None:
            for step in steps:
                step()

        def done(_result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ended, error, then)

        if not self._stopped:
            self._threads.submit(run, done)

    def _ended(self, error: BaseException | None, then: Callable[[], None]) -> None:
        then()
        if error is not None:
            raise error
