"""The usual packet in a server: whichever way it takes, the client, the handler and the sweep see
the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import threading
from collections.abc import Callable

import pytest

from ehlo import Handler, Message, Session
from ehlo.protocol.verbs import mail
from ehlo.server.space import Claim
from support.certificates import Certificates
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
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


@pytest.mark.parametrize("count", range(4))
def test_a_client_times_out_after_any_packet_and_never_early(
    serve: Serve, clock: StoppedClock, loop_name: str, count: int
) -> None:
    running = serve(Box(), timeout=40, min_body_rate=0, loop=loop_name)
    with running.ready() as client:
        for line in ENVELOPE[:count]:
            clock.advance(30)
            client.say(line)
        clock.advance(39.9)
        assert running.sessions == 1
        clock.advance(2.2)  # a sweep sets the deadline, and the next one looks at it
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
        assert idleness(running) > 898
        client.mail()
        assert idleness(running) == 0
        clock.advance(30)
        client.say("NOOP")
        assert idleness(running) == pytest.approx(5)  # a sixth of the time since the message


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
    (driver,) = running.drivers

    async def call() -> None:
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


class Streaming(Handler):
    """Reads bodies where they are, so that none on disk needs memory."""

    streams = True

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def on_message(self, session: Session, message: Message) -> None:
        self.bodies.append(b"".join(message.stream())[len(message.trace) :])


@pytest.mark.parametrize("body", [BODY, b"x\r\n"])
@pytest.mark.parametrize("claimed", [False, True])
def test_a_body_for_which_there_is_no_memory_goes_to_disk_unless_it_is_small(
    serve: Serve, loop_name: str, claimed: bool, body: bytes
) -> None:
    handler = Streaming()
    running = serve(handler, max_memory=0 if claimed else 1, loop=loop_name)
    memory = running.runtime.memory

    async def claim_all() -> None:
        """Have one client hold all memory, and another one wait for it."""
        claims.extend(memory.claim(memory.limit, None, lambda: None) for _ in range(2))

    async def release_all() -> None:
        for claim in claims:
            assert claim is not None
            claim.end()
        memory.release(memory.limit)

    claims: list[Claim | None] = []
    with running.client() as client:
        client.begin(*ENVELOPE)
        if claimed:
            running.run(claim_all)
        receive(running, body + b".\r\n")
        assert client.reply() == "250 2.0.0 Ok: queued"
        if claimed:
            assert (memory.held, len(memory.claims)) == (memory.limit, 1)
            running.run(release_all)
        assert (memory.held, running.runtime.small.held) == (0, 0)
    assert handler.bodies == [body]


# -- ends ----------------------------------------------------------------------------------------

STEPS = (b"EHLO c\r\n", *(f"{line}\r\n".encode() for line in ENVELOPE), b"x\r\n.\r\n")
HOOKS: dict[str, dict[str, None]] = {
    "no hook": {},
    "a hook for each": dict.fromkeys(["on_hello", "on_mail", "on_rcpt", "on_data", "on_replied"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hooks", HOOKS)
def test_a_client_that_resets_after_any_packet_leaves_nothing(
    serve: Serve, loop_name: str, kind: str, hooks: str
) -> None:
    """Once after the reply to its last packet, once before it."""
    noted = Noted()
    running = serve(handler_of(kind, noted, **HOOKS[hooks]), loop=loop_name)
    for count, waits in itertools.product(range(len(STEPS) + 1), (True, False)):
        client = running.client()
        client.reply()
        for number, packet in enumerate(STEPS[:count], 1):
            client.send(packet)
            if waits or number < count:
                client.reply()
        client.reset()
        running.wait_until_no_sessions()
        messages = noted.names.count("on_message")
        assert messages in ((1, 2) if count == len(STEPS) else (0,))
        assert running.runtime.memory.held == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("count", range(len(STEPS) + 1))
def test_a_shutdown_after_any_packet_lets_a_transaction_end(
    serve: Serve, kind: str, hooks: str, count: int
) -> None:
    noted = Noted()
    running = serve(handler_of(kind, noted, **HOOKS[hooks]))
    with running.client() as client:
        client.reply()
        for packet in STEPS[:count]:
            client.send(packet)
            client.reply()
        if hooks != "no hook" and count == len(STEPS):
            running.wait_until(lambda: "on_replied" in noted.names)
        loop = running.runtime.loop
        asyncio.run_coroutine_threadsafe(running.server.shutdown(), loop)
        running.run(running.turn)
        if 2 <= count < len(STEPS):
            for packet in STEPS[count:]:
                client.send(packet)
                assert client.reply()[0] in "23"
        assert client.rest().startswith(b"421 4.3.2 ")
    assert noted.names.count("on_message") == (1 if count >= 2 else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("secure", [False, True])
def test_any_mix_of_packets_brings_the_same_messages(
    serve: Serve, certificates: Certificates, loop_name: str, kind: str, secure: bool
) -> None:
    """In lock step, at once, byte by byte, and cut elsewhere than where a reply is awaited."""
    noted = Noted()
    running = serve(
        handler_of(kind, noted, on_rcpt=None),
        loop=loop_name,
        tls_config=certificates.server() if secure else None,
    )
    session = b"".join(STEPS[1:])
    with running.client() as client:
        client.begin()
        if secure:
            client.say("STARTTLS")
            client.wrap(certificates.client)
            client.say("EHLO c")
        ways = [
            list(STEPS[1:]),
            [session],
            [session[at : at + 1] for at in range(len(session))],
            [*STEPS[1:4], STEPS[4] + STEPS[1], *STEPS[2:]],
            [STEPS[1] + STEPS[2], STEPS[3], STEPS[4]],
            [*STEPS[1:4], b"x", b"\r\n.", b"\r\n"],
        ]
        for packets in ways:
            for packet in packets:
                client.send(packet)
            count = b"".join(packets).count(b"\r\n") - b"".join(packets).count(b"x\r\n.")
            codes = [reply[:3] for reply in client.replies(count)]
            assert codes == ["250", "250", "354", "250", "250", "250", "354", "250"][-count:]
    messages = [message for _, message in noted.of("on_message")]
    assert [message.body for message in messages] == [b"x\r\n"] * 7
    assert len(noted.of("on_rcpt")) == 7


def test_the_last_packet_under_tls_may_come_with_the_end_of_tls(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(
        Box(), loop=loop_name, tls_config=certificates.server(), tls_listener=True, timeout=1000
    )
    inbound, outbound, heard = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
    tls = certificates.client.wrap_bio(inbound, outbound, server_hostname="localhost")
    with running.client() as client:

        def until(done: Callable[[], bool]) -> None:
            """Send and receive until something is done under TLS."""
            while not done():
                client.send(outbound.read())
                inbound.write(client.sock.recv(65_536))

        def shakes_hands() -> bool:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                return True
            return False

        def hears(what: bytes) -> bool:
            nonlocal heard
            with contextlib.suppress(ssl.SSLWantReadError):
                heard += tls.read(65_536)
            return what in heard

        until(shakes_hands)
        until(lambda: hears(b"220 "))
        tls.write(STEPS[0])
        until(lambda: hears(b"\r\n250 "))
        tls.write(STEPS[1])
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        client.send(outbound.read())
        assert client.rest()  # the reply, and the end
    running.wait_until_no_sessions()


def test_nothing_is_sent_after_tls_has_failed_while_a_handler_has_the_message(
    serve: Serve, certificates: Certificates
) -> None:
    """The handler is done in the same turn of the loop, before the connection is lost."""
    inside, go_on = threading.Event(), asyncio.Event()

    class Slow(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            await go_on.wait()

    running = serve(Slow(), loop="asyncio", tls_config=certificates.server(), tls_listener=True)
    with running.client(tls=certificates.client) as client:
        client.begin(*ENVELOPE)
        client.send(STEPS[-1])
        assert inside.wait(DEADLINE)
        (driver,) = running.drivers

        async def fail() -> int:
            go_on.set()
            driver.data_received(b"no record of TLS")
            return driver.wire.sent

        sent = running.run(fail)
        running.wait_until_no_sessions()
        assert driver.wire.sent == sent
