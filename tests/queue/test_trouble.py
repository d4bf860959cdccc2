"""Trouble of a queue: full and locked and lost files, killed processes, the order of syncs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ehlo import Message, Queue, Retry
from ehlo.queue import ledger
from ehlo.queue.books import open_books
from ehlo.queue.consumer import Consumer
from ehlo.queue.entries import PLACES, Arrival, Settled
from ehlo.queue.family import Family
from ehlo.queue.timing import Persistence
from ehlo.sqlite.errors import StoreError
from ehlo.sqlite.writer import Writer
from support.loading import look_until
from support.queueing import FileBench, Jump, Player, deliver, rows, serving, wait_until
from support.serving import DEADLINE

TROUBLE = "451 4.3.0 Requested action aborted: local error in processing"
FULL = "452 4.3.1 Insufficient system storage"
QUEUED = "250 2.0.0 Ok: queued as "
LOOK = 5.0  # seconds between two looks for files of others


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "mail.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mail-0.db"


# -- accepting -------------------------------------------------------------------------------------


def test_a_locked_database_is_451_until_it_is_free(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.sqlite.connecting._BUSY", 0.01)
    player = Player()
    with serving(Queue(url, player)) as server:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert deliver(server, "b@x.test") == TROUBLE
            other.execute("ROLLBACK")
        assert deliver(server, "c@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["c@x.test"]


def test_a_full_database_is_452_until_there_is_room(url: str, file: Path) -> None:
    player = Player()
    queue = Queue(url, player)
    with serving(queue) as server:

        def limit(pages: int) -> None:
            depot: Any = queue._engine._own  # type: ignore[union-attr]  # noqa: SLF001  as below
            # No disk is full for a test without root
            depot._writer._database.execute(f"PRAGMA max_page_count = {pages}")  # noqa: SLF001

        limit(1)
        assert deliver(server, "b@x.test", body=b"x" * 990 + b"\r\n" + b"y\r\n" * 30_000) == FULL
        limit(1_000_000)
        assert deliver(server, "c@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["c@x.test"]
        assert player.calls.empty()


def test_a_full_disk_of_bodies_is_452_and_leaves_no_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    player = Player()
    with serving(Queue(url, player), spool_threshold=1_000) as server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            assert deliver(server, "b@x.test", body=b"x\r\n" * 9_000) == FULL
        assert list((tmp_path / "mail-0.db-bodies").iterdir()) == []
        assert deliver(server, "c@x.test", body=b"x\r\n" * 9_000).startswith(QUEUED)
        assert player.next()[1].recipients == ["c@x.test"]


@pytest.mark.parametrize("directory_too", [False, True], ids=["file", "directory"])
def test_a_database_that_is_gone_is_451_and_then_there_is_a_new_one(
    tmp_path: Path, *, directory_too: bool
) -> None:
    home = tmp_path / "queue"
    home.mkdir()
    player = Player()
    with serving(Queue(str(home / "mail.db"), player)) as server:
        assert deliver(server, "b@x.test").startswith(QUEUED)
        player.next()
        wait_until(server, lambda: rows(home / "mail-0.db") == [])
        if directory_too:
            home.rename(tmp_path / "elsewhere")
            for _ in range(3):
                assert deliver(server, "c@x.test") == TROUBLE
            home.mkdir()
        else:
            (home / "mail-0.db").unlink()
            assert deliver(server, "c@x.test") == TROUBLE
        assert deliver(server, "d@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["d@x.test"]


def test_a_file_of_another_program_is_an_error_at_the_start(url: str, file: Path) -> None:
    file.write_bytes(b"not a database, by far: " * 100)
    with (
        pytest.raises(ValueError, match=r"queue: .*mail-0\.db: not a database"),
        serving(Queue(url, Player())),
    ):
        pass
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE mine(x)")
    with (
        pytest.raises(ValueError, match=r"mail-0\.db: not a queue of ehlo; name another file"),
        serving(Queue(url, Player())),
    ):
        pass


# -- files of other processes ----------------------------------------------------------------------


def test_each_process_has_a_file_of_its_own_and_delivers_what_others_have_left(
    url: str, tmp_path: Path
) -> None:
    first, second, jump = Player(), Player(), Jump()
    # The first one looks twice for files of others: at its start, and when it has made its own
    with serving(Queue(url, first, time=jump)) as one:
        wait_until(one, lambda: jump.waits[LOOK] == 2)  # it waits again, and its clock stands still
        with serving(Queue(url, second, deliveries=0)) as two:
            deliver(one, "one@x.test")
            deliver(two, "two@x.test")
            assert first.next()[1].recipients == ["one@x.test"]
            assert rows(tmp_path / "mail-1.db", "state") == [("waiting",)]
        # No process delivers from the file of the second one, which has ended
        with serving(Queue(url, second, accepts=False)) as worker:
            assert second.next()[1].recipients == ["two@x.test"]
            wait_until(worker, lambda: rows(tmp_path / "mail-1.db") == [])
    assert first.calls.empty()


def test_fewer_processes_than_before_leave_nothing_behind(url: str, tmp_path: Path) -> None:
    with serving(Queue(url, Player(), deliveries=0)) as one:
        with serving(Queue(url, Player(), deliveries=0)) as two:
            deliver(two, "two@x.test")
        deliver(one, "one@x.test")
    player = Player()
    with serving(Queue(url, player)) as server:
        got = {str(player.next()[1].recipients[0]) for _ in range(2)}
        assert got == {"one@x.test", "two@x.test"}
        wait_until(server, lambda: rows(tmp_path / "mail-1.db") == [])


def test_bodies_that_no_message_has_are_deleted_at_the_start(url: str, tmp_path: Path) -> None:
    bodies = tmp_path / "mail-0.db-bodies"
    bodies.mkdir()
    (bodies / "stray").write_bytes(b"x")
    with serving(Queue(url, Player(), deliveries=0), spool_threshold=1_000) as server:
        assert list(bodies.iterdir()) == []
        deliver(server, "b@x.test", body=b"x\r\n" * 9_000)
    with serving(Queue(url, Player(), deliveries=0)):
        assert len(list(bodies.iterdir())) == 1


def test_a_message_whose_body_is_lost_is_dead_after_its_attempts(url: str, tmp_path: Path) -> None:
    file, player, jump = tmp_path / "mail-0.db", Player(Retry(after=1)), Jump()
    with serving(Queue(url, player, max_attempts=2, time=jump), spool_threshold=1_000) as server:
        deliver(server, "b@x.test", body=b"x\r\n" * 9_000)
        player.next()
        wait_until(server, lambda: rows(file, "state") == [("waiting",)])
        shutil.rmtree(tmp_path / "mail-0.db-bodies")
        jump.advance(2)
        wait_until(server, lambda: rows(file, "state") == [("dead",)])
        deliver(server, "c@x.test")
        assert player.next()[1].recipients == ["c@x.test"]


def test_a_body_whose_file_was_cut_is_reported_and_not_delivered(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, player, jump = tmp_path / "mail-0.db", Player(Retry(after=1)), Jump()
    with serving(Queue(url, player, max_attempts=3, time=jump), spool_threshold=1_000) as server:
        message_id = deliver(server, "b@x.test", body=b"x\r\n" * 9_000).rpartition(" ")[2]
        player.next()
        wait_until(server, lambda: rows(file, "state") == [("waiting",)])
        (body,) = (tmp_path / "mail-0.db-bodies").iterdir()
        whole = body.read_bytes()
        body.write_bytes(whole[:-1])
        cut = f"{body}: 26999 of 27000 bytes; restore it, or drop the message"
        with open_books(url) as books, pytest.raises(StoreError, match=re.escape(cut)):
            next(books.content(message_id))
        jump.advance(2)
        wait_until(server, lambda: rows(file, "attempts, error") == [(2, cut)])
        assert player.calls.empty()
        assert cut in caplog.text
        body.write_bytes(whole)
        jump.advance(20)
        assert player.next()[1].body == whole


def has_come(player: Player, jump: Jump) -> bool:
    jump.advance(5)
    return not player.calls.empty()


@pytest.mark.parametrize("accepts", [False, True])
def test_mail_in_a_file_that_replaces_another_is_delivered(
    tmp_path: Path, *, accepts: bool
) -> None:
    files = [tmp_path / name / "mail-0.db" for name in ("first", "second")]
    player, jump, url = Player(), Jump(), str(files[0].with_name("mail.db"))
    for each in files:
        each.parent.mkdir()
        store = Queue(str(each.with_name("mail.db")), Player(), deliveries=0, time=jump)
        with serving(store) as front:
            deliver(front, f"{each.parent.name}@x.test")
    with serving(Queue(url, player, accepts=accepts, time=jump)) as server:
        assert player.next()[1].recipients == ["first@x.test"]
        wait_until(server, lambda: rows(files[0]) == [])
        for suffix in ("-wal", "-shm"):
            Path(f"{files[0]}{suffix}").unlink()
        files[1].replace(files[0])
        wait_until(server, lambda: has_come(player, jump))
        assert player.next()[1].recipients == ["second@x.test"]


@pytest.mark.parametrize("what", ["files", "deliveries"])
def test_deliveries_go_on_after_a_failure_of_their_own(
    url: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    owner, name = (Family, "members") if what == "files" else (Consumer, "_settle")
    failed = threading.Event()

    def fail(_self: object) -> None:
        monkeypatch.undo()
        failed.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(owner, name, fail)
    player, jump = Player(), Jump()
    with serving(Queue(url, player, time=jump)) as server:
        assert failed.wait(DEADLINE)
        assert deliver(server, "b@x.test").startswith(QUEUED)
        wait_until(server, lambda: has_come(player, jump))
        assert player.next()[1].recipients == ["b@x.test"]
        wait_until(server, lambda: rows(file) == [])
    assert "Too many open files" in caplog.text


# -- crashes ---------------------------------------------------------------------------------------


ARRIVAL = Arrival("id", '["",""]', ['["b","x"]'], "{}", 1, b"", b"")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux shows open files")
def test_a_commit_writes_to_no_temporary_file(file: Path) -> None:
    """What would undo one statement of many was a file in /var/tmp, with mail in it."""
    rows = [ledger.FiledRow(ARRIVAL, None, "d", 0.0, None, b"x" * 1_500) for _ in range(20)]
    done: list[Settled] = []
    opened: list[str] = []
    with contextlib.closing(ledger.open_ledger(file)) as database:
        for _ in range(3):  # later ones change pages that are there
            database.execute("BEGIN IMMEDIATE")
            ledger.settle(database, done, None, 0.0)
            done = [Settled(number * PLACES) for number in ledger.insert(database, rows)]
            for each in Path("/proc/self/fd").iterdir():  # open until the transaction ends
                with contextlib.suppress(OSError):
                    opened.append(str(each.readlink()))
            database.execute("COMMIT")
    assert [each for each in opened if "etilqs" in each] == []
    assert str(file) in opened


def test_a_crash_counts_as_an_attempt(file: Path) -> None:
    database = ledger.open_ledger(file)
    terms = Persistence(5, 3600, 3, float("inf"))
    ledger.insert(database, [ledger.FiledRow(ARRIVAL, None, "d", 0.0, None, b"x")])
    now = 0.0
    for attempt in (1, 2, 3):
        now += 10_000
        ((claimed,), _, died) = ledger.claim(database, now, f"o{attempt}", 60, 9, terms)
        assert (claimed.deliveries[0].attempts, died) == (attempt, [])
        assert ledger.claim(database, now, "other", 60, 9, terms).claimed == []
        assert ledger.recover(database, now, terms) == 1
    (none, next_in, died) = ledger.claim(database, now + 10_000, "o4", 60, 9, terms)
    assert (none, next_in, died) == ([], None, [("id", '["b","x"]')])
    ((state, error),) = rows(file, "state, deliveries.error")
    assert (state, error) == ("dead", "the process ended during the attempt")
    database.close()


def test_a_lease_that_has_run_out_is_taken_over_and_its_owner_settles_nothing(file: Path) -> None:
    database = ledger.open_ledger(file)
    terms = Persistence(5, 3600, 3, float("inf"))
    ledger.insert(database, [ledger.FiledRow(ARRIVAL, None, "d", 0.0, None, b"x")])
    assert ledger.claim(database, 1, "one", 60, 9, terms).claimed
    assert ledger.claim(database, 60, "two", 60, 9, terms).claimed == []
    ((claimed,), _, _) = ledger.claim(database, 61, "two", 60, 9, terms)
    (due,) = claimed.deliveries
    assert ledger.settle(database, [Settled(due.number)], "one", 61) == []
    assert rows(file, "state, owner") == [("running", "two")]
    ledger.settle(database, [Settled(due.number)], "two", 61)
    assert rows(file) == []
    database.close()


def test_a_message_that_is_dropped_while_it_is_delivered_takes_no_other_with_it(
    url: str, file: Path
) -> None:
    """The next delivery had the number of the dropped one, and ended with it, undelivered."""
    go, got = threading.Event(), SimpleQueue[str]()

    def handler(message: Message) -> None:
        got.put(str(message.recipients[0]))
        if message.recipients == ["slow@x.test"]:
            go.wait(DEADLINE)

    with serving(Queue(url, handler)) as server:
        slow = deliver(server, "slow@x.test").rpartition(" ")[2]
        assert got.get(timeout=DEADLINE) == "slow@x.test"
        with open_books(url, writes=True) as books:
            assert books.act("drop", slow) == 1
        assert deliver(server, "next@x.test").startswith(QUEUED)
        wait_until(server, lambda: "waiting" not in {state for (state,) in rows(file, "state")})
        go.set()
        assert got.get(timeout=DEADLINE) == "next@x.test"


def test_what_ended_long_ago_is_deleted_in_slices(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A front end waits for each of them."""
    deleted: list[int] = []
    purge = ledger.purge

    def counted(database: sqlite3.Connection, before: float) -> Any:
        (found,) = database.execute("SELECT count(*) FROM deliveries").fetchone()
        result = purge(database, before)
        (left,) = database.execute("SELECT count(*) FROM deliveries").fetchone()
        deleted.append(found - left)
        return result

    monkeypatch.setattr(ledger, "purge", counted)
    monkeypatch.setattr(ledger, "_SLICE", 3)
    bench = FileBench(file.parent)
    with serving(bench.queue(Player(False), keep_dead="2h")) as server:
        deliver(server, *(f"{number}@x.test" for number in range(7)))
        bench.expect(server, "state", *[("failed",)] * 7)
        deleted.clear()
        bench.advance(2 * 3600 + 1)
        bench.expect(server, "state")
        assert deleted == [3, 3, 1]


def test_retrying_all_dead_ends_although_they_die_again(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Queue(url, Player(*[False] * 3))) as server:
        for _ in range(3):
            deliver(server, "b@x.test")
        wait_until(server, lambda: rows(file, "state") == [("failed",)] * 3)
    commits = 0

    def die(_files: object, _names: object) -> None:  # called after each transaction
        nonlocal commits
        commits += 1
        assert commits < 10
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("UPDATE deliveries SET state = 'failed', due = NULL, ended = 1.0")

    monkeypatch.setattr("ehlo.queue.books._AT_ONCE", 2, raising=False)
    monkeypatch.setattr("ehlo.queue.family.BodyFiles.delete", die)
    with open_books(url, writes=True) as books:
        assert books.act("retry", None) == 3
    assert commits == 2


def test_a_writer_without_chores_begins_no_transaction_for_them(file: Path) -> None:
    """Another program that has locked the file would keep it from its end for seconds."""
    database = ledger.open_ledger(file)
    statements: list[str] = []
    database.set_trace_callback(statements.append)
    writer = Writer(str(file), database, ledger.Flushes(file))
    writer.start()
    look_until(lambda: writer._rests)  # noqa: SLF001  it has looked for chores before
    writer.close()
    assert statements == []
