"""One message: whole, its headers, its source and its parts."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content.fields import Field
from ehlo.inbox.answers import LARGE, NOT_FOUND, RefusedError, elsewhere, ready_answer, resource
from ehlo.inbox.api.added import added_fields, own_header
from ehlo.inbox.api.anatomy import Anatomy, Piece
from ehlo.inbox.api.goform import to_text
from ehlo.inbox.api.shapes import whole_message
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.store import StoredMessage

LATEST: Final = "latest"
_NOT_FOUND_LATEST: Final = "Message not found"
_FOLDS: Final = re.compile(rb"\s*\r?\n[ \t]*")
_INLINE: Final = frozenset(
    (
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"),
        *("application/pdf", "text/plain"),
    )
)
_TOKEN: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


class Single:
    """The endpoints of one message."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def whole(self, request: Request) -> Response:
        """Return a whole message, and mark it as read."""
        stored = await find(self._desk, request)
        await mark_read(self._desk, stored)

        def work() -> tuple[Anatomy, str]:
            anatomy = Anatomy(stored.data)
            return anatomy, to_text(whole_message(stored, anatomy))

        anatomy, text = await elsewhere(len(stored.data), work)
        remember(self._desk, stored, anatomy)
        return ready_answer(text)

    async def headers(self, request: Request) -> Response:
        """Return all header fields, by their names."""
        stored = await find(self._desk, request)
        return ready_answer(await elsewhere(len(stored.data), lambda: to_text(_headers_of(stored))))

    async def raw(self, request: Request) -> Response:
        """Return the source of a message."""
        stored = await find(self._desk, request)
        added = added_fields(stored, own_header(stored.data))
        headers = {"content-type": "text/plain; charset=utf-8"}
        if request.query_params.get("dl") == "1":
            headers["content-disposition"] = f'attachment; filename="{stored.mail.id}.eml"'
        return Response(added + stored.data, headers=headers)

    async def part(self, request: Request) -> Response:
        """Return the content of a part."""
        found = await find_part(self._desk, request)
        return Response(found.data, headers=part_headers(found.piece))


class FoundPart(NamedTuple):
    """A part of a message, and its content."""

    piece: Piece
    data: bytes


async def find(desk: Desk, request: Request) -> StoredMessage:
    """Return the message that the path names. Raises `RefusedError` if there is none."""
    stored = await desk.store.get(await id_of(desk, request), inbox_of(request))
    if stored is None:
        raise RefusedError(NOT_FOUND, 404)
    return stored


async def id_of(desk: Desk, request: Request) -> str:
    """Return the id in the path, or that of the latest message. Raises `RefusedError`."""
    mail_id = str(request.path_params["id"])
    if mail_id != LATEST:
        return mail_id
    mail_id = await latest(desk, request)
    if not mail_id:
        raise RefusedError(_NOT_FOUND_LATEST, 404)
    return mail_id


async def latest(desk: Desk, request: Request) -> str:
    """Return the id of the newest message that the query of a request finds; empty without one."""
    inbox = inbox_of(request)
    query = request.query_params.get("query", "")
    if query.strip():
        zone = request.query_params.get("tz", "")
        page = await desk.store.search(query, inbox, zone=zone, limit=1)
    else:
        page = await desk.store.list(inbox, limit=1)
    return page.mails[0].id if page.mails else ""


async def mark_read(desk: Desk, stored: StoredMessage) -> None:
    """Mark a message as read."""
    if not stored.mail.is_read:
        await desk.store.mark(read=True, ids=[stored.mail.id])


# -- headers ---------------------------------------------------------------------------------------


def _headers_of(stored: StoredMessage) -> dict[str, list[str]]:
    own = own_header(stored.data)
    on_top = own_header(added_fields(stored, own))
    found: dict[str, list[str]] = {}
    for field in (*on_top.fields, *own.fields):
        found.setdefault(go_name(field), []).append(_go_value(field))
    return dict(sorted(found.items()))


def go_name(field: Field) -> str:
    """Return the name of a field in the case that Go gives it, such as `Message-Id`."""
    return "-".join(word[:1].upper() + word[1:].lower() for word in field.decoded_name.split("-"))


def _go_value(field: Field) -> str:
    """Return the value of a field, unfolded, with its encoded-words as they are."""
    return _FOLDS.sub(b" ", field.value).strip().decode("utf-8", "replace")


# -- parts -----------------------------------------------------------------------------------------


def remember(desk: Desk, stored: StoredMessage, anatomy: Anatomy) -> None:
    """Remember where the parts of a large message are."""
    if len(stored.data) > LARGE:
        desk.outlines.add(stored.mail.id, anatomy)


async def find_part(desk: Desk, request: Request) -> FoundPart:
    """Return the part that the path names. Raises `RefusedError` if there is none.

    Of a message whose parts are known nothing else is read.
    """
    mail_id = await id_of(desk, request)
    number, inbox = str(request.path_params["part"]), inbox_of(request)
    pieces = desk.outlines.get(mail_id)
    if pieces is None:
        stored = await desk.store.get(mail_id, inbox)
        if stored is None:
            raise RefusedError(NOT_FOUND, 404)
        data = stored.data
        anatomy = await elsewhere(len(data), lambda: Anatomy(data))
        remember(desk, stored, anatomy)
        piece = anatomy.find(number)
        body = None if piece is None else data[piece.part.start : piece.part.end]
    else:
        piece = pieces.get(number)
        body = None
        if piece is not None:
            body = await desk.store.piece(mail_id, piece.part.start, piece.part.end, inbox)
    if piece is None or body is None:
        raise RefusedError(NOT_FOUND, 404)
    found, encoded = piece, body
    return FoundPart(found, await elsewhere(len(encoded), lambda: found.decoded(encoded)))


def part_headers(piece: Piece) -> dict[str, str]:
    """Return the headers of the content of a part: it can do nothing, wherever it is opened."""
    kind = piece.part.content_type
    if not _TOKEN.fullmatch(kind):
        kind = "application/octet-stream"
    shown = kind in _INLINE or kind.startswith(("audio/", "video/"))
    name = quote(piece.name, safe="$&+=:@", errors="replace")
    return {
        "content-type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "content-disposition": f'{"inline" if shown else "attachment"}; filename="{name}"',
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
    }


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of one message."""
    single = Single(desk)
    return [
        resource("/api/v1/message/{id}", GET=single.whole),
        resource("/api/v1/message/{id}/headers", GET=single.headers),
        resource("/api/v1/message/{id}/raw", GET=single.raw),
        resource("/api/v1/message/{id}/part/{part}", GET=single.part),
    ]
