"""Many clients that drip, and honest senders: the latter are served, the former time out.

In the full form the honest ones are hardly slower for it, and the others are gone in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ehlo import Peer
from robustness.caller import Caller, together
from robustness.process import Launch, Tell
from robustness.scale import DEADLINE, IN_FULL, full

DRIPPERS = full(200, short=60)
HONEST = full(20, short=10)
MESSAGES = full(200, short=40)  # of each honest sender, in a round
ROUNDS = full(3, short=1)
TIME = full(60, short=4)  # seconds for a command, for more of a body, and for a body to be slow
PATIENCE = 5.0  # seconds beyond that, until the last of them is gone
PAUSE = 0.25  # seconds from one byte to the next
RATE = 100  # bytes per second that a body must have


async def in_a_command(_caller: Caller) -> None:
    """Send a line without an end, a byte at a time."""


async def in_a_transaction(caller: Caller) -> None:
    await caller.envelope("drip@example.com")


async def in_data(caller: Caller) -> None:
    await caller.envelope("drip@example.com")
    await caller.say("DATA")


async def in_a_chunk(caller: Caller) -> None:
    await caller.envelope("drip@example.com")
    caller.send(b"BDAT 100000 LAST\r\n")


WAYS = (in_a_command, in_a_transaction, in_data, in_a_chunk)


async def drip(address: Peer, begin: Callable[[Caller], Awaitable[None]], ready: Ready) -> float:
    """Drip until the server closes; return the seconds that this took."""
    caller = await Caller.connect(address)
    await caller.hello()
    await begin(caller)
    begun = time.monotonic()
    ready.one()
    over = asyncio.ensure_future(caller.rest())
    while not over.done():
        caller.send(b"x")
        await asyncio.wait({over}, timeout=PAUSE)  # the pace of it
    assert all(answer.startswith("421 4.4.2 ") for answer in over.result()), over.result()
    caller.writer.close()
    ready.gone += 1
    ready.told += bool(over.result())
    return time.monotonic() - begun


class Ready:
    """Counts the clients that drip, and those that are gone."""

    def __init__(self) -> None:
        self.all = asyncio.Event()
        self.gone = 0
        self.told = 0  # a byte that crosses the server's close causes a reset
        self._count = 0

    def one(self) -> None:
        self._count += 1
        if self._count == DRIPPERS:
            self.all.set()


async def send_all(address: Peer, name: str) -> list[str]:
    """Send honest messages, one after the other; return the acknowledged senders."""
    caller = await Caller.connect(address)
    await caller.hello()
    acknowledged = []
    for count in range(MESSAGES):
        sender = f"{name}-{count}@example.com"
        answer = await caller.mail(sender)
        assert answer == "250 2.0.0 Ok: queued"
        acknowledged.append(sender)
    await caller.quit()
    return acknowledged


async def best_rate(address: Peer, label: str) -> tuple[float, list[str]]:
    """Return the messages per second in the best round, and the acknowledged senders."""
    best, acknowledged = 0.0, []
    for number in range(ROUNDS):
        begun = time.perf_counter()
        names = (f"{label}-{number}-{each}" for each in range(HONEST))
        for some in await together(*(send_all(address, name) for name in names)):
            acknowledged += some
        best = max(best, HONEST * MESSAGES / (time.perf_counter() - begun))
    return best, acknowledged


def test_honest_senders_are_served_while_others_drip(launch: Launch, tell: Tell) -> None:
    server = launch(
        *("Log", "--timeout", str(TIME), "--min-body-rate", str(RATE)),
        env={"SERVED_GRACE": str(TIME)},
    )

    async def crowd() -> tuple[float, float, list[str], list[float]]:
        alone, first = await best_rate(server.address, "alone")
        ready = Ready()
        ways = (WAYS[number % len(WAYS)] for number in range(DRIPPERS))
        dripping = asyncio.ensure_future(
            together(*(drip(server.address, way, ready) for way in ways))
        )
        await asyncio.wait_for(ready.all.wait(), DEADLINE)
        beside, second = await best_rate(server.address, "beside")
        assert ready.gone == 0 or not IN_FULL, "the honest senders were too slow to be measured"
        lasted = await dripping
        assert ready.told >= 0.9 * DRIPPERS or not IN_FULL
        # Once more: the machine may have become slower
        again, third = await best_rate(server.address, "again")
        return min(alone, again), beside, first + second + third, lasted

    alone, beside, acknowledged, lasted = asyncio.run(crowd())
    tell(
        f"{alone:.0f} messages a second alone, {beside:.0f} beside {DRIPPERS} who drip; "
        f"the last of these was gone after {max(lasted):.1f} s of {TIME}"
    )
    assert len(acknowledged) == 3 * ROUNDS * HONEST * MESSAGES
    assert sorted(server.logged()) == sorted(acknowledged)
    if IN_FULL:
        assert beside >= alone / 2
        assert max(lasted) <= TIME + PATIENCE
        assert min(lasted) >= TIME / 2
    server.wait_until_no_sessions()
