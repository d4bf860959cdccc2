"""Limits: how often each client may act, and how many hooks run.

Memory for addresses does not grow with their number. Nothing here knows a socket or an option.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ehlo.net import Networks, Peer, address_key

K = TypeVar("K")


class Exempt:
    """Knows which clients are exempt, and the keys of the others; caches its answers."""

    MOST_KEPT = 4096

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._keys: dict[str, str | None] = {}

    def key(self, peer: Peer) -> str | None:
        """Return the key under which an address is counted; `None` if it is exempt."""
        host = peer.host
        if host in self._keys:
            return self._keys[host]
        if len(self._keys) >= self.MOST_KEPT:
            self._keys.clear()
        key = self._keys[host] = None if peer in self._networks else address_key(host)
        return key


def decrease(counts: dict[K, int], key: K) -> None:
    """Subtract one from the count of `key`, and forget a count of 0."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class Turns:
    """Limits how many hooks run at once, and shares the turns between addresses.

    An address may have one more turn only if it has fewer than are free. So one that takes all it
    can get has a half, two of them have a third each, and a turn is left for the next. Hooks that
    wait are begun in order, the addresses one after the other.
    """

    def __init__(self, most: int) -> None:
        self.free: int = most
        self.are_awaited: bool = False
        self._taken: dict[str, int] = {}
        self._waiting: OrderedDict[str | None, OrderedDict[object, Callable[[], None]]]
        self._waiting = OrderedDict()

    def take(self, key: str | None) -> bool:
        """Take a turn if the address `key` may have one, and return whether it was taken.

        `None` stands for an exempt address.
        """
        if self.free <= 0:
            return False
        if key is not None:
            taken = self._taken.get(key, 0)
            if taken >= self.free:
                return False
            self._taken[key] = taken + 1
        self.free -= 1
        return True

    def wait(self, key: str | None, who: object, begin: Callable[[], None]) -> None:
        """Take a turn for `who` when there is one, and call `begin`."""
        self._waiting.setdefault(key, OrderedDict())[who] = begin
        self.are_awaited = True

    def give_back(self, key: str | None) -> None:
        """Give back a turn of the address `key`; another hook may begin."""
        self.free += 1
        if key is not None:
            decrease(self._taken, key)
        if self.are_awaited:
            self._begin_next()

    def _begin_next(self) -> None:
        for key, waiting in self._waiting.items():
            if self.take(key):
                _, begin = waiting.popitem(last=False)
                self._waiting.move_to_end(key)
                self._note_waiting(key)
                begin()
                return

    def forget(self, key: str | None, who: object) -> bool:
        """Remove `who` from those that wait; return whether it was one of them."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.pop(who, None) is None:
            return False
        self._note_waiting(key)
        return True

    def _note_waiting(self, key: str | None) -> None:
        if not self._waiting[key]:
            del self._waiting[key]
        self.are_awaited = bool(self._waiting)


class FailedLogins:
    """Delays the reply to a failed login: 1, 2, 4, 8, 16 seconds per address.

    It counts the failures of the last ten minutes for a limited number of addresses. The address
    that failed longest ago is forgotten first.
    """

    WINDOW = 600.0
    MOST_DELAY = 16.0
    MOST_ADDRESSES = 10_000
    MOST_FAILURES = 5

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, list[float]] = OrderedDict()

    def note(self, key: str | None) -> None:
        """Count a failure; `None` is an exempt address."""
        if key is None:
            return
        self._by_address[key] = [*self._recent(key)[1 - self.MOST_FAILURES :], self._clock()]
        self._by_address.move_to_end(key)
        if len(self._by_address) > self.MOST_ADDRESSES:
            self._by_address.popitem(last=False)

    def delay(self, key: str | None) -> float:
        """Return the seconds until the reply to a failure that was counted."""
        failures = 1 if key is None else len(self._recent(key))
        return min(2.0 ** max(failures - 1, 0), self.MOST_DELAY)

    def _recent(self, key: str) -> list[float]:
        now = self._clock()
        return [at for at in self._by_address.get(key, ()) if now - at < self.WINDOW]


class MemoryCounter:
    """Counts events by key over about the last `window` seconds, for at most `most` keys.

    Time is divided into stretches of `window` seconds. A count is that of the current stretch, plus
    a share of the previous one, as if its events were spread evenly over it. A client that uses up
    a limit at the end of a stretch may do so again by the end of the next one; `window` seconds
    never have more than twice the limit.

    When there are too many keys, the `EXAMINED` keys that came or were examined longest ago are
    examined, and the least busy one is forgotten. So a flood of new addresses pushes out only
    itself: a busy address is forgotten only among others that are as busy.
    """

    EXAMINED = 8

    def __init__(self, clock: Callable[[], float], most: int = 10_000) -> None:
        self._clock = clock
        self._most = most
        # By key: the number of the stretch, the count in it, and that in the one before
        self._by_key: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def add(self, key: str, amount: int, window: float) -> int:
        """Add `amount` to the count of `key` (0 to look, -1 to undo), and return the count.

        Use the same window for a key each time.
        """
        time = self._clock()
        now, found = int(time // window), self._by_key.get(key)
        begun, count, before = found or (now, 0, 0)
        if begun != now:
            count, before = 0, count if begun == now - 1 else 0
        count += amount
        if amount:
            if found is None:
                self._make_room()
            self._by_key[key] = (now, count, before)
        return count + math.ceil(before * (1 - time % window / window)) if before else count

    def _make_room(self) -> None:
        keys = self._by_key
        if len(keys) < self._most:
            return
        oldest = [key for key, _ in zip(keys, range(self.EXAMINED), strict=False)]
        del keys[min(oldest, key=lambda key: sum(keys[key][1:]))]
        for key in oldest:
            if key in keys:
                keys.move_to_end(key)


@dataclass(eq=False)
class Rate:
    """Limits how often an address may act within `window` seconds; 0 is no limit.

    A key of `None` is exempt.
    """

    counter: MemoryCounter
    most: int
    window: float

    def spent(self, key: str | None) -> bool:
        """Return whether the limit is reached."""
        if key is None or not self.most:
            return False
        return self.counter.add(key, 0, self.window) >= self.most

    def note(self, key: str | None) -> None:
        """Count one action."""
        if key is not None and self.most:
            self.counter.add(key, 1, self.window)

    def admit(self, key: str | None) -> bool:
        """Count one action, unless the limit is reached; a rejected one does not count."""
        if key is None or not self.most:
            return True
        if self.counter.add(key, 1, self.window) <= self.most:
            return True
        self.counter.add(key, -1, self.window)
        return False


@dataclass(eq=False)
class Attempts(Rate):
    """Limits how often an address may fail at something that takes time.

    A client must not begin many attempts at once and have all of them tried before one fails, nor
    leave before one has failed. So each attempt counts as a failure until it has ended otherwise.
    """

    under_way: dict[str, int] = field(default_factory=dict)

    def may_begin(self, key: str | None) -> bool:
        """Return whether the limit holds even if all attempts under way fail."""
        if key is None or not self.most:
            return True
        failed = self.counter.add(key, 0, self.window)
        return failed + self.under_way.get(key, 0) < self.most

    def begin(self, key: str | None) -> None:
        """Count an attempt as under way."""
        if key is not None:
            self.under_way[key] = self.under_way.get(key, 0) + 1

    def end(self, key: str | None, *, failed: bool) -> None:
        """End an attempt that was under way, and count it as a failure if it has `failed`."""
        if key is not None:
            decrease(self.under_way, key)
        if failed:
            self.note(key)
