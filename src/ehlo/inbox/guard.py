"""The guard: checks each request before any other part sees it, and adds headers to each response.

1. `Host`: any web page may have a name that resolves to 127.0.0.1 (DNS rebinding).
2. `Origin` and `Sec-Fetch-Site`: pages of other sites may neither change anything nor listen.
3. The login, if there is one.
4. The body: its size, and how long its client may take.

A response gets the headers that it does not set itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ehlo.inbox.desk import WebOptions
from ehlo.inbox.signin import SignIn, TooManyLoginsError
from ehlo.net import is_loopback

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_OPEN: Final = frozenset(("/livez", "/readyz"))
"""Paths that need no login: they say nothing."""
_API: Final = "/api/"
_PART: Final = re.compile(r"/message/(?!latest/)[^/]+/part/[^/]+")  # no page guesses an ID
_VIEW: Final = re.compile(r".*/view/[^/]+\.html")
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:/?#@\[\]\s]+)(?::(?P<port>[0-9]{1,5}))?")
_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_SLOW: Final = 30.0  # seconds without a byte of a body
_LEAST_BODY: Final = 8_388_608  # bytes that any body may have here; parts of the site allow less
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Rejection(NamedTuple):
    """An answer instead of the one of the site."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


_WRONG_HOST: Final = _Rejection(
    403, "This Host is not allowed; add it to --web-hosts or WebOptions.hosts, or use 127.0.0.1.\n"
)
_FOREIGN: Final = _Rejection(403, "Blocked due to CORS violation\n")
_NO_LOGIN: Final = _Rejection(
    401, "Unauthorized.\n", (("WWW-Authenticate", 'Basic realm="Login", charset="UTF-8"'),)
)
_TOO_LARGE: Final = _Rejection(413, "The body is too large.\n", (("Connection", "close"),))
_TOO_MANY: Final = _Rejection(429, "Too many logins have failed.\n", (("Retry-After", "60"),))


