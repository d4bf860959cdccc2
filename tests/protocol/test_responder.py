"""`Responder`: a whole server that is fed with bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest

from ehlo.protocol import Disconnect, Reject, Reply, Responder, Settings, events
from ehlo.protocol.auth.credentials import PasswordCredentials
from ehlo.protocol.auth.mechanism import AsyncSteps, AuthContext, Mechanism
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import ProtocolError
from ehlo.protocol.responder import Decision
from ehlo.transcript import Transcript

BEGIN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
PASSWORDS = {"tim": "tanstaaf"}


def codes(replies: bytes) -> list[int]:
    """Return the code of each reply."""
    return [int(line[:3]) for line in replies.splitlines() if line[3:4] == b" "]


def greeted(
    decide: Callable[[events.Event], Decision] | None = None, settings: Settings | None = None
) -> Responder:
    responder = Responder(decide, settings)
    assert responder.feed(b"").startswith(b"220 ")
    return responder


def server_with(*mechanisms: str, secret: Callable[[str], object] | None = None) -> Responder:
    settings = Settings(
        mechanisms={name: MECHANISMS[name] for name in mechanisms},
        open_mechanisms=frozenset(mechanisms),
    )
    responder = Responder(lambda _event: None, settings, nonce=lambda: "nonce", secret=secret)
    responder.feed(b"EHLO c\r\n")
    return responder


class Asked:
    """Notes the events, and answers some."""

    def __init__(self, answers: dict[type, Decision] | None = None) -> None:
        self.events: list[events.Event] = []
        self.answers = answers or {}

    def __call__(self, event: events.Event) -> Decision:
        self.events.append(event)
        return self.answers.get(type(event))

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def test_mail_is_accepted_where_nothing_decides() -> None:
    responder = greeted()
    assert codes(responder.feed(BEGIN + b"DATA\r\nx\r\n.\r\nQUIT\r\n")) == [
        *[250] * 3,
        354,
        250,
        221,
    ]
    assert responder.closed
    assert responder.feed(b"NOOP\r\n") == b""
    assert responder.feed_eof() == b""


def test_each_question_is_asked_and_a_message_has_its_whole_body() -> None:
    asked = Asked()
    responder = greeted(asked)
    responder.feed(BEGIN + b"DATA\r\nSub")
    for octet in b"ject: x\r\n\r\n..dots\r\n.\r\n":
        responder.feed(bytes([octet]))
    assert asked.kinds == ["Connect", "Hello", "Mail", "Rcpt", "Data", "MessageEnd"]
    end = asked.events[-1]
    assert isinstance(end, events.MessageEnd)
    assert end.body == b"Subject: x\r\n\r\n.dots\r\n"
    assert str(end.transaction.sender) == "a@b.example"


@pytest.mark.parametrize("one_packet", [True, False])
def test_a_body_of_one_message_is_not_in_the_next(one_packet: bool) -> None:
    asked = Asked()
    responder = greeted(asked)
    mail = BEGIN + b"DATA\r\nbody\r\n.\r\n"
    for packet in [mail * 2] if one_packet else mail.splitlines(keepends=True) * 2:
        responder.feed(packet)
    ends = [event for event in asked.events if isinstance(event, events.MessageEnd)]
    assert [end.body for end in ends] == [b"body\r\n"] * 2


def test_a_body_that_is_abandoned_or_too_large_is_dropped() -> None:
    asked = Asked()
    responder = greeted(asked, Settings(max_size=10))
    responder.feed(BEGIN + b"BDAT 5\r\nfirst")
    responder.feed(b"RSET\r\n" + BEGIN[8:] + b"BDAT 6 LAST\r\nsecond")
    assert codes(responder.feed(BEGIN[8:] + b"DATA\r\n" + b"x" * 20 + b"\r\n.\r\n"))[-1] == 552
    responder.feed(BEGIN[8:] + b"DATA\r\nthird\r\n.\r\n")
    ends = [event for event in asked.events if isinstance(event, events.MessageEnd)]
    assert [end.body for end in ends] == [b"second", b"third\r\n"]


def test_a_decision_is_a_reply_that_is_returned_or_raised() -> None:
    def decide(event: events.Event) -> Decision:
        if isinstance(event, events.Rcpt) and event.recipient.local == "raised":
            raise Reject(550, "5.1.1", "Raised")
        return Reply(452, "4.2.2", "Full") if isinstance(event, events.MessageEnd) else None

    responder = greeted(decide)
    assert responder.feed(BEGIN + b"RCPT TO:<raised@d.example>\r\n").endswith(
        b"550 5.1.1 Raised\r\n"
    )
    assert responder.feed(b"DATA\r\nx\r\n.\r\n").endswith(b"452 4.2.2 Full\r\n")
    assert not responder.closed


def test_in_lmtp_each_recipient_may_have_its_own_reply() -> None:
    full = Reply(452, "4.2.2", "Full")

    def decide(event: events.Event) -> Decision:
        return [None, full] if isinstance(event, events.MessageEnd) else None

    responder = greeted(decide, Settings(lmtp=True))
    begin = BEGIN.replace(b"EHLO", b"LHLO") + b"RCPT TO:<e@f.example>\r\n"
    said = responder.feed(begin + b"DATA\r\nx\r\n.\r\n")
    assert said.endswith(b"250 2.0.0 Ok: queued\r\n452 4.2.2 Full\r\n")


@pytest.mark.parametrize("raised", [True, False])
def test_a_disconnection_sends_the_replies_before_it_and_no_other(raised: bool) -> None:
    def decide(event: events.Event) -> Decision:
        if not isinstance(event, events.MessageEnd):
            return None
        if raised:
            raise Disconnect
        return Disconnect()

    responder = greeted(decide)
    assert codes(responder.feed(BEGIN + b"DATA\r\nx\r\n.\r\nNOOP\r\n")) == [250, 250, 250, 354]
    assert responder.closed


@pytest.mark.parametrize("error", [Disconnect(), Reject(550, "5.1.1", "No")])
def test_an_exception_that_is_raised_again_and_again_keeps_no_event(error: Exception) -> None:
    def decide(event: events.Event) -> Decision:
        if isinstance(event, events.Rcpt):
            raise error
        return None

    for _ in range(2):
        greeted(decide).feed(BEGIN)
        assert error.__traceback__ is None


def test_a_client_may_be_disconnected_without_a_greeting() -> None:
    responder = Responder(Asked({events.Connect: Disconnect()}))
    assert responder.feed(b"") == b""
    assert responder.closed


def test_what_decide_raises_is_raised_and_closes() -> None:
    def decide(event: events.Event) -> Decision:
        raise LookupError(type(event).__name__)

    responder = Responder(decide)
    with pytest.raises(LookupError, match="Connect"):
        responder.feed(b"")
    assert responder.closed


def test_what_was_sent_before_the_end_is_answered() -> None:
    responder = greeted()
    assert codes(responder.feed(BEGIN + b"NOO")) == [250, 250, 250]
    assert responder.feed_eof() == b""
    assert responder.closed


def test_a_client_that_leaves_in_its_body_delivers_nothing() -> None:
    asked = Asked()
    responder = greeted(asked)
    responder.feed(BEGIN + b"DATA\r\nhalf of it\r\n")
    assert responder.feed_eof() == b""
    assert "MessageEnd" not in asked.kinds


def test_errors_end_the_connection_without_a_wait() -> None:
    responder = greeted(None, Settings(limits=Limits(slow_errors=2, errors=4)))
    assert codes(responder.feed(b"X\r\n" * 9)) == [500, 500, 500, 421]
    assert responder.closed


def test_many_pipelined_commands_are_answered_in_one_go() -> None:
    responder = greeted(None, Settings(limits=Limits(idle_commands=0)))
    assert codes(responder.feed(b"NOOP\r\n" * 1000)) == [250] * 1000


def test_tls_is_pretended() -> None:
    transcript = Transcript()
    responder = Responder(settings=Settings(tls_available=True), transcript=transcript)
    assert b"STARTTLS" in responder.feed(b"EHLO c\r\n")
    with pytest.raises(ProtocolError, match="no STARTTLS"):
        responder.secured()
    assert codes(responder.feed(b"STARTTLS\r\n")) == [220]
    assert responder.awaits_tls
    with pytest.raises(ProtocolError, match="secured"):
        responder.feed(b"EHLO c\r\n")
    responder.secured()
    assert b"STARTTLS" not in responder.feed(b"EHLO c\r\n")
    assert responder.connection.conversation.tls
    assert "*: TLS" in str(transcript)


def test_tls_is_pretended_without_a_transcript_and_from_the_beginning() -> None:
    responder = Responder(settings=Settings(tls_available=True))
    responder.feed(b"EHLO c\r\nSTARTTLS\r\n")
    responder.secured()
    assert codes(responder.feed(b"NOOP\r\n")) == [250]
    assert b"STARTTLS" not in Responder(settings=Settings(tls_available=True), tls=True).feed(
        b"EHLO c\r\n"
    )


def test_a_client_that_leaves_before_its_handshake_is_closed() -> None:
    responder = Responder(settings=Settings(tls_available=True))
    responder.feed(b"EHLO c\r\nSTARTTLS\r\n")
    assert responder.feed_eof() == b""
    assert responder.closed
    assert not responder.awaits_tls


def test_bytes_behind_starttls_close_the_connection() -> None:
    responder = Responder(settings=Settings(tls_available=True))
    responder.feed(b"EHLO c\r\n")
    assert responder.feed(b"STARTTLS\r\nNOOP\r\n") == b""
    assert responder.closed


def test_starttls_can_be_rejected() -> None:
    no = Reply(454, "4.7.0", "Not now")
    responder = greeted(Asked({events.StartTLS: no}), Settings(tls_available=True))
    assert codes(responder.feed(b"EHLO c\r\nSTARTTLS\r\n")) == [250, 454]
    assert codes(responder.feed(b"NOOP\r\n")) == [250]


# -- logins ----------------------------------------------------------------------------------------


def test_mechanisms_need_a_nonce() -> None:
    with pytest.raises(ValueError, match=r"token_hex"):
        Responder(settings=Settings(mechanisms={"PLAIN": MECHANISMS["PLAIN"]}))


def test_a_login_is_rejected_where_nothing_decides() -> None:
    settings = Settings(
        mechanisms={"PLAIN": MECHANISMS["PLAIN"]}, open_mechanisms=frozenset({"PLAIN"})
    )
    responder = Responder(settings=settings, nonce=lambda: "nonce")
    responder.feed(b"EHLO c\r\n")
    plain = base64.b64encode(b"\0tim\0tanstaaf")
    assert codes(responder.feed(b"AUTH PLAIN " + plain + b"\r\n")) == [535]


def test_a_password_is_decided_on() -> None:
    plain = base64.b64encode(b"\0tim\0tanstaaf")
    assert codes(server_with("PLAIN").feed(b"AUTH PLAIN " + plain + b"\r\n")) == [235]


@pytest.mark.parametrize(
    ("password", "code"), [("tanstaaf", 235), ("wrong", 535), (None, 535), ([], 535)]
)
def test_cram_md5_is_checked_against_the_secret(password: object, code: int) -> None:
    responder = server_with("CRAM-MD5", secret=lambda _user: password)
    challenge = base64.b64decode(responder.feed(b"AUTH CRAM-MD5\r\n")[4:])
    digest = hmac.new(b"tanstaaf", challenge, hashlib.md5).hexdigest().encode()
    assert codes(responder.feed(base64.b64encode(b"tim " + digest) + b"\r\n")) == [code]


def test_cram_md5_without_secrets_is_decided_on() -> None:
    responder = server_with("CRAM-MD5")
    responder.feed(b"AUTH CRAM-MD5\r\n")
    answer = base64.b64encode(b"tim " + b"0" * 32)
    assert codes(responder.feed(answer + b"\r\n")) == [235]


def scram(responder: Responder, password: str) -> list[int]:
    first = base64.b64encode(b"n,,n=tim,r=abc")
    challenge = base64.b64decode(responder.feed(b"AUTH SCRAM-SHA-256 " + first + b"\r\n")[4:])
    nonce, salt, count = challenge.decode().split(",")
    unproved = f"c=biws,{nonce}"
    message = f"n=tim,r=abc,{challenge.decode()},{unproved}".encode()
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt[2:]), int(count[2:])
    )
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    final = base64.b64encode(f"{unproved},p={proof}".encode())
    return codes(responder.feed(final + b"\r\n") + responder.feed(b"\r\n"))


def test_scram_is_checked_against_the_secret() -> None:
    assert scram(server_with("SCRAM-SHA-256", secret=PASSWORDS.get), "tanstaaf") == [334, 235]
    assert scram(server_with("SCRAM-SHA-256", secret=PASSWORDS.get), "wrong")[0] == 535
    assert scram(server_with("SCRAM-SHA-256"), "tanstaaf")[0] == 535


async def _slow(initial: bytes | None, _context: AuthContext) -> AsyncSteps:
    yield PasswordCredentials("tim", str(initial), mechanism="X-SLOW")


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "SCRAM-SHA-256"])
def test_a_secret_that_is_not_available_rejects_the_login(mechanism: str) -> None:
    def secret(_user: str) -> object:
        raise Reject(454, "4.7.0", "No directory")

    responder = server_with(mechanism, secret=secret)
    responder.feed(f"AUTH {mechanism}\r\n".encode())
    first = b"tim " + b"0" * 32 if mechanism == "CRAM-MD5" else b"n,,n=tim,r=abc"
    assert responder.feed(base64.b64encode(first) + b"\r\n") == b"454 4.7.0 No directory\r\n"


def test_a_proxy_that_is_trusted_may_speak_for_a_client() -> None:
    responder = Responder(trusted=frozenset({"XCLIENT"}))
    responder.feed(b"EHLO c\r\n")
    assert codes(responder.feed(b"XCLIENT ADDR=192.0.2.1\r\n")) == [220]


def test_a_step_that_must_be_awaited_fails_the_login() -> None:
    mechanism = Mechanism("X-SLOW", _slow, needs_tls=False)
    settings = Settings(mechanisms={"X-SLOW": mechanism})
    responder = Responder(lambda _event: None, settings, nonce=lambda: "nonce")
    responder.feed(b"EHLO c\r\n")
    assert codes(responder.feed(b"AUTH X-SLOW\r\n")) == [454]


def test_commands_of_ones_own_are_decided_on() -> None:
    rows = (*EXTENSIONS, Extension("XOWN", 0, verbs=("XOWN",)))
    asked = Asked({events.Command: Reply(250, "2.0.0", "Mine")})
    responder = greeted(asked, Settings(extensions=rows))
    assert responder.feed(b"EHLO c\r\nXOWN a b\r\n").endswith(b"250 2.0.0 Mine\r\n")
    assert asked.events[-1] == events.Command("XOWN", "a b")
