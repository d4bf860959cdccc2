"""What an inbox offers: each option, with a port and in memory, and changes while it is open."""

from __future__ import annotations

import smtplib
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from ehlo.testing import Inbox
from ehlo.testing.loopback import Commons
from support.client import note_sends

MAIL = "Subject: Hello\n\nHi there\n"


def extensions(client: smtplib.SMTP) -> set[str]:
    client.ehlo("client.example")
    return set(client.esmtp_features)


def test_by_default_there_is_neither_tls_nor_a_login(inbox: Inbox) -> None:
    with inbox.smtp() as client:
        assert extensions(client) == {
            *("pipelining", "size", "8bitmime", "chunking", "smtputf8", "enhancedstatuscodes")
        }
        assert client.esmtp_features["size"] == "104857600"


@pytest.mark.parametrize("name", ["smtputf8", "chunking", "pipelining"])
def test_an_extension_can_be_left_out(inbox: Inbox, name: str) -> None:
    inbox.offer(**{name: False})  # type: ignore[arg-type]  # the name is known only here
    with inbox.smtp() as client:
        assert name not in extensions(client)
    inbox.offer()
    with inbox.smtp() as client:
        assert name in extensions(client)


def test_a_size_is_announced_and_kept(inbox: Inbox) -> None:
    inbox.offer(size=1000)
    with inbox.smtp() as client:
        extensions(client)
        assert client.esmtp_features["size"] == "1000"
        client.docmd("MAIL FROM:<a@example.com>")
        client.docmd("RCPT TO:<b@example.com>")
        assert client.data(b"x\r\n" * 500) == (552, b"5.3.4 Message size exceeds fixed limit")
    assert len(inbox) == 0
    assert [each.command for each in inbox.rejected] == ["end of data"]


def test_starttls_brings_tls_that_the_client_context_trusts(inbox: Inbox) -> None:
    inbox.offer(starttls=True)
    with inbox.smtp() as client:
        assert "starttls" in extensions(client)
        client.starttls(context=inbox.client_context)
        assert "starttls" not in extensions(client)
        client.sendmail("a@example.com", "b@example.com", MAIL)
    tls = inbox[0].tls
    assert tls is not None
    assert tls.version == "TLSv1.3"
    assert "*: TLS handshake: TLSv1.3" in str(inbox[0].session)


def test_in_memory_the_transcript_says_that_tls_is_pretended(memory: Inbox) -> None:
    memory.offer(starttls=True)
    with memory.smtp() as client:
        client.starttls()
    assert "*: TLS handshake: TLSv1.3 pretended" in str(memory.sessions[0])


def test_implicit_tls_by_a_port(port: Inbox) -> None:
    port.offer(implicit_tls=True)
    assert port.url == f"smtps://127.0.0.1:{port.port}"
    with smtplib.SMTP_SSL("localhost", port.port, context=port.client_context) as client:
        assert "starttls" not in extensions(client)
        client.sendmail("a@example.com", "b@example.com", MAIL)
    with port.smtp() as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)
    first, second = port
    assert first.tls is not None
    assert second.tls is not None


def test_the_last_reply_and_the_end_of_tls_are_one_write(
    port: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.offer(implicit_tls=True)
    with smtplib.SMTP_SSL("localhost", port.port, context=port.client_context) as client:
        client.noop()
        sends = note_sends(monkeypatch, port.port)
        client.docmd("QUIT")
        assert client.sock is not None
        assert client.sock.recv(1) == b""
        client.close()
    assert len(sends) == 1


def test_implicit_tls_in_memory(memory: Inbox) -> None:
    with smtplib.SMTP_SSL("smtp.example.com") as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)
    assert memory[0].tls is not None
    memory.offer(implicit_tls=True)
    with pytest.raises(TimeoutError, match="timed out"):
        smtplib.SMTP("smtp.example.com", 465)


def test_a_client_that_does_not_trust_the_server_is_in_the_transcript(port: Inbox) -> None:
    port.offer(starttls=True)
    with port.smtp() as client, pytest.raises(ssl.SSLCertVerificationError):
        client.starttls(context=ssl.create_default_context())
    port.smtp().quit()  # the loop has read the client's alert before it reads this
    assert "TLS failed" in str(port.sessions[0])


def test_plaintext_to_a_port_that_expects_tls_is_in_the_transcript(port: Inbox) -> None:
    port.offer(implicit_tls=True)
    with pytest.raises((smtplib.SMTPServerDisconnected, TimeoutError)):
        smtplib.SMTP(port.host, port.port, timeout=0.1)
    port.smtp().quit()  # the loop has accepted the first client before this one
    assert "implicit TLS" in str(port.sessions[0])


def test_tls_to_a_port_that_expects_plaintext_fails(port: Inbox) -> None:
    with pytest.raises(ssl.SSLError):
        smtplib.SMTP_SSL(port.host, port.port, context=port.client_context)
    assert len(port) == 0


# -- logins ----------------------------------------------------------------------------------------


def test_a_login_is_checked(inbox: Inbox) -> None:
    inbox.offer(auth={"ada": "secret"})
    with inbox.smtp() as client:
        extensions(client)
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("ada", "wrong")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("bob", "")
        client.login("ada", "secret")
        client.sendmail("a@example.com", "b@example.com", MAIL)
    assert inbox[0].user == "ada"
    assert {each.code for each in inbox.rejected} == {535}
    assert "secret" not in inbox.report()


def test_any_login_is_accepted_where_that_is_offered(inbox: Inbox) -> None:
    inbox.offer(auth="any")
    with inbox.smtp() as client:
        client.login("whoever", "it is")
        client.sendmail("a@example.com", "b@example.com", MAIL)
    assert inbox[0].user == "whoever"


