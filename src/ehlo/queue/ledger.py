"""The ledger: the messages and deliveries of one SQLite file, and every statement about them.

A delivery is one recipient of one message. `due` is when it is to be tried, or when its lease ends;
it is null for one that waits for nothing. So a crash needs no second mechanism. Each function is
given the time, and runs in the writer's thread, in a transaction of its caller.

This file is longer than others, since all statements are in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, get_args

from ehlo.paths import create
from ehlo.queue.engine import Reserved
from ehlo.queue.entries import (
    ENDED,
    PLACES,
    Act,
    Arrival,
    Claimed,
    Due,
    Haul,
    Levels,
    Listed,
    Settled,
    State,
)
from ehlo.queue.facts import decode_address
from ehlo.queue.timing import Persistence
from ehlo.sqlite.connecting import Database, connect, known_version
from ehlo.sqlite.errors import ADVICE, StoreError, in_words
from ehlo.sqlite.writer import Chores

_APPLICATION: Final = 0x65686C71  # "ehlq", in the file's header
_VERSION: Final = 2  # the first had an index of deliveries by message
_PAGE: Final = 8_192  # bytes; large bodies take a third less time than with 4,096
_CHECKPOINT: Final = 4_000  # pages of the log; each checkpoint costs two flushes
_MOST_BYTES: Final = 8 << 20  # of bodies that are claimed at once
_PAGE_OF_ROWS: Final = 1_000  # deliveries that are read at once
_SLICE: Final = 1_000  # deliveries that are deleted at once
_DOUBLINGS: Final = 6  # of the rows that one statement inserts: 64
_OF_MESSAGE: Final = (
    f"deliveries.number BETWEEN messages.number * {PLACES}"
    f" AND messages.number * {PLACES} + {PLACES - 1}"
)
"""The condition for the deliveries of a message, which needs no index: see `PLACES`."""
_SCHEMA: Final = f"""
CREATE TABLE messages(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    accepted REAL NOT NULL,
    sender TEXT NOT NULL,
    facts TEXT NOT NULL,
    size INTEGER NOT NULL,
    trace BLOB NOT NULL,
    file TEXT,  -- the name of the file that has the body, or null
    body BLOB
);
CREATE INDEX messages_by_id ON messages(id);
CREATE TABLE deliveries(
    number INTEGER PRIMARY KEY,
    message INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    due REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    ended REAL,
    error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX deliveries_due ON deliveries(due) WHERE due IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries(ended) WHERE ended IS NOT NULL;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
_UPGRADE: Final = f"""
DROP INDEX IF EXISTS deliveries_by_message;
PRAGMA user_version = {_VERSION};
"""
_Statements = Sequence[tuple[int, str]]


def _statements(table: str, *columns: str) -> _Statements:
    """Return statements that insert 64 rows, 32, and so on to 1, with the number of their values.

    So few are prepared, for any number of rows. One statement for many rows takes a third of the
    time of one for each, since each step of a statement lets other threads run. `OR ROLLBACK` saves
    a copy of each page, by which SQLite would undo this statement alone: a quarter of the time.
    """
    into = f"INSERT OR ROLLBACK INTO {table}({', '.join(columns)}) VALUES "
    row = f"({', '.join('?' * len(columns))})"
    counts = [1 << power for power in range(_DOUBLINGS, -1, -1)]
    return [(count * len(columns), into + ", ".join([row] * count)) for count in counts]


_INTO_MESSAGES: Final = _statements(
    "messages", "id", "sender", "facts", "size", "trace", "digest", "accepted", "file", "body"
)
_INTO_DELIVERIES: Final = _statements(
    "deliveries", "number", "message", "recipient", "state", "due", "attempts", "owner"
)


class FiledRow(NamedTuple):
    """Holds an `Arrival`, and what this engine adds to it."""

    arrival: Arrival
    place: Reserved | None
    """Where a consumer has leased it already."""
    digest: str
    accepted: float
    file: str | None
    body: bytes | None


# -- the file --------------------------------------------------------------------------------------


def open_ledger(path: Path) -> Database:
    """Open a file of a queue for its writer, and make or check its schema. Raises `StoreError`."""
    if path.is_symlink():  # processes would not see each other's locks
        raise StoreError(f"{path}: a link; name the file itself")
    try:
        os.close(create(str(path), 0o600))  # only its user can read mail
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; {ADVICE}") from error
    with in_words(str(path)):
        database = connect(str(path))
        try:
            _prepare(path, database)
        except BaseException:
            database.close()
            raise
        return database


def check_ledger(path: Path, database: Database) -> bool:
    """Return whether a file is a queue, not an empty file. Raises `StoreError` for another."""
    version = known_version(str(path), database, _APPLICATION, _VERSION, "a queue")
    if version == 1:
        others = f"SELECT 1 FROM deliveries WHERE number / {PLACES} != message LIMIT 1"
        if database.execute(others).fetchone():
            raise StoreError(
                f"{path}: made by an ehlo before its first release, which numbered deliveries "
                "otherwise; deliver its mail with that one, or name another file"
            )
    return version is not None


def _prepare(path: Path, database: Database) -> None:
    is_new = not check_ledger(path, database)
    if is_new:
        database.execute(f"PRAGMA page_size = {_PAGE}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
    database.execute("PRAGMA temp_store = MEMORY")  # no mail in the directory of temporary files
    database.execute("PRAGMA fullfsync = ON")  # macOS: through the cache of the drive
    # Some builds write zeros over each page that becomes free: twice as many pages a message
    database.execute("PRAGMA secure_delete = FAST")
    if is_new:
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    elif database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
        database.executescript(f"BEGIN IMMEDIATE; {_UPGRADE} COMMIT;")


class Flushes(Chores):
    """Commits to disk what is a promise, and to the kernel what is not, such as a claim.

    Each transaction checks that the file is still the one at its path: what is written to a file
    that was removed or replaced would be lost.
    """

    tidies: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)
        self._flush: bool | None = None
        self.is_gone: bool = False
        """Whether a transaction has found that the file is gone."""

    def prepare(self, database: Database, /, *, flush: bool) -> None:
        """Choose whether the commit waits for the disk."""
        if flush is not self._flush:
            database.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._flush = flush

    def finish(self, database: Database, /) -> None:
        """Raise `GoneFileError` if the file is gone, so that nothing is promised."""
        try:
            same = _identity(self._path) == self._identity
        except OSError as error:
            self.is_gone = True
            raise GoneFileError(f"{self._path}: {error.strerror}; put it back") from error
        if not same:
            self.is_gone = True
            raise GoneFileError(f"{self._path}: replaced by another file")

    def settle(self, database: Database, /, *, done: bool) -> None:
        """Do nothing."""

    def aim(self, database: Database, /) -> None:
        """Do nothing: nothing is searched."""

    def catch_up(self, database: Database, is_wanted: Callable[[], bool], /) -> bool:
        """Do nothing; nothing remains."""
        return False


class GoneFileError(StoreError):
    """Raised when the file of a queue was removed or replaced."""


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


# -- accepting -------------------------------------------------------------------------------------


def insert(database: Database, rows: Sequence[FiledRow]) -> list[int]:
    """Store messages, and a delivery for each recipient, which is due now; return their numbers.

    Those that a consumer has a place for are leased at once. No two deliveries ever have the same
    number, as no two messages have: the outcome of one that was dropped meanwhile would end the
    other one.
    """
    values: list[object] = []
    for (id_, sender, _, facts, size, trace, *_), _, digest, accepted, file, body in rows:
        values += (id_, sender, facts, size, trace, digest, accepted, file, body)
    last = _insert(database, _INTO_MESSAGES, values)
    numbers = [*range(last - len(rows) + 1, last + 1)]  # no other process writes meanwhile
    values = []
    for number, (arrival, place, _, accepted, *_) in zip(numbers, rows, strict=True):
        state: tuple[object, ...] = ("waiting", accepted, 0, None)
        if place is not None:
            state = ("running", accepted + place.lease, 1, place.owner)
        for at, recipient in enumerate(arrival.recipients):
            values += (number * PLACES + at, number, recipient, *state)
    _insert(database, _INTO_DELIVERIES, values)
    return numbers


def claimed_at_once(row: FiledRow, number: int) -> Claimed:
    """Return a message that was leased when it was stored under a number, as `claim` does."""
    arrival, first = row.arrival, number * PLACES
    due = [Due(first + at, each, 1) for at, each in enumerate(arrival.recipients)]
    return Claimed(
        *(number, arrival.id, row.digest, row.accepted, arrival.sender, arrival.facts),
        *(arrival.size, arrival.trace, row.body, row.file),
        *(0.0, due, arrival.envelope),
    )


def _insert(database: Database, statements: _Statements, values: list[object]) -> int:
    """Insert rows, whose values follow on each other; return the number of the last one."""
    at, last = 0, 0
    for width, statement in statements:
        while width <= len(values) - at:
            last = database.execute(statement, values[at : at + width]).lastrowid or 0
            at += width
    return last


# -- delivering ------------------------------------------------------------------------------------


def recover(database: Database, now: float, patience: Persistence) -> int:
    """End the leases of a process that has ended; return their number.

    It must be certain that no process delivers from the file. What was under way is due now, and
    what has crashed before a little later, so that one bad message does not stop all others.
    """
    rows = database.execute(
        "SELECT number, attempts FROM deliveries WHERE state = 'running'"
    ).fetchall()
    database.executemany(
        "UPDATE deliveries SET state = 'waiting', owner = NULL, due = ?, error = ?"
        " WHERE number = ?",
        [
            (now + (patience.wait_after(tries - 1, number) if tries > 1 else 0), ENDED, number)
            for number, tries in rows
        ],
    )
    return len(rows)


def claim(
    database: Database, now: float, owner: str, lease: float, most: int, patience: Persistence
) -> Haul:
    """Return up to `most` messages that are due, leased. An attempt counts from now on.

    Deliveries of `owner` itself are left alone, even if their lease has run out.
    """
    due = (
        "SELECT message FROM deliveries WHERE due <= ?"
        " AND (owner IS NULL OR owner != ?) ORDER BY due"
    )
    numbers: dict[int, None] = {}
    for (number,) in database.execute(due, (now, owner)):
        numbers[number] = None
        if len(numbers) == most:
            break
    claimed: list[Claimed] = []
    died: list[tuple[str, str]] = []
    held, is_full = 0, len(numbers) == most
    messages: dict[int, tuple[Any, ...]] = {}
    read = (
        "SELECT number, m.id, digest, accepted, sender, facts, size, trace, body, file"
        " FROM json_each(?) CROSS JOIN messages AS m ON m.number = value"
    )
    for row in database.execute(read, (json.dumps([*numbers]),)):
        messages[row[0]] = row
        held += len(row[8] or b"")
        if held > _MOST_BYTES:
            is_full = True
            break
    due_by_message = _lease(database, messages, now, owner, lease, patience)
    for number, message in messages.items():
        those = due_by_message.get(number, [])
        died += [(message[1], each.recipient) for each in those if not each.attempts]
        if wanted := [each for each in those if each.attempts]:
            claimed.append(Claimed._make([*message, now - message[3], wanted, None]))
    return Haul(claimed, 0.0 if is_full else _next_in(database, now, owner), died)


def _lease(
    database: Database,
    messages: Iterable[int],
    now: float,
    owner: str,
    lease: float,
    patience: Persistence,
) -> dict[int, list[Due]]:
    """Lease the deliveries that are due, and return them; those that are dead have 0 attempts."""
    rows = database.execute(
        "SELECT message, deliveries.number, recipient, attempts, error"
        " FROM json_each(?) CROSS JOIN messages ON messages.number = value"
        f" CROSS JOIN deliveries ON {_OF_MESSAGE}"
        " WHERE due <= ? AND (owner IS NULL OR owner != ?) ORDER BY deliveries.number",
        (json.dumps([*messages]), now, owner),
    ).fetchall()
    found: dict[int, list[Due]] = {}
    leased: list[int] = []
    dead: list[Settled] = []
    for message, number, recipient, attempts, error in rows:
        if attempts >= patience.max_attempts:
            dead.append(Settled(number, "dead", error=error or ENDED))
            due = Due(number, recipient, 0)
        else:
            leased.append(number)
            due = Due(number, recipient, attempts + 1)
        found.setdefault(message, []).append(due)
    database.execute(
        "UPDATE deliveries SET state = 'running', owner = ?, due = ?, attempts = attempts + 1"
        " WHERE number IN (SELECT value FROM json_each(?))",
        (owner, now + lease, json.dumps(leased)),
    )
    settle(database, dead, None, now)
    return found


def _next_in(database: Database, now: float, owner: str) -> float | None:
    """Return the seconds until the next delivery is due that `owner` has not leased."""
    (due,) = database.execute(
        "SELECT min(due) FROM deliveries WHERE due IS NOT NULL AND (owner IS NULL OR owner != ?)",
        (owner,),
    ).fetchone()
    return None if due is None else due - now


def renew(database: Database, numbers: Iterable[int], owner: str, until: float) -> None:
    """Extend the leases of deliveries that are under way."""
    database.executemany(
        "UPDATE deliveries SET due = ? WHERE number = ? AND owner = ?",
        [(until, number, owner) for number in numbers],
    )


def settle(
    database: Database,
    settled: Sequence[Settled],
    owner: str | None,
    now: float,
    *,
    has_files: bool = True,
) -> list[str]:
    """Note what became of deliveries that `owner` has leased (`None`: of any).

    A message without further deliveries is deleted. Returns the names of files to delete after the
    commit, if some of the messages have files. A delivery that is not the owner's any more is left
    as it is.
    """
    done = [each.number for each in settled if each.state is None]
    values = [
        (
            *(each.state, now + each.wait if each.state == "waiting" else None),
            *(None if each.state == "waiting" else now, each.uncounted, each.error),
            *(each.uncounted, each.number, owner, owner),
        )
        for each in settled
        if each.state is not None
    ]
    database.executemany(
        "UPDATE deliveries SET state = ?, due = ?, ended = ?, owner = NULL,"
        " error = CASE WHEN ? THEN error ELSE ? END, attempts = attempts - ?"
        " WHERE number = ? AND (? IS NULL OR owner = ?)",
        values,
    )
    return _finish(database, done, owner, has_files=has_files) if done else []


def _finish(
    database: Database, numbers: Sequence[int], owner: str | None, *, has_files: bool
) -> list[str]:
    """Delete deliveries that `owner` has leased; return the names of files to delete.

    Each statement is for all of them: each step of one costs a change of threads.
    """
    those = "number IN (SELECT value FROM json_each(?)) AND owner IS ?"
    database.execute(f"DELETE FROM deliveries WHERE {those}", (json.dumps(numbers), owner))
    return _delete_done(database, {each // PLACES for each in numbers}, has_files=has_files)


def _delete_done(
    database: Database, messages: Iterable[int], *, has_files: bool = True
) -> list[str]:
    """Delete those of the messages that have no delivery; return the names of their files."""
    those = (
        "FROM messages WHERE number IN (SELECT value FROM json_each(?))"
        f" AND NOT EXISTS (SELECT 1 FROM deliveries WHERE {_OF_MESSAGE})"
    )
    values = (json.dumps([*messages]),)
    files = f"SELECT file {those} AND file IS NOT NULL"
    rows = database.execute(files, values).fetchall() if has_files else []
    database.execute(f"DELETE {those}", values)
    return [file for (file,) in rows]


def purge(database: Database, before: float) -> tuple[list[str], bool]:
    """Delete a slice of what has failed or died before a time.

    Returns the names of files to delete, and whether more may be left.
    """
    those = "SELECT number FROM deliveries WHERE ended IS NOT NULL AND ended < ? LIMIT ?"
    rows = database.execute(
        f"DELETE FROM deliveries WHERE number IN ({those}) RETURNING message", (before, _SLICE)
    ).fetchall()
    names = _delete_done(database, dict.fromkeys(message for (message,) in rows))
    return names, len(rows) == _SLICE


def shift(database: Database, seconds: float) -> None:
    """Move all times of attempts, and the ends of leases, as the clock was."""
    database.execute("UPDATE deliveries SET due = due + ? WHERE due IS NOT NULL", (seconds,))


def has_mail(database: Database) -> bool:
    """Return whether something is to be delivered, now or later."""
    sql = "SELECT 1 FROM deliveries WHERE due IS NOT NULL LIMIT 1"
    return database.execute(sql).fetchone() is not None


def files_in_use(database: Database) -> set[str]:
    """Return the names of the files that have bodies."""
    rows = database.execute("SELECT file FROM messages WHERE file IS NOT NULL")
    return {file for (file,) in rows}


# -- looking, and what a person does ---------------------------------------------------------------


def listed(
    database: Database,
    states: Sequence[State] = (),
    message_id: str | None = None,
    after: int = 0,
) -> list[tuple[int, Listed]]:
    """Return a page of deliveries by state (all without one) or by the id of their message.

    Each has its number; the page begins after that of the last one. All of it is read at once: a
    transaction that a slow reader kept open would let the log of SQLite grow.
    """
    of_message = " AND id = ?" if message_id is not None else ""
    of_states = f" AND state IN ({', '.join('?' * len(states))})" if states else ""
    # The message first if there is one: SQLite would look at all deliveries
    tables = "messages CROSS JOIN deliveries" if of_message else "deliveries JOIN messages"
    rows = database.execute(
        "SELECT deliveries.number, id, accepted, sender, size, recipient, state, due, attempts,"
        f" error FROM {tables} ON messages.number = message AND {_OF_MESSAGE}"
        f" WHERE deliveries.number > ?{of_message}{of_states}"
        " ORDER BY deliveries.number LIMIT ?",
        (after, *([message_id] if of_message else []), *states, _PAGE_OF_ROWS),
    )
    return [
        (number, Listed(id_, accepted, decode_address(sender), size, decode_address(to), *rest))
        for number, id_, accepted, sender, size, to, *rest in rows
    ]


def levels(database: Database, now: float) -> Levels:
    """Return the number of deliveries in each state; and for how long the oldest is due."""
    found: dict[str, float] = dict.fromkeys((*get_args(State), "oldest_due"), 0.0)
    rows = database.execute("SELECT state, count(*), min(due) FROM deliveries GROUP BY state")
    for state, count, due in rows:
        found[state] = count
        if state == "waiting":
            found["oldest_due"] = max(0.0, now - due)
    return found


def ended(database: Database) -> list[int]:
    """Return the numbers of the deliveries that have ended, as failed or dead."""
    rows = database.execute("SELECT number FROM deliveries WHERE ended IS NOT NULL")
    return [number for (number,) in rows]


def act(
    database: Database, what: Act, chosen: str | Sequence[int], now: float
) -> tuple[int, list[str]]:
    """Retry, hold or drop the deliveries of a message, or those of some numbers that have ended.

    `retry` begins again with no attempts, `hold` stops what waits, and `drop` deletes. What is
    under way is left alone, except by `drop`. Returns how many have changed, and files to delete.
    """
    values: tuple[object, ...]
    if isinstance(chosen, str):
        of = f"SELECT deliveries.number FROM messages JOIN deliveries ON {_OF_MESSAGE} WHERE id = ?"
        where, values = f"number IN ({of})", (chosen,)
    else:
        where = "number IN (SELECT value FROM json_each(?)) AND ended IS NOT NULL"
        values = (json.dumps([*chosen]),)
    if what == "retry":
        done = "UPDATE deliveries SET state = 'waiting', due = ?, attempts = 0, ended = NULL"
        done += f" WHERE state != 'running' AND {where} RETURNING message"
        values = (now, *values)
    elif what == "hold":
        done = "UPDATE deliveries SET state = 'held', due = NULL"
        done += f" WHERE state = 'waiting' AND {where} RETURNING message"
    else:
        done = f"DELETE FROM deliveries WHERE {where} RETURNING message"
    rows = database.execute(done, values).fetchall()
    return len(rows), _delete_done(database, dict.fromkeys(message for (message,) in rows))


def content_of(database: Database, message_id: str) -> tuple[bytes, bytes | None, str | None, int]:
    """Return the trace field, the body or the name of its file, and its size.

    Raises `LookupError`.
    """
    row = database.execute(
        "SELECT trace, body, file, size FROM messages WHERE id = ?", (message_id,)
    ).fetchone()
    if row is None:
        raise LookupError(message_id)
    trace, body, file, size = row
    return trace, body, file, size
