"""`session.transaction` and `message.state`: what hooks see of one message, and how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ehlo import Address, Envelope, Handler, Message, Reject, Session
from support.certificates import Certificates
from support.serving import Serve

pytestmark = pytest.mark.usefixtures("way")

MAIL, RCPT = "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"
SECOND = "RCPT TO:<c@example.com>"


class Watching(Handler):
    """Notes at each hook what there is of the transaction, and what is in its state."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.envelopes: list[Envelope] = []

    def note(self, hook: str, session: Session) -> None:
        transaction = session.transaction
        if transaction is None:
            self.seen.append((hook, None))
            return
        self.envelopes.append(transaction)
        noted = transaction.state.__dict__.setdefault("noted", [])
        noted.append(hook)
        found = str(transaction.sender), [*map(str, transaction.recipients)], [*noted]
        self.seen.append((hook, found))

    def last(self) -> tuple[str, Any]:
        """Return what the last hook has seen."""
        return self.seen[-1]

    def on_connect(self, session: Session) -> None:
        self.note("on_connect", session)

    def on_hello(self, session: Session, name: str) -> None:
        self.note("on_hello", session)
        if name == "bad":
            raise Reject(550)

    def on_mail(self, session: Session, sender: Address, params: object) -> None:
        self.note("on_mail", session)
        if sender.local == "bad":
            raise Reject(550)

    def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        self.note("on_rcpt", session)
        if recipient.local == "bad":
            raise Reject(550)

    def on_data(self, session: Session) -> None:
        self.note("on_data", session)

    def on_message(self, session: Session, message: Message) -> None:
        assert session.transaction is not None
        assert message.state is session.transaction.state
        self.note("on_message", session)

    def on_replied(self, session: Session, message: Message, sent: bool) -> None:
        self.note("on_replied", session)
        self.seen.append(("message", message.state.noted))

    def on_vrfy(self, session: Session, text: str) -> None:
        self.note("on_vrfy", session)

    def on_reset(self, session: Session) -> None:
        self.note("on_reset", session)

    def on_tls(self, session: Session) -> None:
        self.note("on_tls", session)

    def on_disconnect(self, session: Session) -> None:
        self.note("on_disconnect", session)


def test_hooks_see_the_transaction_from_mail_to_the_reply_to_the_message(serve: Serve) -> None:
    handler = Watching()
    running = serve(handler)
    with running.ready() as client:
        for command in (MAIL, RCPT, "RCPT TO:<bad@example.com>", SECOND, "DATA", "x\r\n."):
            client.say(command)
        client.say("VRFY x")
        client.say("QUIT")
    running.wait_until_no_sessions()
    one, both = ["b@example.com"], ["b@example.com", "c@example.com"]
    hooks = ["on_mail", *["on_rcpt"] * 3, "on_data", "on_message"]
    assert handler.seen == [
        ("on_connect", None),
        ("on_hello", None),
        ("on_mail", ("a@example.com", [], hooks[:1])),
        ("on_rcpt", ("a@example.com", [], hooks[:2])),
        ("on_rcpt", ("a@example.com", one, hooks[:3])),
        ("on_rcpt", ("a@example.com", one, hooks[:4])),
        ("on_data", ("a@example.com", both, hooks[:5])),
        ("on_message", ("a@example.com", both, hooks)),
        ("on_replied", None),
        ("message", hooks),
        ("on_vrfy", None),
        ("on_disconnect", None),
    ]
    assert len({*handler.envelopes}) == 1  # it is one transaction, however often it is looked at


