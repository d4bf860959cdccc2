"""The body under way, by DATA or by chunks: its octets are counted and made safe, or thrown away.

The readers in `body.py` find the end; here are the limits and the refusals. Framing comes before
meaning: what is not wanted is read to its end all the same. Only who goes over the limit by far,
or does not say how much follows, is not listened to any longer.
"""

from __future__ import annotations

from typing import Final, Literal

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
    normalised,
)
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.commands import Chunk
from ehlo.protocol.errors import ProtocolError
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.output import Output
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, Transaction

__all__ = ["Intake", "Reader"]

Reader = DataReader | ChunkReader | Skipper

_MIB: Final = 1_048_576
_MOST_CHUNKS: Final = 100  # before some of the replies to them are sent
_KEEP: Final = BareNewlines.KEEP  # looked up once: it is compared for each slice


class Intake:
    """The bodies of one connection. What the client sends now is one while there is a `reader`."""

    __slots__ = ("_counts", "_output", "_settings", "reader")

    def __init__(self, settings: Settings, counts: Counts, output: Output) -> None:
        self._settings = settings
        self._counts = counts
        self._output = output
        self.reader: Reader | None = None

    def read(
        self, reader: Reader, buffer: Buffer, transaction: Transaction | None
    ) -> Event | Waiting | Literal[End.END] | None:
        """An event, or `None` when there is none.

        `END` is that of a body, or of a chunk that was skipped: nothing has been said to it yet.
        """
        chunk = reader.read(buffer)
        if chunk is None:
            return NEED_DATA
        if chunk is END:
            self.reader = None
            return self._end_chunk(reader, transaction) if isinstance(reader, ChunkReader) else END
        assert transaction is not None  # noqa: S101  a body has a transaction
        settings = self._settings
        transaction.size += len(chunk)
        if transaction.size > settings.max_size > 0:
            return self._over_size(transaction)
        if transaction.refusal is not None:
            return None
        if settings.bare_newlines is not _KEEP and not reader.raw and has_bare_newline(chunk):
            return self._without_bare_newlines(chunk, transaction)
        return events.BodyChunk(chunk)

    def _without_bare_newlines(self, chunk: bytes, transaction: Transaction) -> Event | None:
        if self._settings.bare_newlines is BareNewlines.REJECT:
            return self.refuse(replies.BARE_NEWLINE, transaction)
        clean = normalised(chunk)  # which may have twice the octets
        transaction.size += len(clean) - len(chunk)
        if transaction.size > self._settings.max_size > 0:
            return self._over_size(transaction)
        return events.BodyChunk(clean)

    def refuse(self, reply: Reply, transaction: Transaction | None) -> events.BodyRefused:
        """Throw away what comes of this body, and say `reply`, a 4xx or 5xx, at its end.

        Between chunks, at the end of the next one.
        """
        begun = transaction is not None and (self.reader or transaction.chunks) is not None
        if transaction is None or not begun or not reply.refuses:
            raise ProtocolError("no body to refuse, or no refusal")
        transaction.refusal = reply
        return events.BodyRefused(reply)

    # -- the limit -------------------------------------------------------------------------------

    def _over_size(self, transaction: Transaction) -> Event | None:
        """Drained to its end, unless it goes past the limit by far: then we stop listening."""
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
        """A chunk that is not the last one has one reply, also in LMTP."""
        if last:
            self._output.outcome(replies.TOO_LARGE, transaction)
        else:
            self._output.reject(replies.TOO_LARGE, to="BDAT")
        self._output.stop_reading()

    # -- chunks (RFC 3030) -----------------------------------------------------------------------

    def begin_chunk(self, chunk: Chunk, transaction: Transaction) -> events.Data | None:
        """So many octets follow, whatever we think of them; whether the first is wanted is asked.

        One that would go over the limit by far is refused here; another is read, and refused at
        its end.
        """
        if self._is_far_over(transaction.size + chunk.size):
            self._break_off(transaction, last=chunk.last)
            return None
        empty = not chunk.size and not chunk.last and transaction.refusal is None
        if empty and self._counts.is_idle(self._settings.limits.idle_commands):
            self._output.reject(replies.TOO_MANY_IDLE, to="BDAT")
            return None
        reader = transaction.chunks
        if reader is not None:
            reader.begin(chunk.size, last=chunk.last)
            self.reader = reader
            return None
        raw = transaction.binary or self._settings.bare_newlines is BareNewlines.KEEP
        reader = transaction.chunks = ChunkReader(raw=raw)
        reader.begin(chunk.size, last=chunk.last)
        return events.DATA

    def skip_chunk(self, chunk: Chunk, refusal: Reply) -> None:
        """Its octets come before `refusal` is said: none of them must be taken for a command."""
        if self._is_far_over(chunk.size):
            self._output.reject(refusal, to="BDAT")
            self._output.stop_reading()
        else:
            self.reader = Skipper(chunk.size, refusal, last=chunk.last)

    def lose_sync(self, to: str) -> None:
        """Nobody knows how many octets follow, and not one of them may be read as a command."""
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
        # a read may bring thousands of small ones, each with an event of its own
        return events.FULL if reader.count % _MOST_CHUNKS == 0 else None

    def _refuse_chunk(self, reader: ChunkReader, transaction: Transaction, refusal: Reply) -> None:
        """The first that is refused is told why; who has pipelined the others could not know."""
        if not reader.failed:
            reader.failed = True
            self._output.reject(refusal, to="BDAT")
            return
        transaction.over_limit += 1
        if transaction.over_limit > self._settings.limits.excess_chunks:
            self._output.mistake(replies.CHUNK_FAILED, to="BDAT")
        else:
            self._output.reject(replies.CHUNK_FAILED, to="BDAT")
