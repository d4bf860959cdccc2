"""Sockets from systemd, and notifications to it: real sockets, no systemd."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo.server.system import systemd
from ehlo.server.system.listener import bind
from support.certificates import Certificates
from support.manager import Manager
from support.program import Start
from support.program import start as start

HANDLER = "import ehlo\ndef handler(*args): ...\n"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Return a manager that listens on a path, or in the abstract namespace."""
    where = str(tmp_path / "notify") if request.param == "path" else f"@{secrets.token_hex(8)}"
    manager = Manager(where)
    yield manager
    manager.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment without systemd."""
    for name in systemd.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


# -- sockets from the manager --------------------------------------------------------------------


def passed(monkeypatch: pytest.MonkeyPatch, count: str, names: str = "", pid: int = 0) -> None:
    monkeypatch.setenv("LISTEN_PID", str(pid or os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_FDNAMES", names)


def test_sockets_are_found_by_number_and_name(alone: pytest.MonkeyPatch) -> None:
    passed(alone, "3", "smtp:submission:smtp")
    assert systemd.listening_fds() == [3, 4, 5]
    assert systemd.listening_fds("smtp") == [3, 5]
    assert systemd.listening_fds("submission") == [4]


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "²"])
def test_no_sockets_are_an_error(alone: pytest.MonkeyPatch, count: str) -> None:
    passed(alone, count)
    with pytest.raises(OSError, match="passed no socket to this process"):
        systemd.listening_fds()


def test_sockets_of_another_process_are_an_error(alone: pytest.MonkeyPatch) -> None:
    passed(alone, "1", pid=os.getpid() + 1)
    with pytest.raises(OSError, match="passed no socket"):
        systemd.listening_fds()
    alone.delenv("LISTEN_PID")
    with pytest.raises(OSError, match="cannot listen on systemd:: systemd has passed no socket"):
        bind("systemd:")


def test_an_unknown_name_is_an_error(alone: pytest.MonkeyPatch) -> None:
    passed(alone, "2", "smtp")
    with pytest.raises(OSError, match="no socket named 'imap'"):
        systemd.listening_fds("imap")


def test_a_socket_that_does_not_listen_is_an_error() -> None:
    with socket.socket() as sock:
        number = os.dup(sock.fileno())
        with pytest.raises(OSError, match=f"fd:{number}: .* is not a listening stream socket"):
            bind(f"fd:{number}")
        with pytest.raises(OSError, match="Bad file descriptor"):  # nothing is left open
            os.fstat(number)


def test_an_inherited_socket_is_not_inherited_by_further_processes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = os.dup(sock.fileno())
        os.set_inheritable(number, True)
        (ours,) = bind(f"fd:{number}")
        with ours:
            assert not os.get_inheritable(number)
            assert ours.getsockname() == sock.getsockname()


# -- notifications -------------------------------------------------------------------------------


def test_notifications_are_datagrams(alone: pytest.MonkeyPatch, manager: Manager) -> None:
    alone.setenv("NOTIFY_SOCKET", manager.address)
    assert systemd.ready("Listening")
    assert manager.hears() == ["READY=1", "STATUS=Listening"]
    assert systemd.reloading()
    state, moment = manager.hears()
    assert state == "RELOADING=1"
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", moment)
    assert systemd.stopping()
    assert manager.hears()[0] == "STOPPING=1"


def test_without_a_manager_nothing_is_sent(
    alone: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not systemd.ready("")
    alone.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert not systemd.ready("")
    assert caplog.text == ""
    alone.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.ready("")
    assert "cannot notify the service manager of READY=1" in caplog.text


def test_a_manager_that_does_not_read_delays_nothing(
    alone: pytest.MonkeyPatch, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    alone.setenv("NOTIFY_SOCKET", manager.address)
    sent = 0
    while systemd.alive():  # until nothing more fits
        sent += 1
    assert sent > 0
    assert "cannot notify the service manager of WATCHDOG=1" in caplog.text
    assert not systemd.notify("READY=1", patience=0.01)
    manager.hears()
    assert systemd.ready("")


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
        ("500000", "", 0.5),
        ("500000", "this one", 0.5),
        ("500000", "1", None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    alone: pytest.MonkeyPatch, microseconds: str, pid: str, interval: float | None
) -> None:
    alone.setenv("WATCHDOG_USEC", microseconds)
    alone.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "this one" else pid)
    assert systemd.watchdog_interval() == interval


def test_the_loop_sends_signs_of_life(alone: pytest.MonkeyPatch, manager: Manager) -> None:
    alone.setenv("NOTIFY_SOCKET", manager.address)
    alone.setenv("WATCHDOG_USEC", "20000")

    async def work() -> None:
        with systemd.watchdog(asyncio.get_running_loop()):
            for _ in range(3):
                assert await asyncio.to_thread(manager.hears) == ["WATCHDOG=1"]

    asyncio.run(work())


# -- a program -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_notifies_of_its_start_reload_and_end(
    start: Start, tmp_path: Path, manager: Manager, workers: str
) -> None:
    (tmp_path / "served.py").write_text(HANDLER)
    program = start(
        *("-m", "ehlo", "serve", "served:handler", "--addr", "127.0.0.1:0", "--workers", workers),
        cwd=tmp_path,
        env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"},
    )
    _, status = manager.hears_of("READY=1")
    host, port = program.listening()
    assert status.startswith(f"STATUS=Listening on {host}:{port}")
    for _ in range(2):
        manager.hears_of("WATCHDOG=1")
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("RELOADING=1")
    _, status = manager.hears_of("READY=1")
    assert status.startswith(f"STATUS=Listening on {host}:{port}")
    program.process.send_signal(signal.SIGTERM)
    manager.hears_of("STOPPING=1")
    assert program.wait() == 0


SLOW = """
import contextlib, os, ssl, ehlo

