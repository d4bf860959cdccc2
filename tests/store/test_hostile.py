"""What hostile clients, full disks and wrong clocks do to a store: never more than they may."""

from __future__ import annotations

import asyncio
import sqlite3
import tracemalloc
from collections.abc import Awaitable
from queue import SimpleQueue

import pytest

from ehlo.store import Delivery, DiskFullError, MailCounts, Store, TooSlowError
from ehlo.store.keeping import Keeper
from ehlo.store.query import read_query
from ehlo.store.rows import MOST_TAGS
from ehlo.transcript import Line
from support.storing import fill, ids, in_loop, mail

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("pages", range(22, 52, 3))
@in_loop
async def test_a_disk_that_is_full_at_any_statement_costs_one_change(pages: int) -> None:
    async with Store.open(max_size=pages * 16_384, keep=5) as store:
        kept = await fill(store, 2)

        async def succeeds(change: Awaitable[object]) -> bool:
            try:
                await change
            except DiskFullError:
                return False
            return True

        done = [
            await succeeds(store.put(Delivery(mail("large", "x" * 100_000)))),
            await succeeds(store.put_session([Line(0.0, "client", "x" * 2_000)] * 40)),
            await succeeds(store.set_tags(kept, [f"{each:0100}" for each in range(100)])),
            await succeeds(store.put(Delivery(mail("larger", "x" * 200_000), tags=["tag"] * 50))),
            await succeeds(store.mark(read=True)),
        ]
        page = await store.list()
        assert page.found == page.inbox
        assert len(page.mails) == page.found.total == 2 + done[0] + done[3]
        assert len(await store.sessions()) == done[1]
        assert page.found.unread == (0 if done[4] else page.found.total)
        assert await store.delete() == page.found.total
        await store.delete_sessions()
        assert len(await fill(store, 9)) == 9
        assert await store.counts() == MailCounts(5, 5)
        database = sqlite3.connect(store.path)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()


@in_loop
async def test_a_thousand_inboxes_are_dropped_with_their_mail() -> None:
    async with Store.open(keep=2) as store:
        await asyncio.gather(
            *(store.put(Delivery(mail(), inbox=f"{each}.test")) for each in range(1_000))
        )
        inboxes = await store.inboxes()
        assert len(inboxes) <= 20
        assert sum(counts.total for counts in inboxes.values()) <= 20
        assert (await store.list("0.test")).mails == []


@in_loop
async def test_tags_are_few_and_short() -> None:
    async with Store.open() as store:
        many = [f"tag {each}" for each in range(10_000)]
        first = await store.put(Delivery(mail(), tags=many))
        (second,) = await fill(store, 1)
        await store.set_tags([second], ["x" * 1_000_000, *many])
        page = await store.list()
        assert [len(each.tags) for each in page.mails] == [MOST_TAGS, MOST_TAGS]
        assert max(len(tag) for each in page.mails for tag in each.tags) == 100
        assert ids(await store.search("tag:" + "x" * 100)) == [second]
        assert first in ids(await store.search('tag:"tag 0"'))


@pytest.mark.parametrize(
    "query",
    [
        "x" * 100_000,
        '"' * 100_000,
        "a " * 50_000,
        "-" * 100_000,
        "from:" * 20_000,
        "header:" + "x=" * 50_000,
        "tag:" + "\0" * 100_000,
        "after:" + "9" * 100_000,
        "larger:" + "9" * 100_000,
        "NEAR(" * 20_000,
        "\ud800" * 100_000,
    ],
    ids=lambda query: query[:9].encode("ascii", "replace").decode(),
)
@in_loop
async def test_long_queries_are_answered(query: str) -> None:
    async with Store.open() as store:
        await fill(store, 2)
        assert (await store.search(query)).found.total in (0, 2)
        with pytest.raises(ValueError, match="nothing was changed"):  # its end is not read
            await store.mark(read=True, query=query)


@in_loop
async def test_a_size_that_no_mail_can_have_is_text() -> None:
    async with Store.open() as store:
        await fill(store, 2)
        for query in ("larger:999999999999g", "smaller:999999999999g"):
            assert (await store.search(query)).found.total == 0


def test_equal_terms_count_once() -> None:
    assert read_query("-z " * 50 + "-y").sql == read_query("-z -y").sql


@in_loop
async def test_a_search_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    query = " ".join(f"-z{number}" for number in range(40))
    async with Store.open() as store:
        await fill(store, 300)
        assert (await store.search(query)).found.total == 300
        monkeypatch.setattr("ehlo.store.reading.LONGEST_READING", -1.0)
        with pytest.raises(TooSlowError, match="reading took too long; search for less"):
            await store.search(query)
        monkeypatch.undo()
        assert (await store.search(query)).found.total == 300


@in_loop
async def test_a_clock_that_goes_back_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 2_000_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    async with Store.open(keep_age=3_600) as store:
        first = await store.put(Delivery(mail()))
        now = 1_000_000_000.0
        second = await store.put(Delivery(mail()))
        assert ids(await store.list()) == [second, first]
        assert ids(await store.search("body")) == [second, first]


@in_loop
async def test_a_large_message_is_read_with_little_memory() -> None:
    message = b"Subject: large\r\n\r\n" + b"x" * (12 * MEBIBYTE)
    async with Store.open() as store:
        mail_id = await store.put(Delivery(message))
        assert ids(await store.search("large")) == [mail_id]  # now the index has read it
        tracemalloc.start()
        try:
            found = await store.get(mail_id, most=65_536)
            assert found is not None
            size = 0
            async for chunk in store.chunks(found.mail):
                size += len(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size == len(message)
    assert peak < 4 * MEBIBYTE


@in_loop
async def test_a_disk_that_stays_full_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was a traceback each five seconds."""
    tries: SimpleQueue[None] = SimpleQueue()

    def fail(*_: object) -> bool:
        tries.put(None)
        raise DiskFullError("no room")

    monkeypatch.setattr("ehlo.sqlite.writer._REST", 0.001)
    monkeypatch.setattr(Keeper, "tidy", fail)
    async with Store.open():
        for _ in range(3):
            await asyncio.to_thread(tries.get, timeout=60)
    assert [each.getMessage() for each in caplog.records] == ["tidying failed: error=no room"]
    assert caplog.records[0].exc_info is None
