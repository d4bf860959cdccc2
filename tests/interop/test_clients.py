"""Each client in each way it supports: the handler gets what the client sends."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest

from .clients import CLASSES, Client, Outcome, Task
from .post import (
    ASCII_USER,
    PASSWORD,
    REFUSED,
    REFUSED_MARK,
    SECURITIES,
    USER,
    Office,
    Received,
    Security,
)

Serve = Callable[..., Office]

NAMES = [each.name for each in CLASSES]
LOGINS = [(each.name, mechanism) for each in CLASSES for mechanism in each.mechanisms]
WITH_SMTPUTF8 = [each.name for each in CLASSES if each.speaks_smtputf8]

# Fields that a client would otherwise add, and a body that a transport could damage
MAIL = "\r\n".join(
    [
        "From: Sender <sender@example.com>",
        "To: Anna <anna@example.com>",
        "Subject: From a real client",
        "Date: Fri, 03 Jan 2025 10:11:12 +0100",
        "Message-ID: <1@client.example.com>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        "Grüße aus Köln — ¿qué tal?",
        ".",
        "..",
        ".a line with a dot before it",
        "QUIT",
        "",
        "x" * 990,
        "\ttabs and trailing blanks \t ",
        "",
        "the end",
        "",
    ]
).encode()

# RFC 3848 and RFC 6531; some clients ask for SMTPUTF8 whether they need it or not
TRANSPORTS = {
    "plain": ("ESMTP", "UTF8SMTP"),
    "starttls": ("ESMTPS", "UTF8SMTPS"),
    "tls": ("ESMTPS", "UTF8SMTPS"),
}

REFUSED_MAIL = MAIL.replace(b"MIME-Version", REFUSED_MARK + b"\r\nMIME-Version", 1)


def arrived(office: Office, outcome: Outcome) -> None:
    """Check that one message arrived byte for byte, and that the client reports success."""
    assert outcome.sent, outcome.said
    assert [message.body for message in office.received] == [MAIL], outcome.said


def transport_of(message: Received) -> str:
    """Return the protocol in `Received`."""
    found = re.search(rb" with (\w+)\r\n", message.trace)
    assert found is not None, message.trace
    return found[1].decode()


@pytest.mark.parametrize("security", SECURITIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_message_arrives_byte_for_byte(
    clients: dict[str, Client], serve: Serve, name: str, security: Security
) -> None:
    office = serve(security)
    outcome = clients[name].send(Task(office, MAIL))
    arrived(office, outcome)
    (message,) = office.received
    assert message.sender == "sender@example.com"
    assert message.recipients == ["anna@example.com"]
    assert message.data == message.trace + message.body
    assert message.trace.startswith(b"Received: from ")
    assert message.email["subject"] == "From a real client"
    assert message.tls.startswith("TLS") is (security != "plain")
    assert transport_of(message) in TRANSPORTS[security]


@pytest.mark.parametrize(("name", "mechanism"), LOGINS)
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_the_handler_sees_the_user_of_a_login_under_tls(
    clients: dict[str, Client], serve: Serve, name: str, mechanism: str, security: Security
) -> None:
    office = serve(security, auth_required=True, tls_required=True)
    outcome = clients[name].send(Task(office, MAIL, mechanism=mechanism, user=ASCII_USER))
    arrived(office, outcome)
    (message,) = office.received
    assert message.user == ASCII_USER
    assert transport_of(message) in ("ESMTPSA", "UTF8SMTPSA")
    assert f"C: AUTH {mechanism}" in office.transcript
    assert_no_secret(office.transcript)


@pytest.mark.parametrize(("name", "mechanism"), LOGINS)
def test_a_login_in_clear_text_works_if_enabled(
    clients: dict[str, Client], serve: Serve, name: str, mechanism: str
) -> None:
    office = serve("plain", auth_required=True, auth_mechs={mechanism: True})
    outcome = clients[name].send(Task(office, MAIL, mechanism=mechanism, user=ASCII_USER))
    arrived(office, outcome)
    assert office.received[0].user == ASCII_USER
    assert transport_of(office.received[0]) in ("ESMTPA", "UTF8SMTPA")
    assert_no_secret(office.transcript)


@pytest.mark.parametrize("name", NAMES)
def test_the_client_reports_a_wrong_password_and_nothing_arrives(
    clients: dict[str, Client], serve: Serve, name: str
) -> None:
    office = serve("starttls", auth_required=True)
    task = Task(office, MAIL, mechanism="PLAIN", user=ASCII_USER, password="not this one")
    outcome = clients[name].send(task)
    assert not outcome.sent
    assert "535" in outcome.said, outcome.said
    assert office.received == []


@pytest.mark.parametrize("name", NAMES)
def test_the_client_reports_a_rejected_recipient_and_nothing_arrives(
    clients: dict[str, Client], serve: Serve, name: str
) -> None:
    office = serve("plain")
    outcome = clients[name].send(Task(office, MAIL, recipients=(REFUSED,)))
    assert not outcome.sent
    assert "No such user here" in outcome.said, outcome.said
    assert office.received == []


@pytest.mark.parametrize("name", NAMES)
def test_the_client_reports_a_rejected_message(
    clients: dict[str, Client], serve: Serve, name: str
) -> None:
    office = serve("plain")
    outcome = clients[name].send(Task(office, REFUSED_MAIL))
    assert not outcome.sent
    assert "Not this one, thank you" in outcome.said, outcome.said
    assert office.received == []


@pytest.mark.parametrize("name", NAMES)
def test_the_null_sender_is_an_empty_string(
    clients: dict[str, Client], serve: Serve, name: str
) -> None:
    office = serve("plain")
    outcome = clients[name].send(Task(office, MAIL, sender=""))
    arrived(office, outcome)
    assert office.received[0].sender == ""


@pytest.mark.parametrize("name", NAMES)
def test_recipients_arrive_in_their_order(
    clients: dict[str, Client], serve: Serve, name: str
) -> None:
    office = serve("starttls")
    recipients = tuple(f"{who}@example.com" for who in ("carla", "anna", "bert"))
    outcome = clients[name].send(Task(office, MAIL, recipients=recipients))
    arrived(office, outcome)
    assert office.received[0].recipients == list(recipients)
    assert b"anna" not in office.received[0].trace


@pytest.mark.parametrize("name", WITH_SMTPUTF8)
def test_addresses_in_utf8_arrive(clients: dict[str, Client], serve: Serve, name: str) -> None:
    office = serve("plain")
    task = Task(office, MAIL, sender="jürgen@example.com", recipients=("用户@example.com",))
    outcome = clients[name].send(task)
    arrived(office, outcome)
    assert office.received[0].sender == "jürgen@example.com"
    assert office.received[0].recipients == ["用户@example.com"]
    assert transport_of(office.received[0]) == "UTF8SMTP"


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
@pytest.mark.parametrize("name", ["nodemailer", "ruby", "go"])
def test_a_utf8_user_name_logs_in(
    clients: dict[str, Client], serve: Serve, name: str, mechanism: str
) -> None:
    office = serve("starttls", auth_required=True)
    outcome = clients[name].send(Task(office, MAIL, mechanism=mechanism, user=USER))
    arrived(office, outcome)
    assert office.received[0].user == USER


def test_the_star_that_go_sends_after_a_failed_login_is_no_error(
    clients: dict[str, Client], serve: Serve
) -> None:
    office = serve("starttls", auth_required=True)
    task = Task(office, MAIL, mechanism="PLAIN", user=ASCII_USER, password="not this one")
    assert not clients["go"].send(task).sent
    lines = office.post.transcript
    star = lines.index("C: *")
    assert lines[star + 1].startswith("S: 500 5.5.2")
    assert lines[star + 2] == "C: QUIT"
    assert lines[star + 3].startswith("S: 221 2.0.0")


def assert_no_secret(transcript: str) -> None:
    """Check that no password is in `text`, in clear text or base64."""
    secrets = [PASSWORD.encode(), f"\0{ASCII_USER}\0{PASSWORD}".encode()]
    for secret in secrets:
        assert secret.decode() not in transcript
        assert base64.b64encode(secret).decode() not in transcript
