"""The site of an inbox under test, without a socket: a desk, an HTTP client, and open connections.

`Line` is one request or WebSocket whose messages a test sends and receives by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx

from ehlo.faults import Faults
from ehlo.inbox import Desk, WebOptions, make_site
from ehlo.store import Store

Site = Callable[..., Any]
DEADLINE = 60.0
HOST = "127.0.0.1:8025"


@contextlib.asynccontextmanager
async def desk(keep: int = 500, **options: Any) -> AsyncIterator[Desk]:
    """Make a desk with a store of its own."""
    async with Store.open(keep=keep) as store:
        made = WebOptions(**options)
        yield Desk(store=store, faults=Faults(seed=1), deliver=store.put, options=made)


class Turns(asyncio.Semaphore):
    """The turns of large messages, which counts how many were taken."""

    taken = 0

    async def acquire(self) -> Literal[True]:
        """Take one."""
        self.taken += 1
        return await super().acquire()


def browser(site: Site | Desk, **options: Any) -> httpx.AsyncClient:
    """Return a client of a site that sends what no browser adds: no `Origin`."""
    app = make_site(site) if isinstance(site, Desk) else site
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", **options)


class Line:
    """One request or WebSocket, open as long as the block `async with Line(site, "/x") as line`."""

    def __init__(
        self,
        site: Site | Desk,
        target: str,
        *,
        websocket: bool = False,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        reads: bool = True,
        has_body: bool = False,
    ) -> None:
        self._app = make_site(site) if isinstance(site, Desk) else site
        parts = urlsplit(target)
        fields = {"host": HOST, **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "websocket" if websocket else "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "ws" if websocket else "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), text.encode()) for name, text in fields.items()],
            "client": ("127.0.0.1", 40_000),
            "server": ("127.0.0.1", 8_025),
            "extensions": {"websocket.http.response": {}},
        }
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._events: deque[dict[str, Any]] = deque()
        self._reads = asyncio.Event()
        if reads:
            self._reads.set()
        self._in.put_nowait(
            {"type": "websocket.connect"}
            if websocket
            else {"type": "http.request", "body": b"", "more_body": has_body}
        )
        self.task: asyncio.Task[None] | None = None
        self.is_closed = False
        """Whether the server has closed the connection by itself."""

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self._app(self.scope, self._in.get, self._send))
        return self

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self._reads.wait()
        if self.is_closed:
            raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'")
        await self._out.put(message)

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        await self.ended()

    def leave(self) -> None:
        """Disconnect, as the server tells the application."""
        kind = "websocket" if self.scope["type"] == "websocket" else "http"
        self._in.put_nowait({"type": f"{kind}.disconnect", "code": 1001})

    def send_body(self, body: bytes) -> None:
        """Send a piece of the body, which is not the last one."""
        self._in.put_nowait({"type": "http.request", "body": body, "more_body": True})

    def reads(self, *, on: bool) -> None:
        """Read what is sent from now on, or no more."""
        if on:
            self._reads.set()
        else:
            self._reads.clear()

    async def ended(self) -> None:
        """Wait until the application has returned."""
        assert self.task is not None
        async with asyncio.timeout(DEADLINE):
            await self.task

    async def message(self) -> MutableMapping[str, Any]:
        """Return the next message of the application."""
        async with asyncio.timeout(DEADLINE):
            return await self._out.get()

    @property
    def has_more(self) -> bool:
        """Whether the application has sent messages that `message` has not returned yet."""
        return not self._out.empty()

    async def body(self) -> list[bytes]:
        """Return the rest of a response, in the pieces in which it came."""
        pieces = []
        is_last = False
        while not is_last:
            message = await self.message()
            pieces.append(message.get("body", b""))
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
        return pieces

    async def event(self, *kinds: str) -> dict[str, Any]:
        """Return the next event of one of these kinds, from a WebSocket or a stream of events."""
        while True:
            while self._events:
                found = self._events.popleft()
                if not kinds or found["Type"] in kinds:
                    return found
            message = await self.message()
            text = message.get("text") or message.get("body", b"").decode()
            lines = (line.removeprefix("data: ") for line in text.splitlines())
            self._events.extend(json.loads(line) for line in lines if line.startswith("{"))
