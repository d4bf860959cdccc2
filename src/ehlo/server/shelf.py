"""The shelf of a body: its file, what a thread writes to it, and the memory claimed to read it.

Few bodies need one: they are large, or came while memory was short.
"""

from __future__ import annotations

from collections.abc import Callable

from ehlo.block import Block
from ehlo.message import Spool
from ehlo.server.space import Claim, Memory, Stored
from ehlo.server.system.threads import Job


class Writing:
    """Chunks on their way to disk. A thread calls `write`; the bytes count until it has ended."""

    __slots__ = ("_chunks", "_directory", "_memory", "_size", "_stored", "ended", "spool")

    def __init__(
        self,
        directory: str,
        stored: Stored,
        spool: Spool | None,
        chunks: list[bytes],
        memory: Memory,
        size: int,
    ) -> None:
        """`size` bytes count in `memory`."""
        self._directory = directory
        self._stored = stored
        self._chunks = chunks
        self._memory = memory
        self._size = size
        self.spool = spool
        self.ended: Callable[[bool], object] = _ignore
        """A function to call at the end, with whether it went well."""
        memory.leaving += size

    def write(self) -> None:
        """Write the chunks. Raises `OSError`: a disk may be full."""
        if self.spool is None:
            self.spool = Spool(self._directory, self._stored.release)
        self.spool.write(self._chunks)
        self._chunks = []

    def end(self) -> None:
        """Give the memory back, since nothing is on its way any more."""
        self._memory.leaving -= self._size
        self._memory.release(self._size)

    def drop(self) -> None:
        """Close the file, since the body is not wanted any more, and give the memory back."""
        self.close()
        self.end()

    def close(self) -> None:
        """Close the file."""
        if self.spool is not None:
            self.spool.close()
        self._stored.release()

    def forget(self) -> None:
        """Close the file after the end of the server: no session waits for memory any more."""
        self.close()
        self._memory.forget(self._size)


def _ignore(_good: bool) -> None:
    pass


class Shelf:
    """Holds what a body has beyond its chunks in memory, once it has any of it."""

    __slots__ = ("block", "claim", "job", "on_disk", "spool", "stored", "writing")

    def __init__(self) -> None:
        self.block: Block | None = None  # the whole body in memory, of what chunks do not have
        self.claim: Claim | None = None
        self.stored: Stored | None = None  # the bytes of the file, before there is one, too
        self.spool: Spool | None = None  # the file; while a thread writes to it, it has it
        self.writing: Writing | None = None
        self.job: Job[None] | None = None  # the call of that thread
        self.on_disk: int = 0  # bytes

    def leave(self) -> None:
        """Leave what is being written to its thread, which drops it; or drop it before that."""
        writing, job = self.writing, self.job
        self.writing = self.job = None
        if writing is not None and job is not None and job.cancel():
            writing.drop()

    def clear(self) -> None:
        """Close the file, and let go of everything."""
        self.leave()
        if self.spool is not None:
            self.spool.close()
        if self.stored is not None:
            self.stored.release()
        if self.claim is not None:
            self.claim.end()
