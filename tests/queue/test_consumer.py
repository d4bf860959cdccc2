"""The consumer alone, on a ledger that a test plays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from ehlo.message import Message, Spool
from ehlo.protocol.address import Address
from ehlo.queue.consumer import Consumer
from ehlo.queue.entries import Claimed, Due, Haul, Settled
from ehlo.queue.facts import arrival_of
from ehlo.queue.timing import Persistence, Terms
from ehlo.session import Session
from support.queueing import Jump
from support.serving import DEADLINE

TERMS = Terms(60, 600, 60, 8, Persistence(5, 3600, 12, float("inf")))
FACTS = '{"id":"s","peer":["192.0.2.1",1],"local":["192.0.2.2",25],"helo":"x","esmtp":true}'
DUE = Due(1, '["b","x"]', 1)
MAIL = Claimed(1, "id", "d", 0.0, '["",""]', FACTS, 1, b"", b"x", None, 0.0, [DUE])


class Played:
    """A ledger whose claims and renewals end when the test says so."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()
        self.settled: list[Settled] = []
        self.haul = Haul([], None, [])

    async def _wait(self, what: str) -> None:
        self.begun.put_nowait(what)
        await self.go.wait()

    async def claim(
        self, owner: str, most: int, lease: float, patience: Persistence, held: Sequence[int]
    ) -> Haul:
        await self._wait("claim")
        return self.haul

    async def load(self, claimed: Claimed) -> bytes | Spool:
        raise AssertionError

    async def renew(self, numbers: Sequence[int], owner: str, lease: float) -> None:
        await self._wait("renew")

    async def settle(self, settled: Sequence[Settled], owner: str, *, durable: bool) -> None:
        self.settled += settled

    async def purge(self, keep: float) -> None:
        pass


class Quick:
    """A clock in which each wait ends at once."""

    def __init__(self) -> None:
        self._ticks = 0.0

    def now(self) -> float:
        return self._ticks

    def ticks(self) -> float:
        return self._ticks

    async def wait(self, wake: asyncio.Event, until: float) -> None:
        self._ticks = max(self._ticks, until)
        await asyncio.sleep(0)


def test_what_a_claim_leases_at_the_end_is_given_back() -> None:
    async def run() -> list[Settled]:
        ledger = Played()
        ledger.haul = Haul([MAIL], None, [])
        task = asyncio.create_task(Consumer(ledger, print, TERMS, Quick(), Counter()).run())
        assert await ledger.begun.get() == "claim"
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        ledger.go.set()
        await asyncio.gather(task, return_exceptions=True)
        return ledger.settled

    assert asyncio.run(run()) == [Settled(1, "waiting", uncounted=True)]


@pytest.mark.parametrize("end", ["stop", "cancel"])
@pytest.mark.parametrize("claimed", [MAIL, None], ids=["stored", "not stored"])
def test_the_end_waits_for_what_is_being_stored_and_gives_it_back(
    claimed: Claimed | None, end: str
) -> None:
    async def run() -> list[Settled]:
        ledger = Played()
        ledger.go.set()
        consumer = Consumer(ledger, print, TERMS, Jump(), Counter())
        task = asyncio.create_task(consumer.run())
        assert await ledger.begun.get() == "claim"
        place = None
        while place is None:
            await asyncio.sleep(0)
            place = consumer.reserve()
        if end == "stop":
            consumer.stop()
        else:
            task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        assert consumer.reserve() is None
        place.receive(claimed)
        await asyncio.gather(task, return_exceptions=True)
        return ledger.settled

    given_back = [] if claimed is None else [Settled(1, "waiting", uncounted=True)]
    assert asyncio.run(asyncio.wait_for(run(), DEADLINE)) == given_back


EAGER = getattr(asyncio, "eager_task_factory", None)


@pytest.mark.skipif(EAGER is None, reason="Python has it from 3.12 on")
def test_attempts_do_not_begin_within_each_other_where_tasks_begin_at_once() -> None:
    many, ended = 1_000, asyncio.Event()

    class Counted(Played):
        async def settle(self, settled: Sequence[Settled], owner: str, *, durable: bool) -> None:
            await super().settle(settled, owner, durable=durable)
            if len(self.settled) >= many:
                ended.set()

    async def handler(_session: Session, _message: Message) -> None:
        pass

    async def run() -> set[Settled]:
        asyncio.get_running_loop().set_task_factory(EAGER)
        ledger = Counted()
        ledger.go.set()
        mails = [MAIL._replace(deliveries=[DUE._replace(number=each)]) for each in range(many)]
        ledger.haul = Haul(mails, None, [])
        consumer = Consumer(ledger, handler, TERMS, Jump(), Counter())
        task = asyncio.create_task(consumer.run())
        await ended.wait()
        consumer.stop()
        await task
        return set(ledger.settled[:many])

    assert asyncio.run(asyncio.wait_for(run(), DEADLINE)) == {Settled(each) for each in range(many)}


class Settling(Played):
    """A ledger with two messages; `two` is set when the second one is settled."""

    def __init__(self) -> None:
        super().__init__()
        self.go.set()
        self.haul = Haul([mail_of(1), mail_of(2)], None, [])
        self.two = asyncio.Event()

    async def claim(self, *_: object) -> Haul:
        haul, self.haul = self.haul, Haul([], None, [])
        return haul

    async def settle(self, settled: Sequence[Settled], owner: str, *, durable: bool) -> None:
        await super().settle(settled, owner, durable=durable)
        if any(each.number == 2 for each in self.settled):
            self.two.set()


def mail_of(number: int) -> Claimed:
    due = DUE._replace(number=number)
    return MAIL._replace(number=number, id=str(number), deliveries=[due])


