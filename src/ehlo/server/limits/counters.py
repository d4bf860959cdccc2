"""Counters: what each address has done recently, in memory that does not grow with their number.

The limits per address need no more than a `Counter`; one that several servers share may replace
`MemoryCounter`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

__all__ = ["Attempts", "Counter", "MemoryCounter", "Rate"]


class Counter(Protocol):
    """Counts by key, over about the last `window` seconds."""

    def add(self, key: str, amount: int, window: float) -> int:
        """Add `amount` (0 to look, -1 to undo); return the count of the key.

        A key has the same window always.
        """


class MemoryCounter:
    """Counts for at most `most` keys.

    Time is divided into stretches of `window` seconds. A count is that of the current stretch, plus
    the share of the previous one that lies within the last `window` seconds, as if it were spread
    evenly. A client that uses up a limit at the very end of a stretch may do so again by the end of
    the next one; `window` seconds never have more than twice the limit.

    When there are too many keys, `LOOKED_AT` of them are looked at, those that came or were looked
    at longest ago, and the least busy one is forgotten. So a flood of new addresses pushes out its
    own: a busy address is forgotten only among others that are as busy.
    """

    LOOKED_AT = 8

    __slots__ = ("_by_key", "_clock", "_most")

    def __init__(self, clock: Callable[[], float], most: int = 10_000) -> None:
        self._clock = clock
        self._most = most
        # By key: the number of the stretch, the count in it, and that in the one before
        self._by_key: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def add(self, key: str, amount: int, window: float) -> int:
        """See `Counter`."""
        stretch, within = divmod(self._clock(), window)
        now = int(stretch)
        begun, count, before = self._by_key.get(key, (now, 0, 0))
        if begun != now:
            count, before = 0, count if begun == now - 1 else 0
        count += amount
        if amount:
            if key not in self._by_key:
                self._make_room()
            self._by_key[key] = (now, count, before)
        return count + int(before * (1 - within / window))

    def _make_room(self) -> None:
        keys = self._by_key
        if len(keys) < self._most:
            return
        oldest = [key for key, _ in zip(keys, range(self.LOOKED_AT), strict=False)]
        del keys[min(oldest, key=self._business)]
        for key in oldest:
            if key in keys:
                keys.move_to_end(key)

    def _business(self, key: str) -> int:
        _, count, before = self._by_key[key]
        return count + before


class Rate:
    """Limits what an address may do in a while; a key of `None` is exempt."""

    __slots__ = ("_counter", "_window", "most")

    def __init__(self, counter: Counter, most: int, window: float) -> None:
        self._counter = counter
        self.most = most
        self._window = window

    def __bool__(self) -> bool:
        return self.most > 0

    def spent(self, key: str | None) -> bool:
        """Return whether nothing is left."""
        if key is None or not self.most:
            return False
        return self._counter.add(key, 0, self._window) >= self.most

    def note(self, key: str | None) -> None:
        """Count one."""
        if key is not None and self.most:
            self._counter.add(key, 1, self._window)

    def admit(self, key: str | None) -> bool:
        """Count one, unless nothing is left: what is refused does not count."""
        if key is None or not self.most:
            return True
        if self._counter.add(key, 1, self._window) <= self.most:
            return True
        self._counter.add(key, -1, self._window)
        return False


class Attempts(Rate):
    """Limits how often an address may fail in a while, at what takes its time.

    A client must not begin many attempts at once and have all of them tried before one fails. So
    each that is under way counts as a failure until it has ended.
    """

    __slots__ = ("_under_way",)

    def __init__(self, counter: Counter, most: int, window: float) -> None:
        super().__init__(counter, most, window)
        self._under_way: dict[str, int] = {}

    def may_begin(self, key: str | None) -> bool:
        """Return whether the limit is kept, even if all that is under way fails."""
        if key is None or not self.most:
            return True
        failed = self._counter.add(key, 0, self._window)
        return failed + self._under_way.get(key, 0) < self.most

    def begin(self, key: str | None) -> Callable[[], None]:
        """Count an attempt that is under way, until the returned function is called, once."""
        if key is None:
            return _nothing
        self._under_way[key] = self._under_way.get(key, 0) + 1
        return partial(self._end, key)

    def _end(self, key: str) -> None:
        left = self._under_way[key] - 1
        if left:
            self._under_way[key] = left
        else:
            del self._under_way[key]


def _nothing() -> None:
    pass
