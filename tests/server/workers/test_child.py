"""A worker as its parent sees it, with a socket instead of a worker and a process that waits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ehlo.server.workers import child as module
from ehlo.server.workers import link
from ehlo.server.workers.child import Child
from ehlo.server.workers.link import WorkerTask
from support.serving import DEADLINE

TASK: WorkerTask = {
    "fds": [[3]],
    "table": 4,
    "number": 0,
    "share": 2,
    "report_every": 1.0,
    "argv": [],
    "salt_key": "",
    "recipe": "",
}


class Worker:
    """The worker's end of a link, its process, and what its parent makes of them."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0)
        self.child = Child(ours, self.process)
        self.news: list[str] = []
        self._unread = b""

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def write(self, **line: Any) -> None:
        """Write a line."""
        self.sock.sendall(json.dumps(line).encode() + b"\n")

    def count(self, count: int, *, draining: bool = False) -> None:
        """Report the counters."""
        self.write(counts={"count": count}, draining=draining)

    def answer(self, count: int, *sessions: str) -> None:
        """Answer a question, with a line for each session."""
        for session in sessions:
            self.write(sessions=[session])
        self.write(snapshot={"stats": {"count": count}, "draining": False})

    async def read(self, count: int) -> list[dict[str, Any]]:
        """Read as many lines."""
        while self._unread.count(b"\n") < count:
            self._unread += await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        *lines, self._unread = self._unread.split(b"\n", count)
        return [json.loads(line) for line in lines]


@contextlib.asynccontextmanager
async def started() -> AsyncIterator[tuple[Worker, asyncio.Task[int]]]:
    """A worker that has read its task; the task runs until its end, and has its exit code."""
    worker = Worker()
    with ThreadPoolExecutor(1) as threads, worker.sock:
        work = worker.child.run(TASK, worker.news.append, threads)
        running = asyncio.get_running_loop().create_task(work)
        try:
            assert await worker.read(1) == [{"task": TASK}]
            yield worker, running
        finally:
            worker.end()
            worker.sock.close()
            await running


@contextlib.asynccontextmanager
async def ready() -> AsyncIterator[Worker]:
    """A worker that is ready."""
    async with started() as (worker, _):
        worker.write(ready=True)
        await until(lambda: worker.news == ["ready"])
        yield worker


async def until(true: Callable[[], bool]) -> None:
    """Let the loop go on until it is so."""
    while not true():  # noqa: ASYNC110  no event tells of it
        await asyncio.sleep(0)


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner() as runner:
            runner.run(within_time(test(*arguments, **named)))

    return run


async def within_time(work: Awaitable[None]) -> None:
    async with asyncio.timeout(DEADLINE):
        await work


# -- questions and counters ----------------------------------------------------------------------


@in_loop
async def test_a_worker_answers_in_turn() -> None:
    async with ready() as worker:
        asked = asyncio.gather(worker.child.snapshot(), worker.child.snapshot())
        assert await worker.read(2) == [{"order": "snapshot"}] * 2
        worker.answer(1)
        worker.answer(2, "a", "b")
        first, second = await asked
    assert first == {"stats": {"count": 1}, "draining": False, "sessions": []}
    assert second == {"stats": {"count": 2}, "draining": False, "sessions": ["a", "b"]}


@in_loop
async def test_counts_do_not_go_backwards() -> None:
    async with ready() as worker:
        assert worker.child.serves
        for count in (5, 3):
            worker.count(count)
        worker.count(4, draining=True)
        await until(lambda: not worker.child.serves)
    assert worker.child.counts == {"count": 5}


@in_loop
async def test_counts_answer_no_question_and_half_a_line_is_dropped() -> None:
    async with ready() as worker:
        asked = asyncio.create_task(worker.child.snapshot())
        await worker.read(1)
        worker.count(7)
        worker.sock.sendall(b'{"counts": {"count": 9}, "draining": fal')
        worker.sock.close()
        assert await asked is None
        assert worker.child.counts == {"count": 7}
        assert await worker.child.snapshot() is None


@in_loop
async def test_a_worker_that_does_not_answer_is_not_asked_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    async with ready() as worker:
        answers = [await worker.child.snapshot() for _ in range(20)]
        assert answers == [None] * 20
        clock += 2.0
        assert not worker.child.serves
        for _ in range(8):
            worker.answer(1)  # late, but it is there again
        await until(lambda: worker.child.serves)
        assert await worker.read(8) == [{"order": "snapshot"}] * 8
        with pytest.raises(BlockingIOError):
            worker.sock.recv(1)
    assert worker.child.counts == {"count": 1}


# -- orders --------------------------------------------------------------------------------------


@in_loop
async def test_orders_wait_until_the_worker_is_ready() -> None:
    async with started() as (worker, _):
        for _ in range(3):
            worker.child.reload()
        worker.child.leaving = True
        worker.child.order("close")  # a signal has told it instead
        worker.write(ready=True)
        orders = [line["order"] for line in await worker.read(3)]
    assert orders == ["reload", "reload", "drain"]


@in_loop
async def test_a_third_reload_is_left_out_until_one_is_done() -> None:
    async with ready() as worker:
        for _ in range(3):
            worker.child.reload()
        assert worker.child.reloads == 2
        worker.write(reloaded=True)
        await until(lambda: worker.news == ["ready", "reloaded"])
        worker.child.reload()
        assert await worker.read(3) == [{"order": "reload"}] * 3


@in_loop
async def test_an_order_to_a_worker_that_is_gone_is_dropped() -> None:
    async with ready() as worker:
        worker.sock.close()
        worker.child.order("drain")
        worker.end()
        await until(lambda: worker.process.poll() is not None)
        worker.child.kill()


# -- the end -------------------------------------------------------------------------------------


@in_loop
async def test_why_a_worker_cannot_start_is_read_after_its_end() -> None:
    async with started() as (worker, running):
        worker.end()
        worker.process.wait()
        worker.write(failed="no database")
        worker.sock.close()
        assert await running == 0
    assert worker.child.reason == "no database"
    assert worker.child.served is None


@in_loop
async def test_a_process_that_holds_the_link_open_delays_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LAST_LINES", 0.01)
    async with started() as (worker, running):
        worker.end()
        assert await running == 0
        assert worker.sock.fileno() >= 0  # it is open


@in_loop
async def test_a_worker_that_closes_the_link_and_does_not_end_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TIME_TO_END", 0.01)
    async with started() as (worker, running):
        worker.sock.close()
        assert await running == -signal.SIGKILL


@pytest.mark.parametrize(
    "line", [b"what\n", b"[]\n", b'{"orders": 1}\n', b'{"counts": 1, "draining": 0}\n' * 2]
)
@in_loop
async def test_a_worker_that_writes_an_unknown_line_is_killed(
    caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    async with started() as (worker, running):
        worker.count(1)
        worker.sock.sendall(line)
        assert await running == -signal.SIGKILL
    assert f"process {worker.child.pid} wrote a line that is not a report" in caplog.text


@in_loop
async def test_a_line_without_an_end_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "LONGEST", 1024)
    async with started() as (worker, running):
        worker.sock.sendall(b"x" * 4096)
        assert await running == -signal.SIGKILL
    assert "wrote a line that is not a report" in caplog.text
