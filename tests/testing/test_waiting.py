"""Waiting for mail: what fits, how a wait ends, and what it says when nothing came."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from ehlo.testing import Inbox

MAIL = "Subject: Hello Ada\nFrom: a@example.com\n\nYour invoice is attached.\n"
LONG = 60.0  # seconds: a wait that is as long has failed


def send(inbox: Inbox, *to: str, subject: str = "Hello Ada", sender: str = "a@example.com") -> None:
    with inbox.smtp() as client:
        text = MAIL.replace("Hello Ada", subject)
        client.sendmail(sender, to or ["b@example.com"], text)


# -- what fits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"to": "b@example.com"},
        {"to": "B@EXAMPLE.com"},
        {"to": "@example.com"},
        {"to": re.compile("^b@")},
        {"mail_from": "a@example.com"},
        {"mail_from": re.compile("example")},
        {"subject": "hello ada"},
        {"subject": "ADA"},
        {"subject": re.compile("^Hello")},
        {"text": "INVOICE"},
        {"text": re.compile(r"invoice\b")},
        {"match": lambda mail: len(mail.rcpt_tos) == 1},
        {"to": "b@example.com", "subject": "ada", "text": "invoice", "match": lambda _mail: 1},
    ],
)
def test_what_fits_is_returned_although_it_came_before(memory: Inbox, match: Any) -> None:
    send(memory)
    assert memory.wait_for(timeout=0, **match) is memory[0]
    with pytest.raises(AssertionError, match="has arrived"):
        memory.none_within(0, **match)


@pytest.mark.parametrize(
    "match",
    [
        {"to": "b@example"},
        {"to": "example.com"},
        {"to": re.compile("^example")},
        {"mail_from": "b@example.com"},
        {"subject": "hello  ada"},
        {"subject": re.compile("hello")},
        {"text": "ada"},
        {"match": lambda _mail: None},
        {"to": "b@example.com", "subject": "bob"},
    ],
)
def test_what_does_not_fit_is_not_returned(memory: Inbox, match: Any) -> None:
    send(memory)
    memory.none_within(0, **match)
    with pytest.raises(AssertionError, match="no mail"):
        memory.wait_for(timeout=0, **match)


def test_any_envelope_recipient_counts(memory: Inbox) -> None:
    send(memory, "b@example.com", "hidden@example.com")
    assert memory.wait_for(to="hidden@example.com", timeout=0) is memory[0]


def test_of_several_mails_the_first_is_returned_or_the_one_of_count(memory: Inbox) -> None:
    for number in range(3):
        send(memory, subject=f"Number {number}")
    assert memory.wait_for(timeout=0).subject == "Number 0"
    assert memory.wait_for(count=2, timeout=0).subject == "Number 1"
    assert memory.wait_for(subject="2", timeout=0).subject == "Number 2"
    found = memory.wait_for_all(count=2, timeout=0)
    assert [mail.subject for mail in found] == ["Number 0", "Number 1", "Number 2"]
    assert memory.wait_for_all(subject="1", timeout=0) == [memory[1]]


def test_a_count_below_one_is_an_error(memory: Inbox) -> None:
    with pytest.raises(ValueError, match="count is 0; it must be 1 or more"):
        memory.wait_for(count=0)


def test_a_function_that_fails_ends_the_wait(inbox: Inbox) -> None:
    send(inbox)
    with pytest.raises(ZeroDivisionError):
        inbox.wait_for(match=lambda _mail: 1 / 0, timeout=LONG)
    assert inbox.wait_for(timeout=0) is inbox[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"recipient": "a@example.com"}, "has no keyword recipient; it has mail_from, match,"),
        ({"to": ["a@example.com"]}, r"to is \['a@example.com'\]; it must be text or a pattern"),
        ({"match": "Hello"}, "match is 'Hello'; it must be a function"),
        ({"timeout": "5"}, "timeout is '5'; it must be a number of seconds"),
        ({"timeout": -1}, "timeout is -1; it must be a number of seconds"),
        ({"timeout": float("nan")}, "timeout is nan; it must be a number of seconds"),
    ],
)
def test_a_criterion_that_makes_no_sense_is_an_error(
    memory: Inbox, wrong: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        memory.wait_for(**wrong)


def test_a_wait_may_have_no_end(memory: Inbox) -> None:
    send(memory)
    assert memory.wait_for(timeout=float("inf")) is memory[0]


def test_each_mail_is_looked_at_once(memory: Inbox) -> None:
    looked: list[object] = []

    def look(mail: object) -> bool:
        looked.append(mail)
        return True

    for number in range(10):
        send(memory, f"{number}@example.com")
    with pytest.raises(AssertionError, match=r"^10 of 11 mails"):
        memory.wait_for(match=look, count=11, timeout=0.01)
    assert looked == memory.messages


# -- how a wait ends -------------------------------------------------------------------------------


class Signal:
    """A function that fits no mail, and tells when it is asked for the first time."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, mail: object) -> bool:
        self.asked.set()
        return False


