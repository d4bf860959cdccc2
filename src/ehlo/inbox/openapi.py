"""The OpenAPI document of the API, `/api/v1/openapi.json`: a table of operations, and their shapes.

The shapes are the `TypedDict`s that the endpoints use. Every field of a request is optional.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NotRequired, get_args, get_origin, get_type_hints

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import json_answer, resource
from ehlo.inbox.api import shapes
from ehlo.inbox.desk import Desk
from ehlo.inbox.live import faulting, looks, relaying, visits, waiting

_ABOUT: Final = (
    "The API of Mailpit, version 1, and more. All paths are also there below `/inbox/{inbox}`, for "
    "one inbox. Keys in requests match in any case. Errors are plain text, usually with status "
    "400. `/api/events` is a WebSocket with the same events as `/api/v1/events`."
)
_TEXT: Final = "text/plain"
_JSON: Final = "application/json"
_ANY: Final = "*/*"
_BASIC: Final[Mapping[object, Mapping[str, str]]] = MappingProxyType(
    {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": "number"},
        str: {"type": "string"},
        object: {},
    }
)

# Parameters in the query
_NUMBER: Final = MappingProxyType({"type": "integer", "minimum": 0})
_WORDS: Final = MappingProxyType({"type": "string"})
_QUERY: Final[Mapping[str, tuple[Mapping[str, object], str]]] = MappingProxyType(
    {
        "start": (_NUMBER, "How many messages are left out before the first one."),
        "limit": (_NUMBER, "How many messages at most; `messages` returns all with 0."),
        "before": (_WORDS, "A date, or the number of a session: only what is older."),
        "query": (_WORDS, "What to search for, such as `subject:reset is:unread`."),
        "tz": (_WORDS, "The time zone of dates in the query, such as `Europe/Berlin`."),
        "dl": (_WORDS, "With `1`, the answer is a file to save."),
        "embed": (_WORDS, "With `1`, links open in a new window."),
        "remote": (_WORDS, "With `1`, content from elsewhere is loaded."),
        "count": (
            MappingProxyType({"type": "integer", "minimum": 1, "maximum": waiting.MOST_COUNT}),
            "How many messages to wait for.",
        ),
        "timeout": (
            MappingProxyType({"type": "number", "minimum": 0, "maximum": 300}),
            "How many seconds to wait.",
        ),
        "since": (_WORDS, "A date, or the ID of a message: only messages after it."),
    }
)


class Operation(NamedTuple):
    """One method at one path, and its answers."""

    method: str
    path: str
    summary: str
    answer: object
    """The shape of the answer, or its media type."""
    query: tuple[str, ...] = ()
    body: object = None
    """The shape of the request."""
    others: tuple[int, ...] = (400,)
    """The other statuses that it may have."""


_MESSAGE: Final = (400, 404)
_WHICH: Final = ("query", "tz")  # which message `latest` is
OPERATIONS: Final = (
    Operation(
        *("GET", "/api/v1/messages", "List messages, the newest first", shapes.MessageList),
        query=("start", "limit", "before"),
    ),
    Operation(
        *("PUT", "/api/v1/messages", "Mark messages as read or unread", _TEXT),
        *(("tz",), shapes.MarkRequest),
    ),
    Operation(
        *("DELETE", "/api/v1/messages", "Delete messages, or all", _TEXT),
        body=shapes.DeleteRequest,
    ),
    Operation(
        *("GET", "/api/v1/search", "Search for messages", shapes.MessageList),
        query=("query", "start", "limit", "tz"),
    ),
    Operation(
        *("DELETE", "/api/v1/search", "Delete the messages that a query finds", _TEXT),
        query=("query", "tz"),
    ),
    Operation(
        *("GET", "/api/v1/search/wait", "Wait for messages", waiting.FoundMessages),
        query=("query", "tz", "count", "timeout", "since"),
        others=(400, 408, 503),
    ),
    Operation(
        *("GET", "/api/v1/message/{id}", "Return a message, and mark it as read"),
        *(shapes.WholeMessage, ("query", "tz")),
        others=_MESSAGE,
    ),
    Operation(
        *("GET", "/api/v1/message/{id}/headers", "Return the header fields of a message"),
        *(dict[str, list[str]], ("query", "tz")),
        others=_MESSAGE,
    ),
    Operation(
        *("GET", "/api/v1/message/{id}/raw", "Return the source of a message", _TEXT),
        query=("dl", "query", "tz"),
        others=_MESSAGE,
    ),
    Operation(
        *("GET", "/api/v1/message/{id}/part/{part}", "Return the content of a part", _ANY),
        query=("query", "tz"),
        others=_MESSAGE,
    ),
    Operation(
        *("GET", "/api/v1/message/{id}/part/{part}/thumb", "Return a small image of a part"),
        *("image/jpeg", ("query", "tz")),
        others=_MESSAGE,
    ),
    *(
        Operation("GET", f"/api/v1/message/{{id}}/{name}", text, shape, _WHICH, others=_MESSAGE)
        for name, text, shape in (
            ("links", "Return the links in a message", looks.MessageLinks),
            ("codes", "Return the one-time codes in a message", looks.MessageCodes),
            ("session", "Return the session that brought a message", looks.MessageSession),
            ("mime", "Return the parts of a message as a tree", looks.PartShape),
        )
    ),
    Operation(
        *("POST", "/api/v1/message/{id}/release", "Pass a message on to a real server", _TEXT),
        *((), relaying.ReleaseRequest, (400, 404, 503)),
    ),
    Operation(
        *("POST", "/api/v1/send", "Take a message, as if it came by SMTP", shapes.SendAnswer),
        *((), shapes.SendRequest, (400, 413, 503)),
    ),
    Operation("GET", "/api/v1/tags", "List all tags", list[str]),
    Operation(
        *("PUT", "/api/v1/tags", "Replace the tags of messages", _TEXT, ()), shapes.TagsRequest
    ),
    Operation(
        *("PUT", "/api/v1/tags/{tag}", "Rename a tag", _TEXT, (), shapes.TagRequest, _MESSAGE)
    ),
    Operation("DELETE", "/api/v1/tags/{tag}", "Delete a tag", _TEXT, others=_MESSAGE),
    Operation(
        "GET", "/api/v1/faults", "Return the rules by which the server fails", faulting.RuleSet
    ),
    Operation(
        *("PUT", "/api/v1/faults", "Replace all rules", faulting.RuleSet, (), faulting.RuleSet)
    ),
    Operation(
        *("GET", "/api/v1/sessions", "List sessions that brought no mail", visits.SessionList),
        ("before", "limit"),
    ),
    Operation("DELETE", "/api/v1/sessions", "Delete these sessions", _TEXT),
    Operation("DELETE", "/api/v1/faults", "Remove all rules", _TEXT),
    Operation(
        *("GET", "/api/v1/chaos", "Return the triggers of Mailpit's chaos", faulting.ChaosTriggers)
    ),
    Operation(
        *("PUT", "/api/v1/chaos", "Replace the triggers of Mailpit's chaos"),
        *(faulting.ChaosTriggers, (), faulting.ChaosTriggers),
    ),
    Operation("GET", "/api/v1/events", "Follow what changes", "text/event-stream", others=(503,)),
    Operation("GET", "/api/v1/info", "Return versions, sizes and counts", shapes.AppInfo),
    Operation("GET", "/api/v1/webui", "Return what a page needs to know", shapes.WebSettings),
    Operation("GET", "/api/v1/openapi.json", "Return this document", dict[str, object]),
    Operation(
        *("GET", "/view/latest", "Redirect to the newest message", "text/html", ("query", "tz")),
        others=(302,),
    ),
    Operation(
        *("GET", "/view/{id}.html", "Return the HTML of a message", "text/html"),
        *(("embed", "remote", "query", "tz"), None, _MESSAGE),
    ),
    Operation(
        *("GET", "/view/{id}.txt", "Return the text of a message", _TEXT, ("query", "tz")),
        *(None, _MESSAGE),
    ),
    Operation("GET", "/livez", "Return 200, since this is running", "", others=()),
    Operation("GET", "/readyz", "Return 200 if the store answers", "", others=(503,)),
)
"""All operations of the API."""


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a site."""
    paths: dict[str, dict[str, Any]] = {}
    known: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, known
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "ehlo inbox", "version": version("ehlo"), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(known.items())),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
        "security": [{}, {"basic": []}],
    }


