"""Faults around a handler, on a real server: each stage, `def` and `async def`, LMTP, delays."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import logging
import threading
import weakref
from typing import Any

import pytest

import ehlo
from ehlo import Faults, Handler, Message, Reply, Session
from ehlo.faults import Stage
from ehlo.faults.fault import STAGES
from ehlo.handler import Composed, callbacks_of_handler
from support.certificates import Certificates
from support.client import Client
from support.hooks import HOOKS, KINDS, Noted, handler_of
from support.logins import cram_md5, plain, scram
from support.serving import DEADLINE, Collector, Serve

MAIL, RCPT = "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"
BODY = "Subject: x\r\n\r\nbody\r\n."
STRUCK = {
    "on_connect": "connect",
    "on_hello": "helo",
    "on_starttls": "starttls",
    "on_mail": "mail",
    "on_rcpt": "rcpt",
    "on_data": "data",
    "on_message": "end",
}

# What is said before the stage, and the command at which the fault strikes
BEFORE: dict[Stage, tuple[tuple[str, ...], str]] = {
    "connect": ((), ""),
    "helo": (("",), "EHLO c"),
    "starttls": (("", "EHLO c"), "STARTTLS"),
    "auth": (("", "EHLO c"), plain("alice", "wonder")),
    "mail": (("", "EHLO c"), MAIL),
    "rcpt": (("", "EHLO c", MAIL), RCPT),
    "data": (("", "EHLO c", MAIL, RCPT), "DATA"),
    "end": (("", "EHLO c", MAIL, RCPT, "DATA"), BODY),
}
# The hooks that the handler has for each stage, and what the client gets if nothing strikes
CALLED: dict[Stage, tuple[str, str]] = {
    "connect": ("on_connect", "220 mx.example smtpd ESMTP Service ready"),
    "helo": ("on_hello", "250-mx.example greets c"),
    "starttls": ("on_starttls", "220 2.0.0 Ready to start TLS"),
    "auth": ("on_auth", "235 2.7.0 Authentication successful"),
    "mail": ("on_mail", "250 2.1.0 Ok"),
    "rcpt": ("on_rcpt", "250 2.1.5 Ok"),
    "data": ("on_data", "354 Start mail input; end with <CRLF>.<CRLF>"),
    "end": ("on_message", "250 2.0.0 Ok: queued"),
}

stages = pytest.mark.parametrize("stage", STAGES)
kinds = pytest.mark.parametrize("kind", KINDS)


def say(client: Client, command: str) -> str:
    return client.say(command) if command else client.reply()


def whole(kind: str, noted: Noted, **answers: Any) -> Handler:
    """Return a handler that has all hooks."""
    usual: dict[str, Any] = dict.fromkeys(HOOKS.keys() - {"on_secret"})
    return handler_of(kind, noted, **{**usual, "on_auth": "alice", **answers})


@stages
@kinds
def test_a_fault_strikes_once_and_does_not_reach_the_handler(
    serve: Serve, certificates: Certificates, stage: Stage, kind: str, no_delay: None
) -> None:
    faults, noted = Faults(), Noted()
    faults.fail(stage, "450 4.2.1 Not now")
    options = {"tls_config": certificates.server(), "auth_mechs": {"PLAIN": True}}
    running = serve(faults.around(whole(kind, noted)), **options)
    hook, usual = CALLED[stage]
    before, command = BEFORE[stage]
    for expected in ("450 Not now" if stage in ("connect", "helo") else "450 4.2.1 Not now", usual):
        noted.calls.clear()
        with running.client() as client:
            for each in before:
                say(client, each)
            assert say(client, command).splitlines()[0] == expected
        running.wait_until_no_sessions()
        assert (hook in noted.names) == (expected == usual)
    assert [fault.used for fault in faults] == [1]


@stages
@kinds
def test_a_drop_closes_without_a_reply(
    serve: Serve, certificates: Certificates, stage: Stage, kind: str
) -> None:
    faults, noted = Faults(), Noted()
    faults.drop(stage)
    options = {"tls_config": certificates.server(), "auth_mechs": {"PLAIN": True}}
    running = serve(faults.around(whole(kind, noted)), **options)
    before, command = BEFORE[stage]
    with running.client() as client:
        for each in before:
            say(client, each)
        client.send(f"{command}\r\n".encode() if command else b"")
        assert client.is_closed()
    running.wait_until_no_sessions()
    assert CALLED[stage][0] not in noted.names


@kinds
def test_the_other_hooks_are_called_as_they_are(serve: Serve, kind: str) -> None:
    noted = Noted()
    running = serve(Faults().around(whole(kind, noted)), auth_mechs={"PLAIN": True})
    with running.ready() as client:
        client.say(plain("alice", "wonder"))
        client.mail()
        client.say("VRFY x")
        client.say("RSET")
    running.wait_until_no_sessions()
    running.run(running.server.shutdown)
    assert noted.names == [
        *("on_startup", "on_connect", "on_hello", "on_auth", "on_mail", "on_rcpt", "on_data"),
        *("on_message", "on_replied", "on_vrfy", "on_reset", "on_disconnect", "on_shutdown"),
    ]
    _, *sessions, _ = noted.contexts
    assert {session.id for session in sessions} == {sessions[0].id}  # the session of each hook


def test_a_hook_without_a_stage_that_is_not_overridden_is_not_there() -> None:
    inner = Collector()
    hooks = callbacks_of_handler(Faults().around(inner)).by_name
    assert hooks.keys() == {*STRUCK, "on_disconnect"}
    assert hooks["on_disconnect"] == inner.on_disconnect


def test_no_login_is_offered_that_the_handler_has_not(serve: Serve) -> None:
    faults = Faults()
    faults.fail("auth", "454 4.7.0 Later")
    with serve(faults.around(Collector())).client() as client:
        assert "AUTH" not in client.hello()
        assert client.say("AUTH PLAIN eA==").startswith("502 ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_a_fault_at_auth_strikes_once_for_a_login_by_each_mechanism(
    serve: Serve, mechanism: str, no_delay: None
) -> None:
    faults = Faults()
    faults.fail("auth", "454 4.7.0 Later")
    faults.fail("auth", "535 5.7.8 Wrong")

    class Users(Collector):
        async def on_auth(self, session: Session, credentials: Any) -> str | None:
            right = credentials.password == "wonder"
            return credentials.username if right else None

        async def on_secret(self, session: Session, username: str) -> str | None:
            return "wonder" if username == "alice" else None

    running = serve(faults.around(Users()), auth_mechs={"PLAIN": True})

    def log_in(client: Client) -> str:
        if mechanism == "PLAIN":
            return client.say(plain("alice", "wonder"))
        if mechanism == "CRAM-MD5":
            return cram_md5(client, "alice", "wonder")
        return scram(client, "alice", "wonder")

    with running.ready() as client:
        if mechanism == "SCRAM-SHA-256":
            # A fault strikes before the salt is sent
            first = "AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=alice,r=x").decode()
            assert client.say(first) == "454 4.7.0 Later"
            assert client.say(first).startswith("535 5.7.8 Wrong")
        else:
            assert log_in(client) == "454 4.7.0 Later"
            assert log_in(client) == "535 5.7.8 Wrong"
        assert log_in(client).startswith("235 ")


def test_the_sender_and_the_recipients_are_those_of_the_transaction(serve: Serve) -> None:
    faults, box = Faults(), Collector()
    faults.fail("mail", "450 4.0.0 Sender", mail_from="bad@example.com", times=None)
    faults.fail("rcpt", "450 4.0.0 Both", to="b@example.com", mail_from="a@example.com")
    faults.fail("data", "450 4.0.0 Data", to="c@example.com", mail_from="@example.org")
    faults.fail("end", "450 4.0.0 End", to="c@example.com", mail_from="@example.org", after=1)
    with serve(faults.around(box)).ready() as client:
        assert client.say("MAIL FROM:<Bad@EXAMPLE.com>") == "450 4.0.0 Sender"
        client.say(MAIL)
        assert client.say(RCPT) == "450 4.0.0 Both"
        assert client.say(RCPT) == "250 2.1.5 Ok"
        client.say("RSET")
        client.say("MAIL FROM:<x@example.org>")
        client.say("RCPT TO:<b@example.com>")
        client.say('RCPT TO:<"C"@Example.com>')
        assert client.say("DATA") == "450 4.0.0 Data"
        client.say("RSET")
        for expected in ("250 2.0.0 Ok: queued", "450 4.0.0 End", "250 2.0.0 Ok: queued"):
            answer = client.mail(sender="x@example.org", recipients=["c@example.com"])
            assert answer == expected
    assert len(box.messages) == 2


# -- LMTP ------------------------------------------------------------------------------------------


def test_in_lmtp_a_fault_for_one_recipient_rejects_for_that_one(serve: Serve) -> None:
    faults, box = Faults(), Collector()
    faults.fail("end", "550 5.1.1 Gone", to="gone@example.com", times=2)
    faults.fail("end", "452 4.2.2 Full", to="full@example.com", times=2)
    with serve(faults.around(box), lmtp=True).client() as client:
        client.reply()
        client.say("LHLO c")

        def deliver(*recipients: str) -> list[str]:
            client.say(MAIL)
            for each in recipients:
                client.say(f"RCPT TO:<{each}@example.com>")
            client.say("DATA")
            client.send(b"x\r\n.\r\n")
            return client.replies(len(recipients))

        assert deliver("b", "gone", "full") == [
            *("250 2.0.0 Ok: queued", "550 5.1.1 Gone", "452 4.2.2 Full")
        ]
        assert deliver("gone", "full") == ["550 5.1.1 Gone", "452 4.2.2 Full"]
        assert deliver("gone", "full") == ["250 2.0.0 Ok: queued"] * 2
        faults.fail("end", "451 4.3.0 All")
        assert deliver("b", "c") == ["451 4.3.0 All"] * 2
    assert [[str(each) for each in message.recipients] for message in box.messages] == [
        ["b@example.com"],  # which alone is for the handler to deliver to
        ["gone@example.com", "full@example.com"],
    ]


def test_in_lmtp_the_handler_may_reject_for_others(serve: Serve) -> None:
    faults = Faults()
    faults.fail("end", "550 5.1.1 Gone", to="gone@example.com")

    def deliver(_session: Session, message: Message) -> Any:
        return {str(message.recipients[0]): Reply(452, "4.2.2", "Full")}

    inner = handler_of("def", on_message=deliver)
    with serve(faults.around(inner), lmtp=True).client() as client:
        client.reply()
        client.say("LHLO c")
        client.say(MAIL)
        for each in ("gone", "b", "c"):
            client.say(f"RCPT TO:<{each}@example.com>")
        client.say("DATA")
        client.send(b"x\r\n.\r\n")
        assert client.replies(3) == ["550 5.1.1 Gone", "452 4.2.2 Full", "250 2.0.0 Ok: queued"]


# -- delays ----------------------------------------------------------------------------------------


class Delays:
    """Replaces the clock of delays: each begins, and ends when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.seconds: list[float] = []
        self.cancelled = threading.Semaphore(0)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        sleep = asyncio.sleep

        async def wait(seconds: float, *arguments: Any) -> None:
            if seconds < 1000:
                await sleep(seconds, *arguments)
                return
            end = asyncio.Event()
            self._waiting.append((asyncio.get_running_loop(), end))
            self.seconds.append(seconds)
            self.begun.release()
            try:
                await end.wait()
            except asyncio.CancelledError:
                self.cancelled.release()
                raise

        monkeypatch.setattr(asyncio, "sleep", wait)

    def end(self) -> None:
        """End the delay that began first."""
        loop, event = self._waiting.pop(0)
        loop.call_soon_threadsafe(event.set)


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Delays:
    """Let delays of 1000 seconds and more last as long as the test wants."""
    return Delays(monkeypatch)


