"""Every hook of a `Handler`, as `def` and as `async def`: when it is called and what it may say."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import threading
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Reject, Reply, Session
from ehlo.handler import callbacks_of_handler
from ehlo.protocol.reply import ProtocolError
from ehlo.server.hooks import hooks_of
from support.certificates import Certificates
from support.client import Client
from support.hooks import HOOKS, KINDS, Noted, handler_of
from support.serving import DEADLINE, Serve

TROUBLE = "451 4.3.0 Requested action aborted: local error in processing"
SECRET_TEXT = "the database at 10.0.0.7 is down"
PLAIN_LOGIN = "AUTH PLAIN " + base64.b64encode(b"\0alice\0wonder").decode()

# What is said before the command that a hook answers, the command, and what it answers by default
MOMENTS = {
    "on_hello": ((), "EHLO client.example", "250-mx.example greets client.example"),
    "on_mail": (("EHLO c",), "MAIL FROM:<a@example.com>", "250 2.1.0 Ok"),
    "on_rcpt": (
        ("EHLO c", "MAIL FROM:<a@example.com>"),
        "RCPT TO:<b@example.com>",
        "250 2.1.5 Ok",
    ),
    "on_data": (
        ("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"),
        "DATA",
        "354 Start mail input; end with <CRLF>.<CRLF>",
    ),
    "on_message": (
        ("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"),
        "Subject: x\r\n\r\nbody\r\n.",
        "250 2.0.0 Ok: queued",
    ),
    "on_vrfy": (
        ("EHLO c",),
        "VRFY bob",
        "252 2.5.0 Cannot VRFY user, but will accept message and attempt delivery",
    ),
    "on_reset": (("EHLO c",), "RSET", "250 2.0.0 Ok"),
}

moments = pytest.mark.parametrize("hook", MOMENTS)
kinds = pytest.mark.parametrize("kind", KINDS)


def said(hook: str, text: str) -> str:
    """`text` as the answer to that command: to EHLO there is no enhanced code (RFC 2034 4)."""
    return (
        re.sub(r"(?m)^([0-9]{3}[ -])[0-9]\.[0-9]\.[0-9] ", r"\1", text)
        if hook == "on_hello"
        else text
    )


def ask(client: Client, hook: str) -> str:
    """The reply to the command that `hook` answers."""
    before, command, _ = MOMENTS[hook]
    client.reply()
    for line in before:
        client.say(line)
    return client.say(command)


@kinds
def test_hooks_are_called_in_the_order_of_the_session(
    serve: Serve, kind: str, loop_name: str
) -> None:
    noted = Noted()
    hooks = dict.fromkeys(HOOKS.keys() - {"on_tls", "on_auth", "on_secret"})
    running = serve(handler_of(kind, noted, **hooks), loop=loop_name)
    with running.client() as client:
        client.hello()
        client.mail(recipients=["b@example.com", "c@example.com"])
        client.say("VRFY bob")
        client.say("RSET")
        client.say("QUIT")
        assert client.is_closed()
    running.wait_until_no_sessions()
    assert noted.names == [
        *("on_startup", "on_connect", "on_hello", "on_mail", "on_rcpt", "on_rcpt", "on_data"),
        *("on_message", "on_replied", "on_vrfy", "on_reset", "on_disconnect"),
    ]
    running.run(running.server.shutdown)
    assert noted.names[-1] == "on_shutdown"
    assert [arguments[0] for name, arguments in noted.calls if name.endswith(("up", "down"))] == [
        running.server,
        running.server,
    ]


@kinds
def test_hooks_get_what_they_are_promised(serve: Serve, kind: str) -> None:
    noted = Noted()
    names = ("on_hello", "on_mail", "on_rcpt", "on_vrfy", "on_replied")
    running = serve(handler_of(kind, noted, **dict.fromkeys(names)))
    with running.ready() as client:
        client.say("MAIL FROM:<> SIZE=1000 BODY=8BITMIME")
        client.say("RCPT TO:<b@example.com> NOTIFY=NEVER")
        client.say("DATA")
        client.send(b"Subject: x\r\n\r\n..body\r\n.\r\n")
        client.reply()
        client.say("VRFY  bob smith ")
        client.say("QUIT")
    running.wait_until_no_sessions()
    session = noted.of("on_hello")[0][0]
    assert noted.of("on_hello") == [(session, "client.example")]
    ((_, sender, params),) = noted.of("on_mail")
    assert str(sender) == ""
    assert sender.is_null
    assert params == {"SIZE": 1000, "BODY": "8BITMIME"}
    ((_, recipient, params),) = noted.of("on_rcpt")
    assert str(recipient) == "b@example.com"
    assert params == {"NOTIFY": frozenset({"NEVER"})}
    ((_, message),) = noted.of("on_message")
    assert message.body == b"Subject: x\r\n\r\n.body\r\n"
    assert message.data == message.trace + message.body
    assert message.sender.params == {"SIZE": 1000, "BODY": "8BITMIME"}
    assert noted.of("on_replied") == [(session, message, True)]
    assert noted.of("on_vrfy") == [(session, "bob smith")]


@kinds
def test_hooks_of_each_kind_run_where_they_should(serve: Serve, kind: str) -> None:
    noted = Noted()
    with serve(handler_of(kind, noted, on_rcpt=None)).ready() as client:
        client.mail()
    where = "ehlo-server" if kind == "async def" else "ehlo-hook-"
    assert noted.threads
    assert all(name.startswith(where) for name in noted.threads)


@kinds
def test_the_current_session_is_in_the_context_of_every_hook(serve: Serve, kind: str) -> None:
    noted = Noted()
    names = HOOKS.keys() - {"on_tls", "on_auth", "on_secret", "on_startup", "on_shutdown"}
    running = serve(handler_of(kind, noted, **dict.fromkeys(names)))
    for _ in range(2):
        with running.ready() as client:
            client.mail()
            client.say("QUIT")
        running.wait_until_no_sessions()
    assert len(noted.calls) == 2 * 8
    assert [context for context in noted.contexts if context is None] == []
    assert all(
        context is arguments[0]
        for context, (_, arguments) in zip(noted.contexts, noted.calls, strict=True)
    )
    assert len({context.id for context in noted.contexts}) == 2


def test_tasks_and_threads_that_a_hook_starts_have_the_current_session(serve: Serve) -> None:
    found: list[Session | None] = []

    class Spawning(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            async def look() -> None:
                found.append(ehlo.current_session.get())

            await asyncio.create_task(look())
            found.append(await asyncio.to_thread(ehlo.current_session.get))
            found.append(session)

    with serve(Spawning()).ready() as client:
        client.mail()
    assert len(found) == 3
    assert found[0] is found[1] is found[2] is not None


def test_outside_of_hooks_there_is_no_current_session() -> None:
    assert ehlo.current_session.get() is None


@moments
@kinds
def test_a_hook_that_returns_none_accepts_in_our_words(serve: Serve, kind: str, hook: str) -> None:
    with serve(handler_of(kind, **{hook: None})).client() as client:
        assert ask(client, hook).splitlines()[0] == MOMENTS[hook][2]


@moments
@kinds
def test_a_hook_that_raises_reject_rejects(serve: Serve, kind: str, hook: str) -> None:
    refusal = Reject(553, "5.1.8", "Not from\nhere")
    with serve(handler_of(kind, **{hook: refusal})).client() as client:
        assert ask(client, hook) == said(hook, "553-5.1.8 Not from\n553 5.1.8 here")
        assert client.say("NOOP").startswith("250")


@moments
@kinds
def test_a_hook_that_returns_a_rejection_rejects(serve: Serve, kind: str, hook: str) -> None:
    with serve(handler_of(kind, **{hook: Reply(450, "4.2.0", "Later")})).client() as client:
        assert ask(client, hook) == said(hook, "450 4.2.0 Later")
        assert client.say("NOOP").startswith("250")


@moments
@kinds
def test_a_hook_that_returns_a_positive_reply_accepts_in_its_own_words(
    serve: Serve, kind: str, hook: str
) -> None:
    is_data = hook == "on_data"
    own = Reply(354, None, "Go on") if is_data else Reply(250, "2.0.0", "Gladly")
    with serve(handler_of(kind, **{hook: own})).client() as client:
        answer = ask(client, hook)
    if hook == "on_hello":
        assert answer.splitlines()[0] == "250-Gladly"  # RFC 2034: no enhanced code here
        assert "250-PIPELINING" in answer
    else:
        assert answer == ("354 Go on" if is_data else "250 2.0.0 Gladly")


@moments
@kinds
def test_a_hook_that_fails_is_our_trouble_and_its_text_stays_here(
    serve: Serve, kind: str, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of(kind, **{hook: RuntimeError(SECRET_TEXT)})).client() as client:
        answer = ask(client, hook)
        assert answer == said(hook, TROUBLE)
        assert client.say("NOOP").startswith("250")
    (record,) = [record for record in caplog.records if record.name == "ehlo.handler"]
    assert record.levelno == logging.ERROR
    assert hook in record.getMessage()
    assert record.exc_info is not None
    assert SECRET_TEXT in caplog.text
    assert "Traceback" in caplog.text


class Odd(BaseException):
    """What some libraries cancel with."""


@moments
@kinds
def test_a_hook_that_raises_a_base_exception_is_451(
    serve: Serve, kind: str, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (Odd(), asyncio.CancelledError()):
        with serve(handler_of(kind, **{hook: error})).client() as client:
            assert ask(client, hook) == said(hook, TROUBLE)
            assert client.say("NOOP").startswith("250")


@moments
@kinds
def test_a_hook_that_rejects_with_421_ends_the_session(serve: Serve, kind: str, hook: str) -> None:
    refusal = Reject(421, "4.7.0", "Go away")
    with serve(handler_of(kind, **{hook: refusal})).client() as client:
        assert ask(client, hook) == "421 4.7.0 Go away"
        assert client.is_closed()


@pytest.mark.parametrize("wrong", [Reply(250, "2.0.0", "Ok"), Reply(334)])
def test_a_reply_that_does_not_answer_data_is_our_trouble(serve: Serve, wrong: Reply) -> None:
    with serve(handler_of("async def", on_data=wrong)).client() as client:
        assert ask(client, "on_data").startswith("451 4.3.0 ")
        assert client.say("NOOP").startswith("250")  # and not read as mail


# -- what follows from a refusal -----------------------------------------------------------------


def test_a_rejected_command_changes_nothing(serve: Serve) -> None:
    refuse = [True]

    def once(*_: object) -> None:
        if refuse.pop() if refuse else False:
            raise Reject(450, "4.2.0", "Again")

    handler = handler_of("def", on_mail=once)
    with serve(handler).ready() as client:
        assert client.say("MAIL FROM:<a@example.com>") == "450 4.2.0 Again"
        assert client.say("RCPT TO:<b@example.com>").startswith("503 5.5.1 ")
        assert client.mail() == "250 2.0.0 Ok: queued"


def test_after_a_rejected_rset_the_transaction_is_still_open(serve: Serve) -> None:
    with serve(handler_of("async def", on_reset=Reject(450, "4.2.0", "No"))).ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.say("RSET")
        assert client.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"


def test_a_rejected_recipient_is_not_in_the_message(serve: Serve) -> None:
    noted = Noted()

    def only_b(_session: Session, recipient: ehlo.Address, _params: object) -> None:
        if recipient.local != "b":
            raise Reject(550, "5.1.1", "No such user here")

    with serve(handler_of("def", noted, on_rcpt=only_b)).ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<c@example.com>") == "550 5.1.1 No such user here"
        assert client.say("DATA") == "554 5.5.1 No valid recipients"
        assert client.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"
        client.say("DATA")
        client.send(b"x\r\n.\r\n")
        client.reply()
    ((_, message),) = noted.of("on_message")
    assert list(map(str, message.recipients)) == ["b@example.com"]


# -- on_connect ----------------------------------------------------------------------------------


@kinds
def test_on_connect_greets_in_our_words_or_its_own(serve: Serve, kind: str) -> None:
    with serve(handler_of(kind, on_connect=None)).client() as client:
        assert client.reply() == "220 mx.example smtpd ESMTP Service ready"
    own = Reply(220, None, "mx.example at your service")
    with serve(handler_of(kind, on_connect=own)).client() as client:
        assert client.reply() == "220 mx.example at your service"


@kinds
def test_a_client_rejected_at_connect_may_only_quit(serve: Serve, kind: str) -> None:
    refusal = Reject(554, "5.7.1", "Not you")
    with serve(handler_of(kind, on_connect=refusal)).client() as client:
        assert client.reply().startswith("554")
        assert client.say("EHLO c").startswith("503 5.5.1 ")
        assert client.say("MAIL FROM:<a@example.com>").startswith("503 5.5.1 ")
        assert client.say("QUIT").startswith("221 ")
        assert client.is_closed()


@kinds
def test_a_failure_at_connect_is_421(
    serve: Serve, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of(kind, on_connect=ValueError(SECRET_TEXT))).client() as client:
        assert client.rest() == (b"421 4.3.0 Service not available: local error in processing\r\n")
    assert SECRET_TEXT in caplog.text


def test_a_reply_that_is_no_greeting_is_421(serve: Serve) -> None:
    with serve(handler_of("async def", on_connect=lambda _: "hello")).client() as client:
        assert client.rest().startswith(b"421 4.3.0 ")


def test_what_a_client_says_before_the_greeting_waits_for_it(serve: Serve) -> None:
    open_up = threading.Event()

    def wait(_session: Session) -> None:
        open_up.wait(DEADLINE)

    with serve(handler_of("def", on_connect=wait)).client() as client:
        client.send(b"EHLO c\r\nQUIT\r\n")
        open_up.set()
        assert [reply[:3] for reply in client.replies(3)] == ["220", "250", "221"]


# -- on_hello ------------------------------------------------------------------------------------


def test_the_session_knows_a_name_once_it_was_accepted_and_the_command_at_once(
    serve: Serve,
) -> None:
    seen: list[tuple[str, bool]] = []

    def look(session: Session, name: str) -> None:
        seen.append((session.helo, session.esmtp))
        if name == "bad":
            raise Reject(550)

    noted = Noted()
    with serve(handler_of("def", noted, on_hello=look, on_reset=None)).client() as client:
        client.reply()
        for line in ("EHLO bad", "EHLO one", "HELO bad", "HELO two", "RSET"):
            client.say(line)
    assert seen == [("", True), ("", True), ("one", False), ("one", False)]
    ((session,),) = noted.of("on_reset")
    assert (session.helo, session.esmtp) == ("two", False)


# -- on_message ----------------------------------------------------------------------------------


@kinds
def test_a_queue_id_is_in_the_reply(serve: Serve, kind: str) -> None:
    with serve(handler_of(kind, on_message="A1B2C3")).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued as A1B2C3"


@kinds
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Reply(250, "2.6.0", "Thanks"), "250 2.6.0 Thanks"),
        (Reply(452, "4.3.1", "Full"), "452 4.3.1 Full"),
        (Reply(554, "5.7.1", "Spam"), "554 5.7.1 Spam"),
        (Reject(554, "5.7.1", "Spam"), "554 5.7.1 Spam"),
        (Reject(450), "450 4.3.0 Requested action not taken"),
        (Reject(550), "550 5.7.1 Requested action refused"),
    ],
)
def test_on_message_may_say_it_in_its_own_words(
    serve: Serve, kind: str, answer: object, said: str
) -> None:
    with serve(handler_of(kind, on_message=answer)).ready() as client:
        assert client.mail() == said
        assert client.say("MAIL FROM:<a@example.com>") == "250 2.1.0 Ok"


@kinds
def test_on_replied_is_told_that_the_reply_has_left(
    serve: Serve, kind: str, loop_name: str
) -> None:
    noted = Noted()
    handler = handler_of(kind, noted, on_replied=None, on_disconnect=None)
    running = serve(handler, loop=loop_name)
    with running.ready() as client:
        for _ in range(3):
            client.mail()
        client.say("QUIT")
    running.wait_until_no_sessions()
    assert [sent for _, _, sent in noted.of("on_replied")] == [True] * 3
    assert noted.names == ["on_message", "on_replied"] * 3 + ["on_disconnect"]


@kinds
def test_on_replied_is_told_that_the_reply_could_not_leave(
    serve: Serve, kind: str, loop_name: str
) -> None:
    noted = Noted()
    inside, go_on = threading.Event(), threading.Event()

    def slow(_session: Session, _message: Message) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)

    handler = handler_of("def", noted, on_message=slow, on_disconnect=None)
    replied = handler_of(kind, noted, on_replied=None)
    handler.on_replied = replied.on_replied  # type: ignore[method-assign]
    running = serve(handler, loop=loop_name)
    client = running.ready()
    client.begin_message()
    assert inside.wait(DEADLINE)
    client.reset()
    # The server must know that the client has gone: it does once it has nothing left to read
    running.wait_until_lost()
    go_on.set()
    running.wait_until_no_sessions()
    assert [sent for _, _, sent in noted.of("on_replied")] == [False]
    assert noted.names == ["on_message", "on_replied", "on_disconnect"]


def test_on_replied_is_called_for_a_rejected_message(serve: Serve) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_message=Reject(554), on_replied=None)
    running = serve(handler)
    with running.ready() as client:
        client.mail()
    running.wait_until_no_sessions()
    assert [sent for _, _, sent in noted.of("on_replied")] == [True]


def test_on_replied_comes_after_a_reply_that_closes(serve: Serve) -> None:
    noted = Noted()
    handler = handler_of(
        "async def", noted, on_message=Reject(421), on_replied=None, on_disconnect=None
    )
    running = serve(handler)
    with running.ready() as client:
        assert client.mail().startswith("421")
        assert client.is_closed()
    running.wait_until_no_sessions()
    assert noted.names == ["on_message", "on_replied", "on_disconnect"]
    assert [sent for _, _, sent in noted.of("on_replied")] == [True]


@kinds
@pytest.mark.parametrize("hook", ["on_replied", "on_disconnect"])
def test_what_only_tells_cannot_hurt_the_session(
    serve: Serve, kind: str, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(handler_of(kind, **{hook: RuntimeError(SECRET_TEXT)}))
    with running.ready() as client:
        assert client.mail().startswith("250")
        assert client.mail().startswith("250")
        client.say("QUIT")
        assert client.is_closed()
    running.wait_until_no_sessions()
    assert SECRET_TEXT in caplog.text


# -- on_disconnect -------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("way", ["quit", "end", "reset", "refused", "too many errors"])
def test_on_disconnect_is_the_last_call_however_it_ends(
    serve: Serve, kind: str, way: str, loop_name: str
) -> None:
    noted = Noted()
    answers: dict[str, Any] = {"on_mail": None, "on_disconnect": None, "on_rcpt": None}
    if way == "refused":
        answers["on_mail"] = Reject(421)
    running = serve(handler_of(kind, noted, **answers), loop=loop_name)
    client = running.ready()
    client.say("MAIL FROM:<a@example.com>")
    match way:
        case "quit":
            client.say("QUIT")
        case "end":
            client.end()
            assert client.is_closed()
        case "reset":
            client.reset()
        case "too many errors":
            client.send(b"NONSENSE\r\n" * 8)
            client.replies(8)
    client.close()
    running.wait_until_no_sessions()
    assert noted.names == ["on_mail", "on_disconnect"]


@kinds
def test_on_disconnect_waits_for_the_hook_that_is_under_way(serve: Serve, kind: str) -> None:
    noted = Noted()
    inside, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        noted.note("end of on_message", ())

    handler = handler_of("def", noted, on_message=slow)
    other = handler_of(kind, noted, on_disconnect=None)
    handler.on_disconnect = other.on_disconnect  # type: ignore[method-assign]
    running = serve(handler)
    client = running.ready()
    client.begin_message()
    assert inside.wait(DEADLINE)
    client.reset()
    running.wait_until_lost()
    go_on.set()
    running.wait_until_no_sessions()
    assert noted.names == ["on_message", "end of on_message", "on_disconnect"]


def test_a_client_that_leaves_cancels_a_hook_that_decides_nothing_any_more(serve: Serve) -> None:
    noted = Noted()
    inside = threading.Event()

    class Waiting(Handler):
        async def on_rcpt(self, *_: Any) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                noted.note("cancelled", ())

        async def on_message(self, *_: Any) -> None: ...

        async def on_disconnect(self, _session: Session) -> None:
            noted.note("on_disconnect", ())

    running = serve(Waiting())
    client = running.ready()
    client.say("MAIL FROM:<a@example.com>")
    client.send(b"RCPT TO:<b@example.com>\r\n")
    assert inside.wait(DEADLINE)
    client.reset()
    running.wait_until_no_sessions()
    assert noted.names == ["cancelled", "on_disconnect"]


# -- on_startup and on_shutdown ------------------------------------------------------------------


def test_async_on_startup_and_on_shutdown_run_in_the_loop_that_serves(serve: Serve) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    class Looking(Handler):
        async def on_startup(self, server: ehlo.Server) -> None:
            loops.append(asyncio.get_running_loop())

        async def on_shutdown(self, server: ehlo.Server) -> None:
            loops.append(asyncio.get_running_loop())

        async def on_message(self, session: Session, message: Message) -> None:
            loops.append(asyncio.get_running_loop())

    running = serve(Looking())
    with running.ready() as client:
        client.mail()
    running.run(running.server.shutdown)
    assert loops == [running.runtime.loop] * 3


def test_on_startup_sees_where_the_server_listens(serve: Serve) -> None:
    seen: list[list[ehlo.Peer]] = []
    running = serve(
        handler_of("async def", on_startup=lambda server: seen.append(server.addresses))
    )
    assert seen == [[running.address]]


@kinds
def test_a_failure_of_on_startup_ends_the_start(kind: str) -> None:
    server = ehlo.Server(handler_of(kind, on_startup=OSError("no database")), addr="127.0.0.1:0")
    with pytest.raises(OSError, match="no database"), server.in_thread():
        pytest.fail("it has started")
    assert server.addresses == []


@kinds
def test_on_shutdown_comes_after_the_last_on_disconnect(serve: Serve, kind: str) -> None:
    noted = Noted()
    running = serve(handler_of(kind, noted, on_disconnect=None, on_shutdown=None))
    with running.ready() as client:
        running.run(running.server.shutdown)
        assert client.rest().startswith(b"421 4.3.2 ")
    assert noted.names == ["on_disconnect", "on_shutdown"]


# -- on_tls --------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("implicit", [False, True])
def test_on_tls_is_told_once_the_handshake_is_done(
    serve: Serve, kind: str, implicit: bool, certificates: Certificates
) -> None:
    noted = Noted()
    handler = handler_of(kind, noted, on_tls=None, on_hello=None)
    running = serve(handler, tls_config=certificates.server(), tls_listener=implicit)
    with running.client(tls=certificates.client if implicit else None) as client:
        client.hello()
        if not implicit:
            client.say("STARTTLS")
            client.wrap(certificates.client)
            client.say("EHLO again")
    assert noted.names == (
        ["on_tls", "on_hello"] if implicit else ["on_hello", "on_tls", "on_hello"]
    )
    ((session,),) = noted.of("on_tls")
    assert session.tls.version == "TLSv1.3"


@kinds
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Reject(550, "5.7.1", "Wrong certificate"), "554 5.7.0 Wrong certificate"),
        (Reject(450, "4.7.1", "Not now"), "450 4.7.1 Not now"),
        (
            RuntimeError(SECRET_TEXT),
            "421 4.3.0 Service not available: local error in processing",
        ),
        (1, "421 4.3.0 Service not available: local error in processing"),
    ],
)
def test_a_rejection_by_on_tls_is_the_reply_to_each_command_but_quit(
    serve: Serve,
    kind: str,
    implicit: bool,
    answer: object,
    said: str,
    certificates: Certificates,
) -> None:
    """RFC 3207 4.1. It is not sent unasked: a client would take it for the reply to its QUIT."""
    handler = handler_of(kind, on_tls=answer)
    running = serve(handler, tls_config=certificates.server(), tls_listener=implicit)
    with running.client(tls=certificates.client if implicit else None) as client:
        if not implicit:
            client.hello()
            client.say("STARTTLS")
            client.wrap(certificates.client)
            assert client.has_heard_nothing()
        elif said.startswith("421"):
            assert client.rest().decode() == said + "\r\n"
            return
        else:  # a greeting has no enhanced code
            assert client.reply() == said[:4] + said[10:]
        if said.startswith("421"):
            assert client.say("EHLO c") == said
            assert client.is_closed()
            return
        for command in ("EHLO c", "MAIL FROM:<a@example.com>", "AUTH PLAIN", "STARTTLS", "BOGUS"):
            assert client.say(command) == said
        assert client.say("QUIT").startswith("221 2.0.0 ")
        assert client.is_closed()


# -- what a handler must and must not have -------------------------------------------------------


def test_hooks_that_are_not_overridden_are_not_there() -> None:
    hooks = hooks_of(callbacks_of_handler(handler_of("def")))
    assert list(hooks) == ["on_message"]


@pytest.mark.parametrize("function", ["rcpt_handler", "auth_handler"])
def test_a_handler_together_with_functions_is_a_type_error(function: str) -> None:
    with pytest.raises(TypeError, match="cannot be combined with a Handler"):
        ehlo.Server(handler_of("def"), **{function: lambda *_: True})  # type: ignore[arg-type]


def test_a_handler_without_on_message_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="has no on_message"):
        ehlo.Server(type("Empty", (Handler,), {})())


@pytest.mark.parametrize("wrong", [None, "handler", 1, dict, type("Mine", (), {})])
def test_a_handler_of_another_type_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"handler must be a function or an ehlo\.Handler"):
        ehlo.Server(wrong)


def test_an_impossible_rejection_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="it must be from 400 to 599"):
        Reject(250)
    with pytest.raises(ValueError, match="enhanced is"):
        Reject(550, "4.1.1")
    assert not issubclass(ProtocolError, Reject)
