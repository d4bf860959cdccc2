"""AUTH: exchanges, who may log in when, what a wrong login costs, and that no secret leaks."""

from __future__ import annotations

import base64
import logging
import queue
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Reject, Reply, Session
from ehlo.server.limits import FailedLogins
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
from support.logins import cram_md5, disguises, encoded, login, plain
from support.serving import DEADLINE, Box, Running, Serve

kinds = pytest.mark.parametrize("kind", KINDS)
OPEN = {"PLAIN": True, "LOGIN": True}
ACCEPTED = "235 2.7.0 Authentication successful"
WRONG = "535 5.7.8 Authentication credentials invalid"
TROUBLE = "454 4.7.0 Temporary authentication failure"


def check(_peer: object, mechanism: str, username: bytes, password: bytes, shared: bytes) -> bool:
    """Alice's password is wonder."""
    if mechanism == "CRAM-MD5":
        return username == b"alice" and ehlo.cram_md5_matches("wonder", shared, password)
    return (username, password) == (b"alice", b"wonder")


@pytest.fixture
def running(serve: Serve, no_delay: None) -> Running:
    """A server that Alice can log in to."""
    return serve(Box(), auth_handler=check, auth_mechs=OPEN)


# -- exchanges -----------------------------------------------------------------------------------


def test_plain_with_an_initial_response(running: Running) -> None:
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")) == ACCEPTED


