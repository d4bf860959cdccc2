"""Errors of SQLite in words: the file, what is wrong with it, and what to do."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ADVICE: Final = "check its directory and mode, or name another file"
"""What to do about a file that cannot be opened."""


class StoreError(Exception):
    """Raised when a file of stored mail cannot do what is asked: the text says why."""


class DiskFullError(StoreError):
    """Raised when there is no room for a mail: the disk is full, or the file has its full size."""


class TooSlowError(StoreError):
    """Raised when reading took too long, and was ended: the search was too large."""


@contextmanager
def in_words(path: str) -> Iterator[None]:
    """Raise errors of SQLite in the block as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _in_words(path, error) from error


def clear_frames(error: BaseException | None) -> None:
    """Clear the frames that an exception and its causes came through, but those that still run.

    They hold what could not be written, and often the exception itself.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _in_words(path: str, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
        return DiskFullError(f"{path}: no room, or the disk failed ({error}); free some space")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"{path}: locked by another program; stop it")
    if name == "SQLITE_INTERRUPT":
        return TooSlowError(f"{path}: reading took too long; search for less")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StoreError(f"{path}: not a database, or broken ({error}); name another file")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return StoreError(f"{path}: cannot be written ({error}); check its directory and its mode")
    return StoreError(f"{path}: {error}")
