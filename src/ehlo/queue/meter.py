"""The meter of a queue: what became of its deliveries, and how many of them it holds, for metrics.

To look takes time that grows with the queue. So it is done in a thread, at most a twentieth of the
time. A request that comes meanwhile gets the levels of the last look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

from ehlo.queue.entries import Levels
from ehlo.sqlite.errors import StoreError

OUTCOMES: Final = ("accepted", "delivered", "retried", "failed", "dead")
_SHARE: Final = 20  # of the time that a look takes, between two of them
_PATIENCE: Final = 0.5  # seconds; then the levels of before are good enough

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Meter:
    """Counts deliveries, and asks `look` for the levels, at a bounded cost."""

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, Levels]]]) -> None:
        self._look = look
        self._levels: Mapping[str, Levels] = {}
        self._looking: asyncio.Task[None] | None = None
        self._next = 0.0
        self._troubled = False
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        """How many deliveries had each outcome. Only the thread of the loop changes it."""

    async def levels(self) -> Mapping[str, Levels]:
        """Return the levels, by what holds the deliveries."""
        if self._looking is None and monotonic() >= self._next:
            self._looking = asyncio.create_task(self._measure())
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_PATIENCE)
        return self._levels

    async def _measure(self) -> None:
        begun = monotonic()
        try:
            self._levels = await self._look()
            self._troubled = False
        except StoreError as error:
            if not self._troubled:
                logger.warning("the queue was not counted: error=%s", error)
            self._troubled, self._levels = True, {}
        finally:
            self._looking = None
            self._next = monotonic() + _SHARE * (monotonic() - begun)
