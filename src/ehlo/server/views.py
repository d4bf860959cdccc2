"""The windows on a running server: its metrics over HTTP, its control socket.

They open when the server listens, and close when it has ended, so that a shutdown can be watched.
What they show is a snapshot that they ask for; of one process, or of several together.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ehlo.server import control, listener, metrics
from ehlo.server.config import Options
from ehlo.session import Peer

__all__ = ["Seen", "Views"]

logger = logging.getLogger("ehlo.server")


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
        self._seen = seen
        self._servers: list[asyncio.Server] = []
        self._path: Path | None = None
        self.addresses: list[Peer] = []
        """Where the metrics are."""

    async def open(self) -> None:
        """Raises `OSError` when an address cannot be had."""
        if self._metrics:
            answer = partial(metrics.answer, self._seen)
            for sock in listener.bind(self._metrics):
                self.addresses.append(listener.bound_address(sock))
                self._servers.append(await asyncio.start_server(answer, sock=sock))
            logger.info("metrics on %s", ", ".join(map(str, self.addresses)))
        if self._control:
            sock = listener.bind_private(self._control)
            self._path = Path(self._control)
            answer = partial(control.answer, self._seen.snapshot)
            self._servers.append(await asyncio.start_unix_server(answer, sock=sock))

    def close(self) -> None:
        """Nobody is answered any more."""
        for server in self._servers:
            server.close()
        self._servers, self.addresses = [], []
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
