"""Who is let in, and how much all of them together may hold."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from ehlo.net import Networks, Peer, address_key

__all__ = [
    "Claim",
    "Connections",
    "Exempt",
    "FailedLogins",
    "Memory",
    "Turns",
]


class Exempt:
    """What a client is counted under, and whether it is at all; some answers are kept in mind."""

    __slots__ = ("_keys", "_networks")

    MOST_KEPT = 4096

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._keys: dict[str, str | None] = {}

    def key(self, peer: Peer) -> str | None:
        """The address as it is counted; `None` for one that is not."""
        host = peer.host
        if host in self._keys:
            return self._keys[host]
        if len(self._keys) >= self.MOST_KEPT:
            self._keys.clear()
        key = self._keys[host] = None if peer in self._networks else address_key(host)
        return key


class Connections:
    """How many there are, in all and from one address."""

    __slots__ = ("_by_address", "_count", "_most", "_most_per_address")

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._count = 0
        self._by_address: dict[str, int] = {}

    def admit(self, key: str | None) -> bool:
        """Count a connection in, unless there are too many; `key` is `None` for an exempt one."""
        if self._count >= self._most:
            return False
        if key is not None:
            count = self._by_address.get(key, 0)
            if count >= self._most_per_address:
                return False
            self._by_address[key] = count + 1
        self._count += 1
        return True

    def release(self, key: str | None) -> None:
        """Count out a connection that was admitted under `key`."""
        self._count -= 1
        if key is not None:
            left = self._by_address[key] - 1
            if left:
                self._by_address[key] = left
            else:
                del self._by_address[key]


class Claim:
    """Octets that somebody waits for."""

    __slots__ = ("_memory", "_then", "octets")

    def __init__(self, memory: Memory, octets: int, then: Callable[[], None]) -> None:
        self._memory = memory
        self._then = then
        self.octets = octets

    def grant(self) -> None:
        """They are reserved now."""
        self._then()

    def cancel(self) -> None:
        """Nobody waits for them any more. They must not have been granted."""
        self._memory.withdraw(self)


class Memory:
    """Octets held in all sessions together.

    Who waits is served in turn, and before anybody who does not. What clients send ahead, or do not
    read, is held, too; but nobody waits for it to go, who may be what it waits for.
    """

    __slots__ = ("_ahead", "_claims", "comfortable", "held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.comfortable = limit - limit // 8
        """With more held no message should be begun: the last eighth is for those under way."""
        self.held = 0
        self._ahead = 0  # of those held
        self._claims: deque[Claim] = deque()

    @property
    def excess(self) -> int:
        """Octets held beyond that, or fewer than none."""
        return self.held - self.comfortable

    def reserve(self, octets: int) -> bool:
        """Take `octets` from the budget, if they are there."""
        if self.held + octets > self.limit or self._claims:
            return False
        self.held += octets
        return True

    def reserve_due(self, octets: int) -> bool:
        """The same for who would wait for them."""
        if self.held - self._ahead + octets > self.limit or self._claims:
            return False
        self.held += octets
        return True

    def count_ahead(self, octets: int) -> None:
        """Count octets more, or fewer, that clients have sent ahead or have not read."""
        self.held += octets
        self._ahead += octets

    def take(self, octets: int) -> None:
        """Count octets that are held whether they are there or not."""
        self.held += octets

    def claim(self, octets: int, then: Callable[[], None]) -> Claim | None:
        """Call `then` once `octets` are reserved, later; `None` when they could never be."""
        if octets > self.limit:
            return None
        claim = Claim(self, octets, then)
        self._claims.append(claim)
        return claim

    def release(self, octets: int) -> None:
        """Give back what was reserved."""
        self.held -= octets
        if self._claims:
            self._grant()

    def withdraw(self, claim: Claim) -> None:
        """It does not wait any more; perhaps the others waited behind it."""
        self._claims.remove(claim)
        self._grant()

    def forget(self, octets: int) -> None:
        """Give back what was reserved, when nobody is left who could wait for it."""
        self.held -= octets

    def _grant(self) -> None:
        claims = self._claims
        while claims and self.held - self._ahead + claims[0].octets <= self.limit:
            claim = claims.popleft()
            self.held += claim.octets
            claim.grant()


class Turns:
    """How many may run at once; the others wait for their turn, in order."""

    __slots__ = ("_waiting", "are_awaited", "free")

    def __init__(self, most: int) -> None:
        self.free = most  # who takes one counts it here, and back when it has ended
        self.are_awaited = False
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()

    def wait(self, who: object, begin: Callable[[], None]) -> None:
        """None is free: call `begin` when it is the turn of `who`."""
        self._waiting[who] = begin
        self.are_awaited = True

    def next(self) -> None:
        """One has ended: whoever begins now takes it."""
        _, begin = self._waiting.popitem(last=False)
        self.are_awaited = bool(self._waiting)
        begin()

    def forget(self, who: object) -> None:
        """It does not wait any more."""
        self._waiting.pop(who, None)  # it may have been forgotten already
        self.are_awaited = bool(self._waiting)


class FailedLogins:
    """How long an address waits for its answer after a wrong login: 1, 2, 4, 8, 16 seconds.

    It counts the failures of the last ten minutes, of as many addresses as are kept in mind; the
    one that failed longest ago is forgotten first.
    """

    __slots__ = ("_by_address", "_clock")

    WINDOW = 600.0
    MOST_DELAY = 16.0
    MOST_ADDRESSES = 10_000
    MOST_FAILURES = 5

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, list[float]] = OrderedDict()

    def delay(self, key: str | None) -> float:
        """Note a failure; the seconds until its answer. `None` is an exempt address."""
        if key is None:
            return 1.0
        now = self._clock()
        recent = [at for at in self._by_address.get(key, []) if now - at < self.WINDOW]
        recent = [*recent[-self.MOST_FAILURES :], now]
        self._by_address[key] = recent
        self._by_address.move_to_end(key)
        if len(self._by_address) > self.MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        return min(2.0 ** (len(recent) - 1), self.MOST_DELAY)
