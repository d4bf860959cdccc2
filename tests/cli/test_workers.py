"""`--workers`, `--reload`, `--fd`, `--user`: processes, their starts and their ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import smtplib
import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ehlo import PasswordFile, Peer, Server
from ehlo.server import run
from ehlo.server.observing.views import Views
from ehlo.server.system import privileges
from ehlo.server.workers import parent
from ehlo.server.workers.parent import MOST_DELAY, backoff
from support.account import ACCOUNT, python_of_account
from support.certificates import Certificates, Files
from support.client import Client
from support.examples import each_with
from support.manager import Manager
from support.ports import reserved_port
from support.program import DEADLINE, HAND_OVER, Program, Start
from support.snapshots import snapshot_of

LOOPBACK = ("--addr", "127.0.0.1:0")

MODULE = """
import asyncio, os, signal, sys, threading, time, ehlo

def function(remote_addr, mail_from, rcpt_tos, data):
    return f"by-{os.getpid()}"

class Handler(ehlo.Handler):
    def on_startup(self, server):
        options = server.options
        print("limits", options.max_connections, options.max_memory, options.workers, flush=True)

    async def on_message(self, session, message):
        return f"by-{os.getpid()}"

    def on_shutdown(self, server):
        print("shut down", flush=True)

def make():
    return Handler()

class Unlucky(Handler):
    def on_startup(self, server):
        raise OSError(2, "no database")

class Starting(Handler):
    async def on_startup(self, server):
        os.write(1, b"begun\\n")  # in one piece: two processes write there
        await asyncio.Event().wait()

class Restarting(Handler):
    async def on_startup(self, server):
        if os.path.exists("hang"):
            print("begun", flush=True)
            await asyncio.Event().wait()

class Slow(Handler):
    def on_message(self, session, message):
        print("inside", os.getpid(), flush=True)
        time.sleep(3600)

class Keys(Handler):
    def on_secret(self, session, username):
        return None

    def on_hello(self, session, name):
        return ehlo.Reply(250, None, str(os.getpid()))

class Hung(Handler):
    async def on_message(self, session, message):
        time.sleep(3600)

class Groups(Handler):
    def on_startup(self, server):
        with open("/proc/self/status") as status:
            wanted = "Uid:", "Gid:", "Groups:", "CapEff:"
            lines = [line for line in status if line.startswith(wanted)]
        os.write(1, "".join([*lines, "done\\n"]).encode())  # in one piece, as above

server = ehlo.Server(lambda *_: f"by-{os.getpid()}", addr="127.0.0.1:0", workers=2)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return a directory with `many.py` in it."""
    (tmp_path / "many.py").write_text(MODULE)
    return tmp_path


def serve(start: Start, app: Path, target: str, *flags: str | Path, workers: int = 2) -> Program:
    return start(
        *("-m", "ehlo", "serve", target, *LOOPBACK, "--workers", str(workers), *flags), cwd=app
    )


# A worker that has served for 10 seconds is started again at once, however slow a test is
UNPROVEN = """
import sys
from ehlo.cli import main
from ehlo.server.workers import parent

