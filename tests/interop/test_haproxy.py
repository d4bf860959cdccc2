"""A real HAProxy in front: the handler sees the clients that it names."""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

import ehlo

from .haproxy import Check, HAProxy, haproxy
from .post import ADDRESS, PATIENCE, Certificates, Office, Post

Serve = Callable[..., Office]

CLIENT = "127.0.0.2"  # another address of this machine than the one that HAProxy comes from
PROXIES = [ADDRESS]
MAIL = b"Subject: Through a proxy\r\n\r\nHello.\r\n"
CHECKS = 3  # health checks in a row that must be good
VERSIONS = [("send-proxy", 1), ("send-proxy-v2", 2)]


class Noted(Post):
    """Keeps the sessions, too, those of health checks included."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[ehlo.Session] = []
        self.checks: list[ehlo.Session] = []
        self.checked = threading.Semaphore(0)

    def on_hello(self, session: ehlo.Session, name: str) -> None:
        if name == "haproxy.example.com":
            self.checks.append(session)
            self.checked.release()

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> str:
        self.mails.append(session)
        return super().on_message(session, message)

    def wait_for_checks(self) -> None:
        """Wait until the next health checks have come."""
        for _ in range(CHECKS):
            assert self.checked.acquire(timeout=PATIENCE), "no health check"


@pytest.fixture
def post(caplog: pytest.LogCaptureFixture) -> Iterator[Noted]:
    """Return the handler, and check that the log has no warning."""
    yield Noted()
    for record in (*caplog.get_records("setup"), *caplog.get_records("call")):
        assert record.levelno < logging.WARNING, record.getMessage()


def send(proxy: HAProxy, source: str = CLIENT, tls: ssl.SSLContext | None = None) -> ehlo.Peer:
    """Send a message through the proxy; return the client's address."""
    with connected(proxy, source, tls) as smtp:
        assert smtp.sock is not None
        own = ehlo.Peer(*smtp.sock.getsockname()[:2])
        assert smtp.sendmail("anna@example.com", ["bert@example.org"], MAIL) == {}
    return own


def connected(proxy: HAProxy, source: str, tls: ssl.SSLContext | None) -> smtplib.SMTP:
    if tls is None:
        return smtplib.SMTP(
            proxy.host, proxy.port, "client.example.com", 60, source_address=(source, 0)
        )
    return smtplib.SMTP_SSL(
        "localhost",
        proxy.port,
        "client.example.com",
        timeout=60,
        source_address=(source, 0),
        context=tls,
    )


@pytest.mark.parametrize(("option", "version"), VERSIONS)
def test_remote_addr_and_received_have_the_real_client(
    serve: Serve, post: Noted, option: str, version: int
) -> None:
    office = serve(post=post, proxy_networks=PROXIES)
    with haproxy(office, option) as proxy:
        client = send(proxy)
        assert office.post.wait_for(1), proxy.log()
    (message,) = office.received
    (session,) = post.mails
    assert session.peer == client
    assert client.host == CLIENT
    assert session.local == ehlo.Peer(ADDRESS, proxy.port)
    assert session.proxy is not None
    assert session.proxy.peer.host == ADDRESS
    assert (session.proxy.version, session.proxy.command) == (version, "PROXY")
    assert message.trace.startswith(b"Received: from client.example.com ([127.0.0.2])\r\n")
    assert message.body == MAIL


@pytest.mark.parametrize(("option", "version"), VERSIONS)
def test_the_real_client_can_use_ipv6(serve: Serve, post: Noted, option: str, version: int) -> None:
    office = serve(post=post, proxy_networks=PROXIES)
    with haproxy(office, option, host="::1") as proxy:
        client = send(proxy, "::1")
        assert office.post.wait_for(1), proxy.log()
    (session,) = post.mails
    assert session.peer == client
    assert session.local == ehlo.Peer("::1", proxy.port)
    assert session.proxy is not None
    assert session.proxy.version == version
    assert b" ([IPv6:::1])\r\n" in office.received[0].trace


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_an_ipv4_client_at_an_ipv6_listener_has_its_ipv4_address(
    serve: Serve, post: Noted, option: str
) -> None:
    """Both ends must be of one family in the header: HAProxy maps the client's address."""
    office = serve(post=post, proxy_networks=PROXIES)
    with haproxy(
        office, option, host="::1", front=["tcp-request connection set-src str(192.0.2.7)"]
    ) as proxy:
        client = send(proxy, "::1")
        assert office.post.wait_for(1), proxy.log()
    (session,) = post.mails
    assert session.peer == ehlo.Peer("192.0.2.7", client.port)
    assert session.local == ehlo.Peer("::1", proxy.port)
    assert b" ([192.0.2.7])\r\n" in office.received[0].trace


