"""Disk, file descriptors or handlers fail: affected clients get 4xx, the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from measure import cpu_seconds

from ehlo import Peer
from ehlo.store import Delivery, DiskFullError, Store
from interop.peers import absent
from robustness.caller import Caller, together
from robustness.process import Launch, Launched, Tell
from robustness.scale import IN_FULL, MIB, full
from support.client import Client

LARGE = b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * 30_000  # 3 MB
MIDDLING = b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * 3000  # 300 KB
QUEUED = "250 2.0.0 Ok: queued"
NO_ROOM = "452 4.3.1 Insufficient system storage"
CLIENTS = full(20, short=5)
MESSAGES = full(50, short=5)  # of each client


async def send_all(address: Peer, name: str, body: bytes, count: int) -> list[str]:
    """Send `count` messages, one after the other; return their final replies."""
    async with await Caller.connect(address) as caller:
        await caller.hello()
        senders = (f"{name}-{number}@example.com" for number in range(count))
        answers = [await caller.mail(sender, body) for sender in senders]
        await caller.quit()
        return answers


def one_mail(server: Launched, body: bytes) -> str:
    """Send one message in a session of its own; return the final reply."""
    with Client(server.address) as client:
        client.hello()
        answer = client.mail(body)
    server.wait_until_no_sessions()
    return answer


# -- the disk ------------------------------------------------------------------------------------


class Disk:
    """A file system of one megabyte."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            absent(f"a file system of its own needs root: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a small file system. Request it before `launch`, so that servers end before it."""
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    disk.mount("size=1m")
    yield disk
    subprocess.run(["umount", str(disk.path)], check=True)


def test_clients_that_need_a_full_disk_get_452_and_the_others_are_served(
    small_disk: Disk, launch: Launch, tell: Tell
) -> None:
    given = [
        *("--spool-dir", str(small_disk.path), "--spool-threshold", "65536"),
        *("--max-disk", str(64 * MIB)),  # more than there is
    ]
    server = launch("Log", *given, "--max-memory", str(20 * len(LARGE)))

    async def crowd() -> list[list[str]]:
        kinds = [("large", LARGE, 3), ("small", b"x\r\n", MESSAGES)]
        numbered = [(number, *kind) for number in range(CLIENTS) for kind in kinds]
        return await together(
            *(
                send_all(server.address, f"{name}-{number}", body, count)
                for number, name, body, count in numbered
            )
        )

    answers = asyncio.run(crowd())
    for large, small in zip(answers[::2], answers[1::2], strict=True):
        assert large == [NO_ROOM] * 3
        assert small == [QUEUED] * MESSAGES
    assert len(server.logged()) == CLIENTS * MESSAGES
    now = server.wait_until_no_sessions()["now"]
    assert (now["memory"], now["on_disk"]) == (0, 0)
    for _ in range(2):
        assert one_mail(server, MIDDLING) == QUEUED  # for which there is room
    with Client(server.address) as client:
        client.hello()
        (small_disk.path / "full").write_bytes(b"x" * 1_000_000)
        assert client.mail(MIDDLING) == NO_ROOM
        assert client.mail() == QUEUED
        (small_disk.path / "full").unlink()
        assert client.mail(MIDDLING) == QUEUED
        small_disk.mount("remount,size=64m")
        assert client.mail(LARGE) == QUEUED
    tell(f"{3 * CLIENTS} messages were told 452, {CLIENTS * MESSAGES} others were accepted")
    assert server.program.stop() == 0


def test_deleting_mail_makes_room_on_a_disk_that_mail_has_filled(small_disk: Disk) -> None:
    small_disk.mount("remount,size=20m")

    async def fill(store: Store) -> None:
        for _ in range(1_000):
            await store.put(Delivery(MIDDLING))

    async def fill_and_delete() -> None:
        async with Store.open(str(small_disk.path / "mail.db"), keep=0) as store:
            for _ in range(3):
                with pytest.raises(DiskFullError):
                    await fill(store)
                assert await store.delete()
                await store.put(Delivery(MIDDLING))

    asyncio.run(fill_and_delete())


# -- file descriptors ----------------------------------------------------------------------------


@contextlib.contextmanager
def no_more_descriptors(server: Launched) -> Iterator[None]:
    """Let the server open no more files than it has open."""
    used = {int(path.name) for path in Path(f"/proc/{server.pid}/fd").iterdir()}
    next_one = min(set(range(len(used) + 1)) - used)
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (next_one, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


def is_closed_or_served(client: Client) -> bool:
    """Return whether a client that waited is served (asyncio) or closed (uvloop)."""
    try:
        return client.hello().startswith("250") and client.mail() == QUEUED
    except (EOFError, ConnectionError):
        return True


WINDOW = full(10.0, short=0.0)  # seconds for which CPU time is measured
BUSY = 0.1  # of a core, at most


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_without_file_descriptors_new_clients_wait_and_connected_ones_are_served(
    launch: Launch, tell: Tell, loop: str
) -> None:
    server = launch("drop", "--loop", loop, "--spool-threshold", "65536")
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(Client(server.address))
        inside.hello()
        with no_more_descriptors(server):
            outside = [stack.enter_context(Client(server.address)) for _ in range(CLIENTS)]
            before, begun = cpu_seconds(server.pid), time.monotonic()
            threading.Event().wait(WINDOW)  # the time that is measured
            busy = (cpu_seconds(server.pid) - before) / (time.monotonic() - begun)
            assert inside.mail() == QUEUED
            assert inside.mail(LARGE) == NO_ROOM  # it would need a file
            assert inside.mail() == QUEUED
        assert inside.mail(LARGE) == QUEUED
        for client in outside:
            assert is_closed_or_served(client)
    tell(f"{loop}: {100 * busy:.1f} % of a core while no client can be let in")
    if IN_FULL:
        assert busy <= BUSY
    with Client(server.address) as client:
        client.hello()
        assert client.mail(LARGE) == QUEUED
    server.wait_until_no_sessions()
    assert server.program.stop() == 0


# -- handlers ------------------------------------------------------------------------------------

HANDLER_TIME = full(2.0, short=6.0)  # seconds that a hook may take
BAD = {
    "hang": "451 4.4.5 ",
    "raise": "451 4.3.0 ",
    "nonsense": QUEUED,  # it has returned, so the message is stored; the log says what is wrong
    "block": QUEUED,  # late, and so are all others
}


@pytest.mark.parametrize("handler", ["Bad", "BadInThread"])
def test_a_handler_that_fails_for_some_messages_serves_the_others(
    launch: Launch, tell: Tell, handler: str
) -> None:
    server = launch(handler, "--handler-timeout", str(HANDLER_TIME), "--threads", "8")
    names = [*BAD, *(f"honest-{number}" for number in range(CLIENTS))]

    async def crowd() -> list[list[str]]:
        counts = (1 if name in BAD else MESSAGES for name in names)
        return await together(
            *(
                send_all(server.address, name, b"x\r\n", count)
                for name, count in zip(names, counts, strict=True)
            )
        )

    begun = time.monotonic()
    answers = dict(zip(names, asyncio.run(crowd()), strict=True))
    seconds = time.monotonic() - begun
    for name, start in BAD.items():
        (answer,) = answers[name]
        assert answer.startswith(start), name
    assert all(answers[name] == [QUEUED] * MESSAGES for name in names if name not in BAD)
    assert len(server.logged()) == CLIENTS * MESSAGES + 1  # and the one that blocked
    server.wait_until_no_sessions()
    again = asyncio.run(together(send_all(server.address, "again", b"x\r\n", MESSAGES)))
    assert again == [[QUEUED] * MESSAGES]
    tell(f"{handler}: all were answered within {seconds:.1f} s")
    assert server.program.stop() == 0
    heard = server.program.err.text
    assert "ZeroDivisionError" in heard
    assert "is over its deadline" in heard
    assert ("blocked the event loop" in heard) == (handler == "Bad")
