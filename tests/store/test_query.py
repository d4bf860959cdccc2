"""The search language: each term finds what the table in `ehlo.store.query` says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehlo.store import Delivery, Store
from ehlo.store.query import LONGEST_QUERY, MOST_TERMS, read_date, read_query

PNG = b"Content-Type: image/png\r\nContent-Disposition: inline; filename=logo.png\r\n\r\nx"
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC).timestamp()
MAILS = {
    "plain": b'From: J\xc3\xb6rg Fu\xc3\x9f <a@x.test>\r\nTo: "Bee, B" <b@y.test>\r\n'
    b"Subject: =?utf-8?q?H=C3=A9llo?= 100% sure\r\nX-Custom: one\r\n  two\r\n"
    b"Message-ID: <m1@x.test>\r\n\r\n"
    b'Hi there, see https://x.test/a?b=1&c=2 and "quoted" snip_pet; NEAR * ^ + text\r\n',
    "html": b"From: h@x.test\r\nTo: b+news@y.test\r\nCc: c@y.test\r\nReply-To: r@x.test\r\n"
    b"Subject: html\r\nContent-Type: text/html\r\n\r\n<p>Para <a href='https://x.test/l'>link</a></p>",
    "both": b"From: f@x.test\r\nTo: b@y.test\r\nSubject: both\r\n"
    b"Content-Type: multipart/mixed; boundary=M\r\n\r\n--M\r\n"
    b"Content-Type: multipart/alternative; boundary=A\r\n\r\n--A\r\n\r\nonly in text\r\n"
    b"--A\r\nContent-Type: text/html\r\n\r\n<b>only in markup</b>\r\n--A--\r\n--M\r\n"
    b"Content-Type: text/csv\r\nContent-Disposition: attachment; filename=list.csv\r\n\r\n1"
    b"\r\n--M\r\n" + PNG + b"\r\n--M--\r\n",
    "long": b"Subject: long\r\n\r\n"
    + b"word " * 8_000
    + b"needle"
    + b" word" * 20_000
    + b" thread",
    "empty": b"",
}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = Store.open()

    async def fill() -> None:
        for number, (name, message) in enumerate(MAILS.items()):
            created = NOON + 86_400 * number
            tags = ["Beta", "b d"] if name == "html" else []
            envelope = ["b@y.test", "hidden@z.test"] if name == "plain" else ["b@y.test"]
            await made.put(
                Delivery(
                    message, f"{name}@bounce.test", envelope, id=name, tags=tags, created=created
                )
            )
        await made.mark(read=True, ids=["long"])

    asyncio.run(fill())
    yield made
    made.close()


def found(store: Store, query: str, zone: str = "UTC") -> set[str]:
    page = asyncio.run(store.search(query, zone=zone, limit=None))
    names = [each.id for each in page.mails]
    assert names == [name for name in reversed(MAILS) if name in names]  # the newest first
    assert page.found.total == len(names)
    return set(names)


ALL = set(MAILS)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        # text
        ("there", {"plain"}),
        ("THERE", {"plain"}),
        ("HÉLLO", {"plain"}),
        ("hello", set()),
        ("fuß", {"plain"}),
        ("her", {"plain"}),
        ("hi there", {"plain"}),
        ('"hi there"', {"plain"}),
        ('"there hi"', set()),
        ('"there, see"', {"plain"}),
        ("only", {"both"}),
        ('"in text"', {"both"}),
        ('"in markup"', {"both"}),
        ("x.test/l", {"html"}),
        ("https://x.test/a?b=1&c=2", {"plain"}),
        ("list.csv", {"both"}),
        ("logo.png", set()),
        ("html@bounce.test", {"html"}),
        ('"one two"', {"plain"}),
        ("needle", {"long"}),
        ("thread", {"long"}),
        ("needle thread", {"long"}),
        ("needle there", set()),
        ("hi", {"plain"}),
        ("q", {"plain"}),
        # nothing is special
        ("100%", {"plain"}),
        ("%", {"plain"}),
        ("_", {"plain"}),
        ("snip_pet", {"plain"}),
        ("snipXpet", set()),
        ("*", {"plain"}),
        ("nee*", set()),
        ("^", {"plain"}),
        ("+", {"plain", "html"}),
        ("NEAR(hi there)", set()),
        ("hi OR only", set()),
        ("body:hi", set()),
        ("{text}", set()),
        ("'; DROP TABLE mails; --", set()),
        ("\\", set()),
        ('"', ALL),
        ('""', ALL),
        ("", ALL),
        (" \t ", ALL),
        ("\0", ALL),
        ("-", {"plain", "html", "both"}),
        # negation
        ("-there", ALL - {"plain"}),
        ("!there", ALL - {"plain"}),
        ("-there -only", ALL - {"plain", "both"}),
        ('-"hi there"', ALL - {"plain"}),
        ("-to:b@y.test", ALL - {"plain", "both"}),
        # fields
        ("from:jörg", {"plain"}),
        ("FROM:JÖRG", {"plain"}),
        ("from:a@x", {"plain"}),
        ("to:b@y.test", {"plain", "both"}),
        ('to:"Bee, B"', {"plain"}),
        ('to:"bee b"', {"plain"}),
        ("cc:c@y", {"html"}),
        ("bcc:hidden", {"plain"}),
        ("bcc:b@y.test", {"html", "long", "empty"}),
        ("reply-to:r@", {"html"}),
        ("addressed:c@y", {"html"}),
        ("addressed:hidden", {"plain"}),
        ("subject:100%", {"plain"}),
        ('subject:"100% sure"', {"plain"}),
        ("subject:there", set()),
        ("message-id:m1@x", {"plain"}),
        ("message-id:<m1@x.test>", {"plain"}),
        ("from:", ALL),
        ('from:""', ALL),
        ("header:x-custom", {"plain"}),
        ("header:X-CUSTOM=TWO", {"plain"}),
        ('header:x-custom="one two"', {"plain"}),
        ("header:x-custom=there", set()),
        ("-header:subject", {"empty"}),
        ("header:=x", ALL),
        # states
        ("is:read", {"long"}),
        ("is:unread", ALL - {"long"}),
        ("is:tagged", {"html"}),
        ("tag:BETA", {"html"}),
        ('tag:"b d"', {"html"}),
        ("tag:bet", set()),
        ("has:attachment", {"both"}),
        ("has:attachments", {"both"}),
        ("has:inline", {"both"}),
        ("is:bogus", set()),
        ("has:bogus", set()),
        # sizes
        ("larger:100KB", {"long"}),
        ("larger:0.1m", {"long"}),
        ("smaller:1", {"empty"}),
        (f"larger:{len(MAILS['plain'])}", {"both", "long"}),
        ("larger:junk", set()),
        ("larger:0", set()),
        # dates
        ("after:2026-12-01", {"long", "empty"}),
        ("before:2026/11/29", {"plain"}),
        ("before:11/29/2026", {"plain"}),
        ('before:"2026-11-29 12:00"', {"plain", "html"}),
        ("before:2026-11-29T13:00:00+01:00", {"plain", "html"}),
        (f"before:{int(NOON)}", {"plain"}),
        ("after:junk", ALL),
        ("after:9999-12-31", set()),
        ("after:0001-01-01", ALL),
        ("unknown:prefix", set()),
    ],
)
def test_a_query_finds(store: Store, query: str, names: set[str]) -> None:
    assert found(store, query) == names


@pytest.mark.parametrize(
    ("zone", "names"),
    [
        ("UTC", {"plain"}),
        ("Pacific/Kiritimati", set()),  # 14 hours earlier
        ("America/Los_Angeles", {"plain"}),
    ],
)
def test_a_date_is_midnight_in_a_zone(store: Store, zone: str, names: set[str]) -> None:
    assert found(store, "before:2026-11-29", zone) == names


@pytest.mark.parametrize("zone", ["Not/AZone", "../../etc/passwd", "/etc/passwd", "\0", "x" * 999])
def test_an_unknown_zone_is_the_local_one(store: Store, zone: str) -> None:
    assert found(store, "before:2026-11-29", zone) == found(store, "before:2026-11-29", "")


def test_text_at_a_border_of_pieces_is_found() -> None:
    async def search() -> None:
        async with Store.open() as store:
            for shift in range(0, 20, 4):
                text = (
                    b"Subject: s\r\n\r\n"
                    + b"x" * (16_384 - 30 + shift)
                    + b" a long needle "
                    + b"y" * 99
                )
                await store.put(Delivery(text))
            assert (await store.search('"a long needle"')).found.total == 5

    asyncio.run(search())


def test_queries_are_bounded() -> None:
    words = " ".join(f"word{number}" for number in range(1_000))
    assert read_query(words).sql.count("instr") == MOST_TERMS
    assert len(str(read_query("x" * 100_000).values)) < 2 * LONGEST_QUERY


@pytest.mark.parametrize("text", ["9" * 400, "1e5", "2026-13-01", "99999999999", "-1", "٢٠٢٦"])
def test_what_is_no_date_is_none_or_a_number(text: str) -> None:
    assert read_date(text, None) is None or isinstance(read_date(text, None), float)


@settings(max_examples=200, deadline=None)
@given(query=st.text(alphabet="ab\"-!:;%_*^()\0\\'\ud800é <>=,") | st.text())
def test_no_query_is_an_error(store: Store, query: str) -> None:
    found(store, query)
