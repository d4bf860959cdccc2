"""Where memory is short: idle bodies go to disk, and what clients send or leave unread counts."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Reply, Session
from ehlo.message import Spool
from ehlo.server.driver import Driver
from ehlo.server.space import Memory
from support.client import SMALL, Client
from support.clock import StoppedClock
from support.serving import DEADLINE, Collector, Running, Serve

NO_ROOM = "452 4.3.1 Insufficient system storage"
QUEUED = "250 2.0.0 Ok: queued"
LIMIT = 1_000_000


def wait_until(running: Running, true: Callable[[], bool]) -> None:
    """Look at each turn of the server's loop."""
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until, "it did not happen"
        running.run(running.turn)


def lines_of(count: int) -> bytes:
    return (b"x" * 98 + b"\r\n") * count


def begin_bodies(running: Running, sizes: list[int], command: str = "DATA") -> list[Client]:
    """Clients that have sent so many lines of a body each, and wait."""
    clients = [running.ready() for _ in sizes]
    for client, size in zip(clients, sizes, strict=True):
        for said in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"):
            assert client.say(said).startswith("250")
        if command == "DATA":
            assert client.say("DATA").startswith("354")
            client.send(lines_of(size))
        else:
            client.send(b"BDAT %d\r\n" % (100 * size) + lines_of(size))
            assert client.reply().startswith("250")
    for client in clients:
        running.wait_until_received(client)
    return clients


def end_all(clients: list[Client]) -> list[str]:
    for client in clients:
        client.send(b".\r\n")
    answers = [client.reply() for client in clients]
    for client in clients:
        client.close()
    return answers


def test_idle_bodies_do_not_shut_out_new_mail(serve: Serve, loop_name: str) -> None:
    collector = Collector()
    running = serve(collector, max_memory=LIMIT, loop=loop_name)
    memory = running.runtime.memory
    clients = begin_bodies(running, [1150] * 6 + [1200])
    with running.ready() as fresh:
        assert fresh.mail() == QUEUED
        wait_until(running, lambda: memory.held <= memory.comfortable)
    assert end_all(clients) == [QUEUED] * 7
    bodies = [message for message in collector.messages if message.size > 1000]
    assert sorted(message.size for message in bodies) == [115_000] * 6 + [120_000]
    assert [message.size for message in bodies if message.spooled] == [120_000]


def test_small_bodies_that_come_fast_do_not_shut_out_new_mail(
    serve: Serve, clock: StoppedClock
) -> None:
    """Bodies go to disk four times a second; no mail is rejected in between."""
    running = serve(Collector(), max_memory=LIMIT)
    memory, small = running.runtime.memory, running.runtime.small
    memory.take(memory.limit)  # as if handlers had large messages
    clients = []
    for _ in range(3):
        clients += begin_bodies(running, [590] * 2)
        wait_until(running, lambda: small.held > 0)
        with running.ready() as fresh:
            assert fresh.mail() == QUEUED
    running.run(running.turn)
    memory.release(memory.limit)
    assert end_all(clients) == [QUEUED] * 6


def test_the_sweep_makes_room_before_anybody_asks_for_it(serve: Serve) -> None:
    running = serve(Collector(), max_memory=LIMIT)
    memory = running.runtime.memory
    clients = begin_bodies(running, [2700] * 3)
    wait_until(running, lambda: memory.held <= memory.comfortable)
    assert end_all(clients) == [QUEUED] * 3


@pytest.mark.parametrize("disk", ["", "full_disk"])
def test_what_came_in_chunks_goes_to_disk_between_two_of_them(
    serve: Serve, disk: str, request: pytest.FixtureRequest
) -> None:
    if disk:
        request.getfixturevalue(disk)
    collector = Collector()
    running = serve(collector, max_memory=LIMIT, timeout=30)
    memory = running.runtime.memory
    (client,) = begin_bodies(running, [8000], "BDAT")
    (driver,) = running.drivers
    running.run(running.turn)  # the reply leaves before the deadline is set
    deadline = driver.deadline
    wait_until(running, lambda: memory.held <= memory.comfortable)
    assert driver.deadline == deadline  # the client has done nothing for it
    client.send(b"BDAT 3 LAST\r\nx\r\n")
    assert client.reply() == (NO_ROOM if disk else QUEUED)
    assert [message.size for message in collector.messages] == ([] if disk else [800_003])
    client.close()


# -- claims --------------------------------------------------------------------------------------

LARGE = lines_of(6000)
"""A message that is on disk, and takes most of the memory when a hook gets it."""
SMALL_MAIL = lines_of(10)


