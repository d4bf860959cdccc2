"""By when something must have happened, whatever a session waits for: one deadline at a time.

It is only noted here; the server's sweep looks at all of them, so that there is no timer to arm
or to cancel on the way of a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from ehlo.protocol.conversation import Conversation
from ehlo.protocol.state import State
from ehlo.server.driving.wire import Wire
from ehlo.server.limits.pace import Pace
from ehlo.server.options.rules import Rules

__all__ = ["Deadlines"]

# Compared for each read, and an enumeration is slow to look into
_BDAT: Final = State.BDAT
_ENDED: Final = State.ENDED


class Deadlines:
    """Those of one session. `at` is that of now, by the loop's clock."""

    __slots__ = ("_pace", "_read_by", "_rules", "_time", "at")

    def __init__(self, rules: Rules, time: Callable[[], float]) -> None:
        self._rules = rules
        self._time = time
        self._pace: Pace | None = None  # of a body that has begun
        self._read_by = math.inf  # while the client does not read what we say
        self.at = math.inf

    def allow(self, seconds: float) -> None:
        """So many from now on."""
        self.at = self._time() + seconds

    def allow_command(self) -> None:
        """The time that a client has for a command."""
        self.at = self._time() + self._rules.command_timeout

    def allow_hook(self) -> None:
        """The time that a hook has; a disk has the same, and memory to become free."""
        self.at = self._time() + self._rules.handler_timeout

    def allow_last_words(self, seconds: float) -> None:
        """The time that they have to leave: a client that does not read has no more for them."""
        self.allow(min(seconds, self._rules.command_timeout))

    def client_stops_reading(self) -> None:
        """What we say does not leave any more; `client_must_read` holds the client to that."""
        self._read_by = self._time() + self._rules.command_timeout

    def client_must_read(self) -> None:
        """Only that is awaited, and nothing else wins it time."""
        self.at = self._read_by

    def client_waits(self, conversation: Conversation) -> None:
        """It is our turn, and our time is not the client's: its body comes no slower for it."""
        pace = self._pace
        if pace is not None:
            if conversation.state is _ENDED:
                self._pace = None
            else:
                pace.hold(self._time())

    def client_is_awaited(self, conversation: Conversation, wire: Wire, moved: bool) -> None:
        """It is the client's turn. What completes no command, as `moved` says, wins no time.

        Each read of a body has its deadline, and so has the whole, between its chunks too.
        """
        in_body = conversation.body.reader is not None
        if self._pace is not None or in_body or conversation.state is _BDAT:
            if in_body or moved:
                self.at = self._for_body(conversation, wire.said, in_body)
        elif moved:
            rules, channel = self._rules, wire.channel
            clear = channel is None or channel.established
            self.at = self._time() + (rules.command_timeout if clear else rules.tls_timeout)

    def _for_body(self, conversation: Conversation, said: int, in_body: bool) -> float:
        now, rules, pace = self._time(), self._rules, self._pace
        if pace is None:
            self._pace = pace = Pace(now, said)
        elif not in_body and conversation.transaction is None:
            self._pace = None
            return now + rules.command_timeout
        due = now + (rules.body_timeout if in_body else rules.command_timeout)
        rate = rules.min_body_rate
        return min(due, pace.due(now, said, rate)) if rate else due
