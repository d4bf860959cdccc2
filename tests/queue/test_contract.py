"""The contract of the queue: what decides before the 250, and what each outcome means after it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import ehlo
from ehlo import Address, Handler, Message, Queue, Reject, Reply, Retry, Session
from support.client import Client
from support.queueing import Bench, FileBench, Player, deliver, serving, wait_until
from support.serving import DEADLINE

QUEUED = "250 2.0.0 Ok: queued as "


def test_a_handler_gets_the_message_after_the_250_and_then_nothing_is_left(bench: Bench) -> None:
    go = asyncio.Event()
    player = Player(lambda _: go.wait())
    with serving(bench.queue(player)) as server:
        reply = deliver(server, "b@x.test", body=b"Subject: x\r\n\r\nhello\r\n")
        assert reply.startswith(QUEUED)
        assert server.running is not None
        wait_until(server, lambda: bench.rows() == [('["b","x.test"]', "running")])
        server.running.loop.call_soon_threadsafe(go.set)
        _, message = player.next()
        assert message.id == reply.removeprefix(QUEUED)
        assert (str(message.sender), *map(str, message.recipients)) == ("a@x.test", "b@x.test")
        assert message.body == b"Subject: x\r\n\r\nhello\r\n"
        assert message.data == message.trace + message.body
        assert message.trace.startswith(b"Received: from client.example")
        assert message.content.subject == "x"
        assert message.attempt == 1
        assert 0 <= bench.now() - message.accepted <= DEADLINE
        wait_until(server, lambda: bench.rows() == [])


def test_a_def_handler_and_the_form_with_four_arguments_run_in_a_thread(bench: Bench) -> None:
    calls: list[tuple[object, ...]] = []
    called = threading.Event()

    def handler(remote_addr: Any, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
        calls.append((remote_addr.host, mail_from, rcpt_tos, data[-3:], threading.current_thread()))
        called.set()

    with serving(bench.queue(handler)) as server:
        deliver(server, "b@x.test")
        assert called.wait(60)
    ((host, sender, recipients, data, thread),) = calls
    assert (host, sender, recipients, data) == ("127.0.0.1", "a@x.test", ["b@x.test"], b"x\r\n")
    assert thread is not threading.main_thread()


def test_the_hooks_before_the_message_decide_before_the_250(bench: Bench) -> None:
    player = Player()

    class Inner(Handler):
        def on_rcpt(self, session: Session, recipient: Address, params: Any) -> None:
            if recipient.local == "unknown":
                raise Reject(550, "5.1.1", "No such user")
            session.state.seen = True

        async def on_message(self, session: Session, message: Message) -> Any:
            return await player(session, message)

    with serving(bench.queue(Inner)) as server, Client(server.addresses[0]) as client:
        answers = client.begin(
            "MAIL FROM:<a@x.test>", "RCPT TO:<unknown@x.test>", "RCPT TO:<b@x.test>", "DATA"
        )
        assert answers[1] == "550 5.1.1 No such user"
        client.send(b"x\r\n.\r\n")
        assert client.reply().startswith(QUEUED)
        session, message = player.next()
        assert message.recipients == ["b@x.test"]
        assert vars(session.state) == vars(message.state) == {}
        assert session.transaction is None


def test_rcpt_handler_and_auth_handler_work_with_a_queue_around_a_function(bench: Bench) -> None:
    player = Player()

    def rcpt(remote_addr: object, mail_from: str, rcpt_to: str) -> bool:
        return rcpt_to == "b@x.test"

    with serving(bench.queue(player), rcpt_handler=rcpt) as server:
        with Client(server.addresses[0]) as client:
            answers = client.begin("MAIL FROM:<>", "RCPT TO:<c@x.test>", "RCPT TO:<b@x.test>")
        assert [answer[:3] for answer in answers] == ["250", "550", "250"]

    class Own(Handler):
        def on_rcpt(self, session: Session, recipient: Address, params: Any) -> None: ...

        def on_message(self, session: Session, message: Message) -> None: ...

    with pytest.raises(TypeError, match="rcpt_handler cannot be combined with on_rcpt"):
        ehlo.Server(bench.queue(Own), rcpt_handler=rcpt)


def test_a_session_has_the_facts_of_the_time(bench: Bench) -> None:
    player = Player(Retry(after=1))
    with serving(bench.queue(player), xclient_networks=["127.0.0.1"]) as server:
        with Client(server.addresses[0]) as client:
            client.begin("XCLIENT ADDR=192.0.2.7 NAME=mx.test LOGIN=tim")
            client.say("EHLO client.example")
            for line in ("MAIL FROM:<a@x.test> RET=HDRS", "RCPT TO:<b@x.test> NOTIFY=NEVER"):
                assert client.say(line).startswith("250")
            client.say("DATA")
            client.send(b"x\r\n.\r\n")
            assert client.reply().startswith(QUEUED)
        first, _ = player.next()
        wait_until(server, lambda: bench.rows("state") == [("waiting",)])
        bench.advance(1)
        session, message = player.next()
        assert session is not first
        assert (session.peer.host, session.rdns, session.user) == ("192.0.2.7", "mx.test", "tim")
        assert (session.helo, session.esmtp, session.tls) == ("client.example", True, None)
        assert session.xclient["ADDR"] == "192.0.2.7"
        assert session.id in message.id
        assert message.sender.params["RET"] == "HDRS"
        assert message.recipients[0].params["NOTIFY"] == frozenset({"NEVER"})


class Unreadable(Exception):  # noqa: N818  also a key of a mapping
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Retry(), "the handler asked for another attempt"),
        (Reject(450, "4.2.1", "Full"), "450 4.2.1 Full"),
        (Reply(450, "4.2.1", "Full"), "450 4.2.1 Full"),
        (OSError("no \x1b[0m route"), "OSError: no \\x1b[0m route"),
        (SystemExit(3), "SystemExit: 3"),
        ("550 No", "451 4.3.0"),
        (Unreadable(), "the outcome of support.queueing.Player cannot be read"),
        (lambda _: {Unreadable(): None}, "the outcome of support.queueing.Player cannot be read"),
    ],
    ids=[*"12345678"],
)
def test_a_4xx_and_any_exception_try_again(bench: Bench, outcome: object, error: str) -> None:
    player = Player(outcome)
    with serving(bench.queue(player, retry_after=100)) as server:
        deliver(server, "b@x.test")
        player.next()
        wait_until(server, lambda: bench.rows("state, attempts") == [("waiting", 1)])
        ((due, accepted, shown),) = bench.rows("due, accepted, deliveries.error")
        assert 80 <= due - accepted <= 120 + DEADLINE
        assert shown.startswith(error)
        bench.advance(120)
        assert player.next()[1].attempt == 2
        wait_until(server, lambda: bench.rows() == [])


@pytest.mark.parametrize("outcome", [False, Reject(550, "5.1.1", "Gone"), Reply(550, "5.1.1", "G")])
def test_false_and_a_5xx_end_the_delivery_as_failed_and_keep_the_mail(
    bench: Bench, outcome: object
) -> None:
    player = Player(outcome)
    with serving(bench.queue(player, keep_dead="2h")) as server:
        deliver(server, "b@x.test")
        player.next()
        wait_until(server, lambda: bench.rows("state, body") == [("failed", SIMPLE)])
        bench.advance(2 * 3600 + 1)
        wait_until(server, lambda: bench.rows() == [])
        assert player.calls.empty()


SIMPLE = b"Subject: x\r\n\r\nx\r\n"


def test_retry_says_when(bench: Bench) -> None:
    player = Player(Retry(after=7))
    with serving(bench.queue(player)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state", ("waiting",))
        ((due, accepted),) = bench.rows("due, accepted")
        assert 7 <= due - accepted <= 7 + DEADLINE
    with pytest.raises(ValueError, match="after: -1"):
        Retry(after=-1)


@pytest.mark.parametrize("error", [Reject(550, "5.1.1", "No"), Retry(after=1)])
def test_an_exception_that_is_raised_for_each_mail_keeps_none_of_them(
    bench: Bench, error: Exception
) -> None:
    player = Player(error, error)
    with serving(bench.queue(player)) as server:
        for name in ("b@x.test", "c@x.test"):
            deliver(server, name)
            player.next()
    assert error.__traceback__ is None


def test_each_recipient_has_its_own_outcome(bench: Bench) -> None:
    def settle(message: Message) -> None:
        message.refuse("b@x.test", Reply(550, "5.1.1", "No"))
        message.refuse("c@x.test", Reply(450, "4.2.1", "Later"))

    player = Player(settle)
    with serving(bench.queue(player)) as server:
        deliver(server, "a@x.test", "b@x.test", "c@x.test")
        _, message = player.next()
        assert message.recipients == ["a@x.test", "b@x.test", "c@x.test"]
        both = [('["b","x.test"]', "failed"), ('["c","x.test"]', "waiting")]
        wait_until(server, lambda: bench.rows() == both)
        bench.advance(6)
        _, message = player.next()
        assert message.recipients == ["c@x.test"]
        wait_until(server, lambda: bench.rows() == both[:1])


def test_what_was_refused_stays_settled_when_the_handler_fails_afterwards(bench: Bench) -> None:
    def settle(message: Message) -> None:
        message.refuse("b@x.test", Reply(550, "5.1.1", "No"))
        raise OSError("no route")

    player = Player(settle)
    inner = Player()

    async def handler(session: Session, message: Message) -> Any:
        try:
            return await player(session, message)
        finally:
            inner.calls.put((session, message))  # type: ignore[arg-type]

    with serving(bench.queue(handler)) as server:
        deliver(server, "a@x.test", "b@x.test")
        inner.next()
        both = [('["a","x.test"]', "waiting"), ('["b","x.test"]', "failed")]
        wait_until(server, lambda: bench.rows() == both)


def test_a_mapping_has_a_result_for_each_recipient(bench: Bench) -> None:
    player = Player(
        {"a@x.test": True, "b@x.test": Reply(550, "5.1.1", "No")}, {"who@x.test": False}
    )
    with serving(bench.queue(player)) as server:
        deliver(server, "a@x.test", "b@x.test")
        wait_until(server, lambda: bench.rows() == [('["b","x.test"]', "failed")])
        deliver(server, "d@x.test")
        wait_until(server, lambda: ('["d","x.test"]', "waiting") in bench.rows())


def test_a_poison_message_is_dead_after_its_attempts_with_the_mail_and_the_error(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    player = Player(*[OSError("poison")] * 3)
    with serving(bench.queue(player, max_attempts=3)) as server:
        deliver(server, "b@x.test")
        for attempt in (1, 2, 3):
            assert player.next()[1].attempt == attempt
            state = "waiting" if attempt < 3 else "dead"
            bench.expect(server, "state, attempts", (state, attempt))
            bench.advance(3600)
        ((error, body, due),) = bench.rows("deliveries.error, body, due")
        assert error == "OSError: poison (3 attempts failed)"
        assert (body, due) == (SIMPLE, None)
        deliver(server, "c@x.test")
        assert player.next()[1].recipients == ["c@x.test"]
    assert "OSError: poison" in caplog.text


def test_a_message_that_is_too_old_is_dead(bench: Bench) -> None:
    player = Player(Retry(after=50), Retry(after=50))
    with serving(bench.queue(player, max_age=60)) as server:
        deliver(server, "b@x.test")
        player.next()
        wait_until(server, lambda: bench.rows("state") == [("waiting",)])
        bench.advance(61)
        player.next()
        wait_until(server, lambda: bench.rows("state") == [("dead",)])
        ((error,),) = bench.rows("deliveries.error")
        assert error.endswith("(older than 60 seconds)")


def test_a_max_age_of_0_is_one_attempt(bench: Bench) -> None:
    player = Player(Retry(after=50))
    with serving(bench.queue(player, max_age=0)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state, attempts", ("dead", 1))


def test_a_task_that_hangs_loses_its_attempt_and_keeps_no_other_from_its_own(
    bench: Bench,
) -> None:
    player = Player()

    async def slow(session: Session, message: Message) -> None:
        if message.recipients == ["hang@x.test"]:
            player.calls.put((session, message))  # type: ignore[arg-type]
            await asyncio.Event().wait()
        await player(session, message)

    queue = bench.queue(slow, timeout=30, max_attempts=2, deliveries=2)
    with serving(queue) as server:
        deliver(server, "hang@x.test")
        for attempt in (1, 2):
            assert player.next()[1].attempt == attempt
            for other in ("b@x.test", "c@x.test", "d@x.test"):
                deliver(server, other)
                assert player.next()[1].recipients == [other]
            wait_until(server, lambda: len(bench.rows()) == 1)
            bench.advance(31)
            state = "waiting" if attempt == 1 else "dead"
            bench.expect(server, "state", (state,))
            bench.advance(10)
        ((error,),) = bench.rows("deliveries.error")
        assert error == "took longer than 30 seconds (2 attempts failed)"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_call_that_hangs_has_all_attempts_of_its_message_and_keeps_no_other_from_its_own(
    kind: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    release, player = {"hang": threading.Event(), "hang2": threading.Event()}, Player()

    def blocking(session: Session, message: ehlo.queue.QueuedMessage) -> None:
        player.calls.put((session, message))
        if message.recipients[0].local in release:
            release[message.recipients[0].local].wait(60)

    async def stubborn(session: Session, message: ehlo.queue.QueuedMessage) -> None:
        player.calls.put((session, message))
        hang = release.get(message.recipients[0].local)
        while hang is not None and not hang.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.to_thread(hang.wait, 60)

    def others_are_delivered(*hanging: tuple[str, int]) -> None:
        for other in ("b@x.test", "c@x.test"):
            deliver(server, other)
            assert player.next()[1].recipients == [other]
        bench.expect(server, "state, attempts", *hanging)

    handler = blocking if kind == "def" else stubborn
    queue = bench.queue(handler, timeout=30, max_attempts=3, deliveries=2)
    with serving(queue) as server:
        deliver(server, "hang@x.test")
        assert player.next()[1].attempt == 1
        others_are_delivered(("running", 1))
        bench.advance(31)
        bench.expect(server, "state, attempts", ("waiting", 1))
        bench.advance(10)
        bench.expect(server, "state, attempts", ("waiting", 2))
        others_are_delivered(("waiting", 2))
        bench.advance(20)
        bench.expect(server, "state, attempts", ("dead", 3))
        ((error,),) = bench.rows("deliveries.error")
        assert error == "an attempt before has not ended (3 attempts failed)"
        others_are_delivered(("dead", 3))
        deliver(server, "hang2@x.test")
        assert player.next()[1].recipients == ["hang2@x.test"]
        bench.advance(31)
        bench.expect(server, "state", ("dead",), ("waiting",))
        bench.advance(1)  # which a task has to end
        wait_until(server, lambda: "nothing is delivered until a call of" in caplog.text)
        release["hang2"].set()
        others_are_delivered(("dead", 3), ("waiting", 1))
        bench.advance(10)
        assert player.next()[1].recipients == ["hang2@x.test"]
        bench.expect(server, "state", ("dead",))
        release["hang"].set()


def test_a_handler_sees_no_context_variable_of_the_attempt_before(bench: Bench) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []
    go, player = asyncio.Event(), Player()

    async def handler(session: Session, message: ehlo.queue.QueuedMessage) -> Any:
        seen.append(user.get())
        user.set(str(message.recipients[0]))
        await go.wait()
        return await player(session, message)

    with serving(bench.queue(handler, deliveries=1)) as server:
        for recipient in ("a@x.test", "b@x.test", "c@x.test"):
            deliver(server, recipient)
        assert server.running is not None
        server.running.loop.call_soon_threadsafe(go.set)
        for _ in range(3):
            player.next()
    assert seen == ["nobody"] * 3


def test_a_lease_is_renewed_while_a_handler_works(bench: Bench) -> None:
    begun, go, player = threading.Event(), asyncio.Event(), Player()

    async def handler(session: Session, message: Message) -> Any:
        begun.set()
        await go.wait()
        return await player(session, message)

    with serving(bench.queue(handler, lease=60)) as server:
        deliver(server, "b@x.test")
        assert begun.wait(DEADLINE)
        for _ in range(5):
            bench.advance(30)
            wait_until(server, lambda: bench.rows("due")[0][0] - bench.now() > 31)
        assert server.running is not None
        server.running.loop.call_soon_threadsafe(go.set)
        assert player.next()[1].attempt == 1
        bench.expect(server, "state")


def test_a_large_body_is_a_file_until_its_delivery(tmp_path: Path) -> None:
    body = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000
    bench, player = FileBench(tmp_path), Player(Retry(after=1))
    bodies = tmp_path / "mail-0.db-bodies"
    with serving(bench.queue(player), spool_threshold=100_000) as server:
        deliver(server, "b@x.test", body=body)
        player.next()
        (file,) = bodies.iterdir()
        assert file.read_bytes() == body
        assert file.stat().st_mode & 0o777 == 0o600
        bench.expect(server, "state", ("waiting",))
        bench.advance(2)
        _, message = player.next()
        assert message.spooled
        assert message.size == len(body)
        assert message.body == body
        assert b"".join(message.stream()) == message.file.read() == message.data
        wait_until(server, lambda: list(bodies.iterdir()) == [])


def test_the_digest_is_equal_if_a_client_sends_the_same_again(bench: Bench) -> None:
    player = Player()
    large = b"x\r\n" * 50_000
    with serving(bench.queue(player), spool_threshold=100_000) as server:
        digests = []
        mails: list[tuple[str, bytes]] = [("b@x.test", SIMPLE)] * 2 + [("c@x.test", SIMPLE)]
        for recipient, body in [*mails, ("b@x.test", large), ("b@x.test", large)]:
            deliver(server, recipient, body=body)
            digests.append(player.next()[1].digest)
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == digests[4] != digests[0]
    assert len(digests[0]) == 64


def test_in_lmtp_each_recipient_gets_its_reply_from_the_commit(bench: Bench) -> None:
    player = Player(False)
    with serving(bench.queue(player), lmtp=True) as server, Client(server.addresses[0]) as client:
        client.reply()
        for line in ("LHLO c", "MAIL FROM:<>", "RCPT TO:<a@x.test>", "RCPT TO:<b@x.test>", "DATA"):
            client.say(line)
        client.send(b"x\r\n.\r\n")
        assert [client.reply()[:24] for _ in range(2)] == [QUEUED, QUEUED]
        assert len(player.next()[1].recipients) == 2


def test_the_hooks_of_the_start_and_the_end_surround_all_deliveries(bench: Bench) -> None:
    events: list[str] = []

    class Inner(Handler):
        def on_startup(self, server: object) -> None:
            events.append("startup")

        async def on_shutdown(self, server: object) -> None:
            events.append("shutdown")

        async def on_message(self, session: Session, message: Message) -> None:
            await asyncio.sleep(0)
            events.append("message")

    with serving(bench.queue(Inner())) as server:
        for _ in range(5):
            deliver(server, "b@x.test")
        wait_until(server, lambda: len(events) == 6)
    assert events == ["startup", *["message"] * 5, "shutdown"]


def test_the_end_lets_deliveries_end(bench: Bench) -> None:
    begun, ended = threading.Event(), threading.Event()

    def handler(message: Message) -> None:
        begun.set()
        ended.wait(60)

    with serving(bench.queue(handler)) as server:
        deliver(server, "b@x.test")
        assert begun.wait(60)
        threading.Timer(0, ended.set).start()
    assert bench.rows() == []


def test_what_the_end_cuts_off_is_given_back_and_does_not_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.server.run._LEAST_FOR_SHUTDOWN", 0.1)
    begun = threading.Event()

    async def handler(message: ehlo.queue.QueuedMessage) -> None:
        if message.attempt == 1:
            raise OSError("no route")
        begun.set()
        await asyncio.Event().wait()

    with serving(bench.queue(handler), grace=0) as server:
        deliver(server, "b@x.test")
        bench.expect(server, "state, attempts", ("waiting", 1))
        bench.advance(6)
        assert begun.wait(DEADLINE)
        bench.expect(server, "state, attempts", ("running", 2))
    given_back = [("waiting", 1, "OSError: no route")]
    assert bench.rows("state, attempts, deliveries.error") == given_back


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lease": 0}, "lease: 0: write more than 0 seconds"),
        ({"retry_after": "soon"}, "retry_after: 'soon': not a duration"),
        ({"max_attempts": 0}, "max_attempts: 0: write a whole number that is 1 or more"),
        ({"deliveries": -1}, "deliveries: -1: write a whole number that is 0 or more"),
        ({"keep_dead": -1}, "keep_dead: -1: not a duration"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_option(
    options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Queue("mail.db", print, **options)


@pytest.mark.parametrize("url", ["", "mysql://db/mail", "dir/", "redis://x"])
def test_a_url_that_is_no_path_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"write .*mail\.db"):
        Queue(url, Player())


def test_two_queues_are_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match=r"two queues, one\.db and two\.db"):
        Queue("one.db", Queue("two.db", Player()))


def test_what_is_no_handler_is_an_error() -> None:
    class Deaf(Handler):
        pass

    with pytest.raises(TypeError, match="Deaf has no on_message"):
        Queue("mail.db", Deaf)
    with pytest.raises(TypeError, match=r"handler must be a function or an ehlo\.Handler"):
        Queue("mail.db", "app:app")


def test_the_log_names_what_was_deferred_and_what_failed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    player = Player(Retry(after=1, text="not now"), False)
    with (
        caplog.at_level(logging.WARNING, "ehlo.queue"),
        serving(bench.queue(player)) as server,
    ):
        deliver(server, "b@x.test")
        player.next()
        wait_until(server, lambda: bench.rows("state") == [("waiting",)])
        bench.advance(1)
        player.next()
        wait_until(server, lambda: bench.rows("state") == [("failed",)])
    assert "delivery deferred: id=" in caplog.text
    assert "to=b@x.test attempts=1 error=not now" in caplog.text
    assert "delivery failed: id=" in caplog.text


def test_the_recipients_of_a_message_are_tried_again_together(bench: Bench) -> None:
    """Each attempt is for all that are still due: a wait for each of them would part them."""
    player = Player(*[OSError("busy")] * 2)
    with serving(bench.queue(player)) as server:
        deliver(server, *(f"{number}@x.test" for number in range(8)))
        for wait in (6, 12):  # 5 and 10 seconds, and a fifth
            assert len(player.next()[1].recipients) == 8
            bench.expect(server, "state", *[("waiting",)] * 8)
            assert len(set(bench.rows("due"))) == 1
            bench.advance(wait)
        assert len(player.next()[1].recipients) == 8
        bench.expect(server, "state")
