"""`auth_file`: logins by a file of passwords, two at a time, in the server's memory."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import smtplib
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scramp import ScramClient

from ehlo import CramMD5Credentials, Handler, Message, PasswordFile, Server, Session
from ehlo.passwords.lines import Candidate
from ehlo.protocol.auth.credentials import as_bytes
from ehlo.server.logins import Checks, Logins
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.logins import disguises, login, plain
from support.passwords import MEMORY, Gate, cheap, write
from support.serving import DEADLINE, Box, Running, Serve

OPEN = {"PLAIN": True, "LOGIN": True}
ACCEPTED = "235 2.7.0 Authentication successful"
WRONG = "535 5.7.8 Authentication credentials invalid"
TROUBLE = "454 4.7.0 Temporary authentication failure"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "users", alice="wonder", bob="builder")


@pytest.fixture
def running(serve: Serve, path: Path, no_delay: None) -> Running:
    return serve(Box(), auth_file=str(path), auth_mechs=OPEN)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Make the hash function block until the test opens the gate."""
    gate = Gate()
    monkeypatch.setattr(hashlib, "scrypt", gate)
    yield gate
    gate.opened.set()


def logins_of(running: Running) -> Logins:
    run = running.server.running
    assert run is not None
    hook = run.services[0].hooks["on_auth"]
    found = hook.call.__self__  # type: ignore[attr-defined]  # of a bound method
    assert isinstance(found, Logins)
    return found


def wait_until(running: Running, holds: Callable[[], bool]) -> None:
    """The loop has its turns until then."""
    until = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < until, "it did not come to be"
        running.run(running.turn)


def checks_of(running: Running) -> Checks:
    run = running.server.running
    assert run is not None
    return run._checks  # noqa: SLF001


def wait_for_queue(running: Running, count: int) -> None:
    checks = checks_of(running)
    wait_until(running, lambda: checks.waiting == count)


