"""Runtime: what all sessions of a running server share, and the sweep of their deadlines.

`Runtime.to_loop` is the only way from a thread to the loop. `Quota` is a session's share of it, and
stands here because of that: the file is longer than others.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from operator import itemgetter
from typing import TypeVar, cast

from ehlo.message import spool_directory
from ehlo.net import Networks, Peer
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.conversation import Admission
from ehlo.protocol.reply import Reply
from ehlo.server.limits import (
    Attempts,
    Exempt,
    FailedLogins,
    MemoryCounter,
    Rate,
    Turns,
)
from ehlo.server.lookups import Lookups
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import about
from ehlo.server.observing.stats import SessionView, Stats
from ehlo.server.observing.steps import Steps, Watch
from ehlo.server.options.config import Options, spool_threshold
from ehlo.server.options.rules import disk_limit, memory_limit
from ehlo.server.overhead import Overhead
from ehlo.server.places import Connections
from ehlo.server.space import Disk, Memory, Stored
from ehlo.server.system import machine
from ehlo.server.system.threads import Threads
from ehlo.session import ProxyInfo

T = TypeVar("T")

_MINUTE, _HOUR = 60.0, 3600.0
_ROOM_EVERY = 0.25  # seconds; looking at all sessions takes time
_LEAST_IDLE = 10.0  # seconds after which a session may be closed for others
_FREE_ENVELOPE = 8_192  # bytes of a client's recipients that do not count
_MOST_IN_MEMORY = 16_777_216  # bytes of a body
_DISK_THREADS = 2  # that write bodies; more of them do not make a disk faster

logger: logging.Logger = logging.getLogger("ehlo.server")


class Ending(enum.Enum):
    """How a session is ended by its server."""

    DRAIN = "at once outside of a transaction, otherwise when it has ended"
    HANG_UP = "with a last reply, whatever the client was doing"
    ABORT = "now, with any hook that is under way"


class Occupant(asyncio.Protocol):
    """A connection: a session, or a proxy that has not sent its header."""

    __slots__ = ()

    @property
    def deadline(self) -> float:
        """When `expire` is called, by the loop's clock."""
        return math.inf

    @property
    def session_id(self) -> str:
        """The session's id; empty if there is no session yet."""
        return ""

    def resting(self, _memory: Memory, /) -> int:
        """Return the bytes of a body, counted in this memory, that could be on disk."""
        return 0

    def make_room(self) -> None:
        """Write the body that rests in memory to disk."""

    @property
    def idleness(self) -> float:
        """The seconds for which the client has been idle; 0 unless it is awaited."""
        return 0.0

    def expire(self) -> None:
        """Called when the deadline has passed."""
        raise NotImplementedError

    def end(self, how: Ending, /) -> None:
        """End the connection."""
        raise NotImplementedError

    def seen(self) -> SessionView | None:
        """Return what a snapshot shows of the session; `None` if there is none."""
        return None


class Clock:
    """Returns the date for `Received`, made once a second."""

    __slots__ = ("_second", "_text", "_time")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._time = now
        self._second = -1
        self._text = ""

    def date(self) -> str:
        """Return the date-time of RFC 5322 3.3, in local time."""
        second = int(self._time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, localtime=True)
        return self._text


