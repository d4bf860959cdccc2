"""A bounded pool of daemon threads for `def` hooks.

The threads of the standard library's pool are joined when the interpreter exits, so that one
hook that blocks would keep a server from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Done = Callable[[T | None, BaseException | None], None]
"""`(result, error)`, of which one is `None`."""


class Job(Generic[T]):
    """Holds a call for a thread; `done` is called with its result, in that thread."""

    __slots__ = ("_claim", "done")

    def __init__(self, run: Callable[[], T], done: Done[T]) -> None:
        self._claim = [run]  # a thread or `cancel` takes it out, never both
        self.done: Done[T] = done

    def cancel(self) -> bool:
        """Return whether the call had not begun; it will not be made then, nor `done` called."""
        return self._take() is not None

    def run(self) -> tuple[T | None, BaseException | None] | None:
        """Make the call, and return the arguments for `done`; `None` if it was cancelled."""
        call = self._take()
        if call is None:
            return None
        try:
            return call(), None
        except BaseException as problem:  # noqa: BLE001  it goes to `done`
            return None, problem

    def _take(self) -> Callable[[], T] | None:
        try:
            return self._claim.pop()
        except IndexError:
            return None


class Threads:
    """Runs calls in at most `most` threads, each started when all others are busy."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._count = 0

    def submit(self, run: Callable[[], T], done: Done[T]) -> Job[T]:
        """Call `run` in a thread when one is free; if none can be started, call `done` now."""
        job = Job(run, done)
        with self._lock:
            self._unfinished += 1
            wanted = self._count < min(self._unfinished, self._most)
        self._jobs.put(job)
        if wanted:
            self._start(job)
        return job

    def _start(self, job: Job[T]) -> None:
        name = f"{self._name}-{self._count + 1}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more of them
            if not self._count and job.cancel():
                job.done(None, error)
            return
        self._count += 1

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome = job.run()
            with self._lock:
                self._unfinished -= 1
            if outcome is not None:
                job.done(*outcome)
            del job, outcome  # or they would be kept until the next job

    def stop(self) -> None:
        """End each thread after the jobs that it has; does not wait for that."""
        for _ in range(self._count):
            self._jobs.put(None)
