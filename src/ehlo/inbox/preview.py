"""Preview: the HTML and the text of a message as pages of their own, which can do nothing.

The HTML is what the sender wrote. Its own Content-Security-Policy contains it: `sandbox` gives it
an origin of its own, without scripts and forms, wherever it is opened; and nothing is loaded from
elsewhere unless the reader asks for it with `?remote=1`.

`?embed=1` is for a frame: links open in a new window, and the height is posted to the page around
it, by a script that only this response allows, and only if a frame of ours asks. Such a frame
leaves the message unread, because the page around it marks it.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content.breather import Rest
from ehlo.inbox.answers import RefusedError, elsewhere, own_sources, pieces_answer, resource
from ehlo.inbox.api.anatomy import Anatomy, Piece, rest_for
from ehlo.inbox.api.single import RASTER, find, latest, mark_read, reading, remember
from ehlo.inbox.desk import Desk

MOST_IMAGES: Final = 16_777_216
"""Characters of images that are put into the HTML of one message."""
_CID: Final = re.compile(
    r"""(=\s{0,8}["']?|\burl\(\s{0,8}["']?)cid:([^"'\s<>)]{1,512})""", re.IGNORECASE
)
_DOCTYPE: Final = re.compile(r"\s*<!doctype[^>]{0,512}>", re.IGNORECASE)
# A browser connects to what `link` names, which no policy of a page prevents; and with scripts, a
# `meta` may lead elsewhere. Other names do nothing, and no encoding hides a name
_LINKS: Final = re.compile(r"<(?=link[\s/>])", re.IGNORECASE)
_METAS: Final = re.compile(r"<(?=meta[\s/>])", re.IGNORECASE)
_ANCHORS: Final = re.compile(r"<a(?=\s)", re.IGNORECASE)
_OPENED: Final = '<a target="_blank" rel="noreferrer noopener"'  # in front, so that it counts
_SAFE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "x-dns-prefetch-control": "off",
        "cache-control": "no-store",
    }
)
_SLICE: Final = 65_536  # characters that are edited at once
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
        place = (
            f"{_prefix(request)}/view/{quote(mail_id, safe='')}"
            if mail_id
            else f"{_prefix(request)}/"
        )
        headers = {"location": place, "content-type": "text/html; charset=utf-8"}
        return Response(f'<a href="{place}">Found</a>.\n\n', 302, headers)

    async def html(self, request: Request) -> Response:
        """Return the HTML of a message."""
        mail_id = await self._check(request)
        place = f"{_prefix(request)}/api/v1/message/{quote(mail_id, safe='')}/part/"
        remote = request.query_params.get("remote") == "1"
        embed = request.query_params.get("embed") == "1"
        # Alone, a page that may run a script may also leave for elsewhere by itself
        in_frame = embed and request.headers.get("sec-fetch-dest") == "iframe"
        nonce = secrets.token_urlsafe(16) if in_frame else ""
        edits = _Edits(nonce, embeds=embed, has_links=remote)
        most = MOST_IMAGES if "text/html" in request.headers.get("accept", "") else 0  # a browser
        async with reading(self._desk, request, mail_id) as stored:

            def work() -> tuple[Anatomy, list[bytes]]:
                anatomy = Anatomy(stored.data)
                rest = rest_for(len(stored.data))
                images = _Images(stored.data, place, most, rest)
                return anatomy, _page_of(anatomy, images, edits, rest)

            anatomy, page = await elsewhere(len(stored.data), work)
            remember(self._desk, stored, anatomy)
            if not page:
                raise _no_page("This message does not contain a HTML part")
            if not in_frame:  # the page around it has, and may have been told otherwise since
                await mark_read(self._desk, request, stored)
        headers = {
            **_SAFE,
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": _policy(request, place, nonce, remote=remote),
        }
        return pieces_answer(page, headers)

    async def text(self, request: Request) -> Response:
        """Return the text of a message."""
        mail_id = await self._check(request)
        async with reading(self._desk, request, mail_id) as stored:
            text = await elsewhere(len(stored.data), lambda: Anatomy(stored.data).readable)
            await mark_read(self._desk, request, stored)
        headers = {
            **_SAFE,
            "content-type": "text/plain; charset=utf-8",
            "content-security-policy": "sandbox; default-src 'none'",
        }
        return Response(text.encode("utf-8", "replace"), headers=headers)

    async def _check(self, request: Request) -> str:
        """Return the id of the message that the path names. Raises `RefusedError`."""
        try:
            return (await find(self._desk, request, most=0)).mail.id
        except RefusedError as error:
            raise _no_page("Message not found") from error


def _no_page(text: str) -> RefusedError:
    return RefusedError(text, 404, kind="text/plain; charset=utf-8")


def _prefix(request: Request) -> str:
    """Return the path below which everything is, such as `/mail/inbox/support`."""
    return quote(str(request.scope.get("root_path", "")).rstrip("/"))


# -- HTML ------------------------------------------------------------------------------------------

_Link = Callable[[str], Sequence[bytes]]
"""Returns the address of the part that a `cid:` link names, in pieces; nothing for no part."""


class _Edits(NamedTuple):
    """The few changes that are made to the HTML of a message."""

    nonce: str
    """Allows the script that posts the height; empty without it."""
    embeds: bool
    """Whether links open in a new window."""
    has_links: bool
    """Whether `link` elements stay."""


class _Images:
    """The addresses of parts in HTML; for a browser, images are in their addresses.

    A page in a sandbox has an origin of its own, for which a browser sends no login.
    """

    def __init__(self, message: bytes, place: str, most: int, rest: Rest) -> None:
        self._message = message
        self._place = place
        self._left = most
        self._rest = rest
        self._urls: dict[str, list[bytes]] = {}

    def url(self, piece: Piece) -> list[bytes]:
        """Return the address of a part, as often as it is named; within the bound in all."""
        number, part = piece.number, piece.part
        if part.content_type in RASTER and part.end - part.start <= self._left:
            if number not in self._urls:
                self._urls[number] = [f"data:{part.content_type};base64,".encode()]
                self._urls[number] += self._in_base64(piece.content(self._message, self._rest))
            self._left -= sum(map(len, self._urls[number]))
            return self._urls[number]
        return [f"{self._place}{number}".encode()]

    def _in_base64(self, pieces: list[bytes]) -> Iterator[bytes]:
        spare = b""
        for piece in pieces:
            data = spare + piece
            end = len(data) - len(data) % 3
            spare = data[end:]
            yield base64.b64encode(data[:end])
            self._rest()
        yield base64.b64encode(spare)


def _page_of(anatomy: Anatomy, images: _Images, edits: _Edits, rest: Rest) -> list[bytes]:
    """Return the HTML of a message as a page, in pieces; nothing without HTML."""
    markup = anatomy.html
    link = _linker(anatomy, images)
    pieces = []
    at = 0
    if edits.embeds and markup:
        doctype = _DOCTYPE.match(markup)
        at = doctype.end() if doctype is not None else 0
        script = f'<script nonce="{edits.nonce}">{_SCRIPT}</script>' if edits.nonce else ""
        pieces.append(f'{markup[:at]}<base target="_blank">{script}'.encode("utf-8", "replace"))
    while at < len(markup):
        end = at + _SLICE
        if end < len(markup) and (tag := markup.rfind("<", at + 1, end)) >= 0:
            end = tag  # nothing that is edited goes over the beginning of a tag
        piece = markup[at:end]
        at = end
        if not edits.has_links:
            piece = _LINKS.sub("<blocked-", piece)
        if edits.embeds:
            piece = _ANCHORS.sub(_OPENED, piece)
        if edits.nonce:
            piece = _METAS.sub("<blocked-", piece)
        pieces += _with_images(piece, link)
        rest()
    return pieces


def _with_images(markup: str, link: _Link) -> Iterator[bytes]:
    """Yield HTML in pieces, with addresses of parts instead of `cid:` links."""
    at = 0
    for match in _CID.finditer(markup):
        url = link(match[2])
        if url:
            yield f"{markup[at : match.start()]}{match[1]}".encode("utf-8", "replace")
            yield from url
            at = match.end()
    yield markup[at:].encode("utf-8", "replace")


def _linker(anatomy: Anatomy, images: _Images) -> _Link:
    """Return what replaces a `cid:` link: by Content-ID or by name, percent-encoded or not."""
    pieces: dict[str, Piece] = {}
    for piece in (*anatomy.inline, *anatomy.attachments, *anatomy.others):
        for name in (piece.content_id, piece.name):
            if name:
                pieces.setdefault(name.lower(), piece)

    def link(name: str) -> list[bytes]:
        name = name.lower()
        piece = pieces.get(name) or pieces.get(unquote(name)) or pieces.get(name.partition("@")[0])
        return [] if piece is None else images.url(piece)

    return link


def _policy(request: Request, place: str, nonce: str, *, remote: bool) -> str:
    """Return the Content-Security-Policy of a message.

    In a sandbox `'self'` means nothing, so the host is named.
    """
    own = f"{own_sources(request, place)} "
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
