"""Measures `ehlo.Queue`: messages a second, and CPU and flushes per message.

    python benchmarks/queueing.py [--sessions 20 --sessions 200] [--messages 4000] [--directory DIR]

The load is Postfix's smtp-source over kept connections. Flushes are the calls of fsync and
fdatasync of the server, counted by strace in a run of its own; without strace they are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APP = """
import logging
import ehlo

async def handler(session, message):
    pass

logging.basicConfig(level=logging.WARNING)
logging.getLogger("ehlo.server").setLevel(logging.INFO)
ehlo.Server(ehlo.Queue("mail.db", handler), addr="127.0.0.1:0", max_connections=1000,
            max_connections_per_address=1000).listen_and_serve()
"""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(directory: Path, sessions: int, messages: int, *, traced: bool) -> tuple[float, ...]:
    """Return messages a second, and CPU microseconds and flushes per message."""
    home = Path(tempfile.mkdtemp(dir=directory))
    (home / "app.py").write_text(APP, encoding="utf-8")
    command = [sys.executable, "app.py"]
    if traced:
        calls = "trace=fsync,fdatasync"
        command = ["strace", "-f", "-e", calls, "-o", str(home / "trace"), *command]
    server = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True)
    line, lines = "", server.stderr or ()
    while "listening on" not in line:
        line = next(iter(lines))
    address = re.search(r"127\.0\.0\.1:\d+", line)[0]  # type: ignore[index]  # it listens there
    begun, before = time.monotonic(), 0.0 if traced else cpu(server.pid)
    source = ["smtp-source", "-d", "-s", str(sessions), "-m", str(messages), "-l", "1000"]
    subprocess.run(
        [*source, "-c", "-f", "a@x.test", "-t", "b@x.test", address],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - begun
    used = 0.0 if traced else cpu(server.pid) - before
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="utf-8")
    os.kill(int(children.split()[0]) if traced else server.pid, signal.SIGTERM)
    server.wait()
    flushes = 0
    if traced:
        text = (home / "trace").read_text(encoding="utf-8")
        flushes = len(re.findall(r"f(?:data)?sync\(", text))
    shutil.rmtree(home)
    return messages / seconds, used / messages * 1e6, flushes / messages


def main() -> None:
    """Measure and print a line for each number of sessions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, action="append")
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    given = parser.parse_args()
    for sessions in given.sessions or [20, 200]:
        rate, used, _ = measure(given.directory, sessions, given.messages, traced=False)
        flushes = "-"
        if shutil.which("strace"):
            _, _, count = measure(given.directory, sessions, given.messages, traced=True)
            flushes = f"{count:.3f}"
        print(f"{sessions} sessions: {rate:,.0f}/s cpu={used:.0f}us flushes={flushes}", flush=True)


if __name__ == "__main__":
    main()
