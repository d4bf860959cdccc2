"""Long work rests: there are few steps between two rests, and other threads run in these."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from ehlo.content import Breather, read_content, summarize
from ehlo.content.breather import Rest
from ehlo.content.transfer import decode_transfer
from ehlo.store.folding import searched_text

MOST_STEPS = 30_000  # calls of functions between two rests: two milliseconds without the count

MULTIPART = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
HTML = b"Content-Type: text/html\r\n\r\n"
MESSAGES = {
    "tags": HTML + b"<p><b>x</b><a href='http://x.test/y'>z</a></p>\n" * 3_000,
    "open tags": HTML + b"<div>" * 20_000,
    "entities": HTML + b"&amp;" * 20_000,
    "text": HTML + b"word " * 50_000,
    "no boundaries": MULTIPART + b"\r\n" + b"--no\r\n" * 30_000 + b"--b--\r\n",
    "parts": MULTIPART * 2_000,
    "attachments": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--b\r\nContent-Type: image/png; name=x\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n"
    * 2_000,
    "fields": b"A: x\r\n" * 20_000,
    "uuencode": MULTIPART
    + b"Content-Type: image/png\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n"
    + (b"M" + b"QUJD" * 15 + b"\r\n") * 3_000,
    "quoted": MULTIPART
    + b"Content-Type: image/png\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    + b"=41=\r\n" * 20_000,
}
WORK: dict[str, Callable[[bytes, Rest], object]] = {
    "summary": lambda message, rest: summarize(message, (), rest),
    "searched text": lambda message, rest: searched_text(message, (), rest),
    "text": lambda message, rest: read_content(message, rest).text,
    "data": lambda message, rest: [
        decode_transfer(message[each.start : each.end], "base64", rest)
        for each in read_content(message, rest).attachments
    ],
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("work", WORK)
def test_no_message_keeps_a_thread_from_its_rests(name: str, work: str) -> None:
    steps = most = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    def rest() -> None:
        nonlocal steps, most
        steps, most = 0, max(most, steps)

    sys.setprofile(count)
    try:
        WORK[work](MESSAGES[name], rest)
    finally:
        sys.setprofile(None)
    assert max(most, steps) < MOST_STEPS


def test_a_rest_is_short_and_comes_twice_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    slept: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", slept.append)
    breather = Breather()
    for step in range(100):
        now = step / 10_000
        breather.rest()
    assert 15 <= len(slept) <= 20
    assert max(slept) < 0.001
