"""The books of a queue: what a person reads and changes, although deliveries end meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from ehlo import Queue, Retry
from ehlo.queue.books import open_books
from ehlo.sqlite.errors import StoreError
from support.queueing import Bench, FileBench, Player, deliver, serving

LARGE = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 200_000  # more than a chunk of PostgreSQL


def test_an_export_is_whole_or_an_error_although_the_message_ends_amid_it(bench: Bench) -> None:
    with serving(bench.queue(Player(), deliveries=0), spool_threshold=100_000) as server:
        message_id = deliver(server, "b@x.test", body=LARGE).rpartition(" ")[2]
        with open_books(bench.url, writes=True) as books:
            chunks = books.content(message_id)
            got = next(chunks) + next(chunks)
            assert books.act("drop", message_id) == 1
            is_whole = isinstance(bench, FileBench)  # its body is a file that stays open
            with contextlib.nullcontext() if is_whole else pytest.raises(StoreError):
                got = b"".join([got, *chunks])
            assert not is_whole or got.endswith(LARGE)
            assert next(chunks, None) is None
            with pytest.raises(LookupError):
                next(books.content(message_id))


def test_an_export_names_the_file_of_a_body_that_is_gone(tmp_path: Path) -> None:
    bench = FileBench(tmp_path)
    with serving(bench.queue(Player(), deliveries=0), spool_threshold=100_000) as server:
        message_id = deliver(server, "b@x.test", body=LARGE).rpartition(" ")[2]
    shutil.rmtree(tmp_path / "mail-0.db-bodies")
    gone = r"mail-0\.db-bodies/\w+: No such file.*; restore it, or drop the message"
    with open_books(bench.url) as books, pytest.raises(StoreError, match=gone):
        next(books.content(message_id))


def test_an_error_names_the_file_that_it_is_of(tmp_path: Path) -> None:
    url, first = str(tmp_path / "mail.db"), tmp_path / "mail-0.db"
    with (
        serving(Queue(url, Player(), deliveries=0)) as one,
        serving(Queue(url, Player(), deliveries=0)),
    ):
        deliver(one, "b@x.test")
    with open_books(url, writes=True) as books:
        with contextlib.closing(sqlite3.connect(first)) as other:
            other.execute("ALTER TABLE messages RENAME TO lost")
        with pytest.raises(StoreError, match=r"mail-0\.db: no such table"):
            list(books.listed())
        with pytest.raises(StoreError, match=r"mail-0\.db: no such table"):
            list(books.content("x"))
        with pytest.raises(StoreError, match=r"mail-0\.db: no such table"):
            books.act("drop", "x")


@pytest.mark.parametrize("after", [float("inf"), 10**400, float("nan")], ids=["inf", "huge", "nan"])
def test_a_wait_without_an_end_is_a_long_one(bench: Bench, after: float) -> None:
    asked = Retry()
    asked.after = after
    player = Player(asked)
    with serving(bench.queue(player)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state", ("waiting",))
        with open_books(bench.url) as books:
            (row,) = books.listed()
            assert row.due is not None
            assert 9e8 < row.due - books.now() < 2e9
            assert row.error == "the handler asked for another attempt"
