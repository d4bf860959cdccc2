"""`Rulebook`: what all sessions of an inbox share: the offer, the faults, and what has arrived.

It is synchronous, and sessions in any thread use it. Tests wait for mail here, on a condition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ehlo.faults import Faults
from ehlo.testing.offer import Offer
from ehlo.testing.received import ReceivedMail, Rejection, WatchedTranscript
from ehlo.transcript import Transcript

T = TypeVar("T")


class Rulebook:
    """Holds the rules of an inbox and what its sessions have brought; any thread may use it."""

    def __init__(self, offer: Offer, faults: Faults, *, secrets: bool = False) -> None:
        """`secrets` is whether transcripts show passwords."""
        self.offer = offer
        """What is offered to clients that connect from now on."""
        self.faults = faults
        self._secrets = secrets
        self._changed = threading.Condition()
        self._mails: list[ReceivedMail] = []
        self._rejected: list[Rejection] = []
        self._sessions: list[Transcript] = []
        self._live: list[Transcript] = []  # those that are not over
        self._wakers: list[Callable[[], object]] = []
        self._ids = 0
        self._added = 0  # mails since the beginning, those that were forgotten included
        self.closed: bool = True
        """Whether the inbox serves no client: those in memory are disconnected."""

    # -- what sessions do ------------------------------------------------------------------------

    def begin_session(self) -> Transcript:
        """Return the transcript of a session that begins."""
        transcript = WatchedTranscript(self._rejected.append, secrets=self._secrets)
        with self._changed:
            self._sessions.append(transcript)
            self._live.append(transcript)
        return transcript

    def end_session(self, transcript: Transcript) -> None:
        """Note that a session is over."""
        with self._changed:
            self._live = [each for each in self._live if each is not transcript]

    def next_id(self) -> str:
        """Return the id of the next mail."""
        with self._changed:
            self._ids += 1
            return str(self._ids)

    def add(self, mail: ReceivedMail) -> None:
        """Add a mail, and wake all that wait for one."""
        with self._changed:
            self._mails.append(mail)
            self._added += 1
            self._changed.notify_all()
            wakers = self._wakers[:]
        for wake in wakers:
            wake()

    # -- what tests see --------------------------------------------------------------------------

    @property
    def mails(self) -> list[ReceivedMail]:
        """The mails so far, in the order in which they arrived."""
        with self._changed:
            return self._mails[:]

    def since(self, count: int) -> tuple[int, list[ReceivedMail]]:
        """Return the mails after the first `count`, and the number of all that have come."""
        with self._changed:
            new = min(self._added - count, len(self._mails))
            return self._added, self._mails[len(self._mails) - new :]

    @property
    def sessions(self) -> list[Transcript]:
        """The transcripts of all sessions, those that brought no mail included."""
        with self._changed:
            return self._sessions[:]

    @property
    def rejected(self) -> list[Rejection]:
        """All rejections, by faults and by the server itself."""
        return self._rejected[:]

    def clear(self) -> None:
        """Forget all mails, rejections, and sessions that are over."""
        with self._changed:
            self._mails.clear()
            self._rejected.clear()
            self._sessions = self._live[:]

    def wait(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Return what `look` returns as soon as it is not `None`; `None` after `seconds`."""
        until = time.monotonic() + seconds
        while True:
            seen = self._added
            found = look()  # without the lock, since it may call a function of the test
            if found is not None:
                return found
            with self._changed:
                while self._added == seen:
                    left = until - time.monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))

    async def wait_async(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Wait as `wait` does, in any event loop that anyio knows. Raises `ImportError`."""
        found = look()
        if found is not None:
            return found
        try:
            import anyio  # an extra, and slow to import
        except ImportError as error:
            message = "to await mail needs anyio; run pip install 'ehlo[testing]'"
            raise ImportError(message) from error
        call = _caller()
        arrived = anyio.Event()

        def wake() -> None:
            call(lambda: arrived.set())

        with self._changed:
            self._wakers.append(wake)
        try:
            with anyio.move_on_after(seconds):
                while (found := look()) is None:
                    await arrived.wait()
                    arrived = anyio.Event()
        finally:
            with self._changed:
                self._wakers.remove(wake)
        return found


def _caller() -> Callable[[Callable[[], object]], object]:
    """Return what calls a function in the running event loop, from any thread."""
    import asyncio

    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
