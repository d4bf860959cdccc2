"""Large messages of a temporary store: each is read as it came, and leaves the disk in the end."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ehlo.message import spool_directory
from ehlo.store import Delivery, DiskFullError, Store, StoreError
from ehlo.store.heap import LARGE, Heap
from ehlo.store.room import LEFT
from interop.peers import absent
from support.storing import ids, in_loop, mail

MEBIBYTE = 1 << 20
PLACE = max(LARGE, mmap.ALLOCATIONGRANULARITY)  # of a message of `LARGE` bytes


def large(number: int, size: int = LARGE) -> bytes:
    """Return a message that is like no other one in any of its parts."""
    return (b"%063d\n" % number * (size // 64 + 1))[:size]


@contextmanager
def heap_in(directory: Path | str) -> Iterator[Heap]:
    with closing(Heap(str(directory))) as heap:
        if not heap.takes(LARGE):
            absent(f"no file of {directory} can have holes")
        yield heap


@pytest.fixture
def heap_of_stores() -> None:
    """Skip a test of stores where they have no heap."""
    with heap_in(spool_directory("")):
        pass


def read(heap: Heap, number: int, start: int = 0, size: int = 1 << 30) -> bytes | None:
    """Read a message that is on the heap: in the database there is none."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE messages(number INTEGER PRIMARY KEY, data BLOB)")
        database.execute("INSERT INTO messages VALUES (?, '')", (number,))
        return heap.read(database, number, start, size)


def disk_used(directory: Path) -> int:
    """Return the bytes on the disk of files that this process has open in a directory."""
    used = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            if each.readlink().is_relative_to(directory):
                used += each.stat().st_blocks * 512
        except FileNotFoundError:  # closed meanwhile
            continue
    return used


@pytest.mark.parametrize("seed", range(4))
def test_messages_are_read_as_they_came_whatever_comes_and_goes(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)  # noqa: S311  the same messages each time
    kept: dict[int, bytes] = {}
    newest = tries = written = 0
    with heap_in(tmp_path) as heap:
        for _ in range(120):
            after, number = dict(kept), newest
            for _ in range(chance.randrange(4)):
                number, tries = number + 1, tries + 1
                size = chance.choice((LARGE, 100_000, chance.randrange(LARGE, MEBIBYTE)))
                after[number] = large(tries, size)
                written += size
                assert heap.put(number, after[number]) == b""
            most = (
                len(after) if not chance.randrange(20) else chance.randrange(min(5, len(after)) + 1)
            )
            goes = [*after][:most] if chance.randrange(2) else chance.sample([*after], most)
            heap.drop(goes)
            for each in goes:
                del after[each]
            done = bool(chance.randrange(5))
            heap.settle(done=done)
            if done:
                kept, newest = after, number
            for each, message in kept.items():
                assert read(heap, each) == message
                assert read(heap, each, 9_999, 77) == message[9_999 : 9_999 + 77]
            assert heap.size == sum(map(len, kept.values()))
        heap.drop(kept)
        heap.settle(done=True)
        while heap.tidy():
            pass
        assert heap.unused <= 8 * MEBIBYTE
        assert disk_used(tmp_path) < 16 * MEBIBYTE < written


def test_what_comes_and_goes_for_long_takes_no_more_of_the_disk(tmp_path: Path) -> None:
    with heap_in(tmp_path) as heap:
        for number in range(1_000):
            heap.put(number, large(number, 100_000))
            heap.drop([number - 10])
            heap.settle(done=True)
        assert disk_used(tmp_path) < 16 * MEBIBYTE


def test_what_is_rolled_back_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    with heap_in(tmp_path) as heap:
        for number in (1, 2):
            heap.put(number, large(number))
        heap.drop([1])
        heap.settle(done=True)
        for _ in range(40):
            for number in (3, 4):  # where 1 was, and at the end
                heap.put(number, large(number, LARGE if number == 3 else MEBIBYTE))
            heap.settle(done=False)
            assert (heap.unused, heap.size) == (PLACE, LARGE)
        heap.put(3, large(3, 32 * MEBIBYTE))
        heap.settle(done=False)
        assert read(heap, 2) == large(2)
        assert disk_used(tmp_path) < 16 * MEBIBYTE


