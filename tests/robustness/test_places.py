"""Clients that take all they can get: places for connections, threads, turns of hooks.

Others are served all the same. In the full form, that does not take long, either.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import partial
from typing import Any

import pytest

from ehlo import Handler, Message, Session
from robustness.process import Tell
from robustness.scale import IN_FULL, full
from support.client import Client
from support.clock import StoppedClock
from support.hooks import handler_of
from support.proxying import line
from support.serving import DEADLINE, Box, Running, Serve

HOG, HONEST = "127.0.0.2", "127.0.0.3"
PLACES = full(1000, short=40)


# -- places --------------------------------------------------------------------------------------


def silent(running: Running, count: int, held: contextlib.ExitStack, **options: Any) -> int:
    """Hold connections without a command; return how many got a place."""
    clients = [held.enter_context(running.client(**options)) for _ in range(count)]
    return sum(client.reply().startswith("220 ") for client in clients)


def test_a_site_with_many_networks_does_not_get_all_places(serve: Serve) -> None:
    running = serve(
        Box(),
        max_connections=PLACES,
        max_connections_per_address=PLACES // 20,
        proxy_networks=["127.0.0.0/8"],
    )
    places = 0
    with contextlib.ExitStack() as held:
        for number in range(20):  # each a /64 of one /56
            for _ in range(PLACES // 20):
                client = held.enter_context(running.client())
                client.send(line(f"2001:db8::{number:x}:0:0:0:1", "2001:db8::", 1, 25))
                places += client.reply().startswith("220 ")
        assert places == PLACES // 10
        with running.client() as other:
            other.send(line("2001:db9::1", "2001:db8::", 1, 25))
            assert other.hello().startswith("250")
            assert other.mail() == "250 2.0.0 Ok: queued"


def test_a_client_has_less_time_until_it_says_hello(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box())
    with running.client() as silent, running.client() as vague, running.ready() as polite:
        silent.reply()
        vague.reply()
        clock.advance(29)
        assert vague.say("NOOP") == "250 2.0.0 Ok"
        clock.advance(3)  # the deadline may be late by a sweep
        assert silent.rest().startswith(b"421 4.4.2 ")
        clock.advance(29)
        assert vague.rest().startswith(b"421 4.4.2 ")
        clock.advance(200)
        assert polite.say("NOOP") == "250 2.0.0 Ok"


def test_the_idlest_go_first_when_hardly_a_place_is_free(
    serve: Serve, clock: StoppedClock, loop_name: str
) -> None:
    go_on = threading.Event()

    def wait(*_: object) -> None:
        assert go_on.wait(DEADLINE)

    handler = handler_of("def", on_vrfy=wait)
    running = serve(handler, max_connections=20, loop=loop_name)
    with contextlib.ExitStack() as held:
        idle = [held.enter_context(running.ready()) for _ in range(4)]
        clock.advance(5)
        waiting = [held.enter_context(running.ready()) for _ in range(2)]
        for client in waiting:  # for the server, which is no fault of theirs
            client.send(b"VRFY x\r\n")
        running.wait_until(lambda: sum(each.hook is not None for each in running.drivers) == 2)
        others = [held.enter_context(running.ready()) for _ in range(14)]
        with running.client() as late:
            assert late.reply().startswith("421 4.7.0 ")
        clock.advance(4)
        assert running.sessions == 20
        clock.advance(2)  # now four of them are idle for 11 s
        running.wait_until(lambda: sum(client.has_heard_nothing() for client in idle) == 2)
        assert running.sessions == 18  # nine tenths
        assert all(client.say("NOOP") == "250 2.0.0 Ok" for client in others)
        more = [held.enter_context(running.ready()) for _ in range(2)]
        clock.advance(1)
        assert [client.rest()[:9] for client in idle] == [b"421 4.4.2"] * 4
        go_on.set()
        assert all(client.reply().startswith("252 ") for client in waiting)
        assert all(client.mail() == "250 2.0.0 Ok: queued" for client in (*more, *others))


@pytest.mark.parametrize("command", ["NOOP", "RSET", "MAIL FROM:<a@example.com>\r\nRSET"])
def test_commands_without_a_message_do_not_hold_a_place_for_long(
    serve: Serve, clock: StoppedClock, command: str
) -> None:
    running = serve(Box(), max_connections=10, max_idle_commands=0)
    with contextlib.ExitStack() as held:
        useful = held.enter_context(running.ready())
        hogs = [held.enter_context(running.ready()) for _ in range(9)]
        for _ in range(6):
            clock.advance(9)
            assert running.sessions == 10
            assert useful.mail() == "250 2.0.0 Ok: queued"
            for client in hogs:
                client.say(command)
                client.replies(command.count("\r\n"))
        clock.advance(7)
        assert running.sessions == 9
        assert useful.mail() == "250 2.0.0 Ok: queued"


def test_a_slow_body_does_not_hold_a_place_for_long(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box(), max_connections=10)
    with contextlib.ExitStack() as held:
        slow, fast = (held.enter_context(running.ready()) for _ in range(2))
        more = [held.enter_context(running.ready()) for _ in range(8)]
        for client in (slow, fast):
            client.begin_message(b"", end=b"")
            assert client.replies(3)[2].startswith("354 ")
        for _ in range(6):
            for client, count in ((slow, 10_000), (fast, 100_000)):
                client.send(b"x" * 998 + b"\r\n")
                client.send((b"x" * 998 + b"\r\n") * (count // 1000 - 1))
                running.wait_until_received(client)
            for client in more:
                assert client.mail() == "250 2.0.0 Ok: queued"
            clock.advance(9)
        for client in (slow, fast):
            client.send(b"x" * 998 + b"\r\n")
            running.wait_until_received(client)
        for client in more:
            assert client.mail() == "250 2.0.0 Ok: queued"
        clock.advance(7)
        assert slow.rest().startswith(b"421 4.4.2 ")
        fast.send(b".\r\n")
        assert fast.reply() == "250 2.0.0 Ok: queued"
        assert running.sessions == 9


def test_silent_clients_leave_places_to_others_soon(serve: Serve, tell: Tell) -> None:
    """In real time, which the full form alone has."""
    if not IN_FULL:
        pytest.skip("takes 10 seconds")
    running = serve(Box(), max_connections=PLACES, exempt_networks="none", max_connection_rate=0)
    with contextlib.ExitStack() as held:
        for number in range(20):
            silent(running, PLACES // 20, held, source=f"127.0.1.{number}")
        begun = time.monotonic()
        while True:
            with Client(running.address, source=HONEST) as client:
                if client.reply().startswith("220 "):
                    break
            assert time.monotonic() - begun < 15
            time.sleep(0.1)  # the pace of one who tries again
        tell(f"a place was free {time.monotonic() - begun:.1f} s after all had been taken")


# -- threads and turns ---------------------------------------------------------------------------


class Holding(Handler):
    """Counts messages from hogs, which wait for the end of the test."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = 0

    def has_entered(self, count: int) -> bool:
        return self.entered == count


