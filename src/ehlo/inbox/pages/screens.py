"""Screens: the address of each page, and what is read from the store for it.

/                          the list; /search?q=… a part of it
/view/ID  /view/ID/TAB     a message
/sessions  /faults         sessions that brought no mail, and the rules by which the server fails
/static/VERSION/NAME       style sheets, modules, icons
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from ehlo.faults.fault import STAGES
from ehlo.inbox.answers import RefusedError, elsewhere, number_of, own_sources, resource
from ehlo.inbox.api.single import LATEST, REFRESH, mark_read, reading
from ehlo.inbox.api.thumbs import has_pillow
from ehlo.inbox.desk import Desk, WebOptions, inbox_of
from ehlo.inbox.pages.panels import TABS, Letter, letter_of, row_of, visit_of
from ehlo.inbox.pages.rendering import (
    Assets,
    make_environment,
    page_response,
    query_of,
    segment,
)
from ehlo.store import StoreError, TooSlowError
from ehlo.store.query import LONGEST_QUERY, read_query
from ehlo.store.reading import LONGEST_READING

PAGE_SIZES: Final = (25, 50, 100, 200)
_SESSIONS: Final = 50  # on a page
_STAGE_NAMES: Final = {
    "connect": "Connecting",
    "helo": "HELO and EHLO",
    "starttls": "STARTTLS",
    "auth": "AUTH",
    "mail": "MAIL FROM",
    "rcpt": "RCPT TO",
    "data": "DATA",
    "end": "The end of a message",
}
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104  an address to show, and not to listen on
_ID: Final = re.compile("[0-9A-Za-z]{1,64}")
_THEMES: Final = ("light", "dark")
_NO_MESSAGE: Final = {
    "title": "This message is not here",
    "text": "It was deleted, or it was older than the messages that are kept.",
}
_NO_PAGE: Final = {
    "title": "There is no such page",
    "text": "Check the address, or start from the list of messages.",
}
_TOO_SLOW: Final = {
    "title": "The search took too long",
    "text": f"It was stopped after {LONGEST_READING:g} seconds. Search for fewer or longer terms.",
}


def routes(screens: Screens) -> list[BaseRoute]:
    """Return the routes of the pages."""
    return [
        resource("/", GET=screens.list),
        resource("/search", GET=screens.list),
        resource("/view/{id}", GET=screens.message),
        resource("/view/{id}/{tab}", GET=screens.message),
        resource("/sessions", GET=screens.sessions),
        resource("/faults", GET=screens.faults),
        resource("/static/{version}/{name}", GET=screens.asset),
    ]


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Says where a page is: the paths that its links begin with."""

    here: str
    """The path of the inbox, without a slash at its end."""
    site: str
    """The path of the whole site."""
    assets: str
    inbox: str | None

    def of(self, name: str) -> str:
        """Return the path of an inbox."""
        return f"{self.site}/inbox/{segment(name)}"


