"""Room on the disk: some is left, since SQLite needs it to delete mail.

What is deleted is written to SQLite's log first, and the log can be read back into the file only
if the file can grow by what it holds. On a disk that mail has filled, neither would be possible.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import DiskFullError
from ehlo.store.database import page_size
from ehlo.store.heap import Heap

LEFT: Final = 1 << 20
"""Bytes of the disk that mail leaves, in which much mail can be deleted."""
_UNCHECKED: Final = 1 << 18  # bytes that are stored without another look at the disk
_ROW: Final = 16_384  # bytes that a mail takes in addition to its message


class Room:
    """Decides whether there is room for mails; used in the thread that writes."""

    def __init__(self, path: str, heap: Heap) -> None:
        self._path = path
        self._heap = heap
        self._log = Path(f"{path}-wal").absolute()
        self._directory = self._log.parent
        self._unchecked = _UNCHECKED

    def take(self, sizes: Iterable[int], database: Database) -> None:
        """Take the room of messages of these sizes, in bytes.

        Raises `DiskFullError` if there is not enough for all of them.
        """
        messages = list(sizes)
        wanted = sum(2 * size + _ROW for size in messages)  # in the log, and in the file
        self._unchecked += wanted
        if self._unchecked < _UNCHECKED:
            return
        self._unchecked = 0
        try:
            disk = shutil.disk_usage(self._directory)
            log = _size_of(self._log)
        except OSError:  # the directory is gone, say; SQLite goes on in the file that it has open
            return
        on_heap = [size for size in messages if self._heap.takes(size)]
        grows = self._heap.growth(on_heap)
        missing = wanted - 2 * sum(on_heap) + grows + log + LEFT - disk.free
        # Some file systems say that they have no size at all
        if disk.total and missing > 0 and (grows or missing > unused(database)):
            self._unchecked = _UNCHECKED
            raise DiskFullError(f"{self._path}: no room on the disk; free some space")


def unused(database: Database) -> int:
    """Return the bytes of the file that are not used."""
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return int(free) * page_size(database)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
