"""Where a session's body rests: slices in memory, counted in the server's, then a file on disk."""

from __future__ import annotations

from typing import NamedTuple

from ehlo.message import Spool
from ehlo.server.limits.admission import Memory

__all__ = ["Body", "Holding", "Shelf", "Spilling"]

_CHUNK_COST = 64  # octets that a slice takes beside its own
_AT_ONCE = 1_048_576  # octets that are gathered for one writing, once there is a file


class Shelf(NamedTuple):
    """Where bodies may go: the same for all sessions of a server."""

    memory: Memory
    directory: str
    threshold: int
    """Octets of a body that are held in memory before it goes to disk."""


class Body(NamedTuple):
    """All of a body: in slices, or on disk."""

    slices: list[bytes]
    spool: Spool | None


class Spilling:
    """Slices on their way to disk. `write` is for a thread; the octets count until it is over."""

    __slots__ = ("_directory", "_slices", "octets", "spool")

    def __init__(
        self, spool: Spool | None, directory: str, slices: list[bytes], octets: int
    ) -> None:
        self.spool = spool
        self.octets = octets
        self._directory = directory
        self._slices = slices

    def write(self) -> None:
        """Raises `OSError`: a disk may be full."""
        if self.spool is None:
            self.spool = Spool(self._directory)
        self.spool.write(self._slices)
        self._slices = []


class Holding:
    """The body under way, or that of the message that a handler has."""

    __slots__ = ("_gathered", "_octets", "_shelf", "_slices", "on_disk_octets", "spool")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._slices: list[bytes] = []
        self._gathered = 0  # octets in the slices
        self._octets = 0  # that count in the server's memory
        self.spool: Spool | None = None
        """The file, where there is one; some slices may not be in it yet."""
        self.on_disk_octets = 0  # also of a message that the handler has

    def add(self, chunk: bytes) -> bool:
        """Keep a slice; whether it is time for what is in memory to go to disk."""
        octets = len(chunk) + _CHUNK_COST
        self._slices.append(chunk)
        self._gathered += len(chunk)
        if not self._shelf.memory.reserve(octets):
            return True
        self._octets += octets
        most = self._shelf.threshold if self.spool is None else _AT_ONCE
        return self._gathered > most

    @property
    def resting(self) -> int:
        """Octets of a body in memory that could be on disk."""
        return self._octets if self._slices else 0

    @property
    def must_be_finished(self) -> bool:
        """Whether some of a body that is on disk is not there yet."""
        return self.spool is not None and bool(self._slices)

    def spill(self) -> Spilling:
        """Hand over what is in memory, to be written."""
        # The file is the thread's until it has written: nobody may close it meanwhile
        spilling = Spilling(self.spool, self._shelf.directory, self._slices, self._octets)
        self._slices, self._gathered, self._octets, self.spool = [], 0, 0, None
        return spilling

    def spilled(self, spilling: Spilling) -> int:
        """It has been written; the octets that it took on disk."""
        self.spool = spool = spilling.spool
        before, self.on_disk_octets = self.on_disk_octets, 0 if spool is None else spool.size
        self._shelf.memory.release(spilling.octets)
        return self.on_disk_octets - before

    def claim_all(self, octets: int) -> None:
        """So many octets were reserved for who reads the body back into memory."""
        self._octets += octets

    def take(self) -> Body:
        """The body; its memory counts until `release`."""
        body = Body(self._slices, self.spool)
        self._slices, self._gathered, self.spool = [], 0, None
        return body

    def hand_over(self) -> int:
        """Let go of what is held, to somebody who will release as many octets."""
        octets, self._octets = self._octets, 0
        self._drop()
        return octets

    def release(self) -> None:
        """Give all back."""
        if self._slices or self.on_disk_octets or self.spool is not None:
            self._drop()
        octets = self._octets
        if octets:
            self._octets = 0
            self._shelf.memory.release(octets)

    def _drop(self) -> None:
        self._slices, self._gathered, self.on_disk_octets = [], 0, 0
        if self.spool is not None:
            self.spool.close()
            self.spool = None
