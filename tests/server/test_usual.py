"""The usual packet in a server: whichever way it takes, the client, the handler and the sweep see
the same.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from ehlo import Handler, Message, Session
from ehlo.protocol.verbs import mail
from support.clock import StoppedClock
from support.hooks import handler_of
from support.serving import DEADLINE, Box, Running, Serve

pytestmark = pytest.mark.usefixtures("way")

ENVELOPE = ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA")
RATE = 500  # bytes per second that a body must bring once it is a minute old

# -- time ----------------------------------------------------------------------------------------


def idleness(running: Running) -> float:
    async def look() -> float:
        (driver,) = running.drivers
        return driver.idleness

    seconds: float = running.run(look)
    return seconds


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        pytest.param(0, 180, id="each read of a body"),
        pytest.param(RATE, 60, id="the whole of it"),
    ],
)
def test_a_client_that_sends_nothing_after_354_has_the_time_of_a_body(
    serve: Serve, clock: StoppedClock, loop_name: str, rate: int, seconds: float
) -> None:
    running = serve(Box(), min_body_rate=rate, loop=loop_name)
    with running.client() as client:
        client.begin(*ENVELOPE)
        clock.advance(seconds - 1)
        assert running.sessions == 1
        clock.advance(3)
        assert client.reply().startswith("421 4.4.2 ")


def test_what_comes_in_the_first_read_counts_for_the_pace_of_a_body(
    serve: Serve, clock: StoppedClock
) -> None:
    running = serve(Box(), timeout=1000, min_body_rate=RATE)
    with running.client() as client:
        client.begin(*ENVELOPE)
        client.send((b"x" * 98 + b"\r\n") * 600)
        running.wait_until_received(client)
        clock.advance(178)  # 60, and 60,000 / RATE
        assert running.sessions == 1
        clock.advance(4)
        assert client.reply().startswith("421 4.4.2 ")


def test_a_client_that_has_just_sent_a_message_is_not_idle(
    serve: Serve, clock: StoppedClock
) -> None:
    running = serve(Box(), timeout=1000)
    with running.ready() as client:
        clock.advance(900)
        assert idleness(running) >= 899
        client.mail()
        assert idleness(running) == 0
        clock.advance(30)
        client.say("NOOP")
        assert idleness(running) == 5  # a sixth of the time since the message


def test_chunks_keep_their_pace_whatever_hook_is_called_amid_them(
    serve: Serve, clock: StoppedClock
) -> None:
    running = serve(handler_of("async def", on_vrfy=None), timeout=1000, min_body_rate=RATE)
    with running.client() as client:
        client.begin(*ENVELOPE[:2], "BDAT 2\r\n")
        clock.advance(30)
        client.say("VRFY b")
        clock.advance(29)
        assert running.sessions == 1
        clock.advance(3)
        assert client.reply().startswith("421 4.4.2 ")


def test_a_body_does_not_go_on_with_the_pace_of_one_that_was_abandoned(
    serve: Serve, clock: StoppedClock
) -> None:
    running = serve(handler_of("async def", on_reset=None), timeout=1000, min_body_rate=RATE)
    with running.client() as client:
        client.begin(*ENVELOPE[:2], "BDAT 2\r\n")
        clock.advance(50)
        client.say("RSET")
        for line in ENVELOPE:
            client.say(line)
        client.send(b"x")
        running.wait_until_received(client)
        clock.advance(58)
        assert running.sessions == 1
        clock.advance(4)
        assert client.reply().startswith("421 4.4.2 ")


# -- memory and disk -----------------------------------------------------------------------------

BODY = (b"x" * 98 + b"\r\n") * 1000  # larger than what is small


def receive(running: Running, packet: bytes) -> None:
    """Have the only session receive one packet, which a network might cut."""

    async def call() -> None:
        (driver,) = running.drivers
        driver.data_received(packet)

    running.run(call)


@pytest.mark.parametrize("memory", [1, 50_000, 0])
@pytest.mark.parametrize("disk", [1, 0])
def test_a_body_for_which_there_is_neither_memory_nor_disk_is_rejected(
    serve: Serve, full_disk: None, loop_name: str, memory: int, disk: int
) -> None:
    running = serve(Box(), max_memory=memory, max_disk=disk, spool_threshold=50_000, loop=loop_name)
    with running.ready() as client:
        for line in ENVELOPE:
            assert client.say(line)[0] in "23"
        receive(running, BODY + b".\r\n")
        assert client.reply() == "452 4.3.1 Insufficient system storage"
        assert running.runtime.memory.held == 0


class Watched(bytes):
    """A body that is seen to be let go."""

    gone: threading.Event

    def __del__(self) -> None:
        self.gone.set()


def test_a_body_on_disk_is_held_nowhere_while_the_handler_has_its_message(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What is on disk is not counted in the memory."""
    inside, go_on, gone = threading.Event(), asyncio.Event(), threading.Event()

    class Slow(Handler):
        streams = True

        async def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            await go_on.wait()

    def whole(packet: bytes) -> bytes:
        body = Watched(packet[:-3])
        body.gone = gone
        return body

    monkeypatch.setattr(mail, "whole", whole)
    running = serve(Slow(), spool_threshold=1000)
    with running.ready() as client:
        for line in ENVELOPE:
            client.say(line)
        receive(running, BODY + b".\r\n")
        assert inside.wait(DEADLINE)
        if way == "usual":
            running.wait_until(gone.is_set)
        running.runtime.loop.call_soon_threadsafe(go_on.set)
        assert client.reply() == "250 2.0.0 Ok: queued"
