"""Time: the clock of a queue, how long to wait after a failed attempt, and durations as text."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from typing import Final, NamedTuple, Protocol

from ehlo.queue.entries import PLACES

Duration = float | str | None
"""Seconds, text such as `"30d"`, or `None` for no limit."""

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([smhdw]?)")
_JITTER: Final = 0.2  # of a wait, so that what failed together is not tried together again
_MOST_DOUBLINGS: Final = 60
LONGEST: Final = 1e9
"""Seconds of the longest wait, since databases and JSON know no infinite time: 31 years."""


class Timekeeper(Protocol):
    """The clocks of a queue. A test passes its own, in which hours pass at once."""

    def now(self) -> float:
        """Return the seconds since the epoch; they may jump when the clock is set."""

    def ticks(self) -> float:
        """Return the seconds since some moment; they never jump, and tell nothing on disk."""

    async def wait(self, wake: asyncio.Event, until: float) -> None:
        """Return when `wake` is set, or at `until`, in ticks, at the latest; it may be set then."""


class SystemTime:
    """The clocks of the system."""

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def ticks(self) -> float:
        """Return the seconds since the system started."""
        return time.monotonic()

    async def wait(self, wake: asyncio.Event, until: float) -> None:
        """Return when `wake` is set, or at `until`, in ticks, at the latest."""
        await asyncio.sleep(0)  # others take their turn, even if `until` is always over
        if wake.is_set():
            return
        # Not `wait_for`, whose task takes 20 us: a consumer is here once for each batch
        seconds = max(0.0, until - time.monotonic())
        timer = asyncio.get_running_loop().call_later(seconds, wake.set)
        try:
            await wake.wait()
        finally:
            timer.cancel()


class Persistence(NamedTuple):
    """Says how often a delivery is tried, and when."""

    retry_after: float
    """Seconds after the first failed attempt; each further wait is twice as long."""
    retry_max: float
    """The longest wait in seconds."""
    max_attempts: int
    max_age: float
    """Seconds after which a delivery is not tried again; 0 is one attempt."""

    def wait_after(self, attempts: int, number: int) -> float:
        """Return the seconds that delivery `number` waits after so many attempts.

        They vary by a fifth, equally for all recipients of a message, which share each attempt.
        """
        doublings = min(max(0, attempts - 1), _MOST_DOUBLINGS)
        wait = min(self.retry_max, self.retry_after * 2.0**doublings, LONGEST)
        chance = random.Random(number // PLACES + attempts)  # noqa: S311  nothing secret
        return wait * (1 + chance.uniform(-_JITTER, _JITTER))

    def ends(self, attempts: int, age: float) -> str:
        """Return why there is no further attempt; empty if there is one."""
        if attempts >= self.max_attempts:
            return f"{attempts} attempt{'s' * (attempts > 1)} failed"
        is_old = max(age, 0.0) >= self.max_age  # a clock may stand still, or be set back
        return f"older than {self.max_age:g} seconds" if is_old else ""


class Terms(NamedTuple):
    """Holds the rules of deliveries; times are in seconds."""

    lease: float
    timeout: float
    """How long an attempt may take."""
    keep_dead: float
    deliveries: int
    patience: Persistence


def seconds_in(option: str, value: Duration) -> float:
    """Return a duration in seconds; `None` is infinite. Raises `ValueError`, which names `option`.

    A text is a number with `s`, `m`, `h`, `d` or `w` behind it.
    """
    if value is None:
        return math.inf
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{option}: {value!r}: not a duration; write seconds, or 30d, 12h, 10m")
    return float(match[1]) * _UNITS[match[2]]
