"""A bounded pool of threads for `def` hooks.

The standard library's pool has its threads joined when the interpreter exits, so that one hook that
blocks would keep a server that was told to end from ending. These are daemons.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Job", "Threads"]

Done = Callable[[Any, BaseException | None], None]
"""`(result, error)`; one of them is `None`."""


class Job:
    """A call that a thread makes; `done` is told of its result in that thread."""

    __slots__ = ("_done", "_run", "cancelled")

    def __init__(self, run: Callable[[], Any], done: Done) -> None:
        self._run = run
        self._done = done
        self.cancelled = False

    def cancel(self) -> None:
        """Do not make the call, if it has not begun; `done` is told of a `CancelledError` then."""
        self.cancelled = True

    def run(self) -> tuple[Any, BaseException | None]:
        """Make the call: its result, or what it raised."""
        if self.cancelled:
            return None, CancelledError()
        try:
            return self._run(), None
        except BaseException as problem:  # noqa: BLE001  it is told, and ends no thread
            return None, problem

    def tell(self, result: Any, error: BaseException | None) -> None:
        """Say that the call has ended."""
        self._done(result, error)


class Threads:
    """At most `most` threads, started when all others are busy."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._count = 0

    def submit(self, run: Callable[[], Any], done: Done) -> Job:
        """Have a thread call `run`, when one is free."""
        job = Job(run, done)
        with self._lock:
            self._unfinished += 1
            start = self._count < min(self._unfinished, self._most)
            self._count += start
        self._jobs.put(job)
        if start:
            name = f"{self._name}-{self._count}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        return job

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = job.run()
            with self._lock:
                self._unfinished -= 1
            job.tell(result, error)
            del job, result, error  # what they hold must not live until the next one comes

    def stop(self) -> None:
        """Each thread ends when it has done what was given to it; nobody waits for that."""
        for _ in range(self._count):
            self._jobs.put(None)
