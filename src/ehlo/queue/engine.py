"""The engines: what a queue, its consumers and a person ask of a database, SQLite or PostgreSQL.

Whatever waits for a database raises `StoreError`, and `DiskFullError` if there is no room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from ehlo.message import Message, Spool
from ehlo.queue.entries import Act, Arrival, Claimed, Haul, Levels, Listed, Settled, State
from ehlo.queue.timing import Persistence


class Ledger(Protocol):
    """Defines what a consumer asks of one database, whose clock decides what is due."""

    async def claim(
        self, owner: str, most: int, lease: float, patience: Persistence, held: Sequence[int]
    ) -> Haul:
        """Return up to `most` messages that are due, leased. An attempt counts from now on.

        The deliveries in `held` are under way here: they are left alone, even if their lease has
        run out.
        """

    async def load(self, claimed: Claimed) -> bytes | Spool:
        """Return the body of a message that `claim` has left out. Raises `OSError`, too."""

    async def renew(self, numbers: Sequence[int], owner: str, lease: float) -> None:
        """Extend the leases of deliveries that are under way."""

    async def settle(self, settled: Sequence[Settled], owner: str, *, durable: bool) -> None:
        """Note what became of deliveries that `owner` has leased.

        A message without further deliveries is deleted. A delivery that is not the owner's any
        more is left as it is. If `durable`, all of it is on disk afterwards.
        """

    async def purge(self, keep: float) -> None:
        """Delete what has failed or died more than `keep` seconds ago."""


class Reserved(NamedTuple):
    """A place that a consumer keeps for a message that is put now, leased from the beginning."""

    owner: str
    lease: float
    """In seconds."""
    receive: Callable[[Claimed | None], object]
    """Must be called once, with the message when it is stored, or with `None` if it is not."""


class Deliverer(Protocol):
    """Defines what an engine asks of a consumer."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing is due in future either."""

    async def run(self) -> None:
        """Deliver until `stop` is called and all attempts have ended."""

    def reserve(self) -> Reserved | None:
        """Return a place for a message that is put now; `None` if it has to wait for its claim."""

    def wake(self) -> None:
        """Look now: a message was put. Must be called in the loop's thread."""

    def stop(self) -> None:
        """Claim nothing more, and let what is under way end."""


class Engine(Protocol):
    """Defines what a queue asks of its database."""

    async def start(self, *, accepts: bool, threshold: int) -> None:
        """Open the database.

        If the process `accepts` mail, the database must be able to store it. Bodies over
        `threshold` bytes are large.
        """

    async def put(self, arrival: Arrival, message: Message) -> None:
        """Store a message, and a delivery for each recipient; it is on disk afterwards."""

    def deliver(self, make: Callable[[Ledger], Deliverer]) -> None:
        """Begin to deliver, by a consumer for each database."""

    async def levels(self) -> Mapping[str, Levels]:
        """Return what it holds, by the name of each database that this process has open."""

    async def stop(self) -> None:
        """Claim nothing more, and return when what is under way has ended."""

    async def close(self) -> None:
        """Cancel what is under way, give back its leases, and close the database."""


class Books(Protocol):
    """Defines what a person asks of a queue, in a process of their own. Nothing here is async."""

    def now(self) -> float:
        """Return the time of the database in seconds since the epoch."""

    def listed(
        self, states: Sequence[State] = (), message_id: str | None = None
    ) -> Iterable[Listed]:
        """Yield deliveries by state (all without one) or by the id of their message.

        The oldest are first. A slow reader keeps no transaction open.
        """

    def act(self, what: Act, message_id: str | None) -> int:
        """Retry, hold or drop the deliveries of a message, or with `None` of all that have ended.

        `retry` begins again with no attempts, `hold` stops what waits, and `drop` deletes. What is
        under way is left alone, except by `drop`. Returns how many have changed.
        """

    def content(self, message_id: str) -> Iterator[bytes]:
        """Yield a message as it came, with its trace field, in chunks. Raises `LookupError`.

        Raises `StoreError` if not all of it can be read.
        """
