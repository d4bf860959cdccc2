"""Thumbnails of images, by Pillow where it is installed.

An image is a hostile program for its decoder: few formats are read, none with too many pixels, and
few at once.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import NOT_FOUND, RefusedError, resource
from ehlo.inbox.api.anatomy import rest_for
from ehlo.inbox.api.single import find_part
from ehlo.inbox.desk import Desk

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH: Final = 180
HEIGHT: Final = 120
MOST_PIXELS: Final = 20_000_000
_LONGEST_SIDE: Final = 30_000  # one of millions took 4 s to scale
_FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_AT_ONCE: Final = 2

_logger = logging.getLogger("ehlo.inbox")


def has_pillow() -> bool:
    """Return whether Pillow is installed: without it there are no thumbnails."""
    return find_spec("PIL") is not None


class Thumbs:
    """The endpoint of thumbnails."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._has_pillow = has_pillow()

    async def thumb(self, request: Request) -> Response:
        """Return a small image of a part; a white one for what is no image."""
        if not self._has_pillow:
            raise RefusedError(NOT_FOUND, 404)
        async with self._turns:  # the part is in memory, too
            found = await find_part(self._desk, request)
            image = await asyncio.to_thread(thumbnail, found.pieces or ())
        return Response(image, media_type="image/jpeg")


def thumbnail(pieces: Sequence[bytes]) -> bytes:
    """Return a thumbnail of an image as JPEG: cropped, or on white if the image is smaller."""
    import PIL.Image  # it may not be installed

    image = io.BytesIO()
    rest = rest_for(sum(map(len, pieces)))
    for piece in pieces:
        image.write(piece)
        rest()
    canvas = PIL.Image.new("RGB", (WIDTH, HEIGHT), "white")
    try:
        _draw(image, canvas)
    except Exception as error:  # noqa: BLE001  decoders raise anything for images that are none
        _logger.debug("an image was not readable: error=%r", error)
    written = io.BytesIO()
    canvas.save(written, "JPEG", quality=80)
    return written.getvalue()


def _draw(file: io.BytesIO, canvas: Image) -> None:
    import PIL.Image
    from PIL import ImageOps

    with PIL.Image.open(file, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
            return
        image.draft("RGB", (2 * WIDTH, 2 * HEIGHT))  # JPEG is read smaller
        shown = ImageOps.exif_transpose(image).convert("RGBA")
    if shown.width >= WIDTH and shown.height >= HEIGHT:
        shown = ImageOps.fit(shown, (WIDTH, HEIGHT))
    else:
        shown.thumbnail((WIDTH, HEIGHT))
    place = ((WIDTH - shown.width) // 2, (HEIGHT - shown.height) // 2)
    canvas.paste(shown, place, shown)


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the route of thumbnails."""
    return [resource("/api/v1/message/{id}/part/{part}/thumb", GET=Thumbs(desk).thumb)]
