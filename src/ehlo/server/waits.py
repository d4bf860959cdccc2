"""Waits and deadlines of a session.

`AwaitSlot` runs the one coroutine that a session awaits, and each of its awaits ends in a `Wait`.
No event loop steps it: the end of a wait does, so that nothing can happen in between.

A deadline is only noted; the server's sweep looks at all of them, so that a message needs no timer.
`Pace` is how fast a body must come as a whole.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, NoReturn, TypeVar

from ehlo.protocol.conversation import Conversation
from ehlo.protocol.state import State
from ehlo.server.observing.failures import log_failure
from ehlo.server.options.rules import Times
from ehlo.server.wire import Wire

T = TypeVar("T")

Work = Coroutine["Wait[Any]", object, None]
"""A coroutine of a session; each of its awaits ends in a `Wait`."""

GRACE = 60.0
"""Seconds for which a body may come at any speed."""
_HARDLY: Final = 10
_USELESS: Final = 6  # seconds without a message that are as bad as an idle one

# Compared for each read, and an enumeration is slow to look into
_BDAT: Final = State.BDAT
_ENDED: Final = State.ENDED

logger: logging.Logger = logging.getLogger("ehlo.server")


class DeadlineError(Exception):
    """Raised at the await when the deadline of a session has passed."""


class GoneError(Exception):
    """Raised by a coroutine that has nothing more to do, since the client has gone."""


def _not_awaited(_result: object) -> NoReturn:
    """Fail at once, since the session would wait for ever."""
    raise RuntimeError("a wait has ended before it was awaited")


class Wait(Generic[T]):
    """Ends once, from the loop, and never before it is awaited (`RuntimeError`).

    Example::

        wait: Wait[None] = Wait()
        timer = loop.call_later(1.0, wait.end, None)
        try:
            await wait
        finally:
            timer.cancel()
    """

    __slots__ = ("resume",)

    def __init__(self) -> None:
        self.resume: Callable[[T], object] | None = _not_awaited
        """Called with the result; `None` when nothing awaits it any more."""

    def __await__(self) -> Generator[Wait[T], T, T]:
        return (yield self)

    def end(self, result: T) -> bool:
        """Resume the coroutine that awaits this; return whether one does."""
        resume, self.resume = self.resume, None
        if resume is None:
            return False
        resume(result)
        return True


class AwaitSlot:
    """Runs the one coroutine that a session awaits.

    Example::

        slot.begin(answers.message(event))
        slot.expire()                       # raises DeadlineError in it, at its await
        slot.drop()                         # closes it
    """

    __slots__ = ("_over", "_wait", "work")

    def __init__(self, over: Callable[[Exception | None], None]) -> None:
        """`over` is called after each coroutine that has waited, with its exception."""
        self._over = over
        self._wait: Wait[Any] | None = None
        self.work: Work | None = None
        """The coroutine under way; only the slot itself sets it."""

    def begin(self, work: Work) -> bool:
        """Run `work` until it waits, and return whether it does.

        Raises `RuntimeError` if something is awaited already, and what `work` raises.
        """
        if self.work is not None:
            work.close()
            raise RuntimeError("the session awaits something else already")
        self.work = work
        try:
            wait = work.send(None)
            if self.work is work:
                self._wait = wait
                wait.resume = self._resume  # an AttributeError if this is no Wait
                return True
            wait.resume = None  # the coroutine was dropped while it ran
            _close(work)
        except BaseException as end:
            if self.work is work:
                self.work = self._wait = None
            if type(end) is not StopIteration:
                _close(work)
                raise
        return False

    def expire(self) -> None:
        """Raise `DeadlineError` in the coroutine."""
        if self.work is None or self._wait is None:
            raise RuntimeError("the session awaits nothing")
        self._wait.resume = None
        self._resume(None, DeadlineError())

    def drop(self) -> None:
        """Close the coroutine, if there is one; `over` is not called.

        One that is running just now, as where a log handler ends the session, is closed at its
        next await.
        """
        work, wait = self.work, self._wait
        self.work = self._wait = None
        if wait is not None:
            wait.resume = None
        if work is not None and inspect.getcoroutinestate(work) != inspect.CORO_RUNNING:
            _close(work)

    def retire(self) -> None:
        """Let go of the driver of a session that has ended, which has this slot."""
        self._over = _ignore

    def _resume(self, result: object, problem: Exception | None = None) -> None:
        """Continue with the result of the wait, or with an exception."""
        work, error = self.work, None
        assert work is not None  # noqa: S101  a wait that was let go of resumes nothing
        try:
            wait = work.send(result) if problem is None else work.throw(problem)
            if self.work is work:
                self._wait = wait
                wait.resume = self._resume
            else:
                wait.resume = None
                _close(work)
            return
        except StopIteration:
            pass
        except Exception as failure:  # noqa: BLE001  the driver knows what to do
            error = failure
            _close(work)
        finally:
            problem = None  # its traceback refers to this frame, and to what it was thrown into
        if self.work is work:
            self.work = self._wait = None
            try:
                self._over(error)
            finally:
                del error  # its traceback refers to this frame


def _close(work: Work) -> None:
    """Close a coroutine; its failure then must not keep the session from ending."""
    try:
        work.close()
    except Exception as error:  # noqa: BLE001  see above
        log_failure(logger, error, "a coroutine could not be closed")


def _ignore(_error: Exception | None) -> None:
    pass


class Pace:
    """Measures one body; the time in which the server does not read it does not count."""

    __slots__ = ("_began", "_from", "_held")

    def __init__(self, now: float, received: int) -> None:
        """Begin with the first read; `received` is what its connection has brought so far."""
        self._began = now
        self._from = received
        self._held: float | None = None  # since when it is not read

    def hold(self, now: float) -> None:
        """Stop the clock: the body is not read."""
        if self._held is None:
            self._held = now

    def is_slow(self, now: float, received: int, rate: int) -> bool:
        """Return whether the body has come less than `_HARDLY` times as fast as it must."""
        seconds = now - self._began
        return seconds > _USELESS and received - self._from < seconds * rate * _HARDLY

    def due(self, now: float, received: int, rate: int) -> float:
        """Return when it is too late for the next byte, at `rate` bytes per second."""
        if self._held is not None:
            self._began += now - self._held
            self._held = None
        return self._began + GRACE + (received - self._from) / rate


class Deadlines:
    """Keeps the deadline of one session: `at`, by the loop's clock."""

    __slots__ = ("_clock", "_ended", "_heard", "_read_by", "_times", "at", "moved", "pace")

    def __init__(self, clock: Callable[[], float], times: Times) -> None:
        self._clock = clock
        self._times = times
        self._read_by = math.inf  # while the client does not read
        self._heard = self._ended = clock()  # when the client did something, and its last message
        self.at: float = math.inf
        self.moved: bool = False
        """Whether the client has done something for which the next sweep sets the deadline."""
        self.pace: Pace | None = None
        """That of a body that has begun."""

    def allow(self, seconds: float) -> None:
        """Set the deadline `seconds` from now."""
        self.at, self.moved = self._clock() + seconds, False

    def allow_first(self) -> None:
        """Set the deadline for the first command of a client, or the first under TLS."""
        self._heard = now = self._clock()
        self.at, self.moved = now + self._times.first, False

    def allow_command(self) -> None:
        """Set the deadline for the client's next command."""
        self._heard = now = self._clock()
        self.at, self.moved = now + self._times.command, False

    def allow_handshake(self) -> None:
        """Set the deadline for a TLS handshake."""
        self._heard = now = self._clock()
        self.at, self.moved = now + self._times.tls, False

    def allow_hook(self) -> None:
        """Set the deadline of a hook; a disk has the same, and memory to become free."""
        self.at, self.moved = self._clock() + self._times.handler, False

    def allow_hook_after(self, spent: float) -> bool:
        """Set the deadline of a hook that has run for `spent` seconds; return whether any is left.

        A hook that only notifies has its time from when it begins, not while it waits its turn.
        """
        left = self._times.handler - spent
        if left > 0:
            self.allow(left)
        return left > 0

    def allow_pause(self, seconds: float) -> None:
        """Set the deadline for a pause of the server's own, far behind its end."""
        self.allow(seconds + self._times.command)

    def allow_last_words(self, seconds: float) -> None:
        """Set the deadline for the last replies to leave; no longer than for any other reply."""
        self.allow(min(seconds, self._times.command))

    def client_stops_reading(self) -> None:
        """Note the time by which the client must read again; see `client_must_read`."""
        self._heard = now = self._clock()
        self._read_by = now + self._times.command

    def client_must_read(self) -> None:
        """Set the deadline for the client to read; nothing else extends it."""
        self.at, self.moved = self._read_by, False

    def client_waits(self, conversation: Conversation) -> None:
        """Stop the clock of a body while the client waits for the server."""
        if conversation.state is _ENDED:
            self.pace = None
            self._ended = math.inf  # now: the next sweep has the time
        elif self.pace is not None:
            self.pace.hold(self._clock())

    def client_is_awaited(self, conversation: Conversation, wire: Wire, moved: bool) -> None:
        """Set the deadline for the client's next bytes, or for it to read.

        `moved` is whether it has completed a command; otherwise it gets no more time. Each read of
        a body has its deadline, and so has the whole, between its chunks too.
        """
        if not wire.writable:
            if not wire.closing:  # else there was no room for what it does not read
                self.client_must_read()
            return
        in_body = conversation.reader is not None
        if self.pace is not None or in_body or conversation.state is _BDAT:
            if in_body or moved:
                said = wire.received if wire.channel is None else wire.said  # mostly plain
                self.at, self.moved = self._for_body(conversation, said, in_body), False
        elif moved:
            self.moved = True

    def settle(self, conversation: Conversation, wire: Wire) -> None:
        """Set the deadline for a client that was heard since the last sweep, by what it awaits.

        It may be late by the time between two sweeps, and is never early.
        """
        if not self.moved:
            return
        if not wire.writable:
            self.client_must_read()
        elif conversation.reader is not None:  # of which nothing has come
            self.at, self.moved = self._for_body(conversation, wire.said, in_body=True), False
        elif wire.in_handshake:
            self.allow_handshake()
        elif conversation.helo:
            self.allow_command()
        else:
            self.allow_first()
        self._ended = min(self._ended, self._heard)

    def _for_body(self, conversation: Conversation, said: int, in_body: bool) -> float:
        self._heard = now = self._clock()
        times, pace, transaction = self._times, self.pace, conversation.transaction
        if pace is None:
            begun = 0 if transaction is None else transaction.size  # this read may have brought
            self.pace = pace = Pace(now, said - begun)
        elif not in_body and transaction is None:
            self.pace = None
            return now + times.command
        due = now + (times.body if in_body else times.command)
        rate = times.min_body_rate
        return min(due, pace.due(now, said, rate)) if rate else due

    def idleness(self, received: int) -> float:
        """Return the seconds for which the client has been idle, if it is awaited.

        Commands that lead to no message count as a part of that, and so does a body that is hardly
        faster than it must be; `received` is what its connection has brought so far.
        """
        now, pace = self._clock(), self.pace
        idle = now - self._heard
        if pace is not None and not pace.is_slow(now, received, self._times.min_body_rate):
            return idle
        return max(idle, (now - self._ended) / _USELESS)
