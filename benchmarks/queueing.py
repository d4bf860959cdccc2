"""Measures `ehlo.Queue` next to a private Postfix that discards all mail, in turns.

Both wait for the disk before each 250. Time counts until the load has ended, CPU until the queue is
empty. Flushes are those of the disk, by the kernel's count: other programs that write to it during
a run are counted, too.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from load import Client, Endpoint, LoadError, body_of, smtp_source
from measure import cpu_seconds
from postfix import Postfix, postfix
from results import Result
from scenarios import COSTS, EHLO_QUEUE, POSTFIX, Cost, Puts, Queued

from ehlo.server.observing.views import ask

DRAINED_WITHIN = 120.0  # seconds
SERVER = Path(__file__).parent / "servers" / "ehlo_queue.py"
COST_TITLES: dict[Cost, str] = {"time": "time", "cpu": "CPU time", "flushes": "flushes"}
FLUSHES = 15  # the field of a disk's statistics: see Documentation/block/stat.rst


@dataclass(frozen=True, slots=True)
class Queueing:
    """An ehlo with a queue that runs."""

    port: int
    folder: Path
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes."""
        pids = {self.pid, *ask(str(self.folder / "control"))["pids"]}
        return sum(map(cpu_seconds, pids))

    def drain(self) -> None:
        """Wait until all that was accepted is delivered."""
        until = time.monotonic() + DRAINED_WITHIN
        while True:
            counts = ask(str(self.folder / "control"))["stats"]["deliveries"]
            if counts["accepted"] == counts["delivered"]:
                return
            if time.monotonic() > until:
                raise LoadError(f"ehlo did not deliver its queue in time: {counts}")
            time.sleep(0.02)


@contextmanager
def queueing(workers: int = 1) -> Iterator[Queueing]:
    """Run ehlo with a queue in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="ehlo-bench-") as folder:
        command = [sys.executable, str(SERVER), "--workers", str(workers)]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                assert process.stdout is not None  # noqa: S101  it was started with a pipe
                port = int(process.stdout.readline().split()[1])
                with closing(Client(Endpoint(port), "each")):  # it serves now
                    pass
                yield Queueing(port, Path(folder), process.pid)
            finally:
                process.terminate()


def flushes(folder: Path) -> float:
    """Return how often the disk of a directory was flushed; NaN if its kernel does not count."""
    device = folder.stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    fields = path.read_text().split() if path.exists() else []
    return float(fields[FLUSHES]) if len(fields) > FLUSHES else float("nan")


def _round(server: Queueing | Postfix, scenario: Queued) -> dict[Cost, float]:
    """Measure one round; return the cost of a message."""
    cpu, flushed, began = server.cpu_seconds(), flushes(server.folder), time.perf_counter()
    smtp_source(Endpoint(server.port), scenario)
    wall, flushed = time.perf_counter() - began, flushes(server.folder) - flushed
    server.drain()
    used = server.cpu_seconds() - cpu
    return {
        "time": wall / scenario.count,
        "cpu": used / scenario.count,
        "flushes": flushed / scenario.count,
    }


def measure_queues(scenario: Queued, rounds: int) -> list[Result]:
    """Measure all rounds with the same servers; return a result for each kind of cost."""
    measured: dict[str, list[dict[Cost, float]]] = {EHLO_QUEUE: [], POSTFIX: []}
    with ExitStack() as stack:
        servers: dict[str, Queueing | Postfix] = {
            EHLO_QUEUE: stack.enter_context(queueing()),
            POSTFIX: stack.enter_context(postfix()),
        }
        warm = replace(scenario, count=max(scenario.sessions, scenario.count // 10))
        for server in servers.values():
            _round(server, warm)
        for turn in range(rounds):
            for name in list(servers)[:: -1 if turn % 2 else 1]:
                measured[name].append(_round(servers[name], scenario))
    return [
        Result(
            replace(
                scenario, name=f"{scenario.name}-{what}", title=titled(scenario, what), what=what
            ),
            {name: [each[what] for each in found] for name, found in measured.items()},
        )
        for what in COSTS
    ]


def titled(scenario: Queued, what: Cost) -> str:
    """Return the title of one kind of cost."""
    return f"{scenario.title}, {COST_TITLES[what]}"


# -- the longest put -------------------------------------------------------------------------------


def measure_puts(scenario: Puts, rounds: int) -> Result:
    """Measure the longest wait for the reply to a message, of all sessions of a round."""
    with queueing(scenario.workers) as server:
        worst = [_worst(server, scenario) for _ in range(rounds)]
        server.drain()
    return Result(scenario, {EHLO_QUEUE: worst})


def _worst(server: Queueing, scenario: Puts) -> float:
    each = scenario.count // scenario.sessions
    waits: list[float] = []
    threads = [
        threading.Thread(target=_send, args=(server.port, each, scenario.size, waits.append))
        for _ in range(scenario.sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(waits) != scenario.sessions:
        raise LoadError(f"{scenario.name}: only {len(waits)} sessions came to their end")
    return max(waits)


def _send(port: int, count: int, size: int, note: Callable[[float], object]) -> None:
    """Send messages, and note the longest wait for the reply to one of them."""
    body, worst = body_of(size), 0.0
    with closing(Client(Endpoint(port), "each")) as client:
        for _ in range(count):
            worst = max(worst, client.send_timed(body))
    note(worst)
