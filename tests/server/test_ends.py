"""Ends that are easily forgotten: of a client amid a hook, of a server that a hook shuts down."""

from __future__ import annotations

import asyncio
import base64
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ehlo import Handler, Message, Server, Session
from ehlo.server.bodies import hops
from ehlo.server.observing.journal import Journal
from support.client import Client
from support.clock import StoppedClock
from support.hooks import Noted, handler_of
from support.serving import DEADLINE, Box, Running, Serve

LATE = "451 4.4.5 Requested action aborted: took too long"
PLAIN = base64.b64encode(b"\0tim\0wrong").decode()


class Gate:
    """A blocking answer: it begins, waits until it may go on, and says so."""

    def __init__(self, result: Any = None) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._result = result

    def __call__(self, *_arguments: Any) -> Any:
        self.begun.release()
        assert self.go_on.wait(DEADLINE)
        return self._result

    def wait(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE)


def until(done: Callable[[], bool], running: Running) -> None:
    """Let the server's loop turn until it is so."""
    deadline = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < deadline
        running.run(running.turn)


def test_a_wrong_login_of_a_client_that_has_gone_ends_its_session(
    serve: Serve, loop_name: str
) -> None:
    check = Gate(result=False)
    running = serve(Box(), auth_handler=check, auth_mechs={"PLAIN": True}, loop=loop_name)
    client = running.ready()
    client.send(f"AUTH PLAIN {PLAIN}\r\n".encode())
    check.wait()
    client.reset()
    running.wait_until_lost()
    check.go_on.set()
    running.wait_until_no_sessions()


def test_a_hook_that_never_began_does_not_keep_the_place_of_a_client_that_has_gone(
    serve: Serve,
) -> None:
    gate = Gate()
    running = serve(handler_of("def", on_rcpt=gate), threads=1, max_connections=3)
    first = running.ready()
    first.say("MAIL FROM:<a@x>")
    first.send(b"RCPT TO:<b@x>\r\n")
    gate.wait()
    for _ in range(2):
        other = running.ready()
        other.send(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n")
        other.reply()
        other.reset()
    until(lambda: running.sessions == 1, running)
    running.ready().close()
    gate.go_on.set()
    assert first.reply() == "250 2.1.5 Ok"
    first.close()
    running.wait_until_no_sessions()


def test_a_message_whose_hook_is_late_counts_until_the_hook_has_ended(
    serve: Serve, clock: StoppedClock
) -> None:
    gate = Gate()
    running = serve(handler_of("def", on_message=gate), handler_timeout=30)
    with running.ready() as client:
        client.begin_message()
        gate.wait()
        clock.advance(31)
        assert client.replies(4)[3] == "451 4.4.5 Requested action aborted: took too long"
        assert running.runtime.memory.held > 0
        gate.go_on.set()
        assert client.say("NOOP") == "250 2.0.0 Ok"
    until(lambda: running.runtime.memory.held == 0, running)


def test_on_replied_is_told_of_a_reply_that_will_never_be(serve: Serve, loop_name: str) -> None:
    noted = Noted()
    never = threading.Event()

    class Slow(Handler):
        async def on_message(self, _session: Session, _message: Message) -> None:
            never.set()
            await asyncio.Event().wait()

        def on_replied(self, _session: Session, _message: Message, sent: bool) -> None:
            noted.note("on_replied", (sent,))

    running = serve(Slow(), loop=loop_name)
    client = running.ready()
    client.begin_message()
    assert never.wait(DEADLINE)
    running.run(lambda: running.server.shutdown(0.1))
    assert noted.of("on_replied") == [(False,)]
    client.close()


def test_a_deadline_that_passes_as_the_hook_of_a_client_that_has_gone_ends_leaves_nothing(
    serve: Serve, loop_name: str
) -> None:
    """The deadline finds a session that has its answer, and waits to call on_replied."""
    noted = Noted()
    inside = threading.Event()
    go_on: list[asyncio.Event] = []

    class Slow(Handler):
        async def on_message(self, _session: Session, _message: Message) -> None:
            go_on.append(asyncio.Event())
            inside.set()
            await go_on[0].wait()

        async def on_replied(self, _session: Session, _message: Message, sent: bool) -> None:
            noted.note("on_replied", (sent,))

        async def on_disconnect(self, _session: Session) -> None:
            noted.note("on_disconnect", ())

    running = serve(Slow(), loop=loop_name)
    client = running.ready()
    client.begin_message()
    assert inside.wait(DEADLINE)
    client.reset()
    running.wait_until_lost()
    (driver,) = running.drivers

    def expire_once_answered() -> None:
        if driver.answers.due:
            asyncio.get_running_loop().call_soon(expire_once_answered)
        else:
            driver.expire()

    async def end_and_expire() -> None:
        go_on[0].set()
        expire_once_answered()

    running.run(end_and_expire)
    running.wait_until_no_sessions()
    assert noted.calls == [("on_replied", (False,)), ("on_disconnect", ())]


@pytest.mark.parametrize("has_turn", [True, False])
def test_a_hook_that_is_cancelled_twice_before_it_begins_ends_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, has_turn: bool
) -> None:
    """Its client leaves, and its deadline passes in the same turn of the loop."""
    ended: list[str] = []
    monkeypatch.setattr(Journal, "hook_ended", lambda _self, hook, _asked: ended.append(hook))
    running = serve(handler_of("async def", on_vrfy=None), max_handlers=1)
    turns = running.runtime.turns
    with running.ready() as client:
        (driver,) = running.drivers

        async def cancel_twice() -> None:
            turns.free = int(has_turn)
            driver.data_received(b"VRFY x\r\n")
            call = driver.answers.call
            assert call is not None
            call.cancel()
            call.cancel()

        running.run(cancel_twice)
        assert client.reply().startswith("451 4.3.0 ")
        running.run(running.turn)
        assert (ended, turns.free) == (["on_vrfy"], int(has_turn))


