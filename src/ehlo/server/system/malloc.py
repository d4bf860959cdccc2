"""The C library's malloc, in a process that is there to serve; glibc's only, others are left alone.

Bodies of all sizes come and go. By its own rules glibc gives the end of its heap back whenever
128 KiB of it are free, so that a message of 100 KB has its pages taken and given back each time,
and it keeps for ever what is free between things that are held. Here it is told to keep what is
free, and every ten seconds to give back all of it, wherever it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["tended"]

_TRIM_EVERY: float = 10.0  # seconds

# mallopt(3): the parameter's number in malloc.h, and its value
_PARAMETERS: Final = (
    (-1, 67_108_864),  # M_TRIM_THRESHOLD: free octets at the end of the heap before it shrinks
    (-3, 16_777_216),  # M_MMAP_THRESHOLD: octets from which on a block has pages of its own
    (-8, 1),  # M_ARENA_MAX: one heap for all threads, which take turns anyhow
)

# What a thread's cache (tcache) keeps: so many free blocks of each size, in octets
_MOST_CACHED: Final = 7
_CACHED: Final = range(24, 1033, 16)


@contextlib.contextmanager
def tended(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Set malloc for good, and while the block runs give back what is free, again and again."""
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


def _exchange_cached(library: Any) -> None:
    """Free the small blocks that this thread's cache keeps: they hold pages all over the heap.

    There is no call for it. A block is taken out of the cache by asking for its size, and the cache
    is full of others when it comes back: of such as were free, and beside one another mostly.
    """
    for size in _CACHED:
        kept = [library.malloc(size) for _ in range(_MOST_CACHED)]
        others = [library.malloc(size) for _ in range(_MOST_CACHED)]
        for block in (*others, *kept):
            library.free(block)


def _glibc() -> Any:
    """The C library, where it has `malloc_trim` and the parameters above; else `None`."""
    import ctypes  # not where it is not needed: in a loop of the user's own

    library = ctypes.PyDLL(None)  # many short calls, for which nobody waits
    if not hasattr(library, "malloc_trim"):
        return None
    library.malloc.argtypes = (ctypes.c_size_t,)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    library.free.restype = None
    return library
