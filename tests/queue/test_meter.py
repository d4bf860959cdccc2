"""What the metrics of a server show of its queue."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from ehlo import Message, Queue, Reply, Retry, Server
from ehlo.queue import meter
from ehlo.queue.entries import Levels
from ehlo.queue.meter import Meter
from ehlo.sqlite.errors import StoreError
from support.queueing import Jump, Player, deliver, expect, serving, wait_until
from support.serving import DEADLINE


def scraped(server: Server) -> dict[str, float]:
    """Return the metrics of the queue, by name and label."""
    assert server.running is not None
    (address,) = server.running.views.addresses
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    found = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    mine = ("ehlo_queue", "ehlo_deliveries")
    return {
        name.replace('"', "").removeprefix("ehlo_"): float(value)
        for name, _, value in found
        if name.startswith(mine) and float(value) and "_created" not in name
    }


def test_metrics_show_outcomes_states_and_the_age_of_what_is_due(tmp_path: Path) -> None:
    def settle(message: Message) -> None:
        message.refuse("b@x.test", Reply(550, "5.1.1", "No"))
        message.refuse("c@x.test", Reply(450, "4.2.1", "Later"))

    go, jump = threading.Event(), Jump()
    player = Player(settle, Retry(after=0), lambda _: asyncio.to_thread(go.wait, 60))
    file = tmp_path / "mail-0.db"
    queue = Queue(str(tmp_path / "mail.db"), player, max_attempts=2, deliveries=1, time=jump)
    with serving(queue, metrics="127.0.0.1:0") as server:
        assert scraped(server) == {}
        deliver(server, "a@x.test", "b@x.test", "c@x.test")
        player.next()
        expect(server, file, "state", ("failed",), ("waiting",))
        outcomes = {"accepted": 3, "delivered": 1, "failed": 1, "retried": 1}
        wait_until(server, lambda: scraped(server) == shown(outcomes, {"failed": 1, "waiting": 1}))
        jump.advance(6)
        player.next()
        expect(server, file, "state", ("failed",), ("dead",))
        outcomes["dead"] = 1
        wait_until(server, lambda: scraped(server) == shown(outcomes, {"failed": 1, "dead": 1}))
        deliver(server, "d@x.test")
        states = {"failed": 1, "dead": 1, "running": 1}
        outcomes["accepted"] = 4
        wait_until(server, lambda: scraped(server) == shown(outcomes, states))
        go.set()
    waiting = Queue(str(tmp_path / "late.db"), player, deliveries=0, time=jump)
    with serving(waiting, metrics="127.0.0.1:0") as server:
        deliver(server, "a@x.test", "b@x.test")
        jump.advance(30)
        wait_until(
            server, lambda: scraped(server) == shown({"accepted": 2}, {"waiting": 2}, late=30)
        )


def shown(
    outcomes: Mapping[str, float], states: Mapping[str, float], late: float = 0
) -> dict[str, float]:
    found: dict[str, float] = {
        f"deliveries_total{{outcome={name}}}": count for name, count in outcomes.items()
    }
    found |= {f"queue_deliveries{{state={name}}}": count for name, count in states.items()}
    return found | ({"queue_oldest_due_seconds": late} if late else {})


def test_a_slow_look_holds_up_no_request_and_a_failed_one_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def measure() -> None:
        gate: asyncio.Queue[Mapping[str, Levels] | StoreError] = asyncio.Queue()

        async def look() -> Mapping[str, Levels]:
            found = await gate.get()
            if isinstance(found, StoreError):
                raise found
            return found

        tested = Meter(look)
        gate.put_nowait({"mail-0.db": {"waiting": 1}})
        assert await tested.levels() == {"mail-0.db": {"waiting": 1}}
        assert await tested.levels() == {"mail-0.db": {"waiting": 1}}  # it is asked, and waits
        for _ in range(2):
            gate.put_nowait(StoreError("mail-0.db: locked"))
            await asyncio.sleep(0)
            while not gate.empty():
                await tested.levels()
        assert await tested.levels() == {}
        gate.put_nowait({})
        await tested.levels()

    monkeypatch.setattr(meter, "_PATIENCE", 0.0)
    monkeypatch.setattr(meter, "_SHARE", 0)
    asyncio.run(measure())
    assert caplog.text.count("the queue was not counted: error=mail-0.db: locked") == 1


def test_a_look_is_not_repeated_before_twenty_times_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, looks = [100.0], []

    async def look() -> Mapping[str, Levels]:
        looks.append(now[0])
        now[0] += 2
        return {}

    async def measure() -> None:
        tested = Meter(look)
        for _ in range(100):
            await tested.levels()
            now[0] += 1

    monkeypatch.setattr(meter, "monotonic", lambda: now[0])
    asyncio.run(measure())
    assert looks == [100, 142, 184]
