"""Limits: which clients are admitted, and how often each may act.

Memory for addresses does not grow with their number. Nothing here knows a socket or an option.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ehlo.net import Networks, Peer, address_key, packed

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


class Table:
    """Counts the places for connections in all workers of a server, each in its own two numbers."""

    def __init__(self, numbers: memoryview[int], own: int) -> None:
        """`numbers` are shared by all workers: for each, the places there are and those taken."""
        self._numbers = numbers
        self._own = 2 * own

    def open(self, most: int) -> None:
        """Record how many places there are in this worker."""
        self._numbers[self._own] = most

    def take(self, count: int) -> None:
        """Record how many places are taken in this worker."""
        self._numbers[self._own + 1] = count

    @property
    def is_full(self) -> bool:
        """Whether no worker has a place left."""
        numbers = self._numbers
        return all(most <= taken for most, taken in zip(numbers[::2], numbers[1::2], strict=True))


class Connections:
    """Counts concurrent connections: in total, per address, and per network of IPv6 addresses.

    A site has many networks of 64 bits. So its connections are counted for each wider network, too:
    each has twice as many places as the one before, but at most a quarter, a half and
    three quarters of all.
    """

    WIDER = (7, 6, 4)  # bytes of the prefixes /56, /48 and /32

    def __init__(self, most: int, most_per_address: int) -> None:
        self.most = most
        self.count = 0
        self._by_address: dict[str | bytes, int] = {}
        self._most_per_address = most_per_address
        self._most_wider = [
            max(most_per_address, min(most_per_address << step, most * step // 4))
            for step in range(1, len(self.WIDER) + 1)
        ]
        self._table: Table | None = None
        self.on_release: Callable[[], None] | None = None
        """Called once, after the next connection that ends."""

    def share(self, table: Table) -> None:
        """Count in the table of all workers, too."""
        table.open(self.most)
        self._table = table

    @property
    def is_shared(self) -> bool:
        """Whether other workers accept clients, too."""
        return self._table is not None

    def may_accept(self, opening: int) -> bool:
        """Return whether to accept one more client, while `opening` are not counted yet.

        If no worker has a place, it is accepted to be turned away.
        """
        table = self._table
        return table is None or self.count + opening < self.most or table.is_full

    def admit(self, key: str | None) -> bool:
        """Count a connection unless there are too many; `key` is `None` for an exempt address."""
        if self.count >= self.most:
            return False
        if key is not None:
            counts = self._by_address
            count = counts.get(key, 0)
            if count >= self._most_per_address:
                return False
            if ":" in key:
                wider = self._networks(key)
                for network, most in zip(wider, self._most_wider, strict=False):
                    if counts.get(network, 0) >= most:
                        return False
                for network in wider:
                    counts[network] = counts.get(network, 0) + 1
            counts[key] = count + 1
        self.count += 1
        if self._table is not None:
            self._table.take(self.count)
        return True

    def release(self, key: str | None) -> None:
        """Remove a connection that was admitted under `key` from the count."""
        self.count -= 1
        if self._table is not None:
            self._table.take(self.count)
        if key is not None:
            _decrease(self._by_address, key)
            for network in self._networks(key) if ":" in key else ():
                _decrease(self._by_address, network)
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release()

    def _networks(self, key: str) -> list[bytes]:
        """Return the wider networks of a key, as the first bytes of their addresses."""
        address = packed(key)
        return [] if address is None else [address[:size] for size in self.WIDER]


def _decrease(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class Turns:
    """Limits how many hooks run at once; the others wait for their turn, in order."""

    def __init__(self, most: int) -> None:
        self.free = most
        """The number of hooks that may begin; a hook subtracts one, and adds it when it ends."""
        self.are_awaited = False
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()

    def wait(self, who: object, begin: Callable[[], None]) -> None:
        """Call `begin` when it is the turn of `who`, since none is free."""
        self._waiting[who] = begin
        self.are_awaited = True

    def next(self) -> None:
        """Begin the hook that has waited longest, since another has ended."""
        _, begin = self._waiting.popitem(last=False)
        self.are_awaited = bool(self._waiting)
        begin()

    def forget(self, who: object) -> bool:
        """Remove `who` from the waiting ones; return whether it was there."""
        waited = self._waiting.pop(who, None) is not None
        self.are_awaited = bool(self._waiting)
        return waited


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
        return count + math.ceil(before * (1 - within / window))

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

    def __bool__(self) -> bool:
        return self.most > 0

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
        """Count an attempt that was under way as a failure, or no more."""
        if key is not None:
            _decrease(self.under_way, key)
        if failed:
            self.note(key)
