"""What a handler is told at the end, and not asked: that a reply has left, that a client has gone.

Each is told once, one after the other.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ehlo.message import Message
from ehlo.server.driving.waits import Turn
from ehlo.server.hooks.hookrun import HookRun, Notice
from ehlo.server.hooks.hooks import Hook, Hooks, answer_of

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["Notices"]


class Notices:
    """Those of one session."""

    __slots__ = ("_disconnect", "_replied", "_unsent", "of_replies")

    def __init__(self, hooks: Hooks) -> None:
        self._replied = hooks.replied
        self.of_replies = hooks.replied is not None  # whether the handler wants to know of them
        self._disconnect: Hook | None = hooks.disconnect  # until it is called
        self._unsent: Message | None = None  # answered; its reply may not have left yet

    @property
    def is_due(self) -> bool:
        """Whether it is still to be told of a reply."""
        return self._unsent is not None

    def are_under_way(self, driver: Driver) -> bool:
        """Whether it is being told something."""
        pending = driver.pending
        return isinstance(pending, HookRun) and pending.is_notice

    def tell_when_sent(self, driver: Driver, message: Message) -> None:
        """The final reply has been said; nothing more is, until somebody knows of it."""
        driver.flush()
        self._unsent = message
        driver.pending = Turn(driver, partial(self.look, driver))
        if not driver.wire.writable:
            driver.deadlines.client_must_read()

    def will_not_be_sent(self, message: Message | None) -> None:
        """The session ends before the final reply is said."""
        if self._replied is not None and self._unsent is None:
            self._unsent = message

    def look(self, driver: Driver) -> None:
        """Whether the final reply has left; if not yet, the driver asks again when it writes."""
        ending = driver.ending
        if not ending.lost and not driver.wire.has_sent_all:
            return
        message, self._unsent = self._unsent, None
        if message is not None and self._replied is not None:
            self._tell(driver, self._replied, message, not ending.closing)

    def tell_next(self, driver: Driver) -> bool:
        """The client has gone: tell what is left to tell, if anything is."""
        if self._unsent is not None:
            self.look(driver)
        elif self._disconnect is not None:
            hook, self._disconnect = self._disconnect, None
            self._tell(driver, hook)
        else:
            return False
        return True

    def _tell(self, driver: Driver, hook: Hook, *arguments: object) -> None:
        driver.run_hook(hook, (driver.session, *arguments), Notice(), answer_of)
