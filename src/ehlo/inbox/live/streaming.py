"""Events over a connection that stays open: WebSocket, as Mailpit has it, and Server-Sent Events.

Both send the same JSON, `{"Type":…,"Data":…}`. With Server-Sent Events, a client that comes back
gets what it has missed, by `Last-Event-ID`, or `reload` if that is no longer known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ehlo.inbox.desk import Desk, inbox_of
from ehlo.inbox.live.hub import Hub, Notice, Subscription, event_for, event_of
from ehlo.store import StoreError

MOST_LISTENERS: Final = 250
"""Clients that may wait for events at once: half of the connections that there may be."""
_BEAT: Final = 20.0  # seconds after which a comment shows that the connection works
_GOODBYE: Final = 1.0  # seconds to tell a client that it was too slow
_TOO_SLOW: Final = 1008  # RFC 6455 7.4.1: violates a policy
_BUSY: Final = 1013  # try again later
_HEAD: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
)


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of events."""
    stream = _Events(desk)
    return [
        WebSocketRoute("/api/events", stream.websocket),
        Route("/api/v1/events", stream.server_sent, methods=["GET"]),
    ]


class _Events:
    """The endpoints of events."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def websocket(self, websocket: WebSocket) -> None:
        """Send events as text frames. What the client sends is ignored."""
        hub, inbox = self._desk.hub, inbox_of(websocket)
        if hub.listeners >= MOST_LISTENERS:
            await websocket.close(_BUSY)
            return
        await websocket.accept()
        subscription = Subscription()

        async def send() -> None:
            first = await hub.stats(inbox)
            if not await _sent(websocket, first.text):
                return
            while True:
                event = await subscription.get()
                if event.kind and not await _sent(websocket, event.text):
                    return

        async def receive() -> None:
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass

        with (
            hub.listening(inbox, subscription.put),
            contextlib.suppress(WebSocketDisconnect, StoreError),
        ):
            await first_of(send(), receive(), subscription.cut.wait())
        if subscription.cut.is_set():
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await websocket.close(_TOO_SLOW, "too slow")

    async def server_sent(self, request: Request) -> Response:
        """Return a response that does not end."""
        hub = self._desk.hub
        if hub.listeners >= MOST_LISTENERS:
            return PlainTextResponse("Too many clients wait for events\n", 503)
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _HEAD})
        last = request.headers.get("last-event-id", "")
        number = int(last) if last.isascii() and last.isdecimal() and len(last) < 20 else None
        newest = self._desk.store.newest_change
        return _EventStream(hub, inbox_of(request), (number if last else newest), newest)


async def _sent(websocket: WebSocket, text: str) -> bool:
    """Send a text; return whether the server still takes one.

    Servers raise `RuntimeError` once they have closed a connection by themselves, as uvicorn does
    when a client answers no ping.
    """
    try:
        await websocket.send_text(text)
    except RuntimeError:
        return False
    return True


class _EventStream(Response):
    """Events as a response of type `text/event-stream`."""

    def __init__(self, hub: Hub, inbox: str | None, after: int | None, newest: int) -> None:
        super().__init__()
        self._hub = hub
        self._inbox = inbox
        self._after = after  # the last change that the client has seen; `None` if not known
        self._newest = newest

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client leaves, or is too slow."""
        subscription = Subscription()
        with (
            self._hub.listening(self._inbox, subscription.put),
            contextlib.suppress(OSError, StoreError),
        ):
            sending = self._send(subscription, send)
            await first_of(sending, gone(receive), subscription.cut.wait())

    async def _send(self, subscription: Subscription, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEAD)})
        async for text in self._texts(subscription):
            await send(_chunk(text))

    async def _texts(self, subscription: Subscription) -> AsyncIterator[str]:
        """Yield what is sent: what the client has missed, then what comes."""
        missed = None if self._after is None else await self._hub.events_after(self._after)
        sent = self._newest
        if missed is None:
            yield f"id: {sent}\ndata: {event_of('reload', None).text}\n\n"
        else:
            seen = [event_for(self._inbox, event) for event in missed]
            yield "".join(_lines(event) for event in seen if event is not None)
            sent = max([sent, *(event.number for event in missed)])
        yield f"id: {sent}\ndata: {(await self._hub.stats(self._inbox)).text}\n\n"
        while True:
            try:
                async with asyncio.timeout(_BEAT):
                    event = await subscription.get()
            except TimeoutError:
                yield ": ping\n\n"
                continue
            if not event.number or event.number > sent:
                yield _lines(event)


def _lines(event: Notice) -> str:
    number = f"id: {event.number}\n" if event.is_last else ""
    return f"{number}data: {event.text}\n\n" if event.kind else f"{number}\n"


def _chunk(text: str) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


async def gone(receive: Receive) -> None:
    """Return when the client of a request has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_of(*works: Coroutine[object, object, object]) -> None:
    """Run all of `works` until one ends; cancel the others. Raises what the first one raises."""
    tasks: Sequence[asyncio.Task[object]] = [asyncio.ensure_future(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
