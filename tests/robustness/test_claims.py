"""Clients that claim much memory or disk: honest clients neither wait nor are rejected for it."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ehlo import PasswordFile, Peer
from robustness.caller import Caller, together
from robustness.process import Launch, Launched, Tell
from robustness.scale import IN_FULL, MIB, full, peak

LINE = b"x" * 98 + b"\r\n"
LARGE = LINE * (31 * MIB // 100)
MEMORY = 48 * MIB
IDLE = 20  # clients that have sent a megabyte of a message each, and wait
HONEST = full(20, short=5)  # clients
MAILS = full(100, short=10)  # of each of them
OVER = 64 * MIB  # of the process itself, and what malloc keeps
MEDIAN, MOST = 0.1, 1.0  # seconds for an honest message of 1 KB

QUEUED = "250 2.0.0 Ok: queued"
NO_ROOM = "452 4.3.1 Insufficient system storage"


async def begin(caller: Caller, sender: str, body: bytes, end: bytes = b"") -> None:
    """Send a message, or its beginning; the last reply is not read."""
    await caller.hello()
    await caller.envelope(sender)
    assert (await caller.say("DATA")).startswith("354")
    caller.send(body + end, replies=bool(end))
    await caller.writer.drain()


@contextlib.asynccontextmanager
async def idle_clients(address: Peer) -> AsyncIterator[None]:
    """Fill half of the memory with messages that do not end."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(IDLE):
            caller = await stack.enter_async_context(await Caller.connect(address))
            await begin(caller, f"idle-{number}@example.com", LINE * 10_000)
        yield


async def honest(address: Peer) -> list[float]:
    """Send small messages, each in a session of its own; return the seconds that they took."""
    taken: list[float] = []
    for _ in range(MAILS):
        async with await Caller.connect(address) as caller:
            await caller.hello()
            begun = time.monotonic()
            assert await caller.mail("honest@example.com", LINE * 10) == QUEUED
            taken.append(time.monotonic() - begun)
            await caller.quit()
    return taken


def check_times(taken: list[list[float]], server: Launched, tell: Tell) -> None:
    """Check how long honest mail took, and the memory of the server."""
    times = [seconds for each in taken for seconds in each]
    median, most = statistics.median(times), max(times)
    tell(
        f"{len(times)} honest messages: {1000 * median:.0f} ms at the median, "
        f"{1000 * most:.0f} ms at most; peak memory {peak(server.pid) // MIB} MiB"
    )
    if IN_FULL:
        assert median <= MEDIAN
        assert most <= MOST
    assert peak(server.pid) <= MEMORY + OVER


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_large_messages_among_idle_ones_delay_no_small_mail(
    launch: Launch, tell: Tell, loop: str
) -> None:
    server = launch("Log", "--loop", loop, "--max-memory", str(MEMORY))

    async def attack(over: asyncio.Event) -> int:
        count = 0
        while not (over.is_set() and count):
            async with await Caller.connect(server.address) as caller:
                await begin(caller, "large@example.com", LARGE, b".\r\n")
                assert await caller.reply() == QUEUED
                count += 1
        return count

    async def crowd() -> list[list[float]]:
        over = asyncio.Event()
        async with idle_clients(server.address):
            attacking = asyncio.create_task(attack(over))
            taken = await together(*(honest(server.address) for _ in range(HONEST)))
            over.set()
            tell(f"{await attacking} messages of 31 MiB were accepted meanwhile")
        return taken

    check_times(asyncio.run(crowd()), server, tell)
    assert server.program.stop() == 0


def test_messages_that_wait_for_the_memory_of_a_stuck_handler_delay_no_other_mail(
    launch: Launch, tell: Tell
) -> None:
    server = launch("Bad", "--max-memory", str(MEMORY), "--grace", "0")

    async def crowd() -> list[list[float]]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(idle_clients(server.address))
            for number in range(3):  # one for the memory, and two that wait
                caller = await stack.enter_async_context(await Caller.connect(server.address))
                await begin(caller, f"hang-{number}@example.com", LARGE, b".\r\n")
            taken = await together(*(honest(server.address) for _ in range(HONEST)))
            async with await Caller.connect(server.address) as caller:
                await caller.hello()
                assert await caller.mail("honest@example.com", LINE * 40_000) == QUEUED
            assert caller.heard["250"]
            return taken

    check_times(asyncio.run(crowd()), server, tell)
    server.program.stop()


def test_logins_pass_and_delay_no_mail_with_memory_nearly_full(
    launch: Launch, tell: Tell, tmp_path: Path
) -> None:
    path = tmp_path / "users"
    PasswordFile(path).set("alice", "wonder")  # a check takes 32 MiB
    server = launch(
        "Bad",
        *("--max-memory", str(MEMORY), "--grace", "0"),
        *("--auth-file", str(path), "--auth-mechs", "PLAIN=on"),
    )

    async def log_in(password: str) -> str:
        async with await Caller.connect(server.address) as caller:
            await caller.hello()
            word = b64encode(b"\0alice\0" + password.encode()).decode()
            return (await caller.say(f"AUTH PLAIN {word}"))[:3]

    async def attack(over: asyncio.Event) -> None:
        while not over.is_set():
            assert await log_in("wrong") == "535"

    async def crowd() -> list[list[float]]:
        over = asyncio.Event()
        async with idle_clients(server.address), await Caller.connect(server.address) as caller:
            await begin(caller, "hang@example.com", LARGE, b".\r\n")
            attacking = [asyncio.create_task(attack(over)) for _ in range(2)]
            taken = await together(*(honest(server.address) for _ in range(HONEST)))
            begun = time.monotonic()
            assert await together(*(log_in("wonder") for _ in range(3))) == ["235"] * 3
            tell(f"3 users were logged in after {time.monotonic() - begun:.1f} s")
            over.set()
            await asyncio.gather(*attacking)
        return taken

    check_times(asyncio.run(crowd()), server, tell)
    server.program.stop()


# -- the disk ------------------------------------------------------------------------------------

DISK = 256 * MIB
OWN = ("--exempt-networks", "none", "--max-connection-rate", "0")
GREEDY = full(45, short=12)  # connections of one address


def test_one_address_fills_half_of_max_disk_at_most(launch: Launch, tell: Tell) -> None:
    server = launch("Bad", "--max-disk", str(DISK), *OWN)

    async def crowd() -> tuple[int, int, list[list[float]]]:
        async with contextlib.AsyncExitStack() as stack:
            callers = [
                await stack.enter_async_context(await Caller.connect(server.address))
                for _ in range(GREEDY)
            ]
            for caller in callers:  # all but the last bytes
                await begin(caller, "greedy@example.com", LARGE)
            taken = await together(*(honest(server.address) for _ in range(2)))
            on_disk = server.snapshot()["now"]["on_disk"]
            for caller in callers:
                caller.send(b".\r\n", replies=1)
            answers = [await caller.reply() for caller in callers]
        assert set(answers) <= {QUEUED, NO_ROOM}
        return on_disk, answers.count(NO_ROOM), taken

    on_disk, rejected, _ = asyncio.run(crowd())
    tell(f"{on_disk // MIB} MiB on disk; {rejected} of {GREEDY} large messages were told 452")
    assert 0 < on_disk <= DISK // 2
    assert rejected >= GREEDY - DISK // 2 // len(LARGE)
    assert server.wait_until_no_sessions()["now"]["on_disk"] == 0
    assert server.program.stop() == 0