class Holding(Handler):
    """Holds each large message until it is told to let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.sizes: list[int] = []

    def on_message(self, session: Session, message: Message) -> None:
        self.sizes.append(message.size)
        if message.size == len(LARGE):
            self.entered.release()
            assert self.gate.acquire(timeout=DEADLINE)


@pytest.mark.parametrize("disk", [True, False])
def test_a_claim_moves_what_rests_in_memory_to_disk_at_once(
    serve: Serve, clock: StoppedClock, disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sweep does it, since no time passes. What cannot be moved gives way."""
    handler = Holding()
    running = serve(handler, max_memory=LIMIT, spool_threshold=200_000)
    resting = begin_bodies(running, [1500] * 4)  # well below the limit
    with running.ready() as large, running.ready() as small:
        large.begin_message(LARGE, end=b"")
        running.wait_until_received(large)
        running.wait_until(lambda: running.runtime.stats.spooled > 0)
        if not disk:

            def fail(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(Spool, "__init__", fail)  # there is a file already
        large.send(b".\r\n")
        assert handler.entered.acquire(timeout=DEADLINE)
        assert small.mail(SMALL_MAIL) == QUEUED
        handler.gate.release()
        assert large.replies(4)[-1] == QUEUED
    answers = end_all(resting)
    lost = 0 if disk else answers.count(NO_ROOM)
    assert lost >= (0 if disk else 2)
    assert answers.count(QUEUED) == 4 - lost


def test_a_client_that_does_not_read_keeps_no_body_in_memory(
    serve: Serve, clock: StoppedClock
) -> None:
    handler = Holding()
    running = serve(
        handler, buffers=SMALL, max_memory=LIMIT, spool_threshold=400_000, max_idle_commands=0
    )
    memory = running.runtime.memory
    with running.ready(buffers=SMALL) as deaf, running.ready() as large:
        for said in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"):
            assert deaf.say(said).startswith("250")
        deaf.send(b"BDAT 390000\r\n" + lines_of(3900))
        assert deaf.reply().startswith("250")
        with deaf.flooding(b"HELP\r\n"):
            driver = next(each for each in running.drivers if each.answers.bodies.resting(memory))
            running.wait_until(lambda: driver.slot.work is not None and not driver.wire.writable)
            large.begin_message(LARGE)
            assert handler.entered.acquire(timeout=DEADLINE)
            assert not driver.answers.bodies.resting(memory)
            handler.gate.release()
            assert large.replies(4)[-1] == QUEUED


def test_small_mail_passes_while_large_messages_wait_for_memory(
    serve: Serve, clock: StoppedClock
) -> None:
    handler = Holding()
    running = serve(handler, max_memory=LIMIT, spool_threshold=200_000)
    memory = running.runtime.memory
    larges = [running.ready() for _ in range(3)]
    for client in larges:
        client.begin_message(LARGE)
    assert handler.entered.acquire(timeout=DEADLINE)
    running.wait_until(lambda: len(memory.claims) == 2)
    with running.ready() as small, running.ready() as slow:
        assert small.mail(SMALL_MAIL) == QUEUED
        # Also one that rested, and went to disk
        slow.begin_message(SMALL_MAIL, end=b"")
        running.wait_until_received(slow)

        async def move() -> None:
            (driver,) = (each for each in running.drivers if each.answers.bodies.resting(small_))
            driver.make_room()

        small_ = running.runtime.small
        running.run(move)
        slow.send(b".\r\n")
        assert slow.replies(4)[-1] == QUEUED
        # A middling one goes before those that claim more
        middling = lines_of(1000)
        assert small.mail(middling) == QUEUED
    assert sorted(handler.sizes) == [1000, 1000, 100_000, 600_000]
    for _ in larges:
        handler.gate.release()
    assert [client.replies(4)[-1] for client in larges] == [QUEUED] * 3
    for client in larges:
        client.close()


def test_small_bodies_that_rest_leave_the_share_of_those_that_do_not(
    serve: Serve, clock: StoppedClock
) -> None:
    handler = Holding()
    running = serve(handler, max_memory=LIMIT)
    runtime = running.runtime
    with running.ready() as large:
        large.begin_message(LARGE)
        assert handler.entered.acquire(timeout=DEADLINE)
        idle = begin_bodies(running, [2000, *([500] * 8)])  # 200,000 in one, 400,000 in the others
        assert runtime.disk.held > 0
        with running.ready() as small:
            for _ in range(20):
                assert small.mail(SMALL_MAIL) == QUEUED
        assert runtime.small.held <= runtime.small.limit
        handler.gate.release()
        assert large.replies(4)[-1] == QUEUED
    assert end_all(idle) == [QUEUED] * 9


def test_a_hook_that_is_over_its_deadline_keeps_no_small_message_out(
    serve: Serve, clock: StoppedClock
) -> None:
    class Stuck(Handler):
        def __init__(self) -> None:
            self.entered = threading.Semaphore(0)
            self.gate = threading.Event()

        def on_message(self, session: Session, message: Message) -> None:
            if message.size > 10_000:
                self.entered.release()
                assert self.gate.wait(DEADLINE)

    handler = Stuck()
    running = serve(handler, max_memory=800_000, handler_timeout=30, threads=8)
    runtime = running.runtime
    clients = [running.ready() for _ in range(3)]
    for client, size in zip(clients, (6900, 600, 350), strict=True):
        client.begin_message(lines_of(size))
        assert handler.entered.acquire(timeout=DEADLINE)
    assert runtime.small.held > 90_000
    clock.advance(31)
    assert [client.replies(4)[-1][:9] for client in clients] == ["451 4.4.5"] * 3
    assert runtime.small.held == 0
    assert clients[0].mail(SMALL_MAIL) == QUEUED
    handler.gate.set()
    for client in clients:
        client.close()
    running.wait_until(lambda: runtime.memory.held == 0)


# -- what clients send ahead ---------------------------------------------------------------------

AHEAD = b"NOOP x\r\n" * 25_000


class Hesitant(Handler):
    """Answers MAIL when it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> None:
        assert self.gate.wait(DEADLINE)

    async def on_message(self, session: Session, message: Message) -> None: ...


def test_what_a_client_sends_ahead_of_a_hook_counts_until_it_is_read(
    serve: Serve, loop_name: str
) -> None:
    handler = Hesitant()
    running = serve(handler, loop=loop_name, max_idle_commands=0)
    memory = running.runtime.memory
    with running.ready() as client:
        with client.sending(b"MAIL FROM:<a@example.com>\r\n" + AHEAD):
            wait_until(running, lambda: memory.held > 16_384)
            (driver,) = running.drivers
            assert not driver.wire.reading
            assert running.run(lambda: balanced(memory, driver))
            handler.gate.set()
            assert set(client.replies(25_001)) == {"250 2.1.0 Ok", "250 2.0.0 Ok"}
        running.run(running.turn)
        assert (memory.held, driver.wire.reading) == (0, True)


async def balanced(memory: Memory, driver: Driver) -> bool:
    return memory.held == driver.connection.conversation.buffer.held


def test_with_memory_nearly_gone_no_client_runs_ahead_of_a_hook(serve: Serve) -> None:
    handler = Hesitant()
    running = serve(handler, max_memory=1_000_000, max_idle_commands=0)
    memory = running.runtime.memory
    with running.ready() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\n")
        wait_until(running, lambda: running.drivers[0].slot.work is not None)
        memory.take(800_000)
        client.send(b"NOOP\r\n")
        wait_until(running, lambda: not running.drivers[0].wire.reading)
        assert memory.held == 800_000  # so few bytes do not count
        handler.gate.set()
        assert client.replies(2) == ["250 2.1.0 Ok", "250 2.0.0 Ok"]
        running.run(running.turn)
        assert running.drivers[0].wire.reading
        memory.release(800_000)


# -- who does not read ---------------------------------------------------------------------------


class Talkative(Handler):
    """Says much for little, and tells when a session has ended."""

    def __init__(self) -> None:
        self.disconnected = threading.Event()

    async def on_vrfy(self, session: Session, text: str) -> Reply:
        return Reply(252, "2.5.0", "x" * 400)

    async def on_message(self, session: Session, message: Message) -> None: ...

    async def on_disconnect(self, session: Session) -> None:
        self.disconnected.set()


@pytest.mark.parametrize("told", [False, True], ids=["", "on_replied"])
def test_a_client_that_reads_no_replies_of_a_hook_has_the_time_of_a_command(
    serve: Serve, clock: StoppedClock, loop_name: str, told: bool
) -> None:
    class Told(Talkative):
        async def on_replied(self, session: Session, message: Message, sent: bool) -> None: ...

    handler = Told() if told else Talkative()
    limits = {"timeout": 40, "handler_timeout": 100_000, "max_idle_commands": 0}
    running = serve(handler, buffers=SMALL, loop=loop_name, **limits)
    with running.ready(buffers=SMALL) as client, client.flooding(b"VRFY someone\r\n"):
        wait_until(running, lambda: not running.drivers[0].wire.writable)
        passed = 0
        while not handler.disconnected.is_set():  # its time begins when the buffers are full
            clock.advance(5)
            passed += 5
        assert 40 <= passed < 100_000
    running.wait_until_no_sessions()


def test_a_client_that_reads_again_is_answered_again(serve: Serve, loop_name: str) -> None:
    running = serve(Talkative(), buffers=SMALL, loop=loop_name, max_idle_commands=0)
    count = 2000
    with running.ready(buffers=SMALL) as client:
        with client.sending(b"VRFY someone\r\n" * count):
            wait_until(running, lambda: not running.drivers[0].wire.writable)
            assert {answer[:3] for answer in client.replies(count)} == {"252"}
        assert client.say("NOOP") == "250 2.0.0 Ok"
