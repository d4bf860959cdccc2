"""What the machine lets one process have: memory, and file descriptors."""

from __future__ import annotations

import os
import resource
from pathlib import Path, PurePosixPath

__all__ = ["descriptors", "memory", "open_descriptors", "raise_descriptors"]


def memory(root: Path = Path("/")) -> int:
    """Octets of the machine, or of the least of the control groups that we are in."""
    limits = _limits(root)
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _limits(root: Path) -> list[int]:
    """Those of our groups and of all above them, versions 1 and 2 (cgroups(7))."""
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
    """In a container a path may be one of the host's: what is not there has no limit for us."""
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
    """How many this process may have open; `None` for as many as it likes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def open_descriptors() -> int:
    """How many it has open now; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  names are all that is wanted
    except OSError:
        return 0


def raise_descriptors() -> None:
    """Have as many as the administrator allows: the soft limit becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # some systems allow less than they say; the old limit is as good as before
