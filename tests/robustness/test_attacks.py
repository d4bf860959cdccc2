"""Many clients, clients that leave at the worst moment, and malicious clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest

from ehlo import Handler, Message, Session
from ehlo.protocol.events import Tarpit
from ehlo.server.answer import Answers
from support.client import Client
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
from support.serving import DEADLINE, Box, Collector, Serve

SESSION = (
    b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
)
FINAL_DOT = SESSION.index(b"\r\n.\r\nQUIT") + 5


# -- many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_200_connections_at_once_deliver_1000_distinct_messages(
    serve: Serve, kind: str, loop_name: str
) -> None:
    got: list[tuple[str, bytes, str]] = []

    def take(_session: Session, message: Message) -> None:
        got.append((str(message.sender), message.body, message.id))

    running = serve(handler_of(kind, on_message=take), loop=loop_name)

    async def converse(number: int, everyone: asyncio.Barrier) -> None:
        reader, writer = await asyncio.open_connection(*running.address)
        await everyone.wait()  # so that all are connected at the same time
        writer.write(b"EHLO c\r\n")
        for count in range(5):
            name = f"{number}-{count}"
            writer.write(
                f"MAIL FROM:<{name}@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
                f"{name} ".encode()
            )
            await writer.drain()
            writer.write(b"x" * number + b"\r\n.\r\n")
        writer.write(b"QUIT\r\n")
        heard = await reader.read()
        assert heard.count(b"250 2.0.0 Ok: queued\r\n") == 5
        writer.close()
        await writer.wait_closed()

    async def crowd() -> None:
        everyone = asyncio.Barrier(200)
        await asyncio.gather(*(converse(number, everyone) for number in range(200)))

    asyncio.run(asyncio.wait_for(crowd(), 60))
    assert len(got) == 1000
    assert len({sender for sender, _, _ in got}) == 1000
    assert len({message_id for _, _, message_id in got}) == 1000
    for sender, body, _ in got:
        name = sender.partition("@")[0]
        assert body == f"{name} ".encode() + b"x" * int(name.partition("-")[0]) + b"\r\n"


# -- cut at every stage --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fin", "rst"])
def test_a_client_cut_after_any_byte_delivers_nothing_before_its_final_dot(
    serve: Serve, way: str, loop_name: str
) -> None:
    collector = Collector()
    running = serve(collector, loop=loop_name)
    for stage in range(FINAL_DOT):
        client = running.client()
        client.reply()
        client.send(SESSION[:stage])
        if way == "rst":
            client.reset()
        else:
            client.end()
            client.rest()
            client.close()
        collector.wait_for_disconnect()
        assert collector.messages == [], stage
    running.wait_until_no_sessions()


def test_a_client_that_ends_after_its_final_dot_is_answered(serve: Serve, loop_name: str) -> None:
    collector = Collector()
    running = serve(collector, loop=loop_name)
    for stage in range(FINAL_DOT, len(SESSION) + 1):
        with running.client() as client:
            client.send(SESSION[:stage])
            client.end()
            lines = client.rest().splitlines()
        collector.wait_for_disconnect()
        assert b"250 2.0.0 Ok: queued" in lines, stage
    assert len(collector.messages) == len(SESSION) - FINAL_DOT + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves_after_its_final_dot_does_not_cancel_the_handler(
    serve: Serve, kind: str, loop_name: str
) -> None:
    noted = Noted()
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            await asyncio.to_thread(go_on.wait, DEADLINE)
            noted.note("handled", (message.body,))

    class SlowInThread(Handler):
        def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            assert go_on.wait(DEADLINE)
            noted.note("handled", (message.body,))

    running = serve(Slow() if kind == "async def" else SlowInThread(), loop=loop_name)
    client = running.client()
    client.send(SESSION[:FINAL_DOT])
    assert inside.wait(DEADLINE)
    client.reset()
    running.wait_until_lost()
    go_on.set()
    running.wait_until_no_sessions()
    assert noted.of("handled") == [(b"Subject: x\r\n\r\n.\r\n",)]


def test_a_client_that_closed_its_sending_side_gets_all_replies(
    serve: Serve, loop_name: str
) -> None:
    class Slow(Handler):
        async def on_rcpt(self, *_: object) -> None:
            await asyncio.sleep(0.01)

        def on_message(self, *_: object) -> None: ...

    running = serve(Slow(), loop=loop_name)
    with running.client() as client:
        client.send(SESSION)
        client.end()
        codes = [line[:4] for line in client.rest().decode().splitlines()]
    assert codes[-5:] == ["250 ", "250 ", "354 ", "250 ", "221 "]


def test_a_session_in_single_bytes_works(serve: Serve, loop_name: str) -> None:
    box = Box()
    running = serve(box, loop=loop_name)
    with running.client() as client:
        for octet in SESSION:
            client.send(bytes([octet]))
        assert client.rest().count(b"250 2.0.0 Ok: queued") == 1
    assert box.bodies == [b"Subject: x\r\n\r\n.\r\n"]


def test_a_connection_that_is_cut_before_it_is_accepted_does_no_harm(
    serve: Serve, loop_name: str
) -> None:
    noted = Noted()
    running = serve(handler_of("async def", noted, on_connect=None), loop=loop_name)
    for _ in range(100):
        Client(running.address).reset()
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    running.wait_until_no_sessions()
    assert all(not session.peer.is_unix for (session,) in noted.of("on_connect"))


# -- end of data ---------------------------------------------------------------------------------

NOT_THE_END = [
    b"\n.\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n.\r\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\0\r\n.\n\r\n",
    b"\r\n..\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n .\r\n",
    b"\n\r.\r\n",
    b"\r\n.\n.\r\n",
    b"\r\n.\x0b\r\n",
    "\r\n.\u2028".encode(),
    b"\r\n\xc2\x85.\r\n",
    b"\r\n=2E\r\n",
]
SMUGGLED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\nsmuggled\r\n"


@pytest.mark.parametrize("wrong_end", NOT_THE_END)
@pytest.mark.parametrize("policy", ["normalise", "reject", "keep"])
def test_nothing_but_the_true_end_ends_a_message(
    serve: Serve, wrong_end: bytes, policy: str
) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_mail=None)
    running = serve(handler, bare_newlines=policy)
    body = b"first" + wrong_end + SMUGGLED + b"last\r\n"
    with running.ready() as client:
        answer = client.mail(body)
        assert answer[:3] in ("250", "550")
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert len(noted.of("on_mail")) == 1
    messages = [message.body for _, message in noted.of("on_message")]
    assert len(messages) == (answer[:3] == "250")
    for stored in messages:
        assert stored.startswith(b"first")
        assert stored.endswith(b"smuggled\r\nlast\r\n")
        if policy == "normalise":
            assert b"\r" not in stored.replace(b"\r\n", b"")
            assert b"\n" not in stored.replace(b"\r\n", b"")


def test_a_stored_message_cannot_smuggle_when_it_is_relayed(serve: Serve) -> None:
    box = Box()
    running = serve(box)
    with running.ready() as client:
        for wrong_end in NOT_THE_END:
            assert client.mail(b"first" + wrong_end + SMUGGLED).startswith("250")
    first = box.bodies
    with running.ready() as client:
        for body in first:  # as any client stuffs it
            stuffed = (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:]
            assert client.mail(stuffed).startswith("250")
    assert box.bodies[len(first) :] == first


# -- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "evil(comment)",
        "evil;id=1",
        "<evil>",
        "evil\\",
        '"evil"',
        "[evil]",
        "evil,evil@x",
        "x" * 255,
    ],
)
def test_no_hello_name_can_inject_a_header(serve: Serve, name: str) -> None:
    box = Box()
    with serve(box).client() as client:
        client.reply()
        assert client.say(f"EHLO {name}").startswith("250")
        client.mail()
    lines = box.mails[0][3].split(b"\r\n")
    trace = lines[: lines.index(b"Subject: a test")]
    assert trace[0].startswith(b"Received: from ")
    assert all(line.startswith(b"\t") for line in trace[1:])
    shown = trace[0].removeprefix(b"Received: from ").split()[0].decode()
    assert set(shown) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


@pytest.mark.parametrize("evil", ["\r", "\0", "\x0b", "\x1b[31m", "\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize(
    "command", ["EHLO a{}b", "MAIL FROM:<a{}b@example.com>", 'MAIL FROM:<"a{}b"@example.com>']
)
def test_control_characters_in_commands_are_rejected(
    serve: Serve, evil: str, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(Box(), debug=True).client() as client:
        client.reply()
        client.say("EHLO c")
        assert client.say(command.format(evil))[:3] in ("500", "501")
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert all(evil not in record.getMessage() for record in caplog.records)


# -- too much ------------------------------------------------------------------------------------


def test_a_command_line_of_a_megabyte_is_one_error(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), loop=loop_name)
    with running.ready() as client:
        client.send(b"NOOP " + b"x" * 1_000_000 + b"\r\nNOOP\r\n")
        assert client.reply().startswith("500 5.5.2 ")
        assert client.reply() == "250 2.0.0 Ok"


def test_an_endless_line_takes_no_memory_and_times_out(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box(), timeout=50)
    most = 0

    def most_is_received() -> bool:
        nonlocal most
        (driver,) = running.drivers
        most = max(most, driver.connection.buffered)
        return driver.wire.received > 5_000_000

    with running.ready() as client, client.flooding(b"x"):
        running.wait_until(most_is_received)
        clock.advance(52)  # the deadline may be late by a sweep
        assert client.reply().startswith("421 4.4.2 ")
        clock.advance(6)  # for the client to notice
        running.wait_until_no_sessions()
    assert most < 1_000_000


def test_100_000_noops_are_answered(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), max_idle_commands=0, loop=loop_name)
    with running.ready() as client:
        sender = threading.Thread(target=client.send, args=(b"NOOP\r\n" * 100_000 + b"QUIT\r\n",))
        sender.start()
        rest = client.rest()
        sender.join()
    assert rest.count(b"250 2.0.0 Ok\r\n") == 100_000
    assert rest.endswith(b"closing transmission channel\r\n")


def test_a_body_in_single_bytes_is_counted_with_the_memory_it_takes(serve: Serve) -> None:
    """Chunks in memory cost more than their bytes, and that is counted."""
    running = serve(Box(), max_memory=50_000)
    with running.ready() as client:
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            client.say(command)
        for _ in range(1500):
            client.send(b"x")
            running.run(running.turn)
        client.send(b"\r\n.\r\n")
        assert client.reply()[:3] in ("250", "452")
        assert running.runtime.memory.held == 0


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(range(256)) * 40,
        b"\0" * 10_000,
        b"\r" * 10_000,
        b"\n" * 10_000,
        b"\xff\xfe" * 5_000 + b"\r\n",
        b"EHLO " + b"\xc3" * 100 + b"\r\n",
        b"MAIL FROM:<" + b"@" * 400 + b">\r\n",
        b"MAIL FROM:<" + b'"\\' * 200 + b">\r\n",
        b"RCPT TO:<" + b"(" * 400 + b"\r\n",
        b"AUTH " + b"=" * 11_000 + b"\r\n",
        b"DATA\r\n.\r\n" * 500,
        b"\x80\x2e\x01\x00\x02",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"BDAT 1000000000000 LAST\r\n",
        b"XCLIENT ADDR=192.0.2.1\r\n",
    ],
)
def test_garbage_ends_in_replies_and_never_in_an_exception(
    serve: Serve, garbage: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tarpit = Answers.tarpit
    monkeypatch.setattr(Answers, "tarpit", lambda answers, _event: tarpit(answers, Tarpit(0.0)))
    collector = Collector()
    running = serve(collector)
    with running.client() as client:
        client.reply()
        with contextlib.suppress(ConnectionError):
            client.send(garbage)
            client.end()
        for line in client.rest().splitlines():
            assert line[:1] in b"245"
    collector.wait_for_disconnect()
    assert collector.messages == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_whose_hook_blocks_does_not_delay_others(serve: Serve) -> None:
    stuck = threading.Event()

    class Blocking(Handler):
        def on_mail(self, session: Session, *_: object) -> None:
            if session.helo == "slow":
                stuck.wait(DEADLINE)

        def on_message(self, *_: object) -> None: ...

    running = serve(Blocking(), threads=4)
    with running.client() as slow, running.ready() as quick:
        slow.hello("slow")
        slow.send(b"MAIL FROM:<a@example.com>\r\n")
        for _ in range(20):
            assert quick.mail() == "250 2.0.0 Ok: queued"
        stuck.set()
        assert slow.reply() == "250 2.1.0 Ok"