class Guard:
    """Wraps the site. `request.state` has `user` if there is a login."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self._options = options
        self._hosts = frozenset(name.lower().rstrip(".") for name in options.hosts)
        self._checks_hosts = options.is_loopback or bool(options.hosts)
        self._origins = _Origins(options.origins)
        self._sign_in = None if options.check is None else SignIn(options.check)
        self._most = max(_LEAST_BODY, 2 * options.max_size) if options.max_size else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, one WebSocket, or what else a server has to say."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = self._path(scope)
        scope = {**scope, "state": {**scope.get("state", {})}}
        added = dict(_HEADERS)
        has_cors = _API in path or _VIEW.fullmatch(path) is not None
        rejection = await self._examine(scope, path, headers)
        if has_cors and rejection not in (_FOREIGN, _WRONG_HOST):
            added |= self._origins.headers(headers)
        send = sender = _Sender(send, added)
        if rejection is None and has_cors and scope.get("method") == "OPTIONS":
            rejection = _Rejection(200, "")
        if rejection is not None:
            await _reject(rejection, scope, receive, send)
        elif scope["type"] == "http":
            await self._app(scope, _Body(receive, self._most, sender), send)
        else:
            await self._app(scope, receive, send)

    def _path(self, scope: Scope) -> str:
        """Return the path below the root of the site."""
        path, outer = str(scope["path"]), str(scope.get("root_path", ""))
        for root in (outer, self._options.root):
            if root and path.startswith(f"{root.rstrip('/')}/"):
                path = path[len(root.rstrip("/")) :]
        return path

    async def _examine(self, scope: Scope, path: str, headers: Headers) -> _Rejection | None:
        """Return what a request is answered with instead; `None` if it may pass."""
        if path in _OPEN and scope.get("method") in _SAFE:
            return None
        if not self._allows_host(headers):
            return _WRONG_HOST
        if self._is_foreign(scope, path, headers):
            return _FOREIGN
        return await self._examine_login(scope, path, headers) or self._examine_size(headers)

    def _examine_size(self, headers: Headers) -> _Rejection | None:
        """Reject a body that is said to be too large; what is not said, `_Body` counts."""
        size = headers.get("content-length", "")
        said = int(size[:20]) if size.isascii() and size.isdecimal() else 0
        return _TOO_LARGE if self._most and said > self._most else None

    async def _examine_login(self, scope: Scope, path: str, headers: Headers) -> _Rejection | None:
        if self._sign_in is None:
            return None
        if scope.get("method") == "OPTIONS" and _API in path and self._origins:
            return None  # browsers send no login before a request of another origin
        client = scope.get("client")
        try:
            user = await self._sign_in.user_of(
                headers.get("authorization", "").encode("latin-1"), client[0] if client else ""
            )
        except TooManyLoginsError:
            return _TOO_MANY
        scope["state"]["user"] = user or ""
        return _NO_LOGIN if user is None else None

    def _allows_host(self, headers: Headers) -> bool:
        if not self._checks_hosts:
            return True
        given = headers.getlist("host")
        match = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        if match is None:
            return False
        name = match["name"].rstrip(".")
        is_local = name.endswith(".localhost") or is_loopback(name.strip("[]"))  # RFC 6761 6.3
        return is_local or name in self._hosts

    def _is_foreign(self, scope: Scope, path: str, headers: Headers) -> bool:
        """Return whether a page of another site asks for something that it may not have."""
        is_write = scope["type"] == "websocket" or scope["method"] not in _SAFE
        site = headers.get("sec-fetch-site", "").lower()
        if not is_write and _API not in path:
            # A page may lead here, but not load a mail unseen: it would be marked as read
            is_led = headers.get("sec-fetch-dest", "document").lower() == "document"
            if site in ("cross-site", "same-site") and not is_led:
                return True
            if _VIEW.fullmatch(path) is None:
                return False
        origins = headers.getlist("origin")
        # Images in a mail are wanted by its frame, which has an origin of its own: `null`
        is_part = not is_write and _PART.search(path) is not None
        is_shown = is_part and headers.get("sec-fetch-mode") == "no-cors"
        if origins and not (is_shown and origins == ["null"]):
            return not self._origins.allow(origins, headers.get("host", ""))
        is_view = not is_write and _API not in path
        is_loaded = site == "same-site" and headers.get("sec-fetch-mode", "").lower() == "no-cors"
        return (site == "cross-site" or is_loaded) and not is_part and not is_view


class _Origins:
    """Origins that are allowed in addition to the one of the site."""

    def __init__(self, given: Iterable[str]) -> None:
        entries = [entry for text in given for entry in re.split(r"[\s,]+", text) if entry]
        self._all = "*" in entries
        self._known = frozenset(entry.lower().rstrip("/") for entry in entries)

    def __bool__(self) -> bool:
        return bool(self._known)

    def allow(self, origins: list[str], host: str) -> bool:
        """Return whether a request with these `Origin` fields is allowed.

        There must be one, and it is that of the site itself or one of those that are given.
        """
        if self._all:
            return True
        origin = _split(origins[0]) if len(origins) == 1 else None
        if origin is None:
            return False
        scheme, name, port = origin
        if _authority(scheme, host) == (name, port):
            return True
        forms = [f"{name}:{port}", *([name] if port == _PORTS[scheme] else [])]
        return any(form in self._known or f"{scheme}://{form}" in self._known for form in forms)

    def headers(self, headers: Headers) -> dict[str, str]:
        """Return the CORS headers of an answer, which name the origin that asked.

        Only call this if that origin is allowed, or if there is none.
        """
        return {
            "Access-Control-Allow-Origin": headers.get("origin", ""),
            "Access-Control-Allow-Methods": "GET, POST, DELETE, PUT, OPTIONS",
            "Access-Control-Allow-Headers": "*",
            "Vary": "Origin",
        }


class _Sender:
    """Sends the messages of an answer, with headers that it has not itself."""

    def __init__(self, send: Send, added: dict[str, str]) -> None:
        self._send = send
        self._added = added
        self.has_begun = False
        """Whether the answer has begun, so that no other one can be sent."""

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in self._added.items():
                if name == "Vary":
                    headers.add_vary_header(value)
                else:
                    headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
            self.has_begun = True
        await self._send(message)


class _Body:
    """Receives the body of a request, if it is neither too large nor too slow.

    Amid the answer, the client of such a body is taken for one that has left.
    """

    def __init__(self, receive: Receive, most: int, answer: _Sender) -> None:
        self._receive = receive
        self._most = most
        self._answer = answer
        self._size = 0
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # what comes now is that the client leaves
            return await self._receive()
        try:
            async with asyncio.timeout(_SLOW):
                message = await self._receive()
        except TimeoutError:
            return self._rejected(408, "the body took too long")
        if message["type"] == "http.request":
            self._is_whole = not message.get("more_body", False)
            self._size += len(message.get("body", b""))
            if self._most and self._size > self._most:
                return self._rejected(413, "the body is too large")
        return message

    def _rejected(self, status: int, text: str) -> Message:
        if self._answer.has_begun:
            return {"type": "http.disconnect"}
        raise HTTPException(status, text)


async def _reject(rejection: _Rejection, scope: Scope, receive: Receive, send: Send) -> None:
    is_websocket = scope["type"] == "websocket"
    if is_websocket and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": rejection.text.strip()})
        return
    plain = "text/plain; charset=utf-8" if rejection.text else "text/plain"
    headers = {"Content-Type": plain, **dict(rejection.headers)}
    await Response(rejection.text, rejection.status, headers)(scope, receive, send)


def _split(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host and port of an origin; `None` for one that is none, such as `null`."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return None
    if parts.scheme not in _PORTS or parts.path or parts.query or parts.fragment:
        return None
    found = _authority(parts.scheme, parts.netloc)
    return None if found is None else (parts.scheme, *found)


def _authority(scheme: str, text: str) -> tuple[str, str] | None:
    """Return host and port of `host[:port]`."""
    match = _HOST.fullmatch(text.lower())
    return None if match is None else (match["name"], match["port"] or _PORTS[scheme])
