"""Which logins count against an address: those that are cut, cancelled, or tried again."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.clock import StoppedClock
from support.hooks import handler_of
from support.logins import cram_md5, encoded, login, plain
from support.passwords import Gate, write
from support.serving import DEADLINE, Box, Serve

WRONG = "535 5.7.8 Authentication credentials invalid"
TOO_MANY = "421 4.7.0 Too many failed logins"
STRICT: dict[str, Any] = {"exempt_networks": (), "auth_mechs": {"PLAIN": True, "LOGIN": True}}


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return write(tmp_path / "users", alice="wonder")


@pytest.fixture
def gate(users: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Make the hash function block until the test opens the gate."""
    gate = Gate()
    monkeypatch.setattr(hashlib, "scrypt", gate)
    yield gate
    gate.opened.set()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_login_of_a_client_that_left_is_a_failed_one(
    serve: Serve, loop_name: str, kind: str
) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()

    def check(username: str, password: str) -> bool:
        asked.release()
        return answer.wait(DEADLINE)

    async def check_async(username: str, password: str) -> bool:
        asked.release()
        return await asyncio.Event().wait()

    handler = check if kind == "def" else check_async
    running = serve(Box(), auth_handler=handler, loop=loop_name, max_auth_failures=1, **STRICT)
    client = running.ready()
    client.send(f"{plain('alice', 'good')}\r\n".encode())
    assert asked.acquire(timeout=DEADLINE)
    client.reset()
    with running.ready() as other:
        if kind == "def":  # which cannot be cancelled
            assert other.say(plain("alice", "good"))[:3] == "454"
        answer.set()
        running.wait_until(lambda: running.sessions == 1)  # the login has ended
        assert other.say(plain("alice", "good")) == TOO_MANY


def test_200_logins_that_are_cut_are_as_many_as_may_fail(
    serve: Serve, users: Path, gate: Gate
) -> None:
    running = serve(Box(), auth_file=str(users), max_auth_failures=5, **STRICT)
    for number in range(5):
        with running.ready() as client:
            client.send(f"{plain('alice', f'guess {number}')}\r\n".encode())
            running.wait_until_received(client)
            client.reset()
        running.wait_until_no_sessions()
    gate.opened.set()
    for number in range(5, 200):
        with running.ready() as client:
            assert client.say(plain("alice", f"guess {number}")) == TOO_MANY
    assert gate.calls <= 5


@pytest.mark.parametrize("end", ["*", "QUIT", encoded("c=biws"), ""])
def test_a_scram_login_that_ends_after_its_first_message_is_a_failed_one(
    serve: Serve, no_delay: None, end: str
) -> None:
    first = "AUTH SCRAM-SHA-256 " + encoded("n,,n=alice,r=abc")
    handler = handler_of("async def", on_secret="wonder")
    running = serve(handler, max_auth_failures=3, exempt_networks=())
    answers = []
    for _ in range(4):
        with running.ready() as client:
            answers.append(client.say(first)[:3])
            if end and answers[-1] == "334":
                answers.append(client.say(end)[:3])
        running.wait_until_no_sessions()
    each = ["334", "501"] if end else ["334"]
    assert answers == [*each * 3, "421"]


def test_logins_that_are_cut_make_the_delay_grow(
    serve: Serve, clock: StoppedClock, delays: queue.SimpleQueue[float]
) -> None:
    handler = handler_of("async def", on_secret="wonder", on_auth=None)
    running = serve(handler, **STRICT)
    for _ in range(2):
        with running.ready() as client:
            assert client.say("AUTH SCRAM-SHA-256 " + encoded("n,,n=alice,r=abc"))[:3] == "334"
        running.wait_until_no_sessions()
    with running.ready() as client:
        client.send(f"{plain('alice', 'wander')}\r\n".encode())
        assert delays.get(timeout=DEADLINE) == 4.0


def smtplibs_login(client: Client, password: str) -> list[str]:
    """One `login()` of smtplib: each mechanism, until one is accepted."""
    return [
        cram_md5(client, "alice", password),
        client.say(plain("alice", password)),
        login(client, "alice", password),
    ]


def check(_peer: object, mechanism: str, username: bytes, password: bytes, shared: bytes) -> bool:
    return mechanism != "CRAM-MD5" and password == b"wonder"  # it keeps hashes


def test_each_further_mechanism_for_a_user_is_the_same_login(serve: Serve, no_delay: None) -> None:
    running = serve(Box(), auth_handler=check, max_auth_failures=2, **STRICT)
    for _ in range(2):
        with running.ready() as client:
            assert smtplibs_login(client, "wander") == [WRONG] * 3
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")) == TOO_MANY


def test_a_further_mechanism_is_checked_where_no_other_login_would_be(
    serve: Serve, no_delay: None
) -> None:
    """The last failure of the address is CRAM-MD5's; PLAIN is right."""
    running = serve(Box(), auth_handler=check, max_auth_failures=1, **STRICT)
    with running.ready() as client:
        assert cram_md5(client, "alice", "wonder") == WRONG
        assert client.say(plain("alice", "wonder")) == "235 2.7.0 Authentication successful"


@pytest.mark.parametrize("again", ["CRAM-MD5", "another user", "later"])
def test_a_mechanism_tried_again_or_for_another_or_later_is_another_login(
    serve: Serve, clock: StoppedClock, delays: queue.SimpleQueue[float], again: str
) -> None:
    running = serve(Box(), auth_handler=check, max_auth_failures=1, **STRICT)

    def fail(client: Client, *lines: str) -> str:
        for line in lines[:-1]:
            client.say(line)
        client.send(f"{lines[-1]}\r\n".encode())
        assert delays.get(timeout=DEADLINE) == 1.0
        clock.advance(1.1)
        return client.reply()

    with running.ready() as client:
        assert fail(client, plain("alice", "wander")) == WRONG
        clock.advance(9.8)  # after the reply
        assert fail(client, "AUTH LOGIN", encoded("alice"), encoded("wander")) == WRONG
        if again == "later":
            clock.advance(10.1)
            answer = cram_md5(client, "alice", "wander")
        elif again == "another user":
            answer = cram_md5(client, "bob", "wander")
        else:
            assert fail(client, "AUTH CRAM-MD5", encoded(f"alice {'0' * 32}")) == WRONG
            answer = cram_md5(client, "alice", "wander")
        assert answer == TOO_MANY
