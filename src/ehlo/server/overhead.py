"""Overhead: what clients make the server hold in addition to bodies, so that its sum is bounded.

It counts in the server's memory. So that no crowd keeps mail out, TLS may have half of the memory,
and everything else together a quarter. Nor does a crowd that only begins handshakes keep others
from TLS: without room the handshake that began first ends, and an honest one takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

from ehlo.server.space import Memory


class Overhead:
    """Counts bytes of all sessions: TLS, input ahead, unread replies, recipients, transcripts."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._most = memory.limit // 4
        self._most_tls = memory.limit // 2
        self._most_lines = memory.limit // 16
        self._held = 0
        self._lines = 0  # of those held
        self._tls = 0
        self._handshakes: dict[object, Callable[[], None]] = {}  # the first one first

    def hold(self, size: int) -> bool:
        """Count `size` bytes, and return whether there is room for them; if not, none count."""
        if self._held + size > self._most:
            return False
        self._held += size
        self._memory.count_ahead(size)  # no claim waits for them: their client may wait for it
        return True

    def release(self, size: int) -> None:
        """Count `size` bytes no more."""
        self._held -= size
        self._memory.count_ahead(-size)

    def keep(self, size: int) -> bool:
        """Count `size` bytes of transcripts (negative: no more); as `hold`.

        They may have a quarter of what is held here, so that they never take the room of mail.
        """
        if size > 0 and (self._lines + size > self._most_lines or not self.hold(size)):
            return False
        if size < 0:
            self.release(-size)
        self._lines += size
        return True

    def begin_tls(self, size: int, who: object, give_up: Callable[[], None]) -> bool:
        """Count TLS, whatever else is held, since without it there is no mail; as `hold`.

        `give_up` ends the handshake of `who`, and is called at most once, before `established`.
        """
        while self._tls + size > self._most_tls:
            if not self._handshakes:
                return False
            self._handshakes.pop(next(iter(self._handshakes)))()
        self._handshakes[who] = give_up
        self._tls += size
        self._memory.take(size)
        return True

    def established(self, who: object) -> None:
        """Note that a handshake is over."""
        self._handshakes.pop(who, None)

    def end_tls(self, size: int) -> None:
        """Count `size` bytes of TLS no more."""
        self._tls -= size
        self._memory.release(size)
