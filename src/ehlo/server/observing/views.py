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
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from ehlo.net import Peer
from ehlo.server.observing import metrics
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.stats import Snapshot
from ehlo.server.system import listener, privileges

_PATIENCE: Final = 5.0  # seconds, for the request to arrive and the answer to leave
_LONGEST: Final = 65_536  # bytes of a request
_REQUEST: Final = {"ask": "snapshot"}

logger: logging.Logger = logging.getLogger("ehlo.server")


class Watched(Protocol):
    """Is what the views show: one process, or several as one."""

    async def snapshot(self) -> Snapshot:
        """Return a snapshot, as `stats.snapshot` makes it."""

    def unready(self) -> str:
        """Return why no client should be sent here now, or `""`."""


class Endpoint:
    """Answers one request of each client, a few at a time: descriptors and time are for mail.

    When there are too many, the oldest is dropped, and first of all one that has asked nothing: a
    client that asks at once is answered, however many are silent.
    """

    MOST = 32

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]], end: bytes) -> None:
        """`answer` gets a request, which has `end` in it or ends with the client's side."""
        self.answer = answer
        self.end = end
        self._visits: dict[Visit, None] = {}  # the oldest first
        self._closed = False

    def __call__(self) -> Visit:
        """Return the protocol for a client."""
        return Visit(self)

    def admit(self, visit: Visit) -> None:
        """Note a client that has connected."""
        if self._closed:  # it was accepted before
            visit.drop()
            return
        if len(self._visits) >= self.MOST:
            silent = (each for each in self._visits if not each.asked)
            next(silent, next(iter(self._visits))).drop()
        self._visits[visit] = None

    def leave(self, visit: Visit) -> None:
        """Note that a client has gone, or is dropped."""
        self._visits.pop(visit, None)

    def close(self) -> None:
        """Drop all clients."""
        self._closed = True
        for each in list(self._visits):
            each.drop()


class Visit(asyncio.Protocol):
    """Reads the request of one client, answers it, and closes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._request = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle
        self._task: asyncio.Task[None] | None = None

    @property
    def asked(self) -> bool:
        """Whether the request has come."""
        return self._task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self.drop)
        self._endpoint.admit(self)

    def data_received(self, data: bytes) -> None:
        """Called with bytes of the request; what follows it is ignored."""
        if self.asked:
            return
        self._request += data
        if self._endpoint.end in self._request:
            self._begin()
        elif len(self._request) > _LONGEST:
            self.drop()

    def eof_received(self) -> bool:
        """Called when the client has closed its side, instead of ending its request."""
        if not self.asked:
            self._begin()
        return True  # for the answer

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's
        """Called when the connection has ended."""
        self._timer.cancel()
        self._endpoint.leave(self)
        if self._task is not None:
            self._task.cancel()

    def drop(self) -> None:
        """Cut the client off."""
        self._endpoint.leave(self)
        self._transport.abort()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._reply())

    async def _reply(self) -> None:
        try:
            self._transport.write(await self._endpoint.answer(self._request))
            self._transport.close()
        except Exception as error:  # noqa: BLE001  nothing awaits this task
            log_failure(logger, error, "a request for metrics or a snapshot failed")
            self.drop()


class Views:
    """Answers on the metrics address and on the control socket; `""` is for none."""

    def __init__(self, watched: Watched, *, metrics: str, control: str, user: str) -> None:
        self._metrics = metrics
        self._control = control.removeprefix("unix:")
        self._user = user
        self._watched = watched
        self._bound: list[tuple[Endpoint, socket.socket]] = []
        self._servers: list[asyncio.Server] = []
        self._endpoints: list[Endpoint] = []
        self._paths: list[str] = []
        self.addresses: list[Peer] = []
        """The addresses that serve metrics."""

    def bind(self) -> None:
        """Bind the sockets; clients wait until `open`. Raises `OSError` for an address in use.

        The control socket belongs to the user that the process is going to run as.
        """
        if self._metrics:
            endpoint = Endpoint(self._over_http, b"\r\n\r\n")
            for sock in listener.bind(self._metrics):
                self._bound.append((endpoint, sock))
                self.addresses.append(listener.bound_address(sock))
            self._paths += listener.unix_paths(self._metrics)
        if self._control:
            sock = listener.bind_private(self._control, privileges.owner_for(self._user))
            self._bound.append((Endpoint(self._as_json, b"\n"), sock))
            self._paths.append(self._control)

    async def open(self) -> None:
        """Start to answer."""
        if self.addresses:
            logger.info("serving metrics on %s", ", ".join(map(str, self.addresses)))
        loop = asyncio.get_running_loop()
        while self._bound:
            endpoint, sock = self._bound.pop(0)
            given: dict[str, object] = {"sock": sock}
            begin: Callable[..., Awaitable[asyncio.Server]] = loop.create_server
            if sock.family == listener.UNIX:
                begin = loop.create_unix_server
                if sys.version_info >= (3, 13):  # which would unlink a path that may be another's
                    given["cleanup_socket"] = False
            self._servers.append(await begin(endpoint, **given))
            self._endpoints.append(endpoint)

    def close(self) -> None:
        """Stop, and remove the sockets' paths."""
        for server in self._servers:
            server.close()
        for endpoint in self._endpoints:
            endpoint.close()
        listener.give_back([sock for _, sock in self._bound], self._paths)
        self._servers, self._endpoints, self._bound = [], [], []
        self.addresses, self._paths = [], []

    async def _over_http(self, head: bytes) -> bytes:
        return await metrics.response(head, self._watched.snapshot, self._watched.unready)

    async def _as_json(self, line: bytes) -> bytes:
        wanted = _is_request(line)
        reply = await self._watched.snapshot() if wanted else {"error": "unknown request"}
        return json.dumps(reply).encode() + b"\n"


def _is_request(line: bytes) -> bool:
    with contextlib.suppress(RecursionError, ValueError):
        return bool(json.loads(line) == _REQUEST)
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
