"""What a session waits for that is no hook: a disk, memory that others hold, some time, its turn.

Each tells the driver once, in the loop's thread, and with `cancel` not at all. What it holds of the
server's memory is given back in either case. `expire` is for one that is over its deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ehlo.server.driving.holding import Spilling
from ehlo.server.limits.admission import Claim
from ehlo.server.observing.journal import about
from ehlo.server.system.threads import Job

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["DiskRun", "MemoryWait", "Pause", "Then", "Turn"]

logger = logging.getLogger("ehlo.server")

Then = Callable[[bool], None]
"""Told whether it went well."""


class DiskRun:
    """Slices that a thread writes to disk."""

    __slots__ = ("_driver", "_job", "_spilling", "_then")

    def __init__(self, driver: Driver, spilling: Spilling, then: Then) -> None:
        self._driver = driver
        self._spilling = spilling
        self._then = then
        disk = driver.runtime.disk
        self._job: Job[Any] | None = disk.submit(spilling.write, self._ended_in_thread)

    @property
    def octets(self) -> int:
        """That will be free when it is over."""
        return self._spilling.octets

    def _ended_in_thread(self, _result: Any, error: BaseException | None) -> None:
        try:
            self._driver.runtime.loop.call_soon_threadsafe(self._ended, error)
        except RuntimeError:  # the loop was closed at once; nobody waits for this
            if self._spilling.spool is not None:
                self._spilling.spool.close()
            self._driver.runtime.memory.forget(self._spilling.octets)

    def _ended(self, error: BaseException | None) -> None:
        self._job = None  # which refers to us: the file must go with the last who holds it
        if error is not None:
            about(logger, self._driver.session.id).warning("no room on disk: %s", error)
        if self._driver.pending is self:
            self._driver.runtime.stats.spooled += self._driver.delivery.holding.spilled(
                self._spilling
            )
            self._driver.go_on_after(self._then, well=error is None)
        else:
            self._let_go()

    def cancel(self) -> None:
        """Nobody waits for it any more; a thread that writes goes on to its end."""
        if self._job is not None and self._job.cancel():
            self._let_go()

    def expire(self) -> None:
        """The disk is too slow: as if it were full."""
        self.cancel()
        self._driver.go_on_after(self._then, well=False)

    def _let_go(self) -> None:
        if self._spilling.spool is not None:
            self._spilling.spool.close()
        self._driver.runtime.memory.release(self._spilling.octets)


class MemoryWait:
    """Octets that are to be reserved before a handler may have its message."""

    __slots__ = ("_claim", "_driver", "_granted", "_then")

    def __init__(self, driver: Driver, then: Then) -> None:
        self._driver = driver
        self._then = then
        self._claim: Claim | None = None
        self._granted = False

    def start(self, octets: int) -> bool:
        """Wait for one's turn; whether there can ever be so much."""
        self._claim = self._driver.runtime.memory.claim(octets, self._on_grant)
        return self._claim is not None

    def _on_grant(self) -> None:
        """Within the release of another session's memory: only noted here."""
        assert self._claim is not None  # noqa: S101  start came first
        self._granted = True
        self._driver.delivery.holding.claim_all(self._claim.octets)
        self._driver.runtime.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._driver.pending is self:
            self._driver.go_on_after(self._then, well=True)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._claim is not None and not self._granted:
            self._claim.cancel()

    def expire(self) -> None:
        """Too much is held by others, for too long."""
        self.cancel()
        self._driver.go_on_after(self._then, well=False)


class Turn:
    """A turn of the loop, in which others have theirs; `then` is called in the next one."""

    __slots__ = ("_driver", "_handle")

    def __init__(self, driver: Driver, then: Callable[[], None]) -> None:
        self._driver = driver
        self._handle = driver.runtime.loop.call_soon(then)

    def cancel(self) -> None:
        """There is nobody to go on with."""
        self._handle.cancel()

    def expire(self) -> None:
        """It is the client that keeps us waiting: it does not read."""
        self._driver.ending.time_out(self._driver)


class Pause:
    """Seconds in which nothing is said; then what `then` does, and all that was held back."""

    __slots__ = ("_driver", "_then", "_timer")

    def __init__(self, driver: Driver, seconds: float, then: Callable[[], None]) -> None:
        self._driver = driver
        self._then = then
        self._timer = driver.runtime.loop.call_later(seconds, self._over)

    def _over(self) -> None:
        driver = self._driver
        driver.pending = None
        self._then()
        driver.flush()
        driver.advance()

    def cancel(self) -> None:
        """There is nobody to go on with."""
        self._timer.cancel()

    def expire(self) -> None:
        """Its deadline is far behind its end."""
        self._driver.ending.time_out(self._driver)
