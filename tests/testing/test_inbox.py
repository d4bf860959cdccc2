"""An inbox: what it receives, with a port and in memory, and how it begins and ends."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ehlo.testing import Inbox
from ehlo.testing.loopback import Commons
from support.ports import reserved_port

MAIL = "Subject: Hello\nFrom: App <app@example.com>\nTo: a@example.com\n\nHi there\n"


def send(
    inbox: Inbox,
    to: str | list[str] = "a@example.com",
    text: str | bytes = MAIL,
    sender: str = "app@example.com",
) -> None:
    with inbox.smtp() as client:
        client.sendmail(sender, to, text)


# -- mails -----------------------------------------------------------------------------------------


def test_a_mail_has_its_envelope_and_its_content(inbox: Inbox) -> None:
    send(inbox, ["a@example.com", "hidden@example.com"])
    (mail,) = inbox
    assert mail.mail_from == "app@example.com"
    assert mail.rcpt_tos == ["a@example.com", "hidden@example.com"]
    assert mail.raw == MAIL.replace("\n", "\r\n").encode()
    assert (mail.subject, mail.text, mail.html) == ("Hello", "Hi there\n", "")
    assert mail.message["From"] == "App <app@example.com>"
    assert mail.message is mail.email
    assert mail.attachments == []
    assert mail.user is None
    assert mail.tls is None
    assert mail.peer.host == "127.0.0.1"
    assert repr(mail) == "<ReceivedMail 1 to a@example.com, hidden@example.com: 'Hello'>"


def test_the_id_of_a_mail_is_the_one_in_the_reply(inbox: Inbox) -> None:
    with inbox.smtp() as client:
        client.sendmail("app@example.com", "a@example.com", MAIL)
        client.mail("app@example.com")
        client.rcpt("b@example.com")
        assert client.data(MAIL) == (250, b"2.0.0 Ok: queued as 2")
    assert [mail.id for mail in inbox] == ["1", "2"]


def test_the_parameters_of_mail_are_there(inbox: Inbox) -> None:
    with inbox.smtp() as client:
        client.sendmail("é@example.com", "ü@example.com", MAIL, ["SMTPUTF8", "BODY=8BITMIME"])
    assert inbox[0].mail_from == "é@example.com"
    assert inbox[0].rcpt_tos == ["ü@example.com"]
    assert set(inbox[0].params) == {"SIZE", "SMTPUTF8", "BODY"}


def test_a_bounce_has_an_empty_sender(inbox: Inbox) -> None:
    send(inbox, sender="")
    assert inbox[0].mail_from == ""


def test_an_address_without_a_domain_is_accepted(inbox: Inbox) -> None:
    send(inbox, "root", sender="cron")
    assert (inbox[0].mail_from, inbox[0].rcpt_tos) == ("cron", ["root"])


def test_an_inbox_is_a_sequence_and_its_list_is_a_copy(inbox: Inbox) -> None:
    assert list(inbox) == inbox.messages == []
    send(inbox)
    send(inbox, "b@example.com")
    assert len(inbox) == 2
    assert inbox[-1].rcpt_tos == ["b@example.com"]
    assert inbox[:1] == [inbox[0]]
    assert inbox[0] in inbox
    inbox.messages.clear()
    assert len(inbox) == 2
    inbox.clear()
    assert len(inbox) == 0
    assert inbox.sessions == []
    assert inbox.rejected == []


def test_a_large_mail_is_received_as_it_was_sent(inbox: Inbox) -> None:
    text = b"Subject: Large\r\n\r\n" + b".dots and \xff bytes\r\n" * 100_000
    send(inbox, text=text)
    assert inbox[0].raw == text


def test_many_clients_at_once_lose_no_mail(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: send(inbox, f"{number}@example.com"), range(40)))
    assert {mail.rcpt_tos[0] for mail in inbox} == {f"{number}@example.com" for number in range(40)}
    assert {mail.id for mail in inbox} == {str(number + 1) for number in range(40)}


# -- sessions and rejections -----------------------------------------------------------------------


def test_each_session_has_a_transcript_whether_it_brings_mail_or_not(inbox: Inbox) -> None:
    inbox.smtp().quit()
    send(inbox)
    silent, talked = inbox.sessions
    assert [line.text for line in silent if line.direction == "client"] == ["QUIT"]
    assert "C: DATA" in str(talked).upper()
    assert inbox[0].session is talked
    assert inbox.rejected == []


def test_what_is_rejected_is_there_with_its_command(inbox: Inbox) -> None:
    inbox.fail("rcpt", "550 5.1.1 No such user", to="gone@example.com")
    inbox.fail("end", "451 4.3.0 Try later")
    with inbox.smtp() as client:
        client.ehlo("client.example")
        client.docmd("FROBNICATE")
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail("app@example.com", ["gone@example.com", "a@example.com"], MAIL)
    assert [(each.command.upper(), each.reply) for each in inbox.rejected] == [
        ("FROBNICATE", "500 5.5.2 Command not recognized"),
        ("RCPT TO:<GONE@EXAMPLE.COM>", "550 5.1.1 No such user"),
        ("END OF DATA", "451 4.3.0 Try later"),
    ]
    assert [each.code for each in inbox.rejected] == [500, 550, 451]
    assert inbox.rejected[0].session is inbox.sessions[0]


def test_a_client_that_is_not_greeted_is_rejected_too(inbox: Inbox) -> None:
    inbox.fail("connect", "554 5.7.1 No\nservice")
    with pytest.raises(smtplib.SMTPConnectError):
        inbox.smtp()
    (rejection,) = inbox.rejected
    assert (rejection.command, rejection.reply) == ("connection", "554 No / service")


def test_no_rejection_is_lost_in_a_long_session(memory: Inbox) -> None:
    with memory.smtp() as client:
        for number in range(1500):
            client.docmd(f"X{number}")
    assert [each.command for each in memory.rejected] == [f"X{number}" for number in range(1500)]
    assert len(memory.sessions[0]) < 1500


def test_the_command_of_a_rejected_login_is_auth(memory: Inbox) -> None:
    memory.offer(auth={"ada": "secret"})
    with memory.smtp() as client:
        client.ehlo()
        client.docmd("AUTH LOGIN")
        client.docmd("YWRh")
        client.docmd("d3Jvbmc=")
    (rejection,) = memory.rejected
    assert (rejection.command, rejection.code) == ("AUTH LOGIN", 535)


def test_a_connection_that_is_kept_is_seen_after_clear(inbox: Inbox) -> None:
    with inbox.smtp() as client:
        client.sendmail("app@example.com", "a@example.com", MAIL)
        inbox.clear()
        inbox.fail("rcpt", "550 5.1.1 No such user")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("app@example.com", "a@example.com", MAIL)
        assert [each.code for each in inbox.rejected] == [550]
        assert len(inbox.sessions) == 1


NASTY = "\x1b[31mred \x9b0m \u202eevil"


def test_a_terminal_obeys_nothing_that_is_shown_of_a_mail(memory: Inbox) -> None:
    text = f"Subject: {NASTY}\r\n\r\n{NASTY} http://a.test/{NASTY} http://b.test/\r\n".encode()
    with memory.smtp() as client:
        client.sendmail("a@example.com", "b@example.com", text, ["BODY=8BITMIME"])
    texts = [memory.report()]
    for call in (memory[0].link, lambda: memory.wait_for(to="x@example.com", timeout=0)):
        with pytest.raises(AssertionError) as caught:
            call()
        texts.append(str(caught.value))
    for shown in texts:
        assert all(line.isprintable() for line in shown.split("\n"))


def test_passwords_are_masked_unless_they_are_asked_for(commons: Commons) -> None:
    shown = []
    for secrets in (False, True):
        with Inbox(commons=commons, memory=True, secrets=secrets, auth={"u": "p"}) as inbox:
            with inbox.smtp() as client:
                client.login("u", "p")
            shown.append("AHUAcA==" in str(inbox.sessions[0]))
    assert shown == [False, True]


# -- beginning and end -----------------------------------------------------------------------------


def test_an_inbox_that_is_not_open_says_how_to_open_it() -> None:
    inbox = Inbox()
    with pytest.raises(RuntimeError, match="with Inbox"):
        _ = inbox.port
    assert repr(inbox) == "<Inbox closed, 0 mails>"


def test_an_inbox_is_opened_once_at_a_time(commons: Commons) -> None:
    with Inbox(commons=commons) as inbox, pytest.raises(RuntimeError, match="already open"):
        inbox.open()


def test_mails_can_be_read_when_the_inbox_is_closed(commons: Commons) -> None:
    with Inbox(commons=commons) as inbox:
        send(inbox)
    assert inbox[0].subject == "Hello"


def test_a_client_that_comes_too_late_meets_a_closed_port(commons: Commons) -> None:
    with Inbox(commons=commons, port=reserved_port()) as inbox:
        address = inbox.host, inbox.port
        early = inbox.smtp()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        early.noop()


def test_a_client_of_a_closed_inbox_is_an_error(commons: Commons) -> None:
    for memory in (False, True):
        with pytest.raises(RuntimeError, match="not open"):
            Inbox(memory=memory, commons=commons).smtp()


def test_clients_that_are_just_connecting_are_disconnected(commons: Commons) -> None:
    for _ in range(20):
        with Inbox(commons=commons) as inbox:
            address = inbox.host, inbox.port
            clients = [socket.create_connection(address) for _ in range(3)]
        for client in clients:
            client.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1000):
                    pass
            client.close()


def test_a_client_in_memory_is_disconnected_too(commons: Commons) -> None:
    with Inbox(memory=True, commons=commons) as inbox:
        client = inbox.smtp()
        client.ehlo()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()
    with inbox:  # again
        send(inbox)
    assert len(inbox) == 1


@pytest.mark.parametrize("bind", ["::1", "localhost"])
def test_it_listens_on_any_address_of_the_machine(commons: Commons, bind: str) -> None:
    with Inbox(commons=commons, bind=bind) as inbox:
        send(inbox)
        assert inbox[0].peer.host == inbox.host
        assert inbox.url.startswith(f"smtp://{'[::1]' if ':' in inbox.host else inbox.host}:")


def test_an_inbox_of_its_own_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with Inbox() as inbox:
        send(inbox)
        inbox.wait_for(subject="Hello")
    assert set(threading.enumerate()) == before


def test_port_and_address_can_be_chosen(commons: Commons) -> None:
    number = reserved_port("0.0.0.0")  # noqa: S104  as below
    with Inbox(commons=commons, bind="0.0.0.0", port=number) as inbox:  # noqa: S104  asked for
        assert (inbox.host, inbox.port) == ("127.0.0.1", number)
        assert inbox.url == f"smtp://127.0.0.1:{number}"
        send(inbox)


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing(port: Inbox) -> None:
    before = set(threading.enumerate())
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"), Inbox(port=port.port):
        pass
    assert set(threading.enumerate()) == before


def test_it_works_in_an_exit_stack_as_in_a_unittest(commons: Commons) -> None:
    inbox = Inbox(commons=commons).open()
    try:
        send(inbox)
    finally:
        inbox.close()
    assert len(inbox) == 1


# -- files -----------------------------------------------------------------------------------------


def test_mails_are_saved_as_files_and_shown_in_a_report(inbox: Inbox, tmp_path: Path) -> None:
    assert inbox.report() == "no mail\n\nno session"
    send(inbox)
    assert inbox.save(tmp_path / "mails") == [tmp_path / "mails" / "1.eml"]
    assert (tmp_path / "mails" / "1.eml").read_bytes() == inbox[0].raw
    report = inbox.report()
    assert (
        "mail 1 from app@example.com to a@example.com\n  Subject: Hello\n  | Hi there\n" in report
    )
    assert "S: 250 2.0.0 Ok: queued as 1" in report
