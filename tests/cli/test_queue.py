"""`ehlo queue`, `ehlo work` and `--queue`: on a real queue, and each mistake in one line."""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ehlo import Queue
from ehlo.server.observing.stats import queued
from support.program import Start, completed
from support.queueing import Player, deliver, expect, rows, serving
from support.snapshots import snapshot_of

DEADLINE = 60.0
FULL = Path("/dev/full")
HANDLER = "def handler(message):\n    print('got', message.id, flush=True)\n"


def run(*arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    done = completed(*arguments, cwd=cwd)
    out, err = (text.decode().replace("\r\n", "\n") for text in (done.stdout, done.stderr))
    return done.returncode, out, err


def until_shown(directory: Path, *, delivered: int, failed: int) -> None:
    """Return once the control socket shows that many deliveries in all files."""

    def is_so(snapshot: dict[str, Any]) -> bool:
        done = snapshot["stats"].get("deliveries", {}).get("delivered")
        return (done, queued([*snapshot["queue"].values()]).get("failed")) == (delivered, failed)

    snapshot_of(directory / "control", is_so)


@pytest.fixture
def dead(tmp_path: Path) -> str:
    """A queue with one failed message; its id."""
    player, file = Player(False), tmp_path / "mail-0.db"
    with serving(Queue(str(tmp_path / "mail.db"), player), spool_threshold=1_000) as server:
        reply = deliver(server, "b@x.test", body=b"Subject: x\r\n\r\n" + b"y\r\n" * 9_000)
        expect(server, file, "state", ("failed",))
    return reply.rpartition(" ")[2]


def test_a_failed_message_is_shown_exported_and_delivered_again(
    tmp_path: Path, dead: str, start: Start
) -> None:
    for command in (("list", "mail.db"), ("dead", "mail.db"), ("show", "mail.db", dead)):
        code, out, _ = run("queue", *command, cwd=tmp_path)
        assert (code, out.count("\n")) == (0, 1)
        assert out.startswith(f"{dead} failed attempts=1 due=- ")
        assert "from=<a@x.test> to=<b@x.test> error=554 5.7.1" in out
    code, out, _ = run("queue", "export", "mail.db", dead, cwd=tmp_path)
    assert code == 0
    assert out.startswith("Received: from")
    assert out.endswith("Subject: x\n\n" + "y\n" * 9_000)
    (tmp_path / "app.py").write_text(HANDLER)
    control = ("--control", "control")
    program = start("-m", "ehlo", "work", "app.py", "--queue", "mail.db", *control, cwd=tmp_path)
    program.err.until("logger=ehlo.server message=started")
    until_shown(tmp_path, delivered=0, failed=1)
    assert run("queue", "retry", "mail.db", dead, cwd=tmp_path)[:2] == (0, "retry: deliveries=1\n")
    program.out.until(f"got {dead}")
    until_shown(tmp_path, delivered=1, failed=0)
    assert program.stop() == 0
    assert rows(tmp_path / "mail-0.db") == []


def test_a_consumer_says_that_its_queue_has_no_file(start: Start, tmp_path: Path) -> None:
    """Otherwise it would wait for one with a misspelled name in silence."""
    (tmp_path / "app.py").write_text(HANDLER)
    program = start("-m", "ehlo", "work", "app.py", "--queue", "mial.db", cwd=tmp_path)
    program.err.until(f"waiting for a file of the queue: path={tmp_path / 'mial-0.db'}")
    assert program.stop() == 0


def test_a_second_consumer_says_that_it_waits_and_takes_over(
    start: Start, tmp_path: Path, dead: str
) -> None:
    assert dead
    (tmp_path / "app.py").write_text(HANDLER)
    path = tmp_path / "mail-0.db"
    work = ("-m", "ehlo", "work", "app.py", "--queue", "mail.db")
    first = start(*work, cwd=tmp_path)
    first.err.until(f"delivering from {path}")
    second = start(*work, cwd=tmp_path)
    second.err.until(f"waiting for the process that delivers: path={path}")
    assert first.stop() == 0
    second.err.until(f"delivering from {path}")
    assert second.stop() == 0


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full, which is Linux's")
def test_a_full_disk_below_the_output_is_one_line(tmp_path: Path, dead: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for command in (["list", "mail.db"], ["export", "mail.db", dead]):
        with FULL.open("wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "ehlo", "queue", *command],
                cwd=tmp_path,
                env=env,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=DEADLINE,
            )
        wrong = "ehlo: cannot write to standard output: no space left on device; free some space\n"
        assert (done.returncode, done.stderr.decode()) == (1, wrong), command


def test_drop_deletes_the_message_and_its_body(tmp_path: Path, dead: str) -> None:
    code, out, err = run("queue", "hold", "mail.db", "x", dead, cwd=tmp_path)
    assert (code, out) == (1, "hold: deliveries=0\n")
    assert err.splitlines() == [
        "ehlo: x: no such message; see ehlo queue list",
        f"ehlo: {dead}: its deliveries are failed; only waiting ones can be held",
    ]
    done = run("queue", "drop", "mail.db", "--all-dead", cwd=tmp_path)
    assert done == (0, "drop: deliveries=1\n", "")
    assert rows(tmp_path / "mail-0.db") == []
    assert list((tmp_path / "mail-0.db-bodies").iterdir()) == []


def test_a_message_that_is_held_is_not_delivered_until_retry(tmp_path: Path) -> None:
    with serving(Queue(str(tmp_path / "mail.db"), Player(), deliveries=0)) as server:
        message_id = deliver(server, "b@x.test").rpartition(" ")[2]
        for command, state in (("hold", "held"), ("retry", "waiting")):
            assert run("queue", command, "mail.db", message_id, cwd=tmp_path)[0] == 0
            expect(server, tmp_path / "mail-0.db", "state", (state,))


def test_serve_stores_in_the_queue_and_workers_have_a_file_each(
    tmp_path: Path, start: Start
) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    options = ("--queue", "mail.db", "--queue-deliveries", "2", "--workers", "2", "--port", "0")
    program = start("-m", "ehlo", "serve", "app.py", *options, "--control", "control", cwd=tmp_path)
    host, port = program.listening()
    for _ in range(3):
        with smtplib.SMTP(host, port) as client:
            client.sendmail("a@x.test", ["b@x.test"], b"Subject: x\r\n\r\nx\r\n")
        program.out.until("got ")
    until_shown(tmp_path, delivered=3, failed=0)
    both = snapshot_of(tmp_path / "control", lambda it: it["workers"]["answered"] == 2)
    names = sorted(Path(each).name for each in both["queue"])
    assert names == ["mail-0.db", "mail-1.db"]
    assert program.stop() == 0
    assert sorted(each.name for each in tmp_path.glob("mail-*.db")) == ["mail-0.db", "mail-1.db"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("serve app.py --queue-lease 3", "--queue-lease needs --queue; write --queue mail.db"),
        ("serve app.py --queue mysql://x", "not supported; write mail.db, or postgresql://"),
        ("serve app.py --queue mail.db --queue-lease x", "ehlo: --queue-lease x: not a duration"),
        (
            "work app.py:handler --queue mail.db --queue-retry-after 0",
            "ehlo: --queue-retry-after 0: write more than 0 seconds",
        ),
        (
            "serve mail.db --queue app.py",
            "ehlo: --queue app.py: not an SQLite file; name another, such as mail.db",
        ),
        ("work app.py --queue app.py", "ehlo: --queue app.py: not an SQLite file; name"),
        ("serve app.py:two --queue mail.db", "cannot be combined with ehlo.Queue('own.db')"),
        (
            "serve app.py:two --queue postgresql://u:secret@h/d",
            "--queue postgresql://u@h/d cannot be combined with",
        ),
        ("work app.py:handler", "--queue missing, and app.py:handler has no queue"),
        ("queue list nothing.db", "nothing.db: no such queue; check the path"),
        ("queue list app.py", "app.py: no such queue; check the path"),
        ("queue list 5", "5: no such queue; check the path"),
        ("queue list app.py/mail.db", "/app.py: Not a directory; check its directory, its mode"),
        ("queue list open", "queue 'open': a directory; write the path of a file: mail.db"),
        ("serve app.py --queue open", "queue 'open': a directory; write the path of a file"),
        ("queue list mail-0.db", "mail-0.db: no such queue; leave out its number: mail.db"),
        ("serve app.py --queue no/q.db --port 0", "/no: no such directory; make it: mkdir "),
        ("queue retry nothing.db", "write the ID of a message, or --all-dead"),
        ("queue retry nothing.db 1 --all-dead", "write the ID of a message, or --all-dead"),
        ("queue hold nothing.db", "ID missing; write one or more"),
        ("queue", "COMMAND missing; write list, dead, show, export, retry, hold or drop"),
        ("queue lst mail.db", "lst: no such command; write list"),
        ("queue list", "QUEUE missing, e.g. ehlo queue list mail.db"),
        ("queue show mail.db", "ID missing, e.g. ehlo queue show mail.db 8c26317000000f-1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: str, error: str) -> None:
    app = f"import ehlo\n{HANDLER}\ntwo = ehlo.Queue('own.db', handler)\n"
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "mail-0.db").touch()
    (tmp_path / "open").mkdir()
    code, _, err = run(*arguments.split(), cwd=tmp_path)
    assert code in (1, 2)
    assert error in err
    assert "Traceback" not in err
