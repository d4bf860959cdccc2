"""Looks into a message: its links and codes, the session that brought it, and its MIME parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content import Content, read_content
from ehlo.content.fields import one_line
from ehlo.content.mime import Part, parse_message
from ehlo.content.transfer import decoded_size
from ehlo.inbox.answers import Answering, elsewhere, ready_answer, resource
from ehlo.inbox.api.anatomy import rest_for
from ehlo.inbox.api.goform import to_text
from ehlo.inbox.api.single import find, reading
from ehlo.inbox.desk import Desk
from ehlo.store import StoredMessage
from ehlo.transcript import Line


class LinkShape(TypedDict):
    """An address that a person can follow."""

    URL: str
    Text: str
    """The label of the link, or what stands before it."""
    Score: float
    """How likely it is what the message asks its reader to open, from 0 to 1."""


class MessageLinks(TypedDict):
    """The links of a message, the best first."""

    Links: list[LinkShape]


class CodeShape(TypedDict):
    """A one-time code."""

    Code: str
    """The code as a person enters it."""
    Score: float
    """How likely it is a code, from 0 to 1."""


class MessageCodes(TypedDict):
    """The one-time codes in a message, the best first."""

    Codes: list[CodeShape]


class SessionLine(TypedDict):
    """A line of a session."""

    Time: float
    """When it was read or written, in seconds since the epoch."""
    Offset: float
    """Seconds since the first line."""
    Direction: str
    """`client`, `server` or `note`."""
    Text: str


class MessageSession(TypedDict):
    """The session that brought a message."""

    MailFrom: str
    """The envelope sender."""
    RcptTos: list[str]
    """The envelope recipients."""
    Username: str
    Facts: Mapping[str, object]
    """What is known of the session and of the envelope, such as `peer`, `helo` and `tls`."""
    Lines: list[SessionLine]


class PartShape(TypedDict):
    """A part of a message, with all parts in it."""

    PartID: str
    ContentType: str
    Charset: str
    Encoding: str
    """The Content-Transfer-Encoding."""
    Disposition: str
    FileName: str
    ContentID: str
    Size: int
    """The size in bytes, decoded."""
    Start: int
    """Where its body begins in the message, in bytes."""
    End: int
    Headers: list[list[str]]
    """The fields as pairs of name and value, decoded."""
    MoreHeaders: int
    """The number of fields that are left out."""
    Parts: list[PartShape]


def links_of(stored: StoredMessage) -> MessageLinks:
    """Return the links of a message."""
    found = _content_of(stored).links
    return {"Links": [{"URL": each.url, "Text": each.text, "Score": each.score} for each in found]}


def codes_of(stored: StoredMessage) -> MessageCodes:
    """Return the codes in a message."""
    found = _content_of(stored).codes
    return {"Codes": [{"Code": each.text, "Score": each.score} for each in found]}


def session_of(stored: StoredMessage) -> MessageSession:
    """Return the session that brought a message."""
    return {
        "MailFrom": stored.mail_from,
        "RcptTos": stored.rcpt_tos,
        "Username": stored.mail.username,
        "Facts": stored.facts,
        "Lines": session_lines(stored.transcript),
    }


def session_lines(lines: Sequence[Line]) -> list[SessionLine]:
    """Return the lines of a session, as the API has them."""
    begin = lines[0].time if lines else 0.0
    return [
        {
            "Time": line.time,
            "Offset": round(line.time - begin, 6),
            "Direction": line.direction,
            "Text": line.text,
        }
        for line in lines
    ]


def mime_of(stored: StoredMessage) -> PartShape:
    """Return the tree of the parts of a message; it has at most 100 levels."""
    data = stored.data
    return _part_of(data, parse_message(data, rest=rest_for(len(data))), "0", "")


def _content_of(stored: StoredMessage) -> Content:
    return read_content(stored.data, rest_for(len(stored.data)))


def _part_of(data: bytes, part: Part, number: str, prefix: str) -> PartShape:
    given = part.parameters.parameters
    encoding = part.transfer_encoding
    fields = [[each.decoded_name, one_line(each.text)] for each in part.fields]
    size = decoded_size(memoryview(data)[part.start : part.end], encoding)
    inner = [(f"{prefix}{count}", child) for count, child in enumerate(part.children, 1)]
    return {
        "PartID": number,
        "ContentType": part.content_type,
        "Charset": one_line(given.get("charset", "")),
        "Encoding": encoding,
        "Disposition": part.disposition.value,
        "FileName": one_line(part.disposition.parameters.get("filename") or given.get("name", "")),
        "ContentID": one_line(part.first("content-id")).strip().strip("<>"),
        "Size": size,
        "Start": part.start,
        "End": part.end,
        "Headers": fields,
        "MoreHeaders": part.more_fields,
        "Parts": [_part_of(data, child, name, f"{name}.") for name, child in inner],
    }


def _endpoint(desk: Desk, look: Callable[[StoredMessage], object]) -> Answering:
    async def endpoint(request: Request) -> Response:
        async with reading(desk, request) as stored:
            text = await elsewhere(len(stored.data), lambda: to_text(look(stored)))
        return ready_answer(text)

    return endpoint


def _session_endpoint(desk: Desk) -> Answering:
    async def endpoint(request: Request) -> Response:
        stored = await find(desk, request, most=0)
        return ready_answer(await asyncio.to_thread(lambda: to_text(session_of(stored))))

    return endpoint


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of looks into a message; none of them marks it as read."""
    looks: Mapping[str, Callable[[StoredMessage], object]] = {
        "links": links_of,
        "codes": codes_of,
        "mime": mime_of,
    }
    return [
        *(
            resource(f"/api/v1/message/{{id}}/{name}", GET=_endpoint(desk, look))
            for name, look in looks.items()
        ),
        resource("/api/v1/message/{id}/session", GET=_session_endpoint(desk)),
    ]
