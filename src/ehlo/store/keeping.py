"""Keeping: how many mails are kept and how long, what becomes of the others, and the index.

To drop a mail takes its row away. Its message and its text go later, a few at once, since that
takes longer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from ehlo.store.database import Database
from ehlo.store.indexing import AT_ONCE, searched_text
from ehlo.store.records import Change, ChangeKind
from ehlo.store.writer import Chores

MOST_INBOXES: Final = 10
"""So many times the mails of one inbox are kept in all."""
_SLICE: Final = 0.004  # seconds of a chore, after which mail may come in between
_MOST_CHANGES: Final = 1_000  # that are remembered
_MOST_AT_ONCE: Final = 100  # mails to take away at once
_FREE: Final = 2_560  # unused pages that a file may keep
_MOST_IDS: Final = 200  # in a change; more are a `prune`

_logger = logging.getLogger("ehlo.store")


class Keeper(Chores):
    """Keeps the number and the age of mails, and the index; remembers the changes."""

    def __init__(self, keep: int, keep_age: float) -> None:
        self._keep = keep
        self._keep_age = keep_age
        self._counts: Counter[str] = Counter()
        self._touched: set[str] = set()
        self._pending: list[tuple[ChangeKind, str | None, tuple[str, ...]]] = []
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)
        self._number = time.time_ns() // 1_000
        self._watchers: list[Callable[[list[Change]], None]] = []
        self._left = 0
        self.unindexed: int = 0
        """The number of mails whose text is not wholly indexed, as committed, for any thread."""
        self._until = 0

    def load(self, database: Database) -> None:
        """Count what is stored."""
        rows = database.execute("SELECT inbox, count(*) FROM mails GROUP BY inbox")
        self._counts = Counter(dict(rows.fetchall()))
        self._count_unindexed(database)
        self.unindexed = self._left

    def _count_unindexed(self, database: Database) -> None:
        sql = "SELECT count(*), coalesce(max(number), 0) FROM mails WHERE indexed < 2"
        self._left, self._until = database.execute(sql).fetchone()

    # -- changes -----------------------------------------------------------------------------------

    def note(self, kind: ChangeKind, inbox: str | None, ids: Iterable[str] = ()) -> None:
        """Note a change of this transaction."""
        many = tuple(ids)
        if len(many) > _MOST_IDS:
            kind, many = "prune", ()
        self._pending.append((kind, inbox, many))

    def added(self, inbox: str, mail_id: str) -> None:
        """Note a new mail."""
        self._counts[inbox] += 1
        self._touched.add(inbox)
        self._left += 1
        self.note("new", inbox, (mail_id,))

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

    def finish(self, database: Database, tasks: int) -> None:
        """Drop the oldest mails of inboxes that have too many."""
        for inbox in self._touched:
            surplus = self._counts[inbox] - self._keep
            if self._keep and surplus > 0:
                self._drop_oldest(database, "inbox = ?", (inbox,), surplus)
        surplus = self._counts.total() - self._keep * MOST_INBOXES
        if self._keep and surplus > 0:
            self._drop_oldest(database, "1", (), surplus)
        self._touched.clear()
        self._clear(database, 2 * tasks)

    def settle(self, database: Database, *, done: bool) -> None:
        """Publish the changes of a transaction, or forget them and count again."""
        pending, self._pending = self._pending, []
        if not done:
            self._touched.clear()
            self.load(database)
            return
        self.unindexed = self._left
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

    def aim(self, database: Database) -> None:
        """Note up to which mail the text is to be indexed."""
        self._count_unindexed(database)

    def catch_up(self, database: Database) -> bool:
        """Build the index of some mails, with their whole texts."""
        return self._index(database, whole=True)

    def tidy(self, database: Database) -> bool:
        """Drop old mails, take away what belongs to no mail, index the beginning of texts."""
        if self._keep_age:
            self._drop_old(database)
        more = self._clear(database, _MOST_AT_ONCE)
        if more or self._index(database, whole=False):
            return True
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        if free > _FREE:
            database.execute("PRAGMA incremental_vacuum(256)").fetchall()
        return bool(free > _FREE)

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
            f"DELETE FROM mails WHERE {where} RETURNING number, id, inbox, indexed",
            values,
        ).fetchall()
        if not rows:
            return 0
        numbers = [(row[0],) for row in rows]
        database.executemany("INSERT INTO gone VALUES (?)", numbers)
        database.executemany("DELETE FROM tags WHERE number = ?", numbers)
        self._counts -= Counter(row[2] for row in rows)
        self._left -= sum(row[3] < 2 for row in rows)
        if kind == "truncate":
            self.note(kind, inbox)
        else:
            self.note(kind, inbox, [row[1] for row in rows])
        return len(rows)

    def _clear(self, database: Database, most: int) -> bool:
        """Take away what belongs to mails that are gone; return whether more remains."""
        numbers = database.execute("SELECT number FROM gone LIMIT ?", (most,)).fetchall()
        for table in ("texts", "messages", "gone") if numbers else ():
            database.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
        return bool(numbers)

    # -- the index ---------------------------------------------------------------------------------

    def _index(self, database: Database, *, whole: bool) -> bool:
        """Index texts for some milliseconds; return whether more of them remain."""
        begun = time.monotonic()
        while time.monotonic() < begun + _SLICE:
            row = database.execute(
                "SELECT mails.number, indexed, mail_from, rcpt_tos, data FROM mails"
                " JOIN messages USING (number) WHERE indexed < 2 AND indexed < ?"
                " AND (mails.number <= ? OR NOT ?) ORDER BY mails.number LIMIT 1",
                (1 + whole, self._until, whole),
            ).fetchone()
            if row is None:
                return False
            number, indexed, mail_from, rcpt_tos, data = row
            text = searched_text(data, (mail_from, *json.loads(rcpt_tos)))
            if indexed:
                database.execute("DELETE FROM texts WHERE number = ?", (number,))
            body = text if whole else text[:AT_ONCE]
            database.execute("INSERT INTO texts VALUES (?, ?)", (number, body))
            database.execute("INSERT INTO grams(rowid, body) VALUES (?, ?)", (number, body))
            state = 2 if len(body) == len(text) else 1
            self._left -= state == 2
            database.execute("UPDATE mails SET indexed = ? WHERE number = ?", (state, number))
        return True