@contextlib.contextmanager
def trying(running: Running, count: int) -> Iterator[list[Client]]:
    """So many clients that have said Alice's password and no more."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.ready()) for _ in range(count)]
        for client in clients:
            client.send(plain("alice", "wonder").encode() + b"\r\n")
        yield clients


# -- who is let in -------------------------------------------------------------------------------


class Watcher(Handler):
    """Notes who has sent mail."""

    def __init__(self) -> None:
        self.users: list[str | None] = []

    async def on_message(self, session: Session, message: Message) -> None:
        self.users.append(session.user)


@pytest.mark.parametrize("kind", ["scrypt", "argon2", "scram-sha-256", "scram-sha-1"])
def test_smtplib_logs_in_under_tls_by_plain_and_by_login(
    serve: Serve, tmp_path: Path, certificates: Certificates, loop_name: str, kind: str
) -> None:
    PasswordFile(tmp_path / "users").set("alice", "wonder", kind)
    handler = Watcher()
    running = serve(
        handler,
        auth_file=str(tmp_path / "users"),
        auth_required=True,
        tls_config=certificates.server(),
        loop=loop_name,
    )
    for mechanism in ("PLAIN", "LOGIN"):
        with smtplib.SMTP(*running.address) as client:
            client.ehlo()
            assert "PLAIN" not in client.esmtp_features.get("auth", "")
            client.starttls(context=certificates.client)
            client.ehlo()
            assert {"PLAIN", "LOGIN"} <= set(client.esmtp_features["auth"].split())
            assert "CRAM-MD5" not in client.esmtp_features["auth"]
            client.user, client.password = "alice", "wonder"
            method = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            assert client.auth(mechanism, method)[0] == 235
            client.sendmail("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\n")
    assert handler.users == ["alice", "alice"]


def test_a_wrong_password_and_an_unknown_user_are_535(running: Running) -> None:
    for username, password in [("alice", "builder"), ("carol", "wonder"), ("alice\t", "wonder")]:
        with running.ready() as client:
            assert client.say(plain(username, password)) == WRONG
            assert login(client, username, password) == WRONG
            assert client.say(plain("alice", "wonder")) == ACCEPTED


def test_a_wrong_login_has_its_delay(
    serve: Serve, clock: StoppedClock, delays: queue.SimpleQueue[float], path: Path
) -> None:
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN)
    with running.ready() as client:
        client.send(f"{plain('alice', 'builder')}\r\n".encode())
        assert delays.get(timeout=DEADLINE) == 1.0
        clock.advance(0.9)
        assert client.has_heard_nothing()
        clock.advance(0.2)
        assert client.reply() == WRONG


def test_no_user_may_act_as_another(running: Running) -> None:
    with running.ready() as client:
        assert client.say(plain("alice", "wonder", authzid="bob")) == WRONG
        assert client.say(plain("alice", "wonder", authzid="alice")) == ACCEPTED


def test_what_cram_md5_sends_is_no_password(running: Running) -> None:
    with running.ready() as client:
        assert client.say("AUTH CRAM-MD5").startswith("504 5.5.4")
    credentials = CramMD5Credentials("alice", b"0" * 32, b"challenge")
    with pytest.raises(TypeError, match="a password file cannot check CramMD5Credentials"):
        running.run(lambda: logins_of(running).on_auth(None, credentials))  # type: ignore[arg-type]  # not looked at


def test_a_password_is_not_in_the_log(
    serve: Serve, path: Path, no_delay: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, debug=True)
    with running.ready() as client:
        client.say(plain("alice", "xyzzysesame"))
        client.say(plain("alice", "wonder"))
    text = caplog.text.casefold()
    assert not any(form in text for form in disguises("xyzzysesame") | disguises("wonder"))
    assert path.read_text().splitlines()[0] not in caplog.text


def test_keys_for_scram_are_given_to_the_dispatcher_if_the_file_has_some(
    serve: Serve, path: Path
) -> None:
    for has_keys in (False, True):
        if has_keys:
            PasswordFile(path).set("carol", "carrot", "scram-sha-256")
        running = serve(Box(), auth_file=str(path), auth_mechs=OPEN)
        run = running.server.running
        assert run is not None
        assert ("on_secret" in run.services[0].hooks) == has_keys
    secret = logins_of(running).on_secret
    keys = running.run(lambda: secret(None, "carol"))  # type: ignore[arg-type]  # not looked at
    assert keys == PasswordFile(path).scram_keys("carol") != ()
    (nobody,) = running.run(lambda: secret(None, "alice"))  # type: ignore[arg-type]  # as above
    assert (nobody.algorithm, nobody.iterations) == ("SHA-256", 4096)
    assert nobody.stored_key == nobody.server_key  # of no password


@pytest.mark.parametrize("said", ["j\u00fcrgen", "ju\u0308rgen"])
def test_a_name_logs_in_in_each_form_of_unicode_and_is_one_identity(
    serve: Serve, path: Path, no_delay: None, said: str
) -> None:
    PasswordFile(path).set("j\u00fcrgen", "wonder", "scram-sha-256")
    handler = Watcher()
    running = serve(handler, auth_file=str(path), auth_mechs=OPEN)
    for wants_scram in (True, False):
        with running.ready() as client:
            if wants_scram:
                scram = ScramClient(["SCRAM-SHA-256"], said, "wonder")
                step = client.say(f"AUTH SCRAM-SHA-256 {_base64(scram.get_client_first())}")
                scram.set_server_first(b64decode(step.removeprefix("334 ")).decode())
                step = client.say(_base64(scram.get_client_final()))
                scram.set_server_final(b64decode(step.removeprefix("334 ")).decode())
                assert client.say("") == ACCEPTED
            else:
                assert client.say(plain(said, "wonder", authzid=said)) == ACCEPTED
            assert client.mail() == "250 2.0.0 Ok: queued"
    assert handler.users == ["j\u00fcrgen", "j\u00fcrgen"]


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


# -- the file changes ----------------------------------------------------------------------------


def test_a_change_of_the_file_counts_at_once(running: Running, path: Path) -> None:
    with running.ready() as client:
        assert client.say(plain("carol", "carrot")) == WRONG
        PasswordFile(path).set("carol", "carrot", "scram-sha-256")
        PasswordFile(path).remove("alice")
        assert client.say(plain("alice", "wonder")) == WRONG
        assert client.say(plain("carol", "carrot")) == ACCEPTED


def test_a_broken_file_does_not_stop_logins(
    running: Running, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("alice:sesame\n")
    for _ in range(2):
        with running.ready() as client:
            assert client.say(plain("alice", "wonder")) == ACCEPTED
    (message,) = [record.message for record in caplog.records if record.name == "ehlo.passwords"]
    start = f'reload failed what=passwords reason="{path}: line 1: unknown kind of hash; '
    assert message.startswith(start)
    assert message.endswith(" in_use=previous")


def test_a_file_that_cannot_be_read_is_told_of_again_and_again(
    running: Running, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_in() -> int:
        with running.ready() as client:
            assert client.say(plain("alice", "wonder")) == ACCEPTED
        return len([record for record in caplog.records if record.name == "ehlo.passwords"])

    path.unlink()
    assert log_in() == 1
    assert log_in() == 1
    monkeypatch.setattr("ehlo.passwords.file._LOG_EVERY", 0.0)
    assert log_in() == 2
    path.write_text("alice:sesame\n")
    assert log_in() == 3
    os.utime(path, (1, 1))
    assert log_in() == 4
    assert {record.levelname for record in caplog.records if record.name == "ehlo.passwords"} == {
        "ERROR"
    }


# -- two at a time -------------------------------------------------------------------------------


def test_two_checks_run_at_once_and_others_are_served_meanwhile(
    running: Running, gate: Gate
) -> None:
    with trying(running, 5) as clients:
        gate.wait_for(2)
        wait_for_queue(running, 3)
        wait_until(running, lambda: running.runtime.memory.held == 2 * MEMORY)
        with running.ready() as other:
            assert other.say("NOOP") == "250 2.0.0 Ok"
            assert other.mail() == "250 2.0.0 Ok: queued"
        gate.opened.set()
        assert [client.reply() for client in clients] == [ACCEPTED] * 5
    assert gate.most_inside == 2
    assert gate.threads <= {"ehlo-login-1", "ehlo-login-2", "ehlo-login-3"}
    wait_until(running, lambda: running.runtime.memory.held == 0)


def test_a_hash_that_takes_its_time_does_not_stall_a_def_hook(
    serve: Serve, path: Path, gate: Gate
) -> None:
    class Blocking(Handler):
        def on_message(self, session: Session, message: Message) -> None:
            pass

    running = serve(Blocking(), auth_file=str(path), auth_mechs=OPEN, threads=1)
    with trying(running, 3) as clients:
        gate.wait_for(2)
        with running.ready() as other:
            assert other.mail() == "250 2.0.0 Ok: queued"
        gate.opened.set()
        assert [client.reply() for client in clients] == [ACCEPTED] * 3


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_def_hooks_that_hang_do_not_prevent_logins(
    serve: Serve, tmp_path: Path, mechanism: str
) -> None:
    class Hanging(Handler):
        def __init__(self) -> None:
            self.entered, self.gate = threading.Event(), threading.Event()

        def on_message(self, session: Session, message: Message) -> None:
            self.entered.set()
            assert self.gate.wait(2 * DEADLINE)

    handler = Hanging()
    path = tmp_path / "users"
    PasswordFile(path).set("alice", "wonder", "scram-sha-256")
    running = serve(handler, auth_file=str(path), auth_mechs={mechanism: True}, threads=1)
    with running.ready() as client, running.ready() as other:
        client.begin_message()
        assert handler.entered.wait(DEADLINE)
        if mechanism == "PLAIN":
            assert other.say(plain("alice", "wonder")) == ACCEPTED
        else:
            first = b64encode(b"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL").decode()
            assert other.say(f"AUTH SCRAM-SHA-256 {first}").startswith("334 ")
        handler.gate.set()
        client.replies(4)


@contextlib.contextmanager
def from_address(running: Running, host: str, count: int) -> Iterator[list[Client]]:
    """So many clients from this address that have said a wrong password, and wait."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.ready(source=host)) for _ in range(count)]
        for client in clients:
            client.send(plain("alice", host).encode() + b"\r\n")
        yield clients


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collect the passwords in the order in which they are checked, one at a time."""
    monkeypatch.setattr(Checks, "AT_ONCE", 1)
    found: list[bytes] = []
    matches = Candidate.matches

    def noted(candidate: Candidate, password: str | bytes) -> bool:
        found.append(as_bytes(password))
        return matches(candidate, password)

    monkeypatch.setattr(Candidate, "matches", noted)
    return found


def test_addresses_take_turns_and_each_in_the_order_in_which_its_logins_came(
    serve: Serve, path: Path, no_delay: None, gate: Gate, checked: list[bytes]
) -> None:
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, exempt_networks=())
    with (
        from_address(running, "127.0.0.2", 4) as many,
        from_address(running, "127.0.0.3", 2) as some,
    ):
        wait_for_queue(running, 5)
        with running.ready() as client:
            client.send(plain("alice", "wonder").encode() + b"\r\n")
            wait_for_queue(running, 6)
            gate.opened.set()
            assert client.reply() == ACCEPTED
            assert [each.reply() for each in (*many, *some)] == [WRONG] * 6
    # One had begun
    many_, some_ = b"127.0.0.2", b"127.0.0.3"
    assert checked == [many_, many_, some_, b"wonder", many_, some_, many_]


def test_addresses_that_fill_all_places_leave_one_for_another(
    serve: Serve, path: Path, no_delay: None, gate: Gate, checked: list[bytes]
) -> None:
    """Two addresses with as many logins as may wait; the latest ones make way."""
    running = serve(
        Box(), auth_file=str(path), auth_mechs=OPEN, exempt_networks=(), max_connection_rate=0
    )
    with (
        from_address(running, "127.0.0.2", 40) as first,
        from_address(running, "127.0.0.3", 40) as second,
    ):
        wait_for_queue(running, Checks.MOST_WAITING)
        with running.ready() as client:
            client.send(plain("alice", "wonder").encode() + b"\r\n")
            waiting = checks_of(running)._waiting  # noqa: SLF001  nothing else shows whose they are
            wait_until(running, lambda: "127.0.0.1" in waiting)
            gate.opened.set()
            assert client.reply() == ACCEPTED
        assert checked.index(b"wonder") == 3
        replies = [[client.reply() for client in each] for each in (first, second)]
    for each in replies:
        assert set(each) == {TROUBLE, WRONG}
        assert 30 <= each.count(WRONG) <= 34


def test_beyond_so_many_that_wait_a_login_is_our_trouble(
    running: Running, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checks, "MOST_WAITING", 1)
    with trying(running, 2) as clients:
        gate.wait_for(2)
        with trying(running, 1) as (third,):
            wait_for_queue(running, 1)
            with running.ready() as fourth:
                assert fourth.say(plain("alice", "wonder")) == TROUBLE
                gate.opened.set()
                assert [client.reply() for client in (*clients, third)] == [ACCEPTED] * 3
                assert fourth.say(plain("alice", "wonder")) == ACCEPTED


def test_a_client_that_leaves_frees_its_place_at_once_and_its_memory_when_its_check_ends(
    running: Running, gate: Gate
) -> None:
    """They leave by a reset: a client that only closes may still wait for its replies."""
    with trying(running, 2) as begun:
        gate.wait_for(2)
        with trying(running, 3) as waiting:
            wait_for_queue(running, 3)
            waiting[0].reset()
            waiting[2].reset()
            wait_for_queue(running, 1)
            begun[0].reset()
            wait_until(running, lambda: running.sessions == 2)
            wait_until(running, lambda: running.runtime.memory.held == 2 * MEMORY)
            gate.opened.set()
            assert [begun[1].reply(), waiting[1].reply()] == [ACCEPTED] * 2
    running.wait_until_no_sessions()
    wait_until(running, lambda: running.runtime.memory.held == 0)


def test_a_check_over_its_deadline_is_our_trouble_and_counts_until_it_ends(
    serve: Serve, clock: StoppedClock, path: Path, gate: Gate
) -> None:
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, handler_timeout=20)
    with trying(running, 1) as (client,):
        gate.wait_for(1)
        clock.advance(21)
        assert client.reply() == TROUBLE
        wait_until(running, lambda: running.runtime.memory.held == MEMORY)
        gate.opened.set()
        wait_until(running, lambda: running.runtime.memory.held == 0)


def test_a_server_ends_with_a_check_under_way(serve: Serve, path: Path, gate: Gate) -> None:
    server = Server(Box(), addr="127.0.0.1:0", auth_file=str(path), auth_mechs=OPEN, grace=0)
    with contextlib.ExitStack() as stack:
        with server.in_thread():
            client = stack.enter_context(Running(server).ready())
            client.send(plain("alice", "wonder").encode() + b"\r\n")
            gate.wait_for(1)
        assert client.reply().startswith("421 ")
    gate.opened.set()


def test_a_check_that_fails_is_our_trouble(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr(hashlib, "scrypt", fail)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")) == TROUBLE
        assert client.say(plain("nobody", "wonder")) == TROUBLE
    assert "on_auth (ehlo.server.logins.Logins.on_auth) failed" in caplog.text
    wait_until(running, lambda: running.runtime.memory.held == 0)


# -- memory --------------------------------------------------------------------------------------


def test_where_there_is_memory_for_one_check_they_run_one_by_one(
    serve: Serve, path: Path, gate: Gate
) -> None:
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, max_memory=2 * MEMORY - 1)
    with trying(running, 3) as clients:
        gate.wait_for(1)
        wait_for_queue(running, 2)
        wait_until(running, lambda: running.runtime.memory.held == MEMORY)
        gate.opened.set()
        assert [client.reply() for client in clients] == [ACCEPTED] * 3
    assert gate.most_inside == 1


def test_a_check_does_not_wait_for_the_memory_of_a_message(serve: Serve, path: Path) -> None:
    class Holding(Handler):
        def __init__(self) -> None:
            self.inside, self.go_on = threading.Semaphore(0), threading.Event()

        def on_message(self, session: Session, message: Message) -> None:
            self.inside.release()
            assert self.go_on.wait(DEADLINE)

    handler = Holding()
    running = serve(handler, auth_file=str(path), auth_mechs=OPEN, max_memory=1_000_000)
    memory = running.runtime.memory
    lines = (b"x" * 98 + b"\r\n") * 6000
    with running.ready() as sender, running.ready() as waiting:
        sender.begin_message(lines)
        assert handler.inside.acquire(timeout=DEADLINE)
        waiting.begin_message(lines)  # which claims memory
        wait_until(running, lambda: len(memory.claims) == 1)
        with trying(running, 2) as clients:
            assert [client.reply() for client in clients] == [ACCEPTED] * 2
        handler.go_on.set()
    wait_until(running, lambda: memory.held == 0)


def test_a_client_that_waits_for_memory_and_leaves_makes_way(
    serve: Serve, path: Path, gate: Gate
) -> None:
    """He needs more than there is for now; who came after him does not."""
    PasswordFile(path).set("carol", "carrot", "scram-sha-256")
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, max_memory=2 * MEMORY - 1)
    with trying(running, 1) as (first,):
        gate.wait_for(1)
        with trying(running, 1) as (second,), running.ready() as third:
            wait_for_queue(running, 1)
            third.send(plain("carol", "carrot").encode() + b"\r\n")
            wait_for_queue(running, 2)
            second.reset()
            assert third.reply() == ACCEPTED
        gate.opened.set()
        assert first.reply() == ACCEPTED


def test_a_line_that_comes_later_and_needs_more_than_there_is_is_our_trouble(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(Box(), auth_file=str(path), auth_mechs=OPEN, max_memory=MEMORY)
    PasswordFile(path).set("carol", "carrot")
    with running.ready() as client:
        assert client.say(plain("carol", "carrot")) == TROUBLE
        assert client.say(plain("alice", "wonder")) == ACCEPTED
    assert "max_memory is less than what a check takes" in caplog.text


# -- at the start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "auth_file {path}: No such file or directory; write it by ehlo passwd"),
        (
            "# fine\nalice\n",
            "auth_file {path}: line 2: not of the form user:hash; write it by ehlo passwd",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_a_value_error_at_the_start(
    tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_text(content)
    server = Server(Box(), addr="127.0.0.1:0", auth_file=str(path))
    with pytest.raises(ValueError, match=r".") as caught, server.in_thread():
        pass
    assert str(caught.value) == said.format(path=path)
    write(path, alice="wonder")
    with server.in_thread():
        assert server.addresses


def test_an_empty_name_is_no_file_and_an_error_that_names_the_option() -> None:
    server = Server(Box(), addr="127.0.0.1:0", auth_file="")
    with pytest.raises(ValueError, match=r"^auth_file is empty; name a file"):
        server.listen_and_serve()


def test_too_little_memory_for_any_check_is_a_value_error_at_the_start(path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", auth_file=str(path), max_memory=MEMORY - 1)
    with pytest.raises(ValueError, match=rf"^max_memory is \d+; .* needs {MEMORY} bytes$"):
        server.listen_and_serve()


def test_a_file_without_tls_is_no_way_to_log_in(path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", auth_file=str(path), auth_required=True)
    with pytest.raises(ValueError, match="no client could log in; auth_file has no mech"):
        server.listen_and_serve()


class Own(Watcher):
    async def on_auth(self, session: Session, credentials: Any) -> None:
        pass


class Secretive(Watcher):
    async def on_secret(self, session: Session, username: str) -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (Own(), {}),
        (Secretive(), {}),
        (Box(), {"auth_handler": lambda *_: True}),
    ],
)
def test_two_ways_to_log_in_are_a_type_error(
    path: Path, handler: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="auth_file cannot be combined"):
        Server(handler, auth_file=str(path), **options)


def test_a_file_may_be_changed_by_another_program_in_the_middle_of_everything(
    running: Running, path: Path
) -> None:
    """Written in place, as an editor may do it, a hundred times, with a login after each."""
    with contextlib.ExitStack() as stack:
        for number in range(30):
            path.write_text(f"alice:{cheap(f'wonder{number:02}')}\n")
            os.utime(path, (1, 1))
            client = stack.enter_context(running.ready())
            assert client.say(plain("alice", f"wonder{number:02}")) == ACCEPTED
