"""`ehlo top`: what is seen of a running server."""

from __future__ import annotations

import fcntl
import io
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
from typing import Any

import pytest
from rich.console import Console

from ehlo import Server
from ehlo.cli.top import _COLUMNS, _age, _drawn, _plain, _size
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


def session(**fields: object) -> dict[str, object]:
    """One, as it is told in a snapshot."""
    common = {"id": "df790b3e000001", "peer": "192.0.2.1:25000", "state": "READY", "hook": None}
    counts = {"seconds": 1.0, "received": 1, "sent": 1, "messages": 0}
    return {**common, **counts, "tls": None, "user": None, "pid": 17, **fields}


def snapshot(*sessions: dict[str, object], workers: int = 1, **fields: object) -> dict[str, Any]:
    stats = {
        "connections": 1,
        "messages": {"accepted": 0},
        "octets": {"received": 0, "sent": 0},
        "logins": {"PLAIN accepted": 2, "PLAIN refused": 1},
        "refusals": {},
        "turned_away": {},
    }
    here = {"sessions": 1, "under_tls": 1, "memory": 0, "memory_limit": 1, "on_disk": 0}
    process = {"pids": [1], "uptime": 1, "draining": False}
    count = {"wanted": workers, "answered": 1}
    counted = {"workers": count, "stats": stats, "now": here, "sessions": list(sessions)}
    return {**process, **counted, **fields}


def screen(now: dict[str, Any], width: int, height: int) -> list[str]:
    """What is drawn on one of that size."""
    console = Console(width=width, height=height, file=io.StringIO())
    with console.capture() as captured:
        console.print(_drawn(now, None, console.size))
    return captured.get().splitlines()


def test_what_a_user_is_called_is_not_obeyed_by_a_terminal() -> None:
    named = session(tls="TLSv1.3", user="\x1b[31mred\n")
    lines = list(_plain(snapshot(named, draining=True)))
    assert lines[0] == "ehlo, pid 1: draining 1s   logins 2, refused 1"
    assert lines[3] == "refused nothing"
    assert lines[-1].endswith(r"1.3  \x1b[31mred\n")
    assert "\x1b" not in "".join(lines)


def test_who_does_something_is_shown_before_who_is_idle_longer() -> None:
    sessions = [
        session(id="idle", seconds=9.0),
        session(id="silent", seconds=10.0, state="HELLO"),
        session(id="young", seconds=1.0, state="DATA"),
        session(id="hook", seconds=2.0, hook="on_hello"),
    ]
    lines = list(_plain(snapshot(*sessions)))
    assert [line.split()[0] for line in lines[5:]] == ["hook", "young", "silent", "idle"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_a_screen_has_room_for_what_matters(width: int, height: int) -> None:
    v6 = "[2001:db8:1234:5678:9abc:def0:1234:5678]:54321"
    long = session(peer=v6, user="somebody@a-long-name.example", tls="TLSv1.3", received=2**24)
    lines = screen(snapshot(long, *[session() for _ in range(60)], workers=2), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("ehlo, 1 of 2 workers: up 1s")
    assert lines[-1].startswith("and ")
    wide = width == 120
    assert ("PID" in lines[5]) is wide
    assert v6 in lines[6] if wide else "[2001:db8:" in lines[6]
    assert re.search(r" READY +1s +16M +1 +0 1\.3 so", lines[6])
    assert ("192.0.2.1:25000 " if wide else "192.0.2.1 ") in lines[7]


def test_ages_and_sizes_are_short() -> None:
    assert [_age(seconds) for seconds in (5, 99.9, 100, 7325)] == ["5s", "99s", "1m40s", "2h02m"]
    sizes = [_size(octets) for octets in (0, 9_999, 10_240, 20 * 2**20, 20 * 2**30, 2**44)]
    assert sizes == ["0", "9999", "10K", "20M", "20G", "16384G"]