ENDS: dict[str, tuple[str, ...]] = {
    "the end of a message": (RCPT, "DATA", "x\r\n."),
    "the end of a message by BDAT": (RCPT, "BDAT 3\r\nx", "BDAT 3 LAST\r\ny"),
    "RSET": (RCPT, "RSET"),
    "RSET after a chunk": (RCPT, "BDAT 3\r\nx", "RSET"),
    "HELO": (RCPT, "HELO c"),
    "EHLO": ("EHLO c",),
    "a body that is too large": (RCPT, "DATA", "x" * 2000 + "\r\n."),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_transaction_ends_its_state(serve: Serve, end: str) -> None:
    handler = Watching()
    with serve(handler, max_size=1000).ready() as client:
        client.say(MAIL)
        for command in ENDS[end]:
            client.say(command)
        assert client.say("VRFY x").startswith("252")
        assert handler.last() == ("on_vrfy", None)
        assert client.say("MAIL FROM:<next@example.com>").startswith("250")
        assert handler.last() == ("on_mail", ("next@example.com", [], ["on_mail"]))
    assert len({*handler.envelopes}) == 2


STAYS: dict[str, tuple[str, ...]] = {
    "NOOP": ("NOOP",),
    "a nested MAIL": ("MAIL FROM:<x@example.com>",),
    "a MAIL with a bad address": ("MAIL FROM:<x@>",),
    "a HELO that is rejected": ("HELO bad",),
    "a HELO without a name": ("HELO",),
    "RSET with an argument": ("RSET x",),
    "STARTTLS": ("STARTTLS",),
    "a first chunk": ("BDAT 3\r\nx",),
    "two chunks": ("BDAT 3\r\nx", "BDAT 3\r\nx"),
    "a bad recipient": ("RCPT TO:<bad@example.com>",),
}


@pytest.mark.parametrize("command", STAYS)
def test_what_ends_no_transaction_keeps_its_state(
    serve: Serve, command: str, certificates: Certificates
) -> None:
    handler = Watching()
    with serve(handler, tls_config=certificates.server).ready() as client:
        client.say(MAIL)
        client.say(RCPT)
        for each in STAYS[command]:
            client.say(each)
        client.say("VRFY x")
        hook, (sender, recipients, noted) = handler.last()
    assert (hook, sender, recipients) == ("on_vrfy", "a@example.com", ["b@example.com"])
    assert noted[:2] == ["on_mail", "on_rcpt"]
    assert len({*handler.envelopes}) == 1


def test_a_mail_that_is_rejected_leaves_no_transaction(serve: Serve) -> None:
    handler = Watching()
    with serve(handler).ready() as client:
        assert client.say("MAIL FROM:<bad@example.com>").startswith("550")
        assert handler.last() == ("on_mail", ("bad@example.com", [], ["on_mail"]))
        client.say("VRFY x")
        assert handler.last() == ("on_vrfy", None)
        assert client.say(RCPT).startswith("503")
        client.say(MAIL)
        assert handler.last() == ("on_mail", ("a@example.com", [], ["on_mail"]))


def test_there_is_no_transaction_after_starttls(serve: Serve, certificates: Certificates) -> None:
    handler = Watching()
    with serve(handler, tls_config=certificates.server).ready() as client:
        client.say(MAIL)
        client.say("RSET")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        assert ("on_tls", None) in handler.seen
        client.say(MAIL)
        assert handler.last() == ("on_mail", ("a@example.com", [], ["on_mail"]))


def test_a_client_that_leaves_ends_its_transaction(serve: Serve) -> None:
    handler = Watching()
    running = serve(handler)
    with running.ready() as client:
        client.say(MAIL)
        client.say(RCPT)
    running.wait_until_no_sessions()
    assert handler.last() == ("on_disconnect", None)


@pytest.mark.parametrize("fails", [Reject(421, "4.3.2", "Later"), RuntimeError("x")])
def test_a_mail_that_fails_leaves_no_transaction(serve: Serve, fails: Exception) -> None:
    class Failing(Watching):
        def on_mail(self, session: Session, sender: Address, params: object) -> None:
            self.note("on_mail", session)
            raise fails

    handler = Failing()
    running = serve(handler)
    with running.ready() as client:
        client.say(MAIL)
    running.wait_until_no_sessions()
    assert handler.seen[-2:] == [
        ("on_mail", ("a@example.com", [], ["on_mail"])),
        ("on_disconnect", None),
    ]


def test_the_recipients_are_a_snapshot_that_hooks_cannot_change(serve: Serve) -> None:
    found: list[tuple[Address, ...]] = []

    class Collecting(Handler):
        def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
            assert session.transaction is not None
            found.append(session.transaction.recipients)

        def on_message(self, session: Session, message: Message) -> None:
            assert session.transaction is not None
            found.append(session.transaction.recipients)
            message.recipients.clear()
            found.append(session.transaction.recipients)

    with serve(Collecting()).ready() as client:
        client.mail(recipients=["b@example.com", "c@example.com"])
    assert found == [(), ("b@example.com",), *[("b@example.com", "c@example.com")] * 2]


@pytest.mark.parametrize("state", [lambda session: session.state, lambda _: None])
def test_the_state_of_the_session_stays_and_that_of_a_message_does_not(
    serve: Serve, state: Callable[[Session], Any]
) -> None:
    class Counting(Handler):
        def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
            assert session.transaction is not None
            for each in (session.state, session.transaction.state):
                each.count = getattr(each, "count", 0) + 1

        def on_message(self, session: Session, message: Message) -> str:
            return f"{session.state.count}-{message.state.count}"

    with serve(Counting()).ready() as client:
        assert client.mail(recipients=["b@example.com"] * 2).endswith("queued as 2-2")
        assert client.mail(recipients=["b@example.com"]).endswith("queued as 3-1")
        client.say("EHLO again")
        assert client.mail(recipients=["b@example.com"]).endswith("queued as 4-1")


def test_a_message_made_by_hand_has_a_state_too() -> None:
    message = Message("m1", Address("a", "x"), [], b"", [])
    message.state.score = 1
    assert message.state.score == 1
    assert message.via == "DATA"


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({}, ["HELO c", "EHLO c", "HELO bad", "EHLO bad", "HELO c", "EHLO bad"]),
        ({"lmtp": True}, ["LHLO bad", "LHLO c"]),
    ],
)
def test_on_hello_knows_the_command(
    serve: Serve, options: dict[str, Any], commands: list[str]
) -> None:
    seen: list[tuple[bool, str]] = []

    class Greeting(Handler):
        def on_hello(self, session: Session, name: str) -> None:
            seen.append((session.esmtp, session.helo))
            if name == "bad":
                raise Reject(550)

        def on_vrfy(self, session: Session, text: str) -> None:
            seen.append((session.esmtp, session.helo))

        def on_message(self, session: Session, message: Message) -> None: ...

    with serve(Greeting(), **options).client() as client:
        client.reply()
        expected = []
        esmtp, helo = False, ""
        for command in commands:
            verb, _, name = command.partition(" ")
            client.say(command)
            client.say("VRFY x")
            expected.append((verb != "HELO", helo))
            if name != "bad":
                esmtp, helo = verb != "HELO", name
            expected.append((esmtp, helo))
    assert seen == expected


def test_a_transaction_is_compared_by_identity_and_shows_its_envelope(serve: Serve) -> None:
    seen: list[Envelope] = []

    class Keeping(Handler):
        def on_message(self, session: Session, message: Message) -> None:
            assert session.transaction is not None
            assert session.transaction == session.transaction
            seen.append(session.transaction)
            with pytest.raises(
                AttributeError, match="'Envelope' object has no attribute 'mailbox'"
            ):
                session.transaction.mailbox = 1  # type: ignore[attr-defined]  # which is the mistake

    with serve(Keeping()).ready() as client:
        assert client.mail().startswith("250")
        assert client.mail().startswith("250")
    first, second = seen
    assert first != second
    assert len({first, second, first}) == 2
    assert repr(first) == f"<Envelope from {first.sender} for {len(first.recipients)}>"