def test_mail_needs_a_login_where_that_is_required(inbox: Inbox) -> None:
    inbox.offer(auth={"ada": "secret"}, require_auth=True)
    with inbox.smtp() as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("a@example.com", "b@example.com", MAIL)
        assert refused.value.smtp_code == 530
        client.login("ada", "secret")
        client.sendmail("a@example.com", "b@example.com", MAIL)
    assert len(inbox) == 1


def test_with_starttls_a_login_needs_it(inbox: Inbox) -> None:
    inbox.offer(starttls=True, auth={"ada": "secret"})
    with inbox.smtp() as client:
        assert "auth" not in extensions(client)
        client.starttls(context=inbox.client_context)
        assert "auth" in extensions(client)
        client.login("ada", "secret")


# -- changes ---------------------------------------------------------------------------------------


def test_an_old_session_ends_with_the_old_offer_and_the_port_stays(inbox: Inbox) -> None:
    address = inbox.host, inbox.port
    with inbox.smtp() as old:
        inbox.offer(size=1000, auth={"ada": "secret"}, require_auth=True)
        assert "auth" not in extensions(old)
        old.sendmail("a@example.com", "b@example.com", MAIL)
        with inbox.smtp() as new:
            assert "auth" in extensions(new)
        old.sendmail("a@example.com", "b@example.com", MAIL)
    assert (inbox.host, inbox.port) == address
    assert len(inbox) == 2


def test_an_offer_of_the_beginning_is_the_same(commons: Commons) -> None:
    for memory in (False, True):
        inbox = Inbox(memory=memory, commons=commons, starttls=True, size=1000)
        with inbox, inbox.smtp() as client:
            assert {"starttls", "size"} <= extensions(client)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starttls": True, "implicit_tls": True}, "leave one out"),
        ({"require_auth": True}, "require_auth needs auth"),
        ({"size": 0}, "size is 0; it must be"),
        ({"size": "10MB"}, "size is '10MB'; it must be"),
    ],
)
def test_what_cannot_be_offered_is_an_error_and_changes_nothing(
    memory: Inbox, options: dict[str, bool], message: str
) -> None:
    memory.offer(pipelining=False)
    with pytest.raises(ValueError, match=message):
        memory.offer(**options)  # type: ignore[arg-type]  # the names are known only here
    with pytest.raises(ValueError, match=message):
        Inbox(**options)  # type: ignore[arg-type]  # as above
    with memory.smtp() as client:
        assert "pipelining" not in extensions(client)


def test_without_trustme_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    message = r"needs trustme; run pip install 'ehlo\[testing\]'"
    with Inbox() as inbox:
        with pytest.raises(ImportError, match=message):
            inbox.offer(starttls=True)
        with pytest.raises(ImportError, match=message):
            _ = inbox.client_context
        with inbox.smtp() as client:
            assert "starttls" not in extensions(client)
    with pytest.raises(ImportError, match=message):
        Inbox(implicit_tls=True).open()
    with Inbox(memory=True, starttls=True) as memory, memory.smtp() as client:
        client.starttls()  # pretended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strattls": True}, "has no keyword strattls; it has auth, chunking"),
        ({"auth": "all"}, "auth is 'all'; write"),
        ({"auth": ("u", "p")}, r"auth is \('u', 'p'\); write"),
        ({"auth": {"u": 1}}, "auth has a value that is not text"),
    ],
)
def test_an_option_of_the_wrong_kind_is_a_type_error(
    memory: Inbox, options: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Inbox(**options)
    with pytest.raises(TypeError, match=message):
        memory.offer(**options)


# -- settings --------------------------------------------------------------------------------------


def test_settings_for_each_framework(port: Inbox) -> None:
    host, number = port.host, port.port
    assert port.settings("django") == {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": host,
        "EMAIL_PORT": number,
        "EMAIL_HOST_USER": "",
        "EMAIL_HOST_PASSWORD": "",
        "EMAIL_USE_TLS": False,
        "EMAIL_USE_SSL": False,
    }
    flask = port.settings("flask")
    assert (flask["MAIL_SERVER"], flask["MAIL_PORT"]) == (host, number)
    assert flask["MAIL_SUPPRESS_SEND"] is False
    fastapi = port.settings("fastapi")
    assert (fastapi["MAIL_SERVER"], fastapi["MAIL_PORT"]) == (host, number)
    assert fastapi["USE_CREDENTIALS"] is False
    assert port.settings("env") == {
        "SMTP_HOST": host,
        "SMTP_PORT": str(number),
        "SMTP_URL": f"smtp://{host}:{number}",
    }
    with pytest.raises(ValueError, match="framework is 'rails'; it must be django, flask"):
        port.settings("rails")  # type: ignore[arg-type]  # that is the error


def test_another_process_cannot_reach_an_inbox_in_memory(memory: Inbox) -> None:
    assert memory.settings("django")["EMAIL_HOST"] == memory.host
    with pytest.raises(ValueError, match="another process cannot reach an inbox in memory"):
        memory.settings("env")


def test_settings_have_the_login_and_the_certificate(commons: Commons) -> None:
    with Inbox(commons=commons, starttls=True, auth={"ada": "secret"}) as inbox:
        django = inbox.settings("django")
        assert (django["EMAIL_HOST_USER"], django["EMAIL_HOST_PASSWORD"]) == ("ada", "secret")
        assert (django["EMAIL_USE_TLS"], django["EMAIL_USE_SSL"]) == (True, False)
        environment = inbox.settings("env")
        assert environment["SMTP_USERNAME"] == "ada"
        context = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
        with inbox.smtp() as client:
            client.starttls(context=context)
            client.login("ada", environment["SMTP_PASSWORD"])
        bundle = inbox.settings("fastapi")["CERT_BUNDLE"]
    assert not Path(bundle).exists()
