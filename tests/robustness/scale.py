"""How large a case is: short in `make test`, and in full by `make soak`, which sets `EHLO_SOAK=1`.

The short form asks for the same, of fewer clients and with more patience, since other work may be
done beside it. What is measured is printed in the full form.
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
    """`size`, or `short` in the short form."""
    return size if IN_FULL else short


def need_descriptors(count: int) -> None:
    """Let this process, and those that it starts, have so many open files, or end the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (ValueError, OSError):
        absent(f"{count} file descriptors are needed, and {hard} allowed")


def peak(pid: int) -> int:
    """The most octets that a process has had in memory."""
    return _status(pid, "VmHWM")


def resident(pid: int) -> int:
    """The octets that it has there now."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * KIB
