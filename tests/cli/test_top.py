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
from typing import Any

import pytest

from ehlo import Server
from ehlo.cli.screen import COLUMNS, age, plain, screen, size
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
    assert lines[4].split() == list(COLUMNS)
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


# Without the size of another terminal
_ENVIRONMENT = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "LINES")}


class Screen:
    """A terminal of so many columns and lines, with a program on it."""

    def __init__(self, *command: str, width: int = 80, height: int = 24) -> None:
        self._control, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ehlo", *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**_ENVIRONMENT, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
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
        "bytes": {"received": 0, "sent": 0},
        "logins": {"PLAIN accepted": 2, "PLAIN refused": 1},
        "refusals": {},
        "turned_away": {},
    }
    here = {"sessions": 1, "under_tls": 1, "memory": 0, "memory_limit": 1, "on_disk": 0}
    process = {"pids": [1], "uptime": 1, "draining": False}
    count = {"wanted": workers, "answered": 1}
    counted = {"workers": count, "stats": stats, "now": here, "sessions": list(sessions)}
    return {**process, **counted, **fields}


def test_what_a_user_is_called_is_not_obeyed_by_a_terminal() -> None:
    named = session(tls="TLSv1.3", user="\x1b[31mred\n")
    lines = list(plain(snapshot(named, draining=True)))
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
    lines = list(plain(snapshot(*sessions)))
    assert [line.split()[0] for line in lines[5:]] == ["hook", "young", "silent", "idle"]


def drawn(width: int, height: int, *sessions: dict[str, object], **fields: Any) -> list[str]:
    """What is seen on a screen of that size; it is never more than has room."""
    lines = list(screen(snapshot(*sessions, **fields), None, width, height))
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    return lines


def heading_and_rows(lines: list[str]) -> tuple[list[str], list[str]]:
    """The names of the columns, and what is below them."""
    (start,) = (number for number, line in enumerate(lines) if "ADDRESS" in line)
    return lines[start].split(), lines[start + 1 :]


USER = "somebody@a-long-name.example"
V6 = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"
LONG = session(
    peer=V6,
    state="ENDED",
    hook="on_message",
    seconds=3723.0,
    received=2**24,
    sent=9_999,
    tls="TLSv1.3",
    user=USER,
)
NAMED = ["ADDRESS", "STATE", "AGE", "IN", "OUT", "TLS", "USER"]
BYTES = ["ADDRESS", "STATE", "AGE", "BYTES", "TLS", "USER"]


@pytest.mark.parametrize(
    ("width", "height", "names", "row"),
    [
        (
            *(200, 50, ["PID", *COLUMNS]),
            f"  17 df790b3e000001 {V6} on_message 62m03s 16M 9999     0 1.3 {USER}",
        ),
        (
            *(115, 30, [*NAMED[:5], "MAILS", *NAMED[5:]]),
            f"{V6} on_message 62m03s 16M 9999     0 1.3 {USER}",
        ),
        (
            *(80, 24, NAMED),
            "2001:db8:1234:56…:def0:1234:5678 on_message 62m03s 16M 9999 1.3 somebody@a-long…",
        ),
        (44, 20, BYTES, "2001:d…4:5678 message 62m   16M 1.3 somebod…"),
        (30, 12, BYTES[:4], "2001:d…:5678 message 62m   16M"),
        (20, 12, BYTES[:2], "2001:d…:5678 message"),
    ],
)
def test_what_matters_has_room_on_each_screen(
    width: int, height: int, names: list[str], row: str
) -> None:
    lines = drawn(width, height, LONG, *[session(pid=4567) for _ in range(60)], workers=2)
    assert len(lines) == height
    heading, rows = heading_and_rows(lines)
    assert (heading, rows[0]) == (names, row)
    assert rows[1].split()[names.index("ADDRESS")].startswith("192.0.2.1")
    assert rows[-1] == f"and {61 - len(rows) + 1} more"


