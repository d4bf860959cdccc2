"""Thumbnails: of what is an image, and of what only says so."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from ehlo.inbox.api.thumbs import HEIGHT, WIDTH, thumbnail
from ehlo.store import Delivery
from support.inboxes import inbox
from support.storing import in_loop

THUMB = "/api/v1/message/latest/part/0/thumb"


def image_of(kind: str, width: int, height: int, color: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), color).save(written, kind)
    return written.getvalue()


def claimed(width: int, height: int) -> bytes:
    """Return a PNG that claims to be of a size, without the data for it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1_000_000)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def seen(thumb: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(thumb))
    assert (image.format, image.size) == ("JPEG", (180, 120))
    return image


def is_red(image: Image.Image, x: int, y: int) -> bool:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel[1] < 100


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_large_image_is_cropped_and_a_small_one_is_on_white(kind: str) -> None:
    large = seen(thumbnail([image_of(kind, 1_000, 300)]))
    assert is_red(large, 0, 0)
    assert is_red(large, WIDTH - 1, HEIGHT - 1)
    small = seen(thumbnail([image_of(kind, 20, 20)]))
    assert is_red(small, WIDTH // 2, HEIGHT // 2)
    assert not is_red(small, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        claimed(65_535, 65_535),
        claimed(5_000, 4_001),
        claimed(1, 2**31 - 1),
        claimed(0, 0),
        claimed(100, 100)[:60],
        image_of("JPEG", 300, 300)[:200],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_no_image_or_too_large_is_white(data: bytes) -> None:
    assert not is_red(seen(thumbnail([data])), WIDTH // 2, HEIGHT // 2)


@in_loop
async def test_a_part_has_a_thumbnail() -> None:
    data = b"Content-Type: image/png\r\n\r\n" + image_of("PNG", 500, 500)
    async with inbox(Delivery(data)) as (_, api):
        answer = await api.get(THUMB)
        assert answer.headers["content-type"] == "image/jpeg"
        assert is_red(seen(answer.content), 0, 0)
        answer = await api.get(THUMB.replace("/0/", "/1/"))
        assert (answer.status_code, answer.text) == (404, "404 page not found")


@in_loop
async def test_without_pillow_there_are_no_thumbnails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ehlo.inbox.api.thumbs.find_spec", lambda _name: None)
    async with inbox(Delivery(b"Content-Type: image/png\r\n\r\nx")) as (_, api):
        assert (await api.get(THUMB)).status_code == 404
