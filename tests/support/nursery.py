"""Processes that run `python -m ehlo`, forked from one that has imported the command line already.

To start Python and to import the command line takes most of the time of a short command, and tests
run hundreds of them: with this, four files of tests/cli took 43 s of CPU time instead of 97. Each
is a process of its own all the same, with its own arguments, directory, environment, limits and
open files. This file is also the program of the process that forks them.

The nursery forks a keeper for each program, and the keeper forks the program. A keeper writes two
lines to a pipe of its own: the id of the program, and later its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Forked", "fork", "may_fork"]

_LIMITS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})
_SPARE = 64
"""More open files than a program gets."""


class Forked:
    """A program that runs; as much of `subprocess.Popen` as tests use."""

    def __init__(self, report: int) -> None:
        self._report = os.fdopen(report, "rb", buffering=0)
        self.pid = int(self._report.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or `None` while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program, and return its exit code."""
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._report, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1_000):
                raise subprocess.TimeoutExpired("ehlo", timeout or 0)
            self.returncode = int(self._report.readline())
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program."""
        self.send_signal(signal.SIGKILL)


def may_fork(command: Sequence[str | Path], env: Mapping[str, str]) -> bool:
    """Return whether a program can be forked: Python itself must not be told anything."""
    linux = sys.platform == "linux"
    return linux and tuple(command[:2]) == ("-m", "ehlo") and _python(env) == _python(os.environ)


def _python(env: Mapping[str, str]) -> dict[str, str]:
    """Return what Python itself reads when it starts, but the encoding of its standard files."""
    names = {name for name in env if name.startswith("PYTHON")} - {"PYTHONIOENCODING"}
    return {name: env[name] for name in names}


def fork(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None,
    env: Mapping[str, str],
    files: Sequence[int],
    pass_fds: Sequence[int] = (),
) -> Forked:
    """Run `python -m ehlo` with these arguments. `files` are its standard files."""
    request = {
        "arguments": [str(each) for each in arguments],
        "cwd": str((cwd or Path()).absolute()),
        "env": dict(env),
        "limits": [resource.getrlimit(number) for number in _LIMITS],
        "places": [0, 1, 2, *pass_fds],
    }
    mine, its = os.pipe()
    try:
        socket.send_fds(_nursery(), [json.dumps(request).encode()], [its, *files, *pass_fds])
    finally:
        os.close(its)
    return Forked(mine)


@functools.cache
def _nursery() -> socket.socket:
    """Start the process that forks programs; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=its.fileno(),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# -- in the nursery --------------------------------------------------------------------------------


def _next_program() -> dict[str, Any]:
    """Fork a keeper for each request. Return in each program, with its request."""
    control = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, files, _, _ = socket.recv_fds(control, 1 << 20, _SPARE)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # a keeper has ended
        if not data:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            program = os.fork()
            if program == 0:
                request: dict[str, Any] = json.loads(data)
                _take_places(files[1:], request["places"])
                return request
            _keep(program, *files)
        for file in files:
            os.close(file)


def _keep(program: int, report: int, *others: int) -> NoReturn:
    """Report the id and the exit code of a program."""
    for file in (0, 1, 2, *others):
        os.close(file)
    os.write(report, b"%d\n" % program)
    _, status = os.waitpid(program, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _take_places(files: Sequence[int], places: Sequence[int]) -> None:
    """Give open files the numbers that they have in the program, and close all others."""
    spare = max([_SPARE, *files, *places]) + 1
    for count, file in enumerate(files):
        os.dup2(file, spare + count, inheritable=False)
    for count, place in enumerate(places):
        os.dup2(spare + count, place)
    kept = 2
    for place in sorted(places[3:]):
        os.closerange(kept + 1, place)
        kept = place
    os.closerange(kept + 1, spare + len(files))


def _settle(request: dict[str, Any]) -> None:
    """Make this process the one that was asked for, as if Python had just started in it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, limit in zip(_LIMITS, request["limits"], strict=True):
        resource.setrlimit(number, limit)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.path[0] = request["cwd"]
    sys.argv = ["ehlo", *request["arguments"]]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(  # noqa: SIM115  as long as the process lives
            number,
            "w" if number else "r",
            encoding="utf-8",
            errors=getattr(sys, name).errors,
            closefd=False,
            buffering=1 if number == 2 or os.isatty(number) else -1,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _spare_memory() -> None:
    """Keep the collector of garbage of a program from what was imported before it.

    To look at an object is to write to it, for which a fork gets a copy of its page: 50 ms of CPU
    time for each program. A server thaws what is frozen when it stops; the end of Python would look
    at all of it, which it does in CI, since it may warn of what a program has left open.
    """
    gc.collect()
    gc.freeze()
    if os.environ.get("EHLO_QUICK") == "1":
        atexit.register(gc.freeze)


if __name__ == "__main__":
    import ehlo.cli  # noqa: F401  this is what takes time

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401  most programs serve with it
    _spare_memory()
    _settle(_next_program())
    runpy.run_module("ehlo", run_name="__main__", alter_sys=True)
