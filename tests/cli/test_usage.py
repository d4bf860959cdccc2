"""Errors are reported on one line, and the exit code tells usage from failure."""

import dataclasses
import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from ehlo.cli import main
from ehlo.server.options.config import Options
from ehlo.server.server import Server
from support.certificates import Certificates
from support.program import Start

LOOPBACK = ("--addr", "127.0.0.1:0")


WRONG: list[tuple[list[str], str]] = [
    (["--nope"], "No such option"),
    (["nope"], "No such command"),
    (["serve"], "Missing argument 'MODULE:ATTR'"),
    (["serve", "app"], "'app' has no attribute part; write module:attr"),
    (["serve", "nowhere:x"], "no module named 'nowhere'"),
    (["serve", "app.part:x"], "no module named 'app.part'"),
    (["serve", ".app:x"], "'.app' is a relative name"),
    (["serve", "app:nothing"], "module 'app' has no attribute 'nothing'"),
    (["serve", "app:place.nothing"], "module 'app' has no attribute 'place.nothing'"),
    (["serve", "app:number"], "handler must be a function or an ehlo.Handler, not 3"),
    (["serve", "app:place"], "ehlo.Handler, not <class 'app.place'>"),
    (["serve", "app:Needy"], "app:Needy needs arguments"),
    (["serve", "app:Silent"], "Silent has no on_message"),
    (
        ["serve", "app:instance", "--rcpt-handler", "app:only_bob"],
        "cannot be combined",
    ),
    (["serve", "app:function", "--rcpt-handler", "app:nothing"], "no attribute 'nothing'"),
    (["--json", "serve", "app:function"], "--json: options go after serve"),
    (["--max-size", "much"], "'much' is not a valid integer"),
    (["--max-size", "-1"], "--max-size is -1; it must be 0 or more"),
    (["--timeout", "nan"], "--timeout is nan; it must be more than 0"),
    (["--bare-newlines", "bend"], "'bend' is not one of"),
    (["--loop", "round"], "'round' is not one of"),
    (["serve", "app:function", "--workers", "0"], "--workers is 0; it must be more than 0"),
    (
        ["serve", "app:function", "--workers", "2", "--reload"],
        "cannot be combined with --workers",
    ),
    (["--workers", "2"], "No such option"),
    (["serve", "app:Needy", "--factory"], "app:Needy needs arguments"),
    (["--unix-mode", "rw"], "--unix-mode is 'rw'; it must be three octal digits"),
    (["--user", "no-such-user"], "no such user or group: 'no-such-user'"),
    (["--user", "root"], "has the user or group of root"),
    (["--addr", "fd:x"], "not a file descriptor: 'fd:x'"),
    (["--log-level", "loud"], "'loud' is not one of"),
    (["--addr", "nonsense"], "not an address: 'nonsense'"),
    (["--hostname", "a b"], "--hostname is 'a b'; it must not contain a space"),
    (["--appname", "\x1b[31m"], "it must be printable ASCII"),
    (["--auth-mechs", "PLAIN"], "'PLAIN': write NAME=on or NAME=off"),
    (["--auth-mechs", "PLAIN=maybe"], "'PLAIN=maybe': write NAME=on or NAME=off"),
    (["--auth-mechs", "MAGIC=on"], "--auth-mechs: unknown mechanism: MAGIC"),
    (["--extensions", "DSN"], "'DSN': write NAME=on or NAME=off or NAME=TEXT"),
    (["--extensions", "DELIVERBY="], "'DELIVERBY=': write NAME=on"),
    (["--extensions", "MAGIC=on"], "--extensions: no such extension: MAGIC"),
    (["--extensions", "DELIVERBY=soon"], "--extensions: DELIVERBY=soon: not a number"),
    (["--auth-required"], "--auth-required, but no client could log in; see --auth-handler"),
    (["serve", "app:function", "--lmtp", "--addr", ":25"], "--lmtp cannot use port 25"),
    (["serve", "app:function", "--lmtp", *LOOPBACK, "--addr", "[::1]:25"], "port 25"),
    (["--xclient-networks", "10.0.0.1/8"], "--xclient-networks: not a network: '10.0.0.1/8'"),
    (["--xforward-networks", "here"], "--xforward-networks: not a network: 'here'"),
    (["--tls-required"], "--tls-required needs a certificate; set --tls-cert"),
    (["--tls-listener"], "--tls-listener needs a certificate; set --tls-cert"),
    (
        ["--proxy-networks", "::1", "--proxy-networks", "x"],
        "--proxy-networks: not a network: 'x'",
    ),
    (["--exempt-networks", "none", "--exempt-networks", "::1"], "not a network: 'none'"),
    (["--exempt-networks", ""], "--exempt-networks: not a network: ''"),
    (["--proxy-timeout", "0"], "--proxy-timeout is 0.0; it must be more than 0"),
    (["--tls-cert", "nofile"], "'nofile' does not exist"),
    (["--tls-key", "app.py"], "--tls-key requires --tls-cert"),
    (["--tls-client-ca", "app.py"], "--tls-client-ca requires --tls-cert"),
    (["--tls-client-certs", "required"], "--tls-client-certs requires --tls-client-ca"),
    (
        ["--tls-cert", "app.py", "--tls-cert", "app.py", "--tls-key", "app.py"],
        "--tls-key: give one for each --tls-cert, or none",
    ),
    (["--log-file", "no/such/directory"], "--log-file no/such/directory: No such file"),
    (["--tls-cert", "app.py"], "--tls-cert app.py: not a certificate and its key in PEM"),
    (["--metrics", "nonsense"], "--metrics: not an address: 'nonsense'"),
]

