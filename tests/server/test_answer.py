"""A session that pauses in the wrong place ends, and one that pauses in the right place goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pytest

from ehlo import Faults, Handler, Message, Server, Session
from ehlo.handler import callbacks_of_handler
from ehlo.protocol import events, verbs
from ehlo.server.answer import Answers, Routes
from ehlo.server.driver import Driver
from ehlo.server.hooks import hooks_of
from ehlo.server.options.files import Files
from ehlo.server.options.rules import resolve
from support.certificates import Certificates
from support.serving import Serve


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


def test_a_session_whose_pump_fails_after_a_hook_ends_and_is_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook's task resumes the session, so there is no caller who could end it."""

    class Waiting(Secured):
        async def on_vrfy(self, session: Session, text: str) -> None:
            for way_on in ("_advance", "_rests"):
                monkeypatch.setattr(Driver, way_on, fail)

    def fail(_driver: Driver) -> None:
        raise ValueError("a failure")

    running = serve(Waiting())
    with running.ready() as client:
        client.send(b"VRFY alice\r\n")
        running.wait_until_no_sessions()
        monkeypatch.undo()
        assert client.is_closed()
    assert "the session failed" in caplog.text
    caplog.clear()


def test_a_log_handler_that_closes_the_server_ends_the_session_within_its_own_step(
    serve: Serve,
) -> None:
    class Failing(Secured):
        async def on_vrfy(self, session: Session, text: str) -> None:
            raise ValueError("a failure")

    class Closing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Failing.on_vrfy) failed" in record.getMessage():
                running.server.close()

    running = serve(Failing())
    handler = Closing()
    logging.getLogger("ehlo.handler").addHandler(handler)
    try:
        with running.ready() as client:
            client.send(b"VRFY alice\r\n")
            assert client.is_closed()
    finally:
        logging.getLogger("ehlo.handler").removeHandler(handler)
    assert running.sessions == 0


def test_each_hook_that_a_row_of_the_verbs_names_has_a_route_only_where_it_is_overridden() -> None:
    rows = [row for row in verbs.ASKED.values() if row.hook]

    class Everything(Secured): ...

    for row in rows:
        setattr(Everything, row.hook, lambda *_arguments: None)
    for handler, asked in ((Everything(), verbs.QUESTIONS), (Secured(), frozenset[type]())):
        callbacks = callbacks_of_handler(handler)
        resolved = resolve(Server(handler).options, callbacks, Files())
        routes = Routes(resolved, hooks_of(callbacks))
        assert routes.asks == asked
        assert {row.event for row in rows if row.hook in routes.hooks} <= routes.table.keys()


def test_the_core_asks_about_a_hook_that_only_strikes_by_faults_as_long_as_there_are_some() -> None:
    faults = Faults()
    callbacks = callbacks_of_handler(faults.around(Secured()))
    resolved = resolve(Server(Secured()).options, callbacks, Files())
    routes = Routes(resolved, hooks_of(callbacks))
    struck = {events.Connect, events.Hello, events.Mail, events.Rcpt, events.Data}
    for _ in range(2):
        assert not [event for event in verbs.QUESTIONS if event in routes.asks]
        faults.delay("rcpt", 1.0)
        assert {event for event in verbs.QUESTIONS if event in routes.asks} == struck
        faults.clear()
