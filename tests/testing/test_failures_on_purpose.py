"""Failures on purpose: what a client meets at each stage, with a port and in memory."""

from __future__ import annotations

import smtplib
import time
from pathlib import Path
from typing import Any

import pytest

from ehlo import Reply
from ehlo.testing import Inbox, UnusedFaultWarning
from ehlo.testing.loopback import Commons

MAIL = "Subject: Hello\n\nHi there\n"
STAGES = ["connect", "helo", "starttls", "auth", "mail", "rcpt", "data", "end"]


def run_through(inbox: Inbox, impatient_at: str = "never") -> None:
    """Send a mail by all commands that a fault may strike at; one of them has a short timeout."""
    with inbox.smtp(timeout=0.5 if impatient_at == "connect" else 60.0) as client:

        def begin(stage: str) -> None:
            assert client.sock is not None
            client.sock.settimeout(0.05 if stage == impatient_at else 60.0)

        begin("helo")
        check(client.ehlo("client.example"))
        begin("starttls")
        check(client.starttls(context=inbox.client_context))
        begin("")
        check(client.ehlo("client.example"))
        begin("auth")
        client.login("ada", "secret")
        begin("mail")
        check(client.mail("a@example.com"))
        begin("rcpt")
        check(client.rcpt("b@example.com"))
        begin("data")
        check(client.docmd("DATA"))
        begin("end")
        client.send(f"{MAIL}.\n".replace("\n", "\r\n"))
        check(client.getreply())


def check(reply: tuple[int, bytes]) -> None:
    if reply[0] >= 400:
        raise smtplib.SMTPResponseException(*reply)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_fails_once_with_its_reply(inbox: Inbox, stage: Any) -> None:
    inbox.offer(starttls=True, auth={"ada": "secret"})
    fault = inbox.fail(stage, "454 4.7.0 Not now")
    with pytest.raises(smtplib.SMTPResponseException) as failed:
        run_through(inbox)
    assert failed.value.smtp_code == 454
    error = failed.value.smtp_error
    assert b"Not now" in (error if isinstance(error, bytes) else error.encode())
    assert fault.used == 1
    assert len(inbox) == 0
    run_through(inbox)
    assert len(inbox) == 1
    assert inbox[0].user == "ada"
    assert 454 in {each.code for each in inbox.rejected}


@pytest.mark.parametrize("stage", STAGES)
def test_a_connection_is_dropped_at_a_stage_without_a_reply(inbox: Inbox, stage: Any) -> None:
    inbox.offer(starttls=True, auth={"ada": "secret"})
    fault = inbox.drop(stage)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        run_through(inbox)
    assert fault.used == 1
    assert inbox.rejected == []
    run_through(inbox)
    assert len(inbox) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_times_out_at_a_stage(inbox: Inbox, stage: Any) -> None:
    inbox.offer(starttls=True, auth={"ada": "secret"})
    fault = inbox.delay(stage, 3600)
    with pytest.raises((smtplib.SMTPServerDisconnected, TimeoutError), match="timed out"):
        run_through(inbox, impatient_at=stage)
    inbox.smtp().quit()  # what came before this has been read
    assert fault.used == 1


def test_a_delay_is_waited_for(inbox: Inbox) -> None:
    inbox.offer(starttls=True, auth={"ada": "secret"})
    inbox.delay("rcpt", 0.05)
    before = time.monotonic()
    run_through(inbox)
    assert time.monotonic() - before >= 0.05
    assert len(inbox) == 1


def test_other_clients_are_not_delayed(port: Inbox) -> None:
    port.delay("helo", 3600)
    slow = port.smtp()
    slow.putcmd("EHLO slow.example")
    with port.smtp() as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)
    assert len(port) == 1
    slow.close()


def test_a_delay_and_a_rejection_add_up(memory: Inbox) -> None:
    memory.delay("rcpt", 0.01)
    memory.fail("rcpt", "450 4.2.1 Greylisted")
    with memory.smtp() as client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("a@example.com", "b@example.com", MAIL)


