"""A program under test: its output is read with a deadline, and it is stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from support.nursery import Forked, fork, may_fork

__all__ = ["HAND_OVER", "Program", "Start", "completed", "spawn", "start"]

DEADLINE = 60.0  # seconds for what a test waits for: long enough on a machine that is busy

# Opens two sockets and replaces itself by a program that inherits them as 3 and 4
HAND_OVER = """
import os, socket, sys
opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, sock in enumerate(opened):
    os.dup2(os.dup(sock.fileno()), 100 + number)
for number in range(2):
    os.dup2(100 + number, 3 + number)
    os.set_inheritable(3 + number, True)
print(*(sock.getsockname()[1] for sock in opened), flush=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="smtp:submission")
os.execv(sys.executable, [sys.executable, "-m", "ehlo", *sys.argv[1:]])
"""

Start = Callable[..., "Program"]


def spawn(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str],
    files: Sequence[int],
    pass_fds: Sequence[int] = (),
) -> Forked | subprocess.Popen[bytes]:
    """Run a command of Python with `files` as its standard files."""
    if may_fork(command, env):
        return fork(command[2:], cwd=cwd, env=env, files=files, pass_fds=pass_fds)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=env,
        stdin=files[0],
        stdout=files[1],
        stderr=files[2],
        pass_fds=pass_fds,
    )


def completed(
    *arguments: str | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = DEADLINE,
) -> subprocess.CompletedProcess[bytes]:
    """Run `ehlo` with a pipe as its standard input, and wait for its end."""
    command = ("-m", "ehlo", *arguments)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reads, writes = os.pipe()
        files = (reads, out.fileno(), err.fileno())
        process = spawn(command, cwd=cwd, env={**os.environ, **(env or {})}, files=files)
        os.close(reads)
        with contextlib.suppress(BrokenPipeError), os.fdopen(writes, "wb") as pipe:
            pipe.write(stdin)
        code = process.wait(timeout)
        texts = [os.pread(file.fileno(), 1 << 30, 0) for file in (out, err)]
    return subprocess.CompletedProcess(command, code, *texts)


class Program:
    """Runs a program; a thread for each of its outputs reads the lines."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None,
        env: Mapping[str, str] | None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("EHLO_")}
        given = {**clean, "PYTHONIOENCODING": "utf-8", "EHLO_NO_WEB": "1", **(env or {})}
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        files = (os.open(os.devnull, os.O_RDONLY), its_out, its_err)
        self.process = spawn(command, cwd=cwd, env=given, files=files, pass_fds=pass_fds)
        for file in files:
            os.close(file)
        self.out = Lines(os.fdopen(out, encoding="utf-8"))
        self.err = Lines(os.fdopen(err, encoding="utf-8"))

    def listening(self, on: Lines | None = None) -> tuple[str, int]:
        """Wait until the program logs where it listens; return host and port."""
        line = (on or self.err).until("listening on ")
        match = re.search(r"listening on (.*?):(\d+)(?=$|[ ,\"])", line)
        assert match is not None, line
        return match[1].strip("[]"), int(match[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the program and wait for its end; return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the program; return the exit code."""
        code = self.process.wait(DEADLINE)
        self.out.join()
        self.err.join()
        return code


class Lines:
    """Reads the lines of an output stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """The text that `until` and `join` have read."""
        return "".join(self.seen)

    def until(self, text: str) -> str:
        """Return the next line that contains `text`."""
        while True:
            try:
                line = self._queue.get(timeout=DEADLINE)
            except queue.Empty:
                pytest.fail(f"no {text!r} in time; there was {self.text!r}")
            if line is None:
                pytest.fail(f"no {text!r} before the end; there was {self.text!r}")
            self.seen.append(line)
            if text in line:
                return line

    def join(self) -> str:
        """Return all text, once the program has ended."""
        self._thread.join(DEADLINE)
        while not self._queue.empty():
            self.seen.append(self._queue.get() or "")
        return self.text

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                self._queue.put(line)
        self._queue.put(None)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program: `start("-m", "ehlo", "--json")`. All are killed in the end."""
    programs: list[Program] = []

    def begin(
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Program:
        programs.append(Program(command, cwd=cwd, env=env, pass_fds=pass_fds))
        return programs[-1]

    yield begin
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            program.process.kill()
        program.wait()
