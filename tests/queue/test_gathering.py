"""What a writer commits together, and what it does for callers that have gone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ehlo import Queue
from ehlo.queue import ledger
from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import StoreError
from ehlo.sqlite.gathering import Gathering, Task
from ehlo.sqlite.writer import Writer
from support.queueing import Jump, Player, deliver, serving, wait_until
from support.serving import DEADLINE
from support.storing import in_loop


class Thread:
    """What is handed to a writer's thread, which does nothing by itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.handed: list[list[Task]] = []
        self.gathering = Gathering(self._loop, self._put)
        self._grown = asyncio.Event()

    def _put(self, tasks: list[Task]) -> None:
        self.handed.append(tasks)
        self._grown.set()

    def ask(self, item: object = "mail", *, is_patient: bool = False) -> Task:
        """Add a task of a client; without an `item`, one that has nothing to do with mail."""
        future = self._loop.create_future()
        task = Task(lambda _: None, 0, future, item, is_patient=is_patient)
        self.gathering.add(task)
        return task

    async def until_handed(self, count: int) -> list[Task]:
        """Return what is handed over as number `count`."""
        while len(self.handed) < count:
            self._grown.clear()
            await asyncio.wait_for(self._grown.wait(), DEADLINE)
        return self.handed[count - 1]


@in_loop
async def test_a_client_that_is_alone_waits_for_no_other() -> None:
    thread = Thread()
    for count in (1, 2, 3):
        task = thread.ask()
        await asyncio.sleep(0)
        assert thread.handed[count - 1 :] == [[task]]
        thread.gathering.ended([task], 1.0)
        assert task.future.done()


@in_loop
async def test_what_comes_during_a_commit_waits_for_the_clients_that_it_was_for() -> None:
    thread = Thread()
    first = [thread.ask(), thread.ask()]
    assert await thread.until_handed(1) == first
    third = thread.ask()
    thread.gathering.ended(first, 1.0)
    assert thread.handed == [first]
    again = [third, thread.ask(), thread.ask()]
    await asyncio.sleep(0)
    assert thread.handed == [first, again]


@in_loop
async def test_clients_that_have_gone_keep_no_other_waiting() -> None:
    thread = Thread()
    first = [thread.ask(), thread.ask()]
    await thread.until_handed(1)
    thread.gathering.ended(first, 1.0)
    task = thread.ask()
    assert await thread.until_handed(2) == [task]


@in_loop
async def test_what_is_not_mail_waits_for_no_client() -> None:
    thread = Thread()
    first = [thread.ask(), thread.ask()]
    await thread.until_handed(1)
    mail = thread.ask()
    thread.gathering.ended(first, 1.0)
    claim = thread.ask(None)
    await asyncio.sleep(0)
    assert thread.handed[1:] == [[mail, claim]]


@in_loop
async def test_what_is_in_no_hurry_goes_with_the_next_task_or_alone_later() -> None:
    thread = Thread()
    both = [thread.ask(None, is_patient=True), thread.ask()]
    await asyncio.sleep(0)
    assert thread.handed == [both]
    thread.gathering.ended(both, 1.0)
    alone = thread.ask(None, is_patient=True)
    assert await thread.until_handed(2) == [alone]


