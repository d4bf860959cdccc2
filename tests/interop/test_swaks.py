"""HELO, pipelining and Unix sockets by swaks, and logins with functions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ehlo

from .clients import Client, Swaks, Task
from .post import ASCII_USER, PASSWORD, REFUSED, Office, Post

Serve = Callable[..., Office]

MAIL = b"Subject: From swaks\r\n\r\n.dots\r\n..\r\nGr\xc3\xbc\xc3\x9fe\r\n"


@pytest.fixture
def swaks(clients: dict[str, Client]) -> Swaks:
    client = clients["swaks"]
    assert isinstance(client, Swaks)
    return client


def test_a_client_that_knows_only_helo_is_served(swaks: Swaks, serve: Serve) -> None:
    office = serve("plain")
    outcome = swaks.send_with(Task(office, MAIL), "--protocol", "SMTP")
    assert outcome.sent, outcome.said
    assert [message.body for message in office.received] == [MAIL]
    assert b" with SMTP\r\n" in office.received[0].trace
    assert "C: HELO client.example.com" in office.transcript


def test_pipelined_commands_are_answered_in_order(swaks: Swaks, serve: Serve) -> None:
    office = serve("starttls")
    recipients = ("anna@example.com", REFUSED, "bert@example.com")
    outcome = swaks.send_with(Task(office, MAIL, recipients=recipients), "--pipeline")
    assert outcome.sent, outcome.said
    assert "550 5.1.1 No such user here" in outcome.said
    (message,) = office.received
    assert message.body == MAIL
    assert message.recipients == ["anna@example.com", "bert@example.com"]


def test_a_unix_socket_serves_a_client(swaks: Swaks) -> None:
    post = Post()
    with tempfile.TemporaryDirectory(prefix="ehlo-") as folder:  # a short path, as sockets want
        path = Path(folder) / "smtp"
        server = ehlo.Server(post, addr=f"unix:{path}")
        with server.in_thread():
            office = Office(0, "plain", Path(), post, host=str(path))
            outcome = swaks.send(Task(office, MAIL))
        assert not path.exists()
    assert outcome.sent, outcome.said
    assert [message.body for message in post.received] == [MAIL]
    assert post.received[0].trace.startswith(b"Received: from client.example.com\r\n\tby ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("password", [PASSWORD, "not this one"])
def test_functions_decide_on_logins_and_recipients(
    swaks: Swaks, mechanism: str, password: str
) -> None:
    mails: list[tuple[str, list[str], bytes]] = []

    def handler(_peer: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
        mails.append((mail_from, rcpt_tos, data))

    def check(
        _peer: ehlo.Peer, mechanism: str, username: bytes, password: bytes, shared: bytes
    ) -> bool:
        if username != ASCII_USER.encode():
            return False
        if mechanism == "CRAM-MD5":
            return ehlo.cram_md5_matches(PASSWORD, shared, password)
        return password == PASSWORD.encode()

    server = ehlo.Server(
        handler,
        addr="127.0.0.1:0",
        rcpt_handler=lambda _peer, _mail_from, rcpt_to: rcpt_to.endswith("@example.com"),
        auth_handler=check,
        auth_mechs={"PLAIN": True, "LOGIN": True},
        auth_required=True,
    )
    with server.in_thread():
        office = Office(server.addresses[0].port, "plain", Path(), Post())
        recipients = ("anna@example.com", "bert@example.org")
        task = Task(office, MAIL, "", recipients, mechanism, ASCII_USER, password)
        outcome = swaks.send(task)
    if password == PASSWORD:
        assert outcome.sent, outcome.said
        ((mail_from, rcpt_tos, data),) = mails
        assert (mail_from, rcpt_tos) == ("", ["anna@example.com"])
        assert data.startswith(b"Received: from client.example.com ([127.0.0.1])\r\n")
        assert data.endswith(b"\r\n" + MAIL)
        assert "550 5.1.1 Requested action not taken: mailbox unavailable" in outcome.said
    else:
        assert "535 5.7.8" in outcome.said
        assert mails == []