def test_plain_without_an_initial_response(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH PLAIN") == "334 "
        assert client.say(encoded("\0alice\0wonder")) == ACCEPTED


def test_login_without_an_initial_response(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH LOGIN") == "334 " + encoded("Username:")
        assert client.say(encoded("alice")) == "334 " + encoded("Password:")
        assert client.say(encoded("wonder")) == ACCEPTED


def test_login_with_an_initial_response(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH LOGIN " + encoded("alice")) == "334 " + encoded("Password:")
        assert client.say(encoded("wonder")) == ACCEPTED


def test_cram_md5(running: Running) -> None:
    with running.ready() as client:
        assert cram_md5(client, "alice", "wonder") == ACCEPTED


def test_the_names_of_mechanisms_are_accepted_in_any_case(running: Running) -> None:
    with running.ready() as client:
        assert client.say("auth plain " + encoded("\0alice\0wonder")) == ACCEPTED


def test_an_exchange_may_be_pipelined(running: Running) -> None:
    with running.ready() as client:
        lines = ["AUTH LOGIN", encoded("alice"), encoded("wonder"), "NOOP"]
        client.send("".join(f"{line}\r\n" for line in lines).encode())
        assert client.replies(4)[2:] == [ACCEPTED, "250 2.0.0 Ok"]


def test_an_equals_sign_is_an_empty_initial_response(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH PLAIN =").startswith("501 ")  # an empty message is not PLAIN's
        assert client.say("AUTH LOGIN =").startswith("334 ")
        assert client.say(encoded("wonder")).startswith("501 ")
        assert client.say("NOOP") == "250 2.0.0 Ok"


@pytest.mark.parametrize("begin", ["AUTH PLAIN", "AUTH LOGIN", "AUTH CRAM-MD5"])
def test_a_star_cancels(running: Running, begin: str) -> None:
    with running.ready() as client:
        assert client.say(begin).startswith("334 ")
        assert client.say("*").startswith("501 5.7.0 ")
        assert client.say("NOOP") == "250 2.0.0 Ok"
        assert client.say(plain("alice", "wonder")) == ACCEPTED


@pytest.mark.parametrize(
    "bad", ["not base64!", "AGFsaWNl=", "====", "AGFsaWNlAHdvbmRlcg", "ä", "\x00", "QQ=="]
)
@pytest.mark.parametrize("begin", ["AUTH PLAIN", "AUTH CRAM-MD5"])
def test_an_invalid_response_is_501_and_the_session_goes_on(
    running: Running, begin: str, bad: str
) -> None:
    with running.ready() as client:
        client.say(begin)
        assert client.say(bad).startswith("501 5.5.2 ")
        assert client.say("NOOP") == "250 2.0.0 Ok"


@pytest.mark.parametrize("bad", ["not base64!", "AGFsaWNl=", "QQ==", "AAAA"])
def test_a_bad_initial_response_is_501(running: Running, bad: str) -> None:
    with running.ready() as client:
        assert client.say(f"AUTH PLAIN {bad}").startswith("501 5.5.")
        assert client.say("NOOP") == "250 2.0.0 Ok"


def test_a_line_of_an_exchange_that_is_too_long_is_500(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH PLAIN " + "A" * 20_000).startswith("500 5.5.6 ")
        client.say("AUTH PLAIN")
        assert client.say("A" * 20_000).startswith("500 5.5.6 ")
        assert client.say(plain("alice", "wonder")) == ACCEPTED


def test_a_long_password_is_accepted(serve: Serve) -> None:
    seen: list[bytes] = []

    def note(_peer: object, _name: str, _user: bytes, password: bytes, _shared: bytes) -> bool:
        seen.append(password)
        return True

    running = serve(Box(), auth_handler=note, auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say(plain("alice", "x" * 8000)) == ACCEPTED
    assert seen == [b"x" * 8000]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("AUTH", "501 5.5.4 "),
        ("AUTH SCRAM-SHA-1", "504 5.5.4 "),
        ("AUTH GSSAPI", "504 5.5.4 "),
        ("AUTH CRAM-MD5 " + encoded("x"), "501 5.5.4 "),
        ("AUTH CRAM-MD5 =", "501 5.5.4 "),
    ],
)
def test_an_unknown_mechanism_is_rejected(running: Running, command: str, said: str) -> None:
    with running.ready() as client:
        assert client.say(command).startswith(said)


def test_auth_comes_after_ehlo_once_and_outside_of_a_transaction(running: Running) -> None:
    with running.client() as client:
        client.reply()
        assert client.say(plain("alice", "wonder")).startswith("503 5.5.1 ")
        client.say("EHLO c")
        client.say("MAIL FROM:<a@example.com>")
        assert client.say(plain("alice", "wonder")).startswith("503 5.5.1 ")
        client.say("RSET")
        assert client.say(plain("alice", "wonder")) == ACCEPTED
        assert client.say(plain("alice", "wonder")).startswith("503 5.5.1 ")
        assert "AUTH" not in client.say("EHLO c")


# -- which mechanisms ----------------------------------------------------------------------------


def offered(client: Client) -> set[str]:
    """The mechanisms in the reply to EHLO."""
    answer = client.say("EHLO c").splitlines()
    found = [line[9:].split() for line in answer if line[4:].startswith("AUTH ")]
    return set(found[0]) if found else set()


@pytest.mark.parametrize(
    ("mechs", "plain_text", "under_tls"),
    [
        (None, {"CRAM-MD5"}, {"CRAM-MD5", "LOGIN", "PLAIN"}),
        ({"CRAM-MD5": False}, set(), {"LOGIN", "PLAIN"}),
        ({"cram-md5": False, "Login": False}, set(), {"PLAIN"}),
        ({"PLAIN": True}, {"CRAM-MD5", "PLAIN"}, {"CRAM-MD5", "LOGIN", "PLAIN"}),
        ({"PLAIN": False, "LOGIN": True}, {"CRAM-MD5", "LOGIN"}, {"CRAM-MD5", "LOGIN"}),
        ({"PLAIN": False, "LOGIN": False, "CRAM-MD5": False}, set(), set()),
    ],
)
def test_mechanisms_are_offered_where_they_may_be_used(
    serve: Serve,
    certificates: Certificates,
    mechs: dict[str, bool] | None,
    plain_text: set[str],
    under_tls: set[str],
) -> None:
    running = serve(Box(), auth_handler=check, auth_mechs=mechs, tls_config=certificates.server())
    with running.client() as client:
        client.reply()
        assert offered(client) == plain_text
        client.say("STARTTLS")
        client.wrap(certificates.client)
        assert offered(client) == under_tls


def test_mechanisms_that_show_the_password_want_tls(
    serve: Serve, certificates: Certificates
) -> None:
    running = serve(Box(), auth_handler=check, tls_config=certificates.server())
    with running.ready() as client:
        for command in ("AUTH PLAIN", "AUTH LOGIN", plain("alice", "wonder")):
            assert client.say(command) == (
                "538 5.7.11 Encryption required for requested authentication mechanism"
            )


def test_a_mechanism_that_is_switched_off_is_not_there(serve: Serve) -> None:
    running = serve(Box(), auth_handler=check, auth_mechs={"CRAM-MD5": False})
    with running.ready() as client:
        assert client.say("AUTH CRAM-MD5").startswith("504 5.5.4 ")


def test_without_a_login_handler_there_is_no_auth(serve: Serve) -> None:
    with serve(Box()).client() as client:
        client.reply()
        assert offered(client) == set()
        assert client.say("AUTH CRAM-MD5") == "502 5.5.1 Command not implemented"


@pytest.mark.parametrize(
    ("hooks", "mechanisms"),
    [
        ({}, set()),
        ({"on_auth": None}, {"LOGIN", "PLAIN"}),
        ({"on_secret": None}, {"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"}),
        (
            {"on_auth": None, "on_secret": None},
            {"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "LOGIN", "PLAIN"},
        ),
    ],
)
def test_a_handler_offers_what_its_hooks_can_serve(
    serve: Serve, certificates: Certificates, hooks: dict[str, Any], mechanisms: set[str]
) -> None:
    handler = handler_of("async def", **hooks)
    running = serve(handler, tls_config=certificates.server(), tls_listener=True)
    with running.client(tls=certificates.client) as client:
        client.reply()
        assert offered(client) == mechanisms


# -- on_auth and on_secret -----------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("answer", "said", "user"),
    [
        ("alice@example.com", ACCEPTED, "alice@example.com"),
        (None, WRONG, None),
        (False, WRONG, None),
        (True, TROUBLE, None),
        ("", TROUBLE, None),
        (b"alice", TROUBLE, None),
        (1, TROUBLE, None),
        (["alice"], TROUBLE, None),
        (Reply(235, "2.7.0", "Welcome"), TROUBLE, None),
        (Reply(535, "5.7.8", "No"), "535 5.7.8 No", None),
        (Reply(432, "4.7.12", "Change it"), "432 4.7.12 Change it", None),
        (Reject(534, "5.7.9", "Too weak"), "534 5.7.9 Too weak", None),
        (Reject(454, "4.7.0", "Later"), "454 4.7.0 Later", None),
        (RuntimeError("wonder is wrong"), TROUBLE, None),
    ],
)
def test_on_auth_fails_closed(
    serve: Serve, no_delay: None, kind: str, answer: object, said: str, user: str | None
) -> None:
    noted = Noted()
    handler = handler_of(kind, noted, on_auth=answer, on_reset=None)
    running = serve(handler, auth_mechs=OPEN, auth_required=True)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder", authzid="root")) == said
        client.say("RSET")
        mail = client.say("MAIL FROM:<a@example.com>")
        assert mail.startswith("250" if user else "530 5.7.0 ")
    ((session,),) = noted.of("on_reset")
    assert session.user == user
    ((_, credentials),) = noted.of("on_auth")
    assert isinstance(credentials, ehlo.PasswordCredentials)
    assert (credentials.username, credentials.password) == ("alice", "wonder")
    assert (credentials.authzid, credentials.mechanism) == ("root", "PLAIN")


@kinds
@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("wonder", ACCEPTED),
        (b"wonder", ACCEPTED),
        ("wander", WRONG),
        (None, WRONG),
        ("", WRONG),
        (b"", WRONG),
        (True, TROUBLE),
        (4711, TROUBLE),
        (["wonder"], TROUBLE),
        ("\udcff", TROUBLE),
        (RuntimeError("wonder"), TROUBLE),
        (Reject(454, "4.7.0", "Later"), "454 4.7.0 Later"),
    ],
)
def test_on_secret_serves_cram_md5(
    serve: Serve, no_delay: None, kind: str, secret: object, said: str
) -> None:
    noted = Noted()
    running = serve(handler_of(kind, noted, on_secret=secret, on_reset=None))
    with running.ready() as client:
        assert cram_md5(client, "alice", "wonder") == said
        client.say("RSET")
    ((session, username),) = noted.of("on_secret")
    assert username == "alice"
    assert session.user == ("alice" if said == ACCEPTED else None)


def test_an_empty_secret_accepts_no_login_with_an_empty_password(
    serve: Serve, no_delay: None
) -> None:
    for secret in ("", b"", None):
        running = serve(handler_of("async def", on_secret=secret))
        with running.ready() as client:
            assert cram_md5(client, "alice", "") == WRONG


def test_a_challenge_is_never_sent_twice(serve: Serve) -> None:
    running = serve(handler_of("async def", on_secret=None))
    challenges = set()
    for _ in range(10):
        with running.ready() as client:
            challenges.add(client.say("AUTH CRAM-MD5"))
            client.say("*")
            challenges.add(client.say("AUTH CRAM-MD5"))
    assert len(challenges) == 20


def test_the_user_is_on_the_session_and_in_received(serve: Serve) -> None:
    noted = Noted()
    running = serve(handler_of("async def", noted, on_auth="Alice!"), auth_mechs=OPEN)
    with running.ready() as client:
        client.say(plain("alice", "wonder"))
        client.mail()
    ((session, message),) = noted.of("on_message")
    assert session.user == "Alice!"
    assert b" with ESMTPA\r\n" in message.trace


def test_a_negative_reply_to_ehlo_after_a_login_keeps_the_login(serve: Serve) -> None:
    noted = Noted()
    running = serve(
        handler_of("async def", noted, on_auth="alice"), auth_mechs=OPEN, auth_required=True
    )
    with running.ready() as client:
        client.say(plain("alice", "wonder"))
        client.say("EHLO again")
        client.say("RSET")
        assert client.mail().startswith("250")
    assert noted.of("on_message")[0][0].user == "alice"


# -- wrong logins --------------------------------------------------------------------------------


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(failed: FailedLogins, key: str | None) -> float:
    """Count a failure; return the delay of its reply."""
    failed.note(key)
    return failed.delay(key)


def test_the_delay_of_wrong_logins_grows_with_the_address() -> None:
    clock = FakeClock()
    failed = FailedLogins(clock)
    assert [fail(failed, "192.0.2.1") for _ in range(8)] == [1, 2, 4, 8, 16, 16, 16, 16]
    assert failed.delay("192.0.2.1") == 16
    assert fail(failed, "192.0.2.2") == 1


def test_wrong_logins_are_forgotten_after_ten_minutes() -> None:
    clock = FakeClock()
    failed = FailedLogins(clock)
    assert fail(failed, "192.0.2.1") == 1
    clock.now += 300
    assert fail(failed, "192.0.2.1") == 2
    clock.now += 301
    assert fail(failed, "192.0.2.1") == 2
    clock.now += 601
    assert fail(failed, "192.0.2.1") == 1


def test_an_exempt_address_waits_for_a_second_each_time() -> None:
    failed = FailedLogins(FakeClock())
    assert [fail(failed, None) for _ in range(5)] == [1] * 5


def test_the_memory_of_wrong_logins_is_bounded() -> None:
    failed = FailedLogins(FakeClock())
    for number in range(FailedLogins.MOST_ADDRESSES + 50):
        fail(failed, f"address {number}")
    assert len(failed._by_address) == FailedLogins.MOST_ADDRESSES  # noqa: SLF001
    assert fail(failed, "address 0") == 1  # forgotten: it failed longest ago
    assert fail(failed, f"address {FailedLogins.MOST_ADDRESSES}") == 2
    for _ in range(100):
        fail(failed, "busy")
    assert len(failed._by_address["busy"]) == FailedLogins.MOST_FAILURES  # noqa: SLF001


def test_a_wrong_login_waits_for_a_second_on_loopback_too(
    serve: Serve, clock: StoppedClock, delays: queue.SimpleQueue[float], loop_name: str
) -> None:
    running = serve(Box(), auth_handler=check, auth_mechs=OPEN, loop=loop_name)
    with running.ready() as slow, running.ready() as other:
        slow.send(plain("alice", "wander").encode() + b"\r\nNOOP\r\n")
        assert delays.get(timeout=DEADLINE) == 1.0
        assert other.mail() == "250 2.0.0 Ok: queued"  # no other client waits
        assert other.say(plain("alice", "wonder")) == ACCEPTED
        clock.advance(0.9)
        assert slow.has_heard_nothing()
        clock.advance(0.2)
        assert slow.replies(2) == [WRONG, "250 2.0.0 Ok"]


def test_a_client_that_leaves_while_it_waits_leaves_nothing(serve: Serve) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_auth=None, on_disconnect=None)
    running = serve(handler, auth_mechs=OPEN)
    client = running.ready()
    client.send(plain("alice", "wander").encode() + b"\r\n")
    running.run(running.turn)
    client.reset()
    running.wait_until_no_sessions()
    assert noted.names == ["on_auth", "on_disconnect"]


def test_the_command_after_the_sixth_wrong_login_ends_the_session(running: Running) -> None:
    with running.ready() as client:
        assert cram_md5(client, "alice", "wander") == WRONG
        assert login(client, "alice", "wander") == WRONG  # the same login
        for _ in range(4):
            assert client.say(plain(f"user{_}", "wander")) == WRONG
        assert client.say("MAIL FROM:<a@example.com>").startswith("250")
        client.say("RSET")
        assert cram_md5(client, "alice", "wander") == WRONG
        assert client.say("NOOP") == "421 4.7.0 Too many failed logins"
        assert client.is_closed()


def test_our_own_trouble_is_no_wrong_login(serve: Serve) -> None:
    running = serve(handler_of("async def", on_auth=RuntimeError()), auth_mechs=OPEN)
    with running.ready() as client:
        for _ in range(5):
            assert client.say(plain("alice", "wonder")) == TROUBLE


# -- secrets -------------------------------------------------------------------------------------

PASSWORD = "tanstaaf7Q~correct-horse"


class Careless(Handler):
    """Logs all it is given, and fails."""

    async def on_auth(self, session: Session, credentials: ehlo.Credentials) -> str:
        logging.getLogger("careless").warning("%r %s", credentials, session)
        assert isinstance(credentials, ehlo.PasswordCredentials | ehlo.TokenCredentials)
        if credentials.username == "crash":
            raise RuntimeError(f"no such user: {credentials!r}")
        if credentials.username == "type":
            return credentials  # type: ignore[return-value]
        return ""

    async def on_secret(self, session: Session, username: str) -> str:
        return PASSWORD

    async def on_message(self, session: Session, message: Message) -> None: ...


@pytest.mark.parametrize("username", ["alice", "crash", "type"])
def test_a_secret_never_reaches_a_log_a_repr_or_an_error(
    serve: Serve, no_delay: None, username: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []

    def note(_peer: object, verb: str, line: str) -> None:
        lines.append(f"{verb} {line}")

    heard = ""
    running = serve(Careless(), auth_mechs=OPEN, debug=True, log_read=note, log_write=note)
    for way in range(8):
        with running.ready() as client:
            match way:
                case 0:
                    heard += client.say(plain(username, PASSWORD))
                case 1:
                    client.say("AUTH PLAIN")
                    heard += client.say(encoded(f"\0{username}\0{PASSWORD}"))
                case 2:
                    heard += login(client, username, PASSWORD)
                case 3:
                    client.say("AUTH LOGIN " + encoded(username))
                    heard += client.say(encoded(PASSWORD))
                case 4:
                    heard += cram_md5(client, username, PASSWORD)
                case 5:
                    heard += client.say("auth  plain  " + encoded(f"\0{username}\0{PASSWORD}"))
                case 6:
                    heard += client.say("AUTH PLAIN " + encoded(f"{PASSWORD}") + "=")
                case 7:  # a second field more than PLAIN has
                    heard += client.say("AUTH PLAIN " + encoded(f"\0a\0{PASSWORD}\0x"))
    logged = caplog.text + "\n".join(lines) + heard
    assert "AUTH PLAIN ****" in logged
    assert "PasswordCredentials(username=" in logged
    for disguise in disguises(PASSWORD):
        assert disguise not in logged.casefold(), disguise


def test_the_disguises_of_a_secret_are_found() -> None:
    for before in ("", "\0", "\0a", "\0al", "\0alice\0"):
        text = base64.b64encode((before + PASSWORD).encode()).decode().casefold()
        assert any(disguise in text for disguise in disguises(PASSWORD))


@pytest.mark.parametrize(
    "credentials",
    [
        ehlo.PasswordCredentials("alice", PASSWORD),
        ehlo.CramMD5Credentials("alice", PASSWORD.encode(), b"<x@y>"),
    ],
)
def test_credentials_hide_their_secret(credentials: ehlo.Credentials) -> None:
    for shown in (repr(credentials), str(credentials), f"{credentials!a}"):
        assert "alice" in shown
        assert PASSWORD not in shown
