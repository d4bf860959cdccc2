"""`Conversation`: all that a client has said and all that follows from it, as one object.

The verbs read and change it; it knows none of them. `Connection` stands above both.

The readers in `body.py` find the end of a body; its limits and rejections are here. Framing comes
before meaning: a body is read to its end even if it is going to be rejected. A client that goes far
over the limit, or does not say how many bytes follow, is no longer read.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, NoReturn

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import PeerCertificate
from ehlo.protocol.auth.mechanism import Exchange
from ehlo.protocol.body import (
    END,
    BareNewlines,
    ChunkReader,
    DataReader,
    End,
    Skipper,
    has_bare_newline,
    joined,
    normalized,
)
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.output import Output, Rejected
from ehlo.protocol.parameters import Facts
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, State, Transaction
from ehlo.protocol.xclient import Attributes

Reader = DataReader | ChunkReader | Skipper

_MIB: Final = 1_048_576
_MOST_CHUNKS: Final = 100  # before their replies are sent
_MOST_CRS: Final = 65_536  # in a row

# Used for each message; looking into an enumeration takes 700 instructions before Python 3.12
_BDAT: Final = State.BDAT
_GREETING: Final = State.GREETING
_READY: Final = State.READY


class Chunk(NamedTuple):
    """The argument of BDAT (RFC 3030 2)."""

    size: int
    """The number of bytes that follow."""
    last: bool
    """Whether they are the last ones."""


class Admission:
    """Admits all mail. Derive from it to reject mail that there is no room for now.

    It is asked before a hook is, and by a call: an event would cost each message 4 % more.
    """

    __slots__ = ()

    counts_recipients: bool = False
    """Whether to call `admit_recipient`."""

    def admit_sender(self, _sender: Address) -> Reply | None:
        """Return the rejection of MAIL, or `None`."""
        return None

    def admit_recipient(self) -> Reply | None:
        """Return the rejection of RCPT, or `None`."""
        return None

    def hold(self, _size: int) -> bool:
        """Count bytes of recipients (negative: no more); return whether there is room for them."""
        return True


ADMISSION: Final = Admission()
NO_BINDINGS: Final[Mapping[str, bytes]] = MappingProxyType({})
"""The channel bindings of a connection without TLS."""


def no_transaction() -> NoReturn:
    """Raise `ProtocolError`: outside of a transaction the rows let no such command pass."""
    raise ProtocolError("no transaction is open")


class Conversation:
    """Holds the facts of one connection to a client, and its parts for input and output.

    `nonce` is called for unpredictable text without spaces and brackets. `asks` has the events that
    the server wants to be asked about, in addition to those that it always is. `trusted` names
    those of XCLIENT and XFORWARD that this client may send. `bindings` are the channel bindings
    (RFC 5929) of the TLS connection; `certificate` is the client's, where TLS has verified it.
    `admission` is asked about each MAIL and RCPT.
    """

    __slots__ = (
        *(
            "admission",
            "asks",
            "authenticated",
            "bindings",
            "buffer",
            "certificate",
            "counts",
            "esmtp",
            "esmtp_before",
        ),
        *(
            "exchange",
            "forwarded",
            "helo",
            "nonce",
            "output",
            "pardon",
            "reader",
            "refusal",
            "settings",
            "state",
        ),
        *("tls", "transaction", "trusted", "xclient"),
    )

    def __init__(
        self,
        settings: Settings,
        nonce: Callable[[], str],
        output: Output,
        counts: Counts,
        asks: Container[type] = frozenset(),
        admission: Admission = ADMISSION,
        trusted: frozenset[str] = frozenset(),
        tls: bool = False,
        greet: bool = True,
        bindings: Mapping[str, bytes] = NO_BINDINGS,
        certificate: PeerCertificate | None = None,
    ) -> None:
        # Given by position: keywords would add a third to the cost of this call
        # The server's side
        self.settings = settings
        self.nonce = nonce
        self.asks = asks
        self.admission = admission
        self.trusted = trusted
        self.counts = counts
        # The connection
        self.tls = tls
        self.bindings = bindings
        self.certificate = certificate
        self.buffer: Buffer = Buffer()
        self.output = output
        self.reader: Reader | None = None
        """The reader of the body that is being sent; `None` when commands are read."""
        # What the client has said
        self.state = _GREETING if greet else State.HELLO
        self.refusal: Reply = replies.REFUSED_CONNECTION
        """The reply to each command but QUIT, once the client is turned away."""
        self.helo = ""
        """The name in HELO, EHLO or LHLO."""
        self.esmtp = False
        """Whether the client sent EHLO or LHLO, also while the server is asked about it."""
        self.esmtp_before = False
        """The value of `esmtp` if the server rejects what it is asked about."""
        self.authenticated = False
        self.exchange: Exchange | None = None
        """The login under way."""
        self.pardon = False  # whether a stray "*" is no error
        self.xclient: Attributes = {}
        """The attributes sent by XCLIENT."""
        self.forwarded: Attributes | None = None
        """The attributes sent by XFORWARD for the next message."""
        self.transaction: Transaction | None = None

    def end_transaction(self) -> events.BodyDropped | None:
        """End the transaction, if there is one (RFC 5321 3.3); nothing else ends it.

        Return `BODY_DROPPED` if the client abandons a body of which it has sent some chunks.
        """
        abandoned = self.state is _BDAT
        transaction = self.transaction
        if transaction is not None:
            self.state = _READY
            if transaction.held:
                self.admission.hold(-transaction.held)
        self.transaction = self.forwarded = None
        return events.BODY_DROPPED if abandoned else None

    def turn_away(self, refusal: Reply) -> None:
        """Reply to each command but QUIT with `refusal` from now on."""
        self.state, self.refusal = State.REFUSED, refusal

    @property
    def has_refused_too_many(self) -> bool:
        """Whether a hook has rejected too many recipients since the last accepted message."""
        return 0 < self.settings.refused_limit < self.counts.refused_recipients

    def close(self) -> None:
        """End the conversation: nothing more is read."""
        if self.output.narrator is not None:
            self.output.narrator.close("connection closed")
        self.end_transaction()
        self.state = State.CLOSED
        self.exchange = self.reader = None
        self.buffer.clear()
        self.output.over = True

    def usable_mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms that the client may use now."""
        if self.authenticated or not self.settings.mechanisms:
            return ()
        return self.settings.usable_mechanisms(
            tls=self.tls, binding=bool(self.bindings), certificate=self.certificate is not None
        )

    def facts(self) -> Facts:
        """Return what decides which extensions are offered now."""
        return Facts(self.settings, self.tls, self.usable_mechanisms(), self.trusted)

    def offers(self) -> Reply | None:
        """Return the lines of EHLO after the first one, as they are now; `None` for none."""
        login = (self.authenticated, bool(self.bindings), self.certificate is not None)
        kind, failed = (self.tls, self.trusted, login), self.output.note_failure
        return self.settings.offers.reply(kind, self.facts, failed)

    # -- bodies, framed before they are judged ----------------------------------------------------

    def read_body(self, reader: Reader) -> Event | Waiting | Literal[End.END] | None:
        """Return an event, or `None` if there is none.

        `END` is the end of a body, or of a skipped chunk, which has got no reply yet.
        """
        chunk = reader.read(self.buffer)
        if chunk is None:
            return NEED_DATA
        narrator = self.output.narrator
        if chunk is END:
            if type(reader) is ChunkReader:
                return self._end_chunk(reader)
            self.reader = None
            if narrator is not None and type(reader) is DataReader:
                narrator.end_body(dots=True)
            return END
        if narrator is not None:
            narrator.body(chunk, dots=type(reader) is DataReader)
        transaction, settings = self.transaction or no_transaction(), self.settings
        transaction.size += len(chunk)
        if transaction.size > settings.max_size > 0:
            return self._over_size(transaction)
        if transaction.refusal is not None:
            return None
        if not settings.keeps_newlines and (transaction.crs or has_bare_newline(chunk)):
            return self._without_bare_newlines(chunk, transaction, last=False)
        return events.BodyChunk(chunk)

    def _without_bare_newlines(
        self, chunk: bytes, transaction: Transaction, *, last: bool
    ) -> Event | None:
        """Return the body up to the CRs at its end: if a LF follows, all are one line end."""
        body = chunk if last else chunk.rstrip(b"\r")
        crs = len(chunk) - len(body)
        if body or last:
            body = b"\r" * transaction.crs + body
            transaction.crs = crs
        else:  # of CRs that come one by one, each is looked at once
            transaction.crs += crs
        if self.settings.bare_newlines is BareNewlines.REJECT:
            bare = transaction.crs > 1 or has_bare_newline(body)
        else:  # so many are no line ends, and would have to be held
            bare = transaction.crs >= _MOST_CRS
            bare = bare or (len(body) >= _MOST_CRS and b"\r" * _MOST_CRS in body)
            body = joined(body)
        if bare:
            return self.refuse_body(replies.BARE_NEWLINE)
        clean = normalized(body)  # which may have twice the bytes
        transaction.size += len(clean) - len(body)
        if transaction.size > self.settings.max_size > 0:
            return self._over_size(transaction)
        return events.BodyChunk(clean) if clean else None

    def refuse_body(self, reply: Reply) -> events.BodyRefused:
        """Discard the rest of this body, and send `reply`, a 4xx or 5xx, at its end.

        Between chunks, at the end of the next one. Raises `ProtocolError` if there is no body.
        """
        transaction = self.transaction
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
        return None if told else self.refuse_body(replies.TOO_LARGE)

    def _is_far_over(self, size: int) -> bool:
        limit = self.settings.max_size
        return limit > 0 and size > max(2 * limit, limit + _MIB)

    def _break_off(self, transaction: Transaction, *, last: bool) -> None:
        """Reject now and stop reading; a chunk before the last has one reply, also in LMTP."""
        if self.output.narrator is not None:
            self.output.narrator.break_off()
        if last:
            self.output.outcome(replies.TOO_LARGE, transaction)
        else:
            self.output.reject(replies.TOO_LARGE, "BDAT", Rejected(transaction))
        self.output.stop_reading()

    # -- chunks (RFC 3030) -----------------------------------------------------------------------

    def begin_chunk(self, chunk: Chunk) -> bool:
        """Start reading a BDAT chunk; return whether it is the first one, to be asked about.

        A chunk that would go far over the limit is rejected at once, any other at its end.
        """
        transaction, limits = self.transaction or no_transaction(), self.settings.limits
        if self._is_far_over(transaction.size + chunk.size):
            self._break_off(transaction, last=chunk.last)
            return False
        reader, is_first = transaction.chunks, transaction.chunks is None
        if reader is None:
            reader = transaction.chunks = ChunkReader()
        elif reader.count >= limits.chunks + transaction.size // limits.chunk_size:
            self.output.reject(replies.TOO_MANY_CHUNKS, "BDAT", Rejected(transaction))
            self.output.stop_reading()
            return False
        else:
            self.reader = reader
        reader.begin(chunk.size, last=chunk.last)
        return is_first

    def skip_chunk(self, chunk: Chunk, refusal: Reply) -> None:
        """Skip a chunk before its rejection is sent: no byte of it may be read as a command."""
        if self._is_far_over(chunk.size):
            self.output.reject(refusal, "BDAT", Rejected(self.transaction))
            self.output.stop_reading()
        else:
            self.reader = Skipper(chunk.size, refusal, last=chunk.last)

    def lose_sync(self, to: str) -> None:
        """Stop reading: the number of bytes that follow is unknown, and none may be a command."""
        self.output.reject(replies.BAD_CHUNK, to, Rejected(self.transaction))
        self.output.stop_reading()

    def _end_chunk(self, reader: ChunkReader) -> Event | Literal[End.END] | None:
        transaction = self.transaction or no_transaction()
        if reader.last and transaction.crs and transaction.refusal is None:
            return self._without_bare_newlines(b"", transaction, last=True)
        self.reader = None
        if self.output.narrator is not None:
            self.output.narrator.end_body(dots=False)
        if reader.last:
            return END
        if transaction.refusal is not None:
            self._refuse_chunk(reader, transaction, transaction.refusal)
            return None
        self.output.reply(replies.octets_received(reader.size), to="BDAT")
        # A read may bring thousands of small chunks, each with an event of its own
        return events.FULL if reader.count % _MOST_CHUNKS == 0 else None

    def _refuse_chunk(self, reader: ChunkReader, transaction: Transaction, refusal: Reply) -> None:
        """Reject the first chunk with the reason; those pipelined after it are no errors."""
        about = Rejected(transaction)
        if not reader.failed:
            reader.failed = True
            self.output.reject(refusal, "BDAT", about)
            return
        transaction.over_limit += 1
        if transaction.over_limit > self.settings.limits.excess_chunks:
            self.output.mistake(replies.CHUNK_FAILED, "BDAT", about)
        else:
            self.output.reject(replies.CHUNK_FAILED, "BDAT", about)