def test_very_much_is_given_back_in_parts(tmp_path: Path) -> None:
    with heap_in(tmp_path) as heap:
        for number in range(60):
            heap.put(number, large(number, MEBIBYTE))
        heap.settle(done=True)
        heap.drop(range(60))
        heap.settle(done=True)
        left = heap.unused
        assert 40 * MEBIBYTE < left < 60 * MEBIBYTE
        assert heap.tidy()
        assert heap.unused == left - 8 * MEBIBYTE
        heap.put(60, large(60, LARGE + 1))  # of no whole page
        heap.settle(done=True)
        assert heap.unused < left - 16 * MEBIBYTE
        while heap.tidy():
            pass
        assert heap.unused <= 8 * MEBIBYTE
        assert disk_used(tmp_path) < 20 * MEBIBYTE


def after_reading(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Let something happen once, when a reader has read from the file and does not know it yet."""
    pread = os.pread

    def read_first(file: int, count: int, offset: int) -> bytes:
        data = pread(file, count, offset)
        monkeypatch.setattr(os, "pread", pread)
        then()
        return data

    monkeypatch.setattr(os, "pread", read_first)


def before_reading(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Let something happen once, when a reader knows a place and has not read it yet."""
    pread = os.pread

    def read_last(file: int, count: int, offset: int) -> bytes:
        monkeypatch.setattr(os, "pread", pread)
        then()
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", read_last)


@pytest.mark.parametrize("during", [after_reading, before_reading])
def test_a_reader_never_gets_the_message_that_has_taken_the_place(
    during: Callable[[pytest.MonkeyPatch, Callable[[], object]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with heap_in(tmp_path) as heap:
        heap.put(1, large(1, LARGE + 1))
        heap.settle(done=True)

        def replace() -> None:
            heap.drop([1])
            heap.settle(done=True)
            heap.put(2, large(2, LARGE + 1))
            heap.settle(done=True)

        during(monkeypatch, replace)
        assert read(heap, 1) is None
        assert read(heap, 1) is None
        assert read(heap, 2) == large(2, LARGE + 1)
        assert heap.unused == 0  # it has taken the place


@pytest.mark.usefixtures("heap_of_stores")
@in_loop
async def test_a_mail_that_is_deleted_while_it_is_read_is_gone() -> None:
    loop = asyncio.get_running_loop()
    async with Store.open() as store:

        async def stored() -> str:
            mail_id = await store.put(Delivery(mail("large", "x" * LARGE)))
            await store.search("large")  # so that the index has read it
            return mail_id

        def delete() -> None:
            asyncio.run_coroutine_threadsafe(store.delete(), loop).result(60)

        with pytest.MonkeyPatch.context() as patch:
            mail_id = await stored()
            before_reading(patch, delete)
            assert await store.get(mail_id) is None
            await stored()
            before_reading(patch, delete)
            assert (await store.search("header:subject=large")).mails == []
            (found,) = await store.find([await stored()])
            before_reading(patch, delete)
            with pytest.raises(StoreError, match="the message was deleted"):
                await store.piece(found, 0, 10)


@in_loop
async def test_large_and_small_messages_are_found_and_read_alike(tmp_path: Path) -> None:
    sizes = (0, 1, LARGE - 1, LARGE, LARGE + 1, 100_000, 3_000_000)
    path = tmp_path / "mail.db"
    for name in ("", str(path)):
        async with Store.open(name) as store:
            for size in sizes:
                message = f"Subject: size {size}\r\n\r\nneedle{size} ".encode() + b"x" * size
                mail_id = await store.put(Delivery(message, inbox=str(size)))
                found = await store.get(mail_id)
                assert found is not None
                assert found.data == message
                beginning = await store.get(mail_id, most=5)
                assert beginning is not None
                assert beginning.data == message[:5]
                assert await store.piece(found.mail, 9, 12) == message[9:12]
                assert b"".join([each async for each in store.chunks(found.mail)]) == message
                for query in (f"needle{size}", f"header:subject=size {size}"):
                    assert mail_id in ids(await store.search(query))
            assert await store.size() > sum(sizes)
    with closing(sqlite3.connect(path)) as database:  # a store with a name is one file
        stored = database.execute("SELECT max(length(data)) FROM messages").fetchone()
    assert stored > (3_000_000,)


def test_a_message_that_is_written_in_part_leaves_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.pwrite

    def write(file: int, data: memoryview, start: int) -> int:
        if start:
            raise OSError(errno.EFBIG, "File too large")
        return written(file, data[: 4 * PLACE], start)

    monkeypatch.setattr("os.pwrite", write)
    with heap_in(tmp_path) as heap:
        with pytest.raises(DiskFullError):
            heap.put(1, large(1, 8 * PLACE))
        heap.settle(done=False)
        assert disk_used(tmp_path) == 0


@pytest.mark.usefixtures("heap_of_stores")
@in_loop
async def test_large_messages_leave_the_room_that_deletions_need() -> None:
    free = 1 << 30

    def usage(_directory: Path) -> SimpleNamespace:
        return SimpleNamespace(total=1 << 30, free=free)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", usage)
        async with Store.open() as store:
            first = await store.put(Delivery(large(1, 3 * MEBIBYTE)))
            free = 3 * MEBIBYTE
            with pytest.raises(DiskFullError, match="free some space"):
                await store.put(Delivery(large(2, 3 * MEBIBYTE)))
            await store.delete(ids=[first])
            await store.put(Delivery(large(3, 3 * MEBIBYTE)))  # in the place of the first one
            with pytest.raises(DiskFullError, match="free some space"):
                await store.put(Delivery(large(4, 3 * MEBIBYTE)))
            await store.delete()
            free = LEFT
            with pytest.raises(DiskFullError, match="free some space"):  # SQLite has no such place
                await store.put(Delivery(mail("small")))
            free = 3 * MEBIBYTE
            await store.put(Delivery(mail("small")))


@in_loop
async def test_a_mail_that_cannot_be_stored_costs_no_other_one() -> None:
    async with Store.open() as store:
        await store.put(Delivery(large(1), id="taken"))
        answers = await asyncio.gather(
            store.put(Delivery(large(2), id="two")),
            store.put(Delivery(large(3), id="taken")),
            store.put(Delivery(large(4), id="four")),
            return_exceptions=True,
        )
        assert [isinstance(each, StoreError) for each in answers] == [False, True, False]
        for mail_id, number in (("taken", 1), ("two", 2), ("four", 4)):
            found = await store.get(mail_id)
            assert found is not None
            assert found.data == large(number)


def test_what_cannot_be_given_back_is_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with heap_in(tmp_path) as heap:
        for number in range(30):
            heap.put(number, large(number, MEBIBYTE))
        heap.settle(done=True)
        heap.drop(range(30))
        with monkeypatch.context() as patch:
            patch.setattr(mmap, "MADV_REMOVE", -1)
            heap.settle(done=True)
            assert not heap.tidy()
        assert heap.unused == 30 * MEBIBYTE
        while heap.tidy():
            pass
        assert heap.unused == 8 * MEBIBYTE


@pytest.mark.parametrize("lacks", ["holes", "advice", "directory"])
def test_without_a_file_that_gives_its_parts_back_there_is_no_heap(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path
    if lacks == "advice":
        monkeypatch.delattr(mmap, "MADV_REMOVE")
    elif lacks == "holes":
        monkeypatch.setattr(mmap, "MADV_REMOVE", -1)  # as a file system without them, an OSError
    else:
        directory = tmp_path / "none"
    with closing(Heap(str(directory))) as heap:
        assert heap.put(1, large(1)) == large(1)
        heap.drop([1])
        heap.settle(done=True)
        assert not heap.tidy()
        assert heap.size == heap.unused == disk_used(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
