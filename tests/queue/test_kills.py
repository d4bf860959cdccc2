"""Processes that are killed under load: what was acknowledged is delivered, at least once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from robustness.scale import DEADLINE, full  # workers that die often start again later
from support.loading import loaded, look_until
from support.postgres import Database
from support.program import Program, Start
from support.queueing import rows
from support.snapshots import snapshot_of

KILLS = full(15, short=1)
BETWEEN = full(400, short=50)  # messages that are acknowledged between two kills
SIZES = (1_000, 1_000, 1_000, 200_000)
# What is leased ahead and not settled yet at each kill, see _AHEAD and _MOST_UNSETTLED
MOST_TWICE = 1_100
HANDLER = """
async def handler(message):
    with open("delivered", "ab", buffering=0) as file:
        file.write(message.id.encode() + b"\\n")
"""

Victim = Literal["server", "worker", "consumer"]


class Fleet:
    """The processes of one queue, of which some are killed."""

    def __init__(self, start: Start, directory: Path, url: str, victim: Victim) -> None:
        self._start = start
        self._directory = directory
        self._victim = victim
        self._queue = ("--queue", url, "--queue-lease", "5", "--queue-retry-after", "0.1")
        (directory / "app.py").write_text(HANDLER)
        self.server = self._serve()
        self._consumer = self._work() if victim == "consumer" else None

    def _serve(self) -> Program:
        options = ["--port", "0", "--control", "control", "--spool-threshold", "100000"]
        if self._victim == "worker":
            options += ["--workers", "2"]
        if self._victim == "consumer":
            options += ["--queue-deliveries", "0"]
        return self._ehlo("serve", *options)

    def _work(self) -> Program:
        program = self._ehlo("work")
        program.err.until("logger=ehlo.server message=started")
        return program

    def _ehlo(self, command: str, *options: str) -> Program:
        words = ("-m", "ehlo", command, "app:handler", *self._queue, *options)
        return self._start(*words, cwd=self._directory)

    def kill(self, number: int) -> None:
        """Kill the victim, and start another one in its place."""
        match self._victim:
            case "server":
                _kill(self.server)
                self.server = self._serve()
            case "worker":
                pids = snapshot_of(self._directory / "control", lambda it: bool(it["pids"]))["pids"]
                os.kill(pids[number % len(pids)], signal.SIGKILL)
                self.server.err.until("was killed by SIGKILL")
            case "consumer":
                assert self._consumer is not None
                _kill(self._consumer)
                self._consumer = self._work()

    def stop(self) -> None:
        for each in filter(None, (self.server, self._consumer)):
            assert each.stop() == 0


def _kill(program: Program) -> None:
    program.process.send_signal(signal.SIGKILL)
    program.wait()


def check(start: Start, directory: Path, url: str, victim: Victim, left: Callable[[], int]) -> None:
    """Kill the victim amid a load; what got a 250 must be delivered, and little of it twice."""
    fleet = Fleet(start, directory, url, victim)
    with loaded(fleet.server.listening()[1], SIZES) as load:
        for number in range(KILLS):
            wanted = len(load.acknowledged) + BETWEEN
            look_until(partial(load.has, wanted), DEADLINE)
            fleet.kill(number)
            if victim == "server":
                load.port = fleet.server.listening()[1]
        wanted = len(load.acknowledged) + BETWEEN
        look_until(partial(load.has, wanted), DEADLINE)
    look_until(lambda: left() == 0, DEADLINE)
    fleet.stop()
    delivered = (directory / "delivered").read_text().split()
    assert len(set(load.acknowledged)) == len(load.acknowledged) >= (KILLS + 1) * BETWEEN
    assert set(load.acknowledged) <= set(delivered)
    assert len(delivered) - len(set(delivered)) <= KILLS * MOST_TWICE


@pytest.mark.parametrize("victim", ["server", "worker", "consumer"])
def test_what_was_acknowledged_is_delivered_although_one_is_killed(
    tmp_path: Path, start: Start, victim: Victim
) -> None:
    def left() -> int:
        return sum(len(rows(each)) for each in tmp_path.glob("mail-*.db"))

    check(start, tmp_path, "mail.db", victim, left)


@pytest.mark.skipif(KILLS == 1, reason="long: make soak does it")
@pytest.mark.parametrize("victim", ["server", "worker", "consumer"])
def test_the_same_holds_on_postgresql(
    tmp_path: Path, start: Start, victim: Victim, database: Database
) -> None:
    check(start, tmp_path, database.url, victim, lambda: len(database.rows()))
