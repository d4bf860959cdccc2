"""The books of a queue, as `ehlo queue` reads and changes them, in a process of its own."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ehlo.queue import ledger
from ehlo.queue.engine import Books
from ehlo.queue.entries import Act, Listed, State
from ehlo.queue.family import BodyFiles, Family, FiledBody
from ehlo.queue.urls import DatabaseURL, is_postgres
from ehlo.sqlite.connecting import Database, connect
from ehlo.sqlite.errors import StoreError, in_words

_CHUNK = 65_536  # bytes
_AT_ONCE = 1_000  # deliveries that are changed in one transaction


@contextlib.contextmanager
def open_books(url: str, *, writes: bool = False) -> Iterator[Books]:
    """Open the queue at a URL. Raises `ValueError` for a wrong URL, and `StoreError`, also later.

    Example::

        with open_books("mail.db") as books:
            print(books.listed())
    """
    if is_postgres(url):
        parts = DatabaseURL.of(url)
        from ehlo.queue.postgres.auditing import open_postgres  # slow to import

        with open_postgres(parts) as books:
            yield books
        return
    paths = Family(url).members()
    if not paths:
        stem, _, number = Path(url).stem.rpartition("-")
        advice = "check the path"
        if stem and number.isdigit() and Path(url).is_file():
            advice = f"leave out its number: {Path(url).with_stem(stem)}"
        raise StoreError(f"{url}: no such queue; {advice}")
    with contextlib.ExitStack() as stack:
        found = {}
        for path in paths:
            with in_words(str(path)):
                database = connect(str(path), writes=writes)
                stack.callback(database.close)
                if ledger.check_ledger(path, database):
                    found[path] = database
        yield FileBooks(found)


class FileBooks:
    """Holds the connections to all files of a queue on SQLite."""

    def __init__(self, databases: Mapping[Path, Database]) -> None:
        self._databases = databases

    def now(self) -> float:
        """Return the time of this machine."""
        return time.time()

    def listed(
        self, states: Sequence[State] = (), message_id: str | None = None
    ) -> Iterable[Listed]:
        """Yield deliveries, a page of each file at a time, the oldest first."""
        pages = [_listed(*each, states, message_id) for each in self._databases.items()]
        return heapq.merge(*pages, key=lambda row: row.accepted)

    def act(self, what: Act, message_id: str | None) -> int:
        """Change deliveries, and delete the files that belong to none any more.

        Many are changed in several transactions, so that mail is accepted in between. They are
        those that had ended before: one that fails again meanwhile is not retried once more.
        """
        count = 0
        for path, database in self._databases.items():
            with in_words(str(path)):
                count += self._act(path, database, what, message_id)
        return count

    def _act(self, path: Path, database: Database, what: Act, message_id: str | None) -> int:
        count = 0
        database.execute("PRAGMA synchronous = FULL")
        numbers = ledger.ended(database) if message_id is None else []
        slices = (numbers[at : at + _AT_ONCE] for at in range(0, len(numbers), _AT_ONCE))
        for chosen in slices if message_id is None else [message_id]:
            database.execute("BEGIN IMMEDIATE")
            changed, names = ledger.act(database, what, chosen, self.now())
            database.execute("COMMIT")
            BodyFiles(path).delete(names)
            count += changed
        return count

    def content(self, message_id: str) -> Iterator[bytes]:
        """Yield a message in chunks. Raises `LookupError`, and `StoreError` if not all is there."""
        for path, database in self._databases.items():
            with contextlib.suppress(LookupError):
                trace, body = _content(path, database, message_id)
                break
        else:
            raise LookupError(message_id)
        yield trace
        if isinstance(body, bytes):
            yield body
            return
        with contextlib.closing(body):
            for start in range(0, body.size, _CHUNK):
                try:
                    chunk = body.read_at(start, _CHUNK)
                except OSError as error:
                    raise StoreError(f"the body of {message_id}: {error.strerror}") from error
                yield chunk


def _listed(
    path: Path, database: Database, states: Sequence[State], message_id: str | None
) -> Iterator[Listed]:
    last = 0
    while True:
        with in_words(str(path)):
            page = ledger.listed(database, states, message_id, last)
        if not page:
            return
        yield from (row for _, row in page)
        last = page[-1][0]


def _content(path: Path, database: Database, message_id: str) -> tuple[bytes, bytes | FiledBody]:
    """Return the trace field and the body, which is there even if it is delivered now.

    Raises `LookupError`, and `StoreError` if its file is gone.
    """
    with in_words(str(path)):
        trace, body, name, size = ledger.content_of(database, message_id)
        if name is None:
            return trace, body or b""
        file = BodyFiles(path).path(name)
        try:
            return trace, FiledBody(file, size)
        except OSError as error:
            # Raises `LookupError` if it was delivered meanwhile
            ledger.content_of(database, message_id)
            raise StoreError(f"{file}: {error.strerror}; restore it, or drop the message") from None
