"""Shows a running server to others: metrics over HTTP, and snapshots on a control socket.

The sockets are bound before the handler begins, answer once the server listens, and close when it
has ended, so that a shutdown can be watched. They show a snapshot of one process, or of several
together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeAlias

from ehlo.net import Peer
from ehlo.server.observing import control, metrics
from ehlo.server.observing.stats import Snapshot
from ehlo.server.system import listener, privileges

__all__ = ["Views", "Watched"]

logger = logging.getLogger("ehlo.server")

Answer: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Watched(Protocol):
    """Is what the views show: one process, or several as one."""

    async def snapshot(self) -> Snapshot:
        """Return a snapshot, as `stats.snapshot` makes it."""

    def unready(self) -> str:
        """Return why no client should be sent here now, or `""`."""


class Views:
    """Answers on the metrics address and on the control socket; `""` is for none."""

    def __init__(self, watched: Watched, *, metrics: str, control: str, user: str) -> None:
        self._metrics = metrics
        self._control = control.removeprefix("unix:")
        self._user = user
        self._watched = watched
        self._bound: list[tuple[Answer, socket.socket]] = []
        self._servers: list[asyncio.Server] = []
        self._paths: list[str] = []
        self.addresses: list[Peer] = []
        """The addresses that serve metrics."""

    def bind(self) -> None:
        """Bind the sockets; clients wait until `open`. Raises `OSError` for an address in use.

        The control socket belongs to the user that the process is going to run as.
        """
        if self._metrics:
            endpoint = metrics.Endpoint(self._watched)
            for sock in listener.bind(self._metrics):
                self._bound.append((endpoint.answer, sock))
                self.addresses.append(listener.bound_address(sock))
            self._paths += listener.unix_paths(self._metrics)
        if self._control:
            answer = partial(control.answer, self._watched.snapshot)
            self._bound.append((answer, listener.bind_private(self._control)))
            self._paths.append(self._control)
            if self._user and os.getuid() == 0:
                account = privileges.find(self._user)
                os.lchown(self._control, account.uid, account.gid)

    async def open(self) -> None:
        """Start to answer."""
        if self.addresses:
            logger.info("serving metrics on %s", ", ".join(map(str, self.addresses)))
        while self._bound:
            answer, sock = self._bound.pop(0)
            is_unix = sock.family == socket.AF_UNIX
            begin = asyncio.start_unix_server if is_unix else asyncio.start_server
            self._servers.append(await begin(answer, sock=sock))

    def close(self) -> None:
        """Stop, and remove the sockets' paths."""
        for server in self._servers:
            server.close()
        listener.give_back([sock for _, sock in self._bound], self._paths)
        self._servers, self._bound, self.addresses, self._paths = [], [], [], []
