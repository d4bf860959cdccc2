"""Memory and file descriptors that the machine lets one process have."""

from __future__ import annotations

import os
import resource
from pathlib import Path, PurePosixPath


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of the machine, or of the smallest of the process's control groups."""
    limits = _limits(root)
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


def descriptors() -> int | None:
    """Return how many this process may have open; `None` is unlimited."""
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
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # some systems allow less than they say; the old limit stays
