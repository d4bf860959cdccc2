"""Clients of this process are routed to an inbox in memory, whatever host and port they name."""

from __future__ import annotations

import asyncio
import inspect
import smtplib
import socket
import ssl
import time
from collections.abc import Coroutine
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import pytest

from ehlo.testing import Inbox
from ehlo.testing.loopback import Commons
from ehlo.testing.routing import MissingNameError, Router
from support.ports import reserved_port

MAIL = "Subject: Hello\n\nHi there\n"


def message(to: str = "b@example.com") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.com", to, "Hello"
    mail.set_content("Hi there\n")
    return mail


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each socket and each question to DNS an error."""

    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "getfqdn"):
        monkeypatch.setattr(socket, name, refuse)


# -- smtplib ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("host", ["smtp.example.com", "localhost", "192.0.2.1", "::1"])
def test_smtplib_needs_no_network(memory: Inbox, host: str) -> None:
    with smtplib.SMTP(host, 2525, timeout=60) as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)
    with smtplib.SMTP(host) as client:
        client.send_message(message())
    with smtplib.SMTP_SSL(host, 465) as client:
        client.send_message(message())
    unconnected = smtplib.SMTP()
    unconnected.connect(host, 25)
    unconnected.quit()
    assert len(memory) == 3
    assert "C: EHLO localhost" in str(memory.sessions[0])


def test_a_client_keeps_the_name_that_it_gives(memory: Inbox) -> None:
    with smtplib.SMTP("smtp.example.com", local_hostname="client.example") as client:
        client.ehlo()
    assert "C: EHLO client.example" in str(memory.sessions[0])


def test_a_class_that_is_derived_from_smtplib_is_routed(memory: Inbox) -> None:
    class Client(smtplib.SMTP_SSL):
        default_port = 2465

    with Client("smtp.example.com", context=ssl.create_default_context()) as client:
        client.send_message(message())
    assert memory[0].tls is not None


def test_starttls_forgets_what_was_said_before(memory: Inbox) -> None:
    memory.offer(starttls=True)
    with smtplib.SMTP("smtp.example.com") as client:
        client.ehlo()
        client.starttls(context=ssl.create_default_context())
        assert client.esmtp_features == {}
        client.send_message(message())
    assert memory[0].tls is not None


def test_starttls_that_is_not_offered_is_an_error(memory: Inbox) -> None:
    client = smtplib.SMTP("smtp.example.com")
    with client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.starttls()


def test_a_client_may_pipeline_and_send_bdat(memory: Inbox) -> None:
    with smtplib.SMTP("smtp.example.com") as client:
        client.ehlo()
        client.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nBDAT 5 LAST\r\nhello")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 250]
    assert memory[0].raw == b"hello"


def test_a_reply_that_never_comes_times_out_at_once(memory: Inbox) -> None:
    client = smtplib.SMTP("smtp.example.com")
    with client, pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        client.getreply()


def test_a_client_that_leaves_amid_a_mail_delivers_nothing(memory: Inbox) -> None:
    client = smtplib.SMTP("smtp.example.com")
    client.ehlo()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    client.docmd("DATA")
    client.send("Subject: half")
    client.close()
    assert len(memory) == 0


# -- aiosmtplib ------------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_aiosmtplib_needs_no_network(memory: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        def refuse(*_arguments: object, **_keywords: object) -> None:
            raise AssertionError("the network was used")

        for name in ("create_connection", "getaddrinfo", "getfqdn"):
            monkeypatch.setattr(socket, name, refuse)
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        await aiosmtplib.send(message(), hostname="smtp.example.com", port=587)
        await aiosmtplib.send(message(), hostname="192.0.2.1", use_tls=True, validate_certs=False)
        monkeypatch.undo()

    run(main())
    plain, secure = memory
    assert plain.tls is None
    assert secure.tls is not None
    assert "C: EHLO localhost" in str(memory.sessions[0])


def test_aiosmtplib_changes_to_tls_by_itself_or_when_told(memory: Inbox) -> None:
    memory.offer(starttls=True, auth={"ada": "secret"}, require_auth=True)

    async def main() -> None:
        login: Any = {"username": "ada", "password": "secret"}
        await aiosmtplib.send(message(), hostname="smtp.example.com", **login)
        async with aiosmtplib.SMTP(hostname="smtp.example.com", start_tls=True, **login) as client:
            await client.send_message(message())

    run(main())
    assert [mail.user for mail in memory] == ["ada", "ada"]
    assert all(mail.tls for mail in memory)


def test_aiosmtplib_meets_faults(memory: Inbox) -> None:
    async def main() -> None:
        memory.fail("rcpt", "550 5.1.1 No such user")
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
            await aiosmtplib.send(message(), hostname="smtp.example.com")
        memory.drop("connect")
        with pytest.raises(aiosmtplib.SMTPConnectError):
            await aiosmtplib.send(message(), hostname="smtp.example.com")
        memory.drop("end")
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await aiosmtplib.send(message(), hostname="smtp.example.com")
        memory.delay("mail", 3600)
        # Before 5.1 aiosmtplib waits for the reply to its QUIT, too
        async with aiosmtplib.SMTP(hostname="smtp.example.com") as client:
            client.timeout = 0.5
            with pytest.raises(aiosmtplib.SMTPReadTimeoutError):
                await client.mail("a@example.com", timeout=0.05)
        memory.delay("mail", 0.05)
        before = time.monotonic()
        await aiosmtplib.send(message(), hostname="smtp.example.com")
        assert time.monotonic() - before >= 0.05

    run(main())
    assert len(memory) == 1


def test_aiosmtplib_finds_no_plaintext_where_tls_comes_first(memory: Inbox) -> None:
    memory.offer(implicit_tls=True)
    with pytest.raises(aiosmtplib.SMTPConnectTimeoutError):
        run(aiosmtplib.send(message(), hostname="smtp.example.com", start_tls=False))


def test_replies_keep_their_order_over_a_delay(memory: Inbox) -> None:
    memory.delay("mail", 0.02)

    async def main() -> list[int]:
        async with aiosmtplib.SMTP(hostname="smtp.example.com") as client:
            tasks = [
                asyncio.create_task(client.execute_command(command))
                for command in (b"EHLO c.example", b"MAIL FROM:<a@b.example>", b"RSET", b"VRFY a")
            ]
            return [(await task).code for task in tasks]

    assert run(main()) == [250, 250, 250, 252]


def test_a_socket_that_a_client_brings_is_its_own(memory: Inbox, port: Inbox) -> None:
    async def main() -> None:
        sock = socket.create_connection((port.host, port.port))
        await aiosmtplib.send(message(), hostname="smtp.example.com", sock=sock)

    run(main())
    assert (len(memory), len(port)) == (0, 1)


# -- routes ----------------------------------------------------------------------------------------


CLASSES = smtplib.SMTP, smtplib.SMTP_SSL, aiosmtplib.SMTP


def state() -> list[dict[str, object]]:
    return [dict(vars(each)) for each in CLASSES]


def test_all_methods_are_put_back() -> None:
    before, signature = state(), inspect.signature(smtplib.SMTP)
    with Inbox(memory=True):
        assert state() != before
        assert inspect.signature(smtplib.SMTP) == signature
    assert state() == before


def test_nothing_is_routed_when_the_inbox_is_closed(
    commons: Commons, port: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Inbox(memory=True, commons=commons) as memory:
        pass
    monkeypatch.setattr(socket, "getfqdn", lambda: "client.example")
    with smtplib.SMTP(port.host, port.port) as client:
        client.send_message(message())
    run(aiosmtplib.send(message(), hostname=port.host, port=port.port))
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP(port.host, reserved_port())
    assert (len(memory), len(port)) == (0, 2)
    assert all("C: EHLO client.example" in str(each) for each in port.sessions)


def test_of_two_inboxes_the_last_is_used_until_it_is_closed(commons: Commons) -> None:
    first = Inbox(memory=True, commons=commons).open()
    second = Inbox(memory=True, commons=commons).open()
    for inbox in (second, first):
        with smtplib.SMTP("smtp.example.com") as client:
            client.send_message(message())
        assert len(inbox) == 1
        inbox.close()


@pytest.mark.parametrize("shared", [True, False])
def test_inboxes_may_be_closed_in_any_order(shared: bool) -> None:
    before = state()
    with Commons() as commons:
        options: Any = {"memory": True, "commons": commons if shared else None}
        first = Inbox(**options).open()
        second = Inbox(**options).open()
        first.close()
        with smtplib.SMTP("smtp.example.com") as client:
            client.send_message(message())
        run(aiosmtplib.send(message(), hostname="smtp.example.com"))
        assert len(second) == 2
        second.close()
    assert state() == before


def test_a_port_of_another_inbox_can_be_named(commons: Commons, port: Inbox) -> None:
    with Inbox(memory=True, commons=commons) as memory:
        for host in (port.host, "localhost"):
            with smtplib.SMTP(host, port.port) as client:
                client.send_message(message())
        run(aiosmtplib.send(message(), hostname=port.host, port=port.port))
        with port.smtp() as client:
            client.send_message(message())
    assert (len(memory), len(port)) == (0, 4)


def test_an_inbox_in_memory_can_be_named(commons: Commons) -> None:
    with Inbox(memory=True, commons=commons) as first, Inbox(memory=True, commons=commons) as last:
        for inbox in (first, last):
            with smtplib.SMTP(inbox.host, inbox.port) as client:
                client.send_message(message())
            run(aiosmtplib.send(message(), hostname=inbox.host, port=inbox.port))
        assert (len(first), len(last)) == (2, 2)


def test_a_timeout_of_zero_is_an_error_as_without_an_inbox(memory: Inbox) -> None:
    with pytest.raises(ValueError, match="timeout=0"):
        smtplib.SMTP("smtp.example.com", timeout=0)
    assert memory.sessions == []


def test_a_client_of_each_inbox_talks_to_it_whatever_is_routed(commons: Commons) -> None:
    with Inbox(memory=True, commons=commons) as first, Inbox(memory=True, commons=commons):
        with first.smtp() as client:
            client.send_message(message())
        assert len(first) == 1


# -- private names ---------------------------------------------------------------------------------

PRIVATE = [
    (smtplib.SMTP, "_get_socket"),
    (smtplib.SMTP_SSL, "_get_socket"),
    (aiosmtplib.SMTP, "_create_connection"),
    (aiosmtplib.SMTP, "_get_default_local_hostname"),
]


@pytest.mark.parametrize(("owner", "name"), PRIVATE)
def test_where_a_private_name_is_missing_the_inbox_gets_a_port_and_says_so(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(memory=True)
    if owner is smtplib.SMTP_SSL:  # it inherits the name
        monkeypatch.delattr(smtplib.SMTP, name)
    monkeypatch.delattr(owner, name)
    with pytest.warns(RuntimeWarning, match=rf"has no {name}.*listens on 127\.0\.0\.1:\d+"):
        inbox.open()
    monkeypatch.undo()
    assert not inbox.memory
    with smtplib.SMTP(inbox.host, inbox.port) as client:
        client.send_message(message())
    assert len(inbox) == 1
    inbox.close()


def test_a_missing_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aiosmtplib.SMTP, "_create_connection")
    message = r"^aiosmtplib\.SMTP has no _create_connection$"
    with pytest.raises(MissingNameError, match=message):
        Router().add("host.invalid", lambda _server, _tls: None)
