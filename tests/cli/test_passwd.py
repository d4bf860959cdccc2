"""`ehlo passwd FILE USER`: a password typed without echo or read from a pipe, and its messages."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import smtplib
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo import PasswordFile
from support.certificates import Certificates
from support.passwords import lines_of, write
from support.program import Start, completed

DEADLINE = 60.0


def run(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `ehlo passwd` with a pipe as its standard input."""
    return completed("passwd", *arguments, stdin=stdin, env=env)


def said(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str, str]:
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "users", alice="wonder")


# -- locks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_lock_of_a_reader_of_the_file_delays_nothing(tmp_path: Path, kind: int) -> None:
    file = write(tmp_path / "users", tim="first")
    with file.open("rb") as reader:
        fcntl.flock(reader, kind)
        assert said(run(file, "tim", stdin=b"second\n")) == (0, "replaced tim\n", "")
        assert said(run(file, "tim", "--delete")) == (0, "deleted tim\n", "")
    assert list(tmp_path.iterdir()) == [file]


# -- from a pipe ---------------------------------------------------------------------------------


def test_a_user_is_added_replaced_and_deleted(tmp_path: Path) -> None:
    file = tmp_path / "users"
    assert said(run(file, "tim", stdin=b"first\n")) == (
        0,
        f"added tim to the new file {file}\n",
        "",
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert lines_of(file)[0].startswith("tim:$scrypt$ln=15,r=8,p=3$")
    assert PasswordFile(file).check("tim", "first")
    assert said(run(file, "tim", stdin=b"second\n")) == (0, "replaced tim\n", "")
    assert PasswordFile(file).check("tim", "second")
    assert not PasswordFile(file).check("tim", "first")
    assert said(run(file, "tim", "--delete")) == (0, "deleted tim\n", "")
    assert lines_of(file) == []
    assert said(run(file, "tim", "--delete")) == (1, "", f"ehlo: {file}: no user 'tim'\n")


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        ("scrypt", r"tim:\$scrypt\$.*"),
        ("argon2", r"tim:\$argon2id\$v=19\$m=65536,t=3,p=1\$.*"),
        ("scram-sha-256", r"tim:\{SCRAM-SHA-256\}4096,.*"),
        ("scram-sha-1", r"tim:\{SCRAM-SHA-1\}4096,.*"),
    ],
)
def test_the_scheme_can_be_chosen(tmp_path: Path, scheme: str, line: str) -> None:
    file = tmp_path / "users"
    assert run(file, "tim", "--scheme", scheme, stdin=b"pass word").returncode == 0
    (found,) = lines_of(file)
    assert re.fullmatch(line, found)
    assert PasswordFile(file).check("tim", "pass word")


def test_both_scram_schemes_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "users"
    schemes = ("--scheme", "scram-sha-256", "--scheme", "scram-sha-1")
    assert run(file, "tim", *schemes, stdin=b"x\n").returncode == 0
    assert [keys.algorithm for keys in PasswordFile(file).scram_keys("tim")] == ["SHA-256", "SHA-1"]


