"""The content of hostile messages: its time in the full form, its memory in both."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO, TextIOWrapper
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ehlo import Address, Message, Peer, Session
from ehlo.cli.printer import AsText, as_json
from ehlo.content import read_content
from robustness.process import Tell
from robustness.reading import FOUND, READ, list_it, message_of, read, search
from robustness.scale import IN_FULL, MIB, full

SECONDS = 0.3  # of CPU for each megabyte
MANY = full(MIB, short=MIB // 4)  # bytes of a message whose many pieces take long
EMOJI = "\U0001f600".encode()  # with one of them, text takes four bytes for each character
TEXT = b"Content-Type: text/plain; charset=utf-8\n\n"
HTML = b"Content-Type: text/html; charset=utf-8\n\n"
LARGE = {
    "text": TEXT + EMOJI + b"hello world\r\n" * 80_000,
    "a line": TEXT + EMOJI + b"x" * MIB,
    "control characters": TEXT + EMOJI + b"\x1b" * MIB,
    "bytes that are no text": TEXT + EMOJI + b"\xff" * MIB,
    "HTML": HTML + EMOJI + b"<p>hello world</p>\r\n" * 52_000,
    "text of HTML": HTML + EMOJI + b"hello world\r\n" * 80_000,
    "lines in HTML": HTML + EMOJI + b"<hr>" * (MANY // 4),
    "entities": HTML + EMOJI + b"&amp;" * 200_000,
    "a word in EUC-JP": b"Content-Type: text/plain; charset=euc-jp\n\n" + b"\xa1\xff" * (MIB // 2),
    "a short line of uuencode": b"Content-Transfer-Encoding: x-uuencode\n\n" + b"M\n" * (MIB // 2),
    "fields": b"A:\n" * (MIB // 3),
    "long fields": b"".join(b"A: " + EMOJI + b"x" * 60_000 + b"\n" for _ in range(20)),
    "folded lines": b"A: x" + b"\r\n x" * (MANY // 4),
    "pairs in quotes": b'Content-Type: a/b; a="' + b'\\"' * (MIB // 2),
    "parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * (MIB // 5),
    "parts with fields": b"Content-Type: multipart/mixed; boundary=b\n\n"
    + (b"--b\n" + b"A:\n" * 300 + b"\n") * (MANY // 905),
    "twenty megabytes": TEXT + EMOJI + b"hello world\r\n" * 1_600_000,
}


WEIGHED = full([*LARGE], short=[*[*LARGE][::3], "text of HTML"])


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that are allocated at once."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bound(message: bytes) -> int:
    """Return three times the message, which is there already, and what its readers may hold."""
    return 3 * len(message) + 3 * min(len(message), MIB) + 2 * MIB


@pytest.mark.parametrize("name", WEIGHED)
def test_content_takes_four_times_the_message_and_little_more(name: str) -> None:
    message = LARGE[name]

    def look() -> None:
        content = read_content(message)
        _ = content.subject, content.text, content.attachments

    def search() -> None:
        content = read_content(message)
        _ = content.links, content.codes

    read_content(b"\n\x1b$B").text  # noqa: B018  tables that are made once
    assert peak(look) <= bound(message)
    assert peak(search) <= bound(message)


SESSION = cast(
    "Session",
    SimpleNamespace(peer=Peer("192.0.2.1", 1), esmtp=True, helo="c", tls=None, user=None),
)


def printed(form: Callable[..., Iterator[str]], body: bytes) -> None:
    message: Any = Message("id", Address("a", "example.com"), [], b"", [body])
    for _ in form(SESSION, message, datetime.now(UTC), "id"):
        pass


@pytest.mark.parametrize(
    "form", [AsText(TextIOWrapper(BytesIO(), encoding="utf-8")), as_json], ids=["", "json"]
)
@pytest.mark.parametrize("name", WEIGHED)
def test_printing_takes_four_times_the_message_and_little_more(
    name: str, form: Callable[..., Iterator[str]]
) -> None:
    printed(form, b"\n\x1b$B")
    assert peak(lambda: printed(form, LARGE[name])) <= bound(LARGE[name])


@pytest.mark.skipif(not IN_FULL, reason="times are measured in the full form")
@pytest.mark.parametrize("size", [4_000, 60_000, 1_000_000])
@pytest.mark.parametrize("look", [read, search, list_it])
def test_reading_takes_little_time_for_each_megabyte(
    tell: Tell, size: int, look: Callable[[bytes], None]
) -> None:
    inputs = READ if look is read else {**READ, **FOUND}

    def seconds(name: str) -> float:
        message = message_of(inputs[name], size)
        times = max(1, 200_000 // size)
        begun = time.process_time()
        for _ in range(times):
            look(message)
        return (time.process_time() - begun) / (times * len(message)) * 1e6

    slowest = {name: seconds(name) for name in inputs}
    for name in sorted(inputs, key=lambda each: -slowest[each])[:20]:  # others only add to it
        slowest[name] = min(slowest[name], *(seconds(name) for _ in range(9)))
    name = max(slowest, key=lambda each: slowest[each])
    tell(f"{look.__name__}, {size} bytes: at most {slowest[name]:.2f} s for each MB ({name})")
    assert slowest[name] <= SECONDS