def test_one_recipient_fails_and_the_others_do_not(inbox: Inbox) -> None:
    inbox.fail("rcpt", "550 5.1.1 No such user", to="gone@example.com", times=None)
    with inbox.smtp() as client:
        for _ in range(2):
            to = ["b@example.com", "gone@example.com"]
            assert set(client.sendmail("a@example.com", to, MAIL)) == {"gone@example.com"}
    assert [mail.rcpt_tos for mail in inbox] == [["b@example.com"]] * 2


def test_a_sender_fails_and_the_others_do_not(inbox: Inbox) -> None:
    inbox.fail("end", "554 5.7.1 Spam", mail_from="spam@example.com")
    with inbox.smtp() as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail("spam@example.com", "b@example.com", MAIL)
    assert len(inbox) == 1


def test_faults_count_what_passes_before_and_how_often_they_strike(inbox: Inbox) -> None:
    inbox.fail("mail", after=1, times=2)
    codes = []
    with inbox.smtp() as client:
        client.ehlo("client.example")
        for _ in range(4):
            codes.append(client.mail("a@example.com")[0])
            client.rset()
    assert codes == [250, 451, 451, 250]


def test_a_script_has_one_reply_for_each_message(inbox: Inbox) -> None:
    inbox.script("450 4.2.0 Busy", Reply(451, "4.3.0", "Trouble"), "250 2.0.0 Fine")
    codes = []
    with inbox.smtp() as client:
        for _ in range(4):
            client.ehlo_or_helo_if_needed()
            client.mail("a@example.com")
            client.rcpt("b@example.com")
            codes.append(client.data(MAIL)[0])
    assert codes == [450, 451, 250, 250]
    assert len(inbox) == 2


def test_a_421_closes_the_connection(inbox: Inbox) -> None:
    inbox.fail("mail", "421 4.3.2 Shutting down")
    with inbox.smtp() as client:
        client.ehlo("client.example")
        assert client.mail("a@example.com") == (421, b"4.3.2 Shutting down")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_the_same_seed_has_the_same_faults(commons: Commons) -> None:
    seen = []
    for _ in range(2):
        with Inbox(memory=True, commons=commons, seed=7) as inbox, inbox.smtp() as client:
            inbox.fail("mail", times=None, probability=0.5)
            client.ehlo("client.example")
            seen.append([(client.mail("a@example.com")[0], client.rset())[0] for _ in range(20)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {250, 451}


def test_a_fault_can_be_removed(memory: Inbox) -> None:
    memory.fail("mail").remove()
    memory.fail("rcpt")
    memory.faults.clear()
    with memory.smtp() as client:
        client.sendmail("a@example.com", "b@example.com", MAIL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("sent",), "sent"), (("mail", "250 Ok"), "250"), (("mail", "no reply"), "no reply")],
)
def test_a_fault_that_makes_no_sense_is_an_error(
    memory: Inbox, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        memory.fail(*arguments)
    assert len(memory.faults) == 0


# -- faults that are never used --------------------------------------------------------------------


def test_a_fault_that_was_never_used_is_a_warning_at_the_line_that_made_it(
    commons: Commons,
) -> None:
    inbox = Inbox(memory=True, commons=commons)
    inbox.fail("rcpt", "550 5.1.1 No such user", to="gone@example.com")
    inbox.delay("data", 2)
    inbox.drop("end")
    inbox.script("450 4.2.0 Busy", "250 Ok")
    inbox.fail("mail").remove()
    with pytest.warns(UnusedFaultWarning) as caught, inbox:
        pass
    assert [str(each.message) for each in caught] == [
        "fail('rcpt', '550 5.1.1 No such user', to='gone@example.com') was never used",
        "delay('data', 2) was never used",
        "drop('end') was never used",
        "script('450 4.2.0 Busy', '250') was never used",
    ]
    assert {each.filename for each in caught} == {__file__}
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "inbox.drop(" in source[caught[2].lineno - 1]


def test_a_fault_that_was_added_to_the_faults_themselves_is_a_warning_too(
    commons: Commons,
) -> None:
    inbox = Inbox(memory=True, commons=commons)
    inbox.faults.drop("end")
    with pytest.warns(UnusedFaultWarning, match=r"drop\('end'\) was never used"), inbox:
        pass


def test_no_warning_hides_an_error(commons: Commons) -> None:
    inbox = Inbox(memory=True, commons=commons)
    inbox.fail("rcpt")
    with pytest.raises(KeyError), inbox:
        raise KeyError
