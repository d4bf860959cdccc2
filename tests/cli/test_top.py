"""`ehlo top`: what it shows of a running server, and how it leaves the terminal."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ehlo import Server
from ehlo.cli.top import COLUMNS, age, draw, size
from support.client import Client
from support.program import Start
from support.serving import Box

DEADLINE = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.mark.parametrize("option", ["--once", None], ids=["once", "pipe"])
def test_a_table_is_printed_once(start: Start, path: Path, option: str | None) -> None:
    server = Server(Box(), addr="127.0.0.1:0", control=str(path))
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.hello()
        client.mail()
        client.say("RCPT TO:<b@c.example>")
        program = start("-m", "ehlo", "top", str(path), *([option] if option else []))
        assert program.wait() == 0
        peer = "{}:{}".format(*client.sock.getsockname())
    lines = program.out.text.splitlines()
    assert re.fullmatch(rf"ehlo, pid {os.getpid()}: up \d+s", lines[0])
    assert lines[1].startswith("sessions 1 (0 TLS)   messages 1   connections 1   in ")
    assert lines[2].startswith("memory 0 of ")
    assert lines[3] == "rejected 1 RCPT 503 mail_first"
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


def test_a_missing_server_is_an_error_of_one_line(start: Start, path: Path) -> None:
    program = start("-m", "ehlo", "top", str(path))
    assert program.wait() == 1
    assert program.err.text == (
        f"ehlo: {path}: no such file or directory; give the --control of a running server\n"
    )


def test_without_rich_there_is_json_only(start: Start, path: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; from ehlo.cli import main; sys.exit(main())"
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        table = start("-c", code, "top", str(path), "--once")
        assert table.wait() == 2
        said = "ehlo: top needs rich: pip install 'ehlo[top]', or use --json\n"
        assert table.err.text == f"{said}Try 'ehlo top --help'.\n"
        snapshot = start("-c", code, "top", str(path), "--json")
        assert snapshot.wait() == 0


# Without the size and the colors of another terminal
_INHERITED = {
    name: value
    for name, value in os.environ.items()
    if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
}

# Fails when it asks for the third time
_FAILING = """
import sys
from ehlo.cli import main
top = sys.modules["ehlo.cli.top"]
answers = iter([top.ask(sys.argv[2])] * 2)
top.ask = lambda path: next(answers)
sys.exit(main())
"""


class Terminal:
    """A terminal with a program on it."""

    def __init__(
        self, *command: str, width: int = 80, height: int = 24, term: str = "xterm"
    ) -> None:
        self._control, self._terminal = pty.openpty()
        window = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, window)
        self._attributes = termios.tcgetattr(self._terminal)
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
            env={**_INHERITED, "TERM": term, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
            preexec_fn=self._control_it,
        )
        self.written = ""

    def _control_it(self) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSCTTY, 0)  # so that Ctrl+C is a signal

    def until(self, pattern: str) -> None:
        """Read until `text` has been written."""
        until = time.monotonic() + DEADLINE
        while not re.search(pattern, self.written):
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.written!r}"
            if select.select([self._control], [], [], left)[0]:
                self.written += os.read(self._control, 65_536).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._control, keys)

    def ended(self) -> int:
        """Return the exit code, once the screen from before and the modes are there again."""
        self.until(r"\x1b\[\?1049l")
        code = self.process.wait(DEADLINE)
        assert "\x1b[?25h" in self.written.rpartition("\x1b[?25l")[2]  # the cursor
        assert termios.tcgetattr(self._terminal) == self._attributes
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._control)
        os.close(self._terminal)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """Run a program on a terminal of its own."""
    opened: list[Terminal] = []

    def begin(*command: str, **options: Any) -> Terminal:
        opened.append(Terminal(*command, **options))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


def test_a_terminal_shows_the_table_every_second(terminal: Open, path: Path) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread() as server:
        top = terminal("-m", "ehlo", "top", str(path))
        top.until("sessions 0 ")
        with Client(server.addresses[0]) as client:
            client.hello()
            top.until(r"sessions 1 [^\x1b]*(.|\n)*READY")
        top.until(r"connections 1 \(\d+/s\)")
        top.press(b"q")
        assert top.ended() == 0
    frame = top.written.rpartition("\x1b[?1049l")[0].rpartition("\x1b[H")[2]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda top: top.press(b"q"), 0),
        (lambda top: top.press(b"\x03"), 0),
        (lambda top: top.process.send_signal(signal.SIGINT), 0),
        (lambda top: top.process.send_signal(signal.SIGTERM), 143),
    ],
    ids=["q", "Ctrl+C", "SIGINT", "SIGTERM"],
)
def test_every_way_out_restores_the_terminal(
    terminal: Open, path: Path, leave: Callable[[Terminal], None], code: int
) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        top = terminal("-m", "ehlo", "top", str(path))
        top.until("sessions 0 ")
        leave(top)
        assert top.ended() == code
    assert "Traceback" not in top.written


def test_an_exception_restores_the_terminal_before_its_traceback(
    terminal: Open, path: Path
) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        top = terminal("-c", _FAILING, "top", str(path))
        top.until("StopIteration")
        assert top.ended() == 1
    assert "Traceback" in top.written.rpartition("\x1b[?1049l")[2]


def test_a_terminal_that_cannot_move_its_cursor_shows_the_table_once(
    terminal: Open, path: Path
) -> None:
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        top = terminal("-m", "ehlo", "top", str(path), term="dumb")
        top.until("USER")
        assert top.process.wait(DEADLINE) == 0
    assert "\x1b" not in top.written


def test_a_server_that_has_stopped_may_start_again(terminal: Open, path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", control=str(path))
    with server.in_thread():
        top = terminal("-m", "ehlo", "top", str(path), width=200)
        top.until("sessions 0 ")
    top.until(rf"no server since \d\d:\d\d:\d\d, trying again: {re.escape(str(path))}")
    top.written = ""
    with Server(Box(), addr="127.0.0.1:0", control=str(path)).in_thread():
        top.until(r"ehlo, pid \d+: up")


def session(**fields: object) -> dict[str, object]:
    """Return one session of a snapshot."""
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


def drawn(width: int, height: int, *sessions: dict[str, Any], **fields: Any) -> list[str]:
    """Return the lines on a terminal of that size, which never has too few columns or lines."""
    return shown(draw(snapshot(*sessions, **fields), None, "", width, height), width, height)


def shown(renderable: Any, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(renderable, height=height)
    return [line.rstrip() for line in captured.get().splitlines()]


def heading_and_rows(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and the lines below them up to the last."""
    (start,) = (number for number, line in enumerate(lines) if "ADDRESS" in line)
    return lines[start].split(), [line for line in lines[start + 1 : -1] if line]


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
            *(160, 40, ["PID", *COLUMNS]),
            f"  17 df790b3e000001 {V6} on_message 62m 16M 9999     0 1.3 {USER}",
        ),
        (
            *(115, 30, [*NAMED[:5], "MAILS", *NAMED[5:]]),
            f"{V6} on_message 62m 16M 9999     0 1.3 {USER}",
        ),
        (
            *(80, 24, NAMED),
            "2001:db8:1234:5678:9abc:def0:1234:5678 on_message 62m 16M 9999 1.3 somebody@a-l…",
        ),
        (44, 20, BYTES, "2001:d…:5678 on_message 62m   16M 1.3 someb…"),
        (30, 12, BYTES[:4], "2001…5678 on_message 62m   16M"),
        (20, 12, BYTES[:2], "2001…5678 on_message"),
    ],
)
def test_important_columns_have_room_in_each_terminal(
    width: int, height: int, names: list[str], row: str
) -> None:
    lines = drawn(width, height, LONG, *[session(pid=4567) for _ in range(60)], workers=2)
    assert len(lines) == height
    heading, rows = heading_and_rows(lines)
    assert (heading, rows[0]) == (names, row)
    assert rows[1].split()[names.index("ADDRESS")].startswith("192.0")
    assert lines[-1] == f"{61 - len(rows)} more   q: quit"


