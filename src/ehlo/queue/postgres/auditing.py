"""The books of a queue on PostgreSQL, as `ehlo queue` reads and changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from ehlo.queue.entries import Act, Listed, State
from ehlo.queue.facts import decode_address
from ehlo.queue.postgres.cable import Cable, Pg
from ehlo.queue.postgres.schema import has_schema
from ehlo.queue.postgres.taking import change, text_of
from ehlo.queue.urls import DatabaseURL
from ehlo.sqlite.errors import StoreError

T = TypeVar("T")
_SECONDS: Final = 3_600.0  # that a person may wait for one answer
_LISTED: Final = """
SELECT message, place, id, extract(epoch FROM accepted)::float8, sender, size, recipient, state,
    extract(epoch FROM due)::float8, attempts, error
FROM ehlo_messages JOIN ehlo_deliveries ON message = number
WHERE ($1::text IS NULL OR id = $1) AND ($2::text[] = '{}' OR state = ANY($2))
    AND (message, place) > ($3, $4)
ORDER BY message, place LIMIT 1000
"""


@contextmanager
def open_postgres(url: DatabaseURL) -> Iterator[PostgresBooks]:
    """Open the queue in a database. Raises `StoreError`, also if there is none."""
    with asyncio.Runner() as runner:
        cable = Cable(url, _prepare)
        try:
            yield PostgresBooks(runner, cable)
        finally:
            runner.run(cable.close())


async def _prepare(connection: Pg) -> None:
    if not await has_schema(connection):
        raise StoreError("no queue is in this database; check the URL")


class PostgresBooks:
    """Holds a connection, and the loop that it is used in."""

    def __init__(self, runner: asyncio.Runner, cable: Cable) -> None:
        self._runner = runner
        self._cable = cable

    def _do(self, work: Callable[[Pg], Awaitable[T]]) -> T:
        return self._runner.run(self._cable.do(work, _SECONDS))

    def now(self) -> float:
        """Return the time of the database."""
        query = "SELECT extract(epoch FROM clock_timestamp())::float8"
        return float(self._do(lambda connection: connection.fetchval(query)))

    def listed(
        self, states: Sequence[State] = (), message_id: str | None = None
    ) -> Iterator[Listed]:
        """Yield deliveries, a page at a time, by their numbers.

        So the oldest are first, except that each process numbers its messages in blocks.
        """
        wanted = None if message_id is None else text_of(message_id)
        last: Sequence[Any] = (-1, -1)
        while page := self._page(wanted, list(states), *last):
            for row in page:
                id_, accepted, sender, size, recipient, *rest = row[2:]
                path = decode_address(recipient)
                yield Listed(id_, accepted, decode_address(sender), size, path, *rest)
            last = page[-1][:2]

    def _page(self, *values: object) -> list[tuple[Any, ...]]:
        rows = self._do(lambda connection: connection.fetch(_LISTED, *values))
        return [tuple(row) for row in rows]

    def act(self, what: Act, message_id: str | None) -> int:
        """Change deliveries."""
        wanted = None if message_id is None else text_of(message_id)
        return self._do(partial(change, what=what, message_id=wanted))

    def content(self, message_id: str) -> Iterator[bytes]:
        """Yield a message in chunks. Raises `LookupError`.

        Raises `StoreError` if it is delivered meanwhile, so that a part is not taken for all of it.
        """
        find = "SELECT number, size, trace, body FROM ehlo_messages WHERE id = $1"
        chunk = "SELECT data FROM ehlo_bodies WHERE message = $1 AND part = $2"
        row = self._do(lambda connection: connection.fetchrow(find, text_of(message_id)))
        if row is None:
            raise LookupError(message_id)
        number, left, trace, body = row
        yield trace
        if body is not None:
            yield body
            return
        part = 0
        while data := self._chunk(chunk, number, part):
            yield data
            part += 1
            left -= len(data)
        if left:
            wrong = "ended before all of it was read; what was written is not complete"
            raise StoreError(f"{message_id}: {wrong}")

    def _chunk(self, query: str, number: int, part: int) -> bytes | None:
        found = self._do(lambda connection: connection.fetchval(query, number, part))
        return found if isinstance(found, bytes) else None