def _operation(operation: Operation, known: dict[str, Any]) -> dict[str, Any]:
    names = [part.partition("}")[0] for part in operation.path.split("{")[1:]]
    parameters: list[dict[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": dict(_WORDS)} for name in names
    ]
    for name in operation.query:
        schema, text = _QUERY[name]
        parameters.append(
            {"name": name, "in": "query", "schema": dict(schema), "description": text}
        )
    answer = operation.answer
    media = answer if isinstance(answer, str) else _JSON
    content: dict[str, Any] = {media: {}} if media else {}
    if not isinstance(answer, str):
        content[_JSON] = {"schema": _schema(answer, known)}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "responses": {
            "200": {"description": "It is done", **({"content": content} if content else {})},
            **{str(status): _other(status, operation, content) for status in operation.others},
        },
    }
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        body = _schema(operation.body, known, is_request=True)
        found["requestBody"] = {"content": {_JSON: {"schema": body}}}
    return found


def _other(status: int, operation: Operation, content: Mapping[str, Any]) -> dict[str, Any]:
    if status == 408:  # what did arrive
        return {"description": "There are fewer messages", "content": content}
    is_json = operation.answer is shapes.SendAnswer
    kinds = (_JSON,) if is_json else (_TEXT, "text/html") if status == 302 else (_TEXT,)
    return {"description": "It is not done", "content": {kind: {} for kind in kinds}}


