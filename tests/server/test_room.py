"""Where memory is short: idle bodies go to disk, and what clients send or leave unread counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Reply, Session
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
    return memory.held == driver.connection.buffered


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
        assert memory.held == 800_000 + len(b"NOOP\r\n")
        handler.gate.set()
        assert client.replies(2) == ["250 2.1.0 Ok", "250 2.0.0 Ok"]
        running.run(running.turn)
        assert running.drivers[0].wire.reading
        memory.release(800_000)


def test_memory_full_of_bytes_sent_ahead_rejects_no_small_mail(serve: Serve) -> None:
    class Hesitates(Hesitant):
        def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> None:
            if sender.local == "slow":
                super().on_mail(session, sender, params)

    handler = Hesitates()
    running = serve(handler, max_memory=18_000, max_idle_commands=0)
    flood = b"MAIL FROM:<slow@example.com>\r\n" + AHEAD
    with running.ready() as first, running.ready() as second, first.sending(flood):
        wait_until(running, lambda: running.runtime.memory.excess > 0)
        assert second.mail() == QUEUED
        handler.gate.set()
        first.replies(25_001)


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
