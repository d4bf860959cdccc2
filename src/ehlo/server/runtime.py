"""What all connections of one running server share: loop, counters, threads, clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable
from email.utils import formatdate
from operator import itemgetter
from typing import Any, Protocol

from ehlo.message import spool_directory
from ehlo.net import Networks
from ehlo.protocol.reply import Reply
from ehlo.server.driving.holding import Shelf
from ehlo.server.hooks.steps import Steps, Watch
from ehlo.server.limits.admission import Connections, Exempt, FailedLogins, Memory, Turns
from ehlo.server.limits.counters import Attempts, MemoryCounter, Rate
from ehlo.server.observing.journal import about
from ehlo.server.observing.stats import SessionView, Stats
from ehlo.server.options.config import Options
from ehlo.server.options.rules import memory_limit
from ehlo.server.system import machine
from ehlo.server.system.threads import Threads

__all__ = ["Clock", "Occupant", "Runtime"]

_MINUTE, _HOUR = 60.0, 3600.0
_ROOM_EVERY = 0.25  # seconds; to look at all sessions takes its time
_OWN_DESCRIPTORS = 32  # at least, for the process itself and what its handlers open
_DISK_THREADS = 2  # that write bodies; more of them do not make a disk faster

logger = logging.getLogger("ehlo.server")


def _most_connections(asked: int) -> int:
    """Each may have a body on disk: two file descriptors, of those that nobody else needs."""
    descriptors = machine.descriptors()
    if descriptors is None:
        return asked
    own = max(_OWN_DESCRIPTORS, machine.open_descriptors() + _OWN_DESCRIPTORS // 2)
    most = max(1, (descriptors - own) // 2)
    if most >= asked:
        return asked
    logger.warning(
        "%d connections at once, not %d: there are %d file descriptors", most, asked, descriptors
    )
    return most


class Clock:
    """The date for `Received`, made once a second."""

    __slots__ = ("_second", "_text", "_time")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._time = now
        self._second = -1
        self._text = ""

    def date(self) -> str:
        """RFC 5322 3.3: date-time, in local time."""
        second = int(self._time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, localtime=True)
        return self._text


class Occupant(Protocol):
    """One who is connected: a session, or a proxy that has not said yet for whom it speaks."""

    @property
    def deadline(self) -> float:
        """By the loop's clock."""

    @property
    def session_id(self) -> str:
        """Empty where there is none yet."""

    @property
    def resting(self) -> int:
        """Octets of a body in memory that could go to disk now."""

    @property
    def leaving(self) -> int:
        """Octets of a body on their way to disk."""

    def make_room(self) -> None:
        """Have the body that rests in memory written to disk."""

    def expire(self) -> None:
        """The deadline has passed."""

    def drain(self) -> None:
        """The server shuts down: end as soon as that is decent."""

    def hang_up(self, reply: Reply) -> None:
        """End with `reply`."""

    def cut(self) -> None:
        """End now, with whatever is under way."""

    def abort(self) -> None:
        """Close now."""

    def seen(self) -> SessionView | None:
        """What there is to see of a session; `None` where there is none."""