class Runtime:
    """Exists from the start of a server to its end."""

    def __init__(
        self,
        options: Options,
        exempt: Networks,
        loop: asyncio.AbstractEventLoop,
        *,
        streams: bool = False,
    ) -> None:
        """`streams` is `Handler.streams`."""
        self.loop = loop
        machine.adapt_malloc()
        most = machine.most_connections(options.max_connections)
        self.connections: Connections = Connections(most, options.max_connections_per_address)
        self.exempt: Exempt = Exempt(exempt)
        self.connection_rate: Rate = self._rate(options.max_connection_rate, _MINUTE)
        self.message_rate: Rate = self._rate(options.max_messages_per_hour, _HOUR)
        self.recipient_rate: Rate = self._rate(options.max_recipients_per_hour, _HOUR)
        self.login_failures: Attempts = Attempts(
            MemoryCounter(loop.time), options.max_auth_failures, FailedLogins.WINDOW
        )
        self.failed_logins: FailedLogins = FailedLogins(loop.time)
        self.max_memory: int = memory_limit(options)
        self.small: Memory = Memory(self.max_memory // 8)
        """The memory that is kept for small bodies, for when the other is short."""
        self.memory: Memory = Memory(self.max_memory - self.small.limit)
        self.overhead: Overhead = Overhead(self.memory)
        self.directory: str = spool_directory(options.spool_dir)
        self.disk: Disk = Disk(disk_limit(options))
        if not self.directory:
            logger.warning(
                "no writable directory for temporary files; set spool_dir, or messages that "
                "would be buffered on disk are rejected with 452"
            )
        self.threshold: int = spool_threshold(options)
        self._most = self.threshold  # bytes of a body, while half of the memory is free
        if options.spool_threshold is None and not streams:
            self._most = _MOST_IN_MEMORY
        self.clock: Clock = Clock()
        self.stats: Stats = Stats()
        self.threads: Threads = Threads(options.threads, "ehlo-hook")
        self.disk_threads: Threads = Threads(_DISK_THREADS, "ehlo-disk")
        self.login_threads: Threads = Threads(3, "ehlo-login")  # two check; one reads the file
        self.steps: Steps = Steps()
        self._watch: Watch | None = None
        self.turns: Turns = Turns(options.max_handlers)
        self.thread_turns: Turns = Turns(options.threads)
        self.lookups: Lookups = Lookups(self.to_loop)
        self.drivers: set[Occupant] = set()
        self.draining = False
        self._began = loop.time()
        self._made_room: dict[Memory, tuple[float, bool]] = {}  # when, and whether it was enough
        self._sweep_every = 1.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None  # while something waits for it
        self._gate = threading.RLock()  # of `to_loop`; a signal's handler may call it within itself
        self._stopped = False
        self._prefix = secrets.token_hex(4)
        self._counter = itertools.count(1)

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return self.loop.time() - self._began

    def _rate(self, most: int, window: float) -> Rate:
        return Rate(MemoryCounter(self.loop.time), most, window)

    def heed(self, *timeouts: float) -> None:
        """Set the sweep so that it is often enough for these timeouts."""
        self._sweep_every = min(self._sweep_every, *(timeout / 4 for timeout in timeouts))

    def new_id(self) -> str:
        """Return an id that no other session of any server has."""
        return f"{self._prefix}{next(self._counter):06x}"

    # -- sessions --------------------------------------------------------------------------------

    def add(self, occupant: Occupant) -> None:
        """Note a connection that begins."""
        self.drivers.add(occupant)
        if self._sweeper is None:
            self.stats.settle()
            self._sweeper = self.loop.call_later(self._sweep_every, self._sweep)

    def remove(self, occupant: Occupant) -> None:
        """Note a connection that has ended, its hooks included."""
        self.drivers.discard(occupant)
        if self._idle is not None and not self.drivers:
            self._idle.set()

    async def all_gone(self) -> None:
        """Wait until there is no connection."""
        while self.drivers:
            self._idle = idle = self._idle or asyncio.Event()
            await idle.wait()
            self._idle = None

    def make_room(self, memory: Memory, *, claimed: bool = False) -> bool:
        """Write bodies that rest in `memory` to disk, if too much is held there or is `claimed`.

        The largest bodies go first, and no more of them than are needed. Return whether there is
        room, or has been at the last look: what came since then is written at the next one.
        """
        now, lacking = self.loop.time(), memory.lacking
        if lacking <= 0:
            return True
        at, enough = self._made_room.get(memory, (0.0, True))
        if not claimed and now < at + _ROOM_EVERY:
            return enough
        resting = [(size, each) for each in self.drivers if (size := each.resting(memory))]
        for size, each in sorted(resting, key=itemgetter(0), reverse=True):
            each.make_room()
            lacking -= size
            if lacking <= 0:
                break
        self._made_room[memory] = now, lacking <= 0
        return lacking <= 0

    def keeps_in_memory(self, size: int) -> bool:
        """Return whether a body of this size need not go to disk now."""
        if size <= self.threshold:
            return True
        return size <= self._most and self.memory.held <= self.memory.limit // 2

    def has_room(self) -> bool:
        """Return whether there is memory for one more small body, as soon as others have left."""
        self.make_room(self.memory)
        return self.make_room(self.small)

    def _sweep(self) -> None:
        """Look at all deadlines, instead of having a timer for each."""
        now = self.loop.time()
        self.stats.settle()
        self.make_room(self.memory)
        self.make_room(self.small)
        if (excess := self.connections.excess) > 0:
            self._shed(excess)
        for each in [each for each in self.drivers if each.deadline < now]:
            self._expire(each)
        again = self.drivers
        self._sweeper = self.loop.call_later(self._sweep_every, self._sweep) if again else None

    def _shed(self, most: int) -> None:
        """Close the sessions that have been idle longest, since hardly a place is free."""
        idle = [(each.idleness, each) for each in self.drivers]
        idle.sort(key=itemgetter(0), reverse=True)
        shed = [each for seconds, each in idle[:most] if seconds >= _LEAST_IDLE]
        if shed:
            logger.warning("too few places: idle sessions are closed (count=%d)", len(shed))
        for each in shed:
            self._expire(each)

    def _expire(self, each: Occupant) -> None:
        try:
            each.expire()
        except Exception as error:  # noqa: BLE001  which must not end the sweep for all
            log = about(logger, each.session_id)
            log_failure(log, error, "the session could not be ended")
            each.end(Ending.ABORT)

    # -- threads ---------------------------------------------------------------------------------

    def to_loop(self, call: Callable[[], None]) -> bool:
        """Call `call` in the loop, from any thread; return `False` if that is over.

        It is over from `stop` on: a loop that closes soon would drop the call and say nothing.
        In debug mode a loop logs the arguments of a `partial`: a secret belongs into a closure.
        """
        with self._gate:
            if self._stopped:
                return False
            try:
                self.loop.call_soon_threadsafe(call)
            except RuntimeError:  # the loop was closed before the server
                return False
        return True

    async def in_thread(self, run: Callable[[], T], threads: Threads | None = None) -> T:
        """Return what `run` returns, called in a thread: of the hooks, or of `threads`.

        Raises what it raises.
        """
        ended: asyncio.Future[T] = self.loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            def tell() -> None:
                if ended.cancelled():
                    return
                if error is not None:
                    ended.set_exception(error)
                else:
                    ended.set_result(cast("T", result))

            self.to_loop(tell)  # nothing waits for it after the end

        (threads or self.threads).submit(run, done)
        return await ended

    def watch(self) -> None:
        """Log hooks that block the loop, while they do."""
        self._watch = Watch(self.steps)
        self._watch.start()

    def stop(self) -> None:
        """Let go of what does not end by itself; does not wait for a thread that is busy."""
        with self._gate:
            self._stopped = True
        if self._watch is not None:
            self._watch.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.threads.stop()
        self.disk_threads.stop()
        self.login_threads.stop()
        self.lookups.stop()


class Quota(Admission):
    """Counts what one session does under its address; a key of `None` is exempt.

    A proxy's connections are its own, and what is sent over them is its client's.
    """

    __slots__ = ("_envelope", "_key", "_runtime", "counts_recipients", "key")

    def __init__(self, runtime: Runtime, peer: Peer, proxy: ProxyInfo | None) -> None:
        self.counts_recipients: bool = runtime.recipient_rate.most > 0
        unknown = proxy is not None and proxy.peer == peer  # a proxy is many clients, or none
        self._runtime = runtime
        self._key = None if unknown else runtime.exempt.key(peer)
        self.key = self._key
        """The key of the client's address."""
        self._envelope = 0  # bytes of recipients

    def open(self) -> bool:
        """Count a connection; return whether its address may have one more."""
        runtime, key = self._runtime, self._key
        if not runtime.connections.admit(key):
            return False
        if runtime.connection_rate.admit(key):
            return True
        runtime.connections.release(key)
        return False

    def close(self) -> None:
        """Stop counting the connection, and what it holds."""
        self._runtime.connections.release(self._key)
        if self._envelope:
            self.hold(-self._envelope)

    def speak_for(self, peer: Peer) -> None:
        """Count what the session does from now on under the address of `peer`."""
        self.key = self._runtime.exempt.key(peer)

    def speak_for_itself(self) -> None:
        """Count what the session does under the address that is connected, as in the beginning."""
        self.key = self._key

    def store(self) -> Stored:
        """Return the count of a new file, under its address."""
        return Stored(self._runtime.disk, self.key)

    def admit_sender(self, sender: Address) -> Reply | None:
        """Count a message; return the rejection if there is no room, or too many were sent."""
        runtime, memory, params = self._runtime, self._runtime.memory, sender.params
        asks = memory.held > memory.comfortable or params
        if asks and not self._has_room(params.get("SIZE", 0)):
            return replies.NO_MEMORY
        rate = runtime.message_rate
        return replies.TOO_MUCH_MAIL if rate.most and not rate.admit(self.key) else None

    def _has_room(self, size: int) -> bool:
        """Return whether there is room for a message of this size, as far as that is known."""
        runtime, memory = self._runtime, self._runtime.memory
        if memory.held > memory.comfortable and not runtime.has_room():
            return False
        return runtime.keeps_in_memory(size) or runtime.disk.has(self.key, size)

    def admit_recipient(self) -> Reply | None:
        """Count a recipient; return the rejection if its address has too many."""
        admitted = self._runtime.recipient_rate.admit(self.key)
        return None if admitted else replies.TOO_MUCH_RCPT

    def hold(self, size: int) -> bool:
        """Count bytes of recipients (negative: no more); return whether there is room for them."""
        overhead, most = self._runtime.overhead, max(_FREE_ENVELOPE, self._envelope)
        counted = max(_FREE_ENVELOPE, self._envelope + size) - most
        if counted > 0 and not overhead.hold(counted):
            return False
        if counted < 0:
            overhead.release(-counted)
        self._envelope += size
        return True

    def begin_login(self, *, further: bool) -> Reply | None:
        """Count a login as failed until `end_login`; return the rejection if it is one too many."""
        failures, key = self._runtime.login_failures, self.key
        if not further and failures.spent(key):
            return replies.TOO_MANY_LOGINS
        if not further and not failures.may_begin(key):
            return replies.AUTH_TROUBLE
        failures.begin(key)
        return None

    def end_login(self, *, failed: bool) -> None:
        """Count a login that has ended; one whose client has left has failed."""
        self._runtime.login_failures.end(self.key, failed=failed)
        if failed:
            self._runtime.failed_logins.note(self.key)

    def login_delay(self) -> float:
        """Return the seconds by which the reply to a failed login is delayed."""
        return self._runtime.failed_logins.delay(self.key)
