"""Rendering: templates, how values are shown in them, and the headers of a page.

All text in a mail is hostile: templates escape everything, and a page runs no script but its own
modules, which a nonce names.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from ehlo.faults.fault import Fault, text_of

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; frame-src {frame}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_UNITS: Final = ("KB", "MB", "GB", "TB")
_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_HUES: Final = 8
# A comment to its end, or a tag; each byte is looked at once
_MARKUP: Final = re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z!][^<>]*>?", re.DOTALL)
_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def make_environment() -> Environment:
    """Return the environment of the templates."""
    environment = Environment(
        loader=PackageLoader("ehlo.inbox.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=show_bytes,
        clock=show_clock,
        counted=show_count,
        duration=show_duration,
        highlight=highlight,
        hue=hue,
        iso=show_iso,
        is_web=is_web,
        number=show_number,
        replies=replies_of,
    )
    return environment


def page_response(html: str, nonce: str, frame: str, status: int = 200) -> Response:
    """Return a page with its headers.

    Scripts with `nonce`, and what they import, may run. A frame may show what `frame` names, so
    that a mail in it cannot lead to any other page.
    """
    headers = {name: value.format(nonce=nonce, frame=frame) for name, value in _HEADERS.items()}
    return Response(html, status, headers=headers, media_type="text/html")


class Assets:
    """Holds the files of the pages, in memory, and the name of this version of them."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {
            path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.is_file()
        }
        digest = hashlib.sha256(b"".join(self._files.values()))
        self.version: str = digest.hexdigest()[:12]
        """A part of the address of each file, so that a browser may keep the file for ever."""

    def response(self, name: str) -> Response:
        """Return a file, or 404."""
        data = self._files.get(name)
        if data is None:
            return Response("Not found\n", 404, media_type="text/plain")
        suffix = Path(name).suffix
        kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(data, media_type=kind, headers=headers)


# -- filters ---------------------------------------------------------------------------------------


def show_bytes(size: int) -> str:
    """Return a size for a person, as in `1.4 KB`; a KB has 1,024 bytes."""
    if size < 1_024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    value = size / 1_024**power
    return (
        f"{value:.1f} {_UNITS[power - 1]}" if value < 9.95 else f"{value:.0f} {_UNITS[power - 1]}"
    )


def show_number(number: int) -> str:
    """Return a number with commas."""
    return f"{number:,}"


def show_count(number: float, noun: str) -> str:
    """Return a number and a noun whose plural ends in `s`, as in `1 rule` and `1,200 rules`."""
    shown = show_number(number) if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def show_iso(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as RFC 3339 in UTC."""
    return _moment(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show_clock(seconds: float) -> str:
    """Return a time, in seconds since the epoch, for a reader without JavaScript."""
    return f"{_moment(seconds):%Y-%m-%d %H:%M} UTC"


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # a year that no calendar has
        return datetime.fromtimestamp(0, UTC)


def show_duration(seconds: float) -> str:
    """Return a duration for a person, as in `3 days`."""
    for size, name in _SPANS:
        if seconds >= size:
            return show_count(round(seconds / size), name)
    return show_count(seconds, "second")


def hue(tag: str) -> int:
    """Return the number of a color, which is always the same for a tag."""
    return sum(tag.lower().encode()) % _HUES


def highlight(markup: str) -> Iterator[tuple[str, str]]:
    """Yield HTML in pieces: `comment`, `markup`, or an empty kind, and the text of each."""
    at = 0
    for found in _MARKUP.finditer(markup):
        if found.start() > at:
            yield "", markup[at : found.start()]
        yield "comment" if found[0].startswith("<!--") else "markup", found[0]
        at = found.end()
    yield "", markup[at:]


def is_web(url: str) -> bool:
    """Return whether a page may link to an address: no scheme but these two."""
    return url[:8].lower().startswith(("http://", "https://"))


def replies_of(fault: Fault) -> list[str]:
    """Return the replies of a fault as text."""
    return [text_of(reply) for reply in fault.replies]


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="@")


def query_of(values: Mapping[str, object]) -> str:
    """Return `?…` of the values that are not empty."""
    text = urlencode({name: value for name, value in values.items() if value not in ("", None)})
    return f"?{text}" if text else ""
