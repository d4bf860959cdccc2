"""Compression: answers are compressed for clients that ask for it, and no other client waits.

Streams, such as events, pass as they are; so does what is compressed already.

Starlette's GZipMiddleware is not used. Before Starlette 1.4 it compresses in the event loop; and it
compresses all types but those that are excluded by name, so a download of any other type costs the
CPU time of a core. It also compresses for a client that says `gzip;q=0`.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LEAST: Final = 1_000
"""Bytes below which it is not worth it."""
_LARGE: Final = 16_384  # bytes, from which on a thread does it
_LEVEL: Final = 4
_COMPRESSIBLE: Final = re.compile(r"text/|application/(?:json|javascript|xml)|image/svg|message/")
_ASKED: Final = re.compile(r"(?:^|[,\s])gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))|,|$)")


class Gzipped:
    """Wraps an ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and _ASKED.search(
            Headers(scope=scope).get("accept-encoding", "")
        ):
            compressing = _Compressing(send)
            await self._app(scope, receive, compressing)
            await compressing.end()
        else:
            await self._app(scope, receive, send)


class _Compressing:
    """Sends one answer; its beginning waits for its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            if message["type"] == "http.response.body":
                message = await _compressed(start, message)
            await self._send(start)
        await self._send(message)

    async def end(self) -> None:
        """Send a beginning that no body has followed: the response was cut off."""
        if self._start is not None:
            await self._send(self._start)


async def _compressed(start: Message, message: Message) -> Message:
    """Return the body, compressed if that is possible; the headers in `start` say so."""
    headers = MutableHeaders(scope=start)
    body = message.get("body", b"")
    if (
        message.get("more_body", False)
        or len(body) < _LEAST
        or "content-encoding" in headers
        or not _COMPRESSIBLE.match(headers.get("content-type", ""))
    ):
        return message
    headers.add_vary_header("Accept-Encoding")
    if len(body) < _LARGE:
        body = gzip.compress(body, _LEVEL)
    else:
        body = await asyncio.to_thread(gzip.compress, body, _LEVEL)
    headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    return {**message, "body": body}
