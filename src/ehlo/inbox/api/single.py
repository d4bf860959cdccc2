"""One message: whole, its headers, its source and its parts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content.fields import Field
from ehlo.content.transfer import TransferDecoder
from ehlo.inbox.answers import (
    MOST_AT_ONCE,
    NOT_FOUND,
    RefusedError,
    elsewhere,
    pieces_answer,
    ready_answer,
    resource,
    streamed_answer,
)
from ehlo.inbox.api.added import added_fields, own_header
from ehlo.inbox.api.anatomy import LARGE, Anatomy, Piece, rest_for
from ehlo.inbox.api.goform import in_pieces, to_text
from ehlo.inbox.api.shapes import whole_message
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.store import StoredMail, StoredMessage

LATEST: Final = "latest"
REFRESH: Final = "x-ehlo-refresh"
"""A header of requests by which a page only brings itself up to date."""
_NOT_FOUND_LATEST: Final = "Message not found"
_LONGEST_HEADER: Final = 1_048_576  # bytes in which the header is, or as much as is read of it
_FOLDS: Final = re.compile(rb"\s*\r?\n[ \t]*")
RASTER: Final = frozenset(
    ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp")
)
"""Types of images that can hold nothing but pixels."""
_INLINE: Final = RASTER | {"application/pdf", "text/plain"}
_LABEL: Final = re.compile(r"[a-z0-9._:-]{1,64}")
_TOKEN: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


class Single:
    """The endpoints of one message."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def whole(self, request: Request) -> Response:
        """Return a whole message, and mark it as read."""
        async with reading(self._desk, request) as stored:
            await mark_read(self._desk, request, stored)

            def work() -> tuple[Anatomy, list[bytes]]:
                anatomy = Anatomy(stored.data)
                whole = whole_message(stored, anatomy)
                return anatomy, in_pieces(whole, rest_for(len(stored.data)))

            anatomy, pieces = await elsewhere(len(stored.data), work)
            remember(self._desk, stored, anatomy)
        return pieces_answer(pieces, {"content-type": "application/json"})

    async def headers(self, request: Request) -> Response:
        """Return all header fields, by their names."""
        stored = await find(self._desk, request, most=_LONGEST_HEADER)
        return ready_answer(await elsewhere(len(stored.data), lambda: to_text(_headers_of(stored))))

    async def raw(self, request: Request) -> Response:
        """Return the source of a message."""
        stored = await find(self._desk, request, most=_LONGEST_HEADER)
        mail = stored.mail
        added = added_fields(stored, own_header(stored.data))
        headers = {"content-type": "text/plain; charset=utf-8"}
        if request.query_params.get("dl") == "1":
            name = quote(mail.id, safe="")
            headers["content-disposition"] = f'attachment; filename="{name}.eml"'
        if mail.size <= len(stored.data):
            return Response(added + stored.data, headers=headers)

        async def pieces() -> AsyncIterator[bytes]:
            yield added
            async for chunk in self._desk.store.chunks(mail):
                yield chunk

        return streamed_answer(pieces(), len(added) + mail.size, headers)

    async def part(self, request: Request) -> Response:
        """Return the content of a part; a large one in pieces, as fast as its reader is."""
        found = await find_part(self._desk, request, most=MOST_AT_ONCE)
        is_named = request.path_params["id"] != LATEST
        label = _label_of(request, found)
        headers = part_headers(found.piece, label, is_named=is_named)
        if found.pieces is not None:
            return pieces_answer(found.pieces, headers)
        decoder = found.piece.decoder()
        size = found.piece.size if decoder is None else None
        return streamed_answer(self._decoded(found, decoder), size, headers)

    async def _decoded(
        self, found: FoundPart, decoder: TransferDecoder | None
    ) -> AsyncIterator[bytes]:
        """Yield the content of a part; little of it is in memory at any time."""
        part = found.piece.part
        async for chunk in self._desk.store.chunks(found.mail, part.start, part.end):
            yield chunk if decoder is None else await asyncio.to_thread(decoder.feed, chunk)
        if decoder is not None:
            yield decoder.end()


class FoundPart(NamedTuple):
    """A part of a message, and its content in pieces."""

    mail: StoredMail
    piece: Piece
    pieces: list[bytes] | None
    """`None` for a part that is larger than was wanted."""


