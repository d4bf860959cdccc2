"""Many large messages at the same time: the process keeps to its memory limit."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from ehlo import Peer
from robustness.caller import Caller, together
from robustness.process import Launch, Tell
from robustness.scale import MIB, full, peak

CLIENTS = full(50, short=20)
SIZE = full(50_000_000, short=8_000_000)  # octets of each message, about
MEMORY = full(256, short=24) * MIB
MOST = full(400, short=100) * MIB
"""The memory of the process: bodies, and Python with ehlo."""


def block_of(name: str) -> bytes:
    """Return unique lines, some of them dot-stuffed."""
    lines = (f"{'..' if number % 7 == 0 else ''}{name} {number:070d}\r\n" for number in range(3000))
    return "".join(lines).encode()


async def send_large(address: Peer, name: str, everyone: asyncio.Barrier) -> tuple[str, str]:
    """Send one message together with all others; return its sender and digest."""
    caller = await Caller.connect(address)
    await caller.hello()
    sender = f"{name}@example.com"
    await caller.envelope(sender)
    assert (await caller.say("DATA")).startswith("354 ")
    await everyone.wait()
    block, digest = block_of(name), hashlib.sha256()
    meant = b"\n".join(line.removeprefix(b".") for line in block.split(b"\n"))
    for _ in range(SIZE // len(block)):
        digest.update(meant)
        caller.send(block)
        await caller.writer.drain()
    caller.send(b".\r\n", replies=1)
    assert await caller.reply() == "250 2.0.0 Ok: queued"
    await caller.quit()
    return sender, digest.hexdigest()


@pytest.mark.parametrize("handler", ["Streaming", "Whole"])
def test_large_messages_at_once_take_no_more_than_their_memory(
    launch: Launch, tell: Tell, handler: str
) -> None:
    server = launch(handler, "--max-memory", str(MEMORY), "--max-size", str(2 * SIZE))
    before = peak(server.pid)

    async def crowd() -> list[tuple[str, str]]:
        everyone = asyncio.Barrier(CLIENTS)
        names = (f"{handler}-{number}" for number in range(CLIENTS))
        return await together(*(send_large(server.address, name, everyone) for name in names))

    sent = asyncio.run(crowd())
    most = peak(server.pid)
    tell(f"{CLIENTS} messages of {SIZE} octets; at most {most / MIB:.0f} MiB of {before / MIB:.0f}")
    assert sorted(server.logged()) == sorted(" ".join(each) for each in sent)
    assert most <= MOST
    now = server.wait_until_no_sessions()["now"]
    assert (now["memory"], now["on_disk"]) == (0, 0)
