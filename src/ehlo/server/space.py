"""Space: the memory and the disk that all sessions hold together, so that the sum is bounded.

Nothing here knows a body or a session: bytes are reserved, claimed and released.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from queue import SimpleQueue

SMALL = 65_536
"""Bytes of a body up to which it is small: a share of the memory is for those alone."""


@dataclass(slots=True, eq=False)
class Claim:
    """Represents bytes that a session waits for, and that count for its address until `end`."""

    memory: Memory
    size: int
    key: str | None
    then: Callable[[], None]
    """A function to call once the bytes are reserved."""
    total: int
    """The bytes that its address claims, these included."""
    granted: bool = False

    def end(self) -> None:
        """Count the bytes no more for the address, and cancel the claim if it still waits.

        Bytes that were reserved stay so.
        """
        self.memory.end(self)


class Memory:
    """Counts bytes that sessions hold together.

    Claims wait for bytes, and nothing else is reserved meanwhile. The claim whose address claims
    the fewest bytes comes first: a client that claims much waits for the others, not they for it.

    Input that clients send ahead and replies that they do not read count as well. No claim waits
    for those, because the client may itself wait for the claim.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.comfortable: int = limit - limit // 8
        """The bytes above which those that could be on disk go there."""
        self.held: int = 0
        self.claims: list[Claim] = []
        """The claims that wait for bytes, in order."""
        self.leaving = 0
        """The bytes on their way to disk, of those held."""
        self._ahead = 0  # of those held
        self._claimed: dict[str, int] = {}  # by address

    @property
    def excess(self) -> int:
        """The bytes held beyond `comfortable`; negative if there are fewer."""
        return self.held - self.comfortable

    @property
    def lacking(self) -> int:
        """The bytes that should leave for the disk, for claims that wait and for comfort."""
        claimed = sum(claim.size for claim in self.claims)
        return max(self.excess, claimed - self._free) - self.leaving

    @property
    def _free(self) -> int:
        return self.limit - self.held + self._ahead

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes and return whether they were free, and none are claimed."""
        if self.held + size > self.limit or self.claims:
            return False
        self.held += size
        return True

    def count_ahead(self, size: int) -> None:
        """Add bytes (or subtract, if negative) that clients have sent ahead or have not read."""
        self.held += size
        self._ahead += size

    def take(self, size: int) -> None:
        """Count bytes that are held even if they were not free."""
        self.held += size

    def has(self, size: int) -> bool:
        """Return whether a claim would be granted at once."""
        return size <= self._free and not self.claims

    def claim(self, size: int, key: str | None, then: Callable[[], None]) -> Claim | None:
        """Claim `size` bytes for an address (`None` is one of its own).

        They are reserved now (`granted`), or `then` is called when they are, maybe at once.
        Returns `None` if they never can be.
        """
        if size > self.limit:
            return None
        total = size
        if key is not None:
            total = self._claimed[key] = self._claimed.get(key, 0) + size
        claim = Claim(self, size, key, then, total, granted=self.has(size))
        if claim.granted:
            self.held += size
        else:
            insort(self.claims, claim, key=attrgetter("total"))
            self.grant()
        return claim

    def end(self, claim: Claim) -> None:
        """See `Claim.end`. Others may have waited behind it."""
        if claim.key is not None:
            _subtract(self._claimed, claim.key, claim.size)
        if not claim.granted:
            self.claims.remove(claim)
            self.grant()

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        self.held -= size
        if self.claims:
            self.grant()

    def forget(self, size: int) -> None:
        """Release reserved bytes without granting any claim: the server has ended."""
        self.held -= size

    def grant(self) -> None:
        """Grant the claims for which there are bytes now."""
        claims = self.claims
        while claims and claims[0].size <= self._free:
            claim = claims.pop(0)
            self.held += claim.size
            claim.granted = True
            claim.then()


class Disk:
    """Counts the bytes of bodies on disk, in total and by address; a key of `None` is exempt.

    An address may have as many as it leaves free: one alone has half of all, and something is
    left for the next one, however many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._by_address: dict[str, int] = {}
        # Files are closed in any thread, and by the garbage collector, amid anything else
        self._freed: SimpleQueue[tuple[str | None, int]] = SimpleQueue()

    @property
    def held(self) -> int:
        """The bytes on disk."""
        self._settle()
        return self._held

    def has(self, key: str | None, size: int) -> bool:
        """Return whether an address may put `size` more bytes on disk."""
        free = self.limit - self.held - size
        return free >= (0 if key is None else self._by_address.get(key, 0) + size)

    def reserve(self, key: str | None, size: int) -> bool:
        """Reserve `size` bytes for an address; return whether it may have them."""
        if not self.has(key, size):
            return False
        self._held += size
        if key is not None:
            self._by_address[key] = self._by_address.get(key, 0) + size
        return True

    def release(self, key: str | None, size: int) -> None:
        """Release reserved bytes. May be called in any thread, and by a destructor."""
        self._freed.put((key, size))

    def _settle(self) -> None:
        while not self._freed.empty():
            key, size = self._freed.get()
            self._held -= size
            if key is not None:
                _subtract(self._by_address, key, size)


class Stored:
    """Counts the bytes of one file on the disk."""

    __slots__ = ("_disk", "_key", "_size")

    def __init__(self, disk: Disk, key: str | None) -> None:
        self._disk = disk
        self._key = key
        self._size = 0

    def grow(self, size: int) -> bool:
        """Reserve `size` more bytes; return whether there is room for them."""
        if not self._disk.reserve(self._key, size):
            return False
        self._size += size
        return True

    def release(self) -> None:
        """Release all bytes, since the file is closed. May be called in any thread."""
        size, self._size = self._size, 0
        if size:
            self._disk.release(self._key, size)


def _subtract(counts: dict[str, int], key: str, size: int) -> None:
    counts[key] -= size
    if not counts[key]:
        del counts[key]
