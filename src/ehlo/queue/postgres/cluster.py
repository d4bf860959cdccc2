"""The engine of a queue on PostgreSQL, and the ledger of its consumer.

A process has two connections that accept, one for claims and one for outcomes, one that rings and
listens, and up to three for large bodies; each is opened when it is first used.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from ehlo.message import Message, Spool, spool_directory
from ehlo.queue.delivering import Delivering
from ehlo.queue.engine import Deliverer, Ledger
from ehlo.queue.entries import Arrival, Claimed, Due, Haul, Levels, Settled
from ehlo.queue.facts import body_of
from ehlo.queue.postgres import taking
from ehlo.queue.postgres.batches import Batches, Numbers, Packed, store
from ehlo.queue.postgres.bell import Bell
from ehlo.queue.postgres.cable import Cable, Pg
from ehlo.queue.postgres.schema import LARGE, check_durable, ensure_schema
from ehlo.queue.timing import Persistence
from ehlo.queue.urls import DatabaseURL
from ehlo.sqlite.errors import StoreError

_SLOWEST: Final = 1 << 20  # bytes a second of a large body
T = TypeVar("T")
_AGAIN: Final = 1.0  # seconds until deliveries that have failed begin again

_Claim = Callable[[Pg], Awaitable[tuple[list[Due], dict[int, list[Due]]]]]

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Cluster:
    """Holds the connections of one process to a database that any number of processes use."""

    def __init__(self, url: DatabaseURL) -> None:
        self._url = url
        take = _prepare_to_accept if url.is_pooled else _prepare_to_take
        self._accepting = [Cable(url, _prepare_to_accept) for _ in range(2)]
        self._writing = [Cable(url, _prepare_to_accept) for _ in range(2)]  # large bodies
        self._claiming = Cable(url, take)
        self._ending = Cable(url, take)
        self._reading = Cable(url, take)  # large bodies
        self._bell = Bell(url)
        self._numbers = Numbers()
        self._batches = Batches(self._accepting, self._numbers, self._stored)
        self._delivering: Delivering | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._unread: list[Settled] = []  # claimed, and then the connection was lost

    # -- accepting ---------------------------------------------------------------------------------

    async def start(self, *, accepts: bool, threshold: int) -> None:  # noqa: ARG002  as `Engine`
        """Connect, and make or check the tables. Raises `StoreError`."""
        cable = self._accepting[0] if accepts else self._claiming
        await cable.do(lambda connection: connection.fetchval("SELECT 1"))

    async def put(self, arrival: Arrival, message: Message) -> None:
        """Store a message, as `Engine` says."""
        digest = hashlib.sha256(arrival.seed)
        if message.size > LARGE:
            cable = min(self._writing, key=lambda each: each.waiting)
            more = message.size / _SLOWEST
            chunks = _chunks(message)
            await cable.do(
                partial(self._write, arrival=arrival, chunks=chunks, digest=digest), more
            )
            self._stored()
            return
        if not message.spooled:
            body = message.body
        else:
            body = await asyncio.to_thread(lambda: b"".join(body_of(message)))
        digest.update(body)
        await self._batches.put(Packed(arrival, digest.hexdigest(), body))

    async def _write(
        self,
        connection: Pg,
        arrival: Arrival,
        chunks: Iterator[bytes],
        digest: hashlib._Hash,
    ) -> None:
        """Store a message with a large body, chunk by chunk, in one transaction."""
        (number,) = await self._numbers.take(connection, 1)
        async with connection.transaction():
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '30s'")
            part = 0
            while chunk := await _with_file(arrival.id, next, chunks, b""):
                digest.update(chunk)
                await connection.execute(
                    "INSERT INTO ehlo_bodies VALUES ($1, $2, $3)", number, part, chunk
                )
                part += 1
            await store(connection, [number], [Packed(arrival, digest.hexdigest(), None)])

    def _stored(self) -> None:
        self._bell.ring()
        self._wake()

    # -- delivering --------------------------------------------------------------------------------

    def deliver(self, make: Callable[[Ledger], Deliverer]) -> None:
        """Begin to deliver."""
        self._delivering = Delivering(make(self))
        self._keeping = asyncio.create_task(self._keep_delivering(make), name="ehlo queue keeper")
        self._bell.listen(self._wake)

    async def _keep_delivering(self, make: Callable[[Ledger], Deliverer]) -> None:
        """Deliver on after a failure of the consumer itself; its leases run out."""
        while self._delivering is not None:
            await self._delivering.ended()
            if (failure := self._delivering.failure) is None:
                return
            logger.error("delivering from %s failed", self._url.name, exc_info=failure)
            await asyncio.sleep(_AGAIN)
            self._delivering = Delivering(make(self))

    def _wake(self) -> None:
        if self._delivering is not None:
            self._delivering.wake()

    async def claim(
        self, owner: str, most: int, lease: float, patience: Persistence, held: Sequence[int]
    ) -> Haul:
        """Return messages that are due, as `Ledger` says."""
        if self._unread:
            await self.settle(self._unread, owner, durable=False)
            self._unread = []
        most_attempts = min(patience.max_attempts, 2**31 - 1)
        wanted = partial(
            taking.claim,
            owner=owner,
            most=most,
            lease=lease,
            most_attempts=most_attempts,
            held=held,
        )
        return await self._claiming.do(partial(self._claim, wanted=wanted, most=most))

    async def _claim(self, connection: Pg, wanted: _Claim, most: int) -> Haul:
        dead, due = await wanted(connection)
        try:
            return await taking.read(connection, dead, due, most)
        except BaseException:
            those = [each for deliveries in due.values() for each in deliveries]
            self._unread += [Settled(each.number, "waiting", uncounted=True) for each in those]
            raise

    async def load(self, claimed: Claimed) -> bytes | Spool:
        """Return a body that is not small. Raises `OSError`, too."""
        if claimed.place == "row":
            body = await self._reading.do(
                lambda connection: connection.fetchval(
                    "SELECT body FROM ehlo_messages WHERE number = $1", claimed.number
                )
            )
            if not isinstance(body, bytes):
                raise StoreError(f"{self._url.name}: the body of {claimed.id} is gone")
            return body
        spool = Spool(spool_directory(""))
        await self._reading.do(
            partial(self._read, claimed=claimed, spool=spool), claimed.size / _SLOWEST
        )
        if spool.size != claimed.size:
            raise StoreError(f"{self._url.name}: the body of {claimed.id} is not complete")
        return spool

    async def _read(self, connection: Pg, claimed: Claimed, spool: Spool) -> None:
        chunk = "SELECT data FROM ehlo_bodies WHERE message = $1 AND part = $2"
        part = 0
        while data := await connection.fetchval(chunk, claimed.number, part):
            await _with_file(claimed.id, spool.write, [data])
            part += 1

    async def renew(self, numbers: Sequence[int], owner: str, lease: float) -> None:
        """Extend leases, as `Ledger` says."""
        if numbers:
            await self._ending.do(partial(taking.renew, numbers=numbers, owner=owner, lease=lease))

    async def settle(
        self,
        settled: Sequence[Settled],
        owner: str,
        *,
        durable: bool,  # noqa: ARG002  bodies are in the database
    ) -> None:
        """Note the ends of attempts, as `Ledger` says."""
        await self._ending.do(partial(taking.settle, settled=settled, owner=owner))

    async def purge(self, keep: float) -> None:
        """Delete what ended long ago, as `Ledger` says."""
        while await self._reading.do(partial(taking.purge, keep=keep)):
            pass  # others use the connection in between

    async def levels(self) -> Mapping[str, Levels]:
        """Return what the database holds."""
        return {self._url.name: await self._reading.do(taking.levels)}

    # -- the end -----------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Claim nothing more, and return when what is under way has ended."""
        if self._delivering is not None:
            self._delivering.stop()
            await self._delivering.ended()

    async def close(self) -> None:
        """Cancel what is under way, and end all connections."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._delivering is not None:
            await self._delivering.abandon()
        await self._bell.close()
        cables = [*self._accepting, *self._writing, self._claiming, self._ending, self._reading]
        await asyncio.gather(*(each.close() for each in cables))


async def _prepare_to_accept(connection: Pg) -> None:
    """Set nothing: behind a pooler, another client would have it next."""
    await check_durable(connection)
    await ensure_schema(connection)


async def _prepare_to_take(connection: Pg) -> None:
    await ensure_schema(connection)
    # What the planner knows of a queue is always old: it was empty, or it was full.
    # Where it has to read all rows, that seems so dear to it that it would compile the query
    await connection.execute(
        "SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"
    )


async def _with_file(message_id: str, work: Callable[..., T], *values: object) -> T:
    """Return the result of work on a body on this machine, in a thread.

    Raises `StoreError`: an `OSError` would look like one of the connection.
    """
    try:
        return await asyncio.to_thread(work, *values)
    except OSError as error:
        wrong = f"the body of {message_id}: {error.strerror or error}"
        raise StoreError(f"{wrong}; check the directory for temporary files") from error


def _chunks(message: Message) -> Iterator[bytes]:
    """Yield a body in chunks of `LARGE` bytes."""
    held: list[bytes] = []
    size = 0
    for chunk in body_of(message):
        held.append(chunk)
        size += len(chunk)
        if size >= LARGE:
            whole = b"".join(held)
            yield whole[:LARGE]
            held, size = [whole[LARGE:]], size - LARGE
    if size:
        yield b"".join(held)
