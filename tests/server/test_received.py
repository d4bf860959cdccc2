"""The `Received` field that a message gets, in each of its forms, and the end of a mail loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ehlo import Peer, Session
from ehlo.server.lookups import Lookups
from ehlo.server.runtime import Clock
from support.certificates import Certificates
from support.hooks import Noted, handler_of
from support.logins import plain
from support.serving import DEADLINE, Box, Collector, Running, Serve


def trace_of(collector: Collector) -> str:
    """The last message's field, with date and id taken out."""
    message = collector.messages[-1]
    field, date = message.trace.decode().rsplit(";\r\n\t", 1)
    assert date.endswith("\r\n")
    assert parsedate_to_datetime(date).tzinfo is not None
    assert f"\r\n\tid {message.id}" in field
    return field.replace(message.id, "ID")


class Users(Collector):
    async def on_auth(self, session: Any, credentials: Any) -> str:
        return str(credentials.username)


def test_the_field_has_its_exact_form(serve: Serve) -> None:
    collector = Collector()
    with serve(collector, appname="MyApp").ready() as client:
        client.mail()
    assert trace_of(collector) == (
        "Received: from client.example ([127.0.0.1])\r\n"
        "\tby mx.example (MyApp) with ESMTP\r\n"
        "\tid ID\r\n"
        "\tfor <b@example.com>"
    )


def test_several_recipients_are_not_shown(serve: Serve) -> None:
    collector = Collector()
    with serve(collector).ready() as client:
        client.mail(recipients=["b@example.com", "hidden@example.com"])
    assert "for <" not in trace_of(collector)


def test_a_rejected_recipient_does_not_count(serve: Serve) -> None:
    box = Box()
    running = serve(box, rcpt_handler=lambda _peer, _sender, rcpt: rcpt.startswith("b@"))
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<c@example.com>")
        client.say("RCPT TO:<b@example.com>")
        client.say("DATA")
        client.say("x\r\n.")
    assert b"\r\n\tfor <b@example.com>;" in box.mails[0][3]


@pytest.mark.parametrize("esmtp", [False, True])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("login", [False, True])
@pytest.mark.parametrize("utf8", [False, True])
def test_with_tells_what_the_session_was(
    serve: Serve, certificates: Certificates, esmtp: bool, tls: bool, login: bool, utf8: bool
) -> None:
    if not esmtp and (login or utf8):
        return  # both are of ESMTP
    collector = Users()
    running = serve(
        collector,
        auth_mechs={"PLAIN": True},
        tls_config=certificates.server() if tls else None,
        tls_listener=tls,
    )
    with running.client(tls=certificates.client if tls else None) as client:
        client.reply()
        client.say("EHLO c" if esmtp else "HELO c")
        if login:
            assert client.say(plain("alice", "wonder")).startswith("235")
        client.say("MAIL FROM:<a@example.com>" + " SMTPUTF8" * utf8)
        client.say("RCPT TO:<ü@example.com>" if utf8 else "RCPT TO:<b@example.com>")
        client.say("DATA")
        assert client.say("x\r\n.").startswith("250")
    protocol = re.findall(r" with (\w+)\r\n", trace_of(collector))
    name = "UTF8SMTP" if utf8 else "ESMTP"
    assert protocol == [name + "S" * tls + "A" * login if esmtp else "SMTP"]
    assert ("\r\n\t(version=TLSv1.3 cipher=TLS_" in trace_of(collector)) is tls
    if utf8:
        assert "\r\n\tfor <ü@example.com>" in trace_of(collector)


def test_a_unix_client_has_no_address(serve: Serve, tmp_path: Path) -> None:
    collector = Collector()
    with serve(collector, addr=f"unix:{tmp_path / 'smtp'}").ready() as client:
        client.mail()
    assert trace_of(collector).startswith("Received: from client.example\r\n\tby mx.example ")


def test_an_ipv6_client_is_a_literal(serve: Serve) -> None:
    collector = Collector()
    with serve(collector, addr="[::1]:0").ready() as client:
        client.mail()
    assert trace_of(collector).startswith("Received: from client.example ([IPv6:::1])\r\n")