@stages
@kinds
def test_a_delay_is_before_everything_else_and_other_clients_go_on(
    serve: Serve, certificates: Certificates, stage: Stage, kind: str, delay: Delays
) -> None:
    faults, noted = Faults(), Noted()
    faults.delay(stage, 1000)
    options = {"tls_config": certificates.server(), "auth_mechs": {"PLAIN": True}}
    running = serve(faults.around(whole(kind, noted)), handler_timeout=5000.0, **options)
    before, command = BEFORE[stage]
    with running.client() as slow:
        for each in before:
            say(slow, each)
        slow.send(f"{command}\r\n".encode() if command else b"")
        assert delay.begun.acquire(timeout=DEADLINE)
        calls = list(noted.names)
        with running.client() as other:
            for each in before:
                say(other, each)
            assert say(other, command).splitlines()[0] == CALLED[stage][1]
        assert slow.has_heard_nothing()
        assert noted.names[: len(calls)] == calls
        delay.end()
        assert slow.reply().splitlines()[0] == CALLED[stage][1]
    assert delay.seconds == [1000]


def test_many_delays_of_def_hooks_take_no_thread_of_the_pool(serve: Serve, delay: Delays) -> None:
    faults = Faults()
    faults.delay("rcpt", 1000, times=50)
    inner = handler_of("def", on_rcpt=None)
    running = serve(faults.around(inner), threads=2, handler_timeout=5000.0)
    slow = [running.ready() for _ in range(50)]
    for client in slow:
        client.send(f"{MAIL}\r\n{RCPT}\r\n".encode())
    for _ in slow:
        assert delay.begun.acquire(timeout=DEADLINE)
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    for _ in slow:
        delay.end()
    for client in slow:
        assert client.replies(2) == ["250 2.1.0 Ok", "250 2.1.5 Ok"]
        client.close()


