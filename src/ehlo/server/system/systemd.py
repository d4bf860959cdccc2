"""What systemd, or who speaks like it, tells a service and wants to hear from it.

Sockets: sd_listen_fds(3). News: sd_notify(3). Without its environment variables nothing is done,
and what cannot be told never keeps a server from its work.
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

__all__ = [
    "VARIABLES",
    "alive",
    "listening_fds",
    "notify",
    "ready",
    "reloading",
    "stopping",
    "watchdog",
    "watchdog_interval",
]

VARIABLES: Final = (
    *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
)
"""They are meant for one process, and not for those that it starts."""

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_PATIENCE: Final = 1.0  # seconds with a service manager that does not read

logger = logging.getLogger("ehlo.server")


def listening_fds(name: str = "") -> list[int]:
    """The sockets that were handed to this process; with a name, those that have it.

    Raises `OSError` when there is none.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise OSError(errno.ENOTCONN, "systemd has handed no socket to this process")
    count = _number("LISTEN_FDS")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = [
        _FIRST + index
        for index in range(count)
        if not name or (index < len(names) and names[index] == name)
    ]
    if not found:
        what = f"no socket named {name!r}" if name else "no socket"
        raise OSError(errno.ENOTCONN, f"systemd has handed {what} to this process")
    return found


def notify(*lines: str, patience: float = _PATIENCE) -> bool:
    """Tell the service manager; whether there is one that could be told within so many seconds."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path  # the abstract name space
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(patience)  # for ever, where it has stopped, would stop us as well
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        logger.warning("cannot tell the service manager %s: %s", lines[0], error)
        return False
    return True


def ready(status: str) -> bool:
    """The server listens, or has done what it was told to."""
    return notify("READY=1", f"STATUS={status}")


def reloading() -> bool:
    """Certificates, or whatever it is, are read again; `ready` says when that is done."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """The server shuts down."""
    return notify("STOPPING=1", "STATUS=Shutting down")


def alive() -> bool:
    """A sign of life. Where nobody has read the last ones it is not waited for."""
    return notify("WATCHDOG=1", patience=0.0)


def watchdog_interval() -> float | None:
    """Seconds within which a sign of life is wanted from this process, if one is."""
    process = os.environ.get("WATCHDOG_PID", "")
    if process and process != str(os.getpid()):
        return None
    microseconds = _number("WATCHDOG_USEC")
    return microseconds / 1e6 if microseconds > 0 else None


@contextlib.contextmanager
def watchdog(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Give signs of life from the loop while the block runs: when it hangs, they end."""
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