@pytest.mark.parametrize(
    ("given", "password"),
    [
        (b"pass", b"pass"),
        (b"pass\r\n", b"pass"),
        (b" pass \n", b" pass "),
        (b"pass\nword\n", b"pass"),
        ("pässwörd\n".encode(), "pässwörd".encode()),
        (b"\xff\xfe\n", b"\xff\xfe"),
        (b"x" * 8192 + b"\n", b"x" * 8192),
    ],
)
def test_the_first_line_of_a_pipe_is_the_password(
    path: Path, given: bytes, password: bytes
) -> None:
    assert said(run(path, "tim", "--scheme", "scram-sha-256", stdin=given))[0] == 0
    assert PasswordFile(path).check("tim", password)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "text"),
    [
        (["tim"], b"", 2, "the password is empty"),
        (["tim"], b"\n", 2, "the password is empty"),
        (["tim"], b"a\0sesame\n", 2, "contains NUL"),
        (["tim"], b"x" * 8193 + b"\n", 2, "more than 8192 bytes"),
        (["t:im"], b"sesame\n", 2, "a user name must not contain a colon"),
        (["#tim"], b"sesame\n", 2, "or begin with #"),
        ([""], b"sesame\n", 2, "a user name must not be empty"),
        (["t\x1b[31m"], b"sesame\n", 2, "a user name must not be empty"),
        (["tim", "--scheme", "md5"], b"sesame\n", 2, "--scheme md5: not a choice"),
        (["tim", "--delete", "--scheme", "scrypt"], b"", 2, "cannot be combined"),
        (["tim", "--scheme", "scrypt", "--scheme", "argon2"], b"x\n", 2, "second hash for"),
        (["t\x1b[31m", "--delete"], b"", 1, r"no user 't\x1b[31m'"),
        ([], b"", 2, "USER missing, e.g. "),
        (["tim", "sesame"], b"", 2, "sesame: unexpected argument; remove it"),
    ],
)
def test_wrong_usage_is_reported_on_one_line_and_changes_nothing(
    path: Path, arguments: list[str], stdin: bytes, code: int, text: str
) -> None:
    before = path.read_bytes()
    done = run(path, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, b"")
    hint = rb"Try 'ehlo passwd --help'\.\n" if code == 2 else b""
    assert re.fullmatch(rb"ehlo: [ -~]+\n" + hint, done.stderr), done.stderr
    assert text in done.stderr.decode()
    assert path.read_bytes() == before


def test_a_bad_line_is_reported_before_the_password_is_read(path: Path) -> None:
    path.write_text("alice:sesame\n")
    said_of_line = f"ehlo: {path}: line 1: unknown kind of hash"
    for arguments in (["tim"], ["alice", "--delete"]):
        done = run(path, *arguments)
        assert done.returncode == 2
        assert done.stderr.decode().startswith(said_of_line)
        assert b"sesame" not in done.stderr


def test_a_missing_directory_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "no" / "users"
    for arguments, stdin in ((["tim"], b"x\n"), (["tim", "--delete"], b"")):
        done = run(file, *arguments, stdin=stdin)
        assert said(done) == (1, "", f"ehlo: {file}: No such file or directory\n")


def test_argon2_without_argon2_cffi_names_the_extra_to_install(
    start: Start, tmp_path: Path
) -> None:
    program = start("-c", _NO_ARGON2, tmp_path / "users", "tim", "--scheme", "argon2")
    assert program.wait() == 2
    said = "ehlo: argon2 needs argon2-cffi: pip install 'ehlo[argon2]'\n"
    assert program.err.text.startswith(said)
    assert list(tmp_path.iterdir()) == []


_NO_ARGON2 = """
import sys
sys.modules["argon2"] = None
from ehlo.cli import main
sys.exit(main(["passwd", *sys.argv[1:]]))
"""


def test_the_environment_sets_neither_delete_nor_scheme(path: Path) -> None:
    env = {"EHLO_DELETE": "1", "EHLO_PASSWD_DELETE": "1", "EHLO_PASSWD_SCHEME": "scram-sha-1"}
    assert said(run(path, "tim", stdin=b"x\n", env=env))[0] == 0
    assert "tim:$scrypt$" in path.read_text()


# -- on a terminal -------------------------------------------------------------------------------

