"""A store: what is put into it comes out, is listed, marked, tagged, dropped and announced."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ehlo.store import (
    Change,
    Delivery,
    DiskFullError,
    MailCounts,
    Store,
    StoredMessage,
    StoreError,
)
from ehlo.store.database import VERSION, open_database
from ehlo.store.heap import Heap
from ehlo.store.indexing import Index
from ehlo.store.keeping import Keeper
from ehlo.transcript import Line
from support.storing import fill, ids, in_loop, mail, subjects

MAIL = (
    b"From: Anna <a@x.test>\r\nTo: b@y.test\r\nSubject: hello\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"
)


@in_loop
async def test_a_mail_comes_out_as_it_went_in() -> None:
    delivery = Delivery(
        MAIL,
        "bounce@x.test",
        ["b@y.test", "hidden@z.test"],
        inbox="support",
        username="anna",
        facts={"helo": "client", "tls": None, "size": 3},
        transcript=[Line(1.5, "client", "EHLO x"), Line(2.0, "server", "250 ok")],
        tags=["beta", "Alpha", "alpha"],
        created=1_700_000_000.25,
    )
    async with Store.open() as store:
        mail_id = await store.put(delivery)
        found = await store.get(mail_id)
        assert isinstance(found, StoredMessage)
        assert found.data == MAIL
        assert (found.mail_from, found.rcpt_tos) == ("bounce@x.test", ["b@y.test", "hidden@z.test"])
        assert found.facts == delivery.facts
        assert found.transcript == delivery.transcript
        entry = found.mail
        assert (entry.id, entry.inbox, entry.username) == (mail_id, "support", "anna")
        assert (entry.created, entry.is_read, entry.size) == (1_700_000_000.25, False, len(MAIL))
        assert entry.tags == ["Alpha", "beta"]
        assert json.loads(entry.summary) == {
            "MessageID": "1@x",
            "From": {"Name": "Anna", "Address": "a@x.test"},
            "To": [{"Name": "", "Address": "b@y.test"}],
            "Cc": [],
            "Bcc": [{"Name": "", "Address": "hidden@z.test"}],
            "ReplyTo": [],
            "Subject": "hello",
            "Size": len(MAIL),
            "Attachments": 0,
            "Snippet": "body",
        }
        assert len(mail_id) == 22
        assert mail_id.isalnum()
        assert await store.get("unknown") is None
        assert await store.get(mail_id, "other") is None


@in_loop
async def test_a_summary_is_json_that_html_can_contain() -> None:
    async with Store.open() as store:
        await store.put(Delivery(mail("</script><!-- & é")))
        (entry,) = (await store.list()).mails
        assert not set("<>&") & set(entry.summary)
        assert json.loads(entry.summary)["Subject"] == "</script><!-- & é"


@in_loop
async def test_the_newest_mail_comes_first_and_pages_follow_each_other() -> None:
    async with Store.open() as store:
        await fill(store, 5)
        page = await store.list(limit=2)
        assert subjects(page) == ["number 4", "number 3"]
        assert page.inbox == page.found == MailCounts(5, 5)
        assert subjects(await store.list(limit=2, start=4)) == ["number 0"]
        assert subjects(await store.list(limit=2, start=9)) == []
        assert len((await store.list(limit=None)).mails) == 5
        assert (await store.list(before=1.0)).mails == []


@in_loop
async def test_inboxes_are_apart() -> None:
    async with Store.open() as store:
        (one,) = await fill(store, 1, "one")
        await fill(store, 2, "two")
        assert ids(await store.list("one")) == [one]
        assert len((await store.list()).mails) == 3
        assert await store.mark(read=True, inbox="one") == 1
        assert await store.inboxes() == {"one": MailCounts(1, 0), "two": MailCounts(2, 2)}
        assert await store.delete(inbox="two", ids=[one]) == 0
        assert await store.delete(inbox="two") == 2
        assert await store.inboxes() == {"one": MailCounts(1, 0)}
        assert (await store.search("number", "two")).found == MailCounts(0, 0)
        assert (await store.search("number", "one")).found == MailCounts(1, 0)


@in_loop
async def test_mails_are_marked_by_id_by_query_and_all() -> None:
    async with Store.open() as store:
        first, second, _ = await fill(store, 3)
        assert await store.mark(read=True, ids=[first, "unknown"]) == 1
        assert await store.mark(read=True, ids=[first]) == 1  # again
        assert await store.counts() == MailCounts(3, 2)
        assert await store.mark(read=True, query='subject:"number 1"') == 1
        assert ids(await store.search("is:read")) == [second, first]
        assert await store.mark(read=False) == 2
        assert await store.counts() == MailCounts(3, 3)


@in_loop
async def test_mails_are_deleted_by_id_by_query_and_all() -> None:
    async with Store.open() as store:
        first, second, third = await fill(store, 3)
        assert await store.delete(ids=[first, "unknown"]) == 1
        assert await store.delete(query="-subject:2 number") == 1
        assert ids(await store.list()) == [third]
        assert await store.get(second) is None
        assert await store.delete() == 1
        assert await store.delete() == 0
        assert await store.counts() == MailCounts(0, 0)
        assert (await store.search("number")).mails == []


@in_loop
async def test_tags_are_cleaned_replaced_renamed_and_deleted() -> None:
    async with Store.open() as store:
        first, second = await fill(store, 2)
        await store.set_tags([first, "unknown"], ["One", "one", " t w o ", "b/ad", "\0", "x" * 200])
        assert await store.tags() == {"b ad": 1, "One": 1, "t w o": 1, "x" * 100: 1}
        await store.set_tags([first, second], ["one", "beta"])
        assert await store.tags() == {"beta": 2, "one": 2}
        assert ids(await store.search("tag:ONE")) == [second, first]
        assert ids(await store.search("tag:on")) == []
        await store.rename_tag("ONE", "First")
        assert await store.tags() == {"beta": 2, "First": 2}
        for name, wrong in (("first", "beta"), ("none", "x"), ("beta", "///")):
            with pytest.raises(ValueError, match="tag"):
                await store.rename_tag(name, wrong)
        await store.delete_tag("first")
        with pytest.raises(ValueError, match="tag not found: first"):
            await store.delete_tag("first")
        await store.delete(ids=[first, second])
        assert await store.tags() == {}


@in_loop
async def test_each_inbox_keeps_so_many_mails() -> None:
    async with Store.open(keep=3) as store:
        await fill(store, 10, "one")
        await fill(store, 2, "two")
        assert subjects(await store.list("one")) == ["number 9", "number 8", "number 7"]
        assert await store.counts("two") == MailCounts(2, 2)


@in_loop
async def test_all_inboxes_together_keep_ten_times_as_many() -> None:
    async with Store.open(keep=2) as store:
        for number in range(40):
            await fill(store, 1, f"inbox {number}")
        assert await store.counts() == MailCounts(20, 20)
        assert "inbox 19" not in await store.inboxes()
        assert "inbox 20" in await store.inboxes()


@in_loop
async def test_old_mails_are_dropped() -> None:
    async with Store.open(keep_age=3_600) as store:
        seen = asyncio.Event()
        loop = asyncio.get_running_loop()

        def note(changes: Iterable[Change]) -> None:
            if any(change.kind == "prune" for change in changes):
                loop.call_soon_threadsafe(seen.set)

        store.watch(note)
        await store.put(Delivery(MAIL, created=1.0))
        new = await store.put(Delivery(MAIL))
        await asyncio.wait_for(seen.wait(), 60)
        assert ids(await store.list()) == [new]


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def rows(path: Path, table: str) -> int:
    database = sqlite3.connect(path)
    try:
        return len(database.execute(f"SELECT number FROM {table}").fetchall())  # noqa: S608  of the test
    finally:
        database.close()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory for all that is temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@in_loop
async def test_nothing_is_left_of_a_mail_that_is_dropped(temporary: Path) -> None:
    async with Store.open(keep=3) as store:
        path = Path(store.path)
        index = path.with_name("search.db")

        async def wait_until(*counts: int) -> None:
            while (rows(path, "messages"), rows(index, "texts"), rows(path, "gone")) != counts:
                await store.counts()

        for _ in range(4):
            await fill(store, 3)
            await store.search("number")  # which indexes them
        await fill(store, 200)
        await asyncio.wait_for(wait_until(3, 3, 0), 60)
    async with Store.open(keep=0) as store:
        path = Path(store.path)
        index = path.with_name("search.db")
        await fill(store, 200)  # so many that their messages go later
        await store.put(Delivery(mail("long", "word " * 20_000)))
        assert (await store.search("word")).found.total == 1
        assert await store.delete() == 201
        await asyncio.wait_for(wait_until(0, 0, 0), 60)
        database = sqlite3.connect(index)
        found = database.execute('SELECT rowid FROM grams WHERE grams MATCH \'"num" OR "wor"\'')
        assert found.fetchall() == []
        database.close()
        assert rows(path, "tags") == 0


@in_loop
async def test_changes_are_announced_after_the_commit_and_remembered() -> None:
    async with Store.open() as store:
        begin = store.newest_change
        seen: list[Change] = []
        stop = store.watch(seen.extend)
        (first,) = await fill(store, 1, "one")
        await store.mark(read=True, ids=[first])
        await store.mark(read=True, ids=[first])  # which is told, too
        await store.set_tags([first], ["x"])
        await store.delete(ids=[first])
        await fill(store, 1)
        await store.delete(inbox="")
        stop()
        (last,) = await fill(store, 1)
        kinds = [(change.kind, change.inbox, change.ids) for change in seen[:5]]
        assert kinds == [
            ("new", "one", (first,)),
            ("read", None, (first,)),
            ("read", None, (first,)),
            ("tags", None, (first,)),
            ("delete", None, (first,)),
        ]
        assert [change.kind for change in seen[5:]] == ["new", "truncate"]
        assert store.changes_after(begin) == [*seen, Change(begin + 8, "new", "", (last,))]
        assert store.changes_after(seen[5].number) == [
            *seen[6:],
            Change(begin + 8, "new", "", (last,)),
        ]
        assert store.changes_after(store.newest_change) == []
        assert store.changes_after(begin - 1) is None
        assert store.changes_after(store.newest_change + 1) is None


@in_loop
async def test_a_watcher_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_changes: object) -> None:
        raise ZeroDivisionError

    async with Store.open() as store:
        store.watch(fail)
        await fill(store, 2)
        assert await store.counts() == MailCounts(2, 2)
    assert "a watcher of the store failed" in caplog.text


@in_loop
async def test_an_id_that_is_taken_is_an_error_for_one_mail_alone() -> None:
    async with Store.open() as store:
        puts = [store.put(Delivery(mail(str(each)), id="one")) for each in range(2)]
        results = await asyncio.gather(
            *puts, *(store.put(Delivery(MAIL)) for _ in range(5)), return_exceptions=True
        )
        assert results[0] == "one"
        assert isinstance(results[1], StoreError)
        assert await store.counts() == MailCounts(6, 6)


@in_loop
async def test_a_mail_whose_sender_left_is_stored_all_the_same() -> None:
    async with Store.open() as store:
        task = asyncio.ensure_future(store.put(Delivery(MAIL)))
        await asyncio.sleep(0)  # it is handed to the writer
        task.cancel()
        await store.put(Delivery(MAIL))  # which is committed with it, or later
        assert await store.counts() == MailCounts(2, 2)


@in_loop
async def test_a_message_is_read_in_pieces_and_only_its_beginning() -> None:
    message = b"Subject: large\r\n\r\n" + bytes(range(256)) * 10_000
    async with Store.open() as store:
        mail_id = await store.put(Delivery(message, "a@x.test"))
        found = await store.get(mail_id, most=100)
        assert found is not None
        assert found.data == message[:100]
        assert found.mail.size == len(message)
        whole = await store.get(mail_id, most=1 << 40)
        assert whole is not None
        assert whole.data == message

        async def read(start: int = 0, end: int | None = None) -> list[bytes]:
            return [each async for each in store.chunks(found.mail, start, end)]

        pieces = await read()
        assert b"".join(pieces) == message
        assert max(map(len, pieces)) <= 1 << 18
        assert b"".join(await read(1_000_000, 2_100_000)) == message[1_000_000:2_100_000]
        assert await read(len(message)) == []
        assert await read(5, 5) == []
        assert await read(len(message) - 1, len(message) + 9) == [message[-1:]]
        empty = await store.get(await store.put(Delivery(b"")), most=5)
        assert empty is not None
        assert empty.data == b""
        rest = store.chunks(found.mail)
        assert await anext(rest) == message[: 1 << 18]
        await store.delete(ids=[mail_id])
        with pytest.raises(StoreError):
            await anext(rest)
        assert await store.counts() == MailCounts(1, 1)  # readers are as they were


@in_loop
async def test_names_that_are_no_text_are_stored() -> None:
    async with Store.open() as store:
        delivery = Delivery(b"Subject: \xff\xfe\0\r\n\r\n\0", "\ud800", ["\udfff"], "\ud800", "\0")
        mail_id = await store.put(delivery)
        found = await store.get(mail_id)
        assert found is not None
        assert found.data == delivery.message
        assert ids(await store.list("\ud800")) == [mail_id]
        assert ids(await store.search("\ud800 \0")) == [mail_id]


# -- the file --------------------------------------------------------------------------------------


@in_loop
async def test_a_store_is_there_again_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with Store.open(str(path), keep=3) as store:
        kept = await fill(store, 3)
        number = store.newest_change
        await store.mark(read=True, ids=kept[:1])
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert names(tmp_path) == ["mail.db"]
    async with Store.open(str(path), keep=3) as store:
        assert ids(await store.list()) == kept[::-1]
        assert await store.counts() == MailCounts(3, 2)
        assert (await store.search("number")).found.total == 3
        assert store.changes_after(number) is None
        await fill(store, 1)
        assert ids(await store.list())[1:] == kept[:0:-1]


@in_loop
async def test_a_search_waits_for_the_index_of_what_was_stored_before(tmp_path: Path) -> None:
    path = str(tmp_path / "mail.db")
    async with Store.open(path) as store:
        await fill(store, 3)
    database = open_database(path, durable=True, max_size=0)
    heap = Heap()
    index = Index(heap)
    Keeper(0, 0, index, heap).load(database)  # all that is done before the first search
    database.close()
    assert index.is_behind


@in_loop
async def test_a_temporary_store_leaves_nothing(temporary: Path) -> None:
    async with Store.open() as store:
        assert Path(store.path).is_relative_to(temporary)
        await fill(store, 1)
    assert names(temporary) == []


def test_a_schema_from_the_future_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    Store.open(str(path)).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"newer ehlo .schema {VERSION + 1}; .* upgrade ehlo"):
        Store.open(str(path))
    assert path.read_bytes() == before


def test_the_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE x(y)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a store of ehlo"):
        Store.open(str(path))
    assert path.read_bytes() == before


def test_what_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(str(path))
    with pytest.raises(StoreError, match="no such directory; make it"):
        Store.open(str(tmp_path / "missing" / "mail.db"))
    with pytest.raises(StoreError, match="name another file"):
        Store.open(str(tmp_path))
    assert path.read_bytes() == b"not a database" * 1_000


@in_loop
async def test_a_full_store_is_an_error_and_works_on(tmp_path: Path) -> None:
    async with Store.open(str(tmp_path / "mail.db"), max_size=400_000) as store:
        kept = await fill(store, 3)
        with pytest.raises(DiskFullError, match="no room"):
            await store.put(Delivery(mail("large", "x" * 1_000_000)))
        kept += await fill(store, 3)
        assert ids(await store.list()) == kept[::-1]
        puts = [store.put(Delivery(mail("large", "x" * 50_000))) for _ in range(20)]
        results = await asyncio.gather(*puts, return_exceptions=True)
        stored = [each for each in results if isinstance(each, str)]
        assert 0 < len(stored) < 20
        assert all(isinstance(each, str | DiskFullError) for each in results)
        assert set(ids(await store.list())) == {*stored, *kept}


@in_loop
async def test_mail_leaves_the_room_that_its_deletion_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, free, looks = 1 << 30, 1 << 30, 0

    def usage(directory: Path) -> SimpleNamespace:
        nonlocal looks
        looks += 1
        assert directory == tmp_path
        if not free:
            raise FileNotFoundError
        return SimpleNamespace(total=total, free=free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    async with Store.open(str(tmp_path / "mail.db")) as store:
        await fill(store, 60)
        assert 1 <= looks <= 10
        await store.put(Delivery(mail("large", "x" * 2_000_000)))
        free = 8_000_000  # the log of SQLite has 2 MB, and for deletions there is 1 MB
        with pytest.raises(DiskFullError, match="free some space"):
            await store.put(Delivery(mail("large", "x" * 3_000_000)))
        await store.put(Delivery(mail("small")))
        free = 5_000_000
        with pytest.raises(DiskFullError, match="free some space"):
            await store.put(Delivery(mail("large", "x" * 1_000_000)))
        total = 0  # which some file systems say, whatever they have
        await store.put(Delivery(mail("large", "x" * 1_000_000)))
        total, free = 1 << 30, 0
        await store.put(Delivery(mail("large", "x" * 1_000_000)))
        free = 5_000_000
        assert await store.delete() == 64
        await store.put(Delivery(mail("large", "x" * 1_000_000)))  # in the room of the first one


@in_loop
async def test_a_store_that_is_locked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.sqlite.connecting._BUSY", 0.0)
    path = tmp_path / "mail.db"
    async with Store.open(str(path)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(store.put(Delivery(MAIL)) for _ in range(3)), return_exceptions=True
        )
        assert all("locked by another program" in str(each) for each in results)
        other.execute("COMMIT")
        other.close()
        await fill(store, 1)
        assert await store.counts() == MailCounts(1, 1)


@in_loop
async def test_a_closed_store_says_so() -> None:
    async with Store.open() as store:
        pass
    for call in (store.put(Delivery(MAIL)), store.list(), store.search("word")):
        with pytest.raises(StoreError, match="closed"):
            await call
    store.close()
    assert not [
        each
        for each in threading.enumerate()
        if each.name.startswith(("ehlo store", "ehlo writer"))
    ]


def test_a_store_serves_several_loops() -> None:
    store = Store.open()
    found: list[str] = []

    def work(number: int) -> None:
        found.append(asyncio.run(store.put(Delivery(mail(f"number {number}")))))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(asyncio.run(store.list()))) == sorted(found)
    store.close()


@in_loop
async def test_mails_are_found_by_their_ids() -> None:
    async with Store.open() as store:
        first, second = [*await fill(store, 1, "a"), *await fill(store, 1, "b")]
        found = await store.find([first, "unknown", second, first])
        assert [each.id for each in found] == [second, first]
        assert [each.id for each in await store.find([first, second], "a")] == [first]
        assert await store.find([]) == []


@in_loop
async def test_the_counts_are_those_of_the_rows() -> None:
    async with Store.open(keep=40) as store:
        for number in range(12):
            kept = await fill(store, 10, f"inbox {number % 3}")
            await store.mark(read=True, ids=kept[::2])
            await store.mark(read=False, ids=kept[:2])
            await store.mark(read=number % 2 == 0, inbox=f"inbox {(number + 1) % 3}")
            await store.delete(ids=kept[:4])
        await store.delete(inbox="inbox 2")
        (left, *_) = ids(await store.list())
        with pytest.raises(StoreError):
            await store.put(Delivery(MAIL, id=left))
        database = sqlite3.connect(store.path)
        counted = database.execute(
            "SELECT inbox, count(*), sum(is_read = 0) FROM mails GROUP BY inbox ORDER BY inbox"
        ).fetchall()
        database.close()
        assert [(name, *counts) for name, counts in (await store.inboxes()).items()] == counted
        assert [name for name, *_ in counted] == ["inbox 0", "inbox 1"]
        assert (await store.counts()).total == sum(total for _, total, _ in counted)
        assert await store.counts("inbox 0") == MailCounts(*counted[0][1:])
        assert await store.counts("inbox 2") == MailCounts(0, 0)