class Slow(Holding):
    """Holds them in threads."""

    def on_message(self, session: Session, message: Message) -> None:
        if message.sender.local == "hog":
            self.entered += 1
            assert self.gate.wait(DEADLINE)


class SlowInLoop(Holding):
    """Holds them in the loop."""

    async def on_message(self, session: Session, message: Message) -> None:
        if message.sender.local == "hog":
            self.entered += 1
            while not self.gate.is_set():
                await pause()


async def pause() -> None:
    await asyncio.sleep(0.02)  # the pace of looking


@pytest.mark.parametrize("shares", [(8,), (8, 4, 2)], ids=["1 hog", "3 hogs"])
@pytest.mark.parametrize("kind", [Slow, SlowInLoop])
def test_one_address_takes_neither_all_threads_nor_all_turns(
    serve: Serve, tell: Tell, kind: type[Slow | SlowInLoop], shares: tuple[int, ...]
) -> None:
    handler = kind()
    running = serve(handler, threads=16, max_handlers=16, exempt_networks="none")
    with contextlib.ExitStack() as held:
        clients = []
        for number, share in enumerate(shares):  # half of what the ones before have left
            taken = handler.entered + share
            mine = [
                held.enter_context(running.ready(source=f"127.0.1.{number}")) for _ in range(40)
            ]
            for client in mine:
                client.begin_message_from("hog@example.com")
            clients += mine
            running.wait_until(partial(handler.has_entered, taken))
        begun = time.monotonic()
        with running.ready(source=HONEST) as honest:
            for _ in range(10):
                assert honest.mail() == "250 2.0.0 Ok: queued"
        tell(f"10 messages of another address took {time.monotonic() - begun:.3f} s")
        assert handler.entered == sum(shares)
        handler.gate.set()
        for client in clients:
            assert client.replies(4)[3] == "250 2.0.0 Ok: queued"
    assert handler.entered == 40 * len(shares)
    running.wait_until_no_sessions()
    assert running.runtime.turns.free == running.runtime.thread_turns.free == 16