parent._PROVEN = 3600.0
sys.exit(main())
"""


def serve_unproven(start: Start, app: Path) -> Program:
    """Start workers whose end is a failure, also of one that has served for long."""
    return start(*("-c", UNPROVEN, "serve", "many:function", *LOOPBACK, "--workers", "2"), cwd=app)


def workers_of(program: Program, count: int = 2) -> list[int]:
    """Return the process ids, from the log."""
    lines = [program.err.until(" is ready") for _ in range(count)]
    return [int(re.findall(r"process (\d+)", line)[0]) for line in lines]


def send(client: smtplib.SMTP) -> int:
    """Send a message; return the process that accepted it."""
    client.ehlo_or_helo_if_needed()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    code, text = client.data(b"Subject: x\r\n\r\n")
    assert code == 250
    return int(text.rpartition(b"by-")[2])


# -- starting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["many:function", "many:Handler", "many:server"])
def test_workers_serve_the_named_handler_or_server(start: Start, app: Path, target: str) -> None:
    program = serve(start, app, target)
    pids = workers_of(program)
    with smtplib.SMTP(*program.listening()) as client:
        assert send(client) in pids
    assert program.process.pid not in pids
    assert program.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_factory_makes_the_handler_in_each_worker(start: Start, app: Path, loop: str) -> None:
    flags = ("--factory", "--max-connections", "5", "--max-memory", "1001", "--loop", loop)
    program = serve(start, app, "many:make", *flags)
    workers_of(program)
    assert program.stop() == 0
    output = program.out.text  # two processes write to it, maybe at once
    assert [output.count(f"limits {share} 501 1") for share in (2, 3)] == [1, 1]
    assert output.count("shut down") == 2


def test_each_worker_needs_a_place_for_a_connection() -> None:
    server = Server("many:function", workers=3, max_connections=2)
    with pytest.raises(
        ValueError, match=r"max_connections is 2; it must be at least .* workers, 3"
    ):
        server.listen_and_serve()


def test_an_environment_variable_starts_workers(start: Start, app: Path) -> None:
    command = ("-m", "ehlo", "serve", "many:function", *LOOPBACK)
    program = start(*command, cwd=app, env={"EHLO_WORKERS": "3"})
    assert len(set(workers_of(program, 3))) == 3
    assert "with 3 workers" in program.err.until("listening on")


def test_a_busy_port_is_reported_once(start: Start, app: Path) -> None:
    program = serve(start, app, "many:function")
    host, port = program.listening()
    flags = ("--addr", f"{host}:{port}", "--workers", "2")
    second = start("-m", "ehlo", "serve", "many:function", *flags, cwd=app)
    assert second.wait() == 1
    reason = "another process is listening there; try --port 0"
    assert second.err.text == f"ehlo: cannot listen on {host}:{port}: {reason}\n"


def test_the_parent_ends_with_an_error_if_no_worker_can_start(start: Start, app: Path) -> None:
    program = serve(start, app, "many:Unlucky")
    assert program.wait() == 1
    last = program.err.text.splitlines()[-1]
    assert last == "ehlo: no worker could start: FileNotFoundError: [Errno 2] no database"


ONCE = """
import pathlib
seen = pathlib.Path("seen")
if not seen.exists():  # in the parent alone
    seen.touch()
    def handler(*_): pass
