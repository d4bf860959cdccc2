"""`Catcher`: what it stores of each mail, how it sorts mail, and what it answers."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehlo import (
    Address,
    DeliverBy,
    Handler,
    Message,
    OriginalRecipient,
    Queue,
    Reject,
    Reply,
    Rrvs,
    Session,
)
from ehlo.inbox import Catcher, WebOptions, sorting
from ehlo.inbox.circumstances import facts_of_message
from ehlo.inbox.desk import Desk
from ehlo.inbox.sorting import header_of, inbox_for, rule_of, tags_in
from ehlo.store import Delivery, Store, StoredMessage
from support.client import Client
from support.serving import Running, Serve

MAIL = b"Subject: hello\r\n\r\nfirst\r\n"


def desk_of(catcher: Catcher) -> Desk:
    assert catcher.desk is not None
    return catcher.desk


def stored(running: Running, catcher: Catcher, mail_id: str = "") -> StoredMessage:
    """Return a mail of a catcher, by default the newest one."""

    async def find() -> StoredMessage | None:
        store = desk_of(catcher).store
        return await store.get(mail_id or (await store.list()).mails[0].id)

    found = running.run(find)
    assert isinstance(found, StoredMessage)
    return found


def said(client: Client, *, recipient: str = "b@y.example", mail: bytes = MAIL) -> str:
    """Send one mail; return the reply to it."""
    client.say("MAIL FROM:<a@x.example> SIZE=20")
    client.say(f"RCPT TO:<{recipient}> NOTIFY=NEVER")
    client.say("DATA")
    return client.say(mail.decode() + ".")


def test_the_id_in_the_reply_is_that_of_the_api(serve: Serve) -> None:
    catcher = Catcher()
    running = serve(catcher)
    with running.ready() as client:
        reply = said(client)
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    mail = stored(running, catcher, reply.split()[-1])
    assert mail.data == MAIL
    assert (mail.mail_from, mail.rcpt_tos, mail.mail.inbox) == (
        "a@x.example",
        ["b@y.example"],
        "default",
    )


def test_a_mail_has_the_facts_of_its_session_and_envelope(serve: Serve) -> None:
    catcher = Catcher()
    running = serve(catcher, transcripts="masked")
    with running.ready() as client:
        said(client)
        peer = "{}:{}".format(*client.sock.getsockname())
    mail = stored(running, catcher)
    facts = dict(mail.facts)
    assert str(facts.pop("received")).startswith("Received: from client.example ")
    assert str(facts.pop("session")) in str(mail.facts["received"])
    assert facts == {
        "peer": peer,
        "local": str(running.address),
        "helo": "client.example",
        "esmtp": True,
        "tls": None,
        "params": {"mail": {"SIZE": "20"}, "rcpt": [{"NOTIFY": "NEVER"}]},
    }
    assert [line.text for line in mail.transcript if line.direction == "client"] == [
        "EHLO client.example",
        "MAIL FROM:<a@x.example> SIZE=20",
        "RCPT TO:<b@y.example> NOTIFY=NEVER",
        "DATA",
    ]


def test_the_values_of_parameters_are_as_clients_send_them() -> None:
    since = datetime(2026, 11, 29, tzinfo=UTC)
    params: dict[str, Any] = {
        "BY": DeliverBy(120, "R", trace=True),
        "ORCPT": OriginalRecipient("rfc822", "b@x.example"),
        "RRVS": Rrvs(since, "C"),
        "SMTPUTF8": True,
    }
    message = Message("x", Address("a", "x.example", params), [], b"", [])
    assert facts_of_message(message)["params"] == {
        "mail": {
            "BY": "120;RT",
            "ORCPT": "rfc822;b@x.example",
            "RRVS": "2026-11-29T00:00:00+00:00;C",
            "SMTPUTF8": "True",
        },
        "rcpt": [],
    }


def test_a_later_mail_has_the_greeting_and_its_own_lines(serve: Serve) -> None:
    catcher = Catcher()
    running = serve(catcher, transcripts="masked")
    with running.ready() as client:
        said(client)
        client.say("NOOP")
        said(client, recipient="second@y.example")
    texts = [line.text for line in stored(running, catcher).transcript]
    assert texts[1] == "EHLO client.example"
    assert sum(text.startswith("RCPT ") for text in texts) == 1
    begin = texts.index("NOOP")
    assert "left out" in texts[begin - 2]
    assert texts[begin - 1].startswith("250 2.0.0 Ok: queued as ")
    assert texts[begin + 2 :: 2][0].startswith("MAIL FROM:<a@x.example>")


# -- several inboxes, and tags ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "delivery", "name"),
    [
        ("", Delivery(b""), "default"),
        ("user", Delivery(b"", username="Alice"), "Alice"),
        ("user", Delivery(b""), "default"),
        ("user", Delivery(b"", username="../a b/\u202e?#"), "-a-b-"),
        ("user", Delivery(b"", username="x" * 1_000), "x" * 64),
        ("user", Delivery(b"", username=".."), "default"),
        ("domain", Delivery(b"", rcpt_tos=["a@Shop.Example", "b@other.example"]), "shop.example"),
        ("domain", Delivery(b"", rcpt_tos=["postmaster"]), "postmaster"),
        ("domain", Delivery(b""), "default"),
        ("listener", Delivery(b"", facts={"local": "[::1]:1026"}), "1026"),
        ("listener", Delivery(b"", facts={"local": "unix:/run/mail.sock"}), "mail.sock"),
        ("listener", Delivery(b""), "default"),
        (lambda delivery: delivery.mail_from, Delivery(b"", "ü@x.example"), "ü@x.example"),
    ],
)
def test_a_rule_names_the_inbox(rule: Any, delivery: Delivery, name: str) -> None:
    assert inbox_for(rule_of(rule), delivery) == name


def test_an_unknown_rule_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="inbox_by: 'users': write user, domain or listener"):
        Catcher(inbox_by="users")


@pytest.mark.parametrize("rule", [lambda _delivery: 1 / 0, lambda _delivery: None])
def test_mail_is_451_if_the_rule_fails(
    serve: Serve, rule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(Catcher(inbox_by=rule))
    with running.ready() as client:
        assert said(client).startswith("451 4.3.0 ")
    assert "ZeroDivisionError" in caplog.text or "must return a str" in caplog.text


def test_mail_is_sorted_by_login(serve: Serve) -> None:
    async def accept(_session: Session, credentials: Any) -> str:
        return str(credentials.username)

    class AnyLogin(Handler):
        on_auth = staticmethod(accept)  # type: ignore[assignment]  # it takes no self

    catcher = Catcher(AnyLogin(), inbox_by="user")
    running = serve(catcher, auth_mechs={"PLAIN": True})
    for name in ("shop", "blog", "shop"):
        with smtplib.SMTP(*running.address) as client:
            client.login(name, "x")
            client.sendmail("a@x.example", ["b@y.example"], MAIL)
    found = running.run(lambda: desk_of(catcher).store.inboxes())
    assert {name: counts.total for name, counts in found.items()} == {"blog": 1, "shop": 2}


@pytest.mark.parametrize(
    ("head", "tags"),
    [
        (b"Subject: a+b@c\r\n", []),
        (b"X-Tags: welcome, Password Reset\r\n", ["welcome", " Password Reset"]),
        (b"To: Bob <bob+one@y.example>, bob+two@y.example\r\n", ["one", "two"]),
        (b"cc: a+c@y\r\nBCC: a+d@y\r\nFrom: a+e@y\r\n", ["c", "d", "e"]),
        (b"To: a@y\r\n\r\nX-Tags: in the text\r\nTo: b+no@y\r\n", []),
        (b"To: " + b"+" * 100_000 + b"@y\r\n", []),
    ],
)
def test_tags_come_from_the_header(head: bytes, tags: list[str]) -> None:
    assert tags_in(header_of(head + b"\r\ntext\r\n")) == tags


ORDINARY = (
    b"Date: Sat, 28 Nov 2026 10:00:00 +0000\r\nDKIM-Signature: v=1; d=x.example; b=a+b/c+d=\r\n"
    b"From: a@x.example\r\nTo: b@y.example"
)


def test_the_fields_of_ordinary_mail_are_not_read_for_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(sorting, "read_header", read)
    assert tags_in(ORDINARY) == []


PIECES = (
    *(b"To: ", b"CC:", b"Subject: ", b"X-Tags: ", b"x-taGs:", b"\r\n", b"\r\n ", b"\n\t", b"\r"),
    *(b"+", b"a", b"@", b"<", b">", b'"', b",", b" ", b"\x0b", b"\x1c", b"\xff", b"\xc2\xa0"),
    *(
        b"=?utf-8?q?",
        b"=2B",
        b"=40",
        b"?=",
        b"=?us-ascii?b?K2FA?=",
        b"=?utf-16?b?",
        b"\xe2\x80\xa8",
    ),
)


@example(b"To: a+b=1@c")
@example(b"Subject: x\r\nTo: =?utf-8?q?a+b=40c?= <a@c>")
@example(b"To: =?us-ascii?b?K2JA?= + <a@c>")
@given(st.lists(st.sampled_from(PIECES)).map(b"".join).map(b"To: ".__add__))
def test_a_header_without_a_sign_of_tags_has_none(header: bytes) -> None:
    sign = b"\r\nX: =? +a@b x-tags"  # with which all fields are read
    assert tags_in(header) == tags_in(header + sign)


@pytest.mark.parametrize(("header", "size"), [(MAIL[:14], 14), (b"X: " + b"x" * 100_000, 100_003)])
def test_the_header_alone_decides_where_tags_are_read(
    serve: Serve, header: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    async def elsewhere(size: int, work: Callable[[], Any]) -> Any:
        sizes.append(size)
        return work()

    monkeypatch.setattr("ehlo.inbox.catcher.elsewhere", elsewhere)
    catcher = Catcher()
    running = serve(catcher)
    delivery = Delivery(header + b"\r\n\r\n" + b"text\r\n" * 100_000)
    running.run(lambda: catcher.deliver(delivery))
    assert sizes == [size]


# -- trouble ---------------------------------------------------------------------------------------


def test_a_full_disk_is_452_until_there_is_room_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real: Callable[..., Store] = Store.open
    monkeypatch.setattr(Store, "open", lambda path, **given: real(path, max_size=400_000, **given))
    catcher = Catcher()
    running = serve(catcher)
    with running.ready() as client:
        reply = said(client)
        for _ in range(60):
            reply = said(client, mail=MAIL + b"x" * 70 + b"\r\n" + b"y" * 20_000 + b"\r\n")
            if not reply.startswith("250"):
                break
        assert reply == "452 4.3.1 Insufficient system storage"
        assert "free some space" in catcher.traffic.trouble
        assert said(client, mail=MAIL + b"y" * 20_000 + b"\r\n").startswith("452 ")
        assert running.run(lambda: desk_of(catcher).store.delete())
        running.wait_until(lambda: said(client, mail=MAIL).startswith("250 "))
        assert catcher.traffic.trouble == ""
    assert caplog.text.count("mail was not stored") == 1  # the second one is a detail


def test_other_trouble_of_the_store_is_451(serve: Serve) -> None:
    catcher = Catcher()
    running = serve(catcher)
    running.run(lambda: close(catcher))
    with running.ready() as client:
        assert said(client).startswith("451 4.3.0 ")
    assert "closed" in catcher.traffic.trouble


async def close(catcher: Catcher) -> None:
    desk_of(catcher).store.close()


# -- around a handler ------------------------------------------------------------------------------


class App(Handler):
    """Answers each mail as its recipient says."""

    async def on_message(self, session: Session, message: Message) -> Any:
        self.id = message.state.inbox_id
        match message.recipients[0].local:
            case "none":
                return None
            case "own":
                return "my-id"
            case "rejected":
                raise Reject(550, "5.7.1", "No, thank you")
            case "reply":
                return Reply(250, "2.0.0", "Thanks")
            case "false":
                return False
            case "crash":
                raise ValueError("a bug")
        raise AssertionError


class Blocking(App):
    """Does the same in a thread."""

    def on_message(self, session: Session, message: Message) -> Any:
        work = super().on_message(session, message)
        try:
            work.send(None)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("kind", [App, Blocking])
@pytest.mark.parametrize(
    ("recipient", "reply", "answer"),
    [
        ("none", "250 2.0.0 Ok: queued as {id}", "250 2.0.0 Ok: queued as {id}"),
        ("own", "250 2.0.0 Ok: queued as my-id", "250 2.0.0 Ok: queued as my-id"),
        ("rejected", "550 5.7.1 No, thank you", "550 5.7.1 No, thank you"),
        ("reply", "250 2.0.0 Thanks", "250 2.0.0 Thanks"),
        ("false", "554 5.7.1 ", "554 5.7.1"),
        ("crash", "451 4.3.0 ", "451 4.3.0 (it raised ValueError: a bug)"),
    ],
)
def test_the_reply_is_the_handlers_and_is_shown(
    serve: Serve, kind: type[App], recipient: str, reply: str, answer: str
) -> None:
    app = kind()
    catcher = Catcher(app)
    running = serve(catcher)
    with running.ready() as client:
        got = said(client, recipient=f"{recipient}@y.example")
    assert got.startswith(reply.format(id=app.id))
    mail = stored(running, catcher, app.id)
    assert mail.facts["answer"] == answer.format(id=app.id)
    assert mail.data == MAIL


def test_what_a_handler_changes_is_shown_as_it_came(serve: Serve) -> None:
    def change(message: Message) -> None:
        for address in (message.sender, *message.recipients):
            address.params = {"CHANGED": "yes"}  # type: ignore[misc]  # whether it may or not
        message.sender = message.recipients[0]
        message.recipients.append(message.recipients[0])

    catcher = Catcher(change)
    running = serve(catcher)
    with running.ready() as client:
        assert said(client).startswith("250 ")
    mail = stored(running, catcher)
    assert (mail.mail_from, mail.rcpt_tos) == ("a@x.example", ["b@y.example"])
    assert mail.facts["params"] == {"mail": {"SIZE": "20"}, "rcpt": [{"NOTIFY": "NEVER"}]}


def test_the_store_cannot_change_what_a_handler_answers(serve: Serve) -> None:
    catcher = Catcher(App())
    running = serve(catcher)
    running.run(lambda: close(catcher))
    with running.ready() as client:
        assert said(client, recipient="own@y.example") == "250 2.0.0 Ok: queued as my-id"


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [("own", "250 2.0.0 Ok: queued as my-id"), ("rejected", "550 5.7.1 No, thank you")],
)
def test_a_rule_that_fails_cannot_change_it_either(
    serve: Serve, recipient: str, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that got 451 for a mail that the handler has would send it once more."""
    running = serve(Catcher(App(), inbox_by=lambda _delivery: str(1 / 0)))
    with running.ready() as client:
        assert said(client, recipient=f"{recipient}@y.example") == reply
    assert "mail was not shown" in caplog.text


