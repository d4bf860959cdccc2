"""XCLIENT by swaks, and XFORWARD by a real Postfix."""

from __future__ import annotations

import smtplib
from collections.abc import Callable

import pytest

from .clients import Client, Swaks, Task
from .post import Office
from .postfix import HOST, postfix

Serve = Callable[..., Office]

PATIENCE = 60.0
HERE = ["127.0.0.0/8"]
MAIL = b"From: sender@example.com\r\nSubject: For another\r\n\r\nHello\r\n"


@pytest.fixture
def swaks(clients: dict[str, Client]) -> Swaks:
    client = clients["swaks"]
    assert isinstance(client, Swaks)
    return client


@pytest.mark.parametrize("security", ["plain", "starttls"])
def test_swaks_names_another_client_by_xclient(swaks: Swaks, serve: Serve, security: str) -> None:
    office = serve(security, xclient_networks=HERE)
    outcome = swaks.send_with(
        Task(office, MAIL),
        *("--xclient-destaddr", "192.0.2.1", "--xclient-destport", "25", "--xclient-delim"),
        # The address last: after it XCLIENT depends on the client that it names
        *("--xclient-addr", "192.0.2.7", "--xclient-name", "spike.example"),
        *("--xclient-port", "4711", "--xclient-helo", "spike.helo"),
        *("--xclient-proto", "ESMTP", "--xclient-login", "dötty tim"),
    )
    assert outcome.sent, outcome.said
    (message,) = office.received
    assert str(message.peer) == "192.0.2.7:4711"
    assert message.trace.startswith(
        b"Received: from client.example.com (spike.example [192.0.2.7])\r\n\tby mx.example.com "
    )
    assert message.xclient["DESTADDR"] == "192.0.2.1"
    assert "LOGIN=dötty+20tim" in office.transcript
    # swaks sends XCLIENT under TLS, so that it is not discarded
    assert message.user == "dötty tim"
    assert bool(message.tls) == (security == "starttls")


def test_swaks_names_an_ipv6_client_by_xclient(swaks: Swaks, serve: Serve) -> None:
    office = serve("plain", xclient_networks=HERE)
    outcome = swaks.send_with(
        Task(office, MAIL), "--xclient-addr", "IPV6:2001:db8::1", "--xclient-name", "[UNAVAILABLE]"
    )
    assert outcome.sent, outcome.said
    assert office.received[0].trace.startswith(
        b"Received: from client.example.com ([IPv6:2001:db8::1])\r\n"
    )


def test_an_untrusted_swaks_may_not_use_xclient(swaks: Swaks, serve: Serve) -> None:
    office = serve("plain", xclient_networks=["192.0.2.0/24"])
    outcome = swaks.send_with(Task(office, MAIL), "--xclient-addr", "192.0.2.7")
    assert not outcome.sent
    assert "did not advertise XCLIENT" in outcome.said
    assert office.received == []


def test_postfix_forwards_the_client_it_got_the_mail_from(serve: Serve) -> None:
    office = serve("starttls", xforward_networks=HERE)
    with postfix(office, main="smtp_send_xforward_command = yes\n") as sender:
        with smtplib.SMTP(HOST, sender.port, "upstream.example.net", timeout=60) as smtp:
            smtp.sendmail("sender@example.com", ["anna@example.org"], MAIL)
            assert smtp.sock is not None
            port = smtp.sock.getsockname()[1]
        assert office.post.wait_for(1, PATIENCE), sender.log()
        sender.submit("sender@example.com", ["bert@example.org"], MAIL)
        assert office.post.wait_for(2, PATIENCE), sender.log()
        by_network, by_hand = office.received
        forwarded = by_network.forwarded
        assert forwarded is not None, sender.log()
        sender.wait_for_log(f" {forwarded['IDENT']}: ")
    assert (forwarded["ADDR"], forwarded["PORT"]) == ("127.0.0.1", str(port))
    assert (forwarded["HELO"], forwarded["PROTO"]) == ("upstream.example.net", "ESMTP")
    assert forwarded["SOURCE"] in ("LOCAL", "REMOTE")
    assert by_hand.forwarded is not None
    assert by_hand.forwarded["SOURCE"] == "LOCAL"
    for message in office.received:
        assert message.peer.host == "127.0.0.1"
        assert message.trace.startswith(b"Received: from relay.example.com ([127.0.0.1])\r\n")


def test_postfix_does_not_forward_attributes_to_a_server_that_does_not_trust_it(
    serve: Serve,
) -> None:
    office = serve("starttls")
    with postfix(office, main="smtp_send_xforward_command = yes\n") as sender:
        sender.submit("sender@example.com", ["bert@example.org"], MAIL)
        assert office.post.wait_for(1, PATIENCE), sender.log()
    assert office.received[0].forwarded is None
    assert "XFORWARD" not in office.transcript
