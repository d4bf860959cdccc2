"""A body on disk: a file without a name, gone with the last who holds it, whatever happens to us.

Writing is for a thread, since a disk may be slow; reading is the handler's, who may be anywhere.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

__all__ = ["Spool", "SpooledFile", "check_directory", "spool_directory"]

_PERSISTENT_TEMP = "/var/tmp"  # noqa: S108  a directory for files that have no name


def spool_directory(wanted: str) -> str:
    """Where bodies go: what was asked for, or a place for temporary files that is on a disk.

    `/tmp` is memory on many machines, and what is put there to spare memory would not.
    """
    if wanted:
        return wanted
    told = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    if not told and os.access(_PERSISTENT_TEMP, os.W_OK | os.X_OK):
        return _PERSISTENT_TEMP
    import tempfile  # as above

    return tempfile.gettempdir()


def check_directory(directory: str) -> None:
    """Whether there can be a body. Raises `OSError`."""
    Spool(directory).close()


class Spool:
    """Octets in a file that has no name. Any number of readers, each at its own place."""

    __slots__ = ("_file", "size")

    def __init__(self, directory: str) -> None:
        """Raises `OSError` when there is no file to be had."""
        import tempfile  # slow to import, and few bodies need it

        self._file = tempfile.TemporaryFile(dir=Path(directory), buffering=0)  # noqa: SIM115  held
        self.size = 0

    def write(self, slices: list[bytes]) -> None:
        """Add to the end; what was written counts only when all of it was. Raises `OSError`."""
        written = 0
        for piece in slices:
            view = memoryview(piece)
            while view:
                done = os.pwrite(self._file.fileno(), view, self.size + written)
                view = view[done:]
                written += done
        self.size += written

    def read_at(self, offset: int, count: int) -> bytes:
        """At most `count` octets from `offset` on; none at the end. Raises `OSError`."""
        return os.pread(self._file.fileno(), max(0, min(count, self.size - offset)), offset)

    def close(self) -> None:
        """Give the file back; who reads later gets a `ValueError`."""
        self._file.close()

    def __del__(self) -> None:
        file = getattr(self, "_file", None)  # there is none where there was no room for it
        if file is not None:
            file.close()


class SpooledFile(io.RawIOBase):
    """`head`, and behind it what a spool holds, as one file for reading."""

    def __init__(self, head: bytes, spool: Spool) -> None:
        self._head = head
        self._spool = spool
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = len(self._head) + self._spool.size
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        if at < 0:
            raise ValueError(f"negative position: {at}")
        self._at = at
        return at

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        head = self._head[self._at : self._at + len(view)]
        behind = max(0, self._at - len(self._head))
        piece = head or self._spool.read_at(behind, len(view))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