def test_a_client_that_leaves_ends_its_delay(serve: Serve, delay: Delays) -> None:
    faults, noted = Faults(), Noted()
    faults.delay("rcpt", 1000)
    running = serve(faults.around(handler_of("async def", noted)), handler_timeout=5000.0)
    with running.ready() as client:
        client.send(f"{MAIL}\r\n{RCPT}\r\n".encode())
        assert delay.begun.acquire(timeout=DEADLINE)
    assert delay.cancelled.acquire(timeout=DEADLINE)
    running.wait_until_no_sessions()


@pytest.mark.parametrize("stage", ["rcpt", "end"])
def test_a_shutdown_ends_a_delay(serve: Serve, delay: Delays, stage: Stage) -> None:
    faults = Faults()
    faults.delay(stage, 1000)
    running = serve(faults.around(Collector()), handler_timeout=5000.0)
    with running.ready() as client:
        client.begin_message()
        assert delay.begun.acquire(timeout=DEADLINE)
        running.run(lambda: running.server.shutdown(0))
        assert delay.cancelled.acquire(timeout=DEADLINE)
        client.rest()


def test_the_timeout_of_hooks_bounds_a_delay(serve: Serve, delay: Delays) -> None:
    faults = Faults()
    faults.delay("rcpt", 1000)
    running = serve(faults.around(Collector()), handler_timeout=0.001)
    with running.ready() as client:
        client.say(MAIL)
        client.send(f"{RCPT}\r\n".encode())
        assert delay.begun.acquire(timeout=DEADLINE)
        assert client.reply().startswith("451 4.4.5")
    assert delay.cancelled.acquire(timeout=DEADLINE)


