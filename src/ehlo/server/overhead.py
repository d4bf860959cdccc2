"""Overhead: what clients make the server hold in addition to bodies, so that its sum is bounded.

It counts in the server's memory. So that no crowd keeps mail out, TLS may have half of the memory,
and everything else together a quarter.
"""

from __future__ import annotations

from ehlo.server.space import Memory


class Overhead:
    """Counts bytes of all sessions: TLS, input ahead, replies that are not read, recipients."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._most = memory.limit // 4
        self._most_tls = memory.limit // 2
        self._held = 0
        self._tls = 0

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

    def begin_tls(self, size: int) -> bool:
        """Count TLS, whatever else is held, since without it there is no mail; as `hold`."""
        if self._tls + size > self._most_tls:
            return False
        self._tls += size
        self._memory.take(size)
        return True

    def end_tls(self, size: int) -> None:
        """Count `size` bytes of TLS no more."""
        self._tls -= size
        self._memory.release(size)
