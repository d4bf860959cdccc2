"""Preview: the HTML and the text of a message as pages of their own, which can do nothing.

The HTML is what the sender wrote. What holds it is its own Content-Security-Policy: `sandbox` gives
it an origin of its own, without scripts and forms, wherever it is opened; and nothing is loaded
from elsewhere unless the reader asks for it with `?remote=1`.

`?embed=1` is for a frame: links open in a new window, and the height is posted to the page around
it, by a script that only this response allows, and only if a frame of ours asks.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content.markup import text_of_html
from ehlo.inbox.answers import RefusedError, elsewhere, resource
from ehlo.inbox.api.anatomy import Anatomy
from ehlo.inbox.api.single import find, latest, mark_read, remember
from ehlo.inbox.desk import Desk
from ehlo.store import StoredMessage

_CID: Final = re.compile(
    r"""(=\s{0,8}["']?|\burl\(\s{0,8}["']?)cid:([^"'\s<>)]{1,512})""", re.IGNORECASE
)
_DOCTYPE: Final = re.compile(r"\s*<!doctype[^>]{0,512}>", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
# A browser connects to what `link` names, which no policy of a page prevents; and with scripts, a
# `meta` may lead elsewhere. Other names do nothing, and no encoding hides a name
_LINKS: Final = re.compile(r"<(?=link[\s/>])", re.IGNORECASE)
_METAS: Final = re.compile(r"<(?=meta[\s/>])", re.IGNORECASE)
_SAFE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "x-dns-prefetch-control": "off",
        "cache-control": "no-store",
    }
)
_SANDBOX: Final = "sandbox allow-popups allow-popups-to-escape-sandbox"
_SCRIPT: Final = (
    "(function(){function post(){parent.postMessage({messageHeight:"
    "document.documentElement.scrollHeight},'*')}"
    "addEventListener('load',post);addEventListener('resize',post);"
    "new ResizeObserver(post).observe(document.documentElement)})()"
)


class Preview:
    """The endpoints of a message as a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def latest(self, request: Request) -> Response:
        """Return where the page of the newest message is."""
        mail_id = await latest(self._desk, request)
        place = f"{_prefix(request)}/view/{mail_id}" if mail_id else f"{_prefix(request)}/"
        headers = {"location": place, "content-type": "text/html; charset=utf-8"}
        return Response(f'<a href="{place}">Found</a>.\n\n', 302, headers)

    async def html(self, request: Request) -> Response:
        """Return the HTML of a message."""
        stored = await self._find(request)
        place = f"{_prefix(request)}/api/v1/message/{stored.mail.id}/part/"
        remote = request.query_params.get("remote") == "1"
        embed = request.query_params.get("embed") == "1"
        # Alone, a page that may run a script may also leave for elsewhere by itself
        in_frame = embed and request.headers.get("sec-fetch-dest") == "iframe"
        nonce = secrets.token_urlsafe(16) if in_frame else ""

        def work() -> tuple[Anatomy, bytes]:
            anatomy = Anatomy(stored.data)
            markup = _html_of(anatomy, place)
            if markup and not remote:
                markup = _LINKS.sub("<blocked-", markup)
            if markup and embed:
                markup = _embedded(markup, nonce)
            return anatomy, markup.encode("utf-8", "replace")

        anatomy, page = await elsewhere(len(stored.data), work)
        remember(self._desk, stored, anatomy)
        if not page:
            raise _no_page("This message does not contain a HTML part")
        await mark_read(self._desk, stored)
        policy = _policy(request, place, nonce, remote=remote)
        headers = {
            **_SAFE,
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": policy,
        }
        return Response(page, headers=headers)

    async def text(self, request: Request) -> Response:
        """Return the text of a message."""
        stored = await self._find(request)
        text = await elsewhere(len(stored.data), lambda: _text_of(stored))
        await mark_read(self._desk, stored)
        headers = {
            **_SAFE,
            "content-type": "text/plain; charset=utf-8",
            "content-security-policy": "sandbox; default-src 'none'",
        }
        return Response(text.encode("utf-8", "replace"), headers=headers)

    async def _find(self, request: Request) -> StoredMessage:
        try:
            return await find(self._desk, request)
        except RefusedError as error:
            raise _no_page("Message not found") from error


def _no_page(text: str) -> RefusedError:
    return RefusedError(text, 404, kind="text/plain; charset=utf-8")


def _prefix(request: Request) -> str:
    """Return the path below which everything is, such as `/mail/inbox/support`."""
    return quote(str(request.scope.get("root_path", "")).rstrip("/"))


def _text_of(stored: StoredMessage) -> str:
    anatomy = Anatomy(stored.data)
    html = anatomy.html
    return anatomy.text or (text_of_html(html) if html else "")


# -- HTML ------------------------------------------------------------------------------------------


def _html_of(anatomy: Anatomy, place: str) -> str:
    """Return the HTML of a message with `cid:` links that lead to its parts."""
    numbers: dict[str, str] = {}
    for piece in (*anatomy.inline, *anatomy.attachments, *anatomy.others):
        for name in (piece.content_id, piece.name):
            if name:
                numbers.setdefault(name.lower(), piece.number)

    def link(match: re.Match[str]) -> str:
        name = match[2].lower()
        number = numbers.get(name) or numbers.get(unquote(name)) or ""
        number = number or numbers.get(name.partition("@")[0], "")
        return f"{match[1]}{place}{number}" if number else match[0]

    return _CID.sub(link, anatomy.html)


def _embedded(markup: str, nonce: str) -> str:
    """Return HTML whose links open in a new window; with a nonce, it posts its height."""
    doctype = _DOCTYPE.match(markup)
    at = doctype.end() if doctype is not None else 0
    start, rest = f'{markup[:at]}<base target="_blank">', markup[at:]
    if not nonce:
        return start + rest
    return f'{start}<script nonce="{nonce}">{_SCRIPT}</script>{_METAS.sub("<blocked-", rest)}'


def _policy(request: Request, place: str, nonce: str, *, remote: bool) -> str:
    """Return the Content-Security-Policy of a message.

    In a sandbox `'self'` means nothing, so the host is named.
    """
    host = request.headers.get("host", "")
    known = _HOST.fullmatch(host) is not None
    own = f"http://{host}{place} https://{host}{place} " if known else ""
    sandbox = f"{_SANDBOX} allow-scripts" if nonce else _SANDBOX
    elsewhere_too = "* " if remote else ""
    return (
        f"{sandbox}; default-src 'none'; img-src {own}{elsewhere_too}data:; "
        f"media-src {own}{elsewhere_too}data:; font-src {elsewhere_too}data:; "
        f"style-src {elsewhere_too}'unsafe-inline'; "
        + (f"script-src 'nonce-{nonce}'; " if nonce else "")
        + "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
    )


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of messages as pages."""
    preview = Preview(desk)
    return [
        resource("/view/latest", GET=preview.latest),
        resource("/view/{id}.html", GET=preview.html),
        resource("/view/{id}.txt", GET=preview.text),
    ]