def test_a_function_and_a_class_are_handlers(serve: Serve) -> None:
    got: list[bytes] = []
    for handler in (App, lambda message: got.append(message.body)):
        running = serve(Catcher(handler))
        with running.ready() as client:
            assert said(client, recipient="none@y.example").startswith("250 ")
    assert got == [MAIL]


@pytest.mark.parametrize("handler", ["app:handler", 5, object])
def test_anything_else_is_a_type_error(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"handler must be a function or an ehlo\.Handler"):
        Catcher(handler)


# -- sessions that brought no mail -----------------------------------------------------------------


def test_a_session_without_mail_is_kept(serve: Serve) -> None:
    catcher = Catcher(inbox_by="listener")
    running = serve(catcher, transcripts="masked")
    with running.ready() as client:
        client.say("MAIL FROM:<a@x.example>")
        client.say("RCPT TO:<>")
        client.say("QUIT")
    with running.client() as client:
        client.reply()  # a health check, which says nothing
    with running.ready() as client:
        said(client)
    running.wait_until_no_sessions()
    (session,) = running.run(lambda: desk_of(catcher).store.sessions())
    assert session.inbox == str(running.address.port)
    assert "RCPT TO:<>" in [line.text for line in session.transcript]
    assert session.facts["helo"] == "client.example"
    assert catcher.traffic.rejected == 1


