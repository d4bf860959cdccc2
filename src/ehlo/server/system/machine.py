"""Memory, disk and files that the machine lets one process have, and its malloc.

Bodies of all sizes come and go. By its own rules glibc returns the end of its heap to the system
whenever 128 KiB of it are free, so that a message of 100 KB costs its pages each time, and keeps
free memory between blocks in use for ever. `tended_malloc` keeps what is free, and returns all of
it, from everywhere, every ten seconds. malloc belongs to the whole process, so only the command
line and its workers call that. Other programs get what glibc does by itself: `adapt_malloc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

logger: logging.Logger = logging.getLogger("ehlo.server")

_OWN_DESCRIPTORS: Final = 32  # at least, for the process itself and what its handlers open
_TRIM_EVERY: float = 10.0  # seconds
_BLOCK: Final = 1_048_576  # bytes
_SUPPOSED_MEMORY: Final = 4 << 30  # where the system does not reveal it
_STDERR: Final = 2  # the last of the standard files

# mallopt(3): the parameter's number in malloc.h, and its value
_PARAMETERS: Final = (
    (-1, 67_108_864),  # M_TRIM_THRESHOLD: free bytes at the end of the heap before it shrinks
    (-3, 16_777_216),  # M_MMAP_THRESHOLD: a block of so many bytes gets pages of its own
    (-8, 1),  # M_ARENA_MAX: one heap for all threads; the GIL makes them take turns anyway
)

# A thread's cache (tcache) keeps so many free blocks of each size, in bytes
_MOST_CACHED: Final = 7
_CACHED: Final = range(24, 1033, 16)


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of the machine, or of the smallest of the process's control groups."""
    limits = _limits(root)
    if not hasattr(os, "sysconf"):  # Windows
        return min([_SUPPOSED_MEMORY, *limits])
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _limits(root: Path) -> list[int]:
    """Return the limits of the own groups and of all above them, versions 1 and 2 (cgroups(7))."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _up(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _up(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return found


def _up(mount: Path, path: str, name: str) -> list[int]:
    """Return the limits along a path, which in a container may be the host's and missing here."""
    group = PurePosixPath(path.lstrip("/"))
    limits = [_limit(mount / each / name) for each in (group, *group.parents) if ".." not in path]
    return [limit for limit in [*limits, _limit(mount / name)] if limit is not None]


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None  # else it is "max"


def free_disk(directory: str) -> int:
    """Return the bytes that are free on the disk of a directory; 0 if there is no such one."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return 0


def descriptors() -> int | None:
    """Return how many this process may have open; `None` is unlimited, or unknown."""
    try:
        import resource  # not on Windows
    except ModuleNotFoundError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def open_descriptors() -> int:
    """Return how many it has open now; 0 if the system does not reveal it."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  only the number is needed
    except OSError:
        return 0


def raise_descriptors() -> None:
    """Raise the soft limit to the hard one."""
    try:
        import resource  # as above
    except ModuleNotFoundError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # some systems allow less than they say; the old limit stays


def open_standard_files() -> None:
    """Open `/dev/null` as each standard file that is closed.

    Otherwise a socket would get its number: programs would write to that, and libuv aborts when it
    closes such a number.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)


def flush_output() -> None:
    """Write what is still buffered for standard output. Raises `OSError` if the disk is full."""
    if sys.stdout is not None and not sys.stdout.closed:
        with contextlib.suppress(BrokenPipeError):  # its reader has seen enough
            sys.stdout.flush()


def drop_output() -> None:
    """Drop what could not be written to standard output: Python tries it again as it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def say_where(addresses: str) -> None:
    """Write to standard error where the server listens, if logging is not configured to say it.

    `addresses` is empty for a server that only delivers from a queue.
    """
    if not logger.hasHandlers() and sys.stderr is not None:
        with contextlib.suppress(OSError):  # it is closed
            started = f"listens on {addresses}" if addresses else "has started"
            sys.stderr.write(f"ehlo {started}; press Ctrl+C to stop\n")
            sys.stderr.flush()


def most_connections(asked: int) -> int:
    """Return how many connections there are file descriptors for: two each, for a body on disk."""
    files = descriptors()
    if files is None:
        return asked
    own = max(_OWN_DESCRIPTORS, open_descriptors() + _OWN_DESCRIPTORS // 2)
    most = max(1, (files - own) // 2)
    if most >= asked:
        return asked
    logger.warning(
        "%d connections at once, not %d: there are %d file descriptors", most, asked, files
    )
    return most


def adapt_malloc() -> None:
    """Take a block of 1 MiB and free it, as the first message of that size does.

    glibc learns of it: from then on, smaller blocks have no pages of their own, and its heap keeps
    up to 2 MiB that are free (mallopt(3), M_MMAP_THRESHOLD). In a program that has set its malloc,
    nothing changes. 12 page faults for each message of 100 KB took 20 us or more.
    """
    bytes(_BLOCK)


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Keep the garbage collector from what there is by now, while the block runs.

    To look through all that is imported takes 30 ms, for which mail would wait.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def tended_malloc(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
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
    """Free the small blocks in this thread's cache, which hold pages all over the heap.

    There is no call for that. A block leaves the cache when its size is asked for. When it comes
    back, the cache is full of other blocks, which were free, and mostly next to each other.
    """
    for size in _CACHED:
        kept = [library.malloc(size) for _ in range(_MOST_CACHED)]
        others = [library.malloc(size) for _ in range(_MOST_CACHED)]
        for block in (*others, *kept):
            library.free(block)


def _glibc() -> ctypes.PyDLL | None:
    """Return the C library, if it has `malloc_trim` and the parameters above."""
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
