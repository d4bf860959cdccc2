"""How much an address has done of late, in memory that does not grow with their number.

A `Counter` is all that the limits for an address ask for; one that several servers share may take
the place of `MemoryCounter`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

__all__ = ["Attempts", "Counter", "MemoryCounter", "Rate"]


class Counter(Protocol):
    """Counts by key, each of about the last `window` seconds: see what counts how closely."""

    def add(self, key: str, amount: int, window: float) -> int:
        """Add `amount`, 0 to look and -1 to take one back; what the key has now.

        A key has the same window always.
        """


class MemoryCounter:
    """The counts of at most `most` keys.

    A count is that of the window's own stretch of time, and of the one before by the share of it
    that is still within the last `window` seconds. This takes what the one before had to be spread
    evenly over it. So who has used up a limit at the very end of a stretch may do so again by the
    end of the next: `window` seconds may have up to twice the limit, never more, since a stretch
    has it once at most.

    When a key more comes, the least busy of those `LOOKED_AT` is forgotten that have been there,
    or have been looked at, longest ago. So a flood of addresses that were never seen before pushes
    out its own: to have a busy one forgotten, those beside it must be as busy as that.
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
    """How much an address may do in a while. An exempt one, whose key is `None`, may do all."""

    __slots__ = ("_counter", "_window", "most")

    def __init__(self, counter: Counter, most: int, window: float) -> None:
        self._counter = counter
        self.most = most
        self._window = window

    def __bool__(self) -> bool:
        return self.most > 0

    def spent(self, key: str | None) -> bool:
        """Whether nothing is left."""
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
    """How often an address may fail in a while, at what takes its time.

    Whoever begins many attempts at once must not have them all tried before one has failed. So each
    that is under way takes the place of a failure until it has ended.
    """

    __slots__ = ("_under_way",)

    def __init__(self, counter: Counter, most: int, window: float) -> None:
        super().__init__(counter, most, window)
        self._under_way: dict[str, int] = {}

    def may_begin(self, key: str | None) -> bool:
        """Whether the limit is kept, even if all that is under way fails."""
        if key is None or not self.most:
            return True
        failed = self._counter.add(key, 0, self._window)
        return failed + self._under_way.get(key, 0) < self.most

    def begin(self, key: str | None) -> Callable[[], None]:
        """One is under way, until what is returned is called, once."""
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