def test_a_mail_ends_the_wait_of_another_thread(inbox: Inbox) -> None:
    send(inbox, "first@example.com")
    signal = Signal()

    def later() -> None:
        assert signal.asked.wait(LONG)  # the wait has begun
        send(inbox, "second@example.com")

    thread = threading.Thread(target=later)
    thread.start()
    mail = inbox.wait_for(
        match=lambda mail: mail.rcpt_tos == ["second@example.com"] or signal(mail), timeout=LONG
    )
    assert mail is inbox[1]
    thread.join()


def test_a_wait_ends_after_its_timeout(memory: Inbox) -> None:
    memory.wait_timeout = 0.01
    with pytest.raises(AssertionError, match=r"^no mail within 0\.01 s"):
        memory.wait_for()
    with pytest.raises(AssertionError, match=r"^no mail within 0\.02 s"):
        memory.wait_for(timeout=0.02)
    before = time.monotonic()
    memory.none_within(0.01)
    assert time.monotonic() - before >= 0.01


async def send_in_thread(inbox: Inbox, *to: str) -> None:
    await anyio.to_thread.run_sync(lambda: send(inbox, *to))


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_mail_ends_a_wait_in_an_event_loop(inbox: Inbox, backend: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_in_thread, inbox, "b@example.com")
            mail = await inbox.wait_for_async(to="b@example.com", timeout=LONG)
        assert mail is inbox[0]
        assert await inbox.wait_for_all_async(timeout=0) == [mail]
        with pytest.raises(AssertionError, match="a mail has arrived"):
            await inbox.none_within_async(LONG)

    anyio.run(main, backend=backend)


def test_a_mail_of_the_same_thread_ends_a_wait_in_an_event_loop(
    memory: Inbox, backend: str
) -> None:
    async def sends() -> None:
        send(memory)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sends)
            await memory.wait_for_async(timeout=LONG)

    anyio.run(main, backend=backend)


def test_a_wait_in_an_event_loop_ends_after_its_timeout(memory: Inbox, backend: str) -> None:
    async def main() -> None:
        with pytest.raises(AssertionError, match=r"^no mail to b@example.com within 0.01 s"):
            await memory.wait_for_async(to="b@example.com", timeout=0.01)
        await memory.none_within_async(0.01)

    anyio.run(main, backend=backend)


def test_a_wait_that_is_cancelled_leaves_nothing(memory: Inbox, backend: str) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.01):
            await memory.wait_for_async(timeout=LONG)
        send(memory)  # no waiter is woken, and nothing fails

    before = set(threading.enumerate())
    anyio.run(main, backend=backend)
    assert set(threading.enumerate()) == before