def test_the_session_has_all_facts_of_a_version_2_header(
    serve: Serve, post: Noted, certificates: Certificates, tmp_path: Path
) -> None:
    """Terminate TLS at HAProxy, which asks the client for a certificate."""
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.certificate.read_bytes() + certificates.key.read_bytes())
    tls, trusted = context_with_certificate(certificates, tmp_path)
    office = serve(post=post, proxy_networks=PROXIES, auth_mechs={"CRAM-MD5": False})
    options = "crc32c,unique-id,authority,ssl,cert-cn,ssl-cipher,cert-sig,cert-key"
    with haproxy(
        office,
        f"send-proxy-v2 proxy-v2-options {options}",
        bind=f"ssl crt {both} ca-file {trusted} verify optional",
    ) as proxy:
        client = send(proxy, tls=tls)
        assert office.post.wait_for(1), proxy.log()
        assert proxy.wait_for_check() == Check("UP", "L7OK"), proxy.log()
    (session,) = post.mails
    assert session.peer == client
    told = session.proxy
    assert told is not None
    assert told.authority == "localhost"
    assert told.unique_id == f"id-{client.host}-{client.port}".encode()
    assert 0x03 in told.tlvs, "the checksum, which was right"
    assert told.ssl is not None
    assert told.ssl.client == 0b111
    assert told.ssl.verified
    assert told.ssl.cn == "Dörte"
    assert told.ssl.version == "TLSv1.3"
    assert told.ssl.cipher.startswith("TLS_")
    assert told.ssl.key_alg
    assert told.ssl.sig_alg
    assert session.tls is None
    assert b"with ESMTP\r\n" in office.received[0].trace
    assert "PLAIN" not in office.transcript  # TLS that ends at the proxy is not TLS with ehlo


def context_with_certificate(
    certificates: Certificates, folder: Path
) -> tuple[ssl.SSLContext, Path]:
    """Return a context for a client with a certificate of its own, and its authority."""
    authority = trustme.CA()
    pair = authority.issue_cert("doerte@example.com", common_name="Dörte")
    context = certificates.client_context()
    with pair.private_key_and_cert_chain_pem.tempfile(str(folder)) as path:
        context.load_cert_chain(path)
    trusted = folder / "clients.pem"
    authority.cert_pem.write_to_path(str(trusted))
    return context, trusted


@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("send-proxy", "PROXY"),  # it names itself as the client
        ("send-proxy-v2", "LOCAL"),
        ("send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl", "LOCAL"),
    ],
)
def test_health_checks_report_the_server_as_up(
    serve: Serve, post: Noted, option: str, command: str
) -> None:
    office = serve(post=post, proxy_networks=PROXIES)
    with haproxy(office, option) as proxy:
        post.wait_for_checks()
        assert proxy.wait_for_check() == Check("UP", "L7OK"), proxy.log()
        post.wait_for_checks()
        assert proxy.wait_for_check() == Check("UP", "L7OK"), proxy.log()
        send(proxy)
        assert office.post.wait_for(1), proxy.log()
        assert "DOWN" not in proxy.log()
    for session in post.checks:
        assert session.peer.host == ADDRESS
        assert session.proxy is not None
        assert session.proxy.command == command
        assert session.proxy.peer == session.peer
    assert post.mails[0].peer.host == CLIENT


@pytest.mark.parametrize(("option", "version"), VERSIONS)
def test_the_header_precedes_implicit_tls(
    serve: Serve, post: Noted, certificates: Certificates, option: str, version: int
) -> None:
    """Configure HAProxy without TLS, except in its health checks."""
    office = serve("tls", post=post, proxy_networks=PROXIES)
    with haproxy(office, f"{option} check-ssl verify none") as proxy:
        client = send(proxy, tls=certificates.client_context())
        assert office.post.wait_for(1), proxy.log()
        post.wait_for_checks()
        assert proxy.wait_for_check() == Check("UP", "L7OK"), proxy.log()
    (session,) = post.mails
    assert session.peer == client
    assert session.tls is not None
    assert session.tls.sni == "localhost"
    assert session.proxy is not None
    assert session.proxy.version == version
    assert b" ([127.0.0.2])\r\n" in office.received[0].trace
    assert b"with ESMTPS\r\n" in office.received[0].trace


def test_an_untrusted_proxy_is_rejected(serve: Serve, post: Noted) -> None:
    office = serve(post=post, proxy_networks=[CLIENT])
    with haproxy(office, "send-proxy-v2") as proxy:
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            send(proxy)
        assert proxy.wait_for_check().last != "L7OK"
    assert post.checks == []
    assert office.transcript == ""
