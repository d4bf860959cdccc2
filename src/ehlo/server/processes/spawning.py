"""A worker as its parent knows it: a process, the socket that leads there, and its place."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from ehlo.server.processes.collector import Window
from ehlo.server.system import systemd

__all__ = ["MOST_DELAY", "Place", "Process", "backoff", "how", "spawn"]

MOST_DELAY: Final = 30.0  # seconds

# The path must be ours before anything of ours can be imported
_BOOT: Final = (
    "import sys; number = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "from ehlo.server.processes.workers import main; sys.exit(main(number))"
)


def backoff(failures: int) -> float:
    """Seconds until a worker is started again, after so many failures in a row."""
    return min(2.0 ** min(failures - 1, 10), MOST_DELAY) if failures else 0.0


@dataclass(eq=False, slots=True)
class Process:
    """A worker while it lives."""

    popen: subprocess.Popen[bytes]
    control: socket.socket
    window: Window
    ready_at: float | None = None
    heard_at: float = 0.0
    reason: bytes = b""
    reloads: int = 0
    """How often it is to take files anew, and has not said yet that it has."""
    leaving: bool = False
    """It was told to end, so that its end is no failure."""

    def order(self, order: bytes) -> None:
        """Tell it; one that has ended, or will never read what is there, is left alone."""
        with contextlib.suppress(OSError):
            self.control.send(order)


@dataclass(eq=False, slots=True)
class Place:
    """Of one worker, and of who takes its place when it dies."""

    number: int
    process: Process | None = None
    failures: int = 0
    start_at: float | None = 0.0
    """When the next is to be started; `None` for not until something has changed."""
    reason: str | None = None
    """Why the first that could not start could not."""

    def __str__(self) -> str:
        pid = self.process.popen.pid if self.process is not None else 0
        return f"worker {self.number} (process {pid})"


def spawn(control: socket.socket, fds: list[int]) -> subprocess.Popen[bytes]:
    """Start a worker, which inherits these open files. Raises `OSError`."""
    hidden = systemd.VARIABLES
    return subprocess.Popen(  # noqa: S603  this interpreter, on a text of ours
        [sys.executable, "-c", _BOOT, str(control.fileno()), *sys.path],
        pass_fds=[control.fileno(), *fds],
        stdin=subprocess.DEVNULL,
        env={name: text for name, text in os.environ.items() if name not in hidden},
        process_group=0,  # Ctrl+C is for the parent, which passes it on
    )


def how(code: int) -> str:
    """How a process has ended, by its exit code."""
    if code < 0:
        with contextlib.suppress(ValueError):  # most real-time signals have no name
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"
