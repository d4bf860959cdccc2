"""Deadlines: by when something must have happened, one at a time for each session.

A deadline is only noted here; the server's sweep looks at all of them, so that a message needs no
timer. `Pace` is how fast a body must come as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from ehlo.protocol.conversation import Conversation
from ehlo.protocol.state import State
from ehlo.server.options.rules import Times
from ehlo.server.wire import Wire

__all__ = ["GRACE", "Deadlines", "Pace"]

GRACE = 60.0
"""Seconds for which a body may come at any speed."""

# Compared for each read, and an enumeration is slow to look into
_BDAT: Final = State.BDAT
_ENDED: Final = State.ENDED


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

    def due(self, now: float, received: int, rate: int) -> float:
        """Return when it is too late for the next byte, at `rate` bytes per second."""
        if self._held is not None:
            self._began += now - self._held
            self._held = None
        return self._began + GRACE + (received - self._from) / rate


class Deadlines:
    """Keeps the deadline of one session: `at`, by the loop's clock."""

    __slots__ = ("_clock", "_pace", "_read_by", "_times", "at")

    def __init__(self, clock: Callable[[], float], times: Times) -> None:
        self._clock = clock
        self._times = times
        self._pace: Pace | None = None  # of a body that has begun
        self._read_by = math.inf  # while the client does not read
        self.at = math.inf

    def allow(self, seconds: float) -> None:
        """Set the deadline `seconds` from now."""
        self.at = self._clock() + seconds

    def allow_command(self) -> None:
        """Set the deadline for the client's next command."""
        self.at = self._clock() + self._times.command

    def allow_handshake(self) -> None:
        """Set the deadline for a TLS handshake."""
        self.at = self._clock() + self._times.tls

    def allow_hook(self) -> None:
        """Set the deadline of a hook; a disk has the same, and memory to become free."""
        self.at = self._clock() + self._times.handler

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
        self._read_by = self._clock() + self._times.command

    def client_must_read(self) -> None:
        """Set the deadline for the client to read; nothing else extends it."""
        self.at = self._read_by

    def client_waits(self, conversation: Conversation) -> None:
        """Stop the clock of a body while the client waits for the server."""
        pace = self._pace
        if pace is not None:
            if conversation.state is _ENDED:
                self._pace = None
            else:
                pace.hold(self._clock())

    def client_is_awaited(self, conversation: Conversation, wire: Wire, moved: bool) -> None:
        """Set the deadline for the client's next bytes, or for it to read.

        `moved` is whether it has completed a command; otherwise it gets no more time. Each read of
        a body has its deadline, and so has the whole, between its chunks too.
        """
        if not wire.writable:
            self.at = self._read_by
            return
        in_body = conversation.reader is not None
        if self._pace is not None or in_body or conversation.state is _BDAT:
            if in_body or moved:
                said = wire.received if wire.channel is None else wire.said
                self.at = self._for_body(conversation, said, in_body)
        elif moved:
            times, channel = self._times, wire.channel
            clear = channel is None or channel.established
            self.at = self._clock() + (times.command if clear else times.tls)

    def _for_body(self, conversation: Conversation, said: int, in_body: bool) -> float:
        now, times, pace = self._clock(), self._times, self._pace
        if pace is None:
            self._pace = pace = Pace(now, said)
        elif not in_body and conversation.transaction is None:
            self._pace = None
            return now + times.command
        due = now + (times.body if in_body else times.command)
        rate = times.min_body_rate
        return min(due, pace.due(now, said, rate)) if rate else due