def test_without_anyio_it_says_what_to_install(
    memory: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anyio", None)
    with pytest.raises(ImportError, match=r"needs anyio; run pip install 'ehlo\[testing\]'"):
        asyncio.run(memory.wait_for_async())
    send(memory)
    assert asyncio.run(memory.wait_for_async()) is memory[0]  # which has nothing to wait for


def test_a_wait_that_blocks_an_event_loop_says_what_to_write(memory: Inbox) -> None:
    async def main() -> None:
        with pytest.raises(AssertionError, match=r"use `await wait_for_async"):
            memory.wait_for(timeout=0)

    anyio.run(main)


# -- what it says ----------------------------------------------------------------------------------


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        call()
    text = str(caught.value)
    assert max(map(len, text.splitlines())) <= 74
    return text


def test_it_says_that_no_client_has_connected(memory: Inbox) -> None:
    text = message_of(lambda: memory.wait_for(to="b@example.com", subject="Hello", timeout=0))
    assert text == (
        "no mail to b@example.com with subject 'Hello' within 0 s\n"
        "\n"
        "Nothing arrived: no client has connected."
    )


def test_it_shows_the_end_of_a_session_that_brought_nothing(memory: Inbox) -> None:
    with memory.smtp() as client:
        client.ehlo("client.example")
    text = message_of(lambda: memory.wait_for(timeout=0))
    assert "Nothing arrived in 1 session. The last one:\n  ...\n" in text
    assert "C: QUIT" in text


def test_it_shows_what_arrived_and_what_was_rejected(memory: Inbox) -> None:
    send(memory, "someone@example.com", "other@example.com")
    send(memory, "long@example.com", subject="A long subject, " * 10, sender="")
    memory.fail("rcpt", "550 5.1.1 No such user", to="gone@example.com")
    with memory.smtp() as client:
        client.ehlo("client.example")
        client.docmd("MAIL FROM:<a@example.com>")
        client.docmd("RCPT TO:<gone@example.com>")
    text = message_of(
        lambda: memory.wait_for(to="gone@example.com", text=re.compile("invoice"), timeout=0)
    )
    assert text == (
        "no mail to gone@example.com with text /invoice/ within 0 s\n"
        "\n"
        "Arrived: 2\n"
        "  1. to someone@example.com, other@example.com\n"
        "     from a@example.com, subject 'Hello Ada'\n"
        "  2. to long@example.com\n"
        "     from <>, subject 'A long subject, A long subject, A long subject, ...\n"
        "\n"
        "Rejected: 1\n"
        "  RCPT TO:<gone@example.com>\n"
        "     550 5.1.1 No such user"
    )


def test_it_says_how_many_are_missing(memory: Inbox) -> None:
    send(memory)
    text = message_of(lambda: memory.wait_for_all(count=3, subject="hello", timeout=0))
    assert text.startswith("1 of 3 mails with subject 'hello' within 0 s\n")


def test_of_many_mails_it_shows_the_last(memory: Inbox) -> None:
    for number in range(30):
        send(memory, f"{number}@example.com")
    text = message_of(lambda: memory.wait_for(to="x@example.com", timeout=0))
    assert "(20 earlier ones are not shown)" in text
    assert " 19@example.com" not in text
    assert " 29@example.com" in text


def test_what_a_client_sends_forges_no_line_of_it(memory: Inbox) -> None:
    send(memory, subject="=?utf-8?q?Hello=0AArrived:_100=1b[2J?=")
    text = message_of(lambda: memory.wait_for(to="x@example.com", timeout=0))
    assert text.count("Arrived:") == 2
    assert "\x1b" not in text
    assert "\nArrived: 100" not in text


def test_a_text_criterion_reads_html_where_there_is_no_plain_text(memory: Inbox) -> None:
    with memory.smtp() as client:
        text = "Subject: Hi\nContent-Type: text/html\n\n<p>Your <b>invoice</b></p>\n"
        client.sendmail("a@example.com", "b@example.com", text)
    assert memory.wait_for(text="your invoice", timeout=0).html.startswith("<p>")
