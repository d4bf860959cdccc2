"""Batches: messages that wait together are stored by one statement, over two connections.

While one commit waits for the disk, the next batch is sent; so a flush serves many messages. If a
batch fails because of its content, each message is tried alone, so that one does not fail others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from ehlo.queue.entries import Arrival
from ehlo.queue.postgres.cable import Cable, Pg
from ehlo.queue.postgres.schema import BLOCK
from ehlo.sqlite.errors import DiskFullError, clear_frames

_MOST_AT_ONCE: Final = 500  # messages
_MOST_BYTES: Final = 4 << 20
# All recipients of a message are due at once, so that no claim takes only some of them. The commit
# waits for the disk whatever the session has set: a pooler may have given it to another client
# before, and its configuration may have changed
_STORE: Final = """
WITH asked AS (
    SELECT set_config('synchronous_commit', 'on', true)
    WHERE current_setting('synchronous_commit') IN ('off', 'local')
), stored AS (
    INSERT INTO ehlo_messages(number, id, digest, sender, facts, size, trace, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[],
                         $6::bigint[], $7::bytea[], $8::bytea[])
)
INSERT INTO ehlo_deliveries(message, place, recipient, due)
SELECT s.*, statement_timestamp() FROM (SELECT count(*) FROM asked) AS a,
    unnest($9::bigint[], $10::integer[], $11::text[]) AS s(message, place, recipient)
"""


class Numbers:
    """Numbers messages: a process takes a block of numbers at a time."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    async def take(self, connection: Pg, count: int) -> list[int]:
        """Return so many numbers that no process has had."""
        found: list[int] = []
        while len(found) < count:
            if self._next == self._end:
                begin = await connection.fetchval("SELECT nextval('ehlo_numbers')")
                self._next, self._end = begin, begin + BLOCK
            more = range(self._next, min(self._end, self._next + count - len(found)))
            self._next = more.stop
            found += more
        return found


class Packed(NamedTuple):
    """A message as it is stored; without a `body`, that is in chunks."""

    arrival: Arrival
    digest: str
    body: bytes | None


async def store(connection: Pg, numbers: Sequence[int], batch: Sequence[Packed]) -> None:
    """Store messages, each under its number, in one statement."""
    rows = [
        (number, place, recipient)
        for number, each in zip(numbers, batch, strict=True)
        for place, recipient in enumerate(each.arrival.recipients)
    ]
    arrivals = [each.arrival for each in batch]
    await connection.execute(
        _STORE,
        numbers,
        [each.id for each in arrivals],
        [each.digest for each in batch],
        [each.sender for each in arrivals],
        [each.facts for each in arrivals],
        [each.size for each in arrivals],
        [each.trace for each in arrivals],
        [each.body for each in batch],
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
    )


class _Waiting(NamedTuple):
    packed: Packed
    future: asyncio.Future[None]


def _settle(batch: list[_Waiting], error: Exception | None = None) -> None:
    """Tell those who put messages that they are on disk, or that they are not."""
    for each in batch:
        if each.future.done():
            continue
        if error is None:
            each.future.set_result(None)
        else:
            each.future.set_exception(error)


class Batches:
    """Stores messages; `stored` is called after each commit."""

    def __init__(
        self, cables: Sequence[Cable], numbers: Numbers, stored: Callable[[], None]
    ) -> None:
        self._free = list(cables)
        self._numbers = numbers
        self._stored = stored
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, packed: Packed) -> None:
        """Return when a message is on disk. Raises `StoreError`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(packed, future))
        if self._free:
            task = asyncio.create_task(self._work(self._free.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await future
        finally:
            del future  # its exception refers to this frame, and the frame to the body

    async def _work(self, cable: Cable) -> None:
        """Store all that waits, over one cable."""
        try:
            while self._waiting:
                await self._store(cable, self._next())
        finally:
            self._free.append(cable)

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _MOST_AT_ONCE and size < _MOST_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].packed.body or b"")
        return batch

    async def _store(self, cable: Cable, batch: list[_Waiting]) -> None:
        error = await self._tried(cable, batch)
        if error is None:
            self._stored()
            _settle(batch)
        # Without a connection, another try would wait as long
        elif len(batch) > 1 and cable.is_connected and not isinstance(error, DiskFullError):
            while batch:
                await self._store(cable, [batch.pop(0)])
        else:
            clear_frames(error)  # which hold the whole batch
            _settle(batch, error)
        del error, batch  # the frames of the traceback refer to this one from Python 3.12 on

    async def _tried(self, cable: Cable, batch: list[_Waiting]) -> Exception | None:
        """Store messages, or return the exception, which is raised where each message is."""
        try:
            await cable.do(partial(self._insert, batch=batch))
        except Exception as error:  # noqa: BLE001  see above
            return error
        return None

    async def _insert(self, connection: Pg, batch: list[_Waiting]) -> None:
        numbers = await self._numbers.take(connection, len(batch))
        await store(connection, numbers, [each.packed for each in batch])
