"""What a user puts where root starts a server for that user: links, hard links, FIFOs."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo import Peer
from ehlo.passwords.file import PasswordFile
from support.account import ACCOUNT, python_of_account
from support.certificates import Certificates
from support.client import Client
from support.program import Program, Start

LOOPBACK = ("--addr", "127.0.0.1:0")
NOBODY = pwd.getpwnam("nobody")

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can give up root")


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory of the user that the server becomes, where that user can enter it.

    It is not in pytest's, which is closed to other users when another pytest starts.
    """
    with tempfile.TemporaryDirectory() as around:
        Path(around).chmod(0o755)
        made = Path(around) / "theirs"
        made.mkdir()
        os.chown(made, NOBODY.pw_uid, NOBODY.pw_gid)
        yield made


def plant(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    os.lchown(link, NOBODY.pw_uid, NOBODY.pw_gid)
    return link


def serve(start: Start, here: Path, *flags: str | Path, user: str = "nobody") -> Program:
    given = ("--user", user) if user else ()
    return start("-m", "ehlo", "serve", "app:function", *given, *flags, cwd=here)


USERS = pytest.mark.parametrize("user", ["nobody", ""], ids=["user", "root"])


# -- the log -------------------------------------------------------------------------------------


@USERS
@pytest.mark.parametrize("there", [False, True])
def test_a_log_is_not_written_through_a_link(
    start: Start, here: Path, theirs: Path, there: bool, user: str
) -> None:
    target = here / "target"
    if there:
        target.write_text("precious")
    log = plant(theirs / "log", target)
    program = serve(start, here, *LOOPBACK, "--log-file", log, user=user)
    assert program.wait() == 2
    assert f"--log-file {log}: root does not follow the link log" in program.err.text
    assert target.exists() is there
    assert not there or (target.stat().st_uid, target.read_text()) == (0, "precious")


@USERS
def test_a_log_is_not_made_through_a_linked_directory(
    start: Start, here: Path, theirs: Path, user: str
) -> None:
    (here / "etc").mkdir()
    log = plant(theirs / "logs", here / "etc") / "log"
    program = serve(start, here, *LOOPBACK, "--log-file", log, user=user)
    assert program.wait() == 2
    assert f"--log-file {log}: root does not follow the link logs" in program.err.text
    assert list((here / "etc").iterdir()) == []


@USERS
@pytest.mark.parametrize("read", [False, True])
def test_a_fifo_for_a_log_does_not_hang_the_start(
    start: Start, here: Path, theirs: Path, read: bool, user: str
) -> None:
    os.mkfifo(theirs / "log")
    reader = os.open(theirs / "log", os.O_RDONLY | os.O_NONBLOCK) if read else None
    program = serve(start, here, *LOOPBACK, "--log-file", theirs / "log", user=user)
    assert program.wait() == 2
    assert f"--log-file {theirs / 'log'}: " in program.err.text
    if reader is not None:
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_a_log_is_not_appended_to_a_file_that_the_user_has_linked(
    start: Start, here: Path, theirs: Path
) -> None:
    (here / "precious").write_text("precious")
    (theirs / "log").hardlink_to(here / "precious")
    program = serve(start, here, *LOOPBACK, "--log-file", theirs / "log")
    assert program.wait() == 2
    assert "root does not write to a file that another user could" in program.err.text
    assert (here / "precious").read_text() == "precious"


# -- Unix sockets --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["666", "660", "600"])
def test_a_socket_in_a_directory_of_the_user_has_the_mode_and_is_reached(
    start: Start, open_house: Path, theirs: Path, mode: str
) -> None:
    path, control = theirs / "smtp", theirs / "control"
    flags = ["--addr", f"unix:{path}", "--unix-mode", mode, "--control", str(control)]
    (open_house / "app.py").write_text("def function(message): pass\n")
    python = python_of_account()
    command = [python, "-m", "ehlo", "serve", "app:function", "--user", ACCOUNT, *flags]
    code = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    program = start("-c", code, *command, cwd=open_house, env={"PYTHONPATH": str(open_house)})
    program.err.until("listening on")
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    status = control.stat()
    assert (status.st_uid, status.st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o600
    with Client(Peer(f"unix:{path}", 0)) as client:
        assert client.reply().startswith("220 ")
    assert program.stop() == 0
    assert not path.exists()
    assert not control.exists()


@USERS
@pytest.mark.parametrize("flag", ["--addr", "--metrics", "--control"])
def test_no_socket_is_made_or_removed_through_a_linked_directory(
    start: Start, here: Path, theirs: Path, flag: str, user: str
) -> None:
    (here / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:  # which would be replaced
        stale.bind(str(here / "run" / "stale"))
    plant(theirs / "link", here / "run")
    for name in ("stale", "new"):
        where = f"unix:{theirs / 'link' / name}"
        flags = (flag, where) if flag == "--addr" else (*LOOPBACK, flag, where)
        program = serve(start, here, *flags, user=user)
        assert program.wait() == 1
        assert f"cannot listen on {where}: root does not follow the link" in program.err.text
    assert [each.name for each in (here / "run").iterdir()] == ["stale"]


def test_no_socket_is_removed_through_a_directory_that_is_linked_later(
    start: Start, here: Path, theirs: Path
) -> None:
    for directory in (here / "run", theirs / "run"):
        directory.mkdir()
    program = serve(start, here, "--addr", f"unix:{theirs / 'run' / 'smtp'}", user="")
    program.err.until("listening on")
    (theirs / "run").rename(theirs / "old")
    plant(theirs / "run", here / "run")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(here / "run" / "smtp"))
    assert program.stop() == 0
    assert (here / "run" / "smtp").exists()
    assert "cannot remove" in program.err.text


# -- files that are read -------------------------------------------------------------------------


@USERS
@pytest.mark.parametrize("flag", ["--auth-file", "--tls-cert", "--tls-client-ca"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_root_reads_no_planted_file_and_waits_for_none(
    start: Start,
    here: Path,
    theirs: Path,
    certificates: Certificates,
    flag: str,
    kind: str,
    user: str,
) -> None:
    certificate = ("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file)
    path = theirs / "file"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        plant(path, Path(certificates.cert_file))
    more = certificate if flag == "--tls-client-ca" else ()
    program = serve(start, here, *LOOPBACK, *more, flag, path, user=user)
    assert program.wait() == 2
    reason = "not a regular file" if kind == "fifo" else "root does not follow the link file"
    assert str(path) in program.err.text
    assert reason in program.err.text


def test_root_keeps_no_body_through_a_planted_link(start: Start, here: Path, theirs: Path) -> None:
    (here / "elsewhere").mkdir()
    path = plant(theirs / "spool", here / "elsewhere")
    program = serve(start, here, *LOOPBACK, "--spool-dir", path, user="")
    assert program.wait() == 1
    assert f"--spool-dir: cannot write to {path}: root does not follow" in program.err.text


@pytest.mark.parametrize("there", [False, True])
def test_root_writes_no_password_through_a_planted_link(
    start: Start, here: Path, theirs: Path, there: bool
) -> None:
    if there:
        (here / "precious").write_text("")
    path = plant(theirs / "users", here / "precious")
    program = start("-m", "ehlo", "passwd", path, "alice", "--delete", cwd=here)
    assert program.wait() == 1
    assert "root does not follow the link users" in program.err.text
    with pytest.raises(OSError, match="root does not follow the link users"):
        PasswordFile(path).set("alice", "secret")
    assert (here / "precious").exists() is there


def test_a_fifo_for_passwords_is_not_waited_for(theirs: Path) -> None:
    os.mkfifo(theirs / "users")
    with pytest.raises(OSError, match="not a regular file"):
        PasswordFile(theirs / "users").set("alice", "secret")
    with pytest.raises(ValueError, match="not a regular file"):
        PasswordFile(theirs / "users").load()
