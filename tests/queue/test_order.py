"""The order of system calls: no 250 is sent before its message is on disk."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from robustness.scale import full
from support.loading import Load
from support.postgres import private_server
from support.program import Start

# Sizes, and how many messages of each: 10,000 in full
PLAN = full(
    [*[(1_000, 1_100)] * 8, (200_000, 500), (200_000, 500), (2_000_000, 200)],
    short=[*[(1_000, 25)] * 3, (200_000, 25)],
)
THRESHOLD = 100_000  # bytes: larger bodies are files

# The writer of the log sleeps, and no process but those of clients comes or goes
SETTINGS = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "autovacuum": "off"}

APP = """
import os
import sys
import ehlo

async def handler(message):
    with open("delivered", "ab", buffering=0) as file:
        file.write(message.id.encode() + b"\\n")

app = ehlo.Server(
    ehlo.Queue(sys.argv[1], handler, lease=5, retry_after=0.1),
    addr="127.0.0.1:0",
    spool_threshold=100_000,
)
if __name__ == "__main__":
    import logging
    logging.basicConfig(level=logging.INFO)
    app.listen_and_serve()
"""


ID = r"[0-9a-f]{14}-\d+"
WRITES = re.compile(r"(?:pwrite64|write|writev|pwritev|sendto|sendmsg)\(\d+<(.*?)>, (.*)")


def early(trace: Iterable[str], ids: list[str], large: int, store: str = ".db") -> list[str]:
    """Return the ids that were acknowledged before their bytes were synced, or never were.

    `store` is in the paths of the database. `large` of them have a body in a file. Lines are in the
    order in which calls began, and a sync has ended where it says so.
    """
    written: dict[str, set[str]] = {}  # ids by file whose bytes are written and not synced
    syncing: dict[str, set[str]] = {}  # by thread: the ids that a sync began with
    synced: set[str] = set()
    replied: set[str] = set()
    wanted = set(ids)
    wrong: list[str] = []
    bodies: set[str] = set()  # names of files
    unsynced: set[str] = set()
    for line in trace:
        thread, _, call = line.partition(" ")
        call = call.strip().partition(" ")[2]
        if match := WRITES.match(call):
            acknowledged = set(re.findall(rf"queued as ({ID})", match[2])) & wanted
            if "-bodies/" in match[1]:
                bodies.add(match[1].rpartition("/")[2])
                unsynced.add(match[1].rpartition("/")[2])
            elif store in match[1]:
                wrong += set(re.findall(r"[0-9a-f]{32}", match[2])) & unsynced
                found = set(re.findall(ID, match[2])) & wanted
                written.setdefault(match[1], set()).update(found)
            replied |= acknowledged
            wrong += acknowledged - synced
        elif match := re.match(r"f(?:data)?sync\(\d+<(.*?)>(\)| <unfinished)", call):
            before = written.pop(match[1], set())
            unsynced.discard(match[1].rpartition("/")[2])
            if match[2] == ")":
                synced |= before
            else:
                syncing[thread] = before
        elif call.startswith(("<... fsync resumed", "<... fdatasync resumed")):
            synced |= syncing.pop(thread, set())
    assert len(bodies) == large
    assert replied == wanted  # otherwise the trace was not understood
    return wrong


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("mode", ["FULL", "NORMAL"])
def test_no_250_is_sent_before_its_bytes_are_synced(
    tmp_path: Path, start: Start, tell: Callable[[str], None], mode: str
) -> None:
    """With `NORMAL`, the same test must fail."""
    app = APP
    if mode == "NORMAL":
        app = app.replace("import ehlo\n", "import ehlo\nimport weaken\n")
        (tmp_path / "weaken.py").write_text(
            "from ehlo.queue import ledger\n"
            "plain = ledger.Flushes.prepare\n"
            "ledger.Flushes.prepare = lambda self, db, *, flush: plain(self, db, flush=False)\n"
        )
    (tmp_path / "app.py").write_text(app)
    program = start("app.py", "mail.db", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    _, port = program.listening()
    output = tmp_path / "trace"
    with traced(output, program.process.pid):
        load = Load(port, *zip(*PLAN, strict=True))
        load.start()
        load.join()
        assert program.stop() == 0
    count = sum(number for _, number in PLAN)
    assert len(load.acknowledged) == count
    large = sum(number for size, number in PLAN if size > THRESHOLD)
    with output.open(errors="replace") as trace:
        wrong = early(trace, load.acknowledged, large)
    output.unlink()
    tell(f"{mode}: {len(wrong)} of {count} early")
    if mode == "FULL":
        assert wrong == []
    else:
        assert len(wrong) > count / 2


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("commit", ["on", "off"])
def test_no_250_is_sent_before_postgresql_has_synced_its_log(
    tmp_path: Path, start: Start, tell: Callable[[str], None], commit: str
) -> None:
    """With `synchronous_commit=off` in the statement, the same test must fail."""
    with private_server(**SETTINGS) as server:
        app = APP
        if commit == "off":
            app = app.replace("import ehlo\n", "import ehlo\nimport weaken\n")
            (tmp_path / "weaken.py").write_text(
                "from ehlo.queue.postgres import batches\n"
                "batches._STORE = batches._STORE.replace(\"'on'\", \"'off'\")\n"
                "batches._STORE = batches._STORE.replace('IN', 'NOT IN', 1)\n"
            )
        (tmp_path / "app.py").write_text(app)
        program = start("app.py", server.url(), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        _, port = program.listening()
        output = tmp_path / "trace"
        with traced(output, program.process.pid, server.pid, *server.backends()):
            load = Load(port, *zip(*PLAN, strict=True))
            load.start()
            load.join()
            assert program.stop() == 0
            server.stop()
    count = sum(number for _, number in PLAN)
    assert len(load.acknowledged) == count
    with output.open(errors="replace") as lines:
        wrong = early(lines, load.acknowledged, 0, "/pg_wal/")
    output.unlink()
    tell(f"synchronous_commit={commit}: {len(wrong)} of {count} early")
    if commit == "on":
        assert wrong == []
    else:
        assert len(wrong) > count / 2


@contextlib.contextmanager
def traced(output: Path, *pids: int) -> Iterator[None]:
    """Trace what processes and their children write and sync, until they end."""
    calls = "write,pwrite64,writev,pwritev,fsync,fdatasync,sendto,sendmsg"
    # PostgreSQL writes up to a segment of its log at once: what is cut off would seem unwritten
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-y", "-ttt", "-s", "20000000", "-e", f"trace={calls}"),
            *("-o", str(output), *(f"--attach={pid}" for pid in pids)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    for _ in pids:
        line = tracer.stderr.readline()
        assert "attached" in line or "No such process" in line, line  # one may have just ended
    yield
    tracer.wait(60)
    tracer.stderr.close()
