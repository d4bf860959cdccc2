"""Logins beyond passwords: tokens, and client certificates."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from .clients import Client, Task
from .peers import peer
from .post import ASCII_USER, PASSWORD, TOKEN, Office
from .test_openssl import s_client

Serve = Callable[..., Office]

# A message with the fields that a client would otherwise add
MAIL = (
    b"From: sender@example.com\r\nTo: anna@example.com\r\nSubject: By token\r\n"
    b"Date: Fri, 03 Jan 2025 10:11:12 +0100\r\nMessage-ID: <1@client.example.com>\r\n\r\nHello.\r\n"
)
TOKENS = [
    ("nodemailer", "XOAUTH2"),
    ("curl", "XOAUTH2"),
    ("curl", "OAUTHBEARER"),
    ("msmtp", "XOAUTH2"),
    ("msmtp", "OAUTHBEARER"),
]


@pytest.mark.parametrize(("name", "mechanism"), TOKENS)
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_token_logs_in(
    clients: dict[str, Client], serve: Serve, name: str, mechanism: str, security: str
) -> None:
    office = serve(security, auth_required=True, auth_mechs={mechanism: True})
    task = Task(office, MAIL, mechanism=mechanism, user=ASCII_USER, password=TOKEN)
    outcome = clients[name].send(task)
    assert outcome.sent, outcome.said
    (message,) = office.received
    assert message.user == ASCII_USER
    assert message.body == MAIL
    assert f"C: AUTH {mechanism}" in office.transcript
    assert TOKEN not in office.transcript


@pytest.mark.parametrize(("name", "mechanism"), TOKENS)
def test_the_client_reports_a_wrong_token_and_nothing_arrives(
    clients: dict[str, Client], serve: Serve, name: str, mechanism: str
) -> None:
    """Each client except curl answers the JSON error with a line, and reads the rejection."""
    office = serve("starttls", auth_required=True, auth_mechs={mechanism: True})
    task = Task(office, MAIL, mechanism=mechanism, user=ASCII_USER, password="expired")
    outcome = clients[name].send(task)
    assert not outcome.sent
    assert office.post.wait_for(0)
    assert office.received == []
    lines = office.post.transcript
    error = lines.index("S: 334 ****")
    if (name, mechanism) == ("curl", "XOAUTH2"):
        assert lines[error + 1 :] == []  # curl closes after the error
    else:
        assert lines[error + 1] == "C: ****"
        assert lines[error + 2] == "S: 535 5.7.8 Authentication credentials invalid"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("authzid", ["=", base64.b64encode(ASCII_USER.encode()).decode()])
def test_openssl_logs_in_with_a_certificate(serve: Serve, version: str, authzid: str) -> None:
    office = serve("starttls", auth_required=True, auth_mechs={"EXTERNAL": True})
    pem = str(office.client_certificate)
    with s_client(peer("openssl"), office, version, "-cert", pem, "-key", pem) as terminal:
        offered = terminal.say("EHLO hand.example.com", 250)
        assert any(" EXTERNAL " in line for line in offered)
        other = base64.b64encode(b"anna@example.com").decode()
        terminal.say(f"AUTH EXTERNAL {other}", 535)
        terminal.say(f"AUTH EXTERNAL {authzid}", 235)
        terminal.say("MAIL FROM:<anna@example.com>", 250)
        terminal.say("RCPT TO:<bert@example.org>", 250)
        terminal.say("DATA", 354)
        terminal.type(MAIL + b".\r\n")
        terminal.read(250)
        terminal.say("QUIT", 221)
    assert [message.user for message in office.received] == [ASCII_USER]


def test_openssl_without_a_certificate_is_not_offered_external(serve: Serve) -> None:
    office = serve("starttls", auth_mechs={"EXTERNAL": True})
    with s_client(peer("openssl"), office) as terminal:
        offered = terminal.say("EHLO hand.example.com", 250)
        assert not any("EXTERNAL" in line for line in offered)
        terminal.say("AUTH EXTERNAL =", 504)
        terminal.say("QUIT", 221)


def test_msmtp_logs_in_with_a_certificate(clients: dict[str, Client], serve: Serve) -> None:
    office = serve("starttls", auth_required=True, auth_mechs={"EXTERNAL": True})
    task = Task(office, MAIL, mechanism="EXTERNAL", user=ASCII_USER, password=PASSWORD)
    outcome = clients["msmtp"].send(task)
    assert outcome.sent, outcome.said
    assert [message.user for message in office.received] == [ASCII_USER]