def test_ids_are_shown_only_if_everything_else_fits() -> None:
    short = session(user="alice", tls="TLSv1.3")
    assert heading_and_rows(drawn(80, 24, short))[0] == list(COLUMNS)
    assert heading_and_rows(drawn(80, 24, short, workers=2))[0] == ["PID", *COLUMNS]
    assert heading_and_rows(drawn(55, 24, short))[0] == [*NAMED[:5], "MAILS", *NAMED[5:]]


@pytest.mark.parametrize("width", [44, 60, 80])
def test_addresses_are_cut_where_they_can_be_told_apart(width: int) -> None:
    far = [session(peer=f"[2001:{n}b8:1:5678:9abc:def0:1234:5678]:25", user=USER) for n in range(9)]
    near = [session(peer=f"[2001:db8:1:5678:9abc:def0:1234:{n}]:25", user=USER) for n in range(9)]
    v4 = [session(peer=f"192.168.100.20{n}:25000", user=USER) for n in range(9)]
    for sessions in (far, near, v4):
        rows = heading_and_rows(drawn(width, 40, *sessions))[1]
        assert len({row.split()[0] for row in rows}) == 9


@pytest.mark.parametrize("width", range(33, 130))
def test_no_number_and_no_word_above_the_sessions_is_cut(width: int) -> None:
    stats = snapshot()["stats"] | {
        "connections": 1_234_567,
        "refusals": {"RCPT 550 mailbox_unavailable": 1200, "AUTH 535 bad_credentials": 33},
        "turned_away": {"too many": 2},
    }
    text = " ".join(drawn(width, 24, LONG, LONG, stats=stats))
    for cut in re.findall(r"\S*…\S*", text):
        assert cut.startswith(("2001:", "some")), cut
    assert "1234567" in text
    assert "1200 RCPT 550" in text


