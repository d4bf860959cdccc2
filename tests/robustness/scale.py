"""The size of each test: short in `make test`, full in `make soak`, which sets `EHLO_SOAK=1`.

The short form has fewer clients, and asserts counts, order and memory only: it must pass on a busy
machine. Times and throughputs are asserted, and printed, in the full form alone.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Final, TypeVar

from interop.peers import absent

__all__ = ["DEADLINE", "IN_FULL", "KIB", "MIB", "full", "need_descriptors", "peak", "resident"]

IN_FULL: Final = os.environ.get("EHLO_SOAK") == "1"
DEADLINE: Final = 300.0 if IN_FULL else 60.0  # seconds, for what may take long
KIB: Final = 1024
MIB: Final = 1024 * KIB

Size = TypeVar("Size")


def full(size: Size, *, short: Size) -> Size:
    """Return `size` in the full form, else `short`."""
    return size if IN_FULL else short


def need_descriptors(count: int) -> None:
    """Raise the limit of open files for this process and its children, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (ValueError, OSError):
        absent(f"{count} file descriptors are needed, and {hard} allowed")


def peak(pid: int) -> int:
    """Return the most bytes that a process has had in memory."""
    return _status(pid, "VmHWM")


def resident(pid: int) -> int:
    """Return the bytes that a process has in memory now."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * KIB