def test_ids_are_unique_and_the_same_everywhere(serve: Serve) -> None:
    collector = Collector()
    running = serve(collector)
    for _ in range(3):
        with running.ready() as client:
            client.mail()
            client.mail()
    ids = [message.id for message in collector.messages]
    assert len(set(ids)) == 6
    for message, session in zip(collector.messages, collector.sessions, strict=True):
        assert message.id.startswith(session.id)
        assert f"\tid {message.id}\r\n".encode() in message.trace
        assert re.fullmatch(r"[0-9a-f]+-[0-9]+", message.id)  # an atom, as RFC 5321 4.4 wants it


def test_the_date_is_made_once_a_second() -> None:
    now = [1_700_000_000.2]
    clock = Clock(lambda: now[0])
    first = clock.date()
    now[0] += 0.5
    assert clock.date() is first
    now[0] += 0.5
    assert clock.date() != first
    assert parsedate_to_datetime(first).timestamp() == 1_700_000_000


# -- reverse DNS ---------------------------------------------------------------------------------


class Resolver:
    """Stands in for the system's `getnameinfo`."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.may_answer = threading.Event()

    def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        self.asked.append(sockaddr)
        self.may_answer.wait(DEADLINE)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, "25"

    def answer_now(self, running: Running) -> None:
        """Let it, and wait until the session has the name."""
        self.may_answer.set()
        running.wait_until(lambda: running.runtime.lookups.under_way == 0)


ServeWith = Callable[..., Running]


@pytest.fixture
def serve_with(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> ServeWith:
    """Start a server that looks up names: `serve_with(resolver, handler)`."""

    def start(resolver: Resolver, handler: Any, **options: Any) -> Running:
        monkeypatch.setattr(socket, "getnameinfo", resolver.getnameinfo)
        return serve(handler, reverse_dns=True, **options)

    return start


def test_a_name_that_has_arrived_is_in_the_field(serve_with: ServeWith) -> None:
    collector, resolver = Collector(), Resolver("mail.example.net")
    running = serve_with(resolver, collector)
    with running.ready() as client:
        resolver.answer_now(running)
        client.mail()
        port = client.sock.getsockname()[1]
    assert resolver.asked == [("127.0.0.1", port)]
    assert trace_of(collector).startswith(
        "Received: from client.example (mail.example.net [127.0.0.1])\r\n"
    )


def test_a_name_that_has_not_arrived_delays_nothing(serve_with: ServeWith) -> None:
    collector, resolver = Collector(), Resolver("mail.example.net")
    running = serve_with(resolver, collector)
    with running.ready() as client:
        client.mail()
        assert trace_of(collector).startswith("Received: from client.example ([127.0.0.1])\r\n")
        resolver.answer_now(running)
        client.mail()
        assert "(mail.example.net [127.0.0.1])" in trace_of(collector)


@pytest.mark.parametrize("answer", ["mail.example.net", socket.gaierror("no name")])
def test_the_name_of_a_client_that_has_left_is_awaited_and_dropped(
    serve_with: ServeWith, answer: str | Exception
) -> None:
    collector, resolver = Collector(), Resolver(answer)
    running = serve_with(resolver, collector)
    with running.ready() as client:
        client.mail()
        client.say("QUIT")
    running.wait_until_no_sessions()
    assert running.runtime.lookups.under_way == 1  # the resolver is busy with it
    resolver.answer_now(running)
    assert collector.sessions[0].rdns == ""


def test_lookups_that_hang_take_neither_the_threads_of_the_loop_nor_all_of_their_own(
    serve_with: ServeWith, loop_name: str
) -> None:
    resolver, looked_up = Resolver("mail.example.net"), threading.Semaphore(0)
    resolved: list[object] = []

    class Resolving(Collector):
        """Resolves a name in the loop's threads, as a hook may."""

        async def on_hello(self, session: Session, name: str) -> None:
            loop = asyncio.get_running_loop()
            resolved.append(await loop.getaddrinfo("127.0.0.1", 25))
            looked_up.release()

    networks = {"exempt_networks": "none", "max_connections_per_address": 1000}
    running = serve_with(resolver, Resolving(), loop=loop_name, **networks)
    lookups = running.runtime.lookups
    with contextlib.ExitStack() as held:
        for _ in range(100):
            held.enter_context(running.ready())
        assert len(resolved) == 100
        running.wait_until(lambda: len(resolver.asked) == 8)  # the half of one address
        for number in range(2, 7):
            running.run(partial(begin, lookups, f"192.0.2.{number}"))
        running.wait_until(lambda: len(resolver.asked) == 13)  # all of the others
        resolver.answer_now(running)
    # Those that waited are looked up, and those beyond 64 are not
    assert len(resolver.asked) == 8 + 64 + 5


