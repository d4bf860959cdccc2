"""Memory that several processes share: whole numbers, each of which one process writes.

The system writes a number as a whole, so that no lock is needed to read those of the others.
"""

from __future__ import annotations

import mmap
import os
import tempfile

_SIZE = memoryview(b"").cast("I").itemsize


def create(count: int) -> int:
    """Return an open file that holds `count` numbers, all 0; its caller closes it."""
    fd = _anonymous_file()
    os.truncate(fd, count * _SIZE)
    return fd


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # on Linux, where no directory need be writable
        return os.memfd_create("ehlo")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def numbers(fd: int) -> memoryview[int]:
    """Return the numbers in the file, which may be closed afterwards."""
    return memoryview(mmap.mmap(fd, 0)).cast("I")
