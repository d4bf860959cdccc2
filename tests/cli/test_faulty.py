"""`ehlo serve --faults FILE`: every kind of handler fails on purpose, by the rules of a file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from ehlo import Peer
from ehlo.cli import main
from ehlo.passwords.file import PasswordFile
from support.client import Client
from support.logins import plain
from support.program import Start

FAULTS = """
seed = 7

[[fault]]
at = "rcpt"
reply = "450 4.2.1 Greylisted"
to = "alice@example.com"

[[fault]]
at = "data"
delay = 0.001

[[fault]]
script = ["451 4.3.0 Later", "250"]

[[fault]]
at = "end"
drop = true
after = 2
"""


def serve(start: Start, here: Path, target: str, text: str, *options: str) -> Peer:
    """Start a server with faults; return where it listens."""
    (here / "faults.toml").write_text(text)
    own = () if target.endswith("server") else ("--addr", "127.0.0.1:0")
    program = start(
        *("-m", "ehlo", "serve", target, *own, "--faults", "faults.toml", *options), cwd=here
    )
    number = text.count("[[fault]]")
    assert f"faults={number} seed=7" in program.err.until("failing on purpose")
    return Peer(*program.listening())


@pytest.mark.parametrize("target", ["app:function", "app:Handler", "app:server", "app:coroutine"])
def test_each_kind_of_handler_fails_by_the_rules(start: Start, here: Path, target: str) -> None:
    with Client(serve(start, here, target, FAULTS)) as client:
        client.begin("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<Alice@EXAMPLE.com>") == "450 4.2.1 Greylisted"
        assert client.say("RCPT TO:<alice@example.com>") == "250 2.1.5 Ok"
        client.say("RSET")
        assert client.mail() == "451 4.3.0 Later"
        assert client.mail().startswith("250 2.0.0 Ok")
        client.begin_message()
        client.replies(3)
        assert client.is_closed()


def test_functions_for_recipients_and_logins_are_as_strict_as_without_faults(
    start: Start, here: Path
) -> None:
    text = 'seed = 7\n[[fault]]\nat = "auth"\nreply = "454 4.7.0 Later"\n'
    (here / "strict.py").write_text(
        "def known(peer, sender, recipient): return True if recipient == 'b@x' else None\n"
        "def check(username, password): return password == 'secret'\n"
        "def handler(message): ...\n"
    )
    functions = ("--rcpt-handler", "strict:known", "--auth-handler", "strict:check")
    options = ("--auth-mechs", "PLAIN=on")
    with Client(serve(start, here, "strict:handler", text, *functions, *options)) as client:
        assert "250 AUTH PLAIN\n" not in client.hello()
        assert client.say("AUTH CRAM-MD5").startswith("504 ")
        assert client.say(plain("alice", "secret")) == "454 4.7.0 Later"
        assert client.say(plain("alice", "secret")).startswith("235 ")
        client.say("MAIL FROM:<a@x>")
        assert client.say("RCPT TO:<c@x>").startswith("451 4.3.0")  # None is no answer
        assert client.say("RCPT TO:<b@x>") == "250 2.1.5 Ok"


def test_with_reload_the_worker_has_the_faults(start: Start, here: Path) -> None:
    pytest.importorskip("watchfiles")
    peer = serve(start, here, "app:function", FAULTS, "--reload")
    with Client(peer) as client:
        client.begin("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<alice@example.com>") == "450 4.2.1 Greylisted"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "[[fault]]\nat = rcpt",
            [],
            "--faults f.toml: not TOML: Invalid value (at line 2, column 6)",
        ),
        (
            "[[fault]]\ndrop = true",
            [],
            "--faults f.toml: fault 1: at is missing; write one of conn",
        ),
        ("", ["--workers", "2"], "--faults cannot be combined with --workers; leave one out"),
        (
            '[[fault]]\nat = "auth"\nreply = "454 Later"',
            ["--auth-file", "users"],
            "--faults f.toml: a fault at auth cannot be combined with --auth-file; use on_auth",
        ),
        ("", ["--faults", "none.toml"], "--faults none.toml: no such file or directory; check the"),
    ],
)
def test_a_wrong_file_is_a_wrong_use_that_names_the_line_or_the_fault(
    here: Path,
    text: str,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    (here / "f.toml").write_text(text)
    PasswordFile("users").set("alice", "secret")
    assert main(["serve", "app:function", "--faults", "f.toml", *options]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
