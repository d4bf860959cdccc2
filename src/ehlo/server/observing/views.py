"""The windows on a running server: its metrics over HTTP, its control socket.

They are bound before anything of the user's begins, open when the server listens, and close when it
has ended, so that a shutdown can be watched.
What they show is a snapshot that they ask for; of one process, or of several together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ehlo.net import Peer
from ehlo.server.observing import control, metrics
from ehlo.server.system import listener, privileges

if TYPE_CHECKING:
    from ehlo.server.options.config import Options

__all__ = ["Seen", "Views"]

logger = logging.getLogger("ehlo.server")

Answer: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Seen(Protocol):
    """What is looked at: one process, or several as one."""

    async def snapshot(self) -> dict[str, Any]:
        """As `stats.snapshot` makes it."""

    def unready(self) -> str:
        """Why no client should be sent here now; empty where one should."""


class Views:
    """Those that the options ask for."""

    def __init__(self, options: Options, seen: Seen) -> None:
        self._metrics = options.metrics
        self._control = options.control.removeprefix("unix:")
        self._user = options.user
        self._seen = seen
        self._bound: list[tuple[Answer, socket.socket]] = []
        self._servers: list[asyncio.Server] = []
        self._paths: list[str] = []
        self.addresses: list[Peer] = []
        """Where the metrics are."""

    def bind(self) -> None:
        """Who connects waits until `open`. Raises `OSError` when an address cannot be had.

        The control socket is for the user whom we are going to be.
        """
        if self._metrics:
            endpoint = metrics.Endpoint(self._seen)
            for sock in listener.bind(self._metrics):
                self._bound.append((endpoint.answer, sock))
                self.addresses.append(listener.bound_address(sock))
            self._paths += listener.unix_paths(self._metrics)
        if self._control:
            answer = partial(control.answer, self._seen.snapshot)
            self._bound.append((answer, listener.bind_private(self._control)))
            self._paths.append(self._control)
            if self._user and os.getuid() == 0:
                account = privileges.find(self._user)
                os.lchown(self._control, account.uid, account.gid)

    async def open(self) -> None:
        """Answer who connects."""
        if self.addresses:
            logger.info("metrics on %s", ", ".join(map(str, self.addresses)))
        while self._bound:
            answer, sock = self._bound.pop(0)
            is_unix = sock.family == socket.AF_UNIX
            begin = asyncio.start_unix_server if is_unix else asyncio.start_server
            self._servers.append(await begin(answer, sock=sock))

    def close(self) -> None:
        """Nobody is answered any more."""
        for server in self._servers:
            server.close()
        listener.give_back([sock for _, sock in self._bound], self._paths)
        self._servers, self._bound, self.addresses, self._paths = [], [], [], []
