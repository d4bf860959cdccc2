"""Bodies on disk: the same bytes, less memory; 452 where there is neither disk nor memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo import Handler, Message, Reject, Session
from ehlo.message import Spool
from ehlo.server import bodies
from ehlo.server.limits import Turns
from ehlo.server.runtime import Ending
from ehlo.server.space import Claim, Memory
from support.client import Client
from support.clock import StoppedClock
from support.serving import DEADLINE, Box, Collector, Running, Serve

THRESHOLD = 100_000
LITTLE_MORE = 110_000
"""Of a body that the disk keeps waiting: what the server does not read fits into any buffer."""
NO_ROOM = "452 4.3.1 Insufficient system storage"
QUEUED = "250 2.0.0 Ok: queued"


class Reader(Handler):
    """Reads each message in every way there is."""

    def __init__(self) -> None:
        self.spooled: list[bool] = []
        self.bodies: list[bytes] = []

    async def on_message(self, session: Session, message: Message) -> None:
        slices = list(message.stream())
        assert max(map(len, slices)) <= 65_536
        file = message.file
        assert file.read() == b"".join(slices)
        self._check_places(message)
        size = message.size
        self.spooled.append(message.spooled)
        assert message.data == b"".join(slices) == message.trace + message.body
        assert size == message.size == len(message.body)
        assert message.file.read(10) == message.data[:10]
        assert list(message.stream()) == [
            message.data[at : at + 65_536] for at in range(0, len(message.data), 65_536)
        ]
        assert message.email["Subject"] == "x"
        self.bodies.append(message.body)

    def _check_places(self, message: Message) -> None:
        file, other = message.file, message.file
        edge = len(message.trace)
        assert file.seek(edge - 3) == edge - 3 == file.tell()
        assert file.read(5) == (message.trace[-3:] + b"Su")
        assert file.seek(-2, os.SEEK_END) == edge + message.size - 2
        assert file.read() == b"\r\n"
        assert file.seek(0, os.SEEK_CUR) == edge + message.size
        assert other.readline().startswith(b"Received: from ")  # each has a place of its own


class Streamer(Handler):
    """Takes no more than a slice of a message."""

    streams = True

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.held: list[int] = []
        self.running: Running | None = None

    async def on_message(self, session: Session, message: Message) -> None:
        digest = hashlib.sha256()
        skip = len(message.trace)
        for piece in message.stream():
            digest.update(piece[skip:])
            skip = 0
        self.digests.append(digest.hexdigest())
        assert self.running is not None
        self.held.append(self.running.runtime.memory.held)


class Gated(Handler):
    """Lets each message go when it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def on_message(self, session: Session, message: Message) -> None:
        self.entered.release()
        assert self.gate.acquire(timeout=DEADLINE)
        assert len(message.data) > message.size


