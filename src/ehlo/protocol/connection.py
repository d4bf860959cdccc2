"""The server's half of an SMTP connection: bytes in, events and replies out; no socket, no clock.

    connection.receive_data(data)
    while not isinstance(event := connection.next_event(), Waiting):
        ...                                  # and for those that want one: connection.reply(answer)
    send(connection.data_to_send())

An event that wants an answer pauses the connection; what the client pipelined stays in the buffer.
So order, back-pressure and "refused, so nothing changed" are one rule: the state moves when the
answer is a positive one, and then only. The end of a message closes the transaction either way.

Longer than most files here, since this is the one place where the state moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

from ehlo.protocol import commands, events, sasl
from ehlo.protocol import reply as replies
from ehlo.protocol.body import (
    END,
    BareNewlines,
    ChunkReader,
    DataReader,
    Skipper,
    has_bare_newline,
    normalised,
)
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.errors import ProtocolError
from ehlo.protocol.events import NEED_DATA, PAUSED, Event, Waiting
from ehlo.protocol.extensions import Facts, offered
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import TRANSITIONS, Counts, State, Transaction
from ehlo.protocol.tally import UNKNOWN, Tally
from ehlo.protocol.transcript import Observer, Transcript
from ehlo.protocol.xclient import Attributes

__all__ = ["Connection"]


_Answer = Callable[["Connection", Any, Reply | None], None]
_Refusal = Callable[["Connection", Reply], object]

_MOST_REPLIES: Final = 100  # of our own, to pipelined commands, before some are sent
_MIB: Final = 1_048_576
_MISTAKES: Final = frozenset({500, 501, 502, 503, 504, 555})  # those of our replies that count
_TELLING: Final = events.Close()  # asked of nobody: there is something to tell first
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
# What was said, where it is refused; BDAT asks as DATA does
_VERBS: Final[Mapping[type, str]] = MappingProxyType(
    {
        events.Connect: "",
        events.Hello: "EHLO",
        events.Mail: "MAIL",
        events.Rcpt: "RCPT",
        events.Data: "DATA",
        events.MessageEnd: ".",
        events.Secret: "AUTH",
        events.Auth: "AUTH",
        events.StartTLS: "STARTTLS",
        events.Vrfy: "VRFY",
        events.Reset: "RSET",
        events.XClient: "XCLIENT",
    }
)
# What may be repeated for ever without any mail; what is not in here is limited otherwise
_PROGRESS: Final = frozenset({"MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "QUIT"})
_TLS_HELLO: Final = b"\x16\x03"  # RFC 8446 5.1: a handshake record


def _is_auth(line: bytes) -> bool:
    return line[:5].upper() == b"AUTH "


def _is_bdat(line: bytes) -> bool:
    return line[:4].upper() == b"BDAT" and not line[4:5].isalnum()


class Connection:
    """One client's conversation, from the greeting (or from the end of STARTTLS) to its end.

    `nonce` is called for what must be unpredictable, and gives text without spaces or brackets.
    With `greet=False` the client has been greeted already: this is the connection that replaces
    another after STARTTLS, and knows nothing of it (RFC 3207 4.2) but its `counts`. `asks` has the
    types of commands that are asked about; the others of `events.QUESTIONS` are accepted without
    an event. `trusted` has those of XCLIENT and XFORWARD that this client may say. `bindings` are
    the channel bindings (RFC 5929) of the TLS connection, `certificate` is the client's where TLS
    has verified it. What is said is counted in `tally`.
    """

    __slots__ = (
        "_asked",
        "_asks",
        "_buffer",
        "_ended",
        "_exchange",
        "_legal",
        "_let_go",
        "_linger",
        "_out",
        "_pardon",
        "_reader",
        "_said",
        "_slow",
        "_tally",
        "_transcript",
        "_untold",
        "_verb",
        "authenticated",
        "bindings",
        "certificate",
        "counts",
        "esmtp",
        "forwarded",
        "helo",
        "nonce",
        "settings",
        "state",
        "tls",
        "transaction",
        "trusted",
        "xclient",
    )

    def __init__(
        self,
        settings: Settings,
        nonce: Callable[[], str],
        *,
        tls: bool = False,
        greet: bool = True,
        counts: Counts | None = None,
        asks: frozenset[type] = events.QUESTIONS,
        trusted: frozenset[str] = frozenset(),
        observer: Observer | None = None,
        tally: Tally | None = None,
        bindings: Mapping[str, bytes] = _NOTHING,
        certificate: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.nonce = nonce
        self.tls = tls
        self.bindings = bindings
        self.certificate = certificate
        self.state = State.GREETING if greet else State.HELLO
        self.authenticated = False
        self.helo = ""  # the name in HELO or EHLO
        self.esmtp = False  # whether it was EHLO
        self._verb = ""  # whose reply may be a refusal
        self._tally = tally = tally or Tally()
        self._said = tally.said
        self.trusted = trusted
        self.xclient: Attributes = {}  # all that XCLIENT has said
        self.forwarded: Attributes | None = None  # what XFORWARD has said of the next message
        self._legal = commands.LEGAL_IN_LMTP if settings.lmtp else commands.LEGAL
        self.transaction: Transaction | None = None
        self.counts = counts or Counts()
        self._asks = asks
        self._buffer = Buffer()
        self._out: list[bytes] = []
        self._asked: Event | None = None  # what the next call of reply() answers
        self._untold: Event | None = None  # came of an answer; told by the next call of next_event
        self._ended = False  # the client will not send any more
        self._linger = False
        self._slow = self.counts.errors >= settings.limits.slow_errors
        self._let_go = 0  # of the replies that wait, those that have been held back
        self._reader: DataReader | ChunkReader | Skipper | None = None
        self._exchange: sasl.Exchange | None = None
        self._pardon = False  # for a stray "*"
        names = settings.mechanisms
        self._transcript = Transcript(observer, names) if observer is not None else None

    # -- bytes -----------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what the network brought; it may be anything."""
        if self.state is not State.CLOSED:
            self._buffer.feed(data)

    def receive_eof(self) -> None:
        """The client has closed its sending side; what it said before is still answered."""
        self._ended = True

    def data_to_send(self) -> bytes:
        """All that is to be sent now; it is handed out once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._let_go = 0
        return data

    @property
    def buffered(self) -> int:
        """Octets received and not yet read."""
        return len(self._buffer)

    @property
    def in_body(self) -> bool:
        """Whether what the client sends now is a body."""
        return self._reader is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way, from MAIL being asked about to the final reply."""
        return self.transaction is not None or type(self._asked) is events.Mail

    # -- events ----------------------------------------------------------------------------------

    def next_event(self) -> Event | Waiting:
        """The next thing that the client did, or why there is none now."""
        if self._asked is not None:
            untold, self._untold = self._untold, None
            if self._asked is _TELLING:
                self._asked = None
            return PAUSED if untold is None else untold
        answered = 0
        while self.state is not State.CLOSED:
            if self._slow and len(self._out) > self._let_go:
                return self._ask(events.Tarpit(1.0))
            reader = self._reader
            if reader is not None:
                event = self._read_body(reader)
            elif self._buffer.empty:
                greeted = self.state is not State.GREETING
                event = NEED_DATA if greeted else self._ask_about(events.CONNECT)
            else:
                event = self._read_command()
            if event is not None:
                return self._close() if event is NEED_DATA and self._ended else event
            answered += 1
            if answered == _MOST_REPLIES:
                return events.FULL
        return events.Close(self._linger)

    def _close(self) -> events.Close:
        self.state = State.CLOSED
        self._buffer.clear()
        self.transaction = self._reader = self._exchange = None
        return events.Close(self._linger)

    def _ask(self, event: Event) -> Event:
        self._asked = event
        return event

    def _ask_about(self, event: Event) -> Event | None:
        """Ask, unless this is a kind of command that nobody wants to be asked about."""
        if type(event) in events.QUESTIONS and type(event) not in self._asks:
            self._ANSWERS[type(event)](self, event, None)
            if self._asked is not _TELLING:
                return None
            self._asked = None
            untold, self._untold = self._untold, None
            return untold
        return self._ask(event)

    def _tell(self, event: Event) -> None:
        """Have the next call of `next_event` return this."""
        self._untold = event
        self._asked = _TELLING

    def _read_command(self) -> Event | Waiting | None:
        settings = self.settings
        if self.state is State.GREETING:
            return self._ask_about(events.CONNECT)
        line = self._buffer.take_line(settings.line_limit)
        if line is None:
            tls = self._exchange is None and self._buffer.line_startswith(_TLS_HELLO)
            return self._say(replies.NOT_SMTP) if tls else NEED_DATA
        if self._exchange is not None:
            return self._respond(self._exchange, line)
        if len(line) > settings.command_limit and not self._may_be_long(line):
            auth = _is_auth(line)
            too_long = replies.AUTH_LINE_TOO_LONG if auth else replies.LINE_TOO_LONG
            return self._no_command(line, too_long)
        command = commands.split(line, strict_eol=settings.strict_eol)
        if isinstance(command, Reply):
            return self._no_command(line, command)
        verb, argument = command
        if self._transcript is not None:
            known = verb in commands.VERBS or verb in settings.own_verbs
            self._transcript.command(verb, argument, known=known)
        if verb not in _PROGRESS and self._is_idle():
            return self._say(replies.TOO_MANY_IDLE)
        function = self._legal[self.state].get(verb)
        if function is None or settings.gated:
            return self._look_closer(verb, argument)
        self._said.append(verb)
        result = function(self, argument)
        kind = type(result)
        if kind in self._asks:
            self._asked = result  # type: ignore[assignment]  # the set holds types of events
            return result  # type: ignore[return-value]  # likewise
        if kind in events.QUESTIONS:
            self._ANSWERS[kind](self, result, None)
            return None
        return self._come_of(verb, result)

    def _is_idle(self) -> bool:
        """Count a command that brings no mail nearer; whether that is too many."""
        self.counts.idle += 1
        return 0 < self.settings.limits.idle_commands < self.counts.idle

    def _look_closer(self, verb: str, argument: str) -> Event | None:
        """What is not simply legal in this state: optional, behind a gate, unknown, or refused."""
        function = commands.VERBS.get(verb)
        if function is None and verb not in self.settings.own_verbs:
            return self._unknown(verb)
        self._said.append(verb)
        self._verb = verb
        refusal = commands.refusal_of(self, verb)
        if refusal is not None:
            return (
                self._refuse_chunk(argument, refusal) if verb == "BDAT" else self._refuse(refusal)
            )
        if function is None:
            return self._ask(events.Command(verb, argument.strip()))
        return self._come_of(verb, function(self, argument))

    def _come_of(self, verb: str, result: commands.Outcome) -> Event | None:
        self._verb = verb
        match result:
            case Reply():
                return self._answered(verb, result)
            case sasl.Exchange():
                self._exchange = result
                return self._step(result, result.start())
            case commands.Chunk():
                return self._begin_chunk(result)
            case commands.Forwarded():
                self.forwarded = {**(self.forwarded or {}), **result.attributes}
                return self._say(replies.OK)
            case events.Close():
                return self._close()
            case _:
                return self._ask_about(result)

    def _may_be_long(self, line: bytes) -> bool:
        return _is_auth(line) and len(line) <= self.settings.limits.auth_line

    def _no_command(self, line: bytes, refusal: Reply) -> Event | None:
        self._said.append(UNKNOWN)
        self._verb = UNKNOWN
        if self._transcript is not None:
            self._transcript.no_command(line)
        if _is_bdat(line):
            return self._lose_sync()
        return self._say(replies.NOT_SMTP) if line.startswith(_TLS_HELLO) else self._error(refusal)

    def _unknown(self, verb: str) -> Event | None:
        self._said.append(UNKNOWN)
        self._verb = UNKNOWN
        if verb in commands.HTTP_VERBS:
            return self._say(replies.NOT_SMTP)
        if verb == "*" and self._pardon:
            # Go's net/smtp says it once after a login that failed: no error of its user's
            self._pardon = False
            return self._say(replies.UNKNOWN_COMMAND)
        return self._error(replies.UNKNOWN_COMMAND)

    def _answered(self, verb: str, reply: Reply) -> Event | None:
        """A command that answers itself, by its nature or because it is wrong."""
        if reply is replies.TOO_MANY_RECIPIENTS or reply is replies.TOO_MANY_DOMAINS:
            return self._over_limit(reply)
        if reply is replies.BAD_CHUNK:
            return self._lose_sync()
        if verb == "RCPT" and self.transaction is not None:
            self.transaction.refused += 1
        if reply is self.settings.closing:
            self._say(reply)
            return self._close()
        return self._refuse(reply)

    def _over_limit(self, reply: Reply) -> Event | None:
        """RFC 5321 4.5.3.1.10: the transaction goes on; it is no error to try, within reason."""
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  only RCPT says so
        transaction.over_limit += 1
        excess = transaction.over_limit > self.settings.limits.excess_recipients
        return self._error(reply) if excess else self._say(reply)

    # -- login -----------------------------------------------------------------------------------

    def usable_mechanisms(self) -> tuple[str, ...]:
        """The names of the mechanisms that the client could use now."""
        if self.authenticated:
            return ()
        return self.settings.usable_mechanisms(
            tls=self.tls, binding=bool(self.bindings), certificate=self.certificate is not None
        )

    def _respond(self, exchange: sasl.Exchange, line: bytes) -> Event | None:
        if len(line) > self.settings.limits.auth_line:
            return self._step(exchange, replies.AUTH_LINE_TOO_LONG)
        if self._transcript is not None:
            self._transcript.response()
        if self.settings.strict_eol and line[-2:] != b"\r\n":
            return self._step(exchange, replies.BARE_LINE_END)
        text = line.decode("ascii", "replace").rstrip("\r\n \t")
        return self._step(exchange, exchange.respond(text))

    def _step(self, exchange: sasl.Exchange, step: sasl.Step) -> Event | None:
        name = exchange.mechanism.name
        match step:
            case bytes():
                self._out.append(step)
                self._said.append(334)
                if self._transcript is not None:
                    self._transcript.challenge(step)
                return None
            case Reply():
                self._exchange = None
                return self._say(step) if step is replies.AUTH_TROUBLE else self._error(step)
            case sasl.SecretWanted():
                return self._ask(events.Secret(name, step.username))
            case _:
                return self._ask(events.Auth(name, step))

    def give_secret(self, secret: object) -> None:
        """Answer `events.Secret`: a password, `ScramKeys`, a list of these, or `None` for nobody.

        Raises `TypeError` or `ValueError` for what is no secret, which leaves the question open,
        and `ProtocolError` when none was asked for.
        """
        exchange = self._exchange
        if type(self._asked) is not events.Secret or exchange is None:
            raise ProtocolError("no secret was asked for")
        checked = sasl.checked_secret(secret)
        self._asked = None
        self._untold = self._step(exchange, exchange.give(checked))

    # -- the body --------------------------------------------------------------------------------

    def _read_body(self, reader: DataReader | ChunkReader | Skipper) -> Event | Waiting | None:
        chunk = reader.read(self._buffer)
        if chunk is None:
            return NEED_DATA
        if chunk is END:
            self._reader = None
            return (
                self._end_of_body()
                if isinstance(reader, DataReader)
                else self._end_of_chunk(reader)
            )
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        transaction.size += len(chunk)
        if transaction.size > self.settings.max_size > 0:
            return self._over_size(transaction)
        if transaction.refusal is not None:
            return None
        policy = self.settings.bare_newlines
        if policy is not BareNewlines.KEEP and not reader.raw and has_bare_newline(chunk):
            if policy is BareNewlines.REJECT:
                return self.refuse_body(replies.BARE_NEWLINE)
            transaction.size -= len(chunk)
            chunk = normalised(chunk)  # which may have twice the octets
            transaction.size += len(chunk)
            if transaction.size > self.settings.max_size > 0:
                return self._over_size(transaction)
        return events.BodyChunk(chunk)

    def refuse_body(self, reply: Reply) -> events.BodyRefused:
        """Throw away what comes of this body, and say `reply`, a 4xx or 5xx, at its end."""
        if self._reader is None or self.transaction is None or not reply.refuses:
            raise ProtocolError("no body to refuse, or no refusal")
        self.transaction.refusal = reply
        return events.BodyRefused(reply)

    def _over_size(self, transaction: Transaction) -> Event | None:
        """Drained to its end, unless it goes past the limit by far: then we stop listening."""
        if self._is_far_over(transaction.size):
            chunks = transaction.chunks
            return self._break_off(transaction, last=chunks is None or chunks.last)
        told = transaction.refusal is replies.TOO_LARGE
        return None if told else self.refuse_body(replies.TOO_LARGE)

    def _is_far_over(self, size: int) -> bool:
        limit = self.settings.max_size
        return limit > 0 and size > max(2 * limit, limit + _MIB)

    def _break_off(self, transaction: Transaction, *, last: bool) -> events.Close:
        """A chunk that is not the last one has one reply, also in LMTP."""
        self._verb = "." if last else "BDAT"
        if last:
            self._say_to_all(replies.TOO_LARGE, transaction)
        else:
            self._say(replies.TOO_LARGE)
        return self._stop_listening()

    def _stop_listening(self) -> events.Close:
        """The client is sending still, and will read what we have said only after that."""
        self._linger = True
        return self._close()

    def _end_of_body(self) -> Event | None:
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        if self._transcript is not None:
            self._transcript.verb = "."
        self.state = TRANSITIONS[self.state, "."]
        refusal = transaction.refusal
        if refusal is None:
            return self._ask(events.MessageEnd(transaction))
        self._verb = "."
        self._end_transaction()
        chunks = transaction.chunks
        if chunks is not None and chunks.failed and not self.settings.lmtp:
            refusal = replies.CHUNK_FAILED  # why has been said, to the chunk that failed
        return self._say_to_all(refusal, transaction)

    def _end_transaction(self) -> None:
        self.transaction = self.forwarded = None
        self.state = TRANSITIONS[self.state, "."]

    # -- chunks (RFC 3030) -----------------------------------------------------------------------

    def _begin_chunk(self, chunk: commands.Chunk) -> Event | None:
        """So many octets follow, whatever we think of them."""
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  the table lets BDAT in only within one
        if self._is_far_over(transaction.size + chunk.size):
            return self._break_off(transaction, last=chunk.last)
        empty = not chunk.size and not chunk.last and transaction.refusal is None
        if empty and self._is_idle():
            return self._say(replies.TOO_MANY_IDLE)
        reader = transaction.chunks
        if reader is not None:
            reader.begin(chunk.size, last=chunk.last)
            self._reader = reader
            return None
        raw = transaction.binary or self.settings.bare_newlines is BareNewlines.KEEP
        reader = transaction.chunks = ChunkReader(raw=raw)
        reader.begin(chunk.size, last=chunk.last)
        return self._ask_about(events.DATA)

    def _end_of_chunk(self, reader: ChunkReader | Skipper) -> Event | None:
        if isinstance(reader, Skipper):
            return self._end_of_skipping(reader)
        if reader.last:
            return self._end_of_body()
        self._verb = "BDAT"
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        if transaction.refusal is None:
            self._say(replies.octets_received(reader.size))
            # a read may bring thousands of small ones, each with an event of its own
            return events.FULL if reader.count % _MOST_REPLIES == 0 else None
        if not reader.failed:
            reader.failed = True
            return self._say(transaction.refusal)
        # who has pipelined them could not know
        transaction.over_limit += 1
        excess = transaction.over_limit > self.settings.limits.excess_chunks
        return self._error(replies.CHUNK_FAILED) if excess else self._say(replies.CHUNK_FAILED)

    def _refuse_chunk(self, argument: str, refusal: Reply) -> Event | None:
        """Its octets come first: none of them must be taken for a command."""
        chunk = commands.chunk_of(argument)
        if chunk is None:
            return self._lose_sync()
        if self._is_far_over(chunk.size):
            self._say(refusal)
            return self._stop_listening()
        self._reader = Skipper(chunk.size, refusal, last=chunk.last)
        return None

    def _end_of_skipping(self, reader: Skipper) -> Event | None:
        none = reader.refusal in (replies.RCPT_BEFORE_BDAT, replies.NO_VALID_RECIPIENTS_LMTP)
        if self.settings.lmtp and reader.last and none and self.state is State.MAIL:
            # RFC 2033 4.3: one reply for each recipient that was accepted, and there is none
            self.transaction = self.forwarded = None
            self.state = State.READY
            return None
        return self._refuse(reader.refusal)

    def _lose_sync(self) -> events.Close:
        """Nobody knows how many octets follow, and not one of them may be read as a command."""
        self._say(replies.BAD_CHUNK)
        return self._stop_listening()

    # -- answers ---------------------------------------------------------------------------------

    def reply(self, answer: Reply | None = None) -> None:
        """Answer the event that paused us: `None` accepts in our words, a `Reply` says it all.

        Raises `ProtocolError` when nothing was asked, or the reply is none for that question (a
        354 goes with DATA and nothing else does).
        """
        asked = self._asked
        accept = self._ANSWERS.get(type(asked))
        if accept is None:
            raise ProtocolError("nothing was asked")
        is_data = type(asked) is events.Data
        if (
            answer is not None
            and not answer.refuses
            and (answer.code != 354 if is_data else answer.code >= 300)
        ):
            raise ProtocolError(f"{answer.code} does not answer {type(asked).__name__}")
        self._asked = None
        if answer is not None and answer.refuses:
            self._verb = asked.verb if isinstance(asked, events.Command) else _VERBS[type(asked)]
            self._REFUSALS.get(type(asked), Connection._say)(self, answer)
        else:
            accept(self, asked, answer)

    def _greet(self, _event: events.Connect, answer: Reply | None) -> None:
        self.state = State.HELLO
        if answer is None:
            self._say(self.settings.greeting)
        else:
            self._say(_plain(answer))

    def _refuse_connection(self, answer: Reply) -> None:
        """RFC 5321 3.1: after a 554 greeting we wait for QUIT, and answer 503 to all else."""
        self.state = State.REFUSED
        self._say(_plain(answer))

    def _refuse_hello(self, answer: Reply) -> None:
        self._say(_plain(answer))

    def _welcome(self, event: events.Hello, answer: Reply | None) -> None:
        self.helo, self.esmtp = event.name, event.esmtp
        self._drop_transaction()  # RFC 5321 4.1.4: EHLO is a RSET, too
        self.counts.idle -= self.state is State.HELLO  # the first is progress
        self.state = TRANSITIONS[self.state, "EHLO"]
        lines = offered(self.facts()) if event.esmtp else []
        if answer is None:
            self._say(replies.hello(self.settings.hostname, event.name, lines))
        else:
            self._say(Reply(answer.code, None, "\n".join([answer.lines[0], *lines])))

    def facts(self) -> Facts:
        """What decides which extensions are offered now."""
        return Facts(self.settings, self.tls, self.usable_mechanisms(), self.trusted)

    def _begin(self, event: events.Mail, answer: Reply | None) -> None:
        self.counts.messages += 1
        self.counts.idle = 0
        self.transaction = Transaction(event.sender)
        self.state = TRANSITIONS[self.state, "MAIL"]
        self._say(answer or replies.MAIL_OK)

    def _refuse_mail(self, answer: Reply) -> None:
        self.counts.messages += 1  # RFC 9422 4.1: whether they succeed or fail
        self._say(answer)

    def _add_recipient(self, event: events.Rcpt, answer: Reply | None) -> None:
        assert self.transaction is not None  # noqa: S101  RCPT comes within one
        self.transaction.recipients.append(event.recipient)
        if self.settings.max_recipient_domains and event.recipient.domain:
            self.counts.domains.add(event.recipient.domain.lower())
        self.state = TRANSITIONS[self.state, "RCPT"]
        self._say(answer or replies.RCPT_OK)

    def _refuse_recipient(self, answer: Reply) -> None:
        assert self.transaction is not None  # noqa: S101  RCPT comes within one
        self.transaction.refused += 1
        self.counts.refused_recipients += answer.code >= 500  # a 4xx may be our own trouble
        too_many = self.counts.refused_recipients >= self.settings.limits.refused_recipients
        self._say(replies.TOO_MANY_REFUSED if too_many else answer)

    def _start_body(self, _event: events.Data, answer: Reply | None) -> None:
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        if transaction.chunks is not None:
            self._reader = transaction.chunks
            self.state = TRANSITIONS[self.state, "BDAT"]
            return
        self._reader = DataReader()
        self.state = TRANSITIONS[self.state, "DATA"]
        self._say(answer or replies.START_DATA)

    def _refuse_to_start(self, answer: Reply) -> None:
        """DATA gets its answer now, and BDAT once its octets have gone by."""
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        if transaction.chunks is None:
            self._say(answer)
            return
        transaction.refusal = answer
        self._reader = transaction.chunks
        self.state = TRANSITIONS[self.state, "BDAT"]

    def _take_message(self, event: events.MessageEnd, answer: Reply | None) -> None:
        self._end_transaction()
        if self.settings.lmtp:
            self._say_to_all(answer or replies.QUEUED, event.transaction)
        else:
            self._say(answer or replies.QUEUED)

    def _refuse_message(self, answer: Reply) -> None:
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a message has a transaction
        self._end_transaction()
        self._say_to_all(answer, transaction)

    def reply_each(self, answers: Sequence[Reply | None]) -> None:
        """Answer the end of a message in LMTP: one answer for each recipient, in their order.

        Each is what `reply` takes. Raises `ProtocolError` when it was not asked, the number is
        another, or one of them is no answer to a message.
        """
        asked = self._asked
        if not self.settings.lmtp or type(asked) is not events.MessageEnd:
            raise ProtocolError("nothing was asked that has an answer for each recipient")
        if len(answers) != len(asked.transaction.recipients):
            raise ProtocolError("one answer for each recipient")
        spoken = [answer or replies.QUEUED for answer in answers]
        if any(300 <= answer.code < 400 for answer in spoken):
            raise ProtocolError("a 3xx does not answer a message")
        self._asked = None
        self._verb = "."
        self._end_transaction()
        self._say_all(spoken)

    def _log_in(self, _event: events.Auth, answer: Reply | None) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None  # noqa: S101  a login comes of one
        exchange.accept()
        self.authenticated = True
        self._say(answer or replies.AUTHENTICATED)

    def _have_no_secret(self, event: events.Secret, _answer: Reply | None) -> None:
        self._asked = event
        self.give_secret(None)

    def _refuse_login(self, answer: Reply) -> None:
        """A mechanism may have a last challenge to say before the refusal."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None  # noqa: S101  a login comes of one
        self._pardon = True
        answer = self._counted(answer)
        if answer.code < 500 or answer.closes:
            self._say(answer)
            return
        step = exchange.refuse(answer)
        if isinstance(step, bytes):
            self._exchange = exchange
        self._untold = self._step(exchange, step)

    def _refuse_secret(self, answer: Reply) -> None:
        self._exchange = None
        self._pardon = True
        answer = self._counted(answer)
        if answer.code < 500 or answer.closes:
            self._say(answer)
        else:
            self._untold = self._error(answer)

    def _counted(self, answer: Reply) -> Reply:
        """What is said to a login that failed; a 4xx is our own trouble."""
        if answer.code < 500:
            return answer
        self.counts.failed_logins += 1
        too_many = self.counts.failed_logins >= self.settings.limits.failed_logins
        return replies.TOO_MANY_LOGINS if too_many else answer

    def _begin_tls(self, _event: events.StartTLS, _answer: Reply | None) -> None:
        self.state = TRANSITIONS[self.state, "STARTTLS"]
        self._asked = events.Close()  # for good: what comes is TLS, and is not for us
        self._say(replies.START_TLS)

    def _verify(self, event: events.Vrfy, answer: Reply | None) -> None:
        answer = answer or replies.CANNOT_VRFY
        # RFC 6531 3.7.4.2: no UTF-8 for a client that did not ask for it
        self._say(answer if event.smtputf8 or answer.text.isascii() else replies.VRFY_IN_UTF8)

    def _drop_transaction(self) -> None:
        transaction = self.transaction
        if transaction is not None and transaction.chunks is not None:
            self._tell(events.BODY_DROPPED)
        self.transaction = self.forwarded = None

    def _answer_command(self, _event: events.Command, answer: Reply | None) -> None:
        self._say(answer or replies.OK)

    def _begin_anew(self, event: events.XClient, _answer: Reply | None) -> None:
        """XCLIENT: as if the client behind it had just connected."""
        self.xclient = event.attributes
        self.helo = event.attributes.get("HELO") or ""
        self.esmtp = event.attributes.get("PROTO") == "ESMTP"
        self.authenticated = bool(event.attributes.get("LOGIN"))
        self.forwarded = None
        self.state = TRANSITIONS[self.state, "XCLIENT"]

    def _reset(self, _event: events.Reset, answer: Reply | None) -> None:
        self._drop_transaction()
        self.state = TRANSITIONS[self.state, "RSET"]
        self._say(answer or replies.OK)

    def hang_up(self, reply: Reply | None = None) -> None:
        """End the connection from our side, whatever it was doing; `reply` is said first."""
        self._asked = None
        if self.state is not State.CLOSED:
            if reply is not None:
                self._verb = ""  # it is said to none
                self._say(reply)
            self._close()

    def resume(self) -> None:
        """Go on after a `Tarpit`. Raises `ProtocolError` when there was none."""
        if type(self._asked) is not events.Tarpit:
            raise ProtocolError("nothing to resume")
        self._asked = None
        self._let_go = len(self._out)

    # -- saying ----------------------------------------------------------------------------------

    def _say(self, reply: Reply) -> events.Close | None:
        self._out.append(reply.wire)
        self._said.append(reply.code)
        if self._transcript is not None:
            self._transcript.said(reply.wire)
        return self._refused(reply) if reply.refuses else None

    def _refused(self, reply: Reply) -> events.Close | None:
        self._tally.refused(self._verb, reply)
        return self._close() if reply.closes else None

    def note_failure(self, error: Exception) -> None:
        """What a user's own code has done wrong, when we ran it."""
        self._tally.failed(error)

    def _say_to_all(self, reply: Reply, transaction: Transaction) -> events.Close | None:
        """The outcome of a message: in LMTP once for each recipient (RFC 2033 4.2)."""
        if not self.settings.lmtp:
            return self._say(reply)
        return self._say_all([reply] * len(transaction.recipients))

    def _say_all(self, spoken: list[Reply]) -> events.Close | None:
        """All of them are said, also where one of them closes."""
        for reply in spoken:
            self._out.append(reply.wire)
            self._said.append(reply.code)
            if self._transcript is not None:
                self._transcript.said(reply.wire)
        refusals = [reply for reply in spoken if reply.refuses]
        if refusals:
            self._tally.refused(self._verb, refusals[0], wholly=len(refusals) == len(spoken))
        return self._close() if any(reply.closes for reply in spoken) else None

    def _refuse(self, reply: Reply) -> Event | None:
        """Say a reply of our own; it counts as an error where it is for the client's mistakes."""
        self.counts.messages += self._verb == "MAIL"  # RFC 9422 4.1, as for a hook's refusals
        return self._error(reply) if reply.code in _MISTAKES else self._say(reply)

    def _error(self, reply: Reply) -> Event | None:
        """Say a refusal that counts: enough of them slow the client down, and then end it."""
        limits = self.settings.limits
        self.counts.errors += 1
        if self.counts.errors >= limits.errors:
            return self._say(replies.TOO_MANY_ERRORS)
        self._slow = self.counts.errors >= limits.slow_errors
        return self._say(reply)

    _ANSWERS: ClassVar[Mapping[type, _Answer]] = MappingProxyType(
        {
            events.Connect: _greet,
            events.Hello: _welcome,
            events.Mail: _begin,
            events.Rcpt: _add_recipient,
            events.Data: _start_body,
            events.MessageEnd: _take_message,
            events.Secret: _have_no_secret,
            events.Auth: _log_in,
            events.StartTLS: _begin_tls,
            events.Vrfy: _verify,
            events.Reset: _reset,
            events.XClient: _begin_anew,
            events.Command: _answer_command,
        }
    )
    # Where a refusal does more than being said
    _REFUSALS: ClassVar[Mapping[type, _Refusal]] = MappingProxyType(
        {
            events.Connect: _refuse_connection,
            events.Hello: _refuse_hello,
            events.Mail: _refuse_mail,
            events.Rcpt: _refuse_recipient,
            events.Data: _refuse_to_start,
            events.MessageEnd: _refuse_message,
            events.Secret: _refuse_secret,
            events.Auth: _refuse_login,
        }
    )


def _plain(answer: Reply) -> Reply:
    """RFC 2034 4: no enhanced code at the greeting and at HELO, but where a 421 ends it all."""
    return answer if answer.closes else Reply(answer.code, None, answer.text)