# -- hooks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (None, "250 2.0.0 Ok: queued"),
        ("id-7", "250 2.0.0 Ok: queued as id-7"),
        (False, "554 5.7.1 Transaction failed"),
        (ehlo.Reject(552, "5.2.2", "Full"), "552 5.2.2 Full"),
        (StopIteration(), "451 4.3.0"),
        (SystemExit(3), "451 4.3.0"),
        (ValueError("a bug"), "451 4.3.0"),
    ],
)
def test_what_the_handler_answers_is_the_same(serve: Serve, answer: Any, reply: str) -> None:
    for kind in KINDS if not isinstance(answer, StopIteration) else ("def",):
        with serve(Faults().around(handler_of(kind, on_message=answer))).ready() as client:
            assert client.mail().startswith(reply)


def test_a_failure_of_the_handler_is_logged_with_its_own_name(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(Handler):
        def on_message(self, session: Session, message: Message) -> str:
            raise ValueError("a bug of mine")

    with serve(Faults().around(Mine())).ready() as client:
        assert client.mail().startswith("451 4.3.0")
    assert "Mine.on_message) failed" in caplog.text
    assert "ValueError: a bug of mine" in caplog.text


def test_a_handler_that_reads_messages_as_streams_still_does(serve: Serve) -> None:
    class Streaming(Collector):
        streams = True

    assert callbacks_of_handler(Faults().around(Streaming())).streams


def test_faults_around_faults_are_looked_at_from_the_outside(serve: Serve) -> None:
    outer, inner = Faults(), Faults()
    outer.fail("rcpt", "450 4.0.0 Outer")
    inner.fail("rcpt", "450 4.0.0 Inner", times=2)
    with serve(outer.around(inner.around(Collector()))).ready() as client:
        client.say(MAIL)
        assert client.say(RCPT) == "450 4.0.0 Outer"
        assert client.say(RCPT) == "450 4.0.0 Inner"
        assert client.say(RCPT) == "450 4.0.0 Inner"
        assert client.say(RCPT) == "250 2.1.5 Ok"


def test_a_def_hook_that_ends_after_the_server_does_no_harm(serve: Serve) -> None:
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def block(*_: object) -> None:
        entered.set()
        leave.wait(DEADLINE)
        left.set()

    server = ehlo.Server(
        Faults().around(handler_of("def", on_rcpt=block)), addr="127.0.0.1:0", grace=0.0
    )
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.begin(MAIL)
        client.send(f"{RCPT}\r\n".encode())
        assert entered.wait(DEADLINE)
    leave.set()
    assert left.wait(DEADLINE)


def test_a_handler_that_cannot_be_called_is_a_type_error() -> None:
    class Wrong(Collector):
        async def on_mail(self, session: Session) -> None: ...  # type: ignore[override]  # tested

    with pytest.raises(TypeError, match="on_mail"):
        Faults().around(Wrong())
    with pytest.raises(TypeError, match="no on_message"):
        Faults().around(Handler())


def test_rules_added_by_threads_while_many_clients_strike(serve: Serve) -> None:
    faults, box = Faults(), Collector()
    running = serve(faults.around(box), max_connections_per_address=100)
    counted = faults.fail("end", "450 4.0.0 Counted", times=60)
    ended = threading.Event()
    answers: list[str] = []

    def change() -> None:
        while not ended.is_set():
            fault = faults.delay("helo", 5, to=None, probability=0.0, times=None)
            faults.fail("rcpt", to="other@example.com").remove()
            fault.remove()

    def send(many: int = 4) -> None:
        with running.ready() as client:
            answers.extend(client.mail() for _ in range(many))

    changing = [threading.Thread(target=change) for _ in range(2)]
    sending = [threading.Thread(target=send) for _ in range(50)]
    for thread in (*changing, *sending):
        thread.start()
    for thread in sending:
        thread.join()
    ended.set()
    for thread in changing:
        thread.join()
    assert answers.count("450 4.0.0 Counted") == counted.used == 60
    assert answers.count("250 2.0.0 Ok: queued") == len(box.messages) == 140
    assert list(faults) == [counted]


def test_a_hook_without_faults_is_not_called_until_there_is_one(serve: Serve) -> None:
    faults, collector = Faults(), Collector()
    callbacks = callbacks_of_handler(faults.around(collector))
    called: list[str] = []

    def counted(name: str) -> Any:
        hook: Any = callbacks.by_name[name]

        async def counting(*arguments: Any) -> Any:
            called.append(name)
            return await hook(*arguments)

        return counting

    hooks = {name: counted(name) for name in callbacks.by_name if name in STRUCK}
    running = serve(Composed(dataclasses.replace(callbacks, by_name=hooks)))
    with running.client() as client:
        client.reply()
        for line in ("HELO c", MAIL, RCPT):
            assert client.say(line).startswith("250 ")
        assert called == []
        faults.fail("data", "451 4.3.0 Later")
        assert client.say("DATA") == "451 4.3.0 Later"
        assert called == ["on_data"]
        assert client.say("DATA").startswith("354 ")  # a used fault is a fault still
        assert client.say(BODY).startswith("250 ")
    assert called == ["on_data", "on_data", "on_message"]


class Failing(Handler):
    """Fails for each message, in a thread, and keeps no more than weak references."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Message]] = []

    def on_message(self, _session: Session, message: Message) -> None:
        self.refs.append(weakref.ref(message))
        raise RuntimeError


def test_a_message_for_which_a_hook_behind_faults_has_failed_is_deleted_at_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception refers to the frames that it came through, and these to the message."""
    caplog.set_level(logging.CRITICAL, "ehlo")  # its records keep the exception
    handler = Failing()
    running = serve(Faults().around(handler))
    gc.disable()
    try:
        with running.ready() as client:
            for _ in range(3):
                assert client.mail().startswith("451 4.3.0")
            # The thread of a hook may still have the exception when the reply is here
            running.wait_until(lambda: [ref() for ref in handler.refs[:2]] == [None, None])
    finally:
        gc.enable()
