"""XCLIENT and XFORWARD on a real server: who may say them, and what becomes of a session."""

from __future__ import annotations

import queue
import socket
from pathlib import Path
from typing import Any

import pytest

from ehlo import Credentials, Message, PasswordCredentials, Peer, Reject, Reply, Session
from ehlo.server.limits import FailedLogins
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.hooks import Noted, handler_of
from support.logins import plain
from support.serving import DEADLINE, Box, Collector, Running, Serve

HERE = ["127.0.0.0/8"]
GREETING = "220 mx.example smtpd ESMTP Service ready"
NOT_YOU = "550 5.7.0 Not authorized"
CLIENT = "XCLIENT NAME=spike.example ADDR=192.0.2.7 PORT=4711 DESTADDR=192.0.2.1 DESTPORT=587"


class Facts(Collector):
    """What the session was when a message came."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[dict[str, Any]] = []
        self.connected: list[str] = []

    async def on_connect(self, session: Session) -> None:
        self.connected.append(str(session.peer))

    async def on_auth(self, session: Session, credentials: Credentials) -> str:
        assert isinstance(credentials, PasswordCredentials)
        return credentials.username

    async def on_message(self, session: Session, message: Message) -> None:
        await super().on_message(session, message)
        names = ("peer", "local", "rdns", "user", "helo", "esmtp", "tls", "forwarded", "xclient")
        self.facts.append({name: getattr(session, name) for name in names})


def speak_for(client: Client, line: str = CLIENT) -> None:
    assert client.say(line) == GREETING


def trusting(serve: Serve, handler: Any, **options: Any) -> Running:
    return serve(handler, xclient_networks=HERE, xforward_networks=HERE, **options)


def trusting_both(serve: Serve, handler: Any, **options: Any) -> Running:
    """The proxy, and the client behind it."""
    both = [*HERE, "192.0.2.0/24"]
    return serve(handler, xclient_networks=both, xforward_networks=both, **options)


# -- XCLIENT -------------------------------------------------------------------------------------


def test_a_session_is_that_of_the_client_behind(serve: Serve, loop_name: str) -> None:
    facts = Facts()
    running = trusting(serve, facts, loop=loop_name)
    with running.ready() as client:
        speak_for(client, f"{CLIENT} LOGIN=tim PROTO=ESMTP HELO=spike")
        assert client.say("HELO other.example") == "250 mx.example greets other.example"
        assert client.mail() == "250 2.0.0 Ok: queued"
    (seen,) = facts.facts
    assert seen["peer"] == Peer("192.0.2.7", 4711)
    assert seen["local"] == Peer("192.0.2.1", 587)
    assert (seen["rdns"], seen["user"]) == ("spike.example", "tim")
    assert (seen["helo"], seen["esmtp"]) == ("other.example", False)
    assert seen["xclient"]["HELO"] == "spike"
    assert facts.connected[0].startswith("127.0.0.1:")
    assert facts.connected[1:] == ["192.0.2.7:4711"]
    assert facts.messages[0].trace.startswith(
        b"Received: from other.example (spike.example [192.0.2.7])\r\n\tby mx.example "
    )


def test_received_shows_an_ipv6_client(serve: Serve) -> None:
    facts = Facts()
    with trusting(serve, facts).ready() as client:
        speak_for(client, "XCLIENT ADDR=IPV6:2001:DB8::1 NAME=[UNAVAILABLE]")
        client.say("EHLO c")
        client.mail()
    assert facts.messages[0].trace.startswith(b"Received: from c ([IPv6:2001:db8::1])\r\n")
    assert facts.facts[0]["peer"] == Peer("2001:db8::1", 0)


def test_what_a_proxy_does_not_know_is_what_we_see(serve: Serve) -> None:
    facts = Facts()
    with trusting_both(serve, facts).ready() as client:
        speak_for(client)
        speak_for(client, "XCLIENT ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL] DESTADDR=[UNAVAILABLE]")
        client.say("EHLO c")
        client.mail()
        port = client.sock.getsockname()[1]
    (seen,) = facts.facts
    # The port was said, and still stands
    assert seen["peer"] == Peer("127.0.0.1", 4711) != Peer("127.0.0.1", port)
    assert seen["local"] == Peer("127.0.0.1", 587)
    assert seen["rdns"] == ""
    assert (seen["xclient"]["ADDR"], seen["xclient"]["NAME"]) == (None, None)


def test_an_ipv4_address_that_is_mapped_is_shown_as_it_is(serve: Serve) -> None:
    facts = Facts()
    running = trusting(serve, facts)
    with running.ready() as client:
        speak_for(client, "XCLIENT ADDR=IPv6:::FFFF:192.0.2.7 DESTADDR=IPv6:::ffff:c000:208")
        client.say("EHLO c")
        client.mail()
    seen = facts.facts[0]
    assert (seen["peer"].host, seen["local"].host) == ("192.0.2.7", "192.0.2.8")


def test_the_name_of_a_proxy_is_not_that_of_its_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = Facts()
    monkeypatch.setattr(socket, "getnameinfo", lambda *_: ("proxy.example", "1"))
    running = trusting(serve, facts, reverse_dns=True)
    with running.ready() as client:
        running.wait_until(lambda: running.runtime.lookups.under_way == 0)
        speak_for(client, "XCLIENT ADDR=192.0.2.7")
        client.say("EHLO c")
        client.mail()
    assert facts.facts[0]["rdns"] == ""


def test_a_session_is_reset_but_keeps_its_id(serve: Serve) -> None:
    noted = Noted()
    ids: list[str] = []

    def keep(session: Session, *_: Any) -> None:
        ids.append(session.id)
        assert not hasattr(session.state, "mine")
        session.state.mine = True

    handler = handler_of("async def", noted, on_connect=keep, on_disconnect=None)
    running = trusting(serve, handler)
    with running.ready() as client:
        speak_for(client)
        assert client.say("MAIL FROM:<a@example.com>").startswith("503 ")
        client.say("EHLO c")
        client.mail()
    running.wait_until_no_sessions()
    assert noted.names == ["on_connect", "on_connect", "on_message", "on_disconnect"]
    assert len(ids) == 2
    assert len(set(ids)) == 1


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("code", [421, 554])
def test_the_client_behind_a_proxy_may_be_rejected(serve: Serve, kind: str, code: int) -> None:
    def only_the_proxy(session: Session) -> None:
        if session.peer.host == "192.0.2.7":
            raise Reject(code, f"{code // 100}.7.1", "Not this one")

    running = trusting(serve, handler_of(kind, on_connect=only_the_proxy))
    with running.ready() as client:
        assert client.say(CLIENT).endswith("Not this one")
        if code == 421:
            assert client.is_closed()
        else:
            assert client.say("EHLO c").startswith("503 ")
            assert client.say("XCLIENT ADDR=192.0.2.8").startswith("503 ")
            assert client.say("QUIT").startswith("221 ")


def test_a_greeting_of_ones_own_is_given_again(serve: Serve) -> None:
    def greet(session: Session) -> Reply:
        return Reply(220, None, f"Hello {session.peer.host}")

    with trusting(serve, handler_of("async def", on_connect=greet)).client() as client:
        assert client.reply() == "220 Hello 127.0.0.1"
        assert client.say(CLIENT) == "220 Hello 192.0.2.7"


def test_a_login_does_not_survive_and_may_be_given(serve: Serve) -> None:
    facts = Facts()
    running = trusting_both(serve, facts, auth_mechs={"PLAIN": True}, auth_required=True)
    with running.ready() as client:
        assert client.say(plain("tim", "x")).startswith("235 ")
        speak_for(client)
        client.say("EHLO c")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")
        assert client.say(plain("tom", "x")).startswith("235 ")
        speak_for(client, "XCLIENT LOGIN=j+C3+BCrgen")
        assert "AUTH" not in client.say("EHLO c")
        client.mail()
        speak_for(client, "XCLIENT LOGIN=[UNAVAILABLE]")
        assert "AUTH PLAIN" in client.say("EHLO c")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")
    assert [seen["user"] for seen in facts.facts] == ["jürgen"]
    assert b" with ESMTPA\r\n" in facts.messages[0].trace


def test_tls_stays(serve: Serve, certificates: Certificates) -> None:
    facts = Facts()
    running = trusting(serve, facts, tls_config=certificates.server(), tls_required=True)
    with running.ready() as client:
        assert client.say(CLIENT).startswith("530 5.7.0 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        speak_for(client)
        assert "STARTTLS" not in client.say("EHLO c")
        client.mail()
    assert facts.facts[0]["tls"].version.startswith("TLS")
    assert b" with ESMTPS\r\n" in facts.messages[0].trace


def test_starttls_forgets_what_was_sent_in_plaintext(
    serve: Serve, certificates: Certificates
) -> None:
    facts = Facts()
    running = trusting_both(serve, facts, tls_config=certificates.server())
    with running.ready() as client:
        speak_for(client, f"{CLIENT} LOGIN=tim HELO=spike PROTO=ESMTP")
        client.say("EHLO c")
        client.say("XFORWARD IDENT=before")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        client.mail()
        speak_for(client, "XCLIENT NAME=other.example")
        client.say("EHLO c")
        client.mail()
    before, after = facts.facts
    for seen in (before, after):
        assert seen["peer"].host == "127.0.0.1"
        assert seen["local"] == running.address
        assert (seen["user"], seen["forwarded"]) == (None, None)
    assert (before["rdns"], after["rdns"]) == ("", "other.example")
    assert (before["xclient"], after["xclient"]) == ({}, {"NAME": "other.example"})
    assert b"192.0.2" not in b"".join(message.trace for message in facts.messages)


def test_who_may_send_xclient_after_starttls_is_who_is_connected(
    serve: Serve, certificates: Certificates
) -> None:
    running = trusting(serve, Facts(), tls_config=certificates.server())
    with running.ready() as client:
        speak_for(client)
        client.say("EHLO c")
        assert client.say(CLIENT).startswith("550 5.7.0 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        speak_for(client)


def test_wrong_logins_are_those_of_the_client_behind(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str | None] = []

    def delay(_self: FailedLogins, key: str | None) -> float:
        keys.append(key)
        return 0.0

    monkeypatch.setattr(FailedLogins, "delay", delay)
    running = trusting(serve, handler_of("def", on_auth=False), auth_mechs={"PLAIN": True})
    for line in (CLIENT, "XCLIENT ADDR=IPV6:2001:db8::1", "XCLIENT ADDR=127.0.0.1"):
        with running.ready() as client:
            speak_for(client, line)
            client.say("EHLO c")
            assert client.say(plain("tim", "x")).startswith("535 ")
    assert keys == ["192.0.2.7", "2001:db8::", None]


def test_a_wrong_login_behind_a_proxy_waits_for_longer_each_time(
    serve: Serve, clock: StoppedClock, delays: queue.SimpleQueue[float]
) -> None:
    running = trusting(serve, handler_of("def", on_auth=False), auth_mechs={"PLAIN": True})
    with running.ready() as client:
        speak_for(client)
        client.say("EHLO c")
        for seconds in (1, 2):
            client.send(f"{plain('tim', 'x')}\r\n".encode())
            assert delays.get(timeout=DEADLINE) == seconds
            clock.advance(seconds - 0.1)
            assert client.has_heard_nothing()
            clock.advance(0.2)
            assert client.reply().startswith("535 ")


def test_a_unix_socket_may_be_trusted(serve: Serve, tmp_path: Path) -> None:
    facts = Facts()
    addr = f"unix:{tmp_path / 'smtp'}"
    running = serve(facts, addr=addr, xclient_networks=["unix:", "192.0.2.7"])
    with running.ready() as client:
        speak_for(client)
        client.say("EHLO c")
        client.mail()
        speak_for(client, "XCLIENT ADDR=[UNAVAILABLE]")
        client.say("EHLO c")
        client.mail()
    assert [str(seen["peer"]) for seen in facts.facts] == ["192.0.2.7:4711", addr]
    assert facts.messages[1].trace.startswith(b"Received: from c\r\n")


@pytest.mark.parametrize(
    "networks", [[], ["192.0.2.0/24"], ["::1"], ["unix:"], ["127.0.0.2", "128.0.0.0/1"]]
)
def test_strangers_may_say_neither(serve: Serve, networks: list[str]) -> None:
    facts = Facts()
    running = serve(facts, xclient_networks=networks, xforward_networks=networks)
    with running.ready() as client:
        assert "XCLIENT" not in client.say("EHLO c")
        assert client.say(CLIENT) == NOT_YOU
        assert client.say("XFORWARD NAME=a") == NOT_YOU
        assert "XFORWARD" not in client.say("HELP")
        client.mail()
    (seen,) = facts.facts
    assert seen["peer"].host == "127.0.0.1"
    assert (seen["xclient"], seen["forwarded"]) == ({}, None)


def test_each_has_a_list_of_its_own(serve: Serve) -> None:
    with serve(Box(), xforward_networks=HERE).ready() as client:
        said = client.say("EHLO c")
        assert "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE" in said
        assert "XCLIENT" not in said
        assert client.say(CLIENT) == NOT_YOU
        assert client.say("XFORWARD NAME=a") == "250 2.0.0 Ok"


def test_a_client_behind_a_proxy_must_be_trusted_to_speak_for_others(serve: Serve) -> None:
    """A proxy passes on what its client says, which may well be XCLIENT."""
    running = serve(Box(), xclient_networks=["192.0.2.0/24"])
    with running.ready() as client:
        assert client.say("XCLIENT ADDR=192.0.2.7") == NOT_YOU
    running = trusting(serve, Box())
    with running.ready() as client:
        speak_for(client, "XCLIENT HELO=proxied PROTO=ESMTP")
        speak_for(client, "XCLIENT ADDR=198.51.100.1")
        assert "XCLIENT" not in client.say("EHLO c")
        assert client.say("XCLIENT LOGIN=admin ADDR=127.0.0.1") == NOT_YOU
        assert client.say("XFORWARD NAME=a") == NOT_YOU


def test_the_login_of_one_client_is_not_that_of_the_next(serve: Serve) -> None:
    facts = Facts()
    running = trusting_both(serve, facts, auth_mechs={"PLAIN": True}, auth_required=True)
    with running.ready() as client:
        speak_for(client, f"{CLIENT} LOGIN=alice HELO=h PROTO=ESMTP")
        speak_for(client, "XCLIENT ADDR=198.51.100.66")
        client.say("EHLO c")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")


def test_xclient_in_lmtp(serve: Serve) -> None:
    facts = Facts()
    running = trusting(serve, facts, lmtp=True)
    with running.client() as client:
        client.reply()
        assert client.say(CLIENT) == "220 mx.example smtpd LMTP Service ready"
        client.send(b"LHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0 LAST\r\n")
        client.replies(4)
    assert facts.facts[0]["peer"] == Peer("192.0.2.7", 4711)


def test_a_network_that_is_none_is_a_value_error(serve: Serve) -> None:
    with pytest.raises(ValueError, match="xclient_networks: not a network"):
        serve(Box(), xclient_networks=["10.0.0.1/8"])


# -- XFORWARD ------------------------------------------------------------------------------------


def test_what_xforward_says_is_there_for_one_message(serve: Serve) -> None:
    facts = Facts()
    with trusting(serve, facts).ready() as client:
        client.say("XFORWARD NAME=spike.example ADDR=192.0.2.7 PORT=4711")
        client.say("XFORWARD PROTO=ESMTP HELO=spike IDENT=4Xyz SOURCE=REMOTE")
        client.mail()
        client.mail()
        client.say("XFORWARD SOURCE=LOCAL NAME=[UNAVAILABLE]")
        client.say("RSET")
        client.mail()
    first, second, third = facts.facts
    assert first["forwarded"] == {
        "NAME": "spike.example",
        "ADDR": "192.0.2.7",
        "PORT": "4711",
        "PROTO": "ESMTP",
        "HELO": "spike",
        "IDENT": "4Xyz",
        "SOURCE": "REMOTE",
    }
    assert (second["forwarded"], third["forwarded"]) == (None, None)
    assert first["peer"].host == "127.0.0.1"
    assert first["xclient"] == {}
    assert b"spike" not in facts.messages[0].trace
