"""The threads of `def` hooks: bounded, claimed once, and never in the way of an exit."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest

from ehlo.server.system.threads import Threads

DEADLINE = 60.0


class Told:
    """What the pool says of its jobs."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Any, BaseException | None]] = []
        self._changed = threading.Condition()

    def __call__(self, result: Any, error: BaseException | None) -> None:
        with self._changed:
            self.outcomes.append((result, error))
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, DEADLINE)


def test_results_and_exceptions_are_passed_on() -> None:
    threads, told = Threads(1, "test"), Told()
    threads.submit(lambda: 42, told)
    threads.submit(lambda: 1 // 0, told)
    told.wait_for(2)
    threads.stop()
    assert told.outcomes[0] == (42, None)
    assert isinstance(told.outcomes[1][1], ZeroDivisionError)


def test_there_are_never_more_threads_than_allowed_and_they_are_daemons() -> None:
    threads, told = Threads(3, "test"), Told()
    gate, seen = threading.Event(), set[threading.Thread]()

    def work() -> None:
        seen.add(threading.current_thread())
        gate.wait(DEADLINE)

    for _ in range(10):
        threads.submit(work, told)
    gate.set()
    told.wait_for(10)
    threads.stop()
    assert len(seen) <= 3
    assert all(thread.daemon for thread in seen)


def test_one_thread_is_enough_for_one_job_after_another() -> None:
    threads, told, seen = Threads(8, "test"), Told(), set[threading.Thread]()
    for count in range(1, 50):
        threads.submit(lambda: seen.add(threading.current_thread()), told)
        told.wait_for(count)
    threads.stop()
    assert len(seen) == 1


def test_a_cancelled_job_is_not_made_and_holds_nothing() -> None:
    class Large:
        def use(self) -> None:
            raise AssertionError("made after all")

    threads, told, gate = Threads(1, "test"), Told(), threading.Event()
    threads.submit(lambda: gate.wait(DEADLINE), told)
    large = Large()
    gone = weakref.ref(large)
    job = threads.submit(large.use, told)
    del large
    assert job.cancel()
    assert not job.cancel()
    assert gone() is None
    gate.set()
    threads.submit(lambda: "after", told)
    told.wait_for(2)
    threads.stop()
    assert told.outcomes == [(True, None), ("after", None)]


def test_a_job_that_has_begun_cannot_be_cancelled() -> None:
    threads, told = Threads(1, "test"), Told()
    begun, gate = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        gate.wait(DEADLINE)
        return "done"

    job = threads.submit(work, told)
    assert begun.wait(DEADLINE)
    assert not job.cancel()
    gate.set()
    told.wait_for(1)
    threads.stop()
    assert told.outcomes == [("done", None)]


def test_without_threads_the_error_is_passed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, told = Threads(2, "test"), Told()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        threads.submit(lambda: "never", told)
    (outcome,) = told.outcomes
    assert isinstance(outcome[1], RuntimeError)
    threads.submit(lambda: "now", told)
    told.wait_for(2)
    threads.stop()
    assert told.outcomes[1] == ("now", None)
