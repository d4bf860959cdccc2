"""Bodies: chunks in memory, counted in the server's memory, then a file on disk; and their trace.

A disk that is too slow is as good as a full one. The server's `Received` field (`Stamp`) is made
here as well, since a message is that and a body.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

from ehlo.message import Spool
from ehlo.protocol.state import Transaction
from ehlo.protocol.trace import received_head, stamped, with_protocol
from ehlo.server.observing.journal import about
from ehlo.server.runtime import Clock, Runtime
from ehlo.server.waits import DeadlineError, Deadlines, Wait
from ehlo.session import Session

_CHUNK_COST = 64  # bytes that a chunk takes in addition to its own
_AT_ONCE = 1_048_576  # bytes that are gathered for one write, once there is a file
_LONGEST_HEADER = 262_144  # bytes in which hops are counted
_TRACE = 2048  # bytes that the server's own field may have

logger = logging.getLogger("ehlo.server")


class Body(NamedTuple):
    """Holds a complete body: in chunks, or on disk."""

    chunks: list[bytes]
    spool: Spool | None

    def hops(self) -> int:
        """Count the `Received` fields of the header (RFC 5321 6.3)."""
        chunks = [self.spool.read_at(0, _LONGEST_HEADER)] if self.spool else self.chunks
        start = chunks[0]
        if len(chunks) > 1 and len(start) < _LONGEST_HEADER:
            ends = itertools.accumulate(map(len, chunks))
            count = sum(1 for _ in itertools.takewhile(lambda end: end < _LONGEST_HEADER, ends))
            start = b"".join(chunks[: count + 1])
        end = start.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
        header = start[: end if end >= 0 else _LONGEST_HEADER]
        return (b"\n" + header).lower().count(b"\nreceived:")


class Writing:
    """Chunks on their way to disk. A thread calls `write`; the bytes count until it has ended."""

    __slots__ = ("_chunks", "_directory", "size", "spool")

    def __init__(self, directory: str, spool: Spool | None, chunks: list[bytes], size: int) -> None:
        self._directory = directory
        self._chunks = chunks
        self.spool = spool
        self.size = size

    def write(self) -> None:
        """Write the chunks. Raises `OSError`: a disk may be full."""
        if self.spool is None:
            self.spool = Spool(self._directory)
        self.spool.write(self._chunks)
        self._chunks = []

    def drop(self, release: Callable[[int], None]) -> None:
        """Close the file and give the memory back by `release`, since the session has ended."""
        if self.spool is not None:
            self.spool.close()
        release(self.size)


class Bodies:
    """Holds the body that a session receives, or that of the message that a handler has.

    What every message does to the memory is done here to its numbers, and not by a call.
    """

    __slots__ = (
        *("_chunks", "_counted", "_deadlines", "_gathered", "_memory", "_runtime", "_session_id"),
        *("on_disk", "spool"),
    )

    def __init__(self, runtime: Runtime, deadlines: Deadlines, session_id: str) -> None:
        self._runtime = runtime
        self._memory = runtime.memory
        self._deadlines = deadlines
        self._session_id = session_id
        self._chunks: list[bytes] = []
        self._gathered = 0  # bytes in the chunks
        self._counted = 0  # bytes that count in the server's memory
        self.spool: Spool | None = None
        """The file, if there is one; the last chunks may not be in it yet."""
        self.on_disk = 0
        """Bytes on disk, also those of a message that the handler has."""

    def add(self, chunk: bytes) -> bool:
        """Keep a chunk; return whether it is time to write what is in memory to disk."""
        size = len(chunk)
        self._chunks.append(chunk)
        self._gathered += size
        memory, cost = self._memory, size + _CHUNK_COST
        if memory.held + cost > memory.limit or memory.claims:
            return True
        memory.held += cost
        self._counted += cost
        return self._gathered > (self._runtime.threshold if self.spool is None else _AT_ONCE)

    @property
    def resting(self) -> int:
        """Bytes in memory that could be on disk."""
        return self._counted if self._chunks else 0

    async def write(self) -> bool:
        """Write what is in memory to disk; return whether that went well."""
        runtime, memory = self._runtime, self._memory
        wait: Wait[BaseException | None] = Wait()
        # The thread owns the file until it has written, so that nothing closes it meanwhile
        writing = Writing(runtime.directory, self.spool, self._chunks, self._counted)
        self._chunks, self._gathered, self._counted, self.spool = [], 0, 0, None

        def done(_result: object, error: BaseException | None) -> None:
            def end() -> None:
                if error is not None:
                    about(logger, self._session_id).warning("no room on disk: %s", error)
                if not wait.end(error):
                    writing.drop(memory.release)

            if not runtime.to_loop(end):
                writing.drop(memory.forget)  # no session waits for memory any more

        job = runtime.disk.submit(writing.write, done)
        runtime.leaving += writing.size
        self._deadlines.allow_hook()
        try:
            error = await wait
        except BaseException as problem:
            if job.cancel():
                writing.drop(memory.release)
            if not isinstance(problem, DeadlineError):
                raise
            return False
        finally:
            runtime.leaving -= writing.size
        self.spool = spool = writing.spool
        before, self.on_disk = self.on_disk, 0 if spool is None else spool.size
        runtime.stats.spooled += self.on_disk - before
        memory.release(writing.size)
        return error is None

    async def finish(self, *, streams: bool) -> bool:
        """Finish the file, and claim memory for a handler that reads all of it; as `write`."""
        if self._chunks and not await self.write():
            return False
        size = 0 if streams or self.spool is None else self.spool.size + _TRACE
        if size and not self._memory.reserve_due(size):
            return await self._claim(size)
        self._counted += size
        return True

    async def _claim(self, size: int) -> bool:
        """Wait until others have released `size` bytes; return whether they have."""
        wait: Wait[None] = Wait()
        granted = False

        def grant() -> None:  # within the release of another session's memory
            nonlocal granted
            granted = True
            self._counted += size
            self._runtime.loop.call_soon(wait.end, None)

        claim = self._memory.claim(size, grant)
        if claim is None:
            about(logger, self._session_id).warning("a message is larger than max_memory")
            return False
        self._deadlines.allow_hook()
        try:
            await wait
        except BaseException as problem:
            if not granted:
                claim.cancel()
            if not isinstance(problem, DeadlineError):
                raise
            return False
        return True

    def take(self) -> Body:
        """Return the body; its memory counts until `release`."""
        body = Body(self._chunks, self.spool)
        self._chunks, self._gathered, self.spool = [], 0, None
        return body

    def hand_over(self) -> int:
        """Let go of what is held; return the bytes that the caller has to release."""
        counted, self._counted = self._counted, 0
        self._drop()
        return counted

    def release(self) -> None:
        """Let go of what is held, and give the memory back."""
        if self._chunks or self.on_disk or self.spool is not None:
            self._drop()
        counted = self._counted
        if counted:
            self._counted = 0
            self._memory.held -= counted
            if self._memory.claims:
                self._memory.grant()

    def _drop(self) -> None:
        self._chunks, self._gathered, self.on_disk = [], 0, 0
        if self.spool is not None:
            self.spool.close()
            self.spool = None


class Stamp:
    """Makes the `Received` field of each message of a session; the equal part is made once."""

    __slots__ = ("_by", "_clock", "_facts", "_head", "_lmtp")

    def __init__(self, by: str, clock: Clock, *, lmtp: bool) -> None:
        self._by = by
        self._clock = clock
        self._lmtp = lmtp
        self._facts: tuple[object, ...] = ()  # that the head was made of
        self._head = ""

    def field(
        self, session: Session, helo: str, transaction: Transaction, message_id: str, *, esmtp: bool
    ) -> bytes:
        """Return the field for a message of a client that has sent `helo`."""
        smtputf8, tls = transaction.smtputf8, session.tls
        facts = (helo, esmtp, smtputf8, session.peer, session.rdns, tls, session.user)
        if facts != self._facts:
            self._head = received_head(
                helo=helo,
                rdns=session.rdns,
                address="" if session.peer.is_unix else session.peer.host,
                by=self._by,
                protocol=with_protocol(
                    esmtp=esmtp,
                    lmtp=self._lmtp,
                    tls=tls is not None,
                    authenticated=session.user is not None,
                    smtputf8=smtputf8,
                ),
                tls=f"version={tls.version} cipher={tls.cipher}" if tls is not None else "",
            )
            self._facts = facts
        recipients = transaction.recipients
        return stamped(
            self._head,
            message_id,
            str(recipients[0]) if len(recipients) == 1 else "",
            self._clock.date(),
            transaction.sender.params.get("MT-PRIORITY"),
        )
