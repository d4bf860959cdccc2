"""Serving: the inbox over HTTP, by uvicorn, in the event loop that serves SMTP.

The loop, its signals and its log are those of the SMTP server. What a client makes it hold is
bounded. A shutdown does not wait for clients that listen to events.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ehlo.net import Peer
from ehlo.server.system import listener

_MOST: Final = 500  # connections and requests; those beyond get 503
_LONGEST_HEADER: Final = 65_536  # bytes
_LONGEST_FRAME: Final = 65_536  # bytes of a message of a WebSocket
_PATIENCE: Final = 0.5  # seconds that requests have at the end
_LAST: Final = 2  # seconds until connections are cut off
SILENT: Final = 30.0
"""Seconds that a connection has to send a whole header, from its start or its last response."""
UNREAD: Final = 120.0
"""Seconds that a client has to read what was sent of a response, before more can be sent."""


class WebCertificate(NamedTuple):
    """Names the files of a certificate chain and of its key, in PEM."""

    cert: str
    key: str = ""
    """Empty if the file of the certificate has it."""


class WebServer:
    """Serves an ASGI application on listening sockets, from `start` to `stop`.

    Example:

        web = WebServer(catcher.asgi, listener.bind("127.0.0.1:8025"))
        await web.start()
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        certificate: WebCertificate | None = None,
    ) -> None:
        self._requests: set[asyncio.Task[object]] = set()
        self._app = app
        self._sockets = list(sockets)
        self._scheme = "http" if certificate is None else "https"
        self.addresses: list[Peer] = [listener.bound_address(sock) for sock in sockets]
        """Where it listens, with the real ports."""
        self._server = _Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                http=_Impatient,
                h11_max_incomplete_event_size=_LONGEST_HEADER,
                ws=_Rejecting,
                ws_max_size=_LONGEST_FRAME,
                lifespan="off",
                log_config=None,
                access_log=False,
                # A header that any client on this machine can send says nothing about its address
                proxy_headers=False,
                server_header=False,
                limit_concurrency=_MOST,
                timeout_graceful_shutdown=_LAST,
                ssl_certfile=None if certificate is None else Path(certificate.cert),
                ssl_keyfile=None if certificate is None else (certificate.key or None),
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._stops = False

    @property
    def url(self) -> str:
        """The URL of the first address."""
        first = self.addresses[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.host, first.host)  # noqa: S104  shown
        return f"{self._scheme}://{Peer(host, first.port)}"

    async def start(self) -> None:
        """Serve. Raises `OSError` and `ssl.SSLError` for files that cannot be used."""
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="ehlo inbox")
        listens = asyncio.ensure_future(self._server.listens.wait())
        await asyncio.wait({self._task, listens}, return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if self._task.done():
            self._close_sockets()
            self._task.result()

    async def stop(self) -> None:
        """Let requests end for a moment, then cut off those that are left."""
        self._stops = True
        if self._task is None:
            self._close_sockets()
            return
        self._server.should_exit = True
        if self._requests:
            await asyncio.wait(self._requests, timeout=_PATIENCE)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # most applications end when the client has gone
        if self._requests:
            await asyncio.wait(self._requests, timeout=_PATIENCE)
        for request in self._requests:
            request.cancel()
        with contextlib.suppress(Exception):  # uvicorn has logged it
            await asyncio.wait_for(self._task, _LAST + 1)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; at the end, an event stream ends, too."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._requests.add(task)
        response = _Response(send, lambda: self._cut(scope))
        try:
            await self._app(scope, receive, response)
        except asyncio.CancelledError:
            if not self._stops:
                raise
        finally:
            self._requests.discard(task)
        if response.is_partial or scope["type"] == "websocket":
            self._cut(scope)

    def _cut(self, scope: Scope) -> None:
        """Cut the connection of a response that ended too early, or of a WebSocket that ended."""
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, _Impatient | _Rejecting) and connection.answers(scope):
                connection.cut()


class _Response:
    """Passes on the messages of a response, notes how far it is, and cuts it if it is not read."""

    def __init__(self, send: Send, cut: Callable[[], None]) -> None:
        self._send = send
        self._cut = cut
        self.is_partial = False
        """Whether the response has begun and is not complete."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_partial = True
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_partial = False
        patience = asyncio.get_running_loop().call_later(UNREAD, self._cut)
        try:
            await self._send(message)
        finally:
            patience.cancel()


class _Impatient(H11Protocol):
    """Serves a connection by h11, which limits the header, and closes a silent connection.

    A connection is silent if it has sent no whole header for `SILENT` seconds since it began, or
    since its last response. A few hundred of these, or of those that do not read their response,
    would keep all other clients out.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(SILENT, self._end_if_silent)

    def on_response_complete(self) -> None:
        """Called when a response has been written; the next header has `SILENT` seconds again."""
        self._silence.cancel()
        self._silence = self.loop.call_later(SILENT, self._end_if_silent)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended."""
        self._silence.cancel()
        super().connection_lost(exc)

    def answers(self, scope: Scope) -> bool:
        """Return whether it answers the request of a scope now."""
        return self._current is not None and self._current.scope is scope

    def cut(self) -> None:
        """Cut the connection: the response cannot be completed.

        uvicorn would log an error without a reason, and wait for a client that does not read.
        """
        if self._current is not None:
            self._current.disconnected = True
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Reject what is no HTTP; where a response has begun already, cut the connection."""
        if self._current is not None:
            self._current.disconnected = True  # so that its own response is dropped
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    @property
    def _current(self) -> RequestResponseCycle | None:
        """The request that is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # `None` before the first request
        return None if cycle is None or cycle.response_complete else cycle

    def _end_if_silent(self) -> None:
        has_asked = self._current is not None
        # A WebSocket has another protocol by then
        if not has_asked and self.transport.get_protocol() is self:
            self.transport.close()
            # It stays open until the client has read all
            self._silence = self.loop.call_later(UNREAD, self.transport.abort)


class _Rejecting(WebSocketsSansIOProtocol):
    """Serves a WebSocket, and logs no error that any client can cause.

    uvicorn logs one for each that the application answers with a status of its own, and for text
    that is not UTF-8.
    """

    _end: asyncio.TimerHandle | None = None

    async def send(self, message: Any) -> None:
        """Send a message of the application."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

    def answers(self, scope: Scope) -> bool:
        """Return whether it serves the WebSocket of a scope."""
        return self.handshake_initiated and self.scope is scope

    def cut(self) -> None:
        """End the connection soon; uvicorn would wait for a client that does not read."""
        self._end = self.loop.call_later(_LAST, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        """Pass on a message of the client, as bytes: the inbox reads none."""
        self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()


class _Server(uvicorn.Server):
    """A server that leaves signals alone, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listens.set()
