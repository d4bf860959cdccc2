"""Shows a running server to others: metrics over HTTP, and snapshots on a control socket.

The sockets are bound before the handler begins, answer once the server listens, and close when it
has ended, so that a shutdown can be watched. They show a snapshot of one process, or of several
together.

On the control socket a client sends one line of JSON, and gets one line back. `{"ask": "snapshot"}`
is the only request. The socket's mode lets in the server's own user only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from ehlo.net import Peer
from ehlo.server.observing import metrics
from ehlo.server.observing.stats import Snapshot
from ehlo.server.system import listener, privileges

_PATIENCE: Final = 5.0  # seconds, for the request to arrive and the answer to leave
_LONGEST: Final = 1024  # bytes of a request on the control socket
_REQUEST: Final = {"ask": "snapshot"}

logger = logging.getLogger("ehlo.server")


class Watched(Protocol):
    """Is what the views show: one process, or several as one."""

    async def snapshot(self) -> Snapshot:
        """Return a snapshot, as `stats.snapshot` makes it."""

    def unready(self) -> str:
        """Return why no client should be sent here now, or `""`."""


class Endpoint:
    """Answers one request of each client, a few at a time: descriptors and time are for mail."""

    MOST = 32

    def __init__(self, answer: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client, and close."""
        if self._count >= self.MOST:
            writer.transport.abort()
            return
        self._count += 1
        closed = False
        try:
            async with asyncio.timeout(_PATIENCE):
                writer.write(await self._answer(reader))
                writer.close()
                await writer.wait_closed()
                closed = True
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client has left, is too slow, or its request has no end
        finally:
            self._count -= 1
            if not closed:  # asyncio's transport of Python 3.11 fails to abort twice
                writer.transport.abort()


class Views:
    """Answers on the metrics address and on the control socket; `""` is for none."""

    def __init__(self, watched: Watched, *, metrics: str, control: str, user: str) -> None:
        self._metrics = metrics
        self._control = control.removeprefix("unix:")
        self._user = user
        self._watched = watched
        self._bound: list[tuple[Endpoint, socket.socket]] = []
        self._servers: list[asyncio.Server] = []
        self._paths: list[str] = []
        self.addresses: list[Peer] = []
        """The addresses that serve metrics."""

    def bind(self) -> None:
        """Bind the sockets; clients wait until `open`. Raises `OSError` for an address in use.

        The control socket belongs to the user that the process is going to run as.
        """
        if self._metrics:
            endpoint = Endpoint(self._over_http)
            for sock in listener.bind(self._metrics):
                self._bound.append((endpoint, sock))
                self.addresses.append(listener.bound_address(sock))
            self._paths += listener.unix_paths(self._metrics)
        if self._control:
            self._bound.append((Endpoint(self._as_json), listener.bind_private(self._control)))
            self._paths.append(self._control)
            if self._user and os.getuid() == 0:
                account = privileges.find(self._user)
                os.lchown(self._control, account.uid, account.gid)

    async def open(self) -> None:
        """Start to answer."""
        if self.addresses:
            logger.info("serving metrics on %s", ", ".join(map(str, self.addresses)))
        while self._bound:
            endpoint, sock = self._bound.pop(0)
            is_unix = sock.family == socket.AF_UNIX
            begin = asyncio.start_unix_server if is_unix else asyncio.start_server
            self._servers.append(await begin(endpoint.serve, sock=sock))

    def close(self) -> None:
        """Stop, and remove the sockets' paths."""
        for server in self._servers:
            server.close()
        listener.give_back([sock for _, sock in self._bound], self._paths)
        self._servers, self._bound, self.addresses, self._paths = [], [], [], []

    async def _over_http(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        return await metrics.response(head, self._watched.snapshot, self._watched.unready)

    async def _as_json(self, reader: asyncio.StreamReader) -> bytes:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            line = error.partial  # a client may close its side instead of ending the line
        wanted = _is_request(line)
        reply = await self._watched.snapshot() if wanted else {"error": "unknown request"}
        return json.dumps(reply).encode() + b"\n"


def _is_request(line: bytes) -> bool:
    with contextlib.suppress(RecursionError, ValueError):
        return len(line) <= _LONGEST and bool(json.loads(line) == _REQUEST)
    return False


def ask(path: str) -> Snapshot:
    """Return the snapshot of the server behind the control socket at `path`; this blocks.

    Raises `OSError` if no server answers, `ValueError` if the answer is no snapshot.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        sock.sendall(json.dumps(_REQUEST).encode() + b"\n")
        with sock.makefile("rb") as answer:
            found = json.load(answer)
    if not isinstance(found, dict) or "stats" not in found:
        raise ValueError("not the control socket of ehlo")
    return found
