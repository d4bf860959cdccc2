"""The default limits of a server: the value of each, and its effect."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import pytest

from ehlo import Address, Handler, Message, Reject, Session
from ehlo.server.options.config import Options
from support.serving import Box, Collector, Running, Serve

TOO_MANY = b"421 4.7.0 Too many connections\r\n"
TOO_MANY_IDLE = "421 4.7.0 Too many commands without mail"

LIMITS = {
    "max_size": 33_554_432,
    "max_recipients": 100,
    "max_refused_recipients": None,
    "max_recipient_domains": 0,
    "max_messages": 1000,
    "max_idle_commands": 100,
    "max_errors": 20,
    "slow_errors": 10,
    "max_connections": 1000,
    "max_connections_per_address": 50,
    "max_connection_rate": 200,
    "max_messages_per_hour": 0,
    "max_recipients_per_hour": 0,
    "max_auth_failures": 50,
    "exempt_networks": ("127.0.0.0/8", "::1", "unix:"),
    "max_memory": 0,
    "max_disk": 0,
    "spool_threshold": None,
    "spool_dir": "",
    "max_handlers": 256,
    "threads": 16,
}


def test_the_default_limits_are_those_documented() -> None:
    fields = [field for field in dataclasses.fields(Options) if "group" in field.metadata]
    limits = {field.name: field.default for field in fields if field.metadata["group"] == "Limits"}
    assert limits == LIMITS


def test_a_thousand_connections_in_all(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ehlo.server.system.machine.descriptors", lambda: 100_000)
    running = serve(Box())
    assert all(running.runtime.connections.admit(None) for _ in range(998))
    with running.ready(), running.ready(), running.client() as one_more:
        assert one_more.rest() == TOO_MANY
    for _ in range(998):
        running.runtime.connections.release(None)


def test_fifty_connections_of_one_address(serve: Serve) -> None:
    running = serve(Box(), exempt_networks=())
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(running.ready())
        with running.client() as one_more:
            assert one_more.rest() == TOO_MANY


def test_two_hundred_new_connections_of_one_address_in_a_minute(serve: Serve) -> None:
    collector = Collector()
    running = serve(collector, exempt_networks=())
    for _ in range(200):
        with running.ready() as client:
            client.say("QUIT")
        collector.wait_for_disconnect()
    with running.client() as one_more:
        assert one_more.rest() == TOO_MANY


def test_a_hundred_idle_commands(serve: Serve) -> None:
    with serve(Box()).ready() as client:
        client.send(b"NOOP\r\n" * 101)
        assert client.replies(101) == ["250 2.0.0 Ok"] * 100 + [TOO_MANY_IDLE]
        assert client.rest() == b""


def test_fifty_failed_logins_of_one_address(serve: Serve, no_delay: None) -> None:
    asked = []

    def check(*given: object) -> bool:
        asked.append(given)
        return False

    running = serve(Box(), auth_handler=check, auth_mechs={"PLAIN": True}, exempt_networks=())
    for _ in range(51):
        with running.ready() as client:
            client.say("AUTH PLAIN AGEAYg==")
    assert len(asked) == 50


class Greylisting(Handler):
    """It tells every recipient to come again."""

    def __init__(self) -> None:
        self.asked = 0

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        self.asked += 1
        raise Reject(450, "4.7.1", "Greylisted")

    async def on_message(self, session: Session, message: Message) -> None: ...


MAIL = "MAIL FROM:<a@example.com>"
RCPT = "RCPT TO:<b@example.com>"
LOGIN_REQUIRED = {
    "auth_required": True,
    "auth_handler": lambda *_given: False,
    "auth_mechs": {"PLAIN": True},
}


def heard_of_301(running: Running, before: list[str], line: str) -> list[str]:
    """What is answered to who says a line three hundred times, and once more, in one write."""
    with running.ready() as client:
        for each in before:
            client.say(each)
        client.send(f"{line}\r\n".encode() * 301)
        return client.rest().decode().splitlines()


@pytest.mark.parametrize(
    ("options", "before", "line", "answer"),
    [
        ({}, [], "MAIL FROM:<ü@example.com>", "550 5.6.7"),
        ({}, [MAIL], "RCPT TO:<ü@example.com>", "553 5.6.7"),
        ({}, [], MAIL + " SIZE=99999999", "552 5.3.4"),
        (LOGIN_REQUIRED, [], MAIL, "530 5.7.0"),
        (LOGIN_REQUIRED, [], RCPT, "530 5.7.0"),
        (LOGIN_REQUIRED, [], "DATA", "530 5.7.0"),
        ({"max_recipients_per_hour": 1}, [MAIL, RCPT], RCPT, "450 4.7.1"),
        ({"max_messages_per_hour": 1}, [MAIL, "RSET"], MAIL, "450 4.7.1"),
    ],
)
def test_three_hundred_rejections_by_the_server(
    serve: Serve, options: dict[str, object], before: list[str], line: str, answer: str
) -> None:
    running = serve(Box(), exempt_networks=(), **options)
    *heard, last = heard_of_301(running, before, line)
    assert [each[:9] for each in heard] == [answer] * 300
    assert last == TOO_MANY_IDLE


def test_three_hundred_rejections_by_a_hook(serve: Serve) -> None:
    handler = Greylisting()
    heard = heard_of_301(serve(handler), [MAIL], RCPT)
    assert heard == ["450 4.7.1 Greylisted"] * 300 + [TOO_MANY_IDLE]
    assert handler.asked == 301