@in_loop
async def test_a_caller_that_was_canceled_leaves_its_result_to_what_comes_then(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mail-0.db"
    writer = Writer(str(path), ledger.open_ledger(path), ledger.Flushes(path))
    begun, may_end, got = threading.Event(), threading.Event(), asyncio.Event()
    results: list[object] = []

    def work(_database: Database, items: Sequence[str]) -> list[int]:
        begun.set()
        assert may_end.wait(DEADLINE)
        return [len(each) for each in items]

    def then(result: int | None) -> None:
        results.append(result)
        got.set()

    writer.start()
    try:
        caller = asyncio.ensure_future(writer.share(work, "four", 0, then))
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        caller.cancel()
        may_end.set()
        await asyncio.wait_for(got.wait(), DEADLINE)
        assert (results, caller.cancelled()) == ([4], True)
    finally:
        may_end.set()
        await asyncio.to_thread(writer.close)


def test_a_loop_that_was_closed_during_a_commit_ends_the_writer_for_no_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mail-0.db"
    writer = Writer(str(path), ledger.open_ledger(path), ledger.Flushes(path))
    begun, may_end = threading.Event(), threading.Event()

    def slow(_database: Database) -> str:
        begun.set()
        assert may_end.wait(DEADLINE)
        return "slow"

    async def leave() -> None:
        asked = asyncio.ensure_future(writer.do(slow))
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        assert not asked.done()

    async def stay() -> str:
        quick = asyncio.ensure_future(writer.do(lambda _: "quick"))
        await asyncio.sleep(0)
        may_end.set()
        return await asyncio.wait_for(quick, DEADLINE)

    writer.start()
    try:
        asyncio.run(leave())
        assert asyncio.run(stay()) == "quick"
    finally:
        may_end.set()
        writer.close()


@in_loop
async def test_when_writing_ends_for_good_all_that_waits_is_told(tmp_path: Path) -> None:
    class Broken(ledger.Flushes):
        def settle(self, database: Database, /, *, done: bool) -> None:
            raise RuntimeError("broken")

    path = tmp_path / "mail-0.db"
    writer = Writer(str(path), ledger.open_ledger(path), Broken(path))
    writer.start()
    try:
        first = asyncio.ensure_future(writer.do(lambda _: None))
        await asyncio.sleep(0)
        found = await asyncio.wait_for(
            asyncio.gather(first, writer.do(lambda _: None), return_exceptions=True), DEADLINE
        )
        assert [type(each) for each in found] == [StoreError, StoreError]
    finally:
        await asyncio.to_thread(writer.close)


class Body:
    """An item to store, or work, which stands for a large body."""

    def __call__(self, database: Database) -> None:
        database.execute("INSERT INTO nothing DEFAULT VALUES")


def fail(database: Database, items: Sequence[Body]) -> list[None]:
    return [items[0](database)] * len(items)


async def failed_to_share(writer: Writer) -> weakref.ref[Body]:
    body = Body()
    try:
        await writer.share(fail, body)
    except StoreError:  # not by `pytest.raises`, which keeps it
        return weakref.ref(body)
    raise AssertionError


async def failed_to_do(writer: Writer) -> weakref.ref[Body]:
    body = Body()
    try:
        await writer.do(body)
    except StoreError:
        return weakref.ref(body)
    raise AssertionError


@pytest.mark.parametrize("fails", [failed_to_share, failed_to_do])
@in_loop
async def test_a_write_that_has_failed_keeps_no_body(
    tmp_path: Path, fails: Callable[[Writer], Awaitable[weakref.ref[Body]]]
) -> None:
    """Its exception refers to the frames that it came through, and these to what was written.

    What fails together is tried alone: then the exception has another one as its context.
    """
    path = tmp_path / "mail-0.db"
    writer = Writer(str(path), ledger.open_ledger(path), ledger.Flushes(path))
    writer.start()
    gc.disable()
    try:
        bodies = await asyncio.gather(*(fails(writer) for _ in range(3)))
        await writer.do(lambda _: None)  # then the thread has let go of them
        assert [body() for body in bodies] == [None] * 3
    finally:
        gc.enable()
        await asyncio.to_thread(writer.close)


def test_a_message_needs_no_claim_if_its_consumer_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[int] = []
    plain: Any = ledger.claim

    def claim(*args: object, **options: object) -> object:
        claims.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(ledger, "claim", claim)
    player = Player()
    with serving(Queue(str(tmp_path / "mail.db"), player, time=Jump())) as server:
        wait_until(server, lambda: bool(claims))
        for recipient in ("b@x.test", "c@x.test"):
            deliver(server, recipient)
            _, message = player.next()
            assert message.recipients == [recipient]
            assert message.attempt == 1
        assert claims == [1]