# With its own controlling terminal, as under a shell
_ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from ehlo.cli import main
sys.exit(main(["passwd", *sys.argv[1:]]))
"""


class Terminal:
    """Runs `ehlo passwd` on a pseudo terminal."""

    def __init__(self, *arguments: str | Path) -> None:
        self._master, slave = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_A_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def answer(self, prompt: str, text: bytes) -> None:
        """Wait for the prompt and type `text`."""
        self._read_until(prompt.encode())
        os.write(self._master, text)

    def wait(self) -> int:
        """Wait for the end; return the exit code. `seen` is the whole output then."""
        self._read_until(None)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read_until(self, text: bytes | None) -> None:
        until = time.monotonic() + DEADLINE
        start = len(self.seen)
        while text is None or text not in self.seen[start:]:
            left = until - time.monotonic()
            assert left > 0, self.seen
            if not select.select([self._master], [], [], left)[0]:
                continue
            try:
                data = os.read(self._master, 4096)
            except OSError:  # as Linux reports that the other end is closed
                data = b""
            if not data:
                assert text is None, self.seen
                return
            self.seen += data


@contextlib.contextmanager
def terminal(*arguments: str | Path) -> Iterator[Terminal]:
    made = Terminal(*arguments)
    try:
        yield made
    finally:
        made.close()


def test_on_a_terminal_the_password_is_asked_for_twice_without_echo(path: Path) -> None:
    with terminal(path, "tim") as there:
        there.answer("Password: ", b"sesame\n")
        there.answer("Repeat the password: ", b"sesame\n")
        assert there.wait() == 0
        assert there.seen.split() == b"Password: Repeat the password: added tim".split()
    assert PasswordFile(path).check("tim", "sesame")


def test_two_different_passwords_are_asked_for_again(path: Path) -> None:
    with terminal(path, "tim") as there:
        there.answer("Password: ", b"sesame\n")
        there.answer("Repeat the password: ", b"sesamf\n")
        there.answer("Password: ", b"barley\n")
        there.answer("Repeat the password: ", b"barley\n")
        assert there.wait() == 0
        assert b"do not match" in there.seen
        assert b"sesam" not in there.seen
    assert PasswordFile(path).check("tim", "barley")


def test_an_empty_password_is_rejected_on_a_terminal_too(path: Path) -> None:
    with terminal(path, "tim") as there:
        there.answer("Password: ", b"\n")
        there.answer("Repeat the password: ", b"\n")
        assert there.wait() == 2
        assert b"ehlo: the password is empty" in there.seen
    assert "tim:" not in path.read_text()


@pytest.mark.parametrize("key", [b"\x03", b"\x04"])
def test_ctrl_c_at_the_password_changes_nothing(path: Path, key: bytes) -> None:
    before = path.read_bytes()
    with terminal(path, "alice") as there:
        there.answer("Password: ", key)
        assert there.wait() == 130
    assert path.read_bytes() == before


def test_a_bad_user_name_is_reported_before_the_password_is_asked_for(path: Path) -> None:
    with terminal(path, "t:im") as there:
        assert there.wait() == 2
        assert b"Password" not in there.seen


def test_a_user_is_deleted_without_a_password(path: Path) -> None:
    with terminal(path, "alice", "--delete") as there:
        assert there.wait() == 0
        assert there.seen.strip() == b"deleted alice"


# -- and the server ------------------------------------------------------------------------------


def test_a_running_server_accepts_a_user_that_was_just_added(
    start: Start, path: Path, certificates: Certificates
) -> None:
    program = start(
        *("-m", "ehlo", "--addr", "127.0.0.1:0", "--tls-cert", certificates.cert_file),
        *("--tls-key", certificates.key_file, "--auth-required"),
        env={"EHLO_AUTH_FILE": str(path)},
    )
    where = program.listening()
    assert run(path, "tim", "--scheme", "argon2", stdin=b"sesame\n").returncode == 0
    for user, password in (("alice", "wonder"), ("tim", "sesame")):
        with smtplib.SMTP(*where) as client:
            client.starttls(context=certificates.client)
            assert client.login(user, password)[0] == 235
            client.sendmail("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\n")
    assert program.stop() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory; check the path"),
        ("alice\n", "line 1: not of the form user:hash; write it by ehlo passwd"),
    ],
)
@pytest.mark.parametrize("command", [[], ["serve", "app:function"]])
def test_an_unreadable_file_is_reported_on_one_line_and_exits_with_2(
    start: Start, here: Path, command: list[str], content: str | None, said: str
) -> None:
    if content is not None:
        (here / "users").write_text(content)
    program = start("-m", "ehlo", *command, "--auth-file", "users", cwd=here)
    assert program.wait() == 2
    help_of = " ".join(["ehlo", *command[:1]])
    assert program.err.text == f"ehlo: --auth-file users: {said}\nTry '{help_of} --help'.\n"


def test_auth_file_with_auth_handler_is_reported_on_one_line_and_exits_with_2(
    start: Start, here: Path
) -> None:
    (here / "users").touch()
    program = start(
        *("-m", "ehlo", "--auth-file", "users", "--auth-handler", "app:login"), cwd=here
    )
    assert program.wait() == 2
    assert program.err.text == (
        "ehlo: --auth-file cannot be combined with --auth-handler, on_auth or on_secret; leave one "
        "out, or check an ehlo.PasswordFile in on_auth\nTry 'ehlo --help'.\n"
    )
