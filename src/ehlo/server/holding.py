"""What one session holds of a message's body, counted in the server's memory."""

from __future__ import annotations

from ehlo.server.admission import Memory

__all__ = ["Holding"]

_CHUNK_COST = 64  # octets that a slice takes beside its own


class Holding:
    """The slices of the body under way, or of the message that a handler has."""

    __slots__ = ("_chunks", "_memory", "_octets")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._chunks: list[bytes] = []
        self._octets = 0

    def add(self, chunk: bytes) -> bool:
        """Keep a slice, if there is memory for it."""
        octets = len(chunk) + _CHUNK_COST
        if not self._memory.reserve(octets):
            return False
        self._octets += octets
        self._chunks.append(chunk)
        return True

    def take(self) -> list[bytes]:
        """The slices; their memory counts until `release`."""
        chunks, self._chunks = self._chunks, []
        return chunks

    def hand_over(self) -> int:
        """Let go of what is held, to somebody who will release as many octets."""
        octets, self._octets = self._octets, 0
        self._chunks = []
        return octets

    def release(self) -> None:
        """Give all back."""
        self._chunks = []
        self._memory.release(self._octets)
        self._octets = 0
