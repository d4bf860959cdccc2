"""A clock that is set while mail waits and is delivered: a day forwards or backwards."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from ehlo import Queue, Retry
from support.queueing import FileBench, Jump, Player, deliver, rows, serving, wait_until

DAY = 86_400.0


@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["forwards", "backwards"])
def test_a_clock_that_is_set_ends_no_attempt_and_stops_no_delivery(
    tmp_path: Path, seconds: float
) -> None:
    go, jump, file = asyncio.Event(), Jump(), tmp_path / "mail-0.db"
    player = Player(lambda _: go.wait())
    with serving(Queue(str(tmp_path / "mail.db"), player, time=jump)) as server:
        deliver(server, "slow@x.test")
        wait_until(server, lambda: rows(file, "state") == [("running",)])
        jump.set_clock(seconds)
        jump.advance(1)
        deliver(server, "new@x.test")
        assert player.next()[1].recipients == ["new@x.test"]
        for _ in range(5):  # the lease is renewed, by the new clock
            jump.advance(30)
            wait_until(server, lambda: rows(file, "due") == [(jump.now() + 60,)])
        assert server.running is not None
        server.running.loop.call_soon_threadsafe(go.set)
        assert player.next()[1].attempt == 1
        wait_until(server, lambda: rows(file) == [])


def set_due(file: Path, due: float) -> None:
    """Change when all mail is due, as `ehlo queue retry` does."""
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database, database:
        database.execute("UPDATE deliveries SET due = ?", (due,))


def test_mail_does_not_wait_longer_because_the_clock_was_set_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench, player = FileBench(tmp_path), Player(Retry(after=100))
    jump = bench.jump
    with serving(bench.queue(player)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state, attempts", ("waiting", 1))
        ((due,),) = bench.rows("due")
        jump.set_clock(-5)  # as little as time servers do all day
        jump.advance(2)
        jump.set_clock(-DAY)
        jump.advance(2)
        bench.expect(server, "due", (due - DAY - 5,))
        jump.advance(96)
        assert player.next()[1].attempt == 2
    assert "the clock was set back: seconds=" in caplog.text


def test_what_another_process_changes_is_seen_after_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    bench, player = FileBench(tmp_path), Player(Retry(after=100))
    jump = bench.jump
    with serving(bench.queue(player)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state", ("waiting",))
        jump.set_clock(-DAY)
        set_due(bench.file, jump.now())
        jump.advance(2)
        assert player.next()[1].attempt == 2
