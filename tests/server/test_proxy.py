"""A PROXY listener: which clients are accepted, when, and under which address."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehlo import Credentials, Peer, ProxyInfo, Server, Session
from ehlo.protocol.proxy import ProxySSL
from ehlo.server.gate import Gate
from ehlo.server.runtime import Ending
from ehlo.server.system.loops import loop_factory
from support import proxying
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.proxying import LOCAL, PROXY, TCP4, TCP6, UNIX, UNSPEC
from support.serving import DEADLINE, Box, Collector, Running, Serve

V1 = proxying.line("192.0.2.7", "198.51.100.1", 40001, 25)
V2 = proxying.block(PROXY, TCP4, proxying.ends("192.0.2.7", "198.51.100.1", 40001, 25))
LOCAL_V2 = proxying.block(LOCAL, UNSPEC, b"")
UNKNOWN = b"PROXY UNKNOWN\r\n"
GREETING = "220 mx.example smtpd ESMTP Service ready"
TOO_MANY = "421 4.7.0 Too many connections"

MESSAGE = (
    b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
    b"x\r\n.\r\nQUIT\r\n"
)


@pytest.fixture
def listen(serve: Serve) -> Serve:
    """`serve`, for proxies on this machine."""

    def start(handler: Any, **options: Any) -> Running:
        return serve(handler, **{"proxy_networks": ["127.0.0.0/8", "unix:"], **options})

    return start


def from_(address: str, port: int = 40001) -> bytes:
    """A header for a client at `address`."""
    return proxying.line(address, "::1" if ":" in address else "198.51.100.1", port, 25)


def through(running: Running, header: bytes) -> Client:
    """A client that has said its header."""
    client = running.client()
    client.send(header)
    return client


def said_before_it_closed(running: Running, octets: bytes) -> bytes:
    with running.client() as client:
        client.send(octets)
        return client.rest()


def hears_nothing(client: Client) -> bool:
    """Whether it hears nothing for a while, and is not closed either."""
    client.sock.settimeout(0.2)
    try:
        client.sock.recv(1)
    except TimeoutError:
        return True
    finally:
        client.sock.settimeout(DEADLINE)
    return False


def wait_for(running: Running, true: Callable[[], bool]) -> None:
    """Until the server has seen what has happened outside."""
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until
        running.run(running.turn)


def wait_for_proxies(running: Running, count: int) -> None:
    """Until so many are connected."""
    wait_for(running, lambda: running.sessions == count)


# -- the client that the header tells of ---------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "peer", "local", "received"),
    [
        (V1, Peer("192.0.2.7", 40001), Peer("198.51.100.1", 25), b"([192.0.2.7])"),
        (V2, Peer("192.0.2.7", 40001), Peer("198.51.100.1", 25), b"([192.0.2.7])"),
        (
            proxying.line("2001:db8::7", "2001:db8::1", 40001, 25),
            Peer("2001:db8::7", 40001),
            Peer("2001:db8::1", 25),
            b"([IPv6:2001:db8::7])",
        ),
        (
            proxying.block(PROXY, TCP6, proxying.ends("2001:db8::7", "2001:db8::1", 40001, 25)),
            Peer("2001:db8::7", 40001),
            Peer("2001:db8::1", 25),
            b"([IPv6:2001:db8::7])",
        ),
        (
            proxying.block(PROXY, UNIX, proxying.unix_ends(b"/run/client", b"/run/mail")),
            Peer("unix:/run/client", 0),
            Peer("unix:/run/mail", 0),
            b"Received: from client.example\r\n",
        ),
    ],
    ids=["v1", "v2", "v1-ipv6", "v2-ipv6", "v2-unix"],
)
def test_client_of_a_proxy_is_the_one_that_the_header_tells_of(
    listen: Serve, loop_name: str, header: bytes, peer: Peer, local: Peer, received: bytes
) -> None:
    collector = Collector()
    running = listen(collector, loop=loop_name)
    with through(running, header) as client:
        client.hello()
        assert client.mail() == "250 2.0.0 Ok: queued"
        own = Peer(*client.sock.getsockname())
    (session,) = collector.sessions
    assert session.peer == peer
    assert session.local == local
    assert session.proxy is not None
    assert session.proxy.peer == own
    assert session.proxy.command == "PROXY"
    assert received in collector.messages[0].trace


@pytest.mark.parametrize("header", [V1, V2])
def test_function_gets_the_true_client(listen: Serve, header: bytes, loop_name: str) -> None:
    box = Box()
    running = listen(box, loop=loop_name)
    with through(running, header + MESSAGE) as client:
        assert [reply[:3] for reply in client.replies(7)] == (
            ["220", "250", "250", "250", "354", "250", "221"]
        )
        assert client.is_closed()
    remote_addr, _, _, data = box.mails[0]
    assert remote_addr == Peer("192.0.2.7", 40001)
    assert data.startswith(b"Received: from client.example ([192.0.2.7])\r\n")


@pytest.mark.parametrize("header", [LOCAL_V2, UNKNOWN, proxying.block(PROXY, UNSPEC, b"")])
def test_header_without_addresses_keeps_the_real_ends(listen: Serve, header: bytes) -> None:
    collector = Collector()
    running = listen(collector)
    with through(running, header) as client:
        client.hello()
        client.mail()
        own = Peer(*client.sock.getsockname())
    (session,) = collector.sessions
    assert session.peer == own
    assert session.local == running.address
    assert session.proxy is not None
    assert session.proxy.peer == own
    assert session.proxy.command == ("LOCAL" if header == LOCAL_V2 else "PROXY")
    assert b"([127.0.0.1])" in collector.messages[0].trace


def test_what_the_proxy_tells_is_on_the_session(listen: Serve) -> None:
    collector = Collector()
    running = listen(collector)
    rest = proxying.ends("192.0.2.7", "198.51.100.1", 40001, 25)
    rest += proxying.tlv(0x02, b"mx.example") + proxying.tlv(0x05, b"\0id")
    rest += proxying.ssl_tlv(1, 0, version=b"TLSv1.3") + proxying.tlv(0x01, b"smtp")
    with through(running, proxying.with_crc(PROXY, TCP4, rest)) as client:
        client.hello()
        client.mail()
        own = Peer(*client.sock.getsockname())
    info = collector.sessions[0].proxy
    assert info is not None
    assert info == ProxyInfo(
        peer=own,
        version=2,
        command="PROXY",
        authority="mx.example",
        unique_id=b"\0id",
        ssl=ProxySSL(client=1, verified=False, version="TLSv1.3"),
        alpn=b"smtp",
        tlvs=info.tlvs,
    )
    assert info.tlvs[0x05] == b"\0id"


def test_without_a_proxy_there_is_none(serve: Serve) -> None:
    collector = Collector()
    with serve(collector).ready() as client:
        client.mail()
    assert collector.sessions[0].proxy is None


def test_tls_that_is_told_of_is_no_tls(listen: Serve, certificates: Certificates) -> None:
    class Wants(Collector):
        async def on_auth(self, session: Session, credentials: Credentials) -> str:
            return "anna"

    collector = Wants()
    told = proxying.ends("192.0.2.7", "198.51.100.1", 1, 25) + proxying.ssl_tlv(7, 0, cn=b"anna")
    running = listen(collector, tls_config=certificates.server())
    with through(running, proxying.block(PROXY, TCP4, told)) as client:
        offered = client.hello()
        assert "AUTH" not in offered
        assert "STARTTLS" in offered
        assert client.say("AUTH PLAIN AGFubmEAeA==").startswith("538 ")
        client.mail()
    assert collector.sessions[0].tls is None
    assert collector.sessions[0].user is None
    assert b"with ESMTP\r\n" in collector.messages[0].trace
    running = listen(collector, tls_config=certificates.server(), tls_required=True)
    with through(running, proxying.block(PROXY, TCP4, told)) as client:
        client.hello()
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 ")


def test_on_connect_comes_after_the_header(listen: Serve) -> None:
    class Notes(Collector):
        def __init__(self) -> None:
            super().__init__()
            self.connected: list[Peer] = []

        async def on_connect(self, session: Session) -> None:
            self.connected.append(session.peer)

    notes = Notes()
    running = listen(notes)
    with running.client() as client:
        client.send(V1[:10])
        assert hears_nothing(client)
        assert notes.connected == []
        client.send(V1[10:])
        assert client.reply() == GREETING
    assert notes.connected == [Peer("192.0.2.7", 40001)]


def test_log_and_callbacks_name_the_true_client(listen: Serve) -> None:
    seen: set[Peer] = set()
    running = listen(Box(), log_read=lambda peer, _verb, _line: seen.add(peer))
    with through(running, V1) as client:
        client.hello()
    assert seen == {Peer("192.0.2.7", 40001)}


def test_reverse_dns_asks_for_the_true_client(
    listen: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    answered = threading.Event()

    def getnameinfo(sockaddr: Any, _flags: int = 0) -> tuple[str, str]:
        asked.append(sockaddr)
        answered.set()
        return "client.example.net", "0"

    monkeypatch.setattr(socket, "getnameinfo", getnameinfo)
    box = Box()
    running = listen(box, reverse_dns=True)
    with through(running, V1) as client:
        client.reply()
        assert answered.wait(DEADLINE)
        running.wait_until(lambda: running.runtime.lookups.under_way == 0)
        client.say("EHLO client.example")
        client.mail()
    assert asked == [("192.0.2.7", 40001)]
    assert b"(client.example.net [192.0.2.7])" in box.mails[0][3]


# -- nothing is said before it -------------------------------------------------------------------


@pytest.mark.parametrize("header", [V1, V2])
def test_nothing_is_sent_before_the_header_is_complete(
    listen: Serve, loop_name: str, header: bytes
) -> None:
    running = listen(Box(), loop=loop_name)
    with running.client() as client:
        assert hears_nothing(client)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(header) - 1):
            client.send(header[index : index + 1])
        assert hears_nothing(client)
        client.send(header[-1:])
        assert client.reply() == GREETING


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO client.example\r\n",
        b"\r\nEHLO client.example\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.0\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\nEHLO c\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\nEHLO c\r\n",
        b"PROXY UNKNOWN" + bytes(200),
        proxying.block(PROXY, 0x12, proxying.ends("192.0.2.7", "198.51.100.1", 1, 25)),
        proxying.block(PROXY, TCP4, b"", length=65_535),
        proxying.block(PROXY, UNIX, proxying.unix_ends(b"/run/a\r\nb", b"")),
        V2[:12] + b"\x31" + V2[13:],
        proxying.block(PROXY, UNSPEC, proxying.tlv(0x03, bytes(4))),
    ],
)
def test_a_connection_without_a_header_is_closed_without_a_reply(
    listen: Serve, loop_name: str, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.connection")
    running = listen(Box(), loop=loop_name)
    assert said_before_it_closed(running, octets) == b""
    assert 'reason="no PROXY header"' in caplog.text
    assert "192.0.2" not in caplog.text


@pytest.mark.parametrize("networks", [["192.0.2.0/24"], ["unix:"], ["::1", "126.0.0.0/8"]])
def test_a_peer_that_is_not_listed_is_closed_without_a_reply(
    serve: Serve, loop_name: str, networks: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.connection")
    collector = Collector()
    running = serve(collector, proxy_networks=networks, loop=loop_name)
    with running.client() as client:
        assert client.is_closed()
    assert "it is not one of proxy_networks" in caplog.text
    assert collector.sessions == []


def test_header_comes_once_and_the_next_one_is_a_command(listen: Serve) -> None:
    with through(listen(Box()), V1 + V1) as client:
        assert client.reply() == GREETING
        assert client.reply().startswith("500 5.5.2")


def test_header_before_an_ordinary_listener_is_a_command(serve: Serve) -> None:
    with serve(Box()).client() as client:
        client.reply()
        assert client.say(V1.decode().strip()).startswith("500 5.5.2")


# -- in time -------------------------------------------------------------------------------------


def test_proxy_that_says_nothing_is_closed(
    listen: Serve, clock: StoppedClock, loop_name: str
) -> None:
    running = listen(Box(), proxy_timeout=4, loop=loop_name)
    with running.client() as client:
        wait_for_proxies(running, 1)
        clock.advance(3)
        assert running.sessions == 1
        clock.advance(2)
        assert client.is_closed()


def test_bytes_that_complete_no_header_do_not_move_the_deadline(
    listen: Serve, clock: StoppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.connection")
    running = listen(Box(), proxy_timeout=4)
    with running.client() as client:
        wait_for_proxies(running, 1)
        for octet in b"PRO":
            client.send(bytes([octet]))
            clock.advance(1)
        clock.advance(2)
        assert client.is_closed()
    assert 'reason="no PROXY header" why=late' in caplog.text


def test_once_in_the_client_has_its_own_time(listen: Serve, clock: StoppedClock) -> None:
    with through(listen(Box(), proxy_timeout=2), V1) as client:
        client.hello()
        clock.advance(100)
        assert client.say("NOOP") == "250 2.0.0 Ok"


# -- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [V1, V2])
def test_implicit_tls_begins_behind_the_header(
    listen: Serve, certificates: Certificates, loop_name: str, header: bytes
) -> None:
    collector = Collector()
    tls = certificates.server()
    running = listen(collector, tls_config=tls, tls_listener=True, loop=loop_name)
    with through(running, header) as client:
        client.wrap(certificates.client)
        client.hello()
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert collector.sessions[0].tls is not None
    assert collector.sessions[0].peer == Peer("192.0.2.7", 40001)
    assert b"with ESMTPS\r\n" in collector.messages[0].trace


@pytest.mark.parametrize("header", [V1, V2])
def test_handshake_may_begin_in_the_packet_of_the_header(
    listen: Serve, certificates: Certificates, loop_name: str, header: bytes
) -> None:
    tls = certificates.server()
    running = listen(Box(), tls_config=tls, tls_listener=True, loop=loop_name)
    with running.client() as client:
        assert first_words(client, certificates.client, header).decode().rstrip() == GREETING


def first_words(client: Client, context: ssl.SSLContext, before: bytes) -> bytes:
    """Return the first reply under TLS; `before` goes in plaintext with the first bytes of it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            return tls.read(1000)
        except ssl.SSLWantReadError:
            client.send(before + outgoing.read())
            before = b""
            incoming.write(client.sock.recv(65_536))


