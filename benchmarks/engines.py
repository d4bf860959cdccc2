"""Compares the engines of `ehlo.Queue`: accepting on SQLite and PostgreSQL, and consumption.

    python benchmarks/engines.py [--rounds 3] [--messages 6000] [--directory DIR]

The load is Postfix's smtp-source over 20 and 200 kept connections, with 1 KB a message. Both
engines take turns in each round, and the ratio is of one round, since machines are not quiet.
PostgreSQL is a private server on the same disk. Consumption is one consumer that claims 100
messages at a time, and a handler that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ehlo import Message, Queue, Server

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.postgres import PostgresServer

APP = """
import logging, sys
import ehlo

async def handler(session, message):
    pass

logging.basicConfig(level=logging.WARNING)
logging.getLogger("ehlo.server").setLevel(logging.INFO)
ehlo.Server(ehlo.Queue(sys.argv[1], handler, deliveries=int(sys.argv[2])), addr="127.0.0.1:0",
            max_connections=1000, max_connections_per_address=1000).listen_and_serve()
"""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(*pids: int) -> float:
    """Return the CPU seconds of processes, and of their children that have ended."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        used += sum(map(int, fields[11:15]))
    return used / TICKS


def fill(url: str, sessions: int, messages: int, deliveries: int) -> tuple[float, float]:
    """Return the messages a second that a server accepts, and its CPU microseconds for each."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "app.py").write_text(APP, encoding="utf-8")
        command = [sys.executable, "app.py", url, str(deliveries)]
        server = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True)
        line, lines = "", server.stderr or ()
        while "listening on" not in line:
            line = next(iter(lines))
        address = re.search(r"127\.0\.0\.1:\d+", line)[0]  # type: ignore[index]  # it listens there
        begun, before = time.monotonic(), cpu(server.pid)
        source = ["smtp-source", "-d", "-s", str(sessions), "-m", str(messages), "-l", "1000"]
        subprocess.run(
            [*source, "-c", "-f", "a@x.test", "-t", "b@x.test", address],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - begun
        used = cpu(server.pid) - before
        server.send_signal(signal.SIGTERM)
        server.wait()
        return messages / seconds, used / messages * 1e6


async def drain(url: str, messages: int) -> tuple[float, float]:
    """Return the deliveries a second of one consumer, and its CPU microseconds for each."""
    left, done = messages, asyncio.Event()

    async def handler(_message: Message) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    queue = Queue(url, handler, deliveries=20, accepts=False)  # it leases five times as many
    server = Server(queue, addr="127.0.0.1:0")
    begun, before = time.monotonic(), time.process_time()
    async with server:
        await done.wait()
        seconds, used = time.monotonic() - begun, time.process_time() - before
    return messages / seconds, used / messages * 1e6


def main() -> None:
    """Measure, and print a line for each round and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="ehlo-pg-", dir=given.directory))
    home.chmod(0o755)
    server = PostgresServer(home, shared_buffers="128MB")
    server.start()
    try:
        measure(home, server.url(), given.rounds, given.messages)
    finally:
        server.stop()
        shutil.rmtree(home)


def measure(home: Path, postgres: str, rounds: int, messages: int) -> None:
    """Print what each round gives."""
    for sessions in (20, 200):
        for deliveries, what in ((0, "accepting"), (8, "accepting and delivering")):
            ratios = []
            for number in range(rounds):
                files = str(home / f"mail{number}{sessions}{deliveries}.db")
                sqlite, sqlite_cpu = fill(files, sessions, messages, deliveries)
                rate, used = fill(postgres, sessions, messages, deliveries)
                ratios.append(rate / sqlite)
                print(
                    f"{sessions} sessions, {what}: SQLite {sqlite:,.0f}/s {sqlite_cpu:.0f} us,"
                    f" PostgreSQL {rate:,.0f}/s {used:.0f} us, ratio {ratios[-1]:.2f}",
                    flush=True,
                )
                if not deliveries:
                    rate, used = asyncio.run(drain(postgres, messages))
                    print(f"  one consumer: {rate:,.0f}/s {used:.0f} us", flush=True)
            print(f"{sessions} sessions, {what}: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
