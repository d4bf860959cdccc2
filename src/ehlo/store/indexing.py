"""Indexing: fills the index of texts, in a thread and a file of its own: no mail waits for it.

The index is temporary: it is made again when a store is opened. When no mail comes, the first piece
of each text is indexed; the others are when somebody searches.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ehlo.content.breather import Breather
from ehlo.sqlite.connecting import Database
from ehlo.sqlite.writer import Chores
from ehlo.store.folding import pieces_of, searched_text
from ehlo.store.heap import Heap

_LARGE: Final = 262_144  # bytes of a message
_SLICE: Final = 0.05  # seconds of one transaction
_PAUSE: Final = 0.02  # seconds without mail before a text is indexed that no search waits for
_MOST_AT_ONCE: Final = 100


class Index(Chores):
    """Fills the index, and knows what is missing in it."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._told = 0.0
        self._newest = 0
        self._indexed = 0  # as committed, and so is the next
        self._has_partial = False
        self._wake: Callable[[], None] | None = None
        self._is_clear = True
        self._breather = Breather()
        # In the thread of the index: the mail up to which it goes, and mails with a piece only
        self._seen = 0
        self._partial: deque[int] = deque()
        self._until = 0

    @property
    def is_behind(self) -> bool:
        """Whether there is text that is not indexed."""
        return self._indexed < self._newest or self._has_partial

    def tell(self, newest: int, *, dropped: bool) -> None:
        """Tell the index, in any thread, which mail is the newest, and whether some were dropped.

        Both are as committed.
        """
        if newest != self._newest:
            self._newest = newest
            self._told = time.monotonic()
        elif not dropped:
            return
        if dropped:
            self._is_clear = False
        if self._wake is not None:
            self._wake()

    def wakes(self, wake: Callable[[], None]) -> None:
        """Set what wakes the thread of the index."""
        self._wake = wake

    # -- in the thread of the index ----------------------------------------------------------------

    def finish(self, _database: Database) -> None:
        """Do nothing."""

    def settle(self, _database: Database, *, done: bool) -> None:
        """Publish what is indexed, or look again at all that may be missing."""
        if done:
            self._indexed, self._has_partial = self._seen, bool(self._partial)
        else:
            self._seen = self._indexed = 0
            self._partial.clear()

    def aim(self, _database: Database) -> None:
        """Note up to which mail the text is to be indexed."""
        self._until = self._newest

    def catch_up(self, database: Database, _is_wanted: Callable[[], bool]) -> bool:
        """Build the index of some mails, with their whole texts."""
        end = time.monotonic() + _SLICE
        while time.monotonic() < end:
            if self._partial:
                self._add(database, self._partial.popleft(), whole=True)
            elif self._seen >= self._until or not self._next(database, whole=True):
                return False
        return True

    def tidy(self, database: Database, is_wanted: Callable[[], bool]) -> bool:
        """Build the index of some mails, with a piece of their texts; drop what belongs to none."""
        end = time.monotonic() + _SLICE
        while time.monotonic() < end and not is_wanted():
            if time.monotonic() < self._told + _PAUSE:  # mail comes
                return True
            if not self._next(database, whole=False):
                return self._drop(database)
        return True

    def _next(self, database: Database, *, whole: bool) -> bool:
        """Index the next mail; return whether there is one."""
        sql = "SELECT number FROM mails WHERE number > ? ORDER BY number LIMIT 1"
        row = database.execute(sql, (self._seen,)).fetchone()
        if row is None:
            # The newest mail that this transaction sees, dropped or not
            newest = "SELECT coalesce(max(seq), 0) FROM store.sqlite_sequence WHERE name = 'mails'"
            (self._seen,) = database.execute(newest).fetchone()
            return False
        self._seen = row[0]
        self._add(database, self._seen, whole=whole)
        return True

    def _add(self, database: Database, number: int, *, whole: bool) -> None:
        """Index the text of a mail, or a piece of it, unless the mail is dropped."""
        database.execute("DELETE FROM texts WHERE number = ?", (number,))
        sql = (
            "SELECT mail_from, rcpt_tos, size, CASE WHEN length(data) <= ? THEN data END"
            " FROM messages JOIN mails USING (number) WHERE number = ?"
        )
        row = database.execute(sql, (_LARGE, number)).fetchone()
        if row is None:
            return
        mail_from, rcpt_tos, size, data = row
        if data is None or len(data) < size:  # SQLite would copy it while no other thread runs
            data = self._heap.read(database, number, 0, size, "store") or b""
        envelope = (mail_from, *json.loads(rcpt_tos))
        pieces = pieces_of(searched_text(data, envelope, self._breather.rest))
        for body in pieces if whole else pieces[:1]:
            self._breather.rest()
            add = "INSERT INTO texts(number, body) VALUES (?, ?)"
            piece = database.execute(add, (number, body)).lastrowid
            database.execute("INSERT INTO grams(rowid, body) VALUES (?, ?)", (piece, body))
        if not whole and len(pieces) > 1:
            self._partial.append(number)

    def _drop(self, database: Database) -> bool:
        """Drop texts of mails that are dropped; return whether more remain."""
        if self._is_clear:
            return False
        self._is_clear = True
        rows = database.execute(
            "SELECT DISTINCT number FROM texts WHERE number NOT IN (SELECT number FROM mails)"
            f" LIMIT {_MOST_AT_ONCE}"
        ).fetchall()
        database.executemany("DELETE FROM texts WHERE number = ?", rows)
        if rows:
            self._is_clear = False
        database.execute("PRAGMA incremental_vacuum(256)").fetchall()
        return bool(rows)
