"""Lists: `messages` and `search`, and what is done to many messages at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import (
    MOST_AT_ONCE,
    RefusedError,
    done,
    elsewhere,
    number_of,
    read_json,
    resource,
    streamed_answer,
)
from ehlo.inbox.api.shapes import DeleteRequest, MarkRequest, list_head, summary_texts
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.store import Page, StoredMail
from ehlo.store.query import read_date

MOST_LISTED: Final = 1_000
"""Messages on one page at most, unless all are asked for."""
_USUAL: Final = 50
_AT_ONCE: Final = 50  # messages that are read at once


class Listing:
    """The endpoints of lists."""

    def __init__(self, desk: Desk) -> None:
        self._store = desk.store
        self._traffic = desk.traffic

    async def messages(self, request: Request) -> Response:
        """Return a page of all messages."""
        start = number_of(request, "start", 0)
        limit = number_of(request, "limit", _USUAL)
        before = _moment(request.query_params.get("before", ""))
        page = await self._store.list(
            inbox_of(request),
            start=start if limit else 0,
            limit=min(limit, MOST_LISTED) if limit else None,
            before=before,
            at_once=_AT_ONCE,
        )
        return await self._answer(request, page, start)

    async def search(self, request: Request) -> Response:
        """Return a page of the messages that a query finds."""
        start = number_of(request, "start", 0)
        limit = number_of(request, "limit", _USUAL)
        page = await self._store.search(
            _query_of(request),
            inbox_of(request),
            zone=request.query_params.get("tz", ""),
            start=start,
            limit=min(limit, MOST_LISTED),
            at_once=_AT_ONCE,
        )
        return await self._answer(request, page, start)

    async def _answer(self, request: Request, page: Page, start: int) -> Response:
        """Return a page; if it is large, each piece is in memory only while it is sent."""
        tags = list(await self._store.tags(inbox_of(request)))
        pieces = self._pieces(page, start, tags)
        headers = {"content-type": "application/json"}
        begun: list[bytes] = []
        size = 0
        async for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size > MOST_AT_ONCE:
                return streamed_answer(_behind(begun, pieces), None, headers)
        return Response(b"".join(begun), headers=headers)

    async def _pieces(self, page: Page, start: int, tags: list[str]) -> AsyncIterator[bytes]:
        yield list_head(page, start, tags).encode()
        count = 0
        at = 0
        mails: Sequence[StoredMail] = page.mails
        while mails:
            if count:
                yield b","
            size = sum(len(mail.summary) for mail in mails)
            yield await elsewhere(size, partial(_summaries, mails))
            count += len(mails)
            mails = ()
            while not mails and at < len(page.rest):  # some may be deleted meanwhile
                mails = await self._store.numbered(page.rest[at : at + _AT_ONCE])
                at += _AT_ONCE
        yield f'],"count":{count}}}\n'.encode()

    async def mark(self, request: Request) -> Response:
        """Mark messages as read or unread."""
        wanted = await read_json(request, MarkRequest)
        if wanted["IDs"] and wanted["Search"]:
            raise RefusedError("You may specify either IDs or a search query, not both")
        try:
            await self._store.mark(
                read=wanted["Read"],
                inbox=inbox_of(request),
                ids=wanted["IDs"] or None,
                query=wanted["Search"] or None,
                zone=request.query_params.get("tz", ""),
            )
        except ValueError as error:
            raise RefusedError(f"Error: {error}") from None
        return done()

    async def delete(self, request: Request) -> Response:
        """Delete messages: those in `IDs`, or all without a body or without `IDs`."""
        ids = (await read_json(request, DeleteRequest, default=b"{}"))["IDs"]
        self._traffic.deleted += await self._store.delete(inbox=inbox_of(request), ids=ids or None)
        return done()

    async def delete_found(self, request: Request) -> Response:
        """Delete the messages that a query finds."""
        query, zone = _query_of(request), request.query_params.get("tz", "")
        try:
            count = await self._store.delete(inbox=inbox_of(request), query=query, zone=zone)
        except ValueError as error:
            raise RefusedError(f"Error: {error}") from None
        self._traffic.deleted += count
        return done()


async def _behind(begun: list[bytes], others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces that there are, and then the others."""
    for piece in begun:
        yield piece
    begun.clear()
    async for piece in others:
        yield piece


def _summaries(mails: Sequence[StoredMail]) -> bytes:
    return summary_texts(mails).encode("utf-8", "replace")


def _query_of(request: Request) -> str:
    query = request.query_params.get("query", "")
    if not query.strip():
        raise RefusedError("Error: no search query")
    return query


def _moment(text: str) -> float | None:
    """Return the time in `before`; `None` for what is none."""
    return read_date(text, None) if text else None


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of lists."""
    listing = Listing(desk)
    return [
        resource("/api/v1/messages", GET=listing.messages, PUT=listing.mark, DELETE=listing.delete),
        resource("/api/v1/search", GET=listing.search, DELETE=listing.delete_found),
    ]
