"""The files of a queue that other processes have left behind, or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ehlo import Queue, Server
from support.queueing import Jump, Player, deliver, serving, wait_until

FAILED = "cannot deliver from a file of the queue: error="


def test_a_damaged_file_is_logged_once_and_again_after_it_was_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, damaged = str(tmp_path / "mail.db"), tmp_path / "mail-7.db"
    jump, player = Jump(), Player()

    def until(server: Server, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            jump.advance(5)
            return condition()

        wait_until(server, holds)

    def look(server: Server) -> None:
        """Return when all files were looked at: what another process has left is delivered."""
        with serving(Queue(url, Player(), deliveries=0, time=jump)) as other:
            deliver(other, "b@x.test")
        until(server, lambda: not player.calls.empty())
        player.next()

    damaged.write_bytes(b"no database, by far " * 100)
    with serving(Queue(url, player, time=jump)) as server:
        for _ in range(3):
            look(server)
        assert caplog.text.count(FAILED) == 1
        damaged.write_bytes(b"")
        for _ in range(2):  # the first may be delivered before the damaged file is looked at
            look(server)
        damaged.write_bytes(b"no database, again " * 100)
        until(server, lambda: caplog.text.count(FAILED) == 2)
        look(server)
    assert caplog.text.count(FAILED) == 2
