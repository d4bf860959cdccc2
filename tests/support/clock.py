"""A clock that stands still until a test moves it: minutes pass at once, and none passes by chance.

A test that lets real time pass fails on a slow machine, and is slow on every other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context
from time import monotonic
from typing import Any, TypeVarTuple

import pytest
import uvloop

from ehlo.server.system import loops
from support.serving import DEADLINE, Serve

__all__ = ["StoppedClock", "clock"]

SWEEP = 1.0  # seconds from one sweep over the sessions to the next, at most
DAY = 86_400.0

Ts = TypeVarTuple("Ts")
Timer = tuple[float, asyncio.TimerHandle, Callable[..., Any], tuple[Any, ...], Context | None]


class StoppedClock:
    """The time of all event loops that servers make while a test runs."""

    def __init__(self) -> None:
        self.stopped = True
        self._time = self._since = monotonic()
        self._loops: list[asyncio.AbstractEventLoop] = []

    def time(self) -> float:
        """Return the seconds that the loops see."""
        return self._time if self.stopped else self._time + monotonic() - self._since

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once; what is due by then has begun on return.

        A second passes first, in which the server sees what clients have done: see `Deadlines`.
        """
        until = self._time + seconds
        for moment in (min(self._time + SWEEP, until), until):
            self._advance_to(moment)

    def _advance_to(self, until: float) -> None:
        for loop in self._loops:
            if not loop.is_closed():
                work = self._move(loop, until)
                asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE)

    async def _move(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        """Move in the loop's thread: a callback that is under way does not see two times."""
        await _turns()  # what is ready now happens now
        self._time = until
        if isinstance(loop, uvloop.Loop):
            loop.call_what_is_due()  # type: ignore[attr-defined]  # of the class below
        await _turns()  # for the timers, and for what they begin

    def start(self) -> None:
        """Go on with the real time, after a day in which everything has become due."""
        self.advance(DAY)
        self._since = monotonic()
        self.stopped = False

    def loop_factory(self, name: str) -> Callable[[], asyncio.AbstractEventLoop]:
        """Return what makes a loop with this clock, as `loops.loop_factory` does."""
        kind = _on_uvloop(self) if name == "uvloop" else _on_asyncio(self)

        def make() -> asyncio.AbstractEventLoop:
            loop = kind()
            self._loops.append(loop)
            return loop

        return make


@pytest.fixture
def clock(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoppedClock]:
    """Stop the clock of the servers that `serve` starts. It runs again when they are stopped."""
    clock = StoppedClock()
    monkeypatch.setattr(loops, "loop_factory", clock.loop_factory)
    yield clock
    clock.start()


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _on_asyncio(clock: StoppedClock) -> type[asyncio.SelectorEventLoop]:
    class Clocked(asyncio.SelectorEventLoop):
        """Looks at its timers whenever they may be due, and sees by this clock that none is."""

        def time(self) -> float:
            return clock.time()

    return Clocked


def _on_uvloop(clock: StoppedClock) -> Any:
    class Clocked(uvloop.Loop):
        """Keeps the timers itself: those of libuv have a clock that no test can stop."""

        def __init__(self) -> None:
            super().__init__()
            self.timers: list[Timer] = []

        def time(self) -> float:
            return clock.time()

        def call_later(
            self,
            delay: float,
            callback: Callable[[*Ts], object],
            *args: *Ts,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:
            seconds = DAY if clock.stopped else delay
            handle = super().call_later(seconds, callback, *args, context=context)
            self.timers.append((self.time() + delay, handle, callback, args, context))
            return handle

        def call_what_is_due(self) -> None:
            now, timers = self.time(), self.timers
            self.timers = [timer for timer in timers if timer[0] > now]
            for when, handle, callback, args, context in timers:
                if when <= now and not handle.cancelled():
                    handle.cancel()
                    self.call_soon(callback, *args, context=context)

    return Clocked
