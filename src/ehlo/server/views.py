"""The windows on a running server: its metrics over HTTP, its control socket.

They open when the server listens, and close when it has ended, so that a shutdown can be watched.
What they show is a snapshot that they ask for; of one process, or of several together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from ehlo.server import control, listener, metrics
from ehlo.server.config import Options
from ehlo.session import Peer

__all__ = ["Ask", "Views"]

Ask = Callable[[], Awaitable[dict[str, Any]]]
"""Gives a snapshot, as `stats.snapshot` makes one or `stats.merge` makes of several."""

logger = logging.getLogger("ehlo.server")


class Views:
    """Those that the options ask for."""

    def __init__(self, options: Options, ask: Ask) -> None:
        self._metrics = options.metrics
        self._control = options.control.removeprefix("unix:")
        self._ask = ask
        self._servers: list[asyncio.Server] = []
        self._path: Path | None = None
        self.addresses: list[Peer] = []
        """Where the metrics are."""

    async def open(self) -> None:
        """Raises `OSError` when an address cannot be had."""
        if self._metrics:
            answer = partial(metrics.answer, self._ask)
            for sock in listener.bind(self._metrics):
                self.addresses.append(listener.bound_address(sock))
                self._servers.append(await asyncio.start_server(answer, sock=sock))
            logger.info("metrics on %s", ", ".join(map(str, self.addresses)))
        if self._control:
            sock = listener.bind_private(self._control)
            self._path = Path(self._control)
            answer = partial(control.answer, self._ask)
            self._servers.append(await asyncio.start_unix_server(answer, sock=sock))

    def close(self) -> None:
        """Nobody is answered any more."""
        for server in self._servers:
            server.close()
        self._servers, self.addresses = [], []
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