"""


@pytest.mark.parametrize(
    ("target", "reason", "shows"),
    [
        ("many:Unlucky", "FileNotFoundError: [Errno 2] no database", True),
        (
            "once:handler",
            (
                "module 'once' has no attribute 'handler'; "
                "check 'once:handler', --app-dir and the current directory"
            ),
            False,
        ),
    ],
)
def test_a_worker_logs_why_it_cannot_start(
    start: Start, app: Path, target: str, reason: str, shows: bool
) -> None:
    (app / "once.py").write_text(ONCE)
    program = serve(start, app, target, "--log-format", "json")
    assert program.wait() == 1
    *lines, last = program.err.text.splitlines()
    assert last == f"ehlo: no worker could start: {reason}"
    records = [json.loads(line) for line in lines]
    told = [each for each in records if "this worker cannot start" in each["message"]]
    more = "" if shows else f": {reason}"  # the traceback ends in it
    assert {each["message"] for each in told} == {f"this worker cannot start{more}"}
    assert {each["level"] for each in told} == {"ERROR"}
    assert {"Traceback" in each.get("exception", "") for each in told} == {shows}
    assert {reason in each.get("exception", "") for each in told} == {shows}


def test_the_parent_ends_with_an_error_if_no_process_can_be_started(
    start: Start, app: Path
) -> None:
    code = "import sys; from ehlo.cli import main; sys.executable = '/nothing'; sys.exit(main())"
    command = ("serve", "many:function", *LOOPBACK, "--workers", "2")
    program = start("-c", code, *command, cwd=app)
    assert program.wait() == 1
    last = program.err.text.splitlines()[-1]
    assert last.startswith("ehlo: no worker could start: [Errno 2] No such file or directory")


def test_a_program_starts_workers(start: Start, app: Path) -> None:
    (app / "program.py").write_text(
        "import logging, ehlo\n"
        "if __name__ == '__main__':\n"
        "    logging.basicConfig(level=logging.INFO)\n"
        "    server = ehlo.Server('many:make', addr='127.0.0.1:0', workers=2, factory=True)\n"
        "    server.listen_and_serve()\n"
    )
    program = start("program.py", cwd=app)
    pids = workers_of(program)
    with smtplib.SMTP(*program.listening()) as client:
        assert send(client) in pids
    assert program.stop() == 0


def no_handler(*_: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "error"),
    [
        (no_handler, {}, "name it as 'module:attr'"),
        (
            "many:function",
            {"rcpt_handler": lambda *_: True},
            "rcpt_handler cannot be passed to workers",
        ),
        ("__main__:function", {}, "handler is in the program"),
        ("no_such_module:x", {}, "no module named 'no_such_module'"),
    ],
)
def test_options_that_cannot_be_passed_to_workers_are_an_error(
    handler: object, options: dict[str, object], error: str
) -> None:
    server = Server(handler, addr="127.0.0.1:0", workers=2, **options)  # type: ignore[arg-type]  # as parametrized
    with pytest.raises(ValueError, match=re.escape(error)):
        server.listen_and_serve()


def test_workers_serve_on_a_given_socket_until_closed(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(app)
    sock = socket.create_server(("127.0.0.1", reserved_port()))
    address = sock.getsockname()
    server = Server("many:function", workers=2, loop="asyncio")
    thread = threading.Thread(target=server.serve, args=(sock,))
    thread.start()
    try:
        with smtplib.SMTP(address[0], address[1], timeout=DEADLINE) as client:
            assert send(client) != os.getpid()
        assert server.addresses == [address]
    finally:
        server.close()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert server.addresses == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5.0)


def test_workers_do_not_start_in_the_loop_of_a_program() -> None:
    server = Server("many:function", workers=2)
    with pytest.raises(ValueError, match="workers needs listen_and_serve or serve"):
        asyncio.run(server.start())


# -- ending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_workers_and_transactions_end(
    start: Start, app: Path, number: signal.Signals
) -> None:
    program = serve(start, app, "many:function")
    client = smtplib.SMTP(*program.listening())
    client.ehlo()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    program.process.send_signal(number)
    program.err.until("shutting down")
    assert client.data(b"Subject: under way\r\n\r\n")[0] == 250
    client.close()
    assert program.wait() == 0


def test_ctrl_c_on_a_terminal_reaches_workers_only_through_their_parent(
    start: Start, app: Path
) -> None:
    """A terminal signals its foreground process group."""
    program = serve(start, app, "many:function")
    pids = workers_of(program)
    assert {os.getpgid(pid) for pid in pids}.isdisjoint({os.getpgid(program.process.pid)})
    assert program.stop(signal.SIGINT) == 0


def test_a_signal_to_all_processes_does_not_count_twice(start: Start, app: Path) -> None:
    program = serve(start, app, "many:function")
    pids = workers_of(program)
    client = smtplib.SMTP(*program.listening())
    client.ehlo()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    for pid in (*pids, program.process.pid):  # as systemd does
        os.kill(pid, signal.SIGTERM)
    program.err.until("shutting down")
    assert client.data(b"Subject: under way\r\n\r\n")[0] == 250
    client.close()
    assert program.wait() == 0


def begin_message(program: Program) -> smtplib.SMTP:
    """Return a client whose message is being handled."""
    client = smtplib.SMTP(*program.listening())
    client.ehlo()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    client.docmd("DATA")
    client.send(b"Subject: x\r\n\r\n.\r\n")
    return client


def test_a_signal_ends_workers_that_are_starting(start: Start, app: Path) -> None:
    program = serve(start, app, "many:Starting")
    for _ in range(2):
        program.out.until("begun")
    assert program.stop() == 0
    assert "Traceback" not in program.err.text
    assert "shut down" not in program.out.text


@pytest.mark.parametrize("target", ["many:Slow", "many:Hung"])
def test_a_second_signal_ends_all_workers_at_once(start: Start, app: Path, target: str) -> None:
    program = serve(start, app, target)
    client = begin_message(program)
    if target == "many:Slow":
        program.out.until("inside")
    program.process.send_signal(signal.SIGTERM)
    program.err.until("shutting down")
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert "closing at once" in program.err.text
    client.close()


def test_workers_end_if_their_parent_is_killed(start: Start, app: Path) -> None:
    addr = f"127.0.0.1:{reserved_port()}"
    program = start("-m", "ehlo", "serve", "many:Handler", "--addr", addr, "--workers=2", cwd=app)
    address = program.listening()
    program.process.kill()
    program.wait()  # until all workers, which share its standard error, have ended
    assert program.err.text.count("the parent process is gone") == 2
    assert program.out.text.count("shut down") == 2  # two processes write to it, maybe at once
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5.0)


# -- dying ---------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced(start: Start, app: Path) -> None:
    program = serve_unproven(start, app)
    pids = workers_of(program)
    address = program.listening()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert "was killed by SIGKILL; restarting in 1 s" in program.err.until("SIGKILL")
    (*_, new) = workers_of(program)
    assert new not in pids
    with smtplib.SMTP(*address) as client:
        assert send(client) not in pids
    assert program.stop() == 0


def test_a_signal_without_a_name_ends_only_one_worker(start: Start, app: Path) -> None:
    program = serve_unproven(start, app)
    first, second = workers_of(program)
    address = program.listening()
    number = signal.SIGRTMIN + 1
    os.kill(first, number)
    program.err.until(f"was killed by signal {number}; restarting in 1 s")
    with smtplib.SMTP(*address) as client:
        assert send(client) == second
    assert program.stop() == 0


def test_the_delay_grows_with_failures_in_a_row_up_to_a_limit() -> None:
    assert [backoff(failures) for failures in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(2000) == MOST_DELAY


def test_the_second_failure_in_a_row_delays_longer(start: Start, app: Path) -> None:
    program = serve_unproven(start, app)
    first, _ = workers_of(program)
    program.listening()
    os.kill(first, signal.SIGKILL)
    program.err.until("restarting in 1 s")
    (again,) = workers_of(program, 1)
    os.kill(again, signal.SIGKILL)
    program.err.until("restarting in 2 s")
    assert program.stop() == 0


HELD = """
import os, ehlo

