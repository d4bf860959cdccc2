"""Places for connections: in all, per address, per IPv6 network, and in the workers of a server.

Nothing here knows a socket or an option.
"""

from __future__ import annotations

from collections.abc import Callable

from ehlo.net import packed
from ehlo.server.limits import decrease


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
    def total(self) -> tuple[int, int]:
        """The places in all workers, and those taken."""
        return sum(self._numbers[::2]), sum(self._numbers[1::2])

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
        self.count: int = 0
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

    @property
    def excess(self) -> int:
        """The connections beyond nine tenths of all places, of which this worker has its part."""
        most, count = self.most, self.count
        if self._table is not None:
            most, count = self._table.total
        beyond = count - most + max(1, most // 10)
        return -(-beyond * self.count // count) if beyond > 0 else 0

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
            decrease(self._by_address, key)
            for network in self._networks(key) if ":" in key else ():
                decrease(self._by_address, network)
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release()

    def _networks(self, key: str) -> list[bytes]:
        """Return the wider networks of a key, as the first bytes of their addresses."""
        address = packed(key)
        return [] if address is None else [address[:size] for size in self.WIDER]
