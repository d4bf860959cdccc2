"""What clients make the server hold next to bodies: counted, and bounded in its sum."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Session
from ehlo.server.overhead import Overhead
from ehlo.server.space import Memory
from ehlo.server.tls.channel import HANDSHAKE_COST, SESSION_COST
from support.certificates import Certificates
from support.client import SMALL, Client
from support.serving import DEADLINE, Box, Collector, Serve

NO_ROOM = "452 4.3.1 Insufficient system storage"
CUT_OFF = "421 4.3.1 Insufficient system storage for input ahead"
QUEUED = "250 2.0.0 Ok: queued"
EMOJI = "\U0001f600"


def test_a_quarter_of_the_memory_is_for_overhead_and_half_for_tls() -> None:
    memory = Memory(1000)
    overhead = Overhead(memory)
    assert overhead.hold(250)
    assert not overhead.hold(1)
    ended: list[str] = []
    assert overhead.begin_tls(500, "a", lambda: ended.append("a"))
    overhead.established("a")
    assert not overhead.begin_tls(1, "b", lambda: ended.append("b"))
    assert memory.held == 750
    overhead.release(100)
    assert overhead.hold(100)
    overhead.end_tls(400)
    assert overhead.begin_tls(400, "b", lambda: ended.append("b"))
    assert not ended
    overhead.release(250)
    overhead.end_tls(500)
    assert memory.held == 0


# -- recipients ----------------------------------------------------------------------------------


def recipients(client: Client, count: int, name: str) -> list[str]:
    """Name many recipients; return the replies."""
    assert client.say("MAIL FROM:<a@example.com> SMTPUTF8").startswith("250 ")
    client.send("".join(f"RCPT TO:<{name}{at}@example.com>\r\n" for at in range(count)).encode())
    return client.replies(count)


@pytest.mark.parametrize("name", ["x" * 1300 + EMOJI, "x"], ids=["long", "short"])
def test_recipients_count_as_the_memory_that_they_take(serve: Serve, name: str) -> None:
    running = serve(Box(), max_memory=1_000_000)
    memory = running.runtime.memory
    with running.ready() as client:
        answers = recipients(client, 100, name)
        if name == "x":
            assert set(answers) == {"250 2.1.5 Ok"}
            assert 100 * 200 < memory.held < 100 * 500
        else:
            taken = answers.count("250 2.1.5 Ok")
            assert answers == ["250 2.1.5 Ok"] * taken + [NO_ROOM] * (100 - taken)
            assert 20 <= taken <= 25  # 10 KiB each, with the text that a hook may ask for
            assert memory.held <= 250_000
        with running.ready() as other:  # whose mail is not kept out
            assert recipients(other, 5, "y") == ["250 2.1.5 Ok"] * 5
        assert client.say("RSET") == "250 2.0.0 Ok"
        running.run(running.turn)
        assert memory.held == 0
        assert recipients(client, 20, name) == ["250 2.1.5 Ok"] * 20
    running.wait_until_no_sessions()
    assert memory.held == 0


def test_parameters_of_recipients_count(serve: Serve) -> None:
    running = serve(Box(), extensions={"DSN": True})
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com> SMTPUTF8")
        original = f"ORCPT=utf-8;{'x' * 400}\\x{{1F600}} NOTIFY=NEVER"
        for _ in range(20):
            assert client.say(f"RCPT TO:<b@example.com> {original}") == "250 2.1.5 Ok"
        assert running.runtime.memory.held > 18 * 4 * 400
        assert client.say("DATA").startswith("354 ")
        client.send(b"x\r\n.\r\n")
        assert client.reply() == QUEUED
        running.run(running.turn)
        assert running.runtime.memory.held == 0


# -- input ahead -----------------------------------------------------------------------------------

AHEAD = b"NOOP x\r\n" * 25_000


class Hesitant(Handler):
    """Answers MAIL of `slow@`, and each message, when it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> None:
        if sender.local == "slow":
            self.entered.release()
            assert self.gate.wait(DEADLINE)

    def on_message(self, session: Session, message: Message) -> None:
        self.entered.release()
        assert self.gate.wait(DEADLINE)


def test_a_client_whose_input_ahead_has_no_room_is_cut_off_and_others_are_not(
    serve: Serve, loop_name: str
) -> None:
    handler = Hesitant()
    running = serve(handler, max_memory=40_000, max_idle_commands=0, loop=loop_name)
    with running.ready() as first, running.ready() as second:
        with first.sending(b"MAIL FROM:<slow@example.com>\r\n" + AHEAD):
            assert first.reply() == CUT_OFF
        assert second.say("MAIL FROM:<a@example.com>") == "250 2.1.0 Ok"
        handler.gate.set()
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


def test_a_client_that_is_cut_off_has_the_reply_to_its_message_first(
    serve: Serve, loop_name: str
) -> None:
    handler = Hesitant()
    running = serve(handler, max_memory=40_000, max_idle_commands=0, loop=loop_name)
    with running.ready() as client:
        client.begin_message()
        assert handler.entered.acquire(timeout=DEADLINE)
        (driver,) = running.drivers
        with client.sending(AHEAD):
            running.wait_until(lambda: not driver.wire.reading)
            handler.gate.set()
            assert [reply[:3] for reply in client.replies(3)] == ["250", "250", "354"]
            assert [client.reply(), client.reply()] == [QUEUED, CUT_OFF]
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


