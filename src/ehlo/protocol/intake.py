"""`Intake`: the body under way, by DATA or in chunks, counted and made safe, or discarded.

The readers in `body.py` find the end; here are the limits and the rejections. Framing comes before
meaning: a body is read to its end even if it is going to be rejected. A client that goes far over
the limit, or does not say how many bytes follow, is no longer read.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.body import (
    END,
    BareNewlines,
    ChunkReader,
    DataReader,
    End,
    Skipper,
    has_bare_newline,
    normalized,
)
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.output import Output
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, Transaction

__all__ = ["Chunk", "Intake", "Reader"]

Reader = DataReader | ChunkReader | Skipper

_MIB: Final = 1_048_576
_MOST_CHUNKS: Final = 100  # before their replies are sent


class Chunk(NamedTuple):
    """The argument of BDAT (RFC 3030 2)."""

    size: int
    """The number of bytes that follow."""
    last: bool
    """Whether they are the last ones."""


class Intake:
    """Reads the bodies of one connection.

    While there is a `reader`, what the client sends is a body.
    """

    __slots__ = ("_counts", "_output", "_settings", "reader")

    def __init__(self, settings: Settings, counts: Counts, output: Output) -> None:
        self._settings = settings
        self._counts = counts
        self._output = output
        self.reader: Reader | None = None

    def read(
        self, reader: Reader, buffer: Buffer, transaction: Transaction | None
    ) -> Event | Waiting | Literal[End.END] | None:
        """Return an event, or `None` if there is none.

        `END` is the end of a body, or of a skipped chunk, which has got no reply yet.
        """
        chunk = reader.read(buffer)
        if chunk is None:
            return NEED_DATA
        if chunk is END:
            self.reader = None
            return self._end_chunk(reader, transaction) if type(reader) is ChunkReader else END
        assert transaction is not None  # noqa: S101  a body has a transaction
        settings = self._settings
        transaction.size += len(chunk)
        if transaction.size > settings.max_size > 0:
            return self._over_size(transaction)
        if transaction.refusal is not None:
            return None
        if not settings.keeps_newlines and not reader.raw and has_bare_newline(chunk):
            return self._without_bare_newlines(chunk, transaction)
        return events.BodyChunk(chunk)

    def _without_bare_newlines(self, chunk: bytes, transaction: Transaction) -> Event | None:
        if self._settings.bare_newlines is BareNewlines.REJECT:
            return self.refuse(replies.BARE_NEWLINE, transaction)
        clean = normalized(chunk)  # which may have twice the bytes
        transaction.size += len(clean) - len(chunk)
        if transaction.size > self._settings.max_size > 0:
            return self._over_size(transaction)
        return events.BodyChunk(clean)

    def refuse(self, reply: Reply, transaction: Transaction | None) -> events.BodyRefused:
        """Discard the rest of this body, and send `reply`, a 4xx or 5xx, at its end.

        Between chunks, at the end of the next one. Raises `ProtocolError` if there is no body.
        """
        begun = transaction is not None and (self.reader or transaction.chunks) is not None
        if transaction is None or not begun or not reply.refuses:
            raise ProtocolError("no body to reject, or no rejection")
        transaction.refusal = reply
        return events.BodyRefused(reply)

    # -- the limit -------------------------------------------------------------------------------

    def _over_size(self, transaction: Transaction) -> Event | None:
        """Drain the body to its end; far past the limit, stop reading instead."""
        if self._is_far_over(transaction.size):
            chunks = transaction.chunks
            self._break_off(transaction, last=chunks is None or chunks.last)
            return None
        told = transaction.refusal is replies.TOO_LARGE
        return None if told else self.refuse(replies.TOO_LARGE, transaction)

    def _is_far_over(self, size: int) -> bool:
        limit = self._settings.max_size
        return limit > 0 and size > max(2 * limit, limit + _MIB)

    def _break_off(self, transaction: Transaction, *, last: bool) -> None:
        """Reject now and stop reading; a chunk before the last has one reply, also in LMTP."""
        if last:
            self._output.outcome(replies.TOO_LARGE, transaction)
        else:
            self._output.reject(replies.TOO_LARGE, to="BDAT")
        self._output.stop_reading()

    # -- chunks (RFC 3030) -----------------------------------------------------------------------

    def begin_chunk(self, chunk: Chunk, transaction: Transaction) -> bool:
        """Start reading a BDAT chunk; return whether it is the first one, to be asked about.

        A chunk that would go far over the limit is rejected at once, any other at its end.
        """
        if self._is_far_over(transaction.size + chunk.size):
            self._break_off(transaction, last=chunk.last)
            return False
        empty = not chunk.size and not chunk.last and transaction.refusal is None
        if empty and self._counts.is_idle(self._settings.limits.idle_commands):
            self._output.reject(replies.TOO_MANY_IDLE, to="BDAT")
            return False
        reader, is_first = transaction.chunks, transaction.chunks is None
        if reader is None:
            raw = transaction.binary or self._settings.keeps_newlines
            reader = transaction.chunks = ChunkReader(raw=raw)
        else:
            self.reader = reader
        reader.begin(chunk.size, last=chunk.last)
        return is_first

    def skip_chunk(self, chunk: Chunk, refusal: Reply) -> None:
        """Skip a chunk before its rejection is sent: no byte of it may be read as a command."""
        if self._is_far_over(chunk.size):
            self._output.reject(refusal, to="BDAT")
            self._output.stop_reading()
        else:
            self.reader = Skipper(chunk.size, refusal, last=chunk.last)

    def lose_sync(self, to: str) -> None:
        """Stop reading: the number of bytes that follow is unknown, and none may be a command."""
        self._output.reject(replies.BAD_CHUNK, to)
        self._output.stop_reading()

    def _end_chunk(
        self, reader: ChunkReader, transaction: Transaction | None
    ) -> events.Full | Literal[End.END] | None:
        if reader.last:
            return END
        assert transaction is not None  # noqa: S101  a body has a transaction
        if transaction.refusal is not None:
            self._refuse_chunk(reader, transaction, transaction.refusal)
            return None
        self._output.reply(replies.octets_received(reader.size), to="BDAT")
        # A read may bring thousands of small chunks, each with an event of its own
        return events.FULL if reader.count % _MOST_CHUNKS == 0 else None

    def _refuse_chunk(self, reader: ChunkReader, transaction: Transaction, refusal: Reply) -> None:
        """Reject the first chunk with the reason; those pipelined after it are no errors."""
        if not reader.failed:
            reader.failed = True
            self._output.reject(refusal, to="BDAT")
            return
        transaction.over_limit += 1
        if transaction.over_limit > self._settings.limits.excess_chunks:
            self._output.mistake(replies.CHUNK_FAILED, to="BDAT")
        else:
            self._output.reject(replies.CHUNK_FAILED, to="BDAT")
