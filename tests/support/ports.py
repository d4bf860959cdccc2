"""A port to be closed and opened again, or closed and found closed, while other tests run."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

__all__ = ["reserved_port"]

# Ports that no kernel gives to those who ask for any port, unless Linux was told to
_PORTS = range(20_000, 32_000)
_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def reserved_port(host: str = "127.0.0.1") -> int:
    """Return a free port that no other test gets by asking for port 0.

    A port that the kernel gave is given to another as soon as it is closed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in random.sample(_candidates(), 100):
        with contextlib.suppress(OSError), socket.create_server((host, number), family=family):
            return number
    raise OSError(f"cannot find a free port on {host}")


def _candidates() -> list[int]:
    try:
        low, high = map(int, _GIVEN.read_text().split())
    except OSError:
        return [*_PORTS]
    if _PORTS.stop <= low or high < _PORTS.start:
        return [*_PORTS]
    others = [each for each in range(5_000, 65_536) if not low <= each <= high]
    return others if len(others) >= 100 else [*_PORTS]
