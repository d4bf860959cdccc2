"""The protocols between systemd, or another service manager, and a service.

Sockets come by sd_listen_fds(3), and notifications go by sd_notify(3). Without the manager's
environment variables nothing happens, and a notification that fails never stops the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

VARIABLES: Final = (
    *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
)
"""The manager's environment variables: they are for one process, and not for its children."""

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_PATIENCE: Final = 1.0  # seconds for a service manager that does not read

logger: logging.Logger = logging.getLogger("ehlo.server")


def listening_fds(name: str = "") -> list[int]:
    """Return the open files of the sockets that systemd passed to this process.

    With a `name`, only those of that name. Raises `OSError` if there are none.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise OSError(errno.ENOTCONN, "systemd has passed no socket to this process")
    count = _number("LISTEN_FDS")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = [
        _FIRST + index
        for index in range(count)
        if not name or (index < len(names) and names[index] == name)
    ]
    if not found:
        what = f"no socket named {name!r}" if name else "no socket"
        raise OSError(errno.ENOTCONN, f"systemd has passed {what} to this process")
    return found


def notify(*lines: str, patience: float = _PATIENCE) -> bool:
    """Send lines to the service manager; return whether it got them within `patience` seconds."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(patience)  # a manager that has stopped must not stop this process
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        logger.warning("cannot notify the service manager of %s: %s", lines[0], error)
        return False
    return True


def ready(status: str) -> bool:
    """Notify that the server listens, or has reloaded."""
    return notify("READY=1", f"STATUS={status}")


def reloading() -> bool:
    """Notify that the server reloads; call `ready` when it has."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """Notify that the server shuts down."""
    return notify("STOPPING=1", "STATUS=Shutting down")


def alive() -> bool:
    """Send a sign of life, without waiting for a manager that has not read the last ones."""
    return notify("WATCHDOG=1", patience=0.0)


def watchdog_interval() -> float | None:
    """Return the seconds within which the manager wants a sign of life; `None` if it wants none."""
    process = os.environ.get("WATCHDOG_PID", "")
    if process and process != str(os.getpid()):
        return None
    microseconds = _number("WATCHDOG_USEC")
    return microseconds / 1e6 if microseconds > 0 else None


@contextlib.contextmanager
def watchdog(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Send signs of life from the loop while the block runs; they stop when the loop hangs."""
    interval = watchdog_interval()
    if interval is None:
        yield
        return

    timers: list[asyncio.Handle] = []

    def ping() -> None:
        alive()
        timers[:] = [loop.call_later(interval / 2, ping)]

    ping()
    try:
        yield
    finally:
        timers[0].cancel()


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