def test_few_bytes_ahead_do_not_count_and_more_do(serve: Serve) -> None:
    handler = Hesitant()
    running = serve(handler, max_idle_commands=0)
    memory = running.runtime.memory
    with running.ready() as client:
        client.send(b"MAIL FROM:<slow@example.com>\r\n" + AHEAD[:2000])
        assert handler.entered.acquire(timeout=DEADLINE)
        running.wait_until_received(client)
        assert memory.held == 0
        client.send(AHEAD[:8000])
        running.wait_until_received(client)
        assert 10_000 <= memory.held <= 20_000
        (driver,) = running.drivers
        assert driver.wire.reading
        handler.gate.set()
        assert len(client.replies(1 + 250 + 1000)) == 1251
        running.run(running.turn)
        assert (memory.held, driver.wire.is_usual) == (0, True)


def test_who_does_not_read_is_asked_for_nothing_before_much_waits(
    serve: Serve, loop_name: str
) -> None:
    running = serve(Collector(), buffers=SMALL, loop=loop_name, max_idle_commands=0)
    with running.client(buffers=SMALL) as client, client.flooding(b"HELP\r\n"):
        running.wait_until(lambda: bool(running.drivers) and not running.drivers[0].wire.writable)
        (driver,) = running.drivers
        running.wait_until(lambda: not driver.wire.reading)
        assert driver.wire.unsent <= 32_768  # the replies to a hundred commands
        assert running.runtime.memory.held >= driver.wire.unsent
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


def test_who_does_not_read_is_gone_at_once_where_its_replies_have_no_room(
    serve: Serve, loop_name: str
) -> None:
    running = serve(Collector(), buffers=SMALL, loop=loop_name, max_idle_commands=0, max_memory=1)
    with running.client(buffers=SMALL) as client:
        client.reply()
        (driver,) = running.drivers
        while not driver.wire.closing:
            client.send(b"HELP\r\n" * 90)  # fewer than are answered without a pause
            running.wait_until(lambda: driver.wire.closing or driver.wire.received == client.sent)
        assert driver.deadline <= running.runtime.loop.time()
        running.wait_until_no_sessions()


# -- TLS ----------------------------------------------------------------------------------------


def test_without_room_for_a_handshake_tls_is_not_available(
    serve: Serve, certificates: Certificates
) -> None:
    most = 2 * (SESSION_COST + HANDSHAKE_COST) - 2
    running = serve(Box(), tls_config=certificates.server(), max_memory=most)
    with running.ready() as first, running.ready() as second:
        first.say("STARTTLS")
        first.wrap(certificates.client)
        assert first.say("EHLO c").startswith("250")
        assert second.say("STARTTLS") == "454 4.7.0 TLS not available due to local problem"
        assert second.mail() == QUEUED
        first.close()
        running.wait_until(lambda: running.sessions == 1)
        assert second.say("STARTTLS").startswith("220 ")
        second.wrap(certificates.client)
        assert second.say("EHLO c").startswith("250")
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


def test_without_room_for_a_handshake_a_listener_of_tls_closes(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_listener=True,
        max_memory=2 * (SESSION_COST + HANDSHAKE_COST) - 2,
        loop=loop_name,
    )
    with running.client(tls=certificates.client) as first:
        assert first.hello().startswith("250")
        with running.client() as second:
            assert second.is_closed()
        assert first.say("NOOP") == "250 2.0.0 Ok"
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


@pytest.mark.parametrize("implicit", [False, True])
def test_clients_that_only_begin_a_handshake_keep_no_others_from_tls(
    serve: Serve, certificates: Certificates, implicit: bool, loop_name: str
) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_listener=implicit,
        max_memory=3 * HANDSHAKE_COST,  # room for one
        loop=loop_name,
    )
    with running.client() as idle:
        if implicit:
            running.wait_until(lambda: running.sessions == 1)
        else:
            assert idle.begin("STARTTLS")[0].startswith("220 ")
        with running.client() as client:
            if not implicit:
                assert client.begin("STARTTLS")[0].startswith("220 ")
            client.wrap(certificates.client)
            answer = client.hello() if implicit else client.say("EHLO c")
            assert answer.startswith("250")
        assert idle.is_closed()
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


def test_where_clients_may_send_certificates_a_handshake_counts_more(
    serve: Serve, certificates: Certificates
) -> None:
    context = certificates.server()
    context.load_verify_locations(certificates.authority_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    running = serve(Box(), tls_config=context)
    with running.ready() as client:
        client.say("STARTTLS")
        running.run(running.turn)
        assert running.runtime.memory.held > HANDSHAKE_COST + 100 * 1024
        client.wrap(certificates.client)
        assert client.say("EHLO c").startswith("250")
        assert running.runtime.memory.held == SESSION_COST


def test_a_client_that_pipelines_a_small_mail_is_served_where_there_is_no_room(
    serve: Serve,
) -> None:
    """A crowd has the share of what waits, and memory is short: input of a few bytes is free."""

    gates: list[asyncio.Event] = []

    class Asked(Handler):
        async def on_mail(self, session: Session, sender: Address, params: object) -> None:
            gates.append(asyncio.Event())
            await gates[0].wait()

        async def on_message(self, session: Session, message: Message) -> None: ...

    async def go_on() -> None:
        gates[0].set()

    running = serve(Asked(), max_memory=1_000_000)
    memory, overhead = running.runtime.memory, running.runtime.overhead
    share = memory.limit // 4
    assert overhead.hold(share)
    memory.take(memory.limit)
    with running.ready() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\n")
        running.wait_until(lambda: len(gates) == 1)
        client.send(b"RCPT TO:<b@example.com>\r\nDATA\r\n" + b"x" * 98 + b"\r\n.\r\n")
        running.wait_until_received(client)
        running.run(go_on)
        assert [answer[:3] for answer in client.replies(4)] == ["250", "250", "354", "250"]
    running.wait_until_no_sessions()
    overhead.release(share)
    memory.release(memory.limit)
    assert memory.held == 0
