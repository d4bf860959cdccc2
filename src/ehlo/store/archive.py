"""`Store`: mails in one file, for any number of tasks of one process.

What is put is committed before `put` returns: to disk, or for a temporary store to the operating
system. All writing is done by one thread (see `writer`). Readers have connections and threads of
their own, and see what was committed before they began. The index is temporary (see `indexing`).

This file is longer than others, since it is the whole face of the store.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from ehlo.content import Breather, Summary, summarize
from ehlo.message import spool_directory
from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import StoreError, in_words
from ehlo.sqlite.locking import Lock
from ehlo.sqlite.writer import Writer
from ehlo.store.database import open_database, open_index
from ehlo.store.heap import Heap
from ehlo.store.indexing import Index
from ehlo.store.keeping import Keeper
from ehlo.store.query import read_query
from ehlo.store.reading import ReaderPool
from ehlo.store.records import (
    Change,
    ChangeKind,
    Delivery,
    Facts,
    MailCounts,
    Page,
    StoredMail,
    StoredMessage,
    StoredSession,
)
from ehlo.store.room import Room
from ehlo.store.rows import (
    ROW,
    add_tags,
    as_json,
    clean_tags,
    count_mails,
    insert_session,
    read_mails,
    read_message,
    read_sessions,
    rename_tag,
    selected,
)
from ehlo.transcript import Line

Answer = TypeVar("Answer")
_IN_USE: Final = "open already; stop the other ehlo, or name another file"
MOST_NAMES: Final = 1_000
"""Tags that are listed."""
_LARGE: Final = 262_144  # bytes of a message
_CHUNK: Final = 1 << 18  # bytes, of which each client that reads slowly holds some


class Store:
    """Stores mail in an SQLite file, lists it, searches it, and drops what is too much or too old.

    Make one with `Store.open`. Its methods may be called in any event loop of the process. They
    raise `StoreError`, and `put` raises `DiskFullError` if there is no room.

    Example:

        async with Store.open() as store:
            mail_id = await store.put(Delivery(message.body, "a@x.test", ["b@y.test"]))
            assert (await store.list()).mails[0].id == mail_id
    """

    def __init__(
        self,
        path: str,
        directory: str,
        database: Database,
        keeper: Keeper,
        index: Index,
        heap: Heap,
        lock: Lock | None,
    ) -> None:
        self.path: str = path
        """The path of the file."""
        self._directory = directory
        self._lock = lock
        self._keeper = keeper
        self._index = index
        self._heap = heap
        self._writer = Writer(path, database, keeper)
        self._room = Room(path, heap)
        self._index_path = str(Path(directory) / "search.db")
        self._indexer = Writer(path, open_index(path, self._index_path), index)
        self._readers = ReaderPool(path, self._index_path, heap)

    @classmethod
    def open(
        cls, path: str = "", *, keep: int = 500, keep_age: float = 0, max_size: int = 0
    ) -> Store:
        """Open a store; without a path it is a temporary file, which `close` deletes.

        `keep` is the number of mails that each inbox keeps, and all inboxes together keep ten times
        as many; 0 is unlimited. `keep_age` is how long they are kept, in seconds. `max_size` is the
        maximum size of the file in bytes.

        Raises `StoreError` if the file is no store, is of a newer ehlo, is open already, or cannot
        be written.
        """
        if sqlite3.sqlite_version_info < (3, 35):
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old; install 3.35 or later")
        directory = tempfile.mkdtemp(prefix="ehlo-", dir=spool_directory("") or None)
        file = path or str(Path(directory) / "mail.db")
        heap = Heap("" if path or max_size else directory)
        lock: Lock | None = None
        try:
            lock = _lock_of(path) if path else None
            database = open_database(file, durable=bool(path), max_size=max_size)
            index = Index(heap)
            keeper = Keeper(keep, keep_age, index, heap)
            with in_words(file):
                keeper.load(database)
            store = cls(file, directory, database, keeper, index, heap, lock)
        except BaseException:
            heap.close()
            shutil.rmtree(directory, ignore_errors=True)
            if lock is not None:
                lock.release(remove=True)
            raise
        store._start()
        return store

    def _start(self) -> None:
        self._index.wakes(self._indexer.wake)
        self._writer.start()
        self._indexer.start()

    def close(self) -> None:
        """Finish what waits, close the file, and delete it if it is temporary."""
        self._readers.close()
        self._indexer.close()
        self._writer.close()  # the last one, which leaves nothing but the file
        self._heap.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.release(remove=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    # -- writing -----------------------------------------------------------------------------------

    async def put(self, delivery: Delivery) -> str:
        """Store a mail; return its id once it is committed.

        Raises `DiskFullError` if there is no room for it, and `StoreError` if its id is taken.
        """
        summary: Summary | None = None
        if len(delivery.message) > _LARGE:  # what takes long would make other mails wait
            rest = Breather().rest
            summary = await asyncio.to_thread(summarize, delivery.message, delivery.rcpt_tos, rest)

        return await self._writer.share(self._add, (delivery, summary), len(delivery.message))

    def _add(
        self, database: Database, mails: Sequence[tuple[Delivery, Summary | None]]
    ) -> list[str]:
        self._room.take((len(each.message) for each, _ in mails), database)
        return self._keeper.add(database, mails)

    async def mark(
        self,
        *,
        read: bool,
        inbox: str | None = None,
        ids: Iterable[str] | None = None,
        query: str | None = None,
        zone: str = "",
    ) -> int:
        """Mark mails as read or unread: those in `ids`, those that `query` finds, or else all.

        Returns the number of mails that have changed; those in `ids` count in any case, as Mailpit
        tells of each. Raises `ValueError` as `delete` does.
        """
        where, values = await self._selected(inbox, ids, query, zone)
        others = "1" if ids is not None else f"is_read != {read:d}"

        def update(database: Database) -> int:
            rows = database.execute(
                f"UPDATE mails SET is_read = ? WHERE ({where}) AND {others} RETURNING id",
                (read, *values),
            ).fetchall()
            if rows:
                self._keeper.note("read" if read else "unread", inbox, (row[0] for row in rows))
            return len(rows)

        return await self._writer.do(update)

    async def delete(
        self,
        *,
        inbox: str | None = None,
        ids: Iterable[str] | None = None,
        query: str | None = None,
        zone: str = "",
    ) -> int:
        """Delete mails: those in `ids`, those that `query` finds, or else all.

        Returns the number of mails that are deleted. Raises `ValueError` for a query of which a
        part would be ignored, such as a date that cannot be read: it would find other mails, too.
        """
        kind: ChangeKind = "truncate" if ids is None and query is None else "delete"

        where, values = await self._selected(inbox, ids, query, zone)

        def drop(database: Database) -> int:
            return self._keeper.drop(database, where, values, kind, inbox)

        return await self._writer.do(drop)

    async def _selected(
        self, inbox: str | None, ids: Iterable[str] | None, query: str | None, zone: str
    ) -> tuple[str, tuple[object, ...]]:
        """Return a condition for the writer, which has no index: a query is read before."""
        where, values = selected(inbox, ids, query, zone)
        if query is None:
            return where, values
        if ignored := read_query(query, zone).ignored:
            raise ValueError(f"query: {ignored[:50]!r} cannot be read; nothing was changed")
        await self._catch_up(query)
        sql = f"SELECT json_group_array(number) FROM mails WHERE {where}"
        (numbers,) = await self._readers.do(
            lambda database: database.execute(sql, values).fetchone()
        )
        return "number IN (SELECT value FROM json_each(?))", (numbers,)

    async def _catch_up(self, query: str) -> None:
        """Wait until the texts that a query reads are indexed."""
        if self._index.is_behind and read_query(query).reads_text:
            await self._indexer.catch_up()

    # -- tags --------------------------------------------------------------------------------------

    async def set_tags(
        self, ids: Iterable[str], tags: Iterable[str], *, inbox: str | None = None
    ) -> None:
        """Replace the tags of mails. Unknown ids are ignored."""
        wanted = clean_tags(tags)

        def update(database: Database) -> None:
            where, values = selected(inbox, ids, None, "")
            rows = database.execute(
                f"SELECT number, id FROM mails WHERE {where}", values
            ).fetchall()
            numbers = [row[0] for row in rows]
            database.executemany("DELETE FROM tags WHERE number = ?", [(each,) for each in numbers])
            add_tags(database, numbers, wanted)
            if rows:
                self._keeper.note("tags", inbox, (row[1] for row in rows))

        await self._writer.do(update)

    async def rename_tag(self, tag: str, name: str, *, inbox: str | None = None) -> None:
        """Rename a tag on all mails. Raises `ValueError` for an unknown, invalid or taken name."""
        await self._change_tag(tag, name, inbox)

    async def delete_tag(self, tag: str, *, inbox: str | None = None) -> None:
        """Take a tag off all mails. Raises `ValueError` for an unknown one."""
        await self._change_tag(tag, None, inbox)

    async def _change_tag(self, tag: str, name: str | None, inbox: str | None) -> None:
        def change(database: Database) -> None:
            rename_tag(database, tag, name, inbox)
            self._keeper.note("prune", inbox)

        await self._writer.do(change)

    async def tags(self, inbox: str | None = None) -> dict[str, int]:
        """Return the tags, sorted, each with the number of its mails; the first 1,000 of them."""

        def read(database: Database) -> dict[str, int]:
            where, values = selected(inbox, None, None, "")
            return dict(
                database.execute(
                    "SELECT tag, count(*) FROM tags JOIN mails USING (number)"
                    f" WHERE {where} GROUP BY tag ORDER BY tag LIMIT ?",
                    (*values, MOST_NAMES),
                ).fetchall()
            )

        return await self._readers.do(read)

    # -- reading -----------------------------------------------------------------------------------

    async def list(
        self,
        inbox: str | None = None,
        *,
        start: int = 0,
        limit: int | None = 50,
        before: float | None = None,
        at_once: int | None = None,
    ) -> Page:
        """Return mails of an inbox, or of all; the newest first.

        `limit` is their number at most (`None`: all), from the one at `start`. With `before`, in
        seconds since the epoch, they are older than that. With `at_once`, only so many are read:
        the page has the numbers of the others, for `numbered`.
        """
        has_rest = at_once is not None and (limit is None or limit > at_once)
        first = at_once if has_rest else limit

        def read(database: Database) -> Page:
            where, values = selected(inbox, None, None, "")
            counts = count_mails(database, inbox)
            if before is not None:
                where, values = f"({where}) AND created < ?", (*values, int(before * 1_000))
            part = f"WHERE {where} ORDER BY number DESC LIMIT ? OFFSET ?"
            rows = database.execute(
                f"{ROW} {part}", (*values, -1 if first is None else first, start)
            )
            mails = read_mails(rows)
            if not has_rest or first is None or len(mails) < first:
                return Page(mails, counts, counts)
            left = -1 if limit is None else limit - first
            numbers = f"SELECT json_group_array(number) FROM (SELECT number FROM mails {part})"
            (rest,) = database.execute(numbers, (*values, left, start + first)).fetchone()
            return Page(mails, counts, counts, json.loads(rest))

        return await self._readers.do(read)

    async def numbered(self, numbers: Sequence[int]) -> Sequence[StoredMail]:
        """Return those of the mails with these numbers that are there, the newest first."""
        return await self._readers.do(lambda database: _numbered(database, numbers))

    async def search(
        self,
        query: str,
        inbox: str | None = None,
        *,
        zone: str = "",
        start: int = 0,
        limit: int | None = 50,
        at_once: int | None = None,
    ) -> Page:
        """Return the mails that `query` finds, the newest first; see `ehlo.store.query`.

        Whatever was put before is found. `zone` is the IANA name of the time zone of its dates. For
        `at_once` see `list`.
        """

        def read(database: Database) -> Page:
            where, values = selected(inbox, None, query, zone)
            # One row: with many, this thread would take the lock of the interpreter for each
            total, unread, numbers = database.execute(
                f"WITH found AS MATERIALIZED (SELECT number, is_read FROM mails WHERE {where})"
                " SELECT count(*), coalesce(sum(is_read = 0), 0), (SELECT json_group_array(number)"
                " FROM (SELECT number FROM found ORDER BY number DESC LIMIT ? OFFSET ?))"
                " FROM found",
                (*values, -1 if limit is None else limit, start),
            ).fetchone()
            found = json.loads(numbers)
            mails = _numbered(database, found[:at_once])
            rest = found[len(mails) :]
            return Page(mails, count_mails(database, inbox), MailCounts(total, unread), rest)

        await self._catch_up(query)
        return await self._readers.do(read)

    async def get(
        self, mail_id: str, inbox: str | None = None, *, most: int | None = None
    ) -> StoredMessage | None:
        """Return a whole mail; `None` if there is none with this id.

        With `most`, its `data` is only the beginning of the message, of so many bytes.
        """
        return await self._readers.do(
            lambda database: read_message(database, self._heap, mail_id, inbox, most)
        )

    async def chunks(
        self, mail: StoredMail, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a message from `start` to `end`, 256 KiB at once.

        Raises `StoreError` if the mail is deleted meanwhile.
        """
        stop = mail.size if end is None else min(end, mail.size)
        for at in range(start, stop, _CHUNK):
            size = min(_CHUNK, stop - at)
            yield await self.piece(mail, at, at + size)

    async def piece(self, mail: StoredMail, start: int, end: int) -> bytes:
        """Return the bytes of a message from `start` to `end`; nothing else of it is read.

        Raises `StoreError` if the mail is deleted meanwhile.
        """

        def read(database: Database) -> bytes | None:
            sql = "SELECT 1 FROM messages WHERE number = ?"
            if database.execute(sql, (mail.number,)).fetchone() is None:
                return None
            return self._heap.read(database, mail.number, start, end - start)

        data = await self._readers.do(read)
        if data is None:
            raise StoreError(f"{self.path}: the message was deleted")
        return data

    async def find(self, ids: Iterable[str], inbox: str | None = None) -> Sequence[StoredMail]:
        """Return those of the mails `ids` that are there, the newest first."""

        def read(database: Database) -> Sequence[StoredMail]:
            where, values = selected(inbox, ids, None, "")
            rows = database.execute(f"{ROW} WHERE {where} ORDER BY number DESC", values)
            return read_mails(rows)

        return await self._readers.do(read)

    async def envelope_senders(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the envelope senders of mails by their numbers, of those that are there."""

        def read(database: Database) -> dict[int, str]:
            marks = ", ".join("?" * len(numbers))
            sql = f"SELECT number, mail_from FROM messages WHERE number IN ({marks})"
            return dict(database.execute(sql, numbers))

        return await self._readers.do(read)

    async def neighbors(
        self, mail_id: str, inbox: str | None = None, query: str | None = None, *, zone: str = ""
    ) -> tuple[str, str]:
        """Return the ids of the next newer and the next older mail; empty if there is none.

        With `query` they are neighbors among the mails that it finds.
        """

        def read(database: Database) -> tuple[str, str]:
            where, values = selected(inbox, None, query, zone)
            here = "(SELECT number FROM mails WHERE id = ?)"
            found = []
            for sign, order in ((">", "ASC"), ("<", "DESC")):
                sql = (
                    f"SELECT id FROM mails WHERE ({where}) AND number {sign} {here}"
                    f" ORDER BY number {order} LIMIT 1"
                )
                row = database.execute(sql, (*values, mail_id)).fetchone()
                found.append(row[0] if row else "")
            return found[0], found[1]

        if query is not None:
            await self._catch_up(query)
        return await self._readers.do(read)

    # -- sessions that brought no mail -------------------------------------------------------------

    async def put_session(
        self,
        transcript: Iterable[Line],
        facts: Facts | None = None,
        *,
        inbox: str = "",
        username: str = "",
        created: float = 0.0,
    ) -> None:
        """Store a session that brought no mail. `created` is when it ended; 0 is now.

        All inboxes together keep the last 500, of 8 MiB at most.
        """
        session = StoredSession(0, inbox, created, username, dict(facts or {}), list(transcript))

        def insert(database: Database) -> None:
            self._keeper.added_session(insert_session(database, session))

        await self._writer.do(insert, flush=False)

    async def sessions(
        self, inbox: str | None = None, *, before: int | None = None, limit: int = 50
    ) -> Sequence[StoredSession]:
        """Return sessions that brought no mail, the newest first.

        With `before`, they are older than the one with this number.
        """
        return await self._readers.do(
            lambda database: read_sessions(database, inbox, before, limit)
        )

    async def delete_sessions(self, inbox: str | None = None) -> int:
        """Delete the sessions that brought no mail; return their number."""
        where, values = selected(inbox, None, None, "")
        return await self._writer.do(
            lambda database: self._keeper.drop_sessions(database, where, values)
        )

    # -- counts ------------------------------------------------------------------------------------

    async def counts(self, inbox: str | None = None) -> MailCounts:
        """Return the number of mails, and of the unread ones."""
        return await self._readers.do(lambda database: count_mails(database, inbox))

    async def inboxes(self) -> dict[str, MailCounts]:
        """Return the names of the inboxes that have mail, sorted, with their counts."""
        sql = "SELECT inbox, total, unread FROM counts ORDER BY inbox"
        rows = await self._readers.do(lambda database: database.execute(sql).fetchall())
        return {name: MailCounts(total, unread) for name, total, unread in rows}

    async def size(self) -> int:
        """Return the size of the database in bytes."""
        sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        (size,) = await self._readers.do(lambda database: database.execute(sql).fetchone())
        return int(size) + self._heap.size + self._heap.unused

    # -- changes -----------------------------------------------------------------------------------

    def watch(self, call: Callable[[Sequence[Change]], None]) -> Callable[[], None]:
        """Call `call` with the changes of each commit; return a function that ends it.

        `call` runs in the thread that writes, and must return at once: let it only pass the changes
        on, for example by `loop.call_soon_threadsafe`.
        """
        return self._keeper.watch(call)

    @property
    def newest_change(self) -> int:
        """The number of the newest change."""
        return self._keeper.newest

    def changes_after(self, number: int) -> Sequence[Change] | None:
        """Return the changes after the one with `number`; `None` if they are no longer known.

        A reader that gets `None` reads all lists again. The last 1,000 changes are known.
        """
        return self._keeper.changes_after(number)


def _numbered(database: Database, numbers: Sequence[int]) -> list[StoredMail]:
    those = f"{ROW} WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number DESC"
    return read_mails(database.execute(those, (as_json(numbers),)))


def _lock_of(path: str) -> Lock:
    lock = Lock.taken(Path(path).resolve(), "lock")
    if lock is None:
        raise StoreError(f"{path}: {_IN_USE}")
    return lock
