"""The slot for what a session awaits: there is one, and its content is never overwritten."""

from __future__ import annotations

import asyncio

import pytest

from ehlo.server.waits import AwaitSlot, DeadlineError, Wait


class Noting:
    """A slot, and what its coroutines have done and raised."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.raised: list[Exception | None] = []
        self.slot = AwaitSlot(self.raised.append)

    async def await_(self, wait: Wait[str]) -> None:
        try:
            self.notes.append(await wait)
        except DeadlineError:
            self.notes.append("late")
        except GeneratorExit:
            self.notes.append("closed")
            raise

    def awaits(self) -> bool:
        return self.slot.work is not None

    async def fail(self, wait: Wait[str]) -> None:
        await wait
        raise ValueError("a failure")

    async def pass_through(self, wait: Wait[str]) -> None:
        await wait


def test_a_coroutine_that_waits_goes_on_when_the_wait_ends() -> None:
    noting, wait = Noting(), Wait[str]()
    assert noting.slot.begin(noting.await_(wait))
    assert noting.awaits()
    assert wait.end("done")
    assert not noting.awaits()
    assert (noting.notes, noting.raised) == (["done"], [None])
    assert not wait.end("again")


def test_a_coroutine_that_does_not_wait_leaves_the_slot_free() -> None:
    async def answer() -> None: ...

    noting = Noting()
    assert not noting.slot.begin(answer())
    assert not noting.awaits()
    assert noting.raised == []


def test_beginning_while_something_is_awaited_raises_and_leaves_it_alone() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    work = noting.slot.work
    with pytest.raises(RuntimeError, match="awaits something else already"):
        noting.slot.begin(noting.await_(Wait()))
    assert noting.slot.work is work
    wait.end("done")
    assert noting.notes == ["done"]


def test_a_deadline_is_raised_at_the_await() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    noting.slot.expire()
    assert (noting.notes, noting.raised) == (["late"], [None])
    assert not wait.end("too late")


def test_a_deadline_that_nothing_catches_reaches_the_driver() -> None:
    noting = Noting()
    noting.slot.begin(noting.pass_through(Wait()))
    noting.slot.expire()
    assert [type(error) for error in noting.raised] == [DeadlineError]


def test_a_dropped_coroutine_is_closed_at_once_and_resumed_by_nothing() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.await_(wait))
    noting.slot.drop()
    assert noting.notes == ["closed"]
    assert not noting.awaits()
    assert not wait.end("too late")
    assert noting.raised == []
    noting.slot.drop()


def test_a_failure_frees_the_slot_and_reaches_the_driver() -> None:
    noting, wait = Noting(), Wait[str]()
    noting.slot.begin(noting.fail(wait))
    wait.end("go on")
    assert [type(error) for error in noting.raised] == [ValueError]
    assert not noting.awaits()


def test_a_slot_that_awaits_nothing_cannot_expire() -> None:
    with pytest.raises(RuntimeError, match="awaits nothing"):
        Noting().slot.expire()


# -- misuse --------------------------------------------------------------------------------------


def test_a_wait_that_ends_before_it_is_awaited_raises_and_does_not_hang_the_session() -> None:
    noting = Noting()

    async def end_early() -> None:
        wait = Wait[str]()
        wait.end("too early")
        await wait

    with pytest.raises(RuntimeError, match="before it was awaited"):
        noting.slot.begin(end_early())
    assert not noting.awaits()


def test_a_second_wait_that_ends_too_early_reaches_the_driver() -> None:
    noting, first = Noting(), Wait[str]()

    async def end_early() -> None:
        await first
        Wait[str]().end("too early")

    noting.slot.begin(end_early())
    first.end("go on")
    assert [type(error) for error in noting.raised] == [RuntimeError]
    assert not noting.awaits()


@pytest.mark.parametrize("waits_before", [False, True])
def test_awaiting_anything_else_fails_and_closes_the_coroutine(waits_before: bool) -> None:
    noting, first = Noting(), Wait[str]()

    async def sleep() -> None:
        try:
            if waits_before:
                await first
            await asyncio.sleep(0)
        except GeneratorExit:
            noting.notes.append("closed")
            raise

    if waits_before:
        noting.slot.begin(sleep())
        first.end("go on")
        assert [type(error) for error in noting.raised] == [AttributeError]
    else:
        with pytest.raises(AttributeError):
            noting.slot.begin(sleep())
    assert noting.notes == ["closed"]
    assert not noting.awaits()


def test_a_coroutine_may_begin_while_the_last_one_is_reported_to_be_over() -> None:
    """The driver begins the next coroutine while the last one is reported to be over."""
    first, second = Wait[str](), Wait[str]()
    noting = Noting()

    def over(_error: Exception | None) -> None:
        if not noting.raised:
            noting.raised.append(None)
            noting.slot.begin(noting.await_(second))

    noting.slot = AwaitSlot(over)
    noting.slot.begin(noting.await_(first))
    first.end("first")
    assert noting.awaits()
    second.end("second")
    assert (noting.notes, noting.awaits()) == (["first", "second"], False)


@pytest.mark.parametrize("waits_before", [False, True])
@pytest.mark.parametrize("goes_on", ["waits", "returns", "raises"])
def test_a_coroutine_that_is_dropped_while_it_runs_is_closed_and_reported_to_nothing(
    waits_before: bool, goes_on: str
) -> None:
    """As where a log handler of the user's ends the session in the middle of a step."""
    noting, first, second = Noting(), Wait[str](), Wait[str]()

    async def drop_itself() -> None:
        if waits_before:
            await first
        noting.slot.drop()
        if goes_on == "waits":
            await noting.await_(second)
        elif goes_on == "raises":
            raise ValueError("a failure")

    if goes_on == "raises" and not waits_before:
        with pytest.raises(ValueError, match="a failure"):
            noting.slot.begin(drop_itself())
    else:
        assert noting.slot.begin(drop_itself()) == waits_before
    if waits_before:
        first.end("go on")
    assert noting.notes == (["closed"] if goes_on == "waits" else [])
    assert noting.raised == []
    assert not noting.awaits()


