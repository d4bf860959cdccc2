"""What a process has cost so far, read from Linux: CPU time, memory, and which core it may use."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NANOSECONDS = 1_000_000_000
CPUCLOCK_SCHED = 2  # the kernel's clock of a process: see CPUCLOCK_* in its posix-timers.h


def process_clock(pid: int) -> int:
    """The id of the CPU clock of a process, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | CPUCLOCK_SCHED


def cpu_seconds(pid: int) -> float:
    """User and system time of a process: all its threads, those that ended included.

    What its children use is not in it: each process has a clock of its own.

    This is the scheduler's own count in nanoseconds, the one that /proc/<pid>/task/*/schedstat
    shows for each thread that still lives.
    """
    return time.clock_gettime_ns(process_clock(pid)) / NANOSECONDS


def anonymous_memory(pid: int) -> int:
    """Octets in memory that belong to this process alone: heap and stacks, no file behind them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^(?:Anonymous|Swap):\s+(\d+) kB$", rollup, re.MULTILINE)
    return sum(int(kilobytes) for kilobytes in found) << 10


def cores() -> tuple[int, int]:
    """The core of the servers and the core of the load: the last and the first that we may use.

    On a machine with a single core both are the same one.
    """
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _interpreter_seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    return time.perf_counter() - started


def import_seconds(module: str, runs: int) -> list[float]:
    """What importing a module adds to the start of an interpreter: pairs, one after another."""
    _interpreter_seconds(f"import {module}")  # writes the bytecode, warms the page cache
    return [
        _interpreter_seconds(f"import {module}") - _interpreter_seconds("pass") for _ in range(runs)
    ]
