"""The database: its schema and its version, and how a file is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from ehlo.content.breather import Breather
from ehlo.paths import open_to_append
from ehlo.sqlite.connecting import Database, connect, known_version
from ehlo.sqlite.errors import StoreError, in_words
from ehlo.store.folding import LONGEST_HEADER, has_field
from ehlo.store.heap import Heap

APPLICATION: Final = 0x65686C6F  # "ehlo", in the file's header
VERSION: Final = 4
"""The version of the schema."""
# Bytes, in a new file. With 4,096, SQLite took 300 instead of 190 us for a mail of 100 KB
_PAGE: Final = 16_384
_LOG: Final = 4 << 20  # bytes; with 1 MB, it took 350 instead of 305 us under load
_CACHE: Final = 4_096  # KiB of the writer's; twenty mails of 100 KB are written to the log at once

_SCHEMA: Final = f"""
CREATE TABLE mails(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    inbox TEXT NOT NULL,
    created INTEGER NOT NULL,  -- milliseconds
    is_read INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    attachments INTEGER NOT NULL,
    inlines INTEGER NOT NULL,
    username TEXT NOT NULL,
    summary TEXT NOT NULL,
    -- what search looks at, folded
    message_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    sender TEXT NOT NULL,
    receivers TEXT NOT NULL,
    copied TEXT NOT NULL,
    hidden TEXT NOT NULL,
    reply_to TEXT NOT NULL
);
CREATE INDEX mails_by_inbox ON mails(inbox, number, is_read);
CREATE INDEX unread_mails ON mails(inbox) WHERE is_read = 0;
CREATE INDEX mails_by_age ON mails(created);
CREATE TABLE messages(
    number INTEGER PRIMARY KEY,
    mail_from TEXT NOT NULL,
    rcpt_tos TEXT NOT NULL,
    facts TEXT NOT NULL,
    transcript TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE tags(
    number INTEGER NOT NULL,
    tag TEXT NOT NULL COLLATE NOCASE,
    PRIMARY KEY (number, tag)
) WITHOUT ROWID;
CREATE INDEX tags_by_name ON tags(tag);
CREATE TABLE gone(number INTEGER PRIMARY KEY);  -- mails whose messages are to be deleted
PRAGMA application_id = {APPLICATION};
"""
_SECOND: Final = """
CREATE TABLE sessions(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    inbox TEXT NOT NULL,
    created INTEGER NOT NULL,  -- milliseconds
    username TEXT NOT NULL,
    facts TEXT NOT NULL,
    transcript TEXT NOT NULL,
    size INTEGER NOT NULL  -- of both
);
-- Ready, since each answer has them: to count 10,000 mails takes half a millisecond
CREATE TABLE counts(
    inbox TEXT PRIMARY KEY,
    total INTEGER NOT NULL,
    unread INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counts SELECT inbox, count(*), sum(is_read = 0) FROM mails GROUP BY inbox;
CREATE TRIGGER mail_added AFTER INSERT ON mails BEGIN
    INSERT INTO counts VALUES (new.inbox, 1, new.is_read = 0)
    ON CONFLICT(inbox) DO UPDATE SET total = total + 1, unread = unread + excluded.unread;
END;
CREATE TRIGGER mail_marked AFTER UPDATE OF is_read ON mails BEGIN
    UPDATE counts SET unread = unread - (old.is_read = 0) + (new.is_read = 0)
    WHERE inbox = old.inbox;
END;
CREATE TRIGGER mail_dropped AFTER DELETE ON mails BEGIN
    UPDATE counts SET total = total - 1, unread = unread - (old.is_read = 0)
    WHERE inbox = old.inbox;
    DELETE FROM counts WHERE inbox = old.inbox AND total = 0;
END;
DROP INDEX unread_mails;
"""
# New mails are counted once for each transaction; transcripts are written by columns
_THIRD: Final = "DROP TRIGGER mail_added;"
# So are mails that are dropped; transcripts are text by lines
_FOURTH: Final = "DROP TRIGGER mail_dropped;"
# What makes each version from the one before it; a new file goes through all of them
_STEPS: Final = (_SCHEMA, _SECOND, _THIRD, _FOURTH)
_INDEX: Final = """
CREATE TABLE texts(piece INTEGER PRIMARY KEY, number INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX texts_by_number ON texts(number);
CREATE VIRTUAL TABLE grams USING fts5(
    body, content='texts', content_rowid='piece', detail='none', columnsize=0,
    tokenize='trigram case_sensitive 1'
);
CREATE TRIGGER text_deleted AFTER DELETE ON texts BEGIN
    INSERT INTO grams(grams, rowid, body) VALUES ('delete', old.piece, old.body);
END;
"""


def open_database(path: str, *, durable: bool, max_size: int) -> Database:
    """Open the file for its writer, and make or check its schema.

    With `durable`, a commit survives a power failure, too. `max_size` is in bytes; 0 is unlimited.
    Raises `StoreError`.
    """
    try:
        _make_private(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; name another file") from error
    with in_words(path):
        database = connect(path)
        try:
            _prepare(path, database, durable=durable)
        except BaseException:
            database.close()
            raise
        if max_size:
            pages = max(1, max_size // page_size(database))
            database.execute(f"PRAGMA max_page_count = {pages}")
        return database


def page_size(database: Database) -> int:
    """Return the size of a page in bytes, which an older file has from the ehlo that made it."""
    (size,) = database.execute("PRAGMA page_size").fetchone()
    return int(size)


def _make_private(path: str) -> None:
    """Create the file if there is none; only its user can read it. Raises `OSError`."""
    file = open_to_append(path)
    try:
        if not os.fstat(file).st_size and hasattr(os, "fchmod"):
            os.fchmod(file, 0o600)
    finally:
        os.close(file)


def _prepare(path: str, database: Database, *, durable: bool) -> None:
    version = known_version(path, database, APPLICATION, VERSION, "a store") or 0
    if not version:
        database.execute(f"PRAGMA page_size = {_PAGE}")
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA secure_delete = OFF")  # to delete takes room, too: less with this
    database.execute(f"PRAGMA cache_size = -{_CACHE}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    database.execute(f"PRAGMA wal_autocheckpoint = {_LOG // page_size(database)}")
    if version < VERSION:
        steps = "".join(_STEPS[version:])
        database.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;")


def open_index(path: str, index: str) -> Database:
    """Make the index in a new file, for the thread that fills it. Raises `StoreError`."""
    with in_words(index):
        database = sqlite3.connect(
            Path(index).absolute().as_uri(), uri=True, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_INDEX)
        database.execute("ATTACH ? AS store", (_read_only(path),))
        return database


def open_reader(path: str, index: str, heap: Heap) -> Database:
    """Open the file and its index for a reader. Raises `StoreError`."""
    with in_words(path):
        database = connect(path)
        _add_functions(database, heap)
        database.execute("ATTACH ? AS search", (index,))
        database.execute("PRAGMA query_only = ON")
        return database


def _read_only(path: str) -> str:
    return f"{Path(path).absolute().as_uri()}?mode=ro"


def _add_functions(database: Database, heap: Heap) -> None:
    breather = Breather()  # since a query may ask of each mail

    def has_header(number: int, name: str, value: str) -> bool:
        breather.rest()
        beginning = heap.read(database, number, 0, LONGEST_HEADER) or b""
        return has_field(beginning, name, value)

    database.create_function("has_header", 3, has_header)
