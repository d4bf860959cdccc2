"""Answers of the API: one resource for each path, bodies with a limit, errors as plain text.

Each endpoint is a coroutine function that takes a request and returns a response. It raises
`RefusedError` for what cannot be done.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ehlo.inbox.api.anatomy import LARGE
from ehlo.inbox.api.goform import ShapeError, from_json, to_bytes, to_text
from ehlo.store import StoreError, TooSlowError

Answering = Callable[[Request], Awaitable[Response]]
Answer = TypeVar("Answer")
Shape = TypeVar("Shape")

MOST_BODY: Final = 5_242_880
"""Bytes of a request with JSON."""
MOST_AT_ONCE: Final = 1_048_576
"""Bytes of a body that is sent as a whole."""
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

_logger = logging.getLogger("ehlo.inbox")


class RefusedError(Exception):
    """Raised by an endpoint: the status and the text of its answer."""

    def __init__(
        self, text: str, status: int = 400, *, as_json: bool = False, kind: str = "text/plain"
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.as_json = as_json
        self.kind = kind


NOT_FOUND: Final = "404 page not found"


def json_answer(value: object) -> Response:
    """Return an answer with a value as JSON."""
    return ready_answer(to_text(value))


def ready_answer(text: str, status: int = 200) -> Response:
    """Return an answer with ready JSON."""
    return Response(to_bytes(text), status, media_type="application/json")


def pieces_answer(pieces: Sequence[bytes], headers: Mapping[str, str]) -> Response:
    """Return an answer whose body is in pieces; if it is large, it is sent in pieces, too."""
    size = sum(map(len, pieces))
    if size <= MOST_AT_ONCE:
        return Response(b"".join(pieces), headers=headers)

    async def each() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return streamed_answer(each(), size, headers)


def streamed_answer(
    pieces: AsyncIterator[bytes], size: int | None, headers: Mapping[str, str]
) -> Response:
    """Return an answer whose body comes in pieces, of `size` bytes in all if that is known."""
    length = {} if size is None else {"content-length": str(size)}
    return StreamingResponse(pieces, headers={**headers, **length})


def text_answer(text: str, status: int = 200, *, kind: str = "text/plain") -> Response:
    """Return an answer with a text."""
    return Response(text.encode("utf-8", "replace"), status, {"content-type": kind})


def done() -> Response:
    """Return the answer to a request that changes something."""
    return text_answer("ok")


class Resource:
    """An ASGI application for one path: an endpoint for each method.

    GET answers HEAD, too; the server leaves the body out. OPTIONS is answered for all.
    """

    def __init__(self, methods: Mapping[str, Answering]) -> None:
        self.methods: Mapping[str, Answering] = MappingProxyType(dict(methods))
        """The endpoints by their methods."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        A response that cannot be completed ends without its last message: so servers close the
        connection, and the client sees that something is missing.
        """
        request = Request(scope, receive)
        response = await self._answer(request)
        try:
            await response(scope, receive, send)
        except ClientDisconnect:  # amid the response; only servers of ASGI 2.4 and later tell
            pass
        except StoreError as error:
            _logger.warning("a response was cut off: path=%r error=%s", request.url.path, error)

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method == "OPTIONS":
            return text_answer("")
        endpoint = self.methods.get(method)
        if endpoint is None:
            head = ["HEAD"] if "GET" in self.methods else []
            return wrong_method(", ".join([*self.methods, *head, "OPTIONS"]))
        try:
            return await endpoint(request)
        except RefusedError as refusal:
            if refusal.as_json:
                return ready_answer(to_text({"Error": refusal.text}), refusal.status)
            return text_answer(refusal.text, refusal.status, kind=refusal.kind)
        except ClientDisconnect:  # amid the body
            return Response(status_code=499)  # which no client reads
        except StoreError as error:
            _logger.error(
                "the store did not answer a request: path=%r error=%s", request.url.path, error
            )
            if isinstance(error, TooSlowError):
                return text_answer("Reading took too long; search for less", 503)
            return text_answer("The store does not answer; see the log", 503)


def resource(path: str, **methods: Answering) -> Route:
    """Return the route of a path: `resource("/api/v1/tags", GET=…, PUT=…)`."""
    return Route(path, Resource(methods))


def wrong_method(allowed: str) -> Response:
    """Return the answer to a method that a path does not have."""
    answer = text_answer("Method Not Allowed\n", 405, kind="text/plain; charset=utf-8")
    answer.headers["allow"] = allowed
    return answer


class _NoRoute:
    """Answers what no route knows, below the API."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_question = scope["method"] == "OPTIONS"
        plain = "text/plain; charset=utf-8"
        answer = (
            text_answer("") if is_question else text_answer("File not found\n", 404, kind=plain)
        )
        await answer(scope, receive, send)


def last_routes() -> list[BaseRoute]:
    """Return the routes behind all others of the API."""
    return [Route("/api/{rest:path}", _NoRoute())]


# -- what a request has ----------------------------------------------------------------------------


async def read_body(request: Request, most: int = MOST_BODY) -> bytes:
    """Return the body of a request, which has at most `most` bytes (0: any number)."""
    pieces = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if most and size > most:
            raise RefusedError("http: request body too large")
        pieces.append(piece)
    return b"".join(pieces)


async def read_json(request: Request, shape: type[Shape], *, default: bytes = b"") -> Shape:
    """Return the JSON in a request. Raises `RefusedError` if it does not have that shape.

    `default` is used for an empty body.
    """
    body = (await read_body(request)).strip() or default
    try:
        return await elsewhere(len(body), lambda: from_json(body, shape))
    except ShapeError as error:
        raise RefusedError(str(error)) from None


async def elsewhere(size: int, work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns; in a thread if it is about many bytes."""
    return await asyncio.to_thread(work) if size > LARGE else work()


def own_sources(request: Request, path: str) -> str:
    """Return a path of this site as sources of a Content-Security-Policy, over HTTP and HTTPS.

    The text is empty if the request has no `Host` that can stand in a policy.
    """
    host = request.headers.get("host", "")
    return f"http://{host}{path} https://{host}{path}" if _HOST.fullmatch(host) else ""


def number_of(request: Request, name: str, default: int) -> int:
    """Return a number in the query; `default` for what is no number, or negative."""
    text = request.query_params.get(name, "")
    digits = text.removeprefix("+")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else default
