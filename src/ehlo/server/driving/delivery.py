"""A body on its way in, and the message made of it, until its reply is said.

What is held of it counts in the server's memory. Once the whole of it is here it stays wanted,
whatever becomes of the client.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.server.driving.holding import Holding, Shelf
from ehlo.server.driving.stamp import Stamp
from ehlo.server.driving.waits import DiskRun, MemoryWait, Then
from ehlo.server.observing.journal import about

if TYPE_CHECKING:
    from ehlo.server.driver import Driver
    from ehlo.server.hooks.hookrun import HookRun

__all__ = ["Delivery"]

logger = logging.getLogger("ehlo.server")

_TRACE = 2048  # octets that our own field may have


class Delivery:
    """That of one session: one message at a time."""

    __slots__ = ("_count", "_due", "holding", "message", "stamp")

    def __init__(self, shelf: Shelf) -> None:
        self._count = 0
        self._due = False  # a whole message is here, and on its way to the handler
        self.holding = Holding(shelf)
        self.stamp = Stamp()
        self.message: Message | None = None  # handed to on_message, its reply not yet said

    @property
    def has_message(self) -> bool:
        """Whether a whole message is here, its reply not yet said."""
        return self._due or self.message is not None

    def next_id(self, driver: Driver) -> str:
        """The next message's: the session's id and a count."""
        self._count += 1
        return f"{driver.session.id}.{self._count}"

    # -- the body --------------------------------------------------------------------------------

    def spill(self, driver: Driver) -> None:
        """Have what is in memory of the body written to disk, before there is more of it."""
        self._write_down(driver, partial(self._spilled, driver))

    def make_room(self, driver: Driver) -> None:
        """The same, while the client is awaited: its deadline stays what it was."""
        self._write_down(driver, partial(self._made_room, driver, driver.deadlines.at))

    def _made_room(self, driver: Driver, deadline: float, well: bool) -> None:
        driver.deadlines.at = deadline
        self._spilled(driver, well)

    def _write_down(self, driver: Driver, then: Then) -> None:
        driver.wait_for(DiskRun(driver, self.holding.spill(), then))

    def _spilled(self, driver: Driver, well: bool) -> None:
        if not well:
            driver.connection.refuse_body(replies.NO_MEMORY)
            self.drop_body()

    def drop_body(self) -> None:
        """Throw away what there is of a body; what a handler has, or will have, is still held."""
        if not self.has_message:
            self.holding.release()

    # -- the message -----------------------------------------------------------------------------

    def prepare(self, driver: Driver, takes_bytes: bool, then: Then) -> None:
        """Have the whole of a body where its message's handler can read it, then go on.

        Where the handler `takes_bytes`, there must be memory for all of them beside the file.
        """
        self._due = True
        if self.holding.must_be_finished:
            self._write_down(driver, partial(self._written, driver, takes_bytes, then))
        else:
            self._written(driver, takes_bytes, then, well=True)

    def _written(self, driver: Driver, takes_bytes: bool, then: Then, well: bool) -> None:
        spool = self.holding.spool
        octets = spool.size + _TRACE if takes_bytes and spool is not None else 0
        if not well or not octets or driver.runtime.memory.reserve_due(octets):
            self.holding.claim_all(octets if well else 0)
            then(well)
            return
        wait = MemoryWait(driver, then)
        if wait.start(octets):
            driver.wait_for(wait)
        else:
            about(logger, driver.session.id).warning("a message is larger than max_memory")
            then(False)

    def answered(self) -> Message | None:
        """The reply has been said: let go of the message, and say which it was."""
        message, self.message = self.message, None
        self._due = False
        self.holding.release()
        return message

    def hand_over(self, run: HookRun) -> None:
        """Nobody waits for `run` any more; what it has of a message counts until it ends."""
        if self.message is not None:
            run.octets = self.holding.hand_over()

    def give_up(self) -> Message | None:
        """No reply will be said; the message that would have had it."""
        message, self.message = self.message, None
        self._due = False
        return message