@pytest.fixture(params=[{"threads": 1}, {"max_handlers": 1}], ids=["threads", "max_handlers"])
def waiting(
    request: pytest.FixtureRequest, serve: Serve, clock: StoppedClock
) -> Iterator[tuple[Running, Noted, Client, Gate]]:
    """A client's on_replied waits, longer than a hook may take, for what another's hook holds."""
    noted, message, other = Noted(), Gate(), Gate()
    told = {"on_replied": None, "on_disconnect": None}
    handler = handler_of("def", noted, on_message=message, on_vrfy=other, **told)
    running = serve(handler, handler_timeout=60, **request.param)
    with running.ready() as busy, running.ready() as client:
        client.begin_message()
        message.wait()
        busy.send(b"VRFY x\r\n")
        until(lambda: "on_vrfy" in [driver.hook for driver in running.drivers], running)
        message.go_on.set()
        assert client.replies(4)[3] == "250 2.0.0 Ok: queued"
        other.wait()
        clock.advance(61)
        assert busy.reply() == LATE
        busy.send(b"VRFY x\r\n")
        running.wait_until_received(busy)
        clock.advance(61)  # as much time again has passed
        assert busy.reply() == LATE
        assert noted.names == ["on_message", "on_vrfy"]
        yield running, noted, client, other
        other.go_on.set()


@pytest.mark.parametrize("leaves", [False, True])
def test_on_replied_is_called_however_long_it_waits_for_its_turn(
    waiting: tuple[Running, Noted, Client, Gate], leaves: bool
) -> None:
    running, noted, client, other = waiting
    if leaves:
        client.reset()
        until(lambda: any(driver.wire.lost for driver in running.drivers), running)
    other.go_on.set()
    if not leaves:
        assert client.say("NOOP") == "250 2.0.0 Ok"
        client.close()
    until(lambda: noted.names[2:] == ["on_replied", "on_disconnect"], running)
    assert [sent for _, _, sent in noted.of("on_replied")] == [True]