def test_handshake_without_a_header_is_closed(listen: Serve, certificates: Certificates) -> None:
    running = listen(Box(), tls_config=certificates.server(), tls_listener=True)
    with running.client() as client, pytest.raises((ssl.SSLEOFError, ConnectionError)):
        client.wrap(certificates.client)


def test_starttls_keeps_what_the_proxy_told(listen: Serve, certificates: Certificates) -> None:
    collector = Collector()
    with through(listen(collector, tls_config=certificates.server()), V2) as client:
        assert client.begin("STARTTLS")[0].startswith("220 ")
        client.wrap(certificates.client)
        client.say("EHLO client.example")
        client.mail()
    (session,) = collector.sessions
    assert session.peer == Peer("192.0.2.7", 40001)
    assert session.proxy is not None
    assert b"([192.0.2.7])" in collector.messages[0].trace


# -- limits --------------------------------------------------------------------------------------


def test_connections_are_counted_by_the_true_client(listen: Serve, loop_name: str) -> None:
    running = listen(Box(), max_connections_per_address=2, loop=loop_name)
    clients = [through(running, from_("192.0.2.7", port)) for port in (1, 2, 3)]
    clients.append(through(running, from_("192.0.2.8")))
    greetings = [client.reply() for client in clients]
    assert greetings == [GREETING, GREETING, TOO_MANY, GREETING]
    for client in clients:
        client.close()


