"""The link between a parent and one of its workers: JSON objects, one a line, over a socket pair.

The parent writes one `{"task": ...}` before anything else (see `WorkerTask`), and then orders:

    {"order": "drain" | "close" | "reload" | "snapshot"}

The worker writes what happens to it. A snapshot is several lines, so that each stays short:

    {"ready": true}                             it listens, and reads orders from now on
    {"failed": "OSError: no database"}          it cannot start
    {"counts": {...}, "draining": false}        its counters so far, periodically and at its end
    {"reloaded": true}                          it has done an order to reload, well or not
    {"sessions": [{...}, ...]}                  some of the sessions of the next snapshot
    {"snapshot": {...}}                         the rest of it

The recipe in the task is a pickle: it holds functions and certificates, which JSON cannot. Only a
worker unpickles, and only what its parent sent; a parent reads nothing but JSON. Passphrases are in
the recipe, so a task is never logged, and never in an argument or an environment variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self, TypeAlias, TypedDict

INTERRUPT: Final = signal.SIGQUIT
"""Interrupts a worker whose event loop is blocked, and which does not read its orders."""
LONGEST: Final = 2**24
"""The longest line, in bytes. Both ends are ehlo's own, so a longer one is a defect."""
_TIME_TO_CLOSE: Final = 1.0  # seconds for the last lines to leave

Line: TypeAlias = dict[str, Any]


class WorkerTask(TypedDict):
    """The first line that a parent writes."""

    fds: Sequence[Sequence[int]]
    """The listening sockets that the worker inherits, by listener."""
    table: int
    """The open file with the places of all workers, see `Table`."""
    number: int
    """The number of this worker, from 0 on."""
    share: int
    """The number of workers that divide the totals."""
    report_every: float
    """Seconds between two reports of the counters."""
    argv: Sequence[str]
    salt_key: str
    """The secret of `Files` in hexadecimal, which the workers share."""
    recipe: str
    """A pickled `Recipe` in base64."""


def read_task(sock: socket.socket) -> WorkerTask | None:
    """Read the task in a worker, before its event loop exists; `None` if the parent is gone."""
    with sock.makefile("rb") as stream:  # nothing follows until the worker is ready
        line = stream.readline(LONGEST)
    if not line.endswith(b"\n"):
        return None
    task: WorkerTask = json.loads(line)["task"]
    return task


class WorkerLink:
    """Sends and receives the lines of one end of a link.

    A peer that has died is the end of the lines; half a line that it left behind is dropped.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Open one end of a link, which owns the socket from now on."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=LONGEST))

    def send(self, **line: object) -> None:
        """Send a line without waiting; do nothing if the peer is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(line).encode() + b"\n")

    async def drain(self) -> None:
        """Wait while the peer does not read. Raises `OSError` if it is gone."""
        await self._writer.drain()

    async def lines(self) -> AsyncIterator[Line]:
        """Yield each line until the peer is gone. Raises `ValueError` for one that is no line."""
        with contextlib.suppress(OSError):
            while (line := await self._reader.readline()).endswith(b"\n"):
                yield json.loads(line)

    def abort(self) -> None:
        """Close this end, and drop what the peer has not read."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close this end; give the last lines a moment to leave."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _TIME_TO_CLOSE)
