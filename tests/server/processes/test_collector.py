"""What a parent hears of its workers, with a socket in the place of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ehlo.server.processes import collector
from ehlo.server.processes.collector import Window


def told(count: int, **fields: Any) -> bytes:
    """A line of a worker's that has counted so much."""
    return json.dumps({"draining": False, "stats": {"count": count}, **fields}).encode() + b"\n"


@contextlib.asynccontextmanager
async def followed(window: Window) -> AsyncIterator[socket.socket]:
    """The worker's end, while the other is listened to."""
    await window.open()
    following = asyncio.get_running_loop().create_task(window.follow())
    with window.theirs as worker:
        worker.setblocking(False)
        try:
            yield worker
        finally:
            worker.close()
            await following


async def question(worker: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(worker, 1024)


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner() as runner:
            runner.run(within_time(test(*arguments, **named)))

    return run


async def within_time(work: Awaitable[None]) -> None:
    async with asyncio.timeout(15.0):
        await work


@in_loop
async def test_a_worker_answers_in_turn() -> None:
    window = Window()
    async with followed(window) as worker:
        asked = asyncio.gather(window.ask("counts"), window.ask("snapshot"))
        assert await question(worker) == b"counts\nsnapshot\n"
        worker.sendall(told(1) + told(2, sessions=[]))
        first, second = await asked
    assert first is not None
    assert second is not None
    assert (first["stats"], second["sessions"]) == ({"count": 1}, [])


@in_loop
async def test_counts_do_not_go_backwards() -> None:
    window = Window()
    async with followed(window) as worker:
        worker.sendall(told(5) + told(3) + told(4, draining=True))
    assert window.counts == {"count": 5}
    assert window.serves is False


@in_loop
async def test_last_words_are_no_answer_and_half_a_line_is_nothing() -> None:
    window = Window()
    async with followed(window) as worker:
        asked = asyncio.create_task(window.ask("snapshot"))
        await question(worker)
        worker.sendall(told(7, last=True) + told(9)[:-3])
        worker.close()
        assert await asked is None
    assert window.counts == {"count": 7}
    assert await window.ask("snapshot") is None


@in_loop
async def test_who_does_not_answer_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_PATIENCE", 0.01)
    window = Window()
    async with followed(window) as worker:
        answers = [await window.ask("counts") for _ in range(20)]
        assert answers == [None] * 20
        serves = [window.serves]
        assert await question(worker) == b"counts\n" * 8
        worker.sendall(told(1) * 8)  # late, but it is there again
    assert [*serves, window.serves] == [False, True]
    assert window.counts == {"count": 1}