@pytest.mark.parametrize("header", [LOCAL_V2, UNKNOWN])
def test_proxy_itself_is_not_counted_as_an_address(
    serve: Serve, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(
        Box(), max_connections_per_address=1, exempt_networks=(), proxy_networks=["127.0.0.1"]
    )
    clients = [through(running, header) for _ in range(3)]
    assert [client.reply() for client in clients] == [GREETING] * 3
    for client in clients:
        client.close()


def test_proxies_that_wait_count_as_connections(listen: Serve, loop_name: str) -> None:
    running = listen(Box(), max_connections=2, loop=loop_name)
    with running.client() as first, running.client() as second:
        wait_for_proxies(running, 2)
        with running.client() as third:
            assert third.is_closed()
        first.send(V1)
        assert first.reply() == GREETING  # its own place is the one that it takes
        second.close()
        wait_for_proxies(running, 1)
        with through(running, from_("192.0.2.8")) as fourth:
            assert fourth.reply() == GREETING


def test_wrong_logins_are_counted_by_the_true_client(
    listen: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses(Collector):
        async def on_auth(self, session: Session, credentials: Credentials) -> None:
            return None

    keys: list[str | None] = []

    def delay(_self: object, key: str | None) -> float:
        keys.append(key)
        return 0.0

    monkeypatch.setattr("ehlo.server.limits.FailedLogins.delay", delay)
    running = listen(Refuses(), auth_mechs={"PLAIN": True})
    for header in (from_("192.0.2.7"), from_("2001:db8:1:2:3::4"), UNKNOWN):
        with through(running, header) as client:
            client.hello()
            assert client.say("AUTH PLAIN AGEAYg==").startswith("535 ")
    assert keys == ["192.0.2.7", "2001:db8:1:2::", None]


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", V1[:20], V2[:14]])
@pytest.mark.parametrize("how", ["end", "close", "reset"])
def test_proxy_that_leaves_at_the_gate_leaves_nothing_behind(
    listen: Serve, loop_name: str, said: bytes, how: str
) -> None:
    collector = Collector()
    running = listen(collector, loop=loop_name)
    with running.client() as client:
        client.send(said)
        wait_for_proxies(running, 1)
        getattr(client, how)()
        running.wait_until_no_sessions()
    assert collector.sessions == []


@pytest.mark.parametrize("said", [b"", V1[:20]])
@pytest.mark.parametrize("grace", [0.0, DEADLINE])
def test_shutdown_does_not_wait_for_a_header(
    listen: Serve, clock: StoppedClock, loop_name: str, said: bytes, grace: float
) -> None:
    running = listen(Box(), proxy_timeout=DEADLINE, loop=loop_name)
    with running.client() as client:
        client.send(said)
        wait_for_proxies(running, 1)
        running.run(lambda: running.server.shutdown(grace))
        assert client.is_closed()


def test_close_cuts_the_gate_off(listen: Serve, loop_name: str) -> None:
    running = listen(Box(), proxy_timeout=DEADLINE, loop=loop_name)
    with running.client() as client:
        wait_for_proxies(running, 1)
        running.server.close()
        assert client.is_closed()


def test_a_proxy_that_connects_during_a_drain_gets_no_reply(listen: Serve) -> None:
    running = listen(Box())
    running.runtime.draining = True
    assert said_before_it_closed(running, V1) == b""
    running.runtime.draining = False


class Wire(asyncio.Transport):
    """A transport with such ends; what would be written is kept."""

    def __init__(self, **ends: object) -> None:
        super().__init__(ends)
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("peername", [("127.0.0.1", 40001), None])
def test_header_that_comes_too_late_is_not_read(
    listen: Serve, peername: tuple[str, int] | None
) -> None:
    """A client that left before it was accepted, and one that the end of a server has met."""
    running = listen(Box())
    run = running.server.running
    assert run is not None
    wire = Wire(sockname=("127.0.0.1", 25), peername=peername)

    async def work() -> None:
        gate = run._protocol(run.services[0])  # noqa: SLF001  as asyncio is given it
        assert isinstance(gate, Gate)
        gate.connection_made(wire)
        if peername is not None:
            gate.end(Ending.HANG_UP)
        gate.data_received(V1)
        gate.connection_lost(None)

    running.run(work)
    assert wire.aborted
    assert wire.written == b""


# -- Unix sockets, streams, options --------------------------------------------------------------


def test_proxy_may_come_over_a_unix_socket(listen: Serve, loop_name: str, tmp_path: Path) -> None:
    collector = Collector()
    running = listen(collector, addr=f"unix:{tmp_path / 'smtp'}", loop=loop_name)
    with through(running, V2) as client:
        client.hello()
        client.mail()
    (session,) = collector.sessions
    assert session.peer == Peer("192.0.2.7", 40001)
    assert session.proxy is not None
    assert session.proxy.peer == running.address
    with through(running, LOCAL_V2) as client:
        client.hello()
        client.mail()
    assert collector.sessions[1].peer == running.address


def test_unix_socket_must_be_listed_too(serve: Serve, tmp_path: Path) -> None:
    where = f"unix:{tmp_path / 'smtp'}"
    running = serve(Box(), addr=where, proxy_networks=["0.0.0.0/0", "::/0"])
    with running.client() as client:
        assert client.is_closed()


def test_streams_come_without_a_header(loop_name: str) -> None:
    async def work() -> bytes:
        server = Server(Box(), hostname="mx.example", proxy_networks=["192.0.2.0/24"])
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(
            server.serve_streams(*await asyncio.open_connection(sock=ours))
        )
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(b"QUIT\r\n")
        heard = await reader.read()
        writer.close()
        await serving
        return heard

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        assert runner.run(work()).startswith(GREETING.encode())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"proxy_networks": ["127.0.0.1", "10.0.0.1/8"]}, "proxy_networks: not a network: '10.0"),
        ({"proxy_networks": ["localhost"]}, "proxy_networks: not a network: 'localhost'"),
        ({"proxy_timeout": 0}, "proxy_timeout is 0; it must be more than 0"),
    ],
)
def test_wrong_options_are_refused_at_the_start(options: dict[str, Any], said: str) -> None:
    server = Server(Box(), addr="127.0.0.1:0", **options)
    with pytest.raises(ValueError, match=re.escape(said)), server.in_thread():
        pass
