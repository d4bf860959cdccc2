"""The files of a queue that other processes have left behind, or damaged."""

from __future__ import annotations

import errno
import os
import signal
import smtplib
import threading
from pathlib import Path

import pytest

from ehlo import Queue, Server, paths
from ehlo.queue import ledger
from ehlo.queue.books import open_books
from ehlo.queue.family import Family
from ehlo.sqlite.errors import StoreError
from ehlo.sqlite.locking import Lock
from support.program import Start
from support.queueing import Jump, Player, deliver, serving, wait_until
from support.serving import DEADLINE

FAILED = "cannot deliver from a file of the queue: error="


def test_a_damaged_file_is_logged_once_and_again_after_it_was_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, jump = tmp_path / "mail-7.db", Jump()
    begun: list[None] = []
    content: list[bytes] = []
    members = Family.members

    def counted(self: Family) -> list[Path]:
        if content:  # changed here, where no look is under way
            damaged.write_bytes(content.pop())
        begun.append(None)
        return members(self)

    def look(server: Server) -> None:
        """Return when all files were looked at once more, from the first to the last."""
        wanted = len(begun) + 2

        def has_looked() -> bool:
            jump.advance(5)
            return len(begun) >= wanted

        wait_until(server, has_looked)

    monkeypatch.setattr(Family, "members", counted)
    damaged.write_bytes(b"no database, by far " * 100)
    with serving(Queue(str(tmp_path / "mail.db"), Player(), time=jump)) as server:
        for times, text in ((1, b"no database"), (1, b""), (2, b"no database, again")):
            content.append(text * 100)
            for _ in range(2):
                look(server)
            assert caplog.text.count(FAILED) == times


def test_a_file_that_cannot_be_recovered_is_closed_after_each_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump, looks = Jump(), 0

    def fail(_database: object, **_: object) -> int:
        nonlocal looks
        looks += 1
        raise StoreError("too broken")

    def has_looked() -> bool:
        jump.advance(5)
        return looks >= 4

    with serving(Queue(str(tmp_path / "mail.db"), Player(), deliveries=0, time=jump)) as front:
        deliver(front, "b@x.test")
    monkeypatch.setattr(ledger, "recover", fail)
    with serving(Queue(str(tmp_path / "mail.db"), Player(), accepts=False, time=jump)) as server:
        wait_until(server, has_looked)
        writers = [each for each in threading.enumerate() if each.name == "ehlo writer"]
        assert len(writers) <= 1


def test_taking_locks_registers_nothing_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[object] = []

    def register(**what: object) -> None:
        registered.append(what)

    monkeypatch.setattr(os, "register_at_fork", register, raising=False)
    for _ in range(3):
        lock = Lock.taken(tmp_path / "mail-0.db", "accept")
        assert lock is not None
        lock.release()
    assert registered == []


def test_a_lock_that_fails_is_an_error_and_no_sign_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int, _what: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / "mail-0.db"
    held = Lock.taken(path, "accept")
    assert held is not None
    assert Lock.taken(path, "accept") is None
    held.release()
    before = len(paths.names_in("/proc/self/fd"))
    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(StoreError, match=r"mail-0\.db-accept: No locks available; check its dir"):
        Lock.taken(path, "accept")
    assert len(paths.names_in("/proc/self/fd")) == before


def test_what_is_no_lack_of_space_is_not_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_file: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with serving(Queue(str(tmp_path / "mail.db"), Player()), spool_threshold=1_000) as server:
        monkeypatch.setattr(os, "fsync", fail)
        assert deliver(server, "b@x.test", body=b"x\r\n" * 9_000).startswith("451 4.3.0")
        assert list((tmp_path / "mail-0.db-bodies").iterdir()) == []
    assert "Permission denied; check its directory, its mode and its disk" in caplog.text


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")


@as_root
@pytest.mark.parametrize("name", ["mail-0.db", "mail-0.db-accept", "mail-0.db-bodies"])
def test_root_opens_and_deletes_nothing_through_planted_links(tmp_path: Path, name: str) -> None:
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    theirs.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("precious")
    (theirs / name).symlink_to(elsewhere if name.endswith("bodies") else elsewhere / "new")
    for each in (theirs, theirs / name):
        os.lchown(each, 65_534, 65_534)
    queue = Queue(str(theirs / "mail.db"), Player())
    if name.endswith("bodies"):
        with serving(queue, spool_threshold=1_000) as server:
            assert deliver(server, "b@x.test", body=b"x\r\n" * 9_000).startswith("451 4.3.0")
    else:
        with pytest.raises(ValueError, match=r"a link; name|root does not follow"), serving(queue):
            pass
    assert [each.name for each in elsewhere.iterdir()] == ["precious"]


@as_root
def test_root_reads_no_queue_through_planted_links(tmp_path: Path) -> None:
    """As `ehlo queue` does, in the directory of the user that serves."""
    theirs, url = tmp_path / "theirs", str(tmp_path / "theirs" / "mail.db")
    theirs.mkdir()
    with serving(Queue(str(tmp_path / "mail.db"), Player(), deliveries=0)) as server:
        deliver(server, "b@x.test")
    (theirs / "mail-0.db").symlink_to(tmp_path / "mail-0.db")
    for each in (theirs, theirs / "mail-0.db"):
        os.lchown(each, 65_534, 65_534)
    with pytest.raises(StoreError, match="root does not follow the link"), open_books(url):
        pass


@as_root
@pytest.mark.parametrize("name", ["mail-0.db-wal", "mail-0.db-shm", "mail-0.db-journal"])
def test_root_writes_to_no_file_that_is_linked_next_to_a_queue(tmp_path: Path, name: str) -> None:
    """SQLite itself follows no symbolic link there; a hard link is none to it."""
    theirs, precious = tmp_path / "theirs", tmp_path / "precious"
    theirs.mkdir()
    with serving(Queue(str(theirs / "mail.db"), Player())) as server:
        deliver(server, "b@x.test")
    precious.write_text("precious")
    (theirs / name).hardlink_to(precious)
    os.chown(theirs, 65_534, 65_534)
    queue = Queue(str(theirs / "mail.db"), Player())
    with pytest.raises(ValueError, match="could have linked there"), serving(queue):
        pass
    assert precious.read_text() == "precious"


FORKING = """
import os
import signal

def handler(message):
    print("got", flush=True)
    if message.attempt == 1:
        child = os.fork()
        if not child:
            signal.pause()
        print("forked", child, flush=True)
        signal.pause()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_a_handler_has_forked_keeps_no_lock(tmp_path: Path, start: Start) -> None:
    """As those of multiprocessing, which outlive a parent that is killed."""
    (tmp_path / "app.py").write_text(FORKING)
    command = ("-m", "ehlo", "serve", "app:handler", "--queue", "mail.db", "--port", "0")
    first = start(*command, cwd=tmp_path)
    with smtplib.SMTP(*first.listening()) as client:
        client.sendmail("a@x.test", ["b@x.test"], b"Subject: x\r\n\r\nx\r\n")
    child = int(first.out.until("forked").split()[1])
    try:
        first.process.kill()
        first.process.wait(DEADLINE)
        second = start(*command, cwd=tmp_path)
        second.out.until("got")
        assert [each.name for each in tmp_path.glob("mail-*.db")] == ["mail-0.db"]
        assert second.stop() == 0
    finally:
        os.kill(child, signal.SIGKILL)
