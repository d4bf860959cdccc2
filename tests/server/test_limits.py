"""Limits on a client: time, size, recipients, errors, connections, memory and order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import re
import smtplib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Peer, Reject, Session
from ehlo.net import Networks
from ehlo.protocol.events import Tarpit
from ehlo.server.answer import Answers
from ehlo.server.limits import Exempt, Turns
from ehlo.server.options.config import Options
from ehlo.server.places import Connections
from ehlo.server.space import Memory
from ehlo.server.tls.channel import HANDSHAKE_COST, SESSION_COST
from support.certificates import Certificates
from support.client import SMALL, Client
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
from support.logins import plain
from support.serving import DEADLINE, Box, Collector, Serve

TIMED_OUT = (
    b"421 4.4.2 mx.example smtpd ESMTP Service closing transmission channel after timeout exceeded"
    b"\r\n"
)


@pytest.fixture
def no_tarpit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pause of a second for each error, except in the tests of it."""
    tarpit = Answers.tarpit
    monkeypatch.setattr(Answers, "tarpit", lambda answers, _event: tarpit(answers, Tarpit(0.0)))


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"EHLO c\r\n",
        b"EHLO c\r\nMAIL FROM:<a@example.com>\r\n",
        b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nhalf a mess",
        b"EHL",
    ],
)
def test_an_idle_client_times_out(
    serve: Serve, clock: StoppedClock, said: bytes, loop_name: str
) -> None:
    collector = Collector()
    running = serve(collector, timeout=40, loop=loop_name)
    with running.client() as client:
        client.reply()
        client.send(said)
        client.replies(said.count(b"\r\n"))
        clock.advance(39)
        assert running.sessions == 1
        clock.advance(3)  # the deadline may be late by a sweep
        assert client.rest() == TIMED_OUT
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_each_command_moves_the_deadline(serve: Serve, clock: StoppedClock) -> None:
    with serve(Box(), timeout=60).ready() as client:
        for _ in range(5):
            assert client.say("NOOP") == "250 2.0.0 Ok"
            clock.advance(40)


def test_bytes_that_complete_no_command_do_not_move_the_deadline(
    serve: Serve, clock: StoppedClock
) -> None:
    running = serve(Box(), timeout=60)
    with running.ready() as client:
        for _ in range(3):
            client.send(b"N")
            running.wait_until_received(client)
            clock.advance(16)
        assert running.sessions == 1
        client.send(b"N")
        clock.advance(16)
        assert client.rest() == TIMED_OUT


def test_a_discarded_body_has_the_same_time_as_another(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box(), timeout=60, max_size=1000, min_body_rate=0)
    with running.ready() as client:
        client.begin_message(b"x" * 1500, end=b"")
        client.replies(3)
        for _ in range(5):
            client.send(b"y")
            running.wait_until_received(client)
            clock.advance(40)
        assert client.say("\r\n.") == "552 5.3.4 Message size exceeds fixed limit"


def test_the_idle_timeout_starts_again_after_on_replied(serve: Serve, clock: StoppedClock) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_replied=None)
    running = serve(handler, timeout=40, handler_timeout=1000)
    with running.ready() as client:
        client.mail()
        running.wait_until(lambda: noted.of("on_replied") != [])
        clock.advance(41)
        assert client.rest() == TIMED_OUT


def test_the_idle_timeout_starts_again_after_on_tls(
    serve: Serve, clock: StoppedClock, certificates: Certificates
) -> None:
    noted = Noted()
    running = serve(
        handler_of("async def", noted, on_tls=None),
        timeout=40,
        handler_timeout=1000,
        tls_config=certificates.server(),
    )
    with running.ready() as client:
        client.say("STARTTLS")
        client.wrap(certificates.client)
        running.wait_until(lambda: noted.of("on_tls") != [])
        clock.advance(41)
        assert client.rest() == TIMED_OUT


def test_the_time_of_a_hook_is_not_the_clients_idle_time(serve: Serve, clock: StoppedClock) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Handler):
        def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            assert go_on.wait(DEADLINE)

    with serve(Slow(), timeout=40, handler_timeout=1000).ready() as client:
        client.begin_message()
        client.replies(3)
        assert inside.wait(DEADLINE)
        clock.advance(900)
        go_on.set()
        assert client.reply() == "250 2.0.0 Ok: queued"
        assert client.say("NOOP") == "250 2.0.0 Ok"


