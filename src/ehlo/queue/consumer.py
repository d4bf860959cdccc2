"""The consumer of one database: claims what is due, calls the handler, and records the outcomes.

One coroutine does all of it, and waits in one place. Attempts run next to it, at most `deliveries`
of them; some more messages are leased ahead, so that one commit serves many. A call that takes too
long may go on: a thread cannot be stopped, and a task may disregard that it is canceled. Its
message has no other attempt as long as it does. If there are `deliveries` of such calls, no attempt
begins until one ends.
Tasks are not made by the loop's factory: eager ones of Python 3.12 would begin within each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ehlo.handler import is_async, name_of
from ehlo.message import Spool
from ehlo.queue.attempts import (
    Attempt,
    Begun,
    OnMessage,
    Outcome,
    Retry,
    Running,
    call_async,
    call_in_thread,
    deferred,
    is_among,
    prepare,
    settled_by,
)
from ehlo.queue.engine import Ledger, Reserved
from ehlo.queue.entries import Claimed, Settled
from ehlo.queue.facts import SessionReader, decode_address
from ehlo.queue.series import Series, Waits, in_context
from ehlo.queue.timing import Terms, Timekeeper
from ehlo.server.observing.failures import escaped
from ehlo.server.system.threads import Threads
from ehlo.sqlite.errors import StoreError

_POLL: Final = 1.0  # seconds until another process's changes are seen
_PURGE: Final = 3_600.0  # seconds between two looks for what need not be kept
_AHEAD: Final = 4  # messages that are leased, for each that may be under way
_MOST_UNSETTLED: Final = 1_000  # outcomes that are not committed yet

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Consumer:
    """Delivers what is in one database. `run` returns when `stop` was called and all has ended."""

    def __init__(
        self,
        ledger: Ledger,
        handler: OnMessage,
        terms: Terms,
        time: Timekeeper,
        counts: Counter[str],
        *,
        streams: bool = False,
    ) -> None:
        self._ledger = ledger
        self._handler = handler
        self._is_async = is_async(handler)
        self._sessions = SessionReader()
        self._terms = terms
        self._most = (1 + _AHEAD) * terms.deliveries  # of one claim; twice as many may be leased
        self._time = time
        self._streams = streams
        self._owner = secrets.token_hex(8)
        self._place = Reserved(self._owner, terms.lease, self._receive)
        self._threads = Threads(2 * terms.deliveries, "ehlo-queue")
        self._wake = asyncio.Event()
        self._stopping = self._troubled = False
        self._ready: deque[tuple[Claimed, float]] = deque()  # and when it was accepted, here
        self._reserved = 0  # places for messages that are being stored
        self._running: set[Running] = set()
        self._stuck: set[Running] = set()  # took too long, and have not ended yet
        self._is_full = False  # whether these have all places
        self._unsettled: list[Settled] = []
        self._durable = False  # whether some of these have large bodies, which are deleted then
        self._next_due = self._next_poll = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._renewing = False  # whether leases are being extended, which waits for the database
        self._counts = counts
        self._context = contextvars.copy_context()  # of each attempt: none sees another one's
        self._series = Series(self._next, self._call, self._begin, terms.deliveries)

    def wake(self) -> None:
        """Look now: a message was put. Must be called in the loop's thread."""
        self._next_due = 0.0
        self._wake.set()

    def reserve(self) -> Reserved | None:
        """Return a place for a message that is put now, unless others have to be claimed first."""
        is_due = min(self._next_due, self._next_poll) <= self._time.ticks()
        if self._stopping or self._room <= 0 or is_due:
            return None
        self._reserved += 1
        return self._place

    def _receive(self, claimed: Claimed | None) -> None:
        self._reserved -= 1
        if claimed is not None:
            self._ready.append((claimed, self._time.ticks()))
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more, and let what is under way end."""
        self._stopping = True
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing is due in future either."""
        return self._has_ended and not self._ready and self._next_due == float("inf")

    @property
    def _has_ended(self) -> bool:
        busy = self._running or self._unsettled or self._settling or self._claiming
        return not (busy or self._reserved)

    async def run(self) -> None:
        """Deliver until `stop` is called and all attempts have ended.

        If it is canceled, attempts that are under way are canceled, too, and do not count.
        """
        now = self._time.ticks()
        renewal, purge = now + self._terms.lease / 3, now
        try:
            while not (self._stopping and self._has_ended):
                now = self._time.ticks()
                if now >= renewal and not self._renewing:
                    renewal, self._renewing = now + self._terms.lease / 3, True
                    self._do(self._renew)
                if now >= purge:
                    purge = now + _PURGE
                    self._do(partial(self._ledger.purge, self._terms.keep_dead))
                self._end_late(now)
                self._begin()
                self._settle()
                self._claim(now)
                await self._time.wait(self._wake, self._until(now, renewal))
                self._wake.clear()
        finally:
            self._stopping = True  # after a failure, too: nothing more is reserved
            await self._let_go()
            if self._claiming is not None:
                await asyncio.gather(self._claiming, return_exceptions=True)
            while self._reserved:
                self._wake.clear()
                await self._wake.wait()
            await self._let_go()  # what these have leased

    def _until(self, now: float, renewal: float) -> float:
        """Return when there is something to do, unless something happens before."""
        times = [now + _POLL, *([] if self._renewing else [renewal])]
        times += [each.until for each in self._running]
        if not self._stopping and self._has_room:
            times.append(self._next_due)
        return min(times)

    def _leased(self) -> list[int]:
        claims = [*(each.claimed for each in self._running), *(each for each, _ in self._ready)]
        numbers = [each.number for claimed in claims for each in claimed.deliveries]
        return numbers + [each.number for each in self._unsettled]

    # -- claims ------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """The number of messages that may be leased now; none if it is not positive."""
        if len(self._unsettled) >= _MOST_UNSETTLED or len(self._stuck) >= self._terms.deliveries:
            return 0
        return self._most - len(self._ready) - len(self._running) - self._reserved

    @property
    def _has_room(self) -> bool:
        return self._claiming is None and self._room > self._most / 2

    def _claim(self, now: float) -> None:
        if self._stopping or not self._has_room or now < min(self._next_due, self._next_poll):
            return
        self._next_poll = now + _POLL
        self._claiming = asyncio.Task(self._claimed(now))

    async def _claimed(self, now: float) -> None:
        terms = self._terms
        self._next_due = now + _POLL  # where the claim fails; and `wake` may be called meanwhile
        try:
            known = terms.lease, terms.patience, self._leased()
            haul = await self._ledger.claim(self._owner, self._most, *known)
        except StoreError as error:
            self._note_trouble(error)
        else:
            self._troubled = False
            self._ready.extend((each, now - each.age) for each in haul.claimed)
            if self._next_due:
                self._next_due = float("inf") if haul.next_in is None else now + haul.next_in
            self._counts["dead"] += len(haul.died)
            for message_id, recipient in haul.died:
                logger.error("delivery died: id=%s to=%s", message_id, decode_address(recipient))
        finally:
            self._claiming = None
            self._wake.set()

    # -- attempts ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin attempts, as many as may be under way."""
        if not self._is_async:
            while (begun := self._next()) is not None:
                self._begin_in_thread(begun)
        elif not self._series.is_taking and self._can_begin:
            self._series.begin()

    @property
    def _can_begin(self) -> bool:
        most = self._terms.deliveries
        has_place = len(self._running) < most and len(self._stuck) < most
        return has_place and bool(self._ready) and not self._stopping

    def _next(self) -> Begun | None:
        """Return the next attempt, if one can begin."""
        while self._can_begin:
            claimed, born = self._ready.popleft()
            running = Running(claimed, born, self._time.ticks() + self._terms.timeout)
            self._running.add(running)
            if self._stuck and is_among(claimed, self._stuck):
                self._cannot_begin(running, Retry(text="an attempt before has not ended"))
            elif claimed.body is None:
                running.task = asyncio.Task(self._load(running))
            elif (begun := self._prepared(running, claimed.body)) is not None:
                return begun
        return None

    async def _load(self, running: Running) -> None:
        """Read a large body, and make its attempt."""
        try:
            body = await self._ledger.load(running.claimed)
        except (OSError, StoreError) as error:
            if not running.late:
                self._cannot_begin(running, error)
            return
        begun = None if running.late else self._prepared(running, body)
        if begun is not None and self._is_async:
            await self._call(begun)
        elif begun is not None:
            self._begin_in_thread(begun)

    def _prepared(self, running: Running, body: bytes | Spool) -> Begun | None:
        """Return the attempt for a message, unless it cannot begin."""
        try:
            session = self._sessions.read(running.claimed.facts)
            attempt = prepare(running.claimed, body, session, streams=self._streams)
        except Exception as error:  # noqa: BLE001  a row that cannot be read
            self._cannot_begin(running, error)
            return None
        running.attempt = attempt
        return running, attempt

    def _begin_in_thread(self, begun: Begun) -> None:
        running, attempt = begun
        running.task = None
        call_in_thread(
            self._threads, self._handler, attempt, partial(self._ended, running, attempt)
        )

    async def _call(self, begun: Begun, waits: Waits | None = None) -> None:
        """Call an `async def` handler, and end its attempt."""
        running, attempt = begun
        running.task = asyncio.current_task()
        work = call_async(self._handler, attempt)
        self._ended(running, attempt, await in_context(self._context.copy(), work, waits))

    def _ended(self, running: Running, attempt: Attempt, outcome: Outcome) -> None:
        """Called when an attempt has ended, in the loop's thread."""
        if not running.late:
            self._running.discard(running)
            self._note(attempt, outcome, running.born)
        self._stuck.discard(running)
        self._begin()  # here, since `run` takes its turn once for each batch
        self._wake.set()

    def _note(self, attempt: Attempt, outcome: Outcome, born: float) -> None:
        age, patience = self._time.ticks() - born, self._terms.patience
        self._unsettled += settled_by(outcome, attempt, self._handler, age, patience, self._counts)
        self._durable = self._durable or attempt.claimed.place is not None

    def _end_late(self, now: float) -> None:
        """End the attempts that take too long: a task is canceled, and a thread is left alone."""
        for running in [each for each in self._running if each.until <= now]:
            self._running.discard(running)
            running.late = True
            if running.task is not None:
                running.task.cancel()
                running.until = now + _POLL  # it has ended by then, if it lets itself be canceled
            late = Retry(text=f"took longer than {self._terms.timeout:g} seconds")
            if running.attempt is None:
                self._cannot_begin(running, late)
                continue
            self._stuck.add(running)
            logger.error("%s took too long: id=%s", name_of(self._handler), running.claimed.id)
            self._note(running.attempt, Outcome(error=late), running.born)
        stuck = sum(each.until <= now for each in self._stuck)
        was_full, self._is_full = self._is_full, stuck >= self._terms.deliveries
        if self._is_full and not was_full:
            logger.error(
                "nothing is delivered until a call of %s ends: calls=%d; restart ehlo",
                *(name_of(self._handler), stuck),
            )

    def _cannot_begin(self, running: Running, error: Exception) -> None:
        """Try a message again later, until it is dead: its body cannot be read, say."""
        claimed, age = running.claimed, self._time.ticks() - running.born
        logger.error("an attempt cannot begin: id=%s error=%s", claimed.id, error)
        self._running.discard(running)
        for due in claimed.deliveries:
            settled = deferred(due, escaped(str(error)), age, self._terms.patience)
            self._counts["dead" if settled.state == "dead" else "retried"] += 1
            self._unsettled.append(settled)
        self._wake.set()

    # -- what is written ---------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._unsettled and self._settling is None:
            self._settling = asyncio.Task(self._settled([*self._unsettled], durable=self._durable))

    async def _settled(self, settled: list[Settled], *, durable: bool) -> None:
        """Write outcomes; they stay in `_unsettled`, and count as leased, until that went well."""
        try:
            await self._ledger.settle(settled, self._owner, durable=durable)
        except StoreError as error:
            self._note_trouble(error)
        else:
            now = self._time.ticks()
            self._durable = self._durable and len(self._unsettled) > len(settled)
            del self._unsettled[: len(settled)]
            due = [now + each.wait for each in settled if each.state == "waiting"]
            self._next_due = min([self._next_due, *due])
            self._wake.set()
        finally:
            self._settling = None

    async def _renew(self) -> None:
        """Extend all leases. Raises `StoreError`."""
        try:
            await self._ledger.renew(self._leased(), self._owner, self._terms.lease)
        finally:
            self._renewing = False
            self._wake.set()  # the next time may have come meanwhile

    def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something written whose result nothing waits for."""

        async def do() -> None:
            try:
                await work()
            except StoreError as error:
                self._note_trouble(error)

        task = asyncio.create_task(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_trouble(self, error: StoreError) -> None:
        if not self._troubled and not self._stopping:
            logger.error("the queue cannot be written: %s", error)
        self._troubled = True

    async def _let_go(self) -> None:
        """Give back what was leased and not ended; it does not count as an attempt."""
        back = [each for each, _ in self._ready] + [each.claimed for each in self._running]
        for running in self._running:
            running.late = True
            if running.task is not None:
                running.task.cancel()
        numbers = [each.number for claimed in back for each in claimed.deliveries]
        given = [Settled(number, "waiting", uncounted=True) for number in numbers]
        if cut_off := sum(len(each.claimed.deliveries) for each in self._running):
            logger.warning("deliveries cut off, which are tried again: deliveries=%d", cut_off)
        self._ready.clear()
        self._running.clear()
        self._threads.stop()
        settled, self._unsettled = [*self._unsettled, *given], []
        try:
            if settled:
                await self._ledger.settle(settled, self._owner, durable=True)
        except StoreError as error:  # the leases run out, and what was done is done again
            logger.warning("outcomes lost: deliveries=%d error=%s", len(settled), error)
