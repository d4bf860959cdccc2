"""LMTP on a real server: an answer for each recipient, whatever the handler does (RFC 2033)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Reject, Reply, Server, Session
from support.client import Client
from support.hooks import KINDS, Noted, handler_of
from support.serving import DEADLINE, Box, Collector, Running, Serve

kinds = pytest.mark.parametrize("kind", KINDS)
ONE, TWO, THREE = "one@example.com", "two@example.com", "three@example.com"
QUEUED = "250 2.0.0 Ok: queued"
TROUBLE = "451 4.3.0 Requested action aborted: local error in processing"
FULL = Reply(452, "4.2.2", "Mailbox full")
GONE = Reply(550, "5.1.1", "No such user")


def ready(running: Running, **options: Any) -> Client:
    """A new connection that has said LHLO."""
    client = running.client(**options)
    client.reply()
    assert client.say("LHLO client.example").startswith("250-mx.example greets client.example\n")
    return client


def deliver(client: Client, *recipients: str, way: str = "DATA") -> list[str]:
    """A whole transaction; the final replies, and nothing is said beyond them."""
    assert client.say("MAIL FROM:<a@example.com>").startswith("250")
    for recipient in recipients:
        assert client.say(f"RCPT TO:<{recipient}>").startswith("250")
    if way == "DATA":
        assert client.say("DATA").startswith("354")
        client.send(b"x\r\n.\r\n")
    else:
        client.send(b"BDAT 3 LAST\r\nx\r\n")
    replies = client.replies(len(recipients))
    assert client.say("NOOP") == "250 2.0.0 Ok"
    return replies


def outcome(serve: Serve, kind: str, act: Any, *recipients: str, **options: Any) -> list[str]:
    """The replies when `on_message` does this."""
    running = serve(handler_of(kind, on_message=act), lmtp=True, **options)
    with ready(running) as client:
        return deliver(client, *(recipients or (ONE, TWO, THREE)))


# -- answers for each ----------------------------------------------------------------------------


def refusing(*refused: tuple[str, Reply], result: Any = None) -> Callable[[Session, Message], Any]:
    def act(_session: Session, message: Message) -> Any:
        assert message.per_recipient
        for recipient, reply in refused:
            message.refuse(recipient, reply)
        return result

    return act


@kinds
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_some_recipients_are_rejected_and_the_others_accepted(
    serve: Serve, kind: str, way: str
) -> None:
    act = refusing((TWO, FULL), (THREE, GONE))
    running = serve(handler_of(kind, on_message=act), lmtp=True)
    with ready(running) as client:
        assert deliver(client, ONE, TWO, THREE, way=way) == [QUEUED, str(FULL), str(GONE)]


@kinds
def test_message_refuse_combines_with_a_result_for_the_others(serve: Serve, kind: str) -> None:
    act = refusing((TWO, FULL), result="4711")
    queued = "250 2.0.0 Ok: queued as 4711"
    assert outcome(serve, kind, act) == [queued, str(FULL), queued]


@kinds
def test_a_mapping_has_an_answer_for_those_that_it_names(serve: Serve, kind: str) -> None:
    result = {ONE: FULL, THREE: "4711", TWO: None}
    assert outcome(serve, kind, result, ONE, TWO, THREE, "four@example.com") == [
        *(str(FULL), QUEUED),
        *("250 2.0.0 Ok: queued as 4711", QUEUED),
    ]


@kinds
def test_a_mapping_may_be_by_address(serve: Serve, kind: str) -> None:
    def act(_session: Session, message: Message) -> dict[Address, Reply]:
        return {message.recipients[1]: GONE}

    assert outcome(serve, kind, act) == [QUEUED, str(GONE), QUEUED]


def test_an_empty_mapping_accepts_for_all(serve: Serve) -> None:
    assert outcome(serve, "def", lambda *_: {}) == [QUEUED] * 3


def test_message_refuse_overrides_a_mapping(serve: Serve) -> None:
    act = refusing((ONE, FULL), result={ONE: "4711", TWO: GONE})
    assert outcome(serve, "def", act) == [str(FULL), str(GONE), QUEUED]


def test_a_recipient_given_twice_is_answered_twice(serve: Serve) -> None:
    act = refusing((ONE, FULL))
    assert outcome(serve, "def", act, ONE, TWO, ONE) == [str(FULL), QUEUED, str(FULL)]
    assert outcome(serve, "def", {TWO: GONE}, TWO, TWO) == [str(GONE)] * 2


def test_a_reply_of_the_handlers_own_may_accept(serve: Serve) -> None:
    mine = Reply(250, "2.1.5", "Into the box")
    assert outcome(serve, "def", {TWO: mine}) == [QUEUED, str(mine), QUEUED]
    assert outcome(serve, "def", mine) == [str(mine)] * 3


@kinds
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Reject(550, "5.7.1", "No"), "550 5.7.1 No"),
        (Reply(452, "4.3.1", "Later"), "452 4.3.1 Later"),
        (None, QUEUED),
        ("4711", "250 2.0.0 Ok: queued as 4711"),
    ],
)
def test_one_answer_is_that_of_all(serve: Serve, kind: str, act: Any, said: str) -> None:
    assert outcome(serve, kind, act) == [said] * 3


def test_a_rejection_for_all_overrides_those_for_some(serve: Serve) -> None:
    act = refusing((ONE, FULL), result=GONE)
    assert outcome(serve, "def", act) == [str(GONE)] * 3


def test_the_message_names_its_rejected_recipients(serve: Serve) -> None:
    seen: list[Any] = []

    def act(_session: Session, message: Message) -> None:
        message.refuse(message.recipients[1], FULL)
        message.refuse(TWO, GONE)  # the last word counts
        seen.append(dict(message.refusals))

    assert outcome(serve, "def", act) == [QUEUED, str(GONE), QUEUED]
    assert seen == [{TWO: GONE}]


def test_a_recipient_rejected_at_rcpt_has_no_reply_at_the_end(serve: Serve) -> None:
    def no(_session: Session, recipient: Address, _params: object) -> None:
        if str(recipient) == TWO:
            raise Reject(550, "5.1.1", "No such user")

    running = serve(handler_of("def", on_rcpt=no), lmtp=True)
    with ready(running) as client:
        client.say("MAIL FROM:<a@example.com>")
        assert [client.say(f"RCPT TO:<{each}>")[:3] for each in (ONE, TWO)] == ["250", "550"]
        client.say("DATA")
        client.send(b"x\r\n.\r\nNOOP\r\n")
        assert client.replies(2) == [QUEUED, "250 2.0.0 Ok"]


# -- trouble -------------------------------------------------------------------------------------


class Strange:
    """Return a value of a wrong type."""


def strange(*_: object) -> Any:
    return Strange()


@kinds
@pytest.mark.parametrize(
    "act",
    [
        RuntimeError("a bug"),
        refusing(("stranger@example.com", FULL)),
        refusing(("ONE@example.com", FULL)),
        refusing((ONE, Reply(250, "2.0.0", "Ok"))),
        {"stranger@example.com": FULL},
        {ONE: FULL, "<two@example.com>": FULL},
        {3: FULL},
    ],
    ids=lambda act: type(act).__name__,  # no `repr`, since some have an address in memory
)
def test_our_own_trouble_is_that_of_each_and_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: str, act: Any
) -> None:
    assert outcome(serve, kind, act) == [TROUBLE] * 3
    assert ") failed" in caplog.text or "keys that are not recipients" in caplog.text


@pytest.mark.parametrize(
    ("result", "replies"),
    [
        (strange, [QUEUED] * 3),
        ([FULL, None, None], [TROUBLE] * 3),
        ([None] * 3, [QUEUED] * 3),
        (Reply(354), [QUEUED] * 3),
        ("a\r\n250 b", [QUEUED] * 3),
        ({"stranger@example.com": "4711"}, [QUEUED] * 3),
        ({ONE: Strange(), TWO: FULL}, [QUEUED, str(FULL), QUEUED]),
        ({ONE: "a\r\nb"}, [QUEUED] * 3),
        ({ONE: Reply(354)}, [QUEUED] * 3),
        ({ONE: {TWO: FULL}, TWO: {TWO: 1}}, [TROUBLE, QUEUED, QUEUED]),
        ({ONE: "550 No"}, [TROUBLE, QUEUED, QUEUED]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_answer_is_logged_and_accepts_unless_it_reads_as_a_rejection(
    serve: Serve, caplog: pytest.LogCaptureFixture, result: Any, replies: list[str]
) -> None:
    """The handler has returned, so that its messages are stored."""
    assert outcome(serve, "async def", result) == replies
    assert "; return None, True, False, a queue id (str) or a Reply" in caplog.text


def test_true_and_false_are_answers_for_one_recipient(serve: Serve) -> None:
    failed = "554 5.7.1 Transaction failed"
    assert outcome(serve, "async def", {ONE: True, TWO: False}) == [QUEUED, failed, QUEUED]
    assert outcome(serve, "async def", lambda *_: False) == [failed] * 3


def test_what_a_handler_does_to_the_list_of_recipients_changes_no_reply(serve: Serve) -> None:
    def act(_session: Session, message: Message) -> None:
        message.refuse(TWO, FULL)
        message.recipients.clear()

    assert outcome(serve, "def", act) == [QUEUED, str(FULL), QUEUED]


@kinds
@pytest.mark.parametrize("act", [refusing((ONE, FULL)), {"one@example.com": FULL}])
def test_smtp_has_no_answers_for_each(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: str, act: Any
) -> None:
    def without_asking(session: Session, message: Message) -> Any:
        assert not message.per_recipient
        if callable(act):
            message.refuse(ONE, FULL)
        return act

    running = serve(handler_of(kind, on_message=without_asking))
    with running.ready() as client:
        assert client.mail(recipients=[ONE, TWO]) == TROUBLE
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert "on_message" in caplog.text


def test_a_handler_over_its_deadline_is_a_reply_for_each(serve: Serve) -> None:
    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    class Stuck(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            message.refuse(ONE, FULL)
            await forever()

    running = serve(Stuck(), lmtp=True, handler_timeout=0.3)
    with ready(running) as client:
        late = "451 4.4.5 Requested action aborted: took too long"
        assert deliver(client, ONE, TWO) == [late] * 2


def test_a_mail_loop_is_a_reply_for_each(serve: Serve) -> None:
    running = serve(Box(), lmtp=True)
    with ready(running) as client:
        for command in ("MAIL FROM:<a@x>", "RCPT TO:<b@x>", "RCPT TO:<c@x>", "DATA"):
            client.say(command)
        client.send(b"Received: from x by y; now\r\n" * 100 + b"\r\n.\r\n")
        assert client.replies(2) == ["554 5.4.6 Too many hops: mail loop detected"] * 2


def test_a_body_over_the_limit_is_a_reply_for_each(serve: Serve) -> None:
    running = serve(Box(), lmtp=True, max_size=2)
    with ready(running) as client:
        assert deliver(client, ONE, TWO) == ["552 5.3.4 Message size exceeds fixed limit"] * 2


def test_a_closing_reply_is_sent_with_the_others_and_then_closes(serve: Serve) -> None:
    running = serve(handler_of("def", on_message={ONE: Reply(421, "4.3.2", "Bye")}), lmtp=True)
    with ready(running) as client:
        client.send(
            b"MAIL FROM:<a@x>\r\nRCPT TO:<one@example.com>\r\nRCPT TO:<two@example.com>\r\n"
            b"BDAT 0 LAST\r\nNOOP\r\n"
        )
        assert client.rest().endswith(b"250 2.1.5 Ok\r\n421 4.3.2 Bye\r\n250 2.0.0 Ok: queued\r\n")


# -- the client goes -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reset", "end"])
def test_a_client_that_is_gone_before_the_replies_does_not_take_the_message_along(
    serve: Serve, way: str, loop_name: str
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    noted = Noted()

    class Slow(Handler):
        def on_message(self, session: Session, message: Message) -> dict[str, Reply]:
            inside.set()
            assert go_on.wait(DEADLINE)
            noted.note("on_message", (message.id,))
            return {TWO: FULL}

        def on_replied(self, session: Session, message: Message, sent: bool) -> None:
            noted.note("on_replied", (message.id, sent))

    running = serve(Slow(), lmtp=True, loop=loop_name)
    client = ready(running)
    client.send(
        b"MAIL FROM:<a@x>\r\nRCPT TO:<one@example.com>\r\nRCPT TO:<two@example.com>\r\n"
        b"BDAT 3 LAST\r\nx\r\n"
    )
    client.replies(3)
    assert inside.wait(DEADLINE)
    if way == "reset":
        client.reset()
        running.wait_until_lost()
    else:
        client.end()
    go_on.set()
    if way == "end":
        assert client.rest().decode().splitlines() == [QUEUED, str(FULL)]
    client.close()
    running.wait_until_no_sessions()
    (message_id,) = noted.of("on_message")[0]
    assert noted.of("on_replied") == [(message_id, way == "end")]


def test_on_replied_is_told_once_for_all_recipients(serve: Serve) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_replied=None)
    running = serve(handler, lmtp=True)
    with ready(running) as client:
        deliver(client, ONE, TWO, THREE)
        deliver(client, ONE, ONE)
    running.wait_until_no_sessions()
    assert [arguments[2] for arguments in noted.of("on_replied")] == [True, True]


# -- where, and what is said ---------------------------------------------------------------------


def test_a_unix_socket_is_the_usual_place(serve: Serve, tmp_path: Path, loop_name: str) -> None:
    collector = Collector()
    running = serve(collector, lmtp=True, addr=f"unix:{tmp_path / 'lmtp'}", loop=loop_name)
    with ready(running) as client:
        assert deliver(client, ONE, TWO) == [QUEUED] * 2
    (message,) = collector.messages
    assert message.trace.startswith(
        b"Received: from client.example\r\n\tby mx.example (smtpd) with LMTP\r\n\tid "
    )
    assert [str(recipient) for recipient in message.recipients] == [ONE, TWO]


def test_received_says_lmtp(serve: Serve) -> None:
    collector = Collector()
    with ready(serve(collector, lmtp=True)) as client:
        client.send(b"MAIL FROM:<a@x> SMTPUTF8\r\nRCPT TO:<b@x>\r\nBDAT 0 LAST\r\n")
        client.replies(3)
    assert b" with UTF8LMTP\r\n" in collector.messages[0].trace
    assert collector.sessions[0].esmtp


def test_helo_and_ehlo_are_not_for_lmtp_and_lhlo_is_for_nothing_else(serve: Serve) -> None:
    with serve(Box(), lmtp=True).client() as client:
        assert client.reply() == "220 mx.example smtpd LMTP Service ready"
        assert client.say("EHLO c")[:9] == client.say("HELO c")[:9] == "500 5.5.1"
        assert client.say("MAIL FROM:<a@x>").startswith("503 5.5.1")
    with serve(Box()).client() as client:
        client.reply()
        assert client.say("LHLO c").startswith("500 5.5.1")


@pytest.mark.parametrize(
    "addr",
    [
        ":25",
        "",
        "127.0.0.1:25",
        "[::1]:25",
        "127.0.0.1:00025",
        ["127.0.0.1:0", "127.0.0.1:25"],
        ["unix:/nonexistent/lmtp", ":25"],
    ],
)
def test_port_25_is_not_for_lmtp(addr: str | list[str]) -> None:
    with (
        pytest.raises(ValueError, match="lmtp cannot use port 25"),
        Server(Box(), addr=addr, lmtp=True).in_thread(),
    ):
        pass


def test_port_25_is_not_for_lmtp_by_default() -> None:
    server = Server(Box(), lmtp=True)
    with pytest.raises(ValueError, match="port 25"):
        server.listen_and_serve()
    assert server.addresses == []


def test_a_handed_socket_may_be_anywhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `addr` says, which is not looked at then."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

        async def start() -> None:
            server = Server(Box(), lmtp=True)
            await server.start(sock)
            await server.shutdown(0)

        with monkeypatch.context() as patch:
            patch.setattr("ehlo.server.options.rules._SMTP_PORT", port)
            with pytest.raises(ValueError, match="port 25"):
                asyncio.run(start())
        asyncio.run(start())
