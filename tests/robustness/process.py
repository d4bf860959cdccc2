"""A server in a process of its own, as `ehlo serve` runs it, and what it tells of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehlo import Peer
from ehlo.server.observing import control
from robustness.scale import DEADLINE
from support.program import Program, Start

__all__ = ["Launch", "Launched", "Tell", "launch"]

HERE = Path(__file__).parent
Launch = Callable[..., "Launched"]
Tell = Callable[[str], None]
"""What was measured, for a person to read."""


class Launched:
    """A server that listens."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.log = folder / "log"
        self._control = str(folder / "control")
        self.address = Peer(*program.listening())

    @property
    def pid(self) -> int:
        """Of the process that serves; with workers, of their parent."""
        return self.program.process.pid

    def snapshot(self) -> dict[str, Any]:
        """What it has counted, and what there is now."""
        return control.ask(self._control)

    def wait_until(self, when: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first snapshot that is so."""
        until = time.monotonic() + DEADLINE
        while not when(found := self.snapshot()):
            assert time.monotonic() < until, found
        return found

    def wait_until_no_sessions(self) -> dict[str, Any]:
        """The snapshot once all sessions have ended, hooks included."""
        return self.wait_until(lambda snapshot: not snapshot["sessions"])

    def logged(self) -> list[str]:
        """What the handler has written down, line by line."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def launch(start: Start, tmp_path: Path) -> Launch:
    """Serve one of `served.py`: `launch("Log", "--timeout", "3", env={...})`."""

    def begin(name: str, *options: str, env: dict[str, str] | None = None) -> Launched:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))  # short: it holds a socket
        folder.mkdir()
        where = [] if "--addr" in options else ["--addr", "127.0.0.1:0"]
        control = [] if "--workers" in options else ["--control", folder / "control"]
        program = start(
            *("-m", "ehlo", "serve", f"served:{name}", *control, *where),
            *("--hostname", "mx.example", *options),
            cwd=HERE,
            env={"SERVED_LOG": str(folder / "log"), **(env or {})},
        )
        return Launched(program, folder)

    return begin
