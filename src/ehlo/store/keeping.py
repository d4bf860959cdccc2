"""Keeping: how many mails are kept, how long, and what changes.

Dropping very many mails takes their rows away. Their messages go later, a few at once, since that
takes longer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ehlo.content import Summary
from ehlo.sqlite.connecting import Database
from ehlo.sqlite.writer import Chores
from ehlo.store.database import page_size
from ehlo.store.heap import Heap
from ehlo.store.indexing import Index
from ehlo.store.records import Change, ChangeKind, Delivery
from ehlo.store.room import unused
from ehlo.store.rows import insert_mails, row_of

MOST_INBOXES: Final = 10
"""So many times the mails of one inbox are kept in all."""
MOST_SESSIONS: Final = 500
"""Sessions without mail that are kept."""
SESSION_BYTES: Final = 8 << 20
"""Bytes of all sessions without mail, in the file."""
_SLICE: Final = 0.004  # seconds of a chore, after which mail may come in between
_MOST_CHANGES: Final = 1_000  # that are remembered
_MOST_AT_ONCE: Final = 100  # mails to drop at once
_UNUSED: Final = 10 << 20  # bytes that a file may keep
_AT_ONCE: Final = 1 << 20  # of them, by which it becomes smaller at once
_MOST_IDS: Final = 200  # in a change; more are a `prune`

_logger = logging.getLogger("ehlo.store")


class Keeper(Chores):
    """Keeps the number and the age of mails, and the index; remembers the changes."""

    def __init__(self, keep: int, keep_age: float, index: Index, heap: Heap) -> None:
        self._index = index
        self._heap = heap
        self._keep = keep
        self._keep_age = keep_age
        self._counts: Counter[str] = Counter()
        self._touched: set[str] = set()
        self._pending: list[tuple[ChangeKind, str | None, tuple[str, ...]]] = []
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)
        self._number = time.time_ns() // 1_000
        self._watchers: list[Callable[[list[Change]], None]] = []
        self._newest_mail = 0
        self._dropped = False
        self._sessions = 0
        self._session_bytes = 0

    def load(self, database: Database) -> None:
        """Count what is stored, and tell the index of it."""
        rows = database.execute("SELECT inbox, total FROM counts")
        self._counts = Counter(dict(rows.fetchall()))
        highest = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mails'"
        (newest,) = database.execute(highest).fetchone()
        self._newest_mail = newest
        self._index.tell(newest, dropped=False)
        sessions = "SELECT count(*), coalesce(sum(size), 0) FROM sessions"
        self._sessions, self._session_bytes = database.execute(sessions).fetchone()

    # -- changes -----------------------------------------------------------------------------------

    def note(self, kind: ChangeKind, inbox: str | None, ids: Iterable[str] = ()) -> None:
        """Note a change of this transaction."""
        many = tuple(ids)
        if len(many) > _MOST_IDS:
            kind, many = "prune", ()
        self._pending.append((kind, inbox, many))

    def add(
        self, database: Database, mails: Sequence[tuple[Delivery, Summary | None]]
    ) -> list[str]:
        """Insert mails, and return their ids. Summaries are made here unless they are given."""
        rows = [
            row_of(delivery, number, summary, self._heap.put(number, delivery.message))
            for number, (delivery, summary) in enumerate(mails, self._newest_mail + 1)
        ]
        insert_mails(database, rows)
        self._newest_mail += len(rows)
        for each in rows:
            self._counts[each.inbox] += 1
            self._touched.add(each.inbox)
            self.note("new", each.inbox, (each.id,))
        return [each.id for each in rows]

    def changes_after(self, number: int) -> list[Change] | None:
        """Return the changes after `number`; `None` if some of them are forgotten."""
        with self._lock:
            changes = list(self._changes)
            newest = self._number
        if number == newest:
            return []
        if number > newest or not changes or number < changes[0].number - 1:
            return None
        return [change for change in changes if change.number > number]

    @property
    def newest(self) -> int:
        """The number of the newest change."""
        return self._number

    def watch(self, call: Callable[[list[Change]], None]) -> Callable[[], None]:
        """Call `call` in the writer's thread with the changes of each commit; return its end."""
        with self._lock:
            self._watchers.append(call)

        def stop() -> None:
            with self._lock:
                if call in self._watchers:
                    self._watchers.remove(call)

        return stop

    # -- what the writer calls ---------------------------------------------------------------------

    def finish(self, database: Database) -> None:
        """Drop the oldest mails of inboxes that have too many."""
        for inbox in self._touched:
            surplus = self._counts[inbox] - self._keep
            if self._keep and surplus > 0:
                self._drop_oldest(database, "inbox = ?", (inbox,), surplus)
        surplus = self._counts.total() - self._keep * MOST_INBOXES
        if self._keep and surplus > 0:
            self._drop_oldest(database, "1", (), surplus)
        self._touched.clear()
        while self._sessions > MOST_SESSIONS or self._session_bytes > SESSION_BYTES:
            self.drop_sessions(
                database, "number = (SELECT number FROM sessions ORDER BY number LIMIT 1)", ()
            )

    def settle(self, database: Database, *, done: bool) -> None:
        """Publish the changes of a transaction, or forget them and count again."""
        pending, self._pending = self._pending, []
        dropped, self._dropped = self._dropped, False
        self._heap.settle(done=done)
        if not done:
            self._touched.clear()
            self.load(database)
            return
        self._index.tell(self._newest_mail, dropped=dropped)
        if not pending:
            return
        with self._lock:
            made = []
            for kind, inbox, ids in pending:
                self._number += 1
                made.append(Change(self._number, kind, inbox, ids))
            self._changes.extend(made)
            watchers = list(self._watchers)
        for call in watchers:
            try:
                call(made)
            except Exception:
                _logger.exception("a watcher of the store failed")

    def tidy(self, database: Database, is_wanted: Callable[[], bool]) -> bool:
        """Drop old mails, and take away what belongs to no mail."""
        if self._keep_age:
            self._drop_old(database)
        if self._heap.tidy() or self._clear(database, is_wanted):
            return True
        if unused(database) <= _UNUSED:
            return False
        pages = _AT_ONCE // page_size(database)
        database.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return True

    # -- mails that go -----------------------------------------------------------------------------

    def _drop_oldest(
        self, database: Database, where: str, values: tuple[object, ...], count: int
    ) -> None:
        oldest = f"number IN (SELECT number FROM mails WHERE {where} ORDER BY number LIMIT ?)"
        self.drop(database, oldest, (*values, count), "prune")

    def _drop_old(self, database: Database) -> None:
        oldest = int((time.time() - self._keep_age) * 1_000)
        where = "number IN (SELECT number FROM mails WHERE created < ? LIMIT ?)"
        self.drop(database, where, (oldest, _MOST_AT_ONCE), "prune")
        self.drop_sessions(database, "created < ?", (oldest,))

    def drop(
        self,
        database: Database,
        where: str,
        values: tuple[object, ...],
        kind: ChangeKind,
        inbox: str | None = None,
    ) -> int:
        """Drop the mails for which `where` is true; return their number."""
        rows = database.execute(
            "SELECT inbox, count(*), sum(is_read = 0), json_group_array(number) FROM mails"
            f" WHERE {where} GROUP BY inbox",
            values,
        ).fetchall()
        if not rows:
            return 0
        total = sum(row[1] for row in rows)
        numbers = f"[{','.join(row[3][1:-1] for row in rows)}]"
        self._heap.drop(json.loads(numbers))
        those = "number IN (SELECT value FROM json_each(?))"
        self._dropped = True
        if kind == "truncate":
            self.note(kind, inbox)
        else:
            ids = f"SELECT id FROM mails WHERE {those} LIMIT {_MOST_IDS + 1}"
            self.note(kind, inbox, (row[0] for row in database.execute(ids, (numbers,))))
        if total <= _MOST_AT_ONCE:
            database.execute(f"DELETE FROM messages WHERE {those}", (numbers,))
        else:
            database.execute("INSERT INTO gone SELECT value FROM json_each(?)", (numbers,))
        database.execute(f"DELETE FROM tags WHERE {those}", (numbers,))
        database.execute(f"DELETE FROM mails WHERE {those}", (numbers,))
        counted = [(count, unread, name) for name, count, unread, _numbers in rows]
        less = "UPDATE counts SET total = total - ?, unread = unread - ? WHERE inbox = ?"
        database.executemany(less, counted)
        for count, _unread, name in counted:
            self._counts[name] -= count
            if self._counts[name] <= 0:
                del self._counts[name]
                database.execute("DELETE FROM counts WHERE inbox = ?", (name,))
        return int(total)

    def added_session(self, size: int) -> None:
        """Note a new session of `size` bytes that brought no mail."""
        self._sessions += 1
        self._session_bytes += size

    def drop_sessions(self, database: Database, where: str, values: tuple[object, ...]) -> int:
        """Drop the sessions for which `where` is true; return their number."""
        delete = f"DELETE FROM sessions WHERE {where} RETURNING size"
        sizes = [size for (size,) in database.execute(delete, values).fetchall()]
        self._sessions -= len(sizes)
        self._session_bytes -= sum(sizes)
        return len(sizes)

    def _clear(self, database: Database, is_wanted: Callable[[], bool]) -> bool:
        """Take away what belongs to mails that are gone; return whether more remains."""
        end = time.monotonic() + _SLICE
        while time.monotonic() < end and not is_wanted():
            row = database.execute("SELECT number FROM gone LIMIT 1").fetchone()
            if row is None:
                return False
            database.execute("DELETE FROM messages WHERE number = ?", row)
            database.execute("DELETE FROM gone WHERE number = ?", row)
        return True