def test_a_timer_that_cancels_the_task_of_another_message_costs_that_an_attempt() -> None:
    """Messages share a task as long as none of them waits."""
    tasks: list[object] = []

    async def handler(_session: Session, message: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if message.id == "1":
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            await asyncio.Event().wait()

    async def run() -> list[Settled]:
        ledger = Settling()
        consumer = Consumer(ledger, handler, TERMS, Jump(), Counter())
        task = asyncio.create_task(consumer.run())
        await ledger.two.wait()
        consumer.stop()
        await task
        return ledger.settled

    first, second = asyncio.run(asyncio.wait_for(run(), DEADLINE))[:2]
    assert tasks[0] is tasks[1]
    assert first == Settled(1)
    assert (second.number, second.state, second.error) == (2, "waiting", "CancelledError: ")


@pytest.mark.parametrize("ends", [True, False])
def test_calls_are_stuck_that_go_on_after_their_time(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go, begun = asyncio.Event(), asyncio.Queue[None]()

    async def handler(_session: Session, _message: Message) -> None:
        begun.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            if not ends:
                await go.wait()

    async def run() -> None:
        ledger, clock = Settling(), Jump()
        terms = TERMS._replace(deliveries=2)
        consumer = Consumer(ledger, handler, terms, clock, Counter())
        task = asyncio.create_task(consumer.run())
        for _ in range(2):
            await begun.get()
        for _ in range(3):
            looks = clock.waits.total()
            clock.advance(601)
            while clock.waits.total() == looks:  # noqa: ASYNC110  it has no event of its own
                await asyncio.sleep(0)
        go.set()
        consumer.stop()
        await task

    asyncio.run(asyncio.wait_for(run(), DEADLINE))
    assert caplog.text.count("took too long") == 2
    assert caplog.text.count("nothing is delivered until a call of") == (not ends)


def test_renewals_do_not_pile_up_while_the_database_does_not_answer() -> None:
    async def run() -> None:
        ledger, quick, renewals = Played(), Quick(), 0
        terms = TERMS._replace(lease=1)
        task = asyncio.create_task(Consumer(ledger, print, terms, quick, Counter()).run())
        for _ in range(200):
            await asyncio.sleep(0)
        assert quick.ticks() > 10
        while not ledger.begun.empty():
            renewals += ledger.begun.get_nowait() == "renew"
        assert renewals == 1
        ledger.go.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_consumer_that_has_failed_reserves_no_place() -> None:
    """What is leased to it would wait for another look, and the attempt would count."""

    class Broken(Quick):
        async def wait(self, wake: asyncio.Event, until: float) -> None:
            raise RuntimeError("broken")

    async def run() -> None:
        ledger = Played()
        ledger.go.set()
        consumer = Consumer(ledger, print, TERMS, Broken(), Counter())
        assert await asyncio.gather(consumer.run(), return_exceptions=True)
        assert await ledger.begun.get() == "claim"
        assert consumer.reserve() is None

    asyncio.run(run())


def test_a_loop_that_ends_while_a_claim_is_about_to_begin_is_kept_by_nothing() -> None:
    async def run() -> bool:
        consumer = Consumer(Played(), print, TERMS, Quick(), Counter())
        task = asyncio.create_task(consumer.run())
        await asyncio.sleep(0)
        claims = [each for each in asyncio.all_tasks() if "_claimed" in repr(each)]
        for each in (task, *claims):  # as `asyncio.run` does with all
            assert each.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        has_ended = task.done()
        task.cancel()
        return has_ended and len(claims) == 1

    assert asyncio.run(run())


def test_mail_that_keeps_coming_hides_no_other_that_is_due_for_longer_than_a_poll() -> None:
    """Another process has changed something: `ehlo queue retry`, say."""

    class Still(Quick):
        async def wait(self, wake: asyncio.Event, until: float) -> None:
            await wake.wait()

        def advance(self, seconds: float) -> None:
            self._ticks += seconds

    async def run() -> None:
        ledger, still = Played(), Still()
        ledger.go.set()
        consumer = Consumer(ledger, print, TERMS, still, Counter())
        task = asyncio.create_task(consumer.run())
        assert await ledger.begun.get() == "claim"
        for _ in range(10):
            await asyncio.sleep(0)
        places = [consumer.reserve() for _ in range(24)]  # which leave no room for a claim
        still.advance(2)
        late = consumer.reserve()
        for place in filter(None, (*places, late)):
            place.receive(None)
        assert (None in places, late) == (False, None)
        assert await ledger.begun.get() == "claim"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_addresses_that_are_at_hand_are_read_again_only_for_their_parameters() -> None:
    """A value of a user's own extension is text from the queue, at the first attempt, too."""
    sender, odd = Address("a", "x.test"), Address("b", "x.test", {"X-OWN": object()})
    recipients = [Address("c", "x.test")]
    plain = arrival_of(FACTS, Message("id", sender, recipients, b"", [b"x"]))
    assert plain.envelope == (sender, recipients)
    recipients.append(odd)
    assert plain.envelope == (sender, recipients[:1])
    assert arrival_of(FACTS, Message("id", sender, recipients, b"", [b"x"])).envelope is None
    assert arrival_of(FACTS, Message("id", odd, recipients[:1], b"", [b"x"])).envelope is None


def test_a_body_cannot_stand_for_recipients_in_a_digest() -> None:
    """It would be the digest of another mail, which a handler then takes for delivered."""
    sender, one, two = (Address(name, "x.test") for name in ("a", "b", "c"))
    shorter, longer = (
        arrival_of(FACTS, Message("id", sender, recipients, b"", [b"x"])).seed
        for recipients in ([one], [one, two])
    )
    assert not longer.startswith(shorter)