def _identifier(operation: Operation) -> str:
    words = operation.path.replace("/api/v1", "").replace(".", "/").replace("{", "").split("/")
    return "_".join([operation.method.lower(), *(word.rstrip("}") for word in words if word)])


def _schema(shape: Any, known: dict[str, Any], *, is_request: bool = False) -> dict[str, Any]:
    """Return the schema of a shape; those of `TypedDict`s are put into `known`."""
    if shape in _BASIC:
        return dict(_BASIC[shape])
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], known, is_request=is_request)}
    if origin is not None:
        inner = _schema(arguments[1], known, is_request=is_request)
        return {"type": "object", "additionalProperties": inner or True}
    name = shape.__name__ + ("Request" if is_request and "Request" not in shape.__name__ else "")
    if name not in known:
        known[name] = {}  # it may contain itself
        known[name] = _object(shape, known, is_request=is_request)
    return {"$ref": f"#/components/schemas/{name}"}


def _object(shape: Any, known: dict[str, Any], *, is_request: bool) -> dict[str, Any]:
    texts = dict(_texts_of(shape))
    properties: dict[str, Any] = {}
    for name, hint in get_type_hints(shape).items():
        schema = _schema(hint, known, is_request=is_request)
        text = texts.get(name)
        properties[name] = {**schema, "description": text} if text else schema
    found = {
        "type": "object",
        "description": inspect.getdoc(shape) or "",
        "properties": properties,
    }
    hints = get_type_hints(shape, include_extras=True)
    required = [name for name, hint in hints.items() if get_origin(hint) is not NotRequired]
    required = [] if is_request else required
    return {**found, "required": required} if required else found


def _texts_of(shape: type) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of attributes."""
    nodes = [*ast.walk(ast.parse(textwrap.dedent(inspect.getsource(shape))))]
    body = next(node.body for node in nodes if isinstance(node, ast.ClassDef))
    for before, after in pairwise(body):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())


def routes(_desk: Desk) -> list[BaseRoute]:
    """Return the route of the document."""
    described: list[dict[str, Any]] = []  # once asked for: it takes long

    async def answer(request: Request) -> Response:
        if not described:
            described.append(await asyncio.to_thread(document))
        servers = [{"url": str(request.scope.get("root_path", "")) or "/"}]
        return json_answer({**described[0], "servers": servers})

    return [resource("/api/v1/openapi.json", GET=answer)]