async def find(
    desk: Desk, request: Request, mail_id: str = "", *, most: int | None = None
) -> StoredMessage:
    """Return the message that the path names, or its first `most` bytes.

    `mail_id` is its id, if that is known: another one may be the latest by now. Raises
    `RefusedError` if there is none.
    """
    mail_id = mail_id or await id_of(desk, request)
    stored = await desk.store.get(mail_id, inbox_of(request), most=most)
    if stored is None:
        raise RefusedError(NOT_FOUND, 404)
    return stored


@asynccontextmanager
async def reading(desk: Desk, request: Request, mail_id: str = "") -> AsyncIterator[StoredMessage]:
    """Enter the message that the path names, in its turn if it is large; as `find`."""
    stored = await find(desk, request, mail_id, most=LARGE)
    if stored.mail.size <= LARGE:
        yield stored
        return
    async with desk.turns:
        whole = await desk.store.get(stored.mail.id)
        if whole is None:  # deleted meanwhile
            raise RefusedError(NOT_FOUND, 404)
        yield whole


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


async def mark_read(desk: Desk, request: Request, stored: StoredMessage) -> None:
    """Mark a message as read, unless no person has opened it: after `HEAD`, or by `REFRESH`."""
    if not stored.mail.is_read and request.method != "HEAD" and REFRESH not in request.headers:
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


async def find_part(desk: Desk, request: Request, *, most: int | None = None) -> FoundPart:
    """Return the part that the path names. Raises `RefusedError` if there is none.

    If it takes more than `most` bytes, it comes without its content. Of a message whose parts are
    known nothing else is read.
    """
    mail_id, number = await id_of(desk, request), str(request.path_params["part"])
    pieces = desk.outlines.get(mail_id)
    if pieces is None:
        found = await _search_part(desk, request, mail_id, number, most)
    else:
        mails = await desk.store.find([mail_id], inbox_of(request))
        piece = pieces.get(number)
        found = None
        if mails and piece is not None:
            found = await _read_part(desk, mails[0], piece, most)
    if found is None:
        raise RefusedError(NOT_FOUND, 404)
    return found


async def _search_part(
    desk: Desk, request: Request, mail_id: str, number: str, most: int | None
) -> FoundPart | None:
    """Return a part of a message whose parts are not known yet."""
    async with reading(desk, request, mail_id) as stored:

        def work() -> tuple[Anatomy, FoundPart | None]:
            anatomy = Anatomy(stored.data)
            piece = anatomy.find(number)
            if piece is None:
                return anatomy, None
            is_large = most is not None and piece.size > most
            rest = rest_for(len(stored.data))
            content = None if is_large else piece.content(stored.data, rest)
            return anatomy, FoundPart(stored.mail, piece, content)

        anatomy, found = await elsewhere(len(stored.data), work)
        remember(desk, stored, anatomy)
    return found


async def _read_part(desk: Desk, mail: StoredMail, piece: Piece, most: int | None) -> FoundPart:
    """Return a part whose place is known, in its turn if it is large."""
    size = piece.size
    if most is not None and size > most:
        return FoundPart(mail, piece, None)
    async with desk.turns if size > LARGE else nullcontext():
        body = await desk.store.piece(mail, piece.part.start, piece.part.end)
        content = await elsewhere(size, lambda: piece.decoded(body, rest_for(size)))
    return FoundPart(mail, piece, content)


def _label_of(request: Request, found: FoundPart) -> str:
    """Return the charset that is told of a text; empty for none, as Mailpit tells none.

    Text is in UTF-8, which a browser does not guess. One that is large stays in its charset.
    """
    charset = found.piece.charset
    if not found.piece.part.content_type.startswith("text/"):
        return ""
    if found.pieces is None and _LABEL.fullmatch(charset) is not None:
        return charset
    return "utf-8" if "text/html" in request.headers.get("accept", "") else ""


def part_headers(piece: Piece, charset: str, *, is_named: bool) -> dict[str, str]:
    """Return the headers of the content of a part: it can do nothing, wherever it is opened.

    The page of a message is of another origin than its images. A client that knows the id may load
    them; `latest` is excluded, since anyone can guess it.
    """
    kind = piece.part.content_type
    if not _TOKEN.fullmatch(kind):
        kind = "application/octet-stream"
    is_media = kind in RASTER or kind.startswith(("audio/", "video/"))
    shown = is_media or kind in _INLINE
    name = quote(piece.name, safe="$&+=:@", errors="replace")
    policy = "cross-origin" if is_media and is_named else "same-origin"
    return {
        "content-type": f"{kind}; charset={charset}" if charset else kind,
        "content-disposition": f'{"inline" if shown else "attachment"}; filename="{name}"',
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": policy,
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
