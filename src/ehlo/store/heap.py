"""`Heap`: the large messages of a temporary store, in a file without a name.

SQLite writes a message to its log, sums it there, and copies it to the file: for 100 KB that took
about 110 us, and the heap takes 20. A store with a name is one file, and has no heap.

A message goes where one was that is dropped, or else to the end. All other places of messages that
are dropped are given back to the disk. As a place may change hands while it is read, a reader looks
afterwards whether it still belongs to the message.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import DiskFullError

LARGE: Final = 32_768
"""Bytes from which on a message is put on the heap."""
_PAGE: Final = mmap.ALLOCATIONGRANULARITY
_SPARE: Final = 8 << 20  # bytes of the disk that are kept for the next messages
_AT_ONCE: Final = 8 << 20  # bytes that are given back at once, which takes about 1 ms


class Heap:
    """Holds large messages by the numbers of their mails.

    `put`, `drop`, `settle` and `tidy` are for the thread that writes, and belong to its
    transactions; `read` is for any.
    """

    def __init__(self, directory: str = "") -> None:
        """Make the file in `directory`.

        Without one, or on a system that cannot take parts of a file back, all messages are for
        SQLite.
        """
        self._file = _file_in(directory) if directory else -1
        self._places: dict[int, range] = {}
        self._spare = range(0)  # where there was something, and is nothing
        self._end = 0
        self._waste: deque[range] = deque()  # what is to be given back
        # Of a transaction: how it began, and what it changes
        self._before = (self._spare, self._end)
        self._added: list[int] = []
        self._dropped: list[int] = []

    @property
    def size(self) -> int:
        """The bytes of all messages."""
        return sum(map(len, list(self._places.values())))

    @property
    def unused(self) -> int:
        """The bytes of the disk that the file has, and no message."""
        return len(self._spare) + sum(map(len, list(self._waste)))

    def takes(self, size: int) -> bool:
        """Return whether a message of `size` bytes goes here, and not to SQLite."""
        return self._file >= 0 and size >= LARGE

    # -- in the thread that writes -----------------------------------------------------------------

    def growth(self, sizes: Iterable[int]) -> int:
        """Return the bytes by which messages of these sizes, which go here, let the file grow."""
        spare, grows = len(self._spare), 0
        for place in map(_whole_pages, sizes):
            if place <= spare:
                spare -= place
            else:
                grows += place
        return grows

    def put(self, number: int, message: bytes) -> bytes:
        """Store the message of a mail; return what SQLite stores of it, which is all or nothing.

        Raises `DiskFullError`.
        """
        if not self.takes(len(message)):
            return message
        place = _whole_pages(len(message))
        fits = place <= len(self._spare)
        start = self._spare.start if fits else self._end
        self._write(message, start)
        if fits:
            self._spare = self._spare[place:]
        else:
            self._end += place
        self._places[number] = range(start, start + len(message))
        self._added.append(number)
        return b""

    def _write(self, message: bytes, start: int) -> None:
        rest = memoryview(message)
        try:
            while rest:
                count = os.pwrite(self._file, rest, start)
                rest, start = rest[count:], start + count
        except OSError as error:
            text = f"large messages: no room, or the disk failed ({error.strerror})"
            raise DiskFullError(f"{text}; free some space") from error

    def drop(self, numbers: Iterable[int]) -> None:
        """Drop messages, as far as they are here, with the transaction."""
        self._dropped += [number for number in numbers if number in self._places]

    def settle(self, *, done: bool) -> None:
        """Called after each transaction; `done` is false if it was rolled back."""
        added, self._added = self._added, []
        dropped, self._dropped = self._dropped, []
        if not done:
            self._spare, self._end = self._before
            for number in added:
                del self._places[number]
            with suppress(OSError):  # what is behind the end is written over
                if self._file >= 0 and os.fstat(self._file).st_size > self._end:
                    os.ftruncate(self._file, self._end)
            return
        if dropped:
            self._reuse([self._places.pop(number) for number in dropped])
        if self._waste:
            stored = sum(len(self._places.get(number, ())) for number in added)
            # So much that it ends, however much comes
            self._give_back(_AT_ONCE + 2 * _whole_pages(stored))
        self._before = self._spare, self._end

    def tidy(self) -> bool:
        """Give back a part of what is unused; return whether more remains."""
        return self._give_back(_AT_ONCE) and bool(self._waste)

    def _reuse(self, places: list[range]) -> None:
        """Take the longest part of what is free now for the next messages."""
        free = [range(each.start, each.start + _whole_pages(len(each))) for each in places]
        runs = list(_joined([*free, self._spare]))
        longest = max(runs, key=len)
        self._spare = longest[:_SPARE]
        self._waste += [each for each in (*runs, longest[_SPARE:]) if each is not longest and each]

    def _give_back(self, most: int) -> bool:
        """Give back places, of so many bytes (whole pages) at most; return whether that worked."""
        while self._waste and most > 0:
            place = self._waste.popleft()
            rest = place[most:]
            try:
                _free(self._file, place[:most])
            except OSError:  # no file descriptor is left, say; later there may be one
                self._waste.append(place)
                return False
            if rest:
                self._waste.appendleft(rest)
            most -= len(place)
        return True

    # -- in any thread -----------------------------------------------------------------------------

    def read(
        self, database: Database, number: int, start: int, size: int, schema: str = "main"
    ) -> bytes | None:
        """Return `size` bytes of a message, from here or from SQLite, while other threads run.

        Returns `None` if it was dropped after the transaction of the reader began. Raises
        `sqlite3.Error`.
        """
        place = self._places.get(number)
        if place is not None:
            part = place[start : start + size]
            data = os.pread(self._file, len(part), part.start)
            return data if self._places.get(number) is place else None
        with database.blobopen("messages", "data", number, readonly=True, name=schema) as blob:
            if size and not len(blob):
                return None
            blob.seek(start)
            return blob.read(size)

    def close(self) -> None:
        """Close the file, which deletes it."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _joined(places: Iterable[range]) -> Iterator[range]:
    """Yield the runs of places, of which one that begins where another ends is a part."""
    run = range(0)
    for place in sorted(places, key=lambda each: each.start):
        if place.start == run.stop:
            run = range(run.start, place.stop)
        else:
            yield run
            run = place
    yield run


def _file_in(directory: str) -> int:
    """Return the file, or -1 if there can be none that gives back what is unused."""
    if not (hasattr(os, "pread") and hasattr(mmap, "MADV_REMOVE")):
        return -1
    try:
        file, path = tempfile.mkstemp(dir=directory)
    except OSError:
        return -1
    try:
        Path(path).unlink()
        os.ftruncate(file, _PAGE)
        _free(file, range(_PAGE))
    except OSError:  # a file system that has no holes
        os.close(file)
        return -1
    return file


def _free(file: int, place: range) -> None:
    """Give the disk of a place back, which is a hole in the file then."""
    stop = min(place.stop, os.fstat(file).st_size)
    with mmap.mmap(file, stop - place.start, offset=place.start) as pages:
        pages.madvise(mmap.MADV_REMOVE)
