"""Connections to files of SQLite, and the header by which ehlo knows its own files.

A file that another program made, or a newer ehlo, is never changed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ehlo.paths import check_file
from ehlo.sqlite.errors import ADVICE, StoreError

Database = sqlite3.Connection
"""A connection to a file."""
_BUSY: Final = 5.0  # seconds to wait for another program that writes


def connect(path: str, *, writes: bool = True) -> Database:
    """Connect to a file that is there; the connection may change threads.

    Raises `sqlite3.Error`, and `StoreError` for a file that another user could have planted.
    """
    for each in (path, *(f"{path}-{end}" for end in ("wal", "shm", "journal"))):
        try:
            check_file(each)
        except FileNotFoundError:
            pass  # SQLite says so
        except OSError as error:
            raise StoreError(f"{each}: {error.strerror}; {ADVICE}") from error
    database = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )
    if not writes:
        database.execute("PRAGMA query_only = ON")
    return database


def known_version(
    path: str, database: Database, application: int, newest: int, noun: str
) -> int | None:
    """Return the version of a file's schema; `None` if the file is new, and so empty.

    `application` is the id in the header of such files, and `noun` is what they are: "a queue".
    Raises `StoreError` for a file of another program, and for a schema after the version `newest`.
    """
    (found,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not (found or version or tables):
        return None
    if found != application:
        raise StoreError(f"{path}: not {noun} of ehlo; name another file")
    if version > newest:
        raise StoreError(
            f"{path}: made by a newer ehlo (schema {version}; this one knows {newest}); "
            "upgrade ehlo, or name another file"
        )
    return int(version)
