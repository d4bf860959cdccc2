"""Bodies: chunks or a block in the server's memory, counted, or a file on disk; and their trace.

A disk that is too slow is as good as a full one. No body waits for the memory of larger ones. The
server's `Received` field (`Stamp`) is made here as well, since a message is that and a body.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from ehlo.block import Block
from ehlo.message import Spool
from ehlo.protocol.state import Transaction
from ehlo.protocol.trace import received_head, stamped, with_protocol
from ehlo.server.observing.journal import about
from ehlo.server.runtime import Clock, Quota, Runtime
from ehlo.server.shelf import Shelf, Writing
from ehlo.server.space import SMALL, Memory
from ehlo.server.waits import DeadlineError, Deadlines, Wait
from ehlo.session import Session

_CHUNK_COST = 64  # bytes that a chunk takes in addition to its own
_AT_ONCE = 2_097_152  # bytes that are gathered for one write, once there is a file
_MOST_OVER = 33_554_432  # bytes beyond the memory's limit that may be on their way to disk
_LONGEST_HEADER = 262_144  # bytes in which hops are counted
_TRACE = 2048  # bytes that the server's own field may have

logger: logging.Logger = logging.getLogger("ehlo.server")


def hops(chunks: list[bytes], spool: Spool | Block | None) -> int:
    """Count the `Received` fields in the header of a body (RFC 5321 6.3)."""
    if spool is not None:
        chunks = [spool.read_at(0, _LONGEST_HEADER)]
    start = chunks[0]
    if len(chunks) > 1 and len(start) < _LONGEST_HEADER:
        ends = itertools.accumulate(map(len, chunks))
        count = sum(1 for _ in itertools.takewhile(lambda end: end < _LONGEST_HEADER, ends))
        start = b"".join(chunks[: count + 1])
    end = start.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
    header = start[: end if end >= 0 else _LONGEST_HEADER]
    return (b"\n" + header).lower().count(b"\nreceived:")


class Bodies:
    """Holds the body that a session receives, or that of the message that a handler has.

    A body is counted in the server's memory. Where that is short, a small body is counted in a
    share for those alone, and any other goes to disk, as does what rests here while others claim
    memory. What every message does to the memory is done here to its numbers, and not by a call.
    """

    __slots__ = (
        *("_chunks", "_counted", "_deadlines", "_gathered", "_memory", "_most", "_quota"),
        *("_runtime", "_session_id", "shelf"),
    )

    def __init__(
        self, runtime: Runtime, deadlines: Deadlines, quota: Quota, session_id: str
    ) -> None:
        self._runtime = runtime
        self._memory = runtime.memory  # that this body counts in
        self._deadlines = deadlines
        self._quota = quota
        self._session_id = session_id
        self._chunks: list[bytes] = []
        self._gathered = 0  # bytes in the chunks
        self._most = runtime.threshold  # bytes in the chunks, beyond which they are written
        self._counted = 0  # bytes that count in the memory
        self.shelf: Shelf | None = None
        """What there is of the body beyond its chunks; `None` for the usual one."""

    def add(self, chunk: bytes) -> bool:
        """Keep a chunk; return whether it is time to write what is in memory to disk."""
        size = len(chunk)
        self._chunks.append(chunk)
        self._gathered += size
        memory, cost = self._memory, size + _CHUNK_COST
        if memory.held + cost > memory.limit or memory.claims:
            return self._add_where_short(cost)
        memory.held += cost
        self._counted += cost
        return self._gathered > self._most and not self._stays()

    def _add_where_short(self, cost: int) -> bool:
        """Count a chunk for which the memory is short; as `add`."""
        runtime, memory = self._runtime, self._memory
        small, counted = runtime.small, self._counted + cost
        if self.shelf is None and self._gathered <= SMALL and small.reserve(counted):
            memory.release(self._counted)
            self._memory, self._counted, self.shelf = small, counted, Shelf()
            self._most = min(self._most, SMALL)
            return self._gathered > self._most
        memory.take(cost)
        self._counted = counted
        runtime.make_room(memory)  # which may begin with this body
        return True

    def _stays(self) -> bool:
        """Move the chunks into one block, if the body may stay in memory; return whether it may."""
        memory, shelf = self._memory, self.shelf
        if not self._runtime.keeps_in_memory(self._gathered):
            return False
        if shelf is None:
            shelf = self.shelf = Shelf()
            shelf.block = Block()
        block = shelf.block
        if block is None:  # it is on disk, or counts as a small one
            return False
        spare = (self._gathered - block.size) // 8
        memory.held += spare
        self._counted += spare
        block.write(self._chunks)
        self._chunks = []
        return True

    # -- the disk --------------------------------------------------------------------------------

    @property
    def on_disk(self) -> int:
        """Bytes on disk, also those of a message that the handler has."""
        return 0 if self.shelf is None else self.shelf.on_disk

    def resting(self, memory: Memory) -> int:
        """Return the bytes counted in `memory` that could be on disk."""
        shelf = self.shelf
        if self._memory is not memory or not self._gathered or (shelf and shelf.writing):
            return 0
        return self._counted

    def move_to_disk(self, failed: Callable[[], None]) -> None:
        """Write what rests in memory to disk, whatever the session awaits meanwhile.

        `failed` is called if that is not possible, unless the body is finished or dropped then.
        """
        writing = self._begin_writing()
        if writing is None:
            failed()
            return

        def ended(good: bool) -> None:
            if not good:
                failed()

        writing.ended = ended

    async def write(self) -> bool:
        """Write what is in memory to disk; return whether that went well."""
        self._deadlines.allow_hook()
        shelf = self.shelf
        writing = None if shelf is None else shelf.writing
        if shelf is not None and writing is not None and not await self._end_of(shelf, writing):
            return False
        if not self._gathered:
            return True
        writing = self._begin_writing()
        shelf = self.shelf
        return writing is not None and shelf is not None and await self._end_of(shelf, writing)

    async def _end_of(self, shelf: Shelf, writing: Writing) -> bool:
        wait: Wait[bool] = Wait()
        writing.ended = wait.end
        try:
            return await wait
        except DeadlineError:
            shelf.leave()
            return False

    def _begin_writing(self) -> Writing | None:
        """Pass what is in memory to a thread; return `None` if there is no room on disk for it.

        The thread owns the file until it has written, so that nothing closes it meanwhile.
        """
        runtime, memory = self._runtime, self._runtime.memory
        if min(memory.held - memory.limit, memory.leaving) > _MOST_OVER:
            self._log_full("mail arrives faster than it is written; raise max_memory")
            return None
        shelf = self.shelf = self.shelf or Shelf()
        stored = shelf.stored = shelf.stored or self._quota.store()
        if not stored.grow(self._gathered):
            self._log_full("max_disk is reached" if runtime.disk.limit else "there is none")
            return None
        if self._memory is not memory:  # what leaves is no burden to small bodies
            memory.take(self._counted)
            self._memory.release(self._counted)
        if shelf.block is not None:
            self._chunks.insert(0, shelf.block.read_after(b""))
            shelf.block = None
        writing = Writing(
            runtime.directory, stored, shelf.spool, self._chunks, memory, self._counted
        )
        self._chunks, self._gathered, self._counted, shelf.spool = [], 0, 0, None
        self._memory, self._most = memory, _AT_ONCE
        shelf.writing = writing

        def done(_result: object, error: BaseException | None) -> None:
            if not runtime.to_loop(lambda: self._written(shelf, writing, error)):
                writing.forget()

        shelf.job = runtime.disk_threads.submit(writing.write, done)
        return writing

    def _written(self, shelf: Shelf, writing: Writing, error: BaseException | None) -> None:
        if error is not None:
            self._log_full(error)
        if writing is not shelf.writing:  # the body was dropped
            writing.drop()
            return
        shelf.writing = shelf.job = None
        shelf.spool = spool = writing.spool
        size = 0 if spool is None else spool.size
        self._runtime.stats.spooled += size - shelf.on_disk
        shelf.on_disk = size
        writing.end()
        writing.ended(error is None)

    def _log_full(self, why: object) -> None:
        about(logger, self._session_id).warning("no room on disk: %s", why)

    async def finish(self, *, streams: bool) -> bool:
        """Finish the file, and claim memory for a handler that reads all of it; as `write`.

        A body without a `shelf` does not need it.
        """
        shelf = self.shelf
        if shelf is None or shelf.stored is None:
            return True
        if (self._gathered or shelf.writing is not None) and not await self.write():
            return False
        return streams or await self._have(shelf, shelf.on_disk + _TRACE)

    async def _have(self, shelf: Shelf, size: int) -> bool:
        """Wait until others have released `size` bytes; return whether they have.

        A small message does not wait for the memory of large ones.
        """
        runtime, memory = self._runtime, self._runtime.memory
        if size <= min(SMALL + _TRACE, runtime.small.limit) and not memory.has(size):
            memory = runtime.small
        wait: Wait[None] = Wait()

        def granted() -> None:  # within the release of another session's memory
            self._counted = size
            runtime.loop.call_soon(wait.end, None)

        claim = memory.claim(size, self._quota.key, granted)
        if claim is None:
            about(logger, self._session_id).warning("a message is larger than max_memory")
            return False
        shelf.claim, self._memory = claim, memory
        if claim.granted and not self._counted:
            self._counted = size
            return True
        runtime.make_room(memory, claimed=True)
        self._deadlines.allow_hook()
        try:
            await wait
        except DeadlineError:
            return False
        return True

    # -- the end ---------------------------------------------------------------------------------

    def take(self) -> tuple[list[bytes], Spool | Block | None]:
        """Return the body, in chunks or on disk; its memory counts until `release`."""
        chunks, shelf = self._chunks, self.shelf
        self._chunks, self._gathered = [], 0
        if shelf is None:
            return chunks, None
        spool = shelf.block or shelf.spool
        shelf.block = shelf.spool = shelf.stored = None
        return chunks, spool

    def hand_over(self) -> int:
        """Let go of what is held; return the bytes of `Runtime.memory` that the caller releases.

        A hook that is over its deadline does not keep the share of small bodies.
        """
        counted = self._counted
        self._runtime.memory.take(counted)
        self.release()
        return counted

    def release(self) -> None:
        """Let go of what is held, and give the memory back."""
        counted = self._counted
        if counted:
            memory, self._counted = self._memory, 0
            memory.held -= counted
            if memory.claims:
                memory.grant()
        if self._chunks or self.shelf is not None:
            self._drop()

    def _drop(self) -> None:
        self._chunks, self._gathered = [], 0
        shelf, self.shelf = self.shelf, None
        if shelf is not None:
            shelf.clear()
            self._memory, self._most = self._runtime.memory, self._runtime.threshold


class Stamp:
    """Makes the `Received` field of each message of a session; the equal part is made once."""

    __slots__ = ("_by", "_clock", "_facts", "_head", "_lmtp")

    def __init__(self, by: str, clock: Clock, lmtp: bool) -> None:
        self._by = by
        self._clock = clock
        self._lmtp = lmtp
        self._facts: tuple[object, ...] = ()  # that the head was made of
        self._head = ""

    def field(
        self, session: Session, helo: str, esmtp: bool, transaction: Transaction, message_id: str
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
