"""A server in a process of its own, run by `ehlo serve`, and its control socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehlo import Peer
from robustness.scale import DEADLINE
from support.program import Program, Start
from support.serving import listening
from support.snapshots import snapshot_of

__all__ = ["Launch", "Launched", "Tell", "launch"]

HERE = Path(__file__).parent
Launch = Callable[..., "Launched"]
Tell = Callable[[str], None]
"""Prints a measurement."""


class Launched:
    """A server that is running."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.log = folder / "log"
        self._control = folder / "control"
        self.address = Peer(*program.listening())

    @property
    def pid(self) -> int:
        """The id of the server process; with workers, of their parent."""
        return self.program.process.pid

    def snapshot(self) -> dict[str, Any]:
        """Return the counts and sessions of the server."""
        return snapshot_of(self._control, deadline=DEADLINE)

    def wait_until(self, when: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first snapshot for which `when` is true."""
        return snapshot_of(self._control, when, DEADLINE)

    def wait_until_no_sessions(self) -> dict[str, Any]:
        """Wait until all sessions have ended, hooks included; return the snapshot."""
        return self.wait_until(lambda snapshot: not snapshot["sessions"])

    def logged(self) -> list[str]:
        """Return the lines that the handler has written."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def launch(start: Start, tmp_path: Path) -> Launch:
    """Start a server with a handler of `served.py`: `launch("Log", "--timeout", "3", env={...})`.

    `buffers` is the size of the kernel's buffers of each connection.
    """

    def begin(
        name: str, *options: str, env: dict[str, str] | None = None, buffers: int = 0
    ) -> Launched:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))  # short: it holds a socket
        folder.mkdir()
        sockets = [listening(buffers)] if buffers else []
        addr = f"fd:{sockets[0].fileno()}" if sockets else "127.0.0.1:0"
        where = [] if "--addr" in options else ["--addr", addr]
        control = [] if "--workers" in options else ["--control", folder / "control"]
        program = start(
            *("-m", "ehlo", "serve", f"served:{name}", *control, *where),
            *("--hostname", "mx.example", *options),
            cwd=HERE,
            env={"SERVED_LOG": str(folder / "log"), **(env or {})},
            pass_fds=[each.fileno() for each in sockets],
        )
        for each in sockets:
            each.close()
        return Launched(program, folder)

    return begin