def test_a_coroutine_that_begins_after_a_drop_in_the_same_step_keeps_the_slot() -> None:
    noting, first, last = Noting(), Wait[str](), Wait[str]()

    async def make_way() -> None:
        noting.slot.drop()
        assert noting.slot.begin(noting.await_(last))
        await noting.await_(first)

    assert not noting.slot.begin(make_way())
    assert noting.notes == ["closed"]
    assert not first.end("too late")
    assert last.end("done")
    assert (noting.notes, noting.raised) == (["closed", "done"], [None])


@pytest.mark.parametrize("how", ["awaits", "raises"])
def test_a_coroutine_that_does_not_close_does_not_keep_the_session_from_ending(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    noting = Noting()

    async def resist(wait: Wait[str]) -> None:
        try:
            await wait
        finally:
            if how == "raises":
                raise ValueError("a failure")
            await Wait[str]()

    noting.slot.begin(resist(Wait()))
    noting.slot.drop()
    assert not noting.awaits()
    assert "a coroutine could not be closed" in caplog.text
    assert noting.slot.begin(noting.await_(Wait()))


def test_an_exception_in_over_leaves_the_slot_free() -> None:
    def over(_error: Exception | None) -> None:
        raise ValueError("a failure")

    slot, wait = AwaitSlot(over), Wait[str]()
    slot.begin(Noting().pass_through(wait))
    with pytest.raises(ValueError, match="a failure"):
        wait.end("go on")
    assert slot.work is None


def test_an_interrupt_passes_through_and_leaves_the_slot_free() -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    noting = Noting()
    with pytest.raises(KeyboardInterrupt):
        noting.slot.begin(interrupt())
    assert not noting.awaits()


def test_a_wait_may_be_awaited_again_after_a_deadline() -> None:
    noting, wait = Noting(), Wait[str]()

    async def insist() -> None:
        await noting.await_(wait)
        await noting.await_(wait)

    noting.slot.begin(insist())
    noting.slot.expire()
    assert wait.end("done")
    assert (noting.notes, noting.raised) == (["late", "done"], [None])
