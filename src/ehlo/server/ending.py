"""How a session ends: by its client, a deadline, a shutdown, or the core; amid a hook, too.

A session that is closing reads nothing more from its core; one that is lost has no client. It is
over when the client has gone, nothing is under way, and the handler has been told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.server.hookrun import HookRun
from ehlo.server.notices import Notices

if TYPE_CHECKING:
    from ehlo.server.driver import Driver
    from ehlo.server.hooks import Hooks

__all__ = ["Ending"]

_LINGER = 5.0  # seconds for a client to notice that we do not listen any more
_CLOSING = 30.0  # seconds for our last words to leave


class Ending:
    """That of one session."""

    __slots__ = ("_driver", "closing", "lingering", "lost", "notices")

    def __init__(self, driver: Driver, hooks: Hooks) -> None:
        self._driver = driver
        self.notices = Notices(driver, hooks)
        self.closing = False  # no more is read from the core
        self.lingering = False  # what comes is thrown away
        self.lost = False  # the client has gone

    def never_began(self) -> None:
        """There is no session, and nothing to count out."""
        self.lost = self.closing = True

    # -- by the client ---------------------------------------------------------------------------

    def client_has_gone(self) -> None:
        """A message that is here stays wanted, and so does what a handler is told."""
        if self.lost:
            return
        self.lost = self.closing = True
        driver = self._driver
        driver.intake.drop_body()
        pending = driver.pending
        if pending is None:
            self.settle()
        elif self.notices.are_under_way or driver.intake.has_message:
            return
        elif isinstance(pending, HookRun):
            pending.cancel()  # and its end is awaited
        else:
            driver.pending = None
            pending.cancel()
            self.settle()

    def settle(self) -> None:
        """When the client has gone and nothing is under way any more, this is the end."""
        if self.lost and self._driver.pending is None and not self.notices.tell_next():
            self._driver.count_out()

    # -- by a deadline ---------------------------------------------------------------------------

    def expire(self) -> None:
        """The deadline has passed: of what we wait for, of the client, or of our last words."""
        pending = self._driver.pending
        if self.closing and not self.lost:
            self.abort()
        elif pending is not None:
            pending.expire()
        else:
            self.time_out()

    def time_out(self) -> None:
        """The client was too slow."""
        self.hang_up(self._driver.rules.settings.timed_out)

    # -- by a shutdown ---------------------------------------------------------------------------

    def drain(self) -> None:
        """At once without a transaction, else when it has ended."""
        if self.closing or self.notices.is_due or self.notices.are_under_way:
            return  # what comes next is asked for when that has been told
        if not self._driver.connection.in_transaction:
            self.hang_up(replies.DRAINING)

    def cut(self) -> None:
        """End the session now, with whatever hook is under way."""
        self._drop_pending()
        self.abort()
        self.settle()

    # -- how -------------------------------------------------------------------------------------

    def hang_up(self, reply: Reply) -> None:
        """Say `reply` and close, whatever the client was doing."""
        driver = self._driver
        if self.closing:
            return
        if driver.wire.in_handshake:
            self.abort()
            return
        self._drop_pending()
        driver.connection.hang_up(reply)
        driver.advance()

    def _drop_pending(self) -> None:
        """Nobody waits any more for what the core waited for."""
        driver = self._driver
        pending, driver.pending = driver.pending, None
        if isinstance(pending, HookRun):
            driver.intake.hand_over(pending)
            pending.note_not_called()
        self.notices.will_not_be_sent(driver.intake.give_up())
        if pending is not None:
            pending.cancel()

    def close(self, *, linger: bool) -> None:
        """Send what is there to send, then close."""
        driver = self._driver
        driver.flush()
        self.closing = True
        driver.intake.drop_body()
        if not self.lost:
            self.lingering = driver.wire.close(linger=linger)
            driver.deadlines.allow(_LINGER if self.lingering else _CLOSING)

    def abort(self) -> None:
        """Close now, and lose what could not be sent."""
        self.closing = True
        if not self.lost:
            self._driver.wire.abort()
