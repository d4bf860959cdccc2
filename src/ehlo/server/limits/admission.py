"""Admission: which clients are accepted, and how much all sessions together may hold."""

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
    """Knows the key under which a client is counted, if it is; remembers some answers."""

    __slots__ = ("_keys", "_networks")

    MOST_KEPT = 4096

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._keys: dict[str, str | None] = {}

    def key(self, peer: Peer) -> str | None:
        """Return the address as it is counted; `None` for one that is exempt."""
        host = peer.host
        if host in self._keys:
            return self._keys[host]
        if len(self._keys) >= self.MOST_KEPT:
            self._keys.clear()
        key = self._keys[host] = None if peer in self._networks else address_key(host)
        return key


class Connections:
    """Counts connections, in all and per address."""

    __slots__ = ("_by_address", "_count", "_most", "_most_per_address")

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._count = 0
        self._by_address: dict[str, int] = {}

    def admit(self, key: str | None) -> bool:
        """Count a connection, unless there are too many; `key` is `None` for an exempt address."""
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
        """Count a connection no more that was admitted under `key`."""
        self._count -= 1
        if key is not None:
            left = self._by_address[key] - 1
            if left:
                self._by_address[key] = left
            else:
                del self._by_address[key]


class Claim:
    """Is a number of bytes that something waits for."""

    __slots__ = ("_memory", "_then", "size")

    def __init__(self, memory: Memory, size: int, then: Callable[[], None]) -> None:
        self._memory = memory
        self._then = then
        self.size = size

    def grant(self) -> None:
        """Call what waits: the bytes are reserved now."""
        self._then()

    def cancel(self) -> None:
        """Withdraw the claim, which must not have been granted."""
        self._memory.withdraw(self)


class Memory:
    """Counts the bytes held in all sessions together.

    Claims are served in turn, and before any reservation. What clients send ahead, or do not read,
    is held, too; but no claim waits for it to go, since that client may wait for the claim.
    """

    __slots__ = ("_ahead", "claims", "comfortable", "held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.comfortable = limit - limit // 8
        """With more held, no message should begin: the last eighth is for those under way."""
        self.held = 0
        self._ahead = 0  # of those held
        self.claims: deque[Claim] = deque()
        """What waits for bytes: nothing is reserved before it, and `grant` serves it."""

    @property
    def excess(self) -> int:
        """Bytes held beyond what is comfortable; negative if there are fewer."""
        return self.held - self.comfortable

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes, and return whether they were free."""
        if self.held + size > self.limit or self.claims:
            return False
        self.held += size
        return True

    def reserve_due(self, size: int) -> bool:
        """Reserve `size` bytes for something that would claim them otherwise."""
        if self.held - self._ahead + size > self.limit or self.claims:
            return False
        self.held += size
        return True

    def count_ahead(self, size: int) -> None:
        """Count bytes more, or fewer, that clients have sent ahead or have not read."""
        self.held += size
        self._ahead += size

    def take(self, size: int) -> None:
        """Count bytes that are held whether they are free or not."""
        self.held += size

    def claim(self, size: int, then: Callable[[], None]) -> Claim | None:
        """Call `then` once `size` bytes are reserved, later; `None` if they never can be."""
        if size > self.limit:
            return None
        claim = Claim(self, size, then)
        self.claims.append(claim)
        return claim

    def release(self, size: int) -> None:
        """Release what was reserved."""
        self.held -= size
        if self.claims:
            self.grant()

    def withdraw(self, claim: Claim) -> None:
        """Remove a claim; others may have waited behind it."""
        self.claims.remove(claim)
        self.grant()

    def forget(self, size: int) -> None:
        """Release what was reserved, without granting any claim: the server has ended."""
        self.held -= size

    def grant(self) -> None:
        """Grant the claims for which there are bytes now."""
        claims = self.claims
        while claims and self.held - self._ahead + claims[0].size <= self.limit:
            claim = claims.popleft()
            self.held += claim.size
            claim.grant()


class Turns:
    """Limits how many hooks run at once; the others wait for their turn, in order."""

    __slots__ = ("_waiting", "are_awaited", "free")

    def __init__(self, most: int) -> None:
        self.free = most
        """How many may begin. What begins subtracts one, and adds it when it has ended."""
        self.are_awaited = False
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()

    def wait(self, who: object, begin: Callable[[], None]) -> None:
        """Call `begin` when it is the turn of `who`, since none is free."""
        self._waiting[who] = begin
        self.are_awaited = True

    def next(self) -> None:
        """Begin what has waited longest, since one has ended."""
        _, begin = self._waiting.popitem(last=False)
        self.are_awaited = bool(self._waiting)
        begin()

    def forget(self, who: object) -> None:
        """Remove `who` from those that wait, if it is there."""
        self._waiting.pop(who, None)
        self.are_awaited = bool(self._waiting)


class FailedLogins:
    """Delays the reply to a failed login: 1, 2, 4, 8, 16 seconds per address.

    It counts the failures of the last ten minutes, for a limited number of addresses; the one that
    failed longest ago is forgotten first.
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
        """Count a failure; return the seconds until its reply. `None` is an exempt address."""
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