def test_a_hook_that_waits_for_its_turn_does_not_keep_a_server_up_beyond_its_grace(
    waiting: tuple[Running, Noted, Client, Gate],
    clock: StoppedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running, noted, client, _ = waiting
    ended = asyncio.run_coroutine_threadsafe(running.server.shutdown(30), running.runtime.loop)
    for _ in range(10):  # the grace, and then the last words and the hooks
        clock.advance(31)
    ended.result(DEADLINE)
    assert ") was never called" in caplog.text
    assert noted.of("on_replied") == []
    client.close()


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_a_hook_may_shut_the_server_down(grace: float) -> None:
    class Last(Handler):
        async def on_message(self, _session: Session, _message: Message) -> None:
            await server.shutdown(grace)

        def on_disconnect(self, _session: Session) -> None:
            pass

        async def on_shutdown(self, server: Server) -> None:
            await server.shutdown()  # what is being done already

    server = Server(Last(), addr="127.0.0.1:0")

    async def work() -> None:
        async with server:
            peer = server.addresses[0]
            _reader, writer = await asyncio.open_connection(peer.host, peer.port)
            other = await asyncio.open_connection(peer.host, peer.port)
            writer.write(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n")
            await server.wait_closed()
            for end in (writer, other[1]):
                end.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE))


def test_who_asks_for_a_shutdown_may_lose_patience() -> None:
    async def work() -> None:
        server = Server(handler_of("async def"), addr="127.0.0.1:0")
        await server.start()
        peer = server.addresses[0]
        reader, writer = await asyncio.open_connection(peer.host, peer.port)
        writer.write(b"HELO c\r\nMAIL FROM:<>\r\n")
        await reader.readuntil(b"250 2.1.0")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.shutdown(3600), 0.05)
        await server.shutdown(0)  # the shorter grace counts
        await server.wait_closed()
        writer.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE))


def test_clients_over_streams_share_their_server_with_its_limits() -> None:
    noted = Noted()
    server = Server(handler_of("async def", noted, on_startup=None), max_connections=2)

    async def work() -> list[bytes]:
        front = await asyncio.start_server(server.serve_streams, "127.0.0.1", 0)
        host, port = front.sockets[0].getsockname()[:2]
        clients = [await asyncio.open_connection(host, port) for _ in range(4)]
        greetings = [(await reader.readline())[:3] for reader, _ in clients]
        for _, writer in clients:
            writer.close()
        front.close()
        await server.wait_closed()
        return greetings

    greetings = asyncio.run(asyncio.wait_for(work(), DEADLINE))
    assert sorted(greetings) == [b"220", b"220", b"421", b"421"]
    assert noted.names == ["on_startup"]


def test_the_path_of_a_socket_that_was_handed_in_stays(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"

    async def work() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            server = Server(handler_of("async def"))
            await server.start(sock)
            await server.shutdown()

    asyncio.run(work())
    assert path.exists()


def test_a_signal_handler_of_the_program_is_its_own_again() -> None:
    def mine(_number: int, _frame: object) -> None:
        raise AssertionError("not now")

    server = Server(handler_of("async def", on_startup=lambda server: server.close()))
    server.configure(addr="127.0.0.1:0")
    before = signal.signal(signal.SIGTERM, mine)
    try:
        server.listen_and_serve()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_temporary_rejections_of_recipients_do_not_end_the_session(serve: Serve) -> None:
    error = TypeError("a bug of the hook")
    with serve(handler_of("async def", on_rcpt=error)).ready() as client:
        client.say("MAIL FROM:<a@x>")
        client.send(b"RCPT TO:<b@x>\r\n" * 60)
        assert {reply[:3] for reply in client.replies(60)} == {"451"}


@pytest.mark.parametrize("octets", [1, 7, 100_000])
def test_hops_are_counted_however_the_header_came(octets: int) -> None:
    header = b"RECEIVED: a\r\nSubject: x\r\nReceived: b\r\n\tReceived: no\r\n" * 60
    message = header + b"\r\nReceived: in the body\r\n" * 200
    chunks = [message[at : at + octets] for at in range(0, len(message), octets)]
    assert hops(chunks, None) == 120
    assert hops([b"x"] * 300_000, None) == 0  # linear: quadratic, this took half a minute