def test_ids_come_only_where_all_else_is_whole() -> None:
    short = session(user="alice", tls="TLSv1.3")
    assert heading_and_rows(drawn(80, 24, short))[0] == list(COLUMNS)
    assert heading_and_rows(drawn(80, 24, short, workers=2))[0] == ["PID", *COLUMNS]
    assert heading_and_rows(drawn(60, 24, short))[0] == [*NAMED[:5], "MAILS", *NAMED[5:]]


@pytest.mark.parametrize("width", [30, 44, 60, 80])
def test_addresses_are_cut_where_they_can_be_told_apart(width: int) -> None:
    far = [session(peer=f"[2001:db8:{n}:5678:9abc:def0:1234:5678]:25", user=USER) for n in range(9)]
    near = [session(peer=f"[2001:db8:1:5678:9abc:def0:1234:{n}]:25", user=USER) for n in range(9)]
    v4 = [session(peer=f"192.168.100.20{n}:25000", user=USER) for n in range(9)]
    for sessions in (far, near, v4):
        rows = heading_and_rows(drawn(width, 40, *sessions))[1]
        assert len({row.split()[0] for row in rows}) == 9


@pytest.mark.parametrize("width", range(24, 130))
def test_no_number_and_no_word_above_the_sessions_is_cut(width: int) -> None:
    stats = snapshot()["stats"] | {
        "connections": 1_234_567,
        "refusals": {"RCPT 550 mailbox_unavailable": 1200, "AUTH 535 bad_credentials": 33},
        "turned_away": {"too many": 2},
    }
    text = " ".join(drawn(width, 24, LONG, LONG, stats=stats))
    for cut in re.findall(r"\S*…\S*", text):
        assert cut.startswith(("2001:", "somebod")), cut
    assert "1234567" in text
    assert "1200 RCPT 550" in text


def test_a_small_screen_keeps_what_is_missed_most_above_its_sessions() -> None:
    stats = snapshot()["stats"] | {"connections": 1_234_567, "messages": {"accepted": 1_234_567}}
    lines = drawn(30, 12, *[session()] * 9, workers=2, stats=stats)
    assert lines[:5] == [
        "1 of 2 workers: up 1s",
        "sessions 1 (1 TLS)",
        "conn 1234567  mail 1234567",
        "in 0  out 0",
        "refused nothing",
    ]


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    wide = session(user="田中" * 20, tls="TLSv1.3", seconds=2.0)
    accented = session(user="e\u0301" * 4, seconds=1.0)
    rows = heading_and_rows(list(screen(snapshot(wide, accented), None, 50, 24)))[1]
    assert rows[0].endswith(" 1.3 田中田中田中田中田…")
    assert rows[1].endswith(" -   " + "e\u0301" * 4)


def test_rates_are_not_those_of_another_server() -> None:
    def connections(before: float, now: float) -> str:
        then = snapshot(uptime=before)
        lines = list(screen(snapshot(uptime=now), then, 80, 24))
        return lines[2]

    assert connections(8.0, 9.0).startswith("connections 1 (0/s)   messages 0 (0/s)   in 0/s")
    assert connections(9.0, 1.0).startswith("connections 1   messages 0   in 0 ")


def test_a_server_that_has_gone_may_come_again(path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", control=str(path))
    with server.in_thread():
        seen = Screen("top", str(path), width=200)
        seen.until("sessions 0 ")
    try:
        seen.until(rf"no server at {re.escape(str(path))}, since \d\d:\d\d:\d\d, trying again")
        seen.written = ""
        with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
            seen.until(r"ehlo, pid \d+: up")
    finally:
        assert seen.close() == 0


def test_ages_and_sizes_are_short() -> None:
    assert [age(seconds) for seconds in (5, 99.9, 100, 7325)] == ["5s", "99s", "1m40s", "2h02m"]
    sizes = [size(octets) for octets in (0, 9_999, 10_240, 20 * 2**20, 20 * 2**30, 2**44)]
    assert sizes == ["0", "9999", "10K", "20M", "20G", "16384G"]
