"""Passwords in the environment: gone before a module of the user's is imported, and still used."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Sequence
from pathlib import Path

import pytest

from ehlo.cli import main
from ehlo.cli.commands import cli
from support.certificates import PASSPHRASE, Certificates
from support.program import Start

SECRETS = {
    "EHLO_QUEUE": "mail.db",
    "EHLO_RELAY": "smtp://a:secret@127.0.0.1:9",
    "EHLO_TLS_PASSPHRASE": PASSPHRASE,
    "EHLO_WEB_AUTH": "a:secret",
}
ADDR = ("--addr", "127.0.0.1:0")
WEB = ("--web", "127.0.0.1:0")
FUNCTION = ("--rcpt-handler", "looks:accept")

# Prints which of the variables a program has that is started while the module is imported
LOOKS = f"""
import subprocess

inherited = subprocess.getoutput("env").splitlines()
names = sorted(line.partition("=")[0] for line in inherited if line.startswith({(*SECRETS,)!r}))
print("inherited", *names, flush=True)

def accept(remote_addr, mail_from, rcpt_to):
    return True

def handler(message):
    pass
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a module that looks at its environment when it is imported."""
    (tmp_path / "looks.py").write_text(LOOKS)
    return tmp_path


@pytest.mark.parametrize("in_file", [False, True], ids=["environment", "file"])
@pytest.mark.parametrize(
    ("words", "without", "ready"),
    [
        (("serve", "looks", *ADDR, *WEB), (), "listening on "),
        (("serve", "looks", *ADDR, "--workers", "2"), ("EHLO_RELAY",), "listening on "),
        (("serve", "looks", *ADDR, "--reload"), ("EHLO_RELAY",), "listening on "),
        (("work", "looks"), (), "message=started"),
        ((*ADDR, *WEB, *FUNCTION), (), "listening on "),
    ],
    ids=["serve", "workers", "reload", "work", "ehlo"],
)
def test_a_program_that_a_module_starts_when_it_is_imported_inherits_no_password(
    start: Start,
    place: Path,
    words: Sequence[str],
    without: Sequence[str],
    ready: str,
    in_file: bool,
) -> None:
    given = {name: value for name, value in SECRETS.items() if name not in without}
    if in_file:
        (place / "variables").write_text("".join(f"{each}={given[each]}\n" for each in given))
        given = {"EHLO_ENV_FILE": "variables"}
    program = start("-m", "ehlo", *words, cwd=place, env={**given, "EHLO_NO_WEB": "0"})
    program.err.until(ready)
    assert program.stop() == 0
    assert set(program.out.text.splitlines()) - {""} == {"inherited"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_passwords_are_used_in_each_process(
    start: Start, place: Path, certificates: Certificates, workers: str
) -> None:
    files = (certificates.cert_file, "--tls-key", certificates.encrypted_key_file)
    words = ("serve", "looks", *ADDR, "--workers", workers, "--tls-cert", *files)
    secrets = {name: SECRETS[name] for name in ("EHLO_QUEUE", "EHLO_TLS_PASSPHRASE")}
    program = start("-m", "ehlo", *words, cwd=place, env=secrets)
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
        client.sendmail("a@x.test", ["b@x.test"], b"Subject: x\r\n\r\nx\r\n")
    assert program.stop() == 0
    assert list(place.glob("mail-*.db"))
    assert set(program.out.text.splitlines()) == {"inherited"}


@pytest.mark.parametrize("words", [(), *((name,) for name in cli.commands), ("queue", "list")])
def test_each_command_removes_all_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Sequence[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert main([*words, "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: ")
    assert not os.environ.keys() & SECRETS.keys()