def test_faults_that_are_added_later_strike(serve: Serve) -> None:
    catcher = Catcher()
    running = serve(catcher, transcripts="masked")
    desk_of(catcher).faults.fail("rcpt", "450 4.2.1 Greylisted")
    desk_of(catcher).faults.fail("end", "451 4.3.0 Later")
    with running.ready() as client:
        client.say("MAIL FROM:<a@x.example>")
        assert client.say("RCPT TO:<b@y.example>") == "450 4.2.1 Greylisted"
        client.say("RSET")
        assert said(client) == "451 4.3.0 Later"
        assert said(client).startswith("250 ")
    running.wait_until_no_sessions()
    assert (catcher.traffic.accepted, catcher.traffic.rejected) == (1, 2)
    assert catcher.traffic.accepted_size == len(MAIL)


def test_options_are_those_of_the_pages(serve: Serve) -> None:
    catcher = Catcher(keep=7, keep_age=60, options=WebOptions(label="shop"))
    serve(catcher)
    options = desk_of(catcher).options
    assert (options.keep, options.keep_age, options.label) == (7, 60, "shop")


def test_a_queue_in_a_catcher_is_measured(serve: Serve, tmp_path: Path) -> None:
    class Late(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            del session, message

    running = serve(Catcher(Queue(str(tmp_path / "mail.db"), Late(), deliveries=0)))
    with running.ready() as client:
        assert said(client).startswith("250 2.0.0 Ok: queued as ")
    run = running.server.running
    assert run is not None
    assert running.run(run.snapshot)["stats"]["deliveries"]["accepted"] == 1
