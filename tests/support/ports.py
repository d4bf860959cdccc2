"""A port to be closed and opened again, or closed and found closed, with other tests beside it."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["reserved_port"]

# Below what the kernel gives to those who ask for any port, on Linux as on macOS and Windows
_LOW, _HIGH = 20_000, 32_000


def reserved_port(host: str = "127.0.0.1") -> int:
    """Return a free port that no other test gets by asking for port 0.

    A port that the kernel gave is given to another as soon as it is closed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in random.sample(range(_LOW, _HIGH), 100):
        with contextlib.suppress(OSError), socket.create_server((host, number), family=family):
            return number
    raise OSError(f"cannot find a free port below {_HIGH} on {host}")