@pytest.mark.parametrize("width", [33, 40, 80, 160])
def test_a_queue_is_shown_in_its_states(width: int) -> None:
    states = {"waiting": 100_000, "running": 8, "held": 0, "failed": 12, "dead": 3}
    one, other = {**states, "oldest_due": 7200.0}, {**states, "oldest_due": 3.0}
    stats = snapshot()["stats"] | {"deliveries": {"delivered": 5_000}}
    lines = drawn(width, 40, session(), stats=stats, queue={"0.db": one, "1.db": other})
    text = " ".join(lines)
    assert all(len(line) <= width for line in lines)
    assert "queue 200000 waiting (2h late)" in text
    assert re.search("16 running +24 failed +6 dead +delivered 5000", text)
    before = snapshot(stats=stats, uptime=0, queue={"0.db": one})
    now = snapshot(stats=stats | {"deliveries": {"delivered": 5_010}}, queue={"0.db": one})
    lines = shown(draw(now, before, "", width, 40), width, 40)
    assert "delivered 5010 (10/s)" in " ".join(lines)
    empty = dict.fromkeys(one, 0)
    assert "queue empty" in " ".join(drawn(width, 40, stats=stats, queue={"0.db": empty}))


def test_a_small_terminal_keeps_the_important_facts_above_its_sessions() -> None:
    stats = snapshot()["stats"] | {"connections": 1_234_567, "messages": {"accepted": 1_234_567}}
    lines = drawn(30, 12, *[session()] * 9, workers=2, stats=stats)
    assert lines[:6] == [
        "ehlo, 1 of 2 workers: up 1s",
        "sessions 1 (1 TLS)",
        "messages 1234567",
        "connections 1234567   in 0",
        "rejected nothing",
        "",
    ]


def test_control_characters_in_names_are_escaped() -> None:
    named = session(tls="TLSv1.3", user="\x1b[31mred\n[bold]")
    lines = drawn(90, 24, named, draining=True)
    assert lines[0] == "ehlo, pid 1: draining 1s"
    assert "logins 2 (1 rejected)" in lines[1]
    assert heading_and_rows(lines)[1][0].endswith(r"1.3 \x1b[31mred\n[bold]")
    assert "\x1b" not in "".join(lines)


def test_active_sessions_are_shown_before_idle_ones() -> None:
    sessions = [
        session(id="idle", seconds=9.0),
        session(id="silent", seconds=10.0, state="HELLO"),
        session(id="young", seconds=1.0, state="DATA"),
        session(id="hook", seconds=2.0, hook="on_hello"),
    ]
    rows = heading_and_rows(drawn(80, 24, *sessions))[1]
    assert [row.split()[0] for row in rows] == ["hook", "young", "silent", "idle"]


def test_wide_characters_count_as_two_columns_and_accents_as_none() -> None:
    wide = session(user="田中" * 20, tls="TLSv1.3", seconds=2.0)
    accented = session(user="e\u0301" * 4, seconds=1.0)
    rows = heading_and_rows(drawn(60, 24, wide, accented))[1]
    assert re.search(r" 1.3 (田中)+田?…$", rows[0])
    assert rows[1].endswith(" -   " + "e\u0301" * 4)


def test_there_are_no_rates_across_a_restart() -> None:
    def facts(before: float, now: float) -> str:
        return shown(draw(snapshot(uptime=now), snapshot(uptime=before), "", 80, 24), 80, 24)[1]

    assert "messages 0 (0/s)   connections 1 (0/s)   in 0/s" in facts(8.0, 9.0)
    assert "messages 0   connections 1   in 0 " in facts(9.0, 1.0)


def test_ages_and_sizes_are_short() -> None:
    assert [age(seconds) for seconds in (5, 99.9, 100, 7325, 10**6)] == [
        *("5s", "99s", "1m", "2h", "11d")
    ]
    sizes = [size(count) for count in (0, 9_999, 10_240, 20 * 2**20, 20 * 2**30, 2**44)]
    assert sizes == ["0", "9999", "10K", "20M", "20G", "16384G"]