class Screens:
    """Answers the requests for pages."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._assets = Assets()
        self._environment = make_environment()
        self._has_thumbs = has_pillow()

    async def list(self, request: Request) -> Response:
        """Return the list of mails, or of those that a query finds."""
        store, inbox = self._desk.store, inbox_of(request)
        query = _query_of(request)
        start = number_of(request, "start", 0)
        limit = _page_size(request)
        if query:
            zone = _zone_of(request)
            try:
                page = await store.search(query, inbox, zone=zone, start=start, limit=limit)
            except TooSlowError:
                return await self._page(request, "missing.html", 503, query=query, **_TOO_SLOW)
        else:
            page = await store.list(inbox, start=start, limit=limit)
        if not page.mails and page.found.total and start:  # the last ones of it were deleted
            last = (page.found.total - 1) // limit * limit
            return RedirectResponse(self._at(request, query, last))
        following = start + limit
        size = sum(len(mail.summary) for mail in page.mails)
        rows = await elsewhere(size, lambda: [row_of(mail) for mail in page.mails])
        without = [row.mail.number for row in rows if not any(row.sender)]
        senders = await store.envelope_senders(without) if without else {}
        return await self._page(
            request,
            "list.html",
            rows=[row._replace(mail_from=senders.get(row.mail.number, "")) for row in rows],
            query=query,
            ignored=read_query(query).ignored if query else "",
            suffix=query_of({"q": query}),
            start=start,
            limit=limit,
            found=page.found,
            sizes=PAGE_SIZES,
            newer=self._at(request, query, max(start - limit, 0)) if start else "",
            older=self._at(request, query, following) if following < page.found.total else "",
        )

    def _at(self, request: Request, query: str, start: int) -> str:
        """Return the address of another part of a list."""
        path = "/search" if query else "/"
        limit = request.query_params.get("limit", "")
        return (
            self._place(request).here
            + path
            + query_of({"q": query, "start": start or "", "limit": limit})
        )

    async def message(self, request: Request) -> Response:
        """Return a message, in one of its tabs, and mark it as read."""
        store, inbox = self._desk.store, inbox_of(request)
        tab = str(request.path_params.get("tab", ""))
        query = _query_of(request)
        mail_id = str(request.path_params["id"])
        is_known = mail_id != LATEST and (not tab or tab in TABS)
        letter = await self._letter(request, tab) if is_known else None
        if letter is None:
            return await self._page(request, "missing.html", 404, **_NO_MESSAGE)
        zone = _zone_of(request)
        newer, older = await store.neighbors(mail_id, inbox, query or None, zone=zone)
        return await self._page(
            request,
            "message.html",
            letter=letter,
            mail=letter.row.mail,
            has_thumbs=self._has_thumbs,
            is_read=letter.row.mail.is_read or REFRESH not in request.headers,
            query=query,
            suffix=query_of({"q": query}),
            newer=newer,
            older=older,
        )

    async def _letter(self, request: Request, tab: str) -> Letter | None:
        """Return what a page shows of a message, and mark it as read; `None` if it is not there."""
        try:
            async with reading(self._desk, request) as stored:
                letter = await asyncio.to_thread(letter_of, stored, tab)
                await mark_read(self._desk, request, stored)
                return letter
        except RefusedError:
            return None

    async def faults(self, request: Request) -> Response:
        """Return the rules by which the server fails."""
        return await self._page(
            request,
            "faults.html",
            faults=list(self._desk.faults),
            stages=STAGES,
            stage_names=_STAGE_NAMES,
        )

    async def sessions(self, request: Request) -> Response:
        """Return the sessions that brought no mail, with their lines."""
        before = number_of(request, "before", 0)
        found = await self._desk.store.sessions(
            inbox_of(request), before=before or None, limit=_SESSIONS
        )
        return await self._page(
            request,
            "sessions.html",
            visits=await asyncio.to_thread(lambda: [visit_of(each) for each in found]),
            before=before,
            older=found[-1].number if len(found) == _SESSIONS else 0,
        )

    async def lost(self, request: Request, _error: Exception) -> Response:
        """Return a page for an address that has none; a text for what is not a browser."""
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            here, root = str(request.scope.get("root_path", "")), self._desk.options.root
            if f"{root}/" not in f"{here}/":  # it is outside, where no pages are
                request.scope["root_path"] = f"{here}{root}"
            with contextlib.suppress(StoreError):  # then the text has to do
                return await self._page(request, "missing.html", 404, **_NO_PAGE)
        return PlainTextResponse("Not Found", 404)

    async def asset(self, request: Request) -> Response:
        """Return a file of the pages."""
        return self._assets.response(str(request.path_params["name"]))

    # -- what all pages have ---------------------------------------------------------------------

    def _place(self, request: Request) -> PagePlace:
        here = str(request.scope.get("root_path", ""))
        inbox = inbox_of(request)
        site = here if inbox is None else here.removesuffix(f"/inbox/{inbox}")
        site = "/".join(map(segment, site.split("/")))
        assets = f"{site}/static/{self._assets.version}"
        return PagePlace(
            site if inbox is None else f"{site}/inbox/{segment(inbox)}", site, assets, inbox
        )

    async def _page(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> Response:
        store, inbox = self._desk.store, inbox_of(request)
        theme = request.cookies.get("ehlo_theme", "")
        common = {
            "place": self._place(request),
            "options": self._desk.options,
            "relay": self._desk.relay,
            "traffic": self._desk.traffic,
            "counts": await store.counts(inbox),
            "inboxes": await store.inboxes(),
            "tags": await store.tags(inbox),
            "nonce": secrets.token_urlsafe(16),
            "theme": theme if theme in _THEMES else "",
            "screen": template.removesuffix(".html"),
            "query": "",
            "suffix": "",
            "fault_count": len(self._desk.faults),
            "smtp": _smtp_of(request, self._desk.options),
        }
        # In a thread, which also compiles the template the first time
        html = await asyncio.to_thread(self._render, template, {**common, **values})
        return page_response(html, str(common["nonce"]), _frame_of(request), status)

    def _render(self, template: str, values: dict[str, object]) -> str:
        return self._environment.get_template(template).render(values)


def _query_of(request: Request) -> str:
    return request.query_params.get("q", "").strip()[:LONGEST_QUERY]


def _zone_of(request: Request) -> str:
    """Return the time zone of the browser, which a page has stored in a cookie."""
    return unquote(request.cookies.get("ehlo_zone", ""))[:64]


def _frame_of(request: Request) -> str:
    """Return what the frame of a page may show: the mail whose page it is, and nothing else."""
    mail_id = str(request.path_params.get("id", ""))
    if not _ID.fullmatch(mail_id):
        return "'none'"
    path = f"{quote(str(request.scope.get('root_path', '')))}/view/{mail_id}.html"
    return own_sources(request, path) or "'none'"


def _smtp_of(request: Request, options: WebOptions) -> tuple[str, int]:
    """Return the host and the port that mail is sent to, as far as the pages know."""
    host, port = options.smtp or ("127.0.0.1", 1025)
    return (request.url.hostname or host) if host in _ANY else host, port


def _page_size(request: Request) -> int:
    """Return how many mails a list shows; a cookie remembers what was chosen last."""
    for text in (request.query_params.get("limit", ""), request.cookies.get("ehlo_limit", "")):
        if text in map(str, PAGE_SIZES):
            return int(text)
    return 50
