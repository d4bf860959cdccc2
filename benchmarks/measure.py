"""Reads the cost of a process from Linux: CPU time and memory; also sets the cores it may use."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NANOSECONDS = 1_000_000_000
CPUCLOCK_SCHED = 2  # the kernel's CPU clock of a process: see CPUCLOCK_* in posix-timers.h


def process_clock(pid: int) -> int:
    """Return the id of a process's CPU clock, as clock_getcpuclockid(3) does."""
    return (~pid << 3) | CPUCLOCK_SCHED


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process: all its threads, including ended ones.

    The time of its children is not included: each process has its own clock.

    This is the scheduler's count in nanoseconds, which /proc/<pid>/task/*/schedstat shows for each
    thread that is still running.
    """
    return time.clock_gettime_ns(process_clock(pid)) / NANOSECONDS


def anonymous_memory(pid: int) -> int:
    """Return the bytes of memory that only this process uses, without files: heap and stacks."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^(?:Anonymous|Swap):\s+(\d+) kB$", rollup, re.MULTILINE)
    return sum(int(kilobytes) for kilobytes in found) << 10


def cores() -> tuple[int, int]:
    """Return the core of the servers and that of the load: the last and the first usable one.

    On a machine with a single core they are the same.
    """
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Pin this thread, and the processes that it starts in the block, to these cores."""
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
    """Measure how much an import adds to the start of an interpreter, in pairs of runs."""
    _interpreter_seconds(f"import {module}")  # writes the bytecode, warms the page cache
    return [
        _interpreter_seconds(f"import {module}") - _interpreter_seconds("pass") for _ in range(runs)
    ]
