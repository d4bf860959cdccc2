"""Tunes the C library's malloc for a process that only serves; with glibc only.

Bodies of all sizes come and go. By its own rules glibc returns the end of its heap to the system
whenever 128 KiB of it are free, so that a message of 100 KB costs its pages each time, and keeps
free memory between blocks in use for ever. Here it keeps what is free, and returns all of it, from
everywhere, every ten seconds.

malloc belongs to the whole process. Only the command line and its workers call this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

_TRIM_EVERY: float = 10.0  # seconds

# mallopt(3): the parameter's number in malloc.h, and its value
_PARAMETERS: Final = (
    (-1, 67_108_864),  # M_TRIM_THRESHOLD: free bytes at the end of the heap before it shrinks
    (-3, 16_777_216),  # M_MMAP_THRESHOLD: a block of so many bytes gets pages of its own
    (-8, 1),  # M_ARENA_MAX: one heap for all threads; the GIL makes them take turns anyway
)

# A thread's cache (tcache) keeps so many free blocks of each size, in bytes
_MOST_CACHED: Final = 7
_CACHED: Final = range(24, 1033, 16)


@contextlib.contextmanager
def tended(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Set malloc's parameters for good, and return free memory regularly while the block runs.

    With another C library, or a Python without `ctypes`, this does nothing.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for parameter, value in _PARAMETERS:
        library.mallopt(parameter, value)
    timers: list[asyncio.TimerHandle] = []

    def trim() -> None:
        _exchange_cached(library)
        library.malloc_trim(0)
        timers[:] = [loop.call_later(_TRIM_EVERY, trim)]

    timers.append(loop.call_later(_TRIM_EVERY, trim))
    try:
        yield
    finally:
        timers[0].cancel()


def _exchange_cached(library: ctypes.PyDLL) -> None:
    """The small blocks in this thread's cache are freed: they hold pages all over the heap.

    There is no call for that. A block leaves the cache when its size is asked for. When it comes
    back, the cache is full of other blocks, which were free, and mostly next to each other.
    """
    for size in _CACHED:
        kept = [library.malloc(size) for _ in range(_MOST_CACHED)]
        others = [library.malloc(size) for _ in range(_MOST_CACHED)]
        for block in (*others, *kept):
            library.free(block)


def _glibc() -> ctypes.PyDLL | None:
    """The C library, if it has `malloc_trim` and the parameters above."""
    try:
        import ctypes  # many programs never need it, and some builds of Python lack it

        library = ctypes.PyDLL(None)  # keeps the GIL: the calls are short and many
    except (ImportError, OSError):  # OSError: a static C library cannot load itself
        return None
    if not hasattr(library, "malloc_trim"):
        return None
    library.malloc.argtypes = (ctypes.c_size_t,)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    library.free.restype = None
    return library
