"""How a session ends: by its client, a deadline, a shutdown, or the core; amid a hook, too.

A session that is closing reads nothing more from its core; one that is lost has no client. It is
over when the client has gone, nothing is under way, and the handler has been told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.server.driving.notices import Notices
from ehlo.server.hooks.hookrun import HookRun

if TYPE_CHECKING:
    from ehlo.server.driver import Driver
    from ehlo.server.hooks.hooks import Hooks

__all__ = ["Ending"]

_LINGER = 5.0  # seconds for a client to notice that we do not listen any more
_CLOSING = 30.0  # seconds for our last words to leave


class Ending:
    """That of one session."""

    __slots__ = ("closing", "lingering", "lost", "notices")

    def __init__(self, hooks: Hooks) -> None:
        self.notices = Notices(hooks)
        self.closing = False  # no more is read from the core
        self.lingering = False  # what comes is thrown away
        self.lost = False  # the client has gone

    def never_began(self) -> None:
        """There is no session, and nothing to count out."""
        self.lost = self.closing = True

    # -- by the client ---------------------------------------------------------------------------

    def client_has_gone(self, driver: Driver) -> None:
        """A message that is here stays wanted, and so does what a handler is told."""
        if self.lost:
            return
        self.lost = self.closing = True
        driver.delivery.drop_body()
        pending = driver.pending
        if pending is None:
            self.settle(driver)
        elif self.notices.are_under_way(driver) or driver.delivery.has_message:
            return
        elif isinstance(pending, HookRun):
            pending.cancel()  # and its end is awaited
        else:
            driver.pending = None
            pending.cancel()
            self.settle(driver)

    def settle(self, driver: Driver) -> None:
        """When the client has gone and nothing is under way any more, this is the end."""
        if self.lost and driver.pending is None and not self.notices.tell_next(driver):
            driver.count_out()

    # -- by a deadline ---------------------------------------------------------------------------

    def expire(self, driver: Driver) -> None:
        """The deadline has passed: of what we wait for, of the client, or of our last words."""
        pending = driver.pending
        if self.closing and not self.lost:
            self.abort(driver)
        elif pending is not None:
            pending.expire()
        else:
            self.time_out(driver)

    def time_out(self, driver: Driver) -> None:
        """The client was too slow; one that does not read will not read that, either."""
        reads = driver.wire.has_sent_all
        self.hang_up(driver, driver.rules.settings.timed_out)
        if not reads:
            driver.deadlines.allow(0.0)

    # -- by a shutdown ---------------------------------------------------------------------------

    def drain(self, driver: Driver) -> None:
        """At once without a transaction, else when it has ended."""
        if self.closing or self.notices.is_due or self.notices.are_under_way(driver):
            return  # what comes next is asked for when that has been told
        if not driver.connection.in_transaction:
            self.hang_up(driver, replies.DRAINING)

    def cut(self, driver: Driver) -> None:
        """End the session now, with whatever hook is under way."""
        self._drop_pending(driver)
        self.abort(driver)
        self.settle(driver)

    # -- how -------------------------------------------------------------------------------------

    def hang_up(self, driver: Driver, reply: Reply) -> None:
        """Say `reply` and close, whatever the client was doing."""
        if self.closing:
            return
        if driver.wire.in_handshake:
            self.abort(driver)
            return
        self._drop_pending(driver)
        driver.connection.hang_up(reply)
        driver.advance()

    def _drop_pending(self, driver: Driver) -> None:
        """Nobody waits any more for what the core waited for."""
        pending, driver.pending = driver.pending, None
        if isinstance(pending, HookRun):
            driver.delivery.hand_over(pending)
            pending.note_not_called()
        self.notices.will_not_be_sent(driver.delivery.give_up())
        if pending is not None:
            pending.cancel()

    def close(self, driver: Driver, *, linger: bool) -> None:
        """Send what is there to send, then close."""
        driver.flush()
        self.closing = True
        driver.delivery.drop_body()
        if not self.lost:
            self.lingering = driver.wire.close(linger=linger)
            driver.deadlines.allow_last_words(_LINGER if self.lingering else _CLOSING)

    def abort(self, driver: Driver) -> None:
        """Close now, and lose what could not be sent."""
        self.closing = True
        if not self.lost:
            driver.wire.abort()