def handler(*args): ...

def make():
    if os.path.exists("slow"):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir("turn")  # one process can
            with open("slow") as slow:
                slow.read()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*os.environ["FILES"].split(":"))
    return context

server = ehlo.Server("served:handler", addr="127.0.0.1:0", tls_config=make)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_is_over_when_all_processes_have_reloaded(
    start: Start,
    tmp_path: Path,
    manager: Manager,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
) -> None:
    (tmp_path / "served.py").write_text(SLOW)
    files = f"{certificates.cert_file}:{certificates.key_file}"
    program = start(
        *("-m", "ehlo", "serve", "served:server", "--workers", workers),
        cwd=tmp_path,
        env={"NOTIFY_SOCKET": manager.address, "FILES": files},
    )
    manager.hears_of("READY=1")
    (tmp_path / "turn").mkdir()
    os.mkfifo(tmp_path / "slow")
    program.process.send_signal(signal.SIGHUP)
    assert manager.hears()[0] == "RELOADING=1"
    with (tmp_path / "slow").open("w"):  # which waits for the reader
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        assert systemd.notify("MARK")
    assert manager.hears() == ["MARK"]
    assert manager.hears()[0] == "READY=1"
    assert program.stop() == 0


def test_a_worker_without_a_sign_of_life_is_replaced(
    start: Start, tmp_path: Path, manager: Manager
) -> None:
    (tmp_path / "served.py").write_text(HANDLER)
    program = start(
        *("-m", "ehlo", "serve", "served:handler", "--addr", "127.0.0.1:0", "--workers", "2"),
        cwd=tmp_path,
        env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"},
    )
    line = program.err.until(" is ready")
    pid = int(re.findall(r"process (\d+)", line)[0])
    program.listening()
    os.kill(pid, signal.SIGSTOP)
    # On a busy machine, the other one may be late, too
    while str(pid) not in program.err.until("did not report in time and was killed"):
        pass
    program.err.until(" is ready")
    assert program.stop() == 0
