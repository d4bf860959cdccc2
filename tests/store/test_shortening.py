"""Summaries: what they have of long fields, whatever a message has in it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.summary import Mailbox, Summary
from ehlo.store import Delivery, Store
from ehlo.store.shortening import LONGEST_SUMMARY, bounded, summary_json
from support.storing import in_loop, mail

SUMMARY = Summary("", Mailbox("", ""), [], [], [], [], "", "", 0, 0, 0)
WIDE = st.sampled_from(["a", "<", "&", '"', "\\", "\u2028", "\ud800", "é", "\U0001f600"])
TEXTS = st.builds(lambda text, times: text * times, WIDE, st.integers(0, 12_000))
MAILBOXES = st.builds(Mailbox, TEXTS, TEXTS)
LISTS = st.builds(lambda box, times: [box] * times, MAILBOXES, st.integers(0, 1_000))


def people(count: int) -> list[Mailbox]:
    return [Mailbox(f"Person {each}", f"p{each}@x.test") for each in range(count)]


def addresses(shown: dict[str, Any], field: str) -> list[str]:
    return [each["Address"] for each in shown[field]]


@in_loop
async def test_a_summary_has_the_first_hundred_mailboxes_of_a_field() -> None:
    lists = b",\r\n ".join(b'"Person %d" <p%d@x.test>' % (each, each) for each in range(4_000))
    message = b"From: a@x.test\r\nTo: " + lists + b"\r\nCc: " + lists + b"\r\n\r\nHi\r\n"
    async with Store.open() as store:
        await store.put(Delivery(message, "a@x.test", [f"q{each}@x.test" for each in range(150)]))
        (entry,) = (await store.list()).mails
        assert entry.size == len(message) > 200_000
        assert len(entry.summary) < 3 * 8_192
        shown = json.loads(entry.summary)
        assert addresses(shown, "To") == addresses(shown, "Cc")
        assert addresses(shown, "To") == [f"p{each}@x.test" for each in range(100)]
        assert addresses(shown, "Bcc") == [f"q{each}@x.test" for each in range(100)]
        assert shown["Omitted"] == {"To": 900, "Cc": 900, "Bcc": 50}  # 1,000 of a field are read
        assert (await store.search("to:p999@x.test")).found.total == 1


@in_loop
async def test_a_hundred_mailboxes_are_all_there() -> None:
    lists = b", ".join(b"Person %d <p%d@x.test>" % (each, each) for each in range(100))
    async with Store.open() as store:
        await store.put(Delivery(b"To: " + lists + b"\r\nCc: " + lists + b"\r\n\r\n"))
        shown = json.loads((await store.list()).mails[0].summary)
        assert len(shown["To"]) == len(shown["Cc"]) == 100
        assert "Omitted" not in shown


def test_the_mailboxes_of_a_field_take_a_bounded_number_of_bytes() -> None:
    boxes = [Mailbox("\U0001f600" * 150, f"p{each}@x.test") for each in range(90)]
    shown = json.loads(summary_json(SUMMARY._replace(to=boxes, reply_to=people(3)), "id"))
    assert 8_192 - 700 < len(json.dumps(shown["To"], ensure_ascii=False).encode()) < 8_192 + 200
    assert shown["Omitted"] == {"To": 90 - len(shown["To"])}
    assert addresses(shown, "ReplyTo") == ["p0@x.test", "p1@x.test", "p2@x.test"]


def test_a_long_text_in_a_summary_ends_in_dots() -> None:
    long = SUMMARY._replace(
        sender=Mailbox("n" * 5_000, "a" * 5_000), subject="s" * 5_000, to=[Mailbox("", "b" * 500)]
    )
    shown = json.loads(summary_json(long, "i" * 5_000))
    assert shown["From"] == {"Name": "n" * 197 + "...", "Address": "a" * 317 + "..."}
    assert shown["To"] == [{"Name": "", "Address": "b" * 317 + "..."}]
    assert shown["Subject"] == "s" * 997 + "..."
    assert shown["MessageID"] == "i" * 997 + "..."
    assert "Omitted" not in shown


def test_a_summary_that_is_not_long_is_whole() -> None:
    summary = SUMMARY._replace(sender=Mailbox("n" * 900, "a"), subject="s" * 2_000)
    shown = json.loads(summary_json(summary, "id"))
    assert (shown["From"]["Name"], shown["Subject"]) == ("n" * 900, "s" * 2_000)


@given(MAILBOXES, LISTS, LISTS, TEXTS, TEXTS)
def test_no_summary_is_longer_than_it_may_be(
    sender: Mailbox, some: list[Mailbox], others: list[Mailbox], subject: str, identifier: str
) -> None:
    summary = SUMMARY._replace(
        sender=sender, to=some, cc=others, bcc=some, reply_to=others, subject=subject
    )
    text = summary_json(summary, identifier)
    assert len(text) <= LONGEST_SUMMARY
    assert not set("<>&\u2028\ud800") & set(text)
    assert bounded(text) == text
    shown = json.loads(text)
    for field, boxes in (("To", some), ("Cc", others), ("Bcc", some), ("ReplyTo", others)):
        assert len(shown[field]) + shown.get("Omitted", {}).get(field, 0) == len(boxes)
        assert bool(shown[field]) == bool(boxes)


@in_loop
async def test_a_long_summary_of_an_older_ehlo_is_listed_with_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with Store.open(str(path)) as store:
        first = await store.put(Delivery(mail("first")))
        second = await store.put(Delivery(mail("second")))
    database = sqlite3.connect(path)
    (text,) = database.execute("SELECT summary FROM mails WHERE id = ?", (first,)).fetchone()
    lists = [{"Name": each.name, "Address": each.address} for each in people(1_000)]
    old = {**json.loads(text), "To": lists, "Cc": lists, "Subject": "first & last"}
    long = json.dumps(old, ensure_ascii=False)
    database.execute("UPDATE mails SET summary = ? WHERE id = ?", (long, first))
    database.commit()
    database.close()
    assert len(long) > LONGEST_SUMMARY
    async with Store.open(str(path)) as store:
        stored = await store.get(first)
        assert stored is not None
        page = await store.list()
        assert [each.id for each in page.mails] == [second, first]
        found = (*page.mails[1:], *(await store.search("first")).mails, *await store.find([first]))
        assert len(found) == 3
        for entry in (*found, stored.mail):
            shown = json.loads(entry.summary)
            assert len(entry.summary) < 2 * 8_192
            assert addresses(shown, "To") == addresses(shown, "Cc")
            assert addresses(shown, "To") == [f"p{each}@x.test" for each in range(100)]
            assert shown.pop("Omitted") == {"To": 900, "Cc": 900}
            assert {**shown, "To": lists, "Cc": lists} == old