class Handler(ehlo.Handler):
    async def on_message(self, session, message):
        if b"hold" in message.data:
            with open("held") as held:
                held.read()  # and this worker does nothing else
        return f"by-{os.getpid()}"
"""


def one_to_each(address: Peer, held: Path, tls: ssl.SSLContext) -> dict[int, Client]:
    """Return a client of each worker: while one is held, the other accepts new clients."""
    first = Client(address, tls=tls)
    first.hello()
    first.begin_message(b"hold\r\n")
    with held.open("w"):  # which waits for the reader
        second = Client(address, tls=tls)
        second.hello()
        by_second = accepted_by(second.mail())
    for _ in range(3):
        first.reply()
    return {accepted_by(first.reply()): first, by_second: second}


def accepted_by(reply: str) -> int:
    return int(reply.rpartition("by-")[2])


def shown(client: Client) -> bytes | None:
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock.getpeercert(binary_form=True)


def test_sighup_reloads_the_certificate_of_every_worker_and_keeps_connections(
    start: Start, app: Path, certificates: Certificates
) -> None:
    (app / "hold.py").write_text(HELD)
    held = app / "held"
    os.mkfifo(held)
    files = Files(certificates.authority, app)
    flags = ("--tls-cert", files.cert, "--tls-key", files.key, "--tls-listener")
    program = serve(start, app, "hold:Handler", *flags)
    pids = set(workers_of(program))
    address = Peer(*program.listening())
    before = one_to_each(address, held, certificates.client)
    old, new = files.der, files.issue("localhost")
    program.process.send_signal(signal.SIGHUP)
    for _ in pids:
        program.err.until("reloaded what=certificates")
    after = one_to_each(address, held, certificates.client)
    assert set(before) == set(after) == pids
    for pid in pids:
        assert accepted_by(before[pid].mail()) == accepted_by(after[pid].mail()) == pid
        assert (shown(before[pid]), shown(after[pid])) == (old, new)
    for client in (*before.values(), *after.values()):
        client.close()
    assert program.stop() == 0


def test_a_reload_does_not_wait_for_a_worker_that_is_starting(
    start: Start, app: Path, manager: Manager
) -> None:
    command = ("-m", "ehlo", "serve", "many:Restarting", *LOOPBACK, "--workers", "2")
    program = start(*command, cwd=app, env={"NOTIFY_SOCKET": manager.address})
    manager.where()
    first, _ = workers_of(program)
    (app / "hang").touch()
    os.kill(first, signal.SIGKILL)
    program.out.until("begun")
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("RELOADING=1")
    manager.hears_of("READY=1")
    assert program.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_reloads_changed_certificates_without_a_signal(
    start: Start, app: Path, certificates: Certificates, workers: int
) -> None:
    files = Files(certificates.authority, app)
    flags = ("--tls-cert", files.cert, "--tls-key", files.key, "--tls-listener")
    program = serve(start, app, "many:function", *flags, workers=workers)
    address = Peer(*program.listening())
    with Client(address, tls=certificates.client) as kept:
        kept.hello()
        old, new = files.der, files.issue("localhost")
        for _ in range(workers):
            program.err.until("reloaded what=certificates")
        with Client(address, tls=certificates.client) as client:
            client.hello()
            assert (shown(kept), shown(client)) == (old, new)
        assert kept.mail().startswith("250 ")
    assert program.stop() == 0


# -- reload --------------------------------------------------------------------------------------


def test_a_changed_module_restarts_the_worker(start: Start, app: Path) -> None:
    module = app / "fresh.py"
    module.write_text("def handler(*args):\n    return 'by-1'\n")
    program = start("-m", "ehlo", "serve", "fresh:handler", *LOOPBACK, "--reload", cwd=app)
    address = program.listening()
    if "watching " not in program.err.text:  # a thread logs it
        program.err.until("watching ")
    with smtplib.SMTP(*address) as client:
        assert send(client) == 1
    module.write_text("def handler(*args)\n    return 'what is this'\n")
    program.err.until("fresh.py changed: restarting")
    program.err.until("SyntaxError")
    program.err.until("ended with exit code 1; clients get 421 until a file changes")
    with pytest.raises(smtplib.SMTPConnectError, match=r"421, b'4\.3\.0 Service not avail"):
        smtplib.SMTP(*address)
    assert len(re.findall(r"^ +SyntaxError", program.err.text, re.MULTILINE)) == 1
    failure = program.err.text.partition("this worker cannot start")[2]
    assert re.findall('File "(.*)"', failure) == [str(module)]  # and none that leads to it
    module.write_text("def handler(*args):\n    return 'now it is by-22'\n")
    program.err.until("is ready")
    with smtplib.SMTP(*address) as client:
        assert send(client) == 22
    assert program.stop() == 0


def test_reload_without_watchfiles_is_an_error_that_names_it(start: Start, app: Path) -> None:
    (app / "watchfiles.py").write_text("raise ImportError\n")
    program = start("-m", "ehlo", "serve", "many:function", *LOOPBACK, "--reload", cwd=app)
    assert program.wait() == 2
    said = "ehlo: --reload needs watchfiles: pip install 'ehlo[standard]'\n"
    assert program.err.text == f"{said}Try 'ehlo serve --help'.\n"


# -- inherited sockets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "which"),
    [
        (["--fd", "4"], [1]),
        (["--addr", "fd:3"], [0]),
        (["--fd", "3", "--fd", "4"], [0, 1]),
        (["--addr", "systemd:"], [0, 1]),
        (["--addr", "systemd:submission"], [1]),
        (["--addr", "systemd:smtp", "--workers", "2"], [0]),
    ],
)
def test_sockets_are_inherited(
    start: Start, app: Path, flags: Sequence[str], which: list[int]
) -> None:
    program = start("-c", HAND_OVER, "serve", "many:function", *flags, cwd=app)
    ports = program.out.until(" ").split()
    line = program.err.until("listening on")
    assert re.findall(r"127\.0\.0\.1:(\d+)", line) == [ports[index] for index in which]
    for index in which:
        with smtplib.SMTP("127.0.0.1", int(ports[index])) as client:
            send(client)
    assert program.stop() == 0


@pytest.mark.parametrize(
    ("addr", "error"),
    [
        ("systemd:imap", "systemd has passed no socket named 'imap' to this process"),
        ("fd:0", "socket operation on non-socket"),
    ],
)
def test_a_socket_that_is_not_inherited_is_one_line_and_exit_status_1(
    start: Start, app: Path, addr: str, error: str
) -> None:
    program = start("-c", HAND_OVER, "serve", "many:function", "--addr", addr, cwd=app)
    assert program.wait() == 1
    assert program.err.text == f"ehlo: cannot listen on {addr}: {error}; pass a listening socket\n"


# -- Unix sockets and users ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_has_the_mode_and_is_removed_at_the_end(
    start: Start, app: Path, workers: int
) -> None:
    path = app / "ehlo.sock"
    flags = ("--addr", f"unix:{path}", "--unix-mode", "606", "--workers", str(workers))
    program = start("-m", "ehlo", "serve", "many:function", *flags, cwd=app)
    program.err.until(f"listening on unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o606
    assert program.stop() == 0
    assert not path.exists()


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can drop root privileges")


@pytest.fixture
def open_house(open_house: Path) -> Path:
    """Return a directory that all users can read, with all that a worker imports."""
    (open_house / "many.py").write_text(MODULE)
    return open_house


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_root_privileges_are_dropped_for_good(start: Start, open_house: Path, workers: int) -> None:
    python = python_of_account()
    command = [python, "-m", "ehlo", "serve", "many:Groups", *LOOPBACK]
    command += ["--user", ACCOUNT, "--workers", str(workers)]
    code = "import os, sys; os.setgroups([0, 4]); os.execv(sys.argv[1], sys.argv[1:])"
    environment = {"PYTHONPATH": str(open_house)}
    program = start("-c", code, *command, cwd=open_house, env=environment)
    program.out.until("done")
    entries = {name: values for name, *values in map(str.split, program.out.seen)}
    entry = pwd.getpwnam(ACCOUNT)
    assert set(entries["Uid:"]) == {str(entry.pw_uid)}
    assert set(entries["Gid:"]) == {str(entry.pw_gid)}
    assert set(entries["Groups:"]) == {str(gid) for gid in os.getgrouplist(ACCOUNT, entry.pw_gid)}
    assert int(entries["CapEff:"][0], 16) == 0
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    assert "Uid:" + f"\t{entry.pw_uid}" * 4 + "\n" in status  # the parent, too
    program.listening()
    assert program.stop() == 0


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_file_belongs_to_the_user_that_reopens_it(
    start: Start, open_house: Path, workers: int
) -> None:
    logs = open_house / "logs"
    logs.mkdir()
    shutil.chown(logs, ACCOUNT)
    manager = Manager(f"@{secrets.token_hex(8)}")
    command = [python_of_account(), "-m", "ehlo", "serve", "many:function", *LOOPBACK]
    command += ["--user", ACCOUNT, "--workers", str(workers), "--log-file", str(logs / "log")]
    code = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    environment = {"PYTHONPATH": str(open_house), "NOTIFY_SOCKET": manager.address}
    with contextlib.closing(manager):
        program = start("-c", code, *command, cwd=open_house, env=environment)
        manager.where()
        assert (logs / "log").owner() == ACCOUNT
        (logs / "log").rename(logs / "old")
        program.process.send_signal(signal.SIGHUP)
        manager.hears_of("RELOADING=1")
        manager.hears_of("READY=1")
        assert "received SIGHUP: reloading" in (logs / "log").read_text()
        assert program.stop() == 0


def as_account(
    start: Start, house: Path, *flags: str | Path, workers: int, closed: Path | None = None
) -> Program:
    """Start a server as root that switches to the account, which cannot read `closed`."""
    python = python_of_account()
    if closed is not None:
        closed.chmod(0o700)
    command = [python, "-m", "ehlo", "serve", "many:function", *LOOPBACK]
    command += ["--user", ACCOUNT, "--workers", str(workers), *map(str, flags)]
    code = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    return start("-c", code, *command, cwd=house, env={"PYTHONPATH": str(house)})


@as_root
@pytest.mark.parametrize(
    ("which", "workers"),
    each_with([("--auth-file",), ("--tls-key",), ("--tls-client-ca",)], [1, 2]),
)
def test_a_file_that_the_user_cannot_read_later_ends_the_start(
    start: Start, open_house: Path, certificates: Certificates, which: str, workers: int
) -> None:
    files = {"--tls-cert": Path(certificates.cert_file), "--tls-key": Path(certificates.key_file)}
    files |= {"--tls-client-ca": Path(certificates.authority_file)}
    flags: list[str | Path] = []
    for flag, source in files.items():
        copy = open_house / source.name
        shutil.copy(source, copy)
        copy.chmod(0o644)
        flags += [flag, copy]
        files[flag] = copy
    files["--auth-file"] = open_house / "users"
    PasswordFile(files["--auth-file"]).set("alice", "wonder")
    files["--auth-file"].chmod(0o644)
    flags += ["--auth-file", files["--auth-file"]]
    files[which].chmod(0o600)
    program = as_account(start, open_house, *flags, workers=workers)
    assert program.wait() == 1
    error = f"ehlo: --user {ACCOUNT} cannot read {files[which]}: Permission denied"
    assert program.err.text.endswith(f"{error}; let this user read it\n")
    assert "Traceback" not in program.err.text
    files[which].chmod(0o644)
    program = as_account(start, open_house, *flags, workers=workers)
    program.listening()
    assert program.stop() == 0


@as_root
def test_an_installation_that_the_user_cannot_read_ends_the_start(
    start: Start, open_house: Path
) -> None:
    """A module that is imported for the first mail would fail then, and each mail be rejected."""
    program = as_account(start, open_house, workers=1, closed=open_house / "ehlo")
    assert program.wait() == 1
    said = rf"ehlo: --user {ACCOUNT} cannot read {open_house}/ehlo/.*; install Python and ehlo wh"
    assert re.search(said, program.err.text)
    assert "Traceback" not in program.err.text


@as_root
def test_an_app_that_the_user_cannot_read_is_a_warning(start: Start, open_house: Path) -> None:
    program = as_account(start, open_house, workers=1, closed=open_house / "many.py")
    program.listening()
    said = f"user {ACCOUNT} cannot read {open_house}/many.py; later imports may fail"
    assert said in program.err.text
    assert program.stop() == 0


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_the_control_socket_is_bound_before_root_privileges_are_dropped(
    start: Start, open_house: Path, workers: int
) -> None:
    path = open_house / "control"  # in a directory that belongs to root
    flags = ("--control", path)
    program = as_account(start, open_house, *flags, workers=workers)
    program.listening()
    assert path.owner() == ACCOUNT
    assert path.stat().st_mode & 0o777 == 0o600
    assert snapshot_of(path)["workers"]["wanted"] == workers
    assert program.stop() == 0


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_are_bound_before_root_privileges_are_dropped(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """In this process, which must stay root: a low port would not show it here."""
    order: list[str] = []
    server = Server("many:function", addr="127.0.0.1:0", user=ACCOUNT, metrics="127.0.0.1:0")
    monkeypatch.setattr(Views, "bind", lambda _views: order.append("bound"))
    monkeypatch.setattr(privileges, "drop", lambda _account: order.append("dropped"))
    monkeypatch.setattr(parent, "check", lambda _options: None)
    server.configure(workers=workers)

    def stop(*_: object) -> None:
        raise RuntimeError("far enough")

    monkeypatch.setattr(run, "check_spool", stop)
    if workers == 1:
        server.configure(handler=lambda *_: None)
    with pytest.raises(RuntimeError, match="far enough"):
        server.listen_and_serve()
    assert order == ["bound", "dropped"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_spool_directory_ends_the_start(start: Start, app: Path, workers: int) -> None:
    program = serve(start, app, "many:function", "--spool-dir", app / "no", workers=workers)
    assert program.wait() == 1
    error = f"ehlo: --spool-dir: cannot write to {app / 'no'}: No such file or directory\n"
    assert program.err.text == error


@as_root
@pytest.mark.parametrize("workers", [1, 2])
def test_the_user_must_be_able_to_write_to_the_spool_directory(
    start: Start, open_house: Path, workers: int
) -> None:
    program = as_account(start, open_house, "--spool-dir", open_house, workers=workers)
    assert program.wait() == 1
    error = f"--spool-dir: cannot write to {open_house}: Permission denied\n"
    assert program.err.text.endswith(error)
    spool = open_house / "spool"
    spool.mkdir()
    shutil.chown(spool, ACCOUNT)
    program = as_account(start, open_house, "--spool-dir", spool, workers=workers)
    program.listening()
    assert not list(spool.iterdir())
    assert program.stop() == 0


@as_root
def test_a_user_without_privileges_cannot_switch_to_another(start: Start) -> None:
    code = (
        "import ctypes, encodings.idna, os, sys, ehlo.server.server, uvloop; "
        "from ehlo.cli import main; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "sys.exit(main())"
    )
    program = start("-c", code, *LOOPBACK, "--user", "daemon", cwd=Path("/"))
    assert program.wait() == 1
    assert program.err.text == (
        "ehlo: --user: only root can become user daemon; start ehlo as root\n"
    )


@as_root
def test_a_user_in_the_group_of_root_is_an_error(start: Start) -> None:
    code = (
        f"import os, pwd, ehlo.server.system.privileges as p; a = p.find({ACCOUNT!r}); "
        "os.setgroups([0]); os.setgid(a.gid); os.setuid(a.uid); p.drop(a)"
    )
    program = start("-c", code, cwd=Path("/"))
    assert program.wait() == 1
    assert f"{ACCOUNT} is in root's group" in program.err.text


def test_an_unknown_user_has_the_same_salt_in_each_worker(start: Start, app: Path) -> None:
    address = Peer(*serve(start, app, "many:Keys").listening())

    def salt() -> tuple[int, bytes]:
        """Return which worker has accepted the client, and the salt that it sends."""
        with Client(address) as client:
            worker = client.hello().splitlines()[0].removeprefix("250-")
            answer = client.say("AUTH SCRAM-SHA-256 biwsbj1ub2JvZHkscj1hYmM=")
        return int(worker), base64.b64decode(answer[4:]).split(b",")[1]

    first, salt_there = salt()
    os.kill(first, signal.SIGSTOP)  # so that the other one accepts the next client
    try:
        second, salt_here = salt()
    finally:
        os.kill(first, signal.SIGCONT)
    assert first != second
    assert salt_there == salt_here
