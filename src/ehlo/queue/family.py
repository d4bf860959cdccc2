"""The files of a queue: a database for each process, its locks, and the bodies next to it.

`mail.db` stands for `mail-0.db`, `mail-1.db` and so on. A process that accepts mail owns one, and
one process at a time delivers from each. Locks end with their process, whatever ends it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ehlo import paths
from ehlo.message import Message, Spool
from ehlo.queue.facts import body_of
from ehlo.queue.urls import check_not_mistyped, shown
from ehlo.sqlite.errors import DiskFullError, StoreError
from ehlo.sqlite.locking import Lock

_MOST: Final = 1_000  # files of one queue
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE: Final = "check its directory, its mode and its disk"


class Family:
    """The files of one queue, by its URL, which is the path of an SQLite file.

    Raises `ValueError` for another kind of URL.
    """

    def __init__(self, url: str) -> None:
        if not url or "://" in url:
            wrong = "not supported; write mail.db, or postgresql://..."
            raise ValueError(f"queue {shown(url)!r}: {wrong}")
        check_not_mistyped(url)
        path = Path(url)
        if not path.name or url.endswith(("/", os.sep)) or _is_directory(path):
            raise ValueError(f"queue {url!r}: a directory; write the path of a file: mail.db")
        self.directory: Path = path.parent.absolute()
        self._stem, self._suffix = path.stem, path.suffix
        self._name = re.compile(rf"{re.escape(path.stem)}-[0-9]{{1,4}}{re.escape(path.suffix)}")

    def member(self, number: int) -> Path:
        """Return the path of one of the files."""
        return self.directory / f"{self._stem}-{number}{self._suffix}"

    def members(self) -> list[Path]:
        """Return the files that are there, those of the first processes first.

        Raises `StoreError`.
        """
        try:
            found = [each for each in self.directory.iterdir() if self._name.fullmatch(each.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.directory}: {error.strerror}; {_ADVICE}") from error
        return sorted(found, key=lambda path: (len(path.name), path.name))

    def own(self) -> tuple[Path, Lock]:
        """Return the first file that no other process accepts mail for. Raises `StoreError`."""
        for number in range(_MOST):
            path = self.member(number)
            lock = Lock.taken(path, "accept")
            if lock is not None:
                return path, lock
        raise StoreError(f"{self.member(0)}: all files are locked; stop the other processes")


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # of what cannot be looked at, something else says why
        return False


class BodyFiles:
    """The bodies of one database that are too large for a row: a directory of files next to it."""

    def __init__(self, database: Path) -> None:
        self._directory = database.with_name(f"{database.name}-bodies")

    def write(self, message: Message, seen: Callable[[bytes], object]) -> str:
        """Write a body and wait until it is on disk; return the name of its file.

        `seen` is called with each chunk of it. Raises `StoreError`. Then there is no file.
        """
        name = secrets.token_hex(16)
        path = self._directory / name
        try:
            self._make()
            file = paths.create(str(path), 0o600)
            try:
                with open(file, "wb", buffering=0) as out:  # noqa: PTH123  a descriptor
                    for chunk in body_of(message):
                        seen(chunk)
                        rest = memoryview(chunk)
                        while rest:
                            rest = rest[out.write(rest) :]
                    os.fsync(out.fileno())
                _sync_directory(self._directory)
            except BaseException:
                self.delete([name])
                raise
        except OSError as error:
            if error.errno in _FULL:
                raise DiskFullError(f"{path}: {error.strerror}; free some space") from error
            raise StoreError(f"{path}: {error.strerror or error}; {_ADVICE}") from error
        return name

    def _make(self) -> None:
        """Make the directory, and have its name on disk, too."""
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(0o700)
            _sync_directory(self._directory.parent)

    def path(self, name: str) -> Path:
        """Return the path of a body."""
        return self._directory / name

    def delete(self, names: Iterable[str]) -> None:
        """Delete files. One that cannot be deleted is left for `sweep`."""
        for name in names:
            with contextlib.suppress(OSError):
                paths.remove(str(self.path(name)))

    def sweep(self, used: set[str]) -> int:
        """Delete the files that no message has; return their number.

        Only the process that accepts for this database may do so, before it accepts.
        """
        try:
            found = set(paths.names_in(str(self._directory)))
        except OSError:
            return 0
        self.delete(found - used)
        return len(found - used)


class FiledBody(Spool):
    """Reads a body from its file in a queue, as a `Message` does from any that is on disk."""

    __slots__ = ("_reader", "_seeking")

    def __init__(self, path: Path, size: int) -> None:
        """Open the file. Raises `OSError`, and `StoreError` if it does not have `size` bytes."""
        self._reader = os.fdopen(paths.open_to_read(str(path)), "rb", buffering=0)
        self._seeking = threading.Lock()  # handlers read in threads
        self.size: int = os.fstat(self._reader.fileno()).st_size
        if self.size != size:
            raise StoreError(
                f"{path}: {self.size} of {size} bytes; restore it, or drop the message"
            )

    def read_at(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset`; `b""` at the end. Raises `OSError`."""
        with self._seeking:
            self._reader.seek(offset)
            return self._reader.read(max(0, count))

    def read_after(self, head: bytes) -> bytes:
        """Return `head` and the whole body. Raises `OSError`."""
        with self._seeking:
            self._reader.seek(0)
            return head + self._reader.readall()

    def close(self) -> None:
        """Close the file; reading it later raises `ValueError`."""
        self._reader.close()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):  # otherwise opening the file failed
            self.close()


def _sync_directory(directory: Path) -> None:
    if sys.platform == "win32":  # pragma: no cover
        return
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