class Runtime:
    """Made when a server starts, gone when it has stopped."""

    def __init__(self, options: Options, exempt: Networks, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        most = _most_connections(options.max_connections)
        self.connections = Connections(most, options.max_connections_per_address)
        self.exempt = Exempt(exempt)
        self.connection_rate = self._rate(options.max_connection_rate, _MINUTE)
        self.message_rate = self._rate(options.max_messages_per_hour, _HOUR)
        self.recipient_rate = self._rate(options.max_recipients_per_hour, _HOUR)
        self.login_failures = Attempts(
            MemoryCounter(loop.time), options.max_auth_failures, FailedLogins.WINDOW
        )
        self.memory = Memory(memory_limit(options))
        self.failed_logins = FailedLogins(loop.time)
        self.clock = Clock()
        self.stats = Stats()
        self._began = loop.time()
        self.threads = Threads(options.threads, "ehlo-hook")
        self.steps = Steps()
        self._watch: Watch | None = None
        self.turns = Turns(options.max_handlers)
        self.disk = Threads(_DISK_THREADS, "ehlo-disk")
        self.shelf = Shelf(self.memory, spool_directory(options.spool_dir), options.spool_threshold)
        self.drivers: set[Occupant] = set()
        self.login_threads = Threads(3, "ehlo-login")  # two check; one reads the file
        self.draining = False
        self.lookups: set[object] = set()  # of clients' names, under way
        self._made_room = -math.inf  # when that was looked at last
        self._sweep_every = 1.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event = asyncio.Event()
        self._prefix = secrets.token_hex(4)
        self._counter = itertools.count(1)

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return self.loop.time() - self._began

    def _rate(self, most: int, window: float) -> Rate:
        return Rate(MemoryCounter(self.loop.time), most, window)

    def heed(self, *timeouts: float) -> None:
        """Look at the deadlines often enough for these."""
        self._sweep_every = min(self._sweep_every, *(timeout / 4 for timeout in timeouts))

    def new_id(self) -> str:
        """An id that no other session of any server has."""
        return f"{self._prefix}{next(self._counter):06x}"

    # -- sessions --------------------------------------------------------------------------------

    def add(self, driver: Occupant) -> None:
        """A session begins."""
        self.drivers.add(driver)
        self._idle.clear()
        if self._sweeper is None:
            self.stats.settle()
            self._sweeper = self.loop.call_later(self._sweep_every, self._sweep)

    def remove(self, driver: Occupant) -> None:
        """A session has ended, its hooks included."""
        self.drivers.discard(driver)
        if not self.drivers:
            self._idle.set()

    async def all_gone(self) -> None:
        """Wait until there is no session."""
        if self.drivers:
            await self._idle.wait()

    def make_room(self) -> None:
        """Too much is held for a message to begin: what waits for its client waits on disk.

        The largest bodies go first, and no more of them than are needed.
        """
        now = self.loop.time()
        if now - self._made_room < _ROOM_EVERY:
            return
        self._made_room = now
        wanted = self.memory.excess - sum(driver.leaving for driver in self.drivers)
        resting = [(octets, driver) for driver in self.drivers if (octets := driver.resting)]
        for octets, driver in sorted(resting, key=itemgetter(0), reverse=True):
            if wanted <= 0:
                return
            driver.make_room()
            wanted -= octets

    def _sweep(self) -> None:
        """One look at all deadlines, instead of a timer for each."""
        now = self.loop.time()
        self.stats.settle()
        if self.memory.excess > 0:
            self.make_room()
        for driver in [driver for driver in self.drivers if driver.deadline < now]:
            try:
                driver.expire()
            except Exception:  # one session's trouble must not end the sweep for all
                log = about(logger, driver.session_id)
                log.exception("could not be ended")
                driver.abort()
        again = self.drivers
        self._sweeper = self.loop.call_later(self._sweep_every, self._sweep) if again else None

    async def in_thread(self, run: Callable[[], Any], threads: Threads | None = None) -> Any:
        """What `run` returns, called in a thread: of the hooks, or of `threads`. Raises as it."""
        ended: asyncio.Future[tuple[Any, BaseException | None]] = self.loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:
            if not ended.cancelled():
                ended.set_result((result, error))

        def tell_in_thread(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # closed: there is nobody to tell
                self.loop.call_soon_threadsafe(tell, result, error)

        (threads or self.threads).submit(run, tell_in_thread)
        result, error = await ended
        if error is not None:
            raise error
        return result

    def watch(self) -> None:
        """Name hooks that block the loop, while they do."""
        self._watch = Watch(self.steps)
        self._watch.start()

    def stop(self) -> None:
        """Let go of what does not end by itself; a thread that is busy is not waited for."""
        if self._watch is not None:
            self._watch.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.threads.stop()
        self.disk.stop()
        self.login_threads.stop()
