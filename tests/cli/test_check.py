"""`ehlo check`: what it prints, its exit codes, and which servers it does not touch."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from conformance.toy import Faults, Toy
from ehlo.cli import main
from ehlo.conformance import CASES
from ehlo.net import Peer
from support.ports import reserved_port

Capture = pytest.CaptureFixture[str]


def check(toy: Toy, *args: str) -> int:
    return main(["check", str(toy.address), *args])


@pytest.fixture
def only() -> list[str]:
    """Two musts and one should, so that a test is quick."""
    names = ("noop-is-supported", "rset-is-supported", "help-is-supported")
    return [word for name in names for word in ("--only", name)]


def test_a_server_that_is_right_passes(capsys: Capture) -> None:
    with Toy() as toy:
        assert check(toy) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        "not offered  7 cases: STARTTLS\n"
        f"{len(CASES)} cases, {len(CASES) - 7} passed, 0 failed (0 must), 7 not offered, "
        "0 not tried\n"
    )
    assert captured.err == (
        f"ehlo: sending mail from sender@example.org to recipient@example.com at {toy.address}\n"
    )


def test_a_must_that_fails_is_shown_and_is_exit_code_1(only: list[str], capsys: Capture) -> None:
    with Toy(Faults(says={r"\w+ NOOP": "502 5.5.1 \x1b[31mno"})) as toy:
        assert check(toy, *only) == 1
    assert capsys.readouterr().out.splitlines() == [
        "failed       must    RFC 5321 4.5.1        NOOP is supported",
        r"             sent      NOOP\r\n",
        "             expected  250",
        r"             replied   502 5.5.1 \x1b[31mno",
        "3 cases, 2 passed, 1 failed (1 must), 0 not offered, 0 not tried",
    ]


def test_a_should_that_fails_is_exit_code_0(only: list[str], capsys: Capture) -> None:
    with Toy(Faults(says={r"\w+ HELP": "502 5.5.1 no"})) as toy:
        assert check(toy, *only) == 0
    assert "1 failed (0 must)" in capsys.readouterr().out


def test_what_is_not_tried_is_exit_code_3_with_the_reason(capsys: Capture) -> None:
    with Toy(Faults(says={"mail RCPT .*": "550 5.1.1 No such user"})) as toy:
        assert check(toy, "--only", "a-message-is-accepted", "--to", "me@example.net") == 3
    assert capsys.readouterr().out.splitlines() == [
        "not tried    1 case: RCPT TO:<me@example.net>: 550 5.1.1 No such user; give another --to",
        "1 case, 0 passed, 0 failed (0 must), 0 not offered, 1 not tried",
    ]


def test_a_must_that_fails_weighs_more_than_one_that_is_not_tried(capsys: Capture) -> None:
    says = {"mail RCPT .*": "550 5.1.1 No such user", r"\w+ NOOP": "502 5.5.1 no"}
    names = ("--only", "noop-is-supported", "--only", "a-message-is-accepted")
    with Toy(Faults(says=says)) as toy:
        assert check(toy, *names) == 1


def test_all_shows_each_case(only: list[str], capsys: Capture) -> None:
    with Toy() as toy:
        check(toy, "--all", *only)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["passed", "passed", "passed", "3"]


def test_json_has_each_case(capsys: Capture) -> None:
    with Toy(Faults(says={r"\w+ NOOP": "502 5.5.1 no"})) as toy:
        assert check(toy, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["server"] == str(toy.address)
    assert sum(found["counts"].values()) == len(CASES) == len(found["cases"])
    assert set(found["counts"]) == {"passed", "failed", "not_offered", "not_tried"}
    failed = [case for case in found["cases"] if case["name"] == "noop-is-supported"]
    assert failed == [
        {
            "name": "noop-is-supported",
            "title": "NOOP is supported",
            "group": "commands",
            "level": "must",
            "section": "RFC 5321 4.5.1",
            "outcome": "failed",
            "sent": r"NOOP\r\n",
            "expected": "250",
            "replied": "502 5.5.1 no",
            "reason": "",
        }
    ]


def test_mail_has_the_addresses_that_are_given(capsys: Capture) -> None:
    says = {"ready MAIL FROM:<me@a.example>": "550 5.7.1 not you"}
    with Toy(Faults(says=says)) as toy:
        assert check(toy, "--from", "me@a.example", "--only", "a-message-is-accepted") == 3
    assert "MAIL FROM:<me@a.example>: 550 5.7.1 not you; give another --from" in (
        capsys.readouterr().out
    )


def test_no_server_is_exit_code_3(capsys: Capture) -> None:
    address = f"127.0.0.1:{reserved_port()}"
    assert main(["check", address]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"ehlo: {address}: cannot connect: Connection refused"
    )


def test_a_server_that_says_nothing_is_exit_code_3(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert main(["check", address, "--timeout", "0.1"]) == 3
    assert "the greeting: nothing within 0.1 s; try later" in capsys.readouterr().err


def test_a_total_timeout_ends_it(capsys: Capture) -> None:
    with Toy() as toy:
        assert check(toy, "--total-timeout", "0.000001") == 3
    assert "the 1e-06 s for all cases are over" in capsys.readouterr().err


# -- other machines ------------------------------------------------------------------------------


Resolve = Callable[..., list[tuple[Any, ...]]]


def resolving(*hosts: str) -> Resolve:
    resolve: Resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **keywords: Any) -> list[tuple[Any, ...]]:
        if host in hosts:  # to connect to one of them
            return resolve(host, port, *args, **keywords)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (each, port)) for each in hosts]

    return getaddrinfo


@pytest.mark.parametrize(
    "hosts",
    [("192.0.2.1",), ("127.0.0.1", "192.0.2.1"), ("2001:db8::1",), ("::ffff:192.0.2.1",)],
    ids=" ".join,
)
def test_another_machine_is_not_touched_unless_it_is_yours(
    hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving(*hosts))
    monkeypatch.setattr(socket, "create_connection", None)  # it is not called
    assert main(["check", "mx.example:25"]) == 2
    assert capsys.readouterr().err == (
        "ehlo: mx.example:25 is not a loopback address: the check sends mail and malformed "
        "commands; add --i-own-this-server if the server is yours\nTry 'ehlo check --help'.\n"
    )


def test_another_machine_that_is_yours_is_checked_at_the_address_that_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    asked: list[Peer] = []

    def refuse(address: Peer, _timeout: float) -> None:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolving("192.0.2.1"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert main(["check", "mx.example:25", "--i-own-this-server"]) == 3
    assert asked == [("192.0.2.1", 25)]


def test_the_environment_does_not_say_that_a_server_is_yours(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("EHLO_CHECK_I_OWN_THIS_SERVER", "1")
    assert main(["check", "192.0.2.1:25"]) == 2


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.1.2.3", ""])
def test_loopback_needs_no_flag(host: str, capsys: Capture) -> None:
    code = main(["check", f"{host}:1", "--timeout", "5"])
    assert (code, "cannot connect" in capsys.readouterr().err) == (3, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["unix:/run/x"], "unix:/run/x: no host; write HOST:PORT"),
        (["127.0.0.1"], "HOST:PORT 127.0.0.1: port missing, e.g. 127.0.0.1:1025"),
        ([":1", "--to", "a b@c"], "--to a b@c: not an address; write user@example.com"),
        ([":1", "--from", "<>"], "--from <>: not an address; write user@example.com"),
        ([":1", "--to", "a@b>\r\nQUIT"], "--to a@b> QUIT: not an address; write user@example.com"),
        ([":1", "--timeout", "0"], "--timeout 0: out of range; write a number over 0"),
        ([":1", "--total-timeout", "nan"], "--total-timeout nan: out of range"),
        ([":1", "--only", "x"], "--only x: no such case; --json lists their names"),
        ([], "HOST:PORT missing, e.g. ehlo check 127.0.0.1:2525"),
    ],
)
def test_wrong_usage_is_exit_code_2(args: list[str], said: str, capsys: Capture) -> None:
    assert main(["check", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.sub(r"\\r\\n", " ", captured.err).startswith(f"ehlo: {said}")


def test_a_name_with_several_addresses_is_checked_where_a_server_listens(
    only: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with Toy() as toy:
        monkeypatch.setattr(socket, "getaddrinfo", resolving("127.9.9.9", "127.0.0.1"))
        assert main(["check", f"both.example:{toy.address.port}", *only]) == 0


def test_a_server_that_wants_a_login_is_not_tried(capsys: Capture) -> None:
    says = {"ready MAIL .*": "530 5.7.0 Authentication required"}
    with Toy(Faults(says=says)) as toy:
        assert check(toy, "--only", "a-message-is-accepted") == 3
    assert "530 5.7.0 Authentication required; the check cannot log in" in capsys.readouterr().out


def test_an_unknown_host_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert main(["check", "nowhere.invalid:25"]) == 3
    assert capsys.readouterr().err == (
        "ehlo: nowhere.invalid:25: Name or service not known; give another HOST:PORT\n"
    )
