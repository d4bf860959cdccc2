"""Sessions that brought no mail: stored, listed, and bounded in number and in bytes."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from pathlib import Path

import pytest

from ehlo.store import Delivery, MailCounts, Store, StoredSession, StoreError
from ehlo.store.database import VERSION
from ehlo.store.keeping import MOST_SESSIONS, SESSION_BYTES
from ehlo.store.rows import read_transcript
from ehlo.transcript import Line
from support.storing import fill, ids, in_loop, mail

LINES = [Line(1.0, "client", "EHLO x"), Line(2.5, "server", "250 ok")]


@in_loop
async def test_a_session_comes_out_as_it_went_in(tmp_path: Path) -> None:
    path = str(tmp_path / "mail.db")
    async with Store.open(path) as store:
        await store.put_session(
            LINES, {"peer": "192.0.2.1"}, inbox="a", username="anna", created=9.25
        )
        await store.put_session([], inbox="b")
        await store.put_session([Line(0.0, "note", "\ud800\0")], inbox="\ud800")
    async with Store.open(path) as store:
        third, second, first = await store.sessions()
        assert first == StoredSession(1, "a", 9.25, "anna", {"peer": "192.0.2.1"}, LINES)
        assert (second.number, second.facts, second.transcript) == (2, {}, [])
        assert second.created > 1_700_000_000
        assert third.transcript == [Line(0.0, "note", "\ud800\0")]
        assert await store.sessions("\ud800") == [third]
        assert await store.sessions("a") == [first]
        assert await store.sessions("none") == []
        assert await store.sessions(limit=1) == [third]
        assert await store.sessions(limit=1, before=third.number) == [second]
        assert (await store.counts()).total == 0
        assert await store.delete_sessions("a") == 1
        assert await store.sessions() == [third, second]
        assert await store.delete_sessions() == 2
        assert await store.sessions() == []


@in_loop
async def test_sessions_are_bounded_in_number(tmp_path: Path) -> None:
    path = str(tmp_path / "mail.db")
    async with Store.open(path) as store:
        await asyncio.gather(*(store.put_session(LINES) for _ in range(MOST_SESSIONS + 20)))
        found = await store.sessions(limit=MOST_SESSIONS + 100)
        assert [each.number for each in found] == list(range(MOST_SESSIONS + 20, 20, -1))
    async with Store.open(path) as store:  # counted again
        await store.put_session(LINES)
        found = await store.sessions(limit=MOST_SESSIONS + 100)
        assert len(found) == MOST_SESSIONS
        assert found[0].number == MOST_SESSIONS + 21


@in_loop
async def test_sessions_are_bounded_in_bytes() -> None:
    long = [Line(0.0, "client", "x" * 2_000)] * 500  # a megabyte
    async with Store.open() as store:
        for number in range(12):
            await store.put_session(long, {"number": number})
        found = await store.sessions()
        assert [each.facts["number"] for each in found] == list(range(11, 3, -1))
        await store.put_session([Line(0.0, "client", "x" * SESSION_BYTES)])  # too large by itself
        assert await store.sessions() == []
        await store.put_session(LINES)
        assert len(await store.sessions()) == 1


@in_loop
async def test_old_sessions_are_dropped() -> None:
    async with Store.open(keep_age=3_600) as store:
        await store.put_session(LINES, created=1.0)
        await store.put_session(LINES)

        async def wait() -> None:
            while len(await store.sessions()) > 1:
                await store.counts()

        await asyncio.wait_for(wait(), 60)


@in_loop
async def test_a_session_that_is_rolled_back_is_not_counted() -> None:
    async with Store.open() as store:
        await store.put(Delivery(mail(), id="one"))
        results = await asyncio.gather(
            *(store.put_session(LINES) for _ in range(MOST_SESSIONS)),
            store.put(Delivery(mail(), id="one")),  # fails, and all with it, at first
            return_exceptions=True,
        )
        assert [each for each in results if each is not None] == [results[-1]]
        assert isinstance(results[-1], StoreError)
        assert len(await store.sessions(limit=1_000)) == MOST_SESSIONS


# -- a file of an older ehlo -----------------------------------------------------------------------


def downgraded(path: Path) -> None:
    """Make of a file what the first version of the schema was."""
    database = sqlite3.connect(path)
    database.executescript(
        "DROP TABLE sessions; DROP TABLE counts; DROP TRIGGER mail_marked;"
        "CREATE INDEX unread_mails ON mails(inbox) WHERE is_read = 0;"
        "PRAGMA user_version = 1;"
    )
    database.close()


@in_loop
async def test_a_file_of_an_older_ehlo_is_upgraded_with_all_of_its_mail(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with Store.open(str(path)) as store:
        kept = await fill(store, 5)
        await store.mark(read=True, ids=kept[:1])
    downgraded(path)
    async with Store.open(str(path)) as store:
        assert ids(await store.list()) == kept[::-1]
        assert await store.inboxes() == {"": MailCounts(5, 4)}
        await store.put_session(LINES)
        assert len(await store.sessions()) == 1
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    database.close()


@pytest.mark.parametrize(
    "text",
    ["S: hello", "", "a\tb\u00e9\u2028", "two\nlines", "a NUL\0", "half a character \ud800"],
)
@in_loop
async def test_each_line_of_a_session_comes_out_as_it_went_in(text: str) -> None:
    lines = [Line(1.5, "client", text), Line(2.25, "note", text), Line(1e9, "server", "250 Ok")]
    async with Store.open() as store:
        mail_id = await store.put(Delivery(mail(), transcript=lines))
        stored = await store.get(mail_id)
        assert stored is not None
        assert stored.transcript == lines


@pytest.mark.parametrize(
    "text",
    [
        '[[1.5,"client","EHLO a"],[2.0,"server","250 Ok"]]',
        f'["{struct.pack("<2d", 1.5, 2.0).hex()}",["client","server"],["EHLO a","250 Ok"]]',
    ],
)
def test_a_session_that_an_older_ehlo_stored_is_read(text: str) -> None:
    assert read_transcript(text) == [Line(1.5, "client", "EHLO a"), Line(2.0, "server", "250 Ok")]
    assert read_transcript("[]") == []


@in_loop
async def test_a_file_with_smaller_pages_and_a_trigger_for_its_counts_is_upgraded(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mail.db"
    async with Store.open(str(path)) as store:
        kept = await fill(store, 5)
    database = sqlite3.connect(path)
    database.executescript(
        "PRAGMA journal_mode = DELETE; PRAGMA page_size = 4096; VACUUM;"
        "CREATE TRIGGER mail_dropped AFTER DELETE ON mails BEGIN"
        " UPDATE counts SET total = total - 1, unread = unread - (old.is_read = 0)"
        " WHERE inbox = old.inbox; END; PRAGMA user_version = 3;"
    )
    database.close()
    async with Store.open(str(path), keep=5) as store:
        await store.mark(read=True, ids=kept[:2])
        kept += await fill(store, 1)
        assert ids(await store.list()) == kept[:0:-1]
        assert await store.counts() == MailCounts(5, 4)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert database.execute("PRAGMA page_size").fetchone() == (4_096,)
    database.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    Store.open(str(path)).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 1")  # although it has the new table
    database.close()
    with pytest.raises(StoreError, match="already exists"):
        Store.open(str(path))
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()
