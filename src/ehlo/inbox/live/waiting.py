"""Waits on the server for messages: `GET search/wait`, instead of asking again and again.

It listens first and searches then, so that no message is missed. The searches of waiting requests
run one after another, so that many of them hardly delay other readers of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Final, NamedTuple, TypedDict

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from ehlo.inbox.answers import RefusedError, elsewhere, resource
from ehlo.inbox.api.anatomy import LARGE, rest_for
from ehlo.inbox.api.goform import in_pieces
from ehlo.inbox.api.shapes import WholeMessage, whole_message
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.inbox.live.hub import Notice
from ehlo.inbox.live.streaming import first_of, gone
from ehlo.store import Page, StoredMail, StoredMessage
from ehlo.store.query import read_date

MOST_WAITERS: Final = 200
"""Requests that may wait at once."""
MOST_COUNT: Final = 100
_TIMEOUT: Final = 30.0
_LONGEST: Final = 300.0
_NO_NEWS: Final = frozenset(("", "stats", "error"))


class FoundMessages(TypedDict):
    """Messages that were waited for, whole, the newest first."""

    total: int
    """The number of messages in the inbox."""
    unread: int
    count: int
    """The number of messages here."""
    messages: list[WholeMessage]


class _Request(NamedTuple):
    """A request that waits, and its parameters."""

    inbox: str | None
    query: str
    zone: str
    least: int
    """How many messages there must be."""
    after: int
    """Only mails with a larger number count."""
    since: float
    """When they were received at the earliest, in seconds since the epoch."""


class SearchWait:
    """The endpoint of requests that wait."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turn = asyncio.Lock()

    async def wait(self, request: Request) -> Response:
        """Return whole messages as soon as enough are there: 200; or what there is in time: 408."""
        wanted = await self._read(request)
        timeout = _timeout_of(request)
        traffic, news = self._desk.traffic, asyncio.Event()
        if traffic.waiting >= MOST_WAITERS:
            raise RefusedError("too many requests wait for messages; try again later", 503)

        def note(event: Notice) -> None:
            if event.kind not in _NO_NEWS:
                news.set()

        traffic.waiting += 1
        self._desk.hub.tell_stats()
        try:
            with self._desk.hub.listening(wanted.inbox, note):
                found = await self._found(wanted)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        while len(found[1]) < wanted.least:
                            await first_of(news.wait(), gone(request.receive))
                            if not news.is_set():
                                return Response(status_code=499)  # which no client reads
                            news.clear()
                            found = await self._found(wanted)
        finally:
            traffic.waiting -= 1
            self._desk.hub.tell_stats()
        page, mails = found
        status = 200 if len(mails) >= wanted.least else 408
        return StreamingResponse(self._whole(page, mails), status, media_type="application/json")

    async def _read(self, request: Request) -> _Request:
        values = request.query_params
        count = values.get("count", "1")
        is_number = count.isascii() and count.isdecimal() and len(count) < 10
        if not (is_number and 1 <= int(count) <= MOST_COUNT):
            raise RefusedError(f"count must be from 1 to {MOST_COUNT}")
        inbox, since = inbox_of(request), values.get("since", "").strip()
        after, earliest = 0, -math.inf
        if since:
            known = await self._desk.store.find([since], inbox)
            moment = None if known else read_date(since, None)
            if known:
                after = known[0].number
            elif moment is None:
                raise RefusedError("since is neither the ID of a message nor a date")
            else:
                earliest = moment
        query = values.get("query", "").strip()
        return _Request(inbox, query, values.get("tz", ""), int(count), after, earliest)

    async def _found(self, wanted: _Request) -> tuple[Page, list[StoredMail]]:
        """Return the page of the newest messages, and those on it that are new enough."""
        store, limit = self._desk.store, wanted.least
        async with self._turn:
            if wanted.query:
                page = await store.search(wanted.query, wanted.inbox, zone=wanted.zone, limit=limit)
            else:
                page = await store.list(wanted.inbox, limit=limit)
        return page, [
            mail
            for mail in page.mails
            if mail.number > wanted.after and mail.created >= wanted.since
        ]

    async def _whole(self, page: Page, mails: list[StoredMail]) -> AsyncIterator[bytes]:
        """Yield the answer; each message is in memory only while it is sent."""
        total, unread = page.inbox
        yield f'{{"total":{total},"unread":{unread},"messages":['.encode()
        count = 0
        for mail in mails:
            pieces = await self._pieces(mail)
            if not pieces:  # it was deleted just now
                continue
            if count:
                yield b","
            for piece in pieces:
                yield piece
            count += 1
        yield f'],"count":{count}}}\n'.encode()

    async def _pieces(self, mail: StoredMail) -> list[bytes]:
        """Return a whole message as JSON, in its turn if it is large; empty if there is none."""
        is_large = mail.size > LARGE
        async with self._desk.turns if is_large else contextlib.nullcontext():
            stored = await self._desk.store.get(mail.id)
            if stored is None:
                return []
            return await elsewhere(mail.size, partial(_pieces_of, stored))


def _pieces_of(stored: StoredMessage) -> list[bytes]:
    size = len(stored.data)
    pieces = in_pieces(whole_message(stored), rest_for(size))
    return pieces if size > LARGE else [b"".join(pieces)]


def _timeout_of(request: Request) -> float:
    text = request.query_params.get("timeout", "") or str(_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST:
        raise RefusedError(f"timeout must be from 0 to {_LONGEST:.0f} seconds")
    return seconds


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the route of requests that wait."""
    return [resource("/api/v1/search/wait", GET=SearchWait(desk).wait)]