async def begin(lookups: Lookups, host: str) -> None:
    lookups.begin(Peer(host, 1), host, lambda _name: None)


def test_clients_of_uvloop_that_reset_at_once_leave_no_complaint(serve: Serve) -> None:
    running = serve(Box(), reverse_dns=True, loop="uvloop")
    for _ in range(20):
        with running.client() as client:
            client.reply()
            client.reset()
    running.wait_until_no_sessions()
    running.wait_until(lambda: running.runtime.lookups.under_way == 0)


@pytest.mark.parametrize("error", [socket.gaierror("no name"), OSError("no network")])
def test_a_client_without_a_name_is_served(serve_with: ServeWith, error: Exception) -> None:
    collector, resolver = Collector(), Resolver(error)
    running = serve_with(resolver, collector)
    with running.ready() as client:
        resolver.answer_now(running)
        assert client.mail().startswith("250")
    assert "from client.example ([127.0.0.1])" in trace_of(collector)


def test_a_name_by_reverse_dns_writes_no_header(serve_with: ServeWith) -> None:
    resolver = Resolver("evil.example)\r\nSubject: owned\r\n (x\0;")
    collector = Collector()
    running = serve_with(resolver, collector)
    with running.ready() as client:
        resolver.answer_now(running)
        client.mail()
    assert "(evil.exampleSubjectownedx [127.0.0.1])" in trace_of(collector)


def test_reverse_dns_is_off_unless_asked_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("mail.example.net")
    monkeypatch.setattr(socket, "getnameinfo", resolver.getnameinfo)
    running = serve(Box())
    with running.ready() as client:
        client.mail()
    assert resolver.asked == []


def test_real_reverse_dns_is_harmless(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), reverse_dns=True, loop=loop_name)
    with running.ready() as client:
        assert client.mail().startswith("250")


# -- mail loops ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hops", "code"), [(0, "250"), (99, "250"), (100, "554"), (101, "554"), (5000, "554")]
)
def test_a_hundred_hops_are_a_loop(serve: Serve, hops: int, code: str) -> None:
    collector = Collector()
    running = serve(collector)
    hop = b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
    with running.ready() as client:
        answer = client.mail(hop * hops + b"Subject: x\r\n\r\nbody\r\n")
        assert answer.startswith(code)
        if code == "554":
            assert answer == "554 5.4.6 Too many hops: mail loop detected"
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert running.runtime.memory.held == 0
    assert len(collector.messages) == 1 + (code == "250")


def test_hops_are_counted_in_any_case_and_across_packets(serve: Serve) -> None:
    noted = Noted()
    with serve(handler_of("def", noted)).ready() as client:
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            client.say(command)
        for octet in b"rEcEiVeD: x\r\n" * 100 + b"\r\n":
            client.send(bytes([octet]))
        client.send(b"body\r\n.\r\n")
        assert client.reply().startswith("554 5.4.6 ")
    assert noted.names == []


def test_hops_in_the_body_are_no_hops(serve: Serve) -> None:
    with serve(Box()).ready() as client:
        body = b"Subject: x\r\n\r\n" + b"Received: x\r\n" * 200
        assert client.mail(body) == "250 2.0.0 Ok: queued"