def body_of(size: int) -> bytes:
    """Return a message of `size` bytes, with all kinds of lines in it."""
    head = b"Subject: x\r\n\r\n"
    room = size - len(head) - 2
    lines = b"".join(b"%d line\r\n" % number for number in range(room // 8 + 1))
    return head + lines[:room].rstrip(b"\r\n").ljust(room, b"y") + b"\r\n"


def stuffed(body: bytes) -> bytes:
    return body.replace(b"\r\n.", b"\r\n..")


def send(client: Client, body: bytes, way: str = "DATA") -> str:
    client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n")
    assert [reply[:3] for reply in client.replies(2)] == ["250", "250"]
    if way == "BDAT":
        client.send(b"BDAT %d\r\n" % (len(body) - 7) + body[:-7] + b"BDAT 7 LAST\r\n" + body[-7:])
        assert client.reply().startswith("250 ")
    else:
        client.send(b"DATA\r\n")
        assert client.reply().startswith("354 ")
        client.send(stuffed(body) + b".\r\n")
    return client.reply()


@pytest.mark.parametrize("way", ["DATA", "BDAT"])
@pytest.mark.parametrize(
    ("size", "spooled"),
    [(THRESHOLD, False), (THRESHOLD + 1, True), (5 * THRESHOLD, True), (2_000_000, True)],
)
def test_a_large_body_is_the_same_on_disk(
    serve: Serve, tmp_path: Path, way: str, size: int, spooled: bool
) -> None:
    handler = Reader()
    running = serve(handler, spool_threshold=THRESHOLD, spool_dir=str(tmp_path))
    body = body_of(size)
    with running.ready() as client:
        assert send(client, body, way) == QUEUED
        assert list(tmp_path.iterdir()) == []  # the file has no name
        assert send(client, body_of(1000), way) == QUEUED
    assert handler.bodies == [body, body_of(1000)]
    assert handler.spooled == [spooled, False]
    assert running.runtime.memory.held == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [100_000, 6_000_000])
def test_an_attachment_arrives_with_its_bare_newlines_made_whole(
    serve: Serve, loop: str, size: int
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    handler = Reader()
    running = serve(handler, loop=loop)
    clean = b"Subject: x\r\n\r\n" + (b"A" * 76 + b"\r\n") * (size // 78) + b"--end--\r\n"
    middle = len(clean) // 2
    bare = clean[:middle] + b"\n" + clean[middle + 1 :]
    with running.ready() as client:
        assert send(client, clean) == QUEUED
        assert send(client, bare) == QUEUED
    assert handler.bodies == [clean, clean[:middle] + b"\r\n" + clean[middle + 1 :]]
    assert handler.spooled == [False, False]


# -- by default ----------------------------------------------------------------------------------

MIB = 1_048_576
LINE = b"x" * 62 + b"\r\n"
LARGE = LINE * (5 * MIB // len(LINE))
HALF = LARGE[: 2 * MIB]
"""A part of it that is larger than those that are always in memory."""


@pytest.mark.parametrize(
    ("way", "size", "in_use", "spooled"),
    [
        ("DATA", 3 * MIB, 0, False),
        ("BDAT", 3 * MIB, 0, False),
        ("DATA", 3 * MIB, 80 * MIB, True),  # of 140
        ("DATA", 17 * MIB, 0, True),
    ],
)
def test_a_large_body_is_in_memory_while_half_of_that_is_free(
    serve: Serve, way: str, size: int, in_use: int, spooled: bool
) -> None:
    collector = Collector()
    running = serve(collector, max_memory=160 * MIB)
    memory = running.runtime.memory
    memory.take(in_use)
    body = LINE * (size // len(LINE))
    with running.ready() as client:
        assert send(client, body, way) == QUEUED
    (message,) = collector.messages
    assert message.spooled == spooled
    assert message.body == body
    assert memory.held == in_use
    memory.release(in_use)


@contextlib.contextmanager
def half_in_memory(serve: Serve) -> Iterator[tuple[Running, Memory]]:
    """Send a part of a large body, and the rest after the block; by then it must be on disk."""
    collector = Collector()
    running = serve(collector, max_memory=160 * MIB)
    with running.ready() as client:
        client.begin_message(HALF, end=b"")
        running.wait_until_received(client)
        yield running, running.runtime.memory
        client.send(LARGE[len(HALF) :] + b".\r\n")
        assert client.replies(4)[-1] == QUEUED
    (message,) = collector.messages
    assert message.spooled
    assert message.data == message.trace + LARGE


def test_a_large_body_goes_to_disk_once_half_of_the_memory_is_in_use(serve: Serve) -> None:
    with half_in_memory(serve) as (running, memory):
        (driver,) = running.drivers
        assert len(HALF) * 9 // 8 <= driver.answers.bodies.resting(memory) == memory.held
        memory.take(80 * MIB)
    assert memory.held == 80 * MIB
    memory.release(memory.held)


def test_a_large_body_in_memory_goes_to_disk_for_a_claim(serve: Serve) -> None:
    with half_in_memory(serve) as (running, memory):
        claims: list[Claim | None] = []

        async def claim() -> None:
            claims.append(memory.claim(memory.limit, None, lambda: None))
            running.runtime.make_room(memory, claimed=True)

        running.run(claim)
        running.wait_until(lambda: claims[0] is not None and claims[0].granted)
        memory.release(memory.limit)


def test_a_large_body_in_memory_counts_while_the_hook_has_it(serve: Serve) -> None:
    handler = Gated()
    running = serve(handler)
    with running.ready() as client:
        client.begin_message(stuffed(body_of(3 * MIB)))
        assert handler.entered.acquire(timeout=DEADLINE)
        assert 3 * MIB * 9 // 8 <= running.runtime.memory.held < 4 * MIB
        handler.gate.release()
        assert client.replies(4)[-1] == QUEUED
    assert running.runtime.memory.held == 0


class Notified(Gated):
    """Waits in on_replied, and not before."""

    def on_message(self, session: Session, message: Message) -> None:
        pass

    def on_replied(self, session: Session, message: Message, sent: bool) -> None:
        self.entered.release()
        assert self.gate.acquire(timeout=DEADLINE)


@pytest.mark.parametrize("client_stays", [True, False])
def test_a_body_in_memory_counts_until_on_replied_has_ended(
    serve: Serve, client_stays: bool
) -> None:
    handler = Notified()
    running = serve(handler)
    memory = running.runtime.memory
    with running.ready() as client:
        client.begin_message(stuffed(body_of(3 * MIB)))
        assert client.replies(4)[-1] == QUEUED
        assert handler.entered.acquire(timeout=DEADLINE)
        if not client_stays:
            client.reset()
            running.wait_until(lambda: all(driver.wire.lost for driver in running.drivers))
        held = memory.held
        handler.gate.release()
        assert 3 * MIB <= held < 4 * MIB
        running.wait_until(lambda: memory.held == 0)


def test_a_handler_that_streams_has_large_bodies_on_disk(serve: Serve) -> None:
    handler = Streamer()
    handler.running = running = serve(handler)
    with running.ready() as client:
        assert send(client, body_of(2 * MIB)) == QUEUED
    assert handler.held == [0]


# -- handlers that stream ------------------------------------------------------------------------


def test_a_handler_that_streams_holds_next_to_nothing(serve: Serve) -> None:
    handler = Streamer()
    handler.running = running = serve(handler, max_memory=1_500_000, spool_threshold=THRESHOLD)
    body = body_of(8_000_000)
    with running.ready() as client:
        assert send(client, body) == QUEUED
    assert handler.digests == [hashlib.sha256(body).hexdigest()]
    assert handler.held == [0]


def test_a_handler_that_streams_cannot_have_the_bytes(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Greedy(Handler):
        streams = True

        async def on_message(self, session: Session, message: Message) -> None:
            assert message.data

    running = serve(Greedy(), spool_threshold=THRESHOLD)
    with running.ready() as client:
        assert send(client, body_of(1000)) == QUEUED  # that is in memory anyway
        assert send(client, body_of(THRESHOLD * 2)).startswith("451 4.3.0 ")
    assert "has `streams` set" in caplog.text


def test_handlers_wait_for_the_memory_that_their_message_takes(serve: Serve) -> None:
    handler = Gated()
    running = serve(handler, max_memory=500_000, spool_threshold=THRESHOLD)
    body = body_of(300_000)
    with running.ready() as first, running.ready() as second:
        for client in (first, second):
            client.begin_message(stuffed(body))
            assert [reply[:3] for reply in client.replies(3)] == ["250", "250", "354"]
        assert handler.entered.acquire(timeout=DEADLINE)
        assert running.runtime.memory.held > 300_000
        with running.ready() as third:  # no other client waits
            assert third.say("NOOP") == "250 2.0.0 Ok"
            assert not handler.entered.acquire(blocking=False)
        handler.gate.release()
        assert handler.entered.acquire(timeout=DEADLINE)
        handler.gate.release()
        assert {first.reply(), second.reply()} == {QUEUED}
    assert running.runtime.memory.held == 0


def test_a_message_that_waits_for_memory_in_vain_is_452(serve: Serve, clock: StoppedClock) -> None:
    handler = Gated()
    running = serve(
        handler, max_memory=500_000, spool_threshold=THRESHOLD, handler_timeout=30, threads=1
    )
    body = stuffed(body_of(300_000))
    with running.ready() as first, running.ready() as second:
        first.begin_message(body)
        assert handler.entered.acquire(timeout=DEADLINE)
        second.begin_message(body)
        running.wait_until_received(second)
        running.wait_until(lambda: bool(running.runtime.memory.claims))  # and not only written
        running.run(running.turn)  # the loop has set the deadline of it, too
        clock.advance(31)
        assert second.replies(4)[3] == NO_ROOM
        assert second.say("NOOP") == "250 2.0.0 Ok"
        assert first.replies(4)[3].startswith("451 4.4.5 ")
        handler.gate.release()
    wait_until_nothing_is_held(running)


def test_a_message_larger_than_all_memory_is_452(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Box()
    running = serve(handler, max_memory=200_000, spool_threshold=THRESHOLD)
    with running.ready() as client:
        assert send(client, body_of(300_000)) == NO_ROOM
        assert send(client, body_of(50_000)) == QUEUED
    assert "larger than max_memory" in caplog.text
    assert running.runtime.memory.held == 0


@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_a_full_disk_is_452_and_the_session_goes_on(
    serve: Serve, full_disk: None, way: str
) -> None:
    handler = Box()
    running = serve(handler, spool_threshold=THRESHOLD)
    with running.ready() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n")
        client.replies(2)
        body = body_of(300_000)
        if way == "BDAT":
            client.send(b"BDAT %d LAST\r\n" % len(body) + body)
        else:
            client.send(b"DATA\r\n")
            client.reply()
            client.send(stuffed(body) + b".\r\n")
        assert client.reply() == NO_ROOM
        assert send(client, body_of(50_000)) == QUEUED
    assert running.runtime.memory.held == 0


def test_a_directory_that_has_gone_is_452(serve: Serve, tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    running = serve(Box(), spool_threshold=THRESHOLD, spool_dir=str(directory))
    directory.rmdir()
    with running.ready() as client:
        assert send(client, body_of(300_000)) == NO_ROOM
        directory.mkdir()
        assert send(client, body_of(300_000)) == QUEUED


# -- max_disk ------------------------------------------------------------------------------------


def occupy(running: Running, handler: Gated, size: int) -> Client:
    """Return a client whose message of `size` bytes is on disk, and in the handler."""
    client = running.ready()
    client.begin_message(stuffed(body_of(size)))
    assert handler.entered.acquire(timeout=DEADLINE)
    return client


def test_beyond_max_disk_large_mail_is_452_and_small_mail_is_accepted(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Gated()
    running = serve(handler, spool_threshold=THRESHOLD, max_disk=500_000)
    with occupy(running, handler, 350_000) as other, running.ready() as client:
        assert running.runtime.disk.held == 350_000
        assert send(client, body_of(150_001)) == NO_ROOM
        assert client.say("MAIL FROM:<a@example.com> SIZE=150001") == NO_ROOM
        assert client.say("MAIL FROM:<a@example.com> SIZE=150000") == "250 2.1.0 Ok"
        assert client.say("RSET") == "250 2.0.0 Ok"
        for _ in range(3):
            handler.gate.release()
        assert send(client, body_of(50_000)) == QUEUED
        assert other.replies(4)[-1] == QUEUED
        running.wait_until(lambda: running.runtime.disk.held == 0)
        assert send(client, body_of(150_001)) == QUEUED  # there is room again
    assert "no room on disk: max_disk is reached" in caplog.text
    running.wait_until(lambda: running.runtime.disk.held == 0)
    assert running.runtime.memory.held == 0


def test_one_address_has_half_of_max_disk_and_another_one_has_its_share(serve: Serve) -> None:
    handler = Gated()
    running = serve(handler, spool_threshold=THRESHOLD, max_disk=1_000_000, exempt_networks=())
    disk = running.runtime.disk
    clients = [occupy(running, handler, 240_000) for _ in range(2)]
    with running.ready() as client:
        assert send(client, body_of(200_000)) == NO_ROOM
        assert disk.has("another", 260_000)
        assert not disk.has("another", 260_001)
        handler.gate.release(3)
        assert send(client, body_of(50_000)) == QUEUED
    for client in clients:
        assert client.replies(4)[-1] == QUEUED
        client.close()


@pytest.mark.parametrize("end", ["reset", "RSET", "QUIT"])
def test_what_an_abandoned_body_took_of_the_disk_is_free_again(serve: Serve, end: str) -> None:
    running = serve(Box(), spool_threshold=THRESHOLD)
    with running.ready() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n")
        client.replies(2)
        body = body_of(300_000)
        client.send(b"BDAT %d\r\n" % len(body) + body)
        assert client.reply().startswith("250")
        assert running.runtime.disk.held > 0
        if end == "reset":
            client.reset()
        else:
            assert client.say(end)[0] == "2"
    running.wait_until_no_sessions()
    running.wait_until(lambda: running.runtime.disk.held == 0)


def test_a_message_that_the_handler_keeps_counts_as_long_as_there_is_its_file(
    serve: Serve,
) -> None:
    collector = Collector()
    running = serve(collector, spool_threshold=THRESHOLD)
    with running.ready() as client:
        assert send(client, body_of(300_000)) == QUEUED
        assert running.runtime.disk.held == 300_000
        collector.messages.clear()
        running.wait_until(lambda: running.runtime.disk.held == 0)


def test_max_disk_is_by_default_a_quarter_of_what_is_free(serve: Serve, tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    running = serve(Box(), spool_dir=str(tmp_path))
    assert free // 8 < running.runtime.disk.limit < free // 2


def test_without_a_directory_for_files_the_server_starts_and_says_so_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("tempfile.gettempdir", fail)
    running = serve(Box(), spool_threshold=THRESHOLD)
    with running.ready() as client:
        for _ in range(2):
            assert send(client, body_of(300_000)) == NO_ROOM
            assert send(client, body_of(50_000)) == QUEUED
    assert caplog.text.count("no writable directory for temporary files") == 1


class Slow:
    """A disk that writes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self._write = Spool.write
        slow = self

        def write(spool: Spool, slices: list[bytes]) -> None:
            slow.writing.release()
            assert slow.go_on.acquire(timeout=DEADLINE)
            slow._write(spool, slices)

        monkeypatch.setattr(Spool, "write", write)


def test_a_disk_that_is_too_slow_is_as_good_as_a_full_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Slow(monkeypatch)
    monkeypatch.setattr(bodies, "_MOST_OVER", -1_000_000)
    running = serve(Box(), spool_threshold=THRESHOLD, max_memory=1_000_000)
    with running.ready() as client:
        client.begin_message(body_of(300_000))
        for _ in range(20):
            disk.go_on.release()
        assert client.replies(4)[-1] == NO_ROOM
        assert send(client, body_of(50_000)) == QUEUED
    why = "mail arrives faster than it is written; raise max_memory"
    assert f"no room on disk: {why}" in caplog.text


@pytest.mark.parametrize("end", ["reset", "close", "quit"])
def test_a_client_that_leaves_while_the_disk_writes_leaves_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    disk, handler = Slow(monkeypatch), Collector()
    running = serve(handler, spool_threshold=THRESHOLD)
    with running.ready() as client:
        client.begin_message(body_of(LITTLE_MORE), end=b"")
        assert disk.writing.acquire(timeout=DEADLINE)
        if end == "reset":
            client.reset()
        elif end == "close":
            client.close()
        else:
            client.send(b"QUIT\r\n")
            client.end()
            client.close()
        for _ in range(20):
            disk.go_on.release()
    running.wait_until_no_sessions()
    wait_until_nothing_is_held(running)
    assert handler.messages == []


def test_a_message_is_handed_over_though_its_client_leaves_while_the_disk_writes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, handler = Slow(monkeypatch), Reader()
    running = serve(handler, spool_threshold=THRESHOLD)
    body = body_of(LITTLE_MORE)
    with running.ready() as client:
        client.begin_message(stuffed(body), end=b"")
        client.replies(3)  # unread, they would make a reset of the close
        assert disk.writing.acquire(timeout=DEADLINE)
        client.send(b".\r\n")
        client.end()
        client.close()
        for _ in range(20):
            disk.go_on.release()
    running.wait_until_no_sessions()
    assert handler.bodies == [body]
    wait_until_nothing_is_held(running)


@pytest.mark.parametrize("way", ["close", "shutdown"])
def test_the_server_ends_while_the_disk_writes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    disk = Slow(monkeypatch)
    running = serve(Box(), spool_threshold=THRESHOLD, grace=0.1)
    with running.ready() as client:
        client.begin_message(body_of(LITTLE_MORE), end=b"")
        assert disk.writing.acquire(timeout=DEADLINE)
        if way == "close":
            running.server.close()
        else:
            running.run(running.server.shutdown)
        for _ in range(20):
            disk.go_on.release()
        client.replies(3)
        client.rest()
    wait_until_nothing_is_held(running)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(serve: Serve) -> None:
    async def handler(*_: object) -> None:
        """Keeps nothing: a message that is kept keeps its file."""

    running = serve(handler, spool_threshold=1000, max_messages=0)
    with running.ready() as client:
        assert send(client, body_of(5000)) == QUEUED
        before = descriptors()
        for _ in range(50):
            assert send(client, body_of(5000)) == QUEUED
        assert descriptors() <= before + 2


def test_max_handlers_are_under_way_at_once_and_the_others_wait(serve: Serve) -> None:
    handler = Gated()
    running = serve(handler, max_handlers=2)
    clients = [running.ready() for _ in range(4)]
    for client in clients:
        client.begin_message()
    for _ in range(2):
        assert handler.entered.acquire(timeout=DEADLINE)
    assert not handler.entered.acquire(timeout=0.1)
    clients[3].reset()  # it does not wait any more, and its message was here
    for _ in range(4):
        handler.gate.release()
    for client in clients[:3]:
        assert client.replies(4)[3] == QUEUED
        client.close()
    running.wait_until_no_sessions()
    assert running.runtime.turns.free == 2


def test_no_file_is_closed_while_a_thread_writes_to_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor would be another file's by the time the bytes are written."""
    closed_early: list[bool] = []
    disk = Slow(monkeypatch)
    writing: set[int] = set()
    write, close = Spool.write, Spool.close

    def watched(spool: Spool, slices: list[bytes]) -> None:
        writing.add(id(spool))
        try:
            write(spool, slices)
        finally:
            writing.discard(id(spool))

    def watched_close(spool: Spool) -> None:
        closed_early.append(id(spool) in writing)
        close(spool)

    monkeypatch.setattr(Spool, "write", watched)
    monkeypatch.setattr(Spool, "close", watched_close)
    running = serve(Box(), spool_threshold=THRESHOLD)
    with running.ready() as client:
        client.begin_message(b"", end=b"")
        with client.flooding(b"x" * 98 + b"\r\n"):
            for _ in range(2):  # the second time there is a file already
                assert disk.writing.acquire(timeout=DEADLINE)
                disk.go_on.release()
            assert disk.writing.acquire(timeout=DEADLINE)

            async def cut() -> None:
                (driver,) = running.drivers
                driver.end(Ending.ABORT)

            running.run(cut)
            for _ in range(50):
                disk.go_on.release()
    running.wait_until_no_sessions()
    wait_until_nothing_is_held(running)
    assert closed_early
    assert not any(closed_early)


def test_a_hook_that_is_forgotten_twice_is_forgotten() -> None:
    turns = Turns(0)
    turns.wait("key", "who", lambda: None)
    assert turns.forget("key", "who")
    assert not turns.forget("key", "who")
    assert not turns.are_awaited


class Refuser(Handler):
    """Refuses each message, and keeps no more than weak references."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Message]] = []

    async def on_message(self, session: Session, message: Message) -> None:
        self.refs.append(weakref.ref(message))
        raise Reject(550, "5.7.1", "no")


class ThreadedRefuser(Refuser):
    """The same, in a thread."""

    def on_message(self, session: Session, message: Message) -> None:  # type: ignore[override]  # either kind will do
        self.refs.append(weakref.ref(message))
        raise Reject(550, "5.7.1", "no")


NO = Reject(550, "5.7.1", "no")


class SameRefuser(Refuser):
    """The same, by one exception that is raised for each message."""

    async def on_message(self, session: Session, message: Message) -> None:
        self.refs.append(weakref.ref(message))
        raise NO


class Late(Refuser):
    """Has each message until its deadline has passed."""

    async def on_message(self, session: Session, message: Message) -> None:
        self.refs.append(weakref.ref(message))
        await asyncio.Event().wait()


def test_a_message_is_deleted_once_its_handler_was_cancelled(serve: Serve) -> None:
    """The cancellation refers to the frame that it was thrown from: that is undone, too."""
    handler = Late()
    running = serve(handler, spool_threshold=1000, handler_timeout=0.1)
    gc.disable()
    try:
        with running.ready() as client:
            assert send(client, body_of(5000)).startswith("451 4.4.5 ")
            client.say("NOOP")
            running.run(running.turn)
            assert [ref() for ref in handler.refs] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [Refuser, ThreadedRefuser, SameRefuser])
def test_a_rejected_message_is_deleted_at_once(serve: Serve, kind: type[Refuser]) -> None:
    """An exception refers to its frame, and the frame to the message: that is undone."""
    handler = kind()
    running = serve(handler, spool_threshold=1000)
    gc.disable()
    try:
        with running.ready() as client:
            for _ in range(3):
                assert send(client, body_of(5000)).startswith("550 ")
            client.say("NOOP")
            running.run(running.turn)
            assert [ref() for ref in handler.refs[:2]] == [None, None]
    finally:
        gc.enable()


def wait_until_nothing_is_held(running: Running) -> None:
    """The threads of the disk and of hooks give back what they have, in their own time."""
    for _ in range(1500):
        if running.runtime.memory.held == 0:
            return
        running.run(running.turn)
        threading.Event().wait(0.01)
    raise AssertionError(running.runtime.memory.held)
