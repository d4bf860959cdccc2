"""The slot for what a session awaits: there is one, and what is in it is never overwritten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from ehlo import Handler, Message, Session
from ehlo.protocol import events
from ehlo.server.answer import Answers
from ehlo.server.driver import Driver
from ehlo.server.waits import AwaitSlot, DeadlineError, Wait
from support.certificates import Certificates
from support.serving import Serve


class Noting:
    """A slot, and what its coroutines have done and raised."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.raised: list[Exception | None] = []
        self.slot = AwaitSlot(self.raised.append)

    async def await_(self, wait: Wait[str]) -> None:
        try:
            self.notes.append(await wait)
        except DeadlineError:
            self.notes.append("late")
        except GeneratorExit:
            self.notes.append("closed")
            raise

    def awaits(self) -> bool:
        return self.slot.work is not None

    async def fail(self, wait: Wait[str]) -> None:
        await wait
        raise ValueError("a failure")

    async def pass_through(self, wait: Wait[str]) -> None:
        await wait


def test_a_coroutine_that_waits_goes_on_when_the_wait_ends() -> None:
    noting, wait = Noting(), Wait[str]()
    assert noting.slot.begin(noting.await_(wait))
    assert noting.awaits()
    assert wait.end("done")
    assert not noting.awaits()
    assert (noting.notes, noting.raised) == (["done"], [None])
    assert not wait.end("again")


def test_a_coroutine_that_does_not_wait_leaves_the_slot_free() -> None:
    async def answer() -> None: ...

    noting = Noting()
    assert not noting.slot.begin(answer())
    assert not noting.awaits()
    assert noting.raised == []


def test_beginning_while_something_is_awaited_raises_and_leaves_it_alone() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    work = noting.slot.work
    with pytest.raises(RuntimeError, match="awaits something else already"):
        noting.slot.begin(noting.await_(Wait()))
    assert noting.slot.work is work
    wait.end("done")
    assert noting.notes == ["done"]


def test_a_deadline_is_raised_at_the_await() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    noting.slot.expire()
    assert (noting.notes, noting.raised) == (["late"], [None])
    assert not wait.end("too late")


def test_a_deadline_that_nothing_catches_reaches_the_driver() -> None:
    noting = Noting()
    noting.slot.begin(noting.pass_through(Wait()))
    noting.slot.expire()
    assert [type(error) for error in noting.raised] == [DeadlineError]


def test_what_is_dropped_is_closed_at_once_and_resumed_by_nothing() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    noting.slot.drop()
    assert noting.notes == ["closed"]
    assert not noting.awaits()
    assert not wait.end("too late")
    assert noting.raised == []
    noting.slot.drop()


def test_a_failure_frees_the_slot_and_reaches_the_driver() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.fail(wait))
    wait.end("go on")
    assert [type(error) for error in noting.raised] == [ValueError]
    assert not noting.awaits()


def test_a_slot_that_awaits_nothing_cannot_expire() -> None:
    with pytest.raises(RuntimeError, match="awaits nothing"):
        Noting().slot.expire()


class Secured(Handler):
    """Has `on_tls`, and a greeting that waits."""

    async def on_tls(self, session: Session) -> None:
        await asyncio.sleep(0)

    async def on_message(self, session: Session, message: Message) -> None: ...


def test_a_session_paused_before_the_handshake_ends_instead_of_hanging(
    serve: Serve,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An option that paused the session in the wrong place once overwrote what was awaited."""
    begin: Callable[..., None] = Driver.begin

    def begin_with_a_pause(driver: Driver, *arguments: object) -> None:
        begin(driver, *arguments)
        driver.slot.begin(driver.answers.pause(60.0))

    monkeypatch.setattr(Driver, "begin", begin_with_a_pause)
    running = serve(Secured(), tls_config=certificates.server(), tls_listener=True)
    with contextlib.suppress(OSError), running.client(tls=certificates.client) as client:
        assert client.rest() == b""
    running.wait_until_no_sessions()
    assert "awaits something else already" in caplog.text
    caplog.clear()


def test_a_greeting_may_wait_under_tls_with_on_tls(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right place for such a pause is the answer to `Connect`."""

    async def connect(answers: Answers, _event: events.Connect) -> None:
        await answers.pause(0.0)
        answers.connection.reply()

    class Patient(Secured):
        async def on_connect(self, session: Session) -> None: ...

    running = serve(Patient(), tls_config=certificates.server(), tls_listener=True)
    run = running.server.running
    assert run is not None
    monkeypatch.setitem(run.services[0].table, events.Connect, connect)
    with running.client(tls=certificates.client) as client:
        assert client.hello()[:3] == "250"
