"""Errors are reported on one line, and the exit code tells usage from failure."""

import dataclasses
import errno
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ehlo.cli import main
from ehlo.server.options.config import Options
from ehlo.server.server import Server
from support.certificates import Certificates
from support.program import Start

LOOPBACK = ("--addr", "127.0.0.1:0")


def test_a_passphrase_that_does_not_fit_is_reported(
    start: Start, certificates: Certificates
) -> None:
    key = certificates.encrypted_key_file
    program = start(
        *("-m", "ehlo", "--tls-cert", certificates.cert_file, "--tls-key", key),
        env={"EHLO_TLS_PASSPHRASE": "wrong one"},
    )
    assert program.wait() == 2
    said = f"ehlo: EHLO_TLS_PASSPHRASE does not decrypt {key}: set the passphrase of that key\n"
    assert program.err.text == f"{said}Try 'ehlo --help'.\n"


@pytest.mark.parametrize("command", [["--json"], ["serve", "app:function"]])
def test_a_busy_port_is_reported_on_one_line_and_exits_with_1(
    start: Start, here: Path, command: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        program = start("-m", "ehlo", *command, "--addr", where, cwd=here)
        assert program.wait() == 1
    assert program.err.text == (
        f"ehlo: cannot listen on {where}: another process is listening there; try --port 0\n"
    )


@pytest.mark.parametrize("addr", ["192.0.2.1:2525", "unix:/no/such/directory/ehlo.sock"])
def test_an_unusable_address_is_reported_on_one_line_and_exits_with_1(
    start: Start, addr: str
) -> None:
    program = start("-m", "ehlo", "--addr", addr)
    assert program.wait() == 1
    assert re.fullmatch(rf"ehlo: cannot listen on {re.escape(addr)}: [^\n]+\n", program.err.text)


def test_a_privileged_port_is_reported_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_server: Server, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "cannot listen on :25: Permission denied")

    monkeypatch.setattr(Server, "listen_and_serve", refuse)
    monkeypatch.setattr("ehlo.cli.running.set_up_logging", lambda *_, **_options: None)
    assert main(["--addr", ":25"]) == 1
    said = "ehlo: cannot listen on :25: ports below 1024 need root privileges; try --port 2525\n"
    assert capsys.readouterr().err == said


def test_an_interrupt_before_the_server_listens_exits_with_130(start: Start, here: Path) -> None:
    (here / "slow.py").write_text("raise KeyboardInterrupt\n")
    program = start("-m", "ehlo", "serve", "slow:handler", cwd=here)
    assert program.wait() == 130
    assert program.err.text.strip() == ""


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("broken:x", "ZeroDivisionError: division by zero"),
        ("wanting:x", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("crooked:x", "SyntaxError: "),
        ("app:Unlucky", "FileNotFoundError: [Errno 2] no database"),
    ],
)
def test_an_exception_in_the_users_module_shows_its_traceback_and_exits_with_1(
    start: Start, here: Path, target: str, error: str
) -> None:
    program = start("-m", "ehlo", "serve", target, *LOOPBACK, cwd=here)
    assert program.wait() == 1
    assert error in program.err.text.splitlines()[-1]
    files = re.findall(r'^ *File "(.*?)"', program.err.text, re.MULTILINE)
    assert files
    assert {Path(file).parent for file in files} == {here}


@pytest.mark.parametrize("command", [[], ["serve"]])
def test_help_mentions_every_option_in_80_columns(start: Start, command: list[str]) -> None:
    program = start("-m", "ehlo", *command, "--help", env={"COLUMNS": "80"})
    assert program.wait() == 0
    text = program.out.text
    said = set(re.findall(r"--(?:\[no-\])?([a-z-]+)", text))
    for field in dataclasses.fields(Options):
        own = field.name in ("tls_cert", "tls_key")  # of the command line, in its own form
        has_flag = own or field.metadata.get("flag", False)
        if field.name in ("workers", "factory"):  # of a handler that is named
            has_flag = command == ["serve"]
        assert (field.name.replace("_", "-") in said) == has_flag, field.name
    assert {"tls-cert", "tls-key", "log-level", "help"} <= said
    assert max(map(len, text.splitlines())) <= 80


def test_version_prints_the_version_of_the_distribution(start: Start) -> None:
    program = start("-m", "ehlo", "--version")
    assert program.wait() == 0
    assert program.out.text == f"ehlo {version('ehlo')}\n"


def test_the_command_is_installed_under_its_name() -> None:
    command = Path(sys.executable).with_name("ehlo")
    done = subprocess.run([command, "--version"], capture_output=True, check=True, text=True)
    assert done.stdout == f"ehlo {version('ehlo')}\n"


def test_the_library_does_not_import_click(start: Start) -> None:
    code = "import sys, ehlo; ehlo.Server; sys.exit('click' in sys.modules)"
    assert start("-c", code).wait() == 0
