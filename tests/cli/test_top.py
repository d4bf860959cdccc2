"""`ehlo top`: what is seen of a running server."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from ehlo import Server
from ehlo.cli.top import _COLUMNS, _age, _plain, _size
from support.client import Client
from support.program import Start
from support.serving import Box

DEADLINE = 15.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


def test_once_prints_a_table(start: Start, path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", control=str(path))
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.hello()
        client.mail()
        client.say("RCPT TO:<b@c.example>")
        program = start("-m", "ehlo", "top", str(path), "--once")
        assert program.wait() == 0
        peer = "{}:{}".format(*client.sock.getsockname())
    lines = program.out.text.splitlines()
    assert re.fullmatch(rf"ehlo, pid {os.getpid()}: up \d+s", lines[0])
    assert lines[1].startswith("sessions 1 (0 under TLS)   memory 0 of ")
    assert lines[2].startswith("connections 1   messages 1   in ")
    assert lines[3] == "refused 1 RCPT 503 mail_first"
    assert lines[4].split() == list(_COLUMNS)
    assert lines[5].split()[1:3] == [peer, "READY"]
    assert lines[5].split()[-3:] == ["1", "-", "-"]


def test_json_is_the_snapshot(start: Start, path: Path) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        program = start("-m", "ehlo", "top", "--json", env={"EHLO_CONTROL": f"unix:{path}"})
        assert program.wait() == 0
    found = json.loads(program.out.text)
    assert found["stats"]["connections"] == 0
    assert found["sessions"] == []


def test_nobody_there_is_said_in_one_line(start: Start, path: Path) -> None:
    program = start("-m", "ehlo", "top", str(path))
    assert program.wait() == 1
    assert program.err.text == f"ehlo: {path}: No such file or directory\n"


class Screen:
    """A terminal of 80 columns and 24 lines, with a program on it."""

    def __init__(self, *command: str) -> None:
        self._control, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ehlo", *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        )
        os.close(terminal)
        self.written = ""

    def until(self, pattern: str) -> None:
        """Read until that has been written."""
        until = time.monotonic() + DEADLINE
        while not re.search(pattern, self.written):
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.written!r}"
            if select.select([self._control], [], [], left)[0]:
                self.written += os.read(self._control, 65_536).decode(errors="replace")

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            self.until(r"\x1b\[\?1049l")
            return self.process.wait(DEADLINE)
        finally:
            os.close(self._control)


def test_a_terminal_shows_it_anew_each_second(path: Path) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread() as server:
        screen = Screen("top", str(path))
        try:
            screen.until("sessions 0 ")
            with Client(server.addresses[0]) as client:
                client.hello()
                screen.until(r"sessions 1 [^\x1b]*(.|\n)*READY")
            screen.until(r"connections 1 \(\d+/s\)")
        finally:
            assert screen.close() == 0
    shown, back, _ = screen.written.rpartition("\x1b[?1049l")  # the screen as it was before
    assert back
    frame = shown.rpartition("\x1b[H")[2]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).splitlines()
    assert max(map(len, lines)) <= 80
    assert "Traceback" not in screen.written


def test_what_a_user_is_called_is_not_obeyed_by_a_terminal() -> None:
    session = {
        "id": "1",
        "peer": "192.0.2.1:25",
        "state": "READY",
        "hook": None,
        "seconds": 1.0,
        "received": 1,
        "sent": 1,
        "messages": 0,
        "tls": "TLSv1.3",
        "user": "\x1b[31mred\n",
    }
    stats = {
        "connections": 1,
        "messages": {"accepted": 0},
        "octets": {"received": 0, "sent": 0},
        "logins": {"PLAIN accepted": 2, "PLAIN refused": 1},
        "refusals": {},
        "turned_away": {},
    }
    here = {"sessions": 1, "under_tls": 1, "memory": 0, "memory_limit": 1, "on_disk": 0}
    now = {"pids": [1], "uptime": 1, "draining": True, "stats": stats, "now": here}
    now["workers"] = {"wanted": 1, "answered": 1}
    lines = list(_plain({**now, "sessions": [session]}))
    assert lines[0] == "ehlo, pid 1: draining 1s   logins 2, refused 1"
    assert lines[3] == "refused nothing"
    assert lines[-1].endswith(r"1.3  \x1b[31mred\n")
    assert "\x1b" not in "".join(lines)


def test_ages_and_sizes_are_short() -> None:
    assert [_age(seconds) for seconds in (5, 99.9, 100, 7325)] == ["5s", "99s", "1m40s", "2h02m"]
    sizes = [_size(octets) for octets in (0, 9_999, 10_240, 20 * 2**20, 20 * 2**30, 2**44)]
    assert sizes == ["0", "9999", "10K", "20M", "20G", "16384G"]
