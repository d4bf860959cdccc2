"""A bounded pool of threads for `def` hooks.

The standard library's pool has its threads joined when the interpreter exits, so that one hook that
blocks would keep a server that was told to end from ending. These are daemons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Job", "Threads"]

Done = Callable[[Any, BaseException | None], None]
"""`(result, error)`; one of them is `None`."""


class Job:
    """A call that a thread makes; `done` is told of its result in that thread."""

    __slots__ = ("_claim", "_done")

    def __init__(self, run: Callable[[], Any], done: Done) -> None:
        self._claim = [run]  # whoever takes it out, a thread or `cancel`, is the only one
        self._done = done

    def cancel(self) -> bool:
        """Whether the call had not begun: it will not be made then, and `done` not told."""
        return self._take() is not None

    def run(self) -> tuple[Any, BaseException | None] | None:
        """Make the call: what is to be told of it; `None` when it was cancelled."""
        call = self._take()
        if call is None:
            return None
        try:
            return call(), None
        except BaseException as problem:  # noqa: BLE001  it is told, and ends no thread
            return None, problem

    def tell(self, result: Any, error: BaseException | None) -> None:
        """Say that the call has ended."""
        self._done(result, error)

    def _take(self) -> Callable[[], Any] | None:
        try:
            return self._claim.pop()
        except IndexError:
            return None


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
        """Have a thread call `run`, when one is free; without any thread `done` is told at once."""
        job = Job(run, done)
        with self._lock:
            self._unfinished += 1
            wanted = self._count < min(self._unfinished, self._most)
        self._jobs.put(job)
        if wanted:
            self._start(job)
        return job

    def _start(self, job: Job) -> None:
        name = f"{self._name}-{self._count + 1}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more of them
            if not self._count and job.cancel():
                job.tell(None, error)
            return
        self._count += 1

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome = job.run()
            with self._lock:
                self._unfinished -= 1
            if outcome is not None:
                job.tell(*outcome)
            del job, outcome  # what they hold must not live until the next one comes

    def stop(self) -> None:
        """Each thread ends when it has done what was given to it; nobody waits for that."""
        for _ in range(self._count):
            self._jobs.put(None)