def test_a_slow_client_is_served(serve: Serve) -> None:
    box = Box()
    with serve(box).client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = (
            b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
            b"..x\r\n\r\n.y\r\n.\r\nQUIT\r\n"
        )
        for byte in said:
            client.send(bytes([byte]))
        assert [reply[:3] for reply in client.replies(7)] == (
            ["220", "250", "250", "250", "354", "250", "221"]
        )
    assert box.bodies == [b".x\r\n\r\ny\r\n"]


# -- the deadline of a handler -------------------------------------------------------------------


def test_an_async_hook_over_its_deadline_is_cancelled(
    serve: Serve, clock: StoppedClock, caplog: pytest.LogCaptureFixture, loop_name: str
) -> None:
    noted = Noted()
    stuck = [True]
    inside = threading.Event()

    class Stuck(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            if not stuck.pop() if stuck else True:
                return
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                noted.note("cancelled", (message.id,))
                raise

        async def on_replied(self, session: Session, message: Message, sent: bool) -> None:
            noted.note("replied", (message.id,))

    running = serve(Stuck(), handler_timeout=30, loop=loop_name)
    with running.ready() as client:
        client.begin_message()
        assert inside.wait(DEADLINE)
        clock.advance(31)
        assert client.replies(4)[3] == "451 4.4.5 Requested action aborted: took too long"
        assert client.mail() == "250 2.0.0 Ok: queued"
    running.wait_until_no_sessions()
    assert sorted(noted.names) == ["cancelled", "replied", "replied"]
    assert ") is over its deadline" in caplog.text
    assert "its result is dropped" not in caplog.text


@pytest.mark.parametrize("result", [None, RuntimeError("too late")])
def test_a_def_hook_over_its_deadline_is_dropped_and_that_is_logged(
    serve: Serve, clock: StoppedClock, caplog: pytest.LogCaptureFixture, result: object
) -> None:
    inside, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    late = [True]

    class Logged(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "its result is dropped" in record.getMessage():
                ended.set()

    def wait(*_: object) -> None:
        if late:
            late.clear()
            inside.set()
            assert go_on.wait(DEADLINE)
            if isinstance(result, Exception):
                raise result

    handler = Logged()
    logging.getLogger("ehlo.server").addHandler(handler)
    try:
        with serve(handler_of("def", on_message=wait), handler_timeout=30).ready() as client:
            client.begin_message()
            assert inside.wait(DEADLINE)
            clock.advance(31)
            assert client.replies(4)[3].startswith("451 4.4.5 ")
            assert client.mail() == "250 2.0.0 Ok: queued"  # in another thread
            go_on.set()
            assert ended.wait(DEADLINE)
            assert client.mail() == "250 2.0.0 Ok: queued"
    finally:
        logging.getLogger("ehlo.server").removeHandler(handler)
    assert ("it failed" if result else "it returned") in caplog.text


@pytest.mark.parametrize(
    ("hook", "said"), [("on_connect", "421 4.3.0 "), ("on_rcpt", "451 4.4.5 ")]
)
def test_other_hooks_have_a_deadline_too(
    serve: Serve, clock: StoppedClock, hook: str, said: str
) -> None:
    inside = threading.Event()

    async def forever(*_: object) -> None:
        inside.set()
        await asyncio.Event().wait()

    class Stuck(Handler):
        async def on_message(self, session: Session, message: Message) -> None: ...

    handler = Stuck()
    setattr(handler, hook, forever)
    with serve(handler, handler_timeout=20).client() as client:
        if hook == "on_rcpt":
            client.begin("MAIL FROM:<a@example.com>")
            client.send(b"RCPT TO:<b@example.com>\r\n")
        assert inside.wait(DEADLINE)
        clock.advance(21)
        assert client.reply().startswith(said)


@pytest.mark.parametrize("hook", ["on_message", "on_replied", "on_disconnect"])
def test_a_hook_that_never_ends_does_not_keep_the_session_of_a_client_that_left(
    serve: Serve, hook: str
) -> None:
    inside = threading.Event()

    async def forever(*_: object) -> None:
        inside.set()
        await asyncio.Event().wait()

    class Stuck(Handler):
        async def on_message(self, session: Session, message: Message) -> None: ...

    handler = Stuck()
    setattr(handler, hook, forever)
    running = serve(handler, handler_timeout=0.3)
    client = running.ready()
    client.begin_message()
    if hook != "on_disconnect":
        assert inside.wait(DEADLINE)
    client.reset()
    running.wait_until_no_sessions()


# -- size ----------------------------------------------------------------------------------------

TOO_LARGE = "552 5.3.4 Message size exceeds fixed limit"


def test_a_body_of_the_limit_is_accepted_and_one_byte_more_is_rejected(
    serve: Serve,
) -> None:
    box = Box()
    with serve(box, max_size=1000).ready() as client:
        assert client.mail(b"x" * 998 + b"\r\n") == "250 2.0.0 Ok: queued"
        assert client.mail(b"x" * 999 + b"\r\n") == TOO_LARGE
        # Stuffed dots do not count: the limit is on the stored body
        assert client.mail(b"..\r\n" * 300 + b"x" * 98 + b"\r\n") == "250 2.0.0 Ok: queued"
    assert [len(body) for body in box.bodies] == [1000, 1000]


def test_a_declared_size_over_the_limit_is_rejected_at_mail(serve: Serve) -> None:
    with serve(Box(), max_size=1000).ready() as client:
        assert client.say("MAIL FROM:<a@example.com> SIZE=1001") == TOO_LARGE
        assert client.say("MAIL FROM:<a@example.com> SIZE=1000") == "250 2.1.0 Ok"


def test_an_unlimited_size_is_offered_as_zero(serve: Serve) -> None:
    box = Box()
    with serve(box, max_size=0).client() as client:
        assert "250-SIZE 0" in client.hello().splitlines()
        body = b"x" * 70 + b"\r\n"
        assert client.mail(body * 40_000) == "250 2.0.0 Ok: queued"
    assert len(box.bodies[0]) == 72 * 40_000


def test_commands_in_an_oversize_body_are_never_executed(serve: Serve, loop_name: str) -> None:
    noted = Noted()
    hooks = ("on_mail", "on_rcpt", "on_reset", "on_vrfy")
    handler = handler_of("async def", noted, **dict.fromkeys(hooks))
    running = serve(handler, max_size=1000, loop=loop_name)
    evil = (
        b"RSET\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\n"
        b"VRFY x\r\n..\r\n\n.\nQUIT\r\n.\n.\r.\r"
    )
    with running.ready() as client:
        assert client.mail(evil * 2000 + b"\r\n") == TOO_LARGE
        assert client.say("NOOP") == "250 2.0.0 Ok"
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert noted.names == ["on_mail", "on_rcpt"] * 2 + ["on_message"]


def test_an_oversize_body_is_not_kept(serve: Serve) -> None:
    running = serve(Box(), max_size=100_000)
    with running.ready() as client:
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            client.say(command)
        client.send(b"x" * 200_000)
        running.run(running.turn)
        client.send(b"\r\n.\r\n")
        assert client.reply() == TOO_LARGE
        assert running.runtime.memory.held == 0


@pytest.mark.parametrize("tls", [False, True])
def test_a_body_far_over_the_limit_is_no_longer_read_and_gets_a_reply(
    serve: Serve, certificates: Certificates, tls: bool, loop_name: str
) -> None:
    collector = Collector()
    running = serve(
        collector,
        max_size=1000,
        loop=loop_name,
        tls_config=certificates.server() if tls else None,
        tls_listener=tls,
    )
    heard: list[bytes] = []
    with running.client(tls=certificates.client if tls else None) as client:
        client.hello()
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            client.say(command)
        reader = threading.Thread(target=lambda: heard.append(client.rest()))
        if not tls:  # an SSL socket is for one thread at a time
            reader.start()
        with contextlib.suppress(ConnectionError):
            for _ in range(60):
                client.send(b"MAIL FROM:<evil@example.com>\r\n" * 2000)
        if tls:
            heard.append(client.rest())
        else:
            with contextlib.suppress(OSError):
                client.end()
            reader.join()
    assert heard == [TOO_LARGE.encode() + b"\r\n"]
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_a_client_that_does_not_stop_is_cut_off(serve: Serve, clock: StoppedClock) -> None:
    collector = Collector()
    running = serve(collector, max_size=1000)
    with running.ready() as client:
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            client.say(command)
        with client.flooding(b"x"):
            assert client.reply() == TOO_LARGE
            clock.advance(4)
            assert running.sessions == 1  # the client has some seconds to notice
            clock.advance(2)
            collector.wait_for_disconnect()


# -- recipients and errors -----------------------------------------------------------------------


def test_too_many_recipients_are_452_and_the_rest_is_delivered(serve: Serve) -> None:
    box = Box()
    with serve(box, max_recipients=3).ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        answers = [client.say(f"RCPT TO:<b{number}@example.com>") for number in range(50)]
        assert answers[:3] == ["250 2.1.5 Ok"] * 3
        assert set(answers[3:]) == {"452 4.5.3 Too many recipients"}
        client.say("DATA")
        assert client.say("x\r\n.") == "250 2.0.0 Ok: queued"
    assert len(box.mails[0][2]) == 3


def test_rejected_recipients_have_a_limit_of_their_own(serve: Serve) -> None:
    running = serve(Box(), rcpt_handler=lambda *_: False, max_refused_recipients=60)
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.send(b"RCPT TO:<b@example.com>\r\n" * 60 + b"RSET\r\n")
        assert {answer[:9] for answer in client.replies(60)} == {"550 5.1.1"}
        assert client.reply() == "250 2.0.0 Ok"
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<b@example.com>")
        assert client.say("RSET") == "421 4.7.0 Too many recipients refused"
        assert client.is_closed()


def test_a_list_with_many_wrong_recipients_reaches_the_right_one(serve: Serve) -> None:
    """By `smtplib.sendmail`: a limit inside the first transaction would stop every try."""
    box = Box()
    running = serve(box, rcpt_handler=lambda _peer, _sender, to: to == "good@example.com")
    wrong = [f"wrong{number}@example.com" for number in range(150)]
    with smtplib.SMTP(running.address.host, running.address.port, "client.example") as client:
        refused = client.sendmail("a@example.com", [*wrong, "good@example.com"], b"x\r\n")
    assert refused.keys() == set(wrong)
    assert box.bodies == [b"x\r\n"]


def test_errors_are_forgiven_with_each_message(serve: Serve, no_tarpit: None) -> None:
    """One unknown command for each message is no reason to slow a client down, or to end it."""
    with serve(Box()).ready() as client:
        for _ in range(30):
            assert client.say("XUNKNOWN").startswith("500 ")
            assert client.mail() == "250 2.0.0 Ok: queued"


def test_the_twentieth_error_ends_the_session(serve: Serve, no_tarpit: None) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.send(b"NONSENSE\r\n" * 30)
        answers = client.rest().splitlines()
    assert answers == [b"500 5.5.2 Command not recognized"] * 19 + [b"421 4.7.0 Too many errors"]


def test_from_the_tenth_error_on_each_reply_waits_for_a_second(
    serve: Serve, clock: StoppedClock, loop_name: str
) -> None:
    running = serve(Box(), loop=loop_name)
    with running.ready() as client, running.ready() as other:
        client.send(b"NONSENSE\r\n" * 9)
        client.replies(9)
        client.send(b"NONSENSE\r\nNOOP\r\n")
        running.wait_until_received(client)
        for answer in ("500", "250"):
            assert other.mail() == "250 2.0.0 Ok: queued"
            clock.advance(0.9)
            assert client.has_heard_nothing()
            clock.advance(0.2)
            assert client.reply()[:3] == answer


def test_a_client_that_is_slowed_down_may_leave(serve: Serve) -> None:
    collector = Collector()
    running = serve(collector)
    client = running.ready()
    client.send(b"NONSENSE\r\n" * 15)
    client.replies(9)
    client.reset()
    collector.wait_for_disconnect()
    running.wait_until_no_sessions()


def test_each_slowed_reply_leaves_when_its_second_is_over(
    serve: Serve, clock: StoppedClock, loop_name: str
) -> None:
    running = serve(Box(), loop=loop_name)
    with running.ready() as client:
        client.send(b"NONSENSE\r\n" * 13)
        running.wait_until_received(client)
        for count in (10, 1, 1, 1):
            assert client.has_heard_nothing()
            clock.advance(1.1)
            assert [answer[:3] for answer in client.replies(count)] == ["500"] * count


def test_a_rejection_by_a_hook_is_not_an_error_of_the_client(serve: Serve) -> None:
    running = serve(handler_of("async def", on_mail=Reject(550)))
    with running.ready() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\n" * 40)
        assert [reply[:3] for reply in client.replies(40)] == ["550"] * 40


# -- connections ---------------------------------------------------------------------------------


def test_too_many_connections_are_turned_away_until_one_ends(serve: Serve, loop_name: str) -> None:
    collector = Collector()
    running = serve(collector, max_connections=2, loop=loop_name)
    with running.ready() as first, running.ready():
        for _ in range(3):
            with running.client() as third:
                assert third.rest() == b"421 4.7.0 Too many connections\r\n"
        assert running.sessions == 2
        first.say("QUIT")
        collector.wait_for_disconnect()
        with running.client() as again:
            assert again.reply().startswith("220 ")
    collector.wait_for_disconnect(2)


def test_too_many_connections_from_one_address_are_turned_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    running = serve(
        collector,
        max_connections_per_address=2,
        exempt_networks=(),
        addr=["127.0.0.1:0", "[::1]:0"],
    )
    v6 = running.server.addresses[1]
    with running.ready() as first, running.ready(), Client(v6) as other_address:
        with running.client() as third:
            assert third.rest() == b"421 4.7.0 Too many connections\r\n"
        assert other_address.reply().startswith("220 ")
        first.say("QUIT")
        collector.wait_for_disconnect()
        with running.client() as again:
            assert again.reply().startswith("220 ")


def test_loopback_is_exempt_from_the_limit_per_address(serve: Serve) -> None:
    running = serve(Box(), max_connections_per_address=1)
    with running.ready() as one, running.ready() as two:
        assert one.mail().startswith("250")
        assert two.mail().startswith("250")


def test_a_client_turned_away_from_a_tls_port_gets_no_bytes(
    serve: Serve, certificates: Certificates
) -> None:
    running = serve(Box(), max_connections=1, tls_config=certificates.server(), tls_listener=True)
    with running.client(tls=certificates.client) as first:
        first.hello()
        with running.client() as second:
            assert second.rest() == b""


@pytest.mark.parametrize(
    ("host", "exempt"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("unix:/run/smtp", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_loopback_and_unix_clients_are_exempt_by_default(host: str, exempt: bool) -> None:
    networks = Networks.of(Options.exempt_networks)
    assert (Exempt(networks).key(Peer(host, 1)) is None) is exempt


def test_connections_are_counted_in_total_and_per_address() -> None:
    connections = Connections(3, 2)
    assert [connections.admit("a") for _ in range(3)] == [True, True, False]
    assert connections.admit(None)
    assert not connections.admit(None)
    assert not connections.admit("b")
    connections.release("a")
    assert connections.admit("b")
    for key in ("a", "b", None):
        connections.release(key)
    assert connections._by_address == {}  # noqa: SLF001
    assert connections.count == 0


def test_wider_networks_of_ipv6_addresses_have_growing_shares() -> None:
    connections = Connections(1000, 50)
    sites = [f"2001:db8:{site:x}:{network:x}::" for site in range(16) for network in range(4096)]

    def admitted(keys: list[str]) -> int:
        return sum(connections.admit(key) for key in keys)

    assert admitted(sites[:1] * 100) == 50  # a /64
    assert admitted(sites[:256] * 4) == 100 - 50  # its /56
    assert admitted(sites[:4096]) == 200 - 100  # its /48
    assert admitted(sites) == 400 - 200  # its /32
    assert admitted(["2001:db9::"] * 100) == 50
    assert admitted(["192.0.2.1", "unix:/run/x", "fe80::"]) == 3


@pytest.mark.parametrize(
    ("most", "of_one", "wider"),
    [(1000, 50, [100, 200, 400]), (100, 50, [50, 50, 75]), (20, 2, [4, 8, 15]), (1, 50, [50] * 3)],
)
def test_no_network_has_all_places_unless_an_address_may(
    most: int, of_one: int, wider: list[int]
) -> None:
    networks = ("2001:db8:0:{:x}::", "2001:db8:0:{:x}00::", "2001:db8:{:x}::")
    found = []
    for network in networks:
        connections = Connections(10**6, of_one)
        connections._most_wider = Connections(most, of_one)._most_wider  # noqa: SLF001
        found.append(sum(connections.admit(network.format(n)) for n in range(256) for _ in "12"))
    assert found == wider


def test_the_connections_of_a_network_are_given_back() -> None:
    connections = Connections(10, 5)
    for key in ("2001:db8::", "2001:db8:0:1::", "unix:/run/x"):
        assert connections.admit(key)
    for key in ("2001:db8::", "2001:db8:0:1::", "unix:/run/x"):
        connections.release(key)
    assert connections._by_address == {}  # noqa: SLF001
    assert connections.count == 0


# -- turns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hogs", "free"), [(1, 8), (2, 5), (3, 4), (7, 2), (15, 1)])
def test_turns_are_shared_so_that_one_is_left(hogs: int, free: int) -> None:
    turns = Turns(16)
    for _ in range(16):
        for hog in range(hogs):
            turns.take(f"hog {hog}")
    assert turns.free == free
    assert turns.take("somebody else")


def test_an_exempt_address_may_have_all_turns() -> None:
    turns = Turns(16)
    assert all(turns.take(None) for _ in range(16))
    assert not turns.take(None)
    assert not turns.take("a")


def test_hooks_that_wait_are_begun_one_address_after_the_other() -> None:
    turns, begun = Turns(1), list[str]()
    assert turns.take("a")
    for who in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert not turns.take(who[0])
        turns.wait(who[0], who, partial(begun.append, who))
    assert turns.forget("b", "b1")
    running = "a"
    while turns.are_awaited:
        turns.give_back(running)
        running = begun[-1][0]
    assert begun == ["a1", "b2", "c1", "a2", "a3"]
    turns.give_back(running)
    assert turns.free == 1


# -- memory --------------------------------------------------------------------------------------

NO_MEMORY = "452 4.3.1 Insufficient system storage"


def test_memory_is_reserved_while_it_is_free() -> None:
    memory = Memory(800)
    assert memory.reserve(700)
    assert not memory.reserve(101)
    assert memory.held == 700 == memory.comfortable
    assert memory.reserve(100)
    memory.release(800)
    assert memory.held == 0


def test_a_body_without_memory_gets_452_at_its_end(serve: Serve) -> None:
    collector = Collector()
    running = serve(collector, max_memory=100_000)
    body = (b"x" * 98 + b"\r\n") * 2000
    with running.ready() as client:
        assert client.mail(body) == NO_MEMORY
        assert running.runtime.memory.held == 0
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert len(collector.messages) == 1


def test_no_transaction_begins_while_memory_is_short(serve: Serve) -> None:
    class Holding(Handler):
        def __init__(self) -> None:
            self.inside, self.go_on = threading.Semaphore(0), threading.Event()

        def on_message(self, session: Session, message: Message) -> None:
            self.inside.release()
            assert self.go_on.wait(DEADLINE)

    holding = Holding()
    running = serve(holding, max_memory=800_000)
    with contextlib.ExitStack() as stack:
        (*senders, other) = (stack.enter_context(running.ready()) for _ in range(4))
        for sender, size in zip(senders, (6900, 600, 350), strict=True):  # two in the small share
            assert other.say("MAIL FROM:<a@example.com>") == "250 2.1.0 Ok"
            assert other.say("RSET") == "250 2.0.0 Ok"
            sender.begin_message((b"x" * 98 + b"\r\n") * size)
            assert holding.inside.acquire(timeout=DEADLINE)
        assert other.say("MAIL FROM:<a@example.com>") == NO_MEMORY
        assert other.say("NOOP") == "250 2.0.0 Ok"
        holding.go_on.set()
        for sender in senders:
            assert sender.replies(4)[-1] == "250 2.0.0 Ok: queued"
        assert other.mail() == "250 2.0.0 Ok: queued"
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0


@pytest.mark.parametrize("way", ["end", "reset", "rset"])
def test_the_memory_of_an_unfinished_body_is_released(serve: Serve, way: str) -> None:
    collector = Collector()
    running = serve(collector)
    client = running.ready()
    for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
        client.say(command)
    if way == "rset":
        client.send(b"RSET\r\n")
    client.send(b"x" * 100_000)
    if way == "reset":
        client.reset()
    else:
        client.end()
        assert client.is_closed()
    client.close()
    collector.wait_for_disconnect()
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0
    assert collector.messages == []


# -- clients that do not read, or send too much --------------------------------------------------


def test_a_client_that_never_reads_is_not_read_and_times_out(
    serve: Serve, clock: StoppedClock, loop_name: str
) -> None:
    collector = Collector()
    running = serve(collector, buffers=SMALL, timeout=40, max_idle_commands=0, loop=loop_name)
    with running.ready(buffers=SMALL) as client, client.flooding(b"HELP\r\n"):
        running.wait_until(lambda: not running.drivers[0].wire.writable)
        clock.advance(41)  # the client has timed out
        clock.advance(41)  # and so has the last reply
        collector.wait_for_disconnect()
    running.wait_until_no_sessions()


def test_ten_thousand_commands_in_one_write_are_answered_in_order(
    serve: Serve, loop_name: str
) -> None:
    count = 10_000
    most = [0]

    class Slow(Handler):
        async def on_rcpt(self, session: Session, recipient: Address, params: Any) -> None:
            await asyncio.sleep(0)
            (driver,) = running.drivers
            most[0] = max(most[0], driver.connection.buffered)
            raise Reject(450, "4.2.0", recipient.local)

        async def on_message(self, session: Session, message: Message) -> None: ...

    class Patient(Slow):
        """Rejections are counted; a reply of the same text is not one of them."""

        async def on_vrfy(self, session: Session, text: str) -> None:
            await asyncio.sleep(0)
            (driver,) = running.drivers
            most[0] = max(most[0], driver.connection.buffered)
            raise Reject(450, "4.2.0", text)

    running = serve(Patient(), max_idle_commands=0, loop=loop_name)
    padding = "x" * 300
    with running.ready() as client:
        said = b"".join(f"VRFY {number} {padding}\r\n".encode() for number in range(count))
        sender = threading.Thread(target=client.send, args=(said,))
        sender.start()
        for number in range(count):
            assert client.reply() == f"450 4.2.0 {number} {padding}"
        sender.join()
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert len(said) > 3_000_000
    assert most[0] < 1_000_000  # the rest waits in the sockets, which the server does not read


# -- fairness ------------------------------------------------------------------------------------


def test_a_flood_of_transactions_does_not_delay_other_clients(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), loop=loop_name, max_messages=0, max_idle_commands=0)
    turns: list[int] = []
    counting = threading.Event()

    async def flood() -> None:
        (driver,) = running.drivers
        counts = driver.connection.counts
        counting.set()
        while counts.messages < 1500:
            turns.append(counts.messages)
            await running.turn()

    with running.ready() as client:
        said = b"MAIL FROM:<a@x>\r\nRSET\r\n" * 1500
        with ThreadPoolExecutor(2) as threads:
            flooded = threads.submit(running.run, flood)
            assert counting.wait(DEADLINE)
            with client.sending(said):
                heard = threads.submit(client.replies, 3000)
                flooded.result()
        assert heard.result()[-1] == "250 2.0.0 Ok"
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 400  # in one turn, a session handles its input and reads more


# -- limits per address --------------------------------------------------------------------------


def test_new_connections_from_one_address_have_a_limit(serve: Serve) -> None:
    running = serve(Box(), max_connection_rate=2, exempt_networks=())
    for _ in range(2):
        with running.ready() as client:
            client.say("QUIT")
    with running.client() as third:
        assert third.rest() == b"421 4.7.0 Too many connections\r\n"


def test_messages_and_recipients_of_an_address_have_a_limit(serve: Serve) -> None:
    running = serve(
        Box(), max_messages_per_hour=2, max_recipients_per_hour=3, exempt_networks=["192.0.2.0/24"]
    )
    with running.ready() as client:
        client.mail(recipients=("b@example.com", "c@example.com"))
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"
        too_many = "450 4.7.1 Too many recipients from your address"
        assert client.say("RCPT TO:<c@example.com>") == too_many
    with running.ready() as again:
        too_many = "450 4.7.1 Too many messages from your address"
        assert again.say("MAIL FROM:<a@example.com>") == too_many


def test_an_exempt_address_is_not_counted(serve: Serve) -> None:
    limits = {"max_connection_rate": 1, "max_messages_per_hour": 1, "max_recipients_per_hour": 1}
    running = serve(Box(), **limits)
    for _ in range(3):
        with running.ready() as client:
            assert client.mail() == "250 2.0.0 Ok: queued"


def test_an_address_with_too_many_failed_logins_is_rejected_without_a_hook(
    serve: Serve, no_delay: None
) -> None:
    asked = []

    def check(*given: object) -> bool:
        asked.append(given)
        return False

    running = serve(
        Box(),
        auth_handler=check,
        auth_mechs={"PLAIN": True},
        max_auth_failures=2,
        exempt_networks=(),
    )
    answers = []
    for _ in range(4):
        with running.ready() as client:
            answers.append(client.say("AUTH PLAIN AGEAYg=="))
    assert [answer[:3] for answer in answers] == ["535", "535", "421", "421"]
    assert len(asked) == 2


def test_concurrent_logins_are_not_all_checked_before_one_has_failed(
    serve: Serve, no_delay: None
) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()
    checked = []

    def check(
        _peer: object, _mechanism: str, _user: bytes, password: bytes, _shared: bytes
    ) -> bool:
        checked.append(password)
        asked.release()
        assert answer.wait(DEADLINE)
        return password == b"good"

    options = {"max_auth_failures": 3, "exempt_networks": (), "auth_mechs": {"PLAIN": True}}
    running = serve(Box(), auth_handler=check, **options)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.ready()) for _ in range(12)]
        for client, password in zip(clients[:3], ("good", "bad", "bad"), strict=True):
            client.send(f"{plain('alice', password)}\r\n".encode())
        for _ in range(3):
            assert asked.acquire(timeout=DEADLINE)
        trouble = "454 4.7.0 Temporary authentication failure"
        assert [client.say(plain("alice", "good")) for client in clients[3:]] == [trouble] * 9
        answer.set()
        assert [client.reply()[:3] for client in clients[:3]] == ["235", "535", "535"]
        assert clients[3].say(plain("alice", "bad"))[:3] == "535"  # two failed, not three
        assert clients[4].say(plain("alice", "good"))[:3] == "421"
    assert len(checked) == 4


@pytest.mark.parametrize(
    ("limit", "own", "most"),
    [(4, 0, 1), (32, 10, 1), (40, 10, 4), (1024, 16, 496), (1024, 500, 254), (None, 10, 1000)],
)
def test_each_connection_may_use_two_descriptors(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: int | None, own: int, most: int
) -> None:
    monkeypatch.setattr("ehlo.server.system.machine.descriptors", lambda: limit)
    monkeypatch.setattr("ehlo.server.system.machine.open_descriptors", lambda: own)
    running = serve(Box())
    assert running.runtime.connections.most == most


def test_connections_are_limited_by_the_number_of_descriptors(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ehlo.server.system.machine.descriptors", lambda: 36)
    monkeypatch.setattr("ehlo.server.system.machine.open_descriptors", lambda: 8)
    running = serve(Box())
    with running.ready(), running.ready(), running.client() as third:
        assert third.rest() == b"421 4.7.0 Too many connections\r\n"
    assert "2 connections at once, not 1000" in caplog.text


def test_a_hook_that_blocks_the_loop_is_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ehlo.server.observing.steps.Steps.BLOCKED", 0.1)

    class Blocks(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            await asyncio.sleep(0)
            time.sleep(0.15)  # noqa: ASYNC251  blocks on purpose

    with serve(Blocks()).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert re.search(r"on_message blocked the event loop for \d+\.\d s", caplog.text)


def test_a_hook_that_blocks_the_loop_is_logged_once_while_it_does(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ehlo.server.observing.steps.Steps.BLOCKED", 0.1)
    monkeypatch.setattr("ehlo.server.observing.steps._LOOK_EVERY", 0.02)
    looks: queue.SimpleQueue[bool] = queue.SimpleQueue()
    go_on = threading.Event()

    class Blocks(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            assert go_on.wait(DEADLINE)

    running = serve(Blocks())
    running.runtime.steps.when_blocked = looks.put
    with running.ready() as client:
        client.begin_message()
        client.replies(3)
        assert [looks.get(timeout=DEADLINE) for _ in range(3)] == [True, False, False]
        (named,) = [each for each in caplog.records if "has blocked the event loop" in each.message]
        assert named.levelname == "WARNING"
        assert re.search(r"on_message has blocked the event loop for \d+\.\d s;", named.message)
        assert vars(named)["session"] in named.message
        go_on.set()
        assert client.reply() == "250 2.0.0 Ok: queued"
    assert caplog.text.count("on_message blocked the event loop for ") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_watch_for_blocking_hooks_runs_if_a_hook_is_async(serve: Serve, kind: str) -> None:
    before = set(threading.enumerate())
    serve(handler_of(kind))
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert ("ehlo-watch" in names) == (kind == "async def")


def test_a_tls_session_counts_in_memory(serve: Serve, certificates: Certificates) -> None:
    running = serve(Box(), tls_config=certificates.server())
    with running.ready() as client:
        client.say("STARTTLS")
        running.run(running.turn)  # the reply is sent before the rest is done
        assert running.runtime.memory.held == HANDSHAKE_COST
        client.wrap(certificates.client)
        client.say("EHLO c")
        assert running.runtime.memory.held == SESSION_COST


def test_a_handshake_has_a_deadline_that_bytes_do_not_move(
    serve: Serve, clock: StoppedClock, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True, timeout=50)
    with running.client() as client:
        running.wait_until(lambda: running.sessions == 1)
        clock.advance(30)
        client.send(b"\x16\x03\x01")
        running.wait_until_received(client)
        clock.advance(21)
        assert client.is_closed()