# Runs `ehlo` with each of the command lines in a process of its own, all of which have the modules
# of this one: a start of Python takes longer than an error
EACH = """
import json, os, sys
from ehlo.cli import main

for number, args in enumerate(json.load(sys.stdin)):
    if not (child := os.fork()):
        for stream, name in (sys.stdout, "out"), (sys.stderr, "err"):
            os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY), stream.fileno())
        code = 1
        try:
            code = main(args)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, modules_in: Callable[[Path], Path]
) -> list[tuple[int, str, str]]:
    """Return the exit code, the output and the errors for each row of WRONG."""
    here = modules_in(tmp_path_factory.mktemp("usage"))
    lines = json.dumps([args for args, _ in WRONG])
    clean = {name: text for name, text in os.environ.items() if not name.startswith("EHLO_")}
    command = [sys.executable, "-c", EACH]
    done = subprocess.run(
        command, cwd=here, env=clean, input=lines, text=True, stdout=subprocess.PIPE, check=True
    )
    return [
        (int(code), (here / f"{number}.out").read_text(), (here / f"{number}.err").read_text())
        for number, code in enumerate(done.stdout.split())
    ]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(args) for args, _ in WRONG])
def test_wrong_usage_is_reported_on_one_line_and_exits_with_2(
    outcomes: list[tuple[int, str, str]], number: int
) -> None:
    code, out, err = outcomes[number]
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"ehlo: [^\n]+\n", err)
    assert WRONG[number][1] in err
    assert "\x1b" not in err


def test_wrong_usage_of_a_process_of_its_own_exits_with_2(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:nothing", cwd=here)
    assert program.wait() == 2
    assert program.out.text == ""
    assert program.err.text == "ehlo: module 'app' has no attribute 'nothing'\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EHLO_MAX_SIZE", "much"),
        ("EHLO_TLS_REQUIRED", "maybe"),
        ("EHLO_LOOP", "round"),
        ("EHLO_AUTH_MECHS", "PLAIN"),
    ],
)
def test_a_wrong_environment_variable_is_reported_on_one_line_and_exits_with_2(
    start: Start, name: str, value: str
) -> None:
    program = start("-m", "ehlo", *LOOPBACK, env={name: value})
    assert program.wait() == 2
    assert re.fullmatch(r"ehlo: [^\n]+\n", program.err.text)
    assert value in program.err.text


def test_a_key_that_does_not_match_is_reported_on_one_line_and_exits_with_2(
    start: Start, certificates: Certificates
) -> None:
    program = start(
        *("-m", "ehlo", "--tls-cert", certificates.cert_file),
        *("--tls-key", certificates.other_key_file),
    )
    assert program.wait() == 2
    assert program.err.text == f"ehlo: --tls-cert {certificates.cert_file}: key values mismatch\n"


def test_a_bad_client_ca_file_is_not_reported_as_a_bad_certificate(
    start: Start, here: Path, certificates: Certificates
) -> None:
    flags = ("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file)
    program = start("-m", "ehlo", *flags, "--tls-client-ca", "app.py", cwd=here)
    assert program.wait() == 2
    said = "ehlo: --tls-client-ca app.py: no certificate or crl found\n"
    assert program.err.text == said


@pytest.mark.parametrize("env", [{}, {"EHLO_TLS_PASSPHRASE": "wrong"}])
def test_a_wrong_passphrase_is_reported_on_one_line_and_exits_with_2(
    start: Start, certificates: Certificates, env: dict[str, str]
) -> None:
    program = start(
        *("-m", "ehlo", "--tls-cert", certificates.cert_file),
        *("--tls-key", certificates.encrypted_key_file),
        env=env,
    )
    assert program.wait() == 2
    assert re.fullmatch(r"ehlo: --tls-cert [^\n]+\n", program.err.text)
    assert "wrong" not in program.err.text


@pytest.mark.parametrize("command", [["--json"], ["serve", "app:function"]])
def test_a_busy_port_is_reported_on_one_line_and_exits_with_1(
    start: Start, here: Path, command: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        program = start("-m", "ehlo", *command, "--addr", where, cwd=here)
        assert program.wait() == 1
    assert program.err.text == f"ehlo: cannot listen on {where}: Address already in use\n"


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
    monkeypatch.setattr("ehlo.cli.commands.set_up_logging", lambda *_, **_options: None)
    assert main(["--addr", ":25"]) == 1
    said = "ehlo: cannot listen on :25: Permission denied (ports below 1024 need privileges)\n"
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
        has_flag = field.metadata.get("flag", False)
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
