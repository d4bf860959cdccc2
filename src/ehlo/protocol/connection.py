"""The server's half of an SMTP connection: bytes in, events and replies out; no socket, no clock.

    connection.receive_data(data)
    while not isinstance(event := connection.next_event(), Waiting):
        ...                                  # and for those that want one: connection.reply(answer)
    send(connection.data_to_send())

An event that wants an answer pauses the connection; what the client pipelined stays in the buffer.
So order, back-pressure and "refused, so nothing changed" are one rule: the state moves when the
answer is a positive one, and then only. The end of a message closes the transaction either way.

Here a line becomes an event. What it means is in `commands.py`, what its answer changes in
`answers.py`; a body is read in `intake.py`, a login in `login.py`, and `output.py` speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ehlo.protocol import commands, events, lines
from ehlo.protocol import reply as replies
from ehlo.protocol.answers import ACCEPT, REFUSE
from ehlo.protocol.body import END, Skipper
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.errors import ProtocolError
from ehlo.protocol.events import NEED_DATA, PAUSED, Event, Waiting
from ehlo.protocol.extensions import Facts
from ehlo.protocol.intake import Intake, Reader
from ehlo.protocol.login import Login
from ehlo.protocol.output import Observer, Output, Tally, Transcript
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import AFTER, Counts, State, Transaction
from ehlo.protocol.xclient import Attributes

__all__ = ["Connection"]

_MOST_REPLIES: Final = 100  # of our own, to pipelined commands, before some are sent
_TELLING: Final = events.Close()  # asked of nobody: there is something to tell first
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})

# Compared for each event, and an enumeration is slow to look into
_GREETING: Final = State.GREETING
_CLOSED: Final = State.CLOSED


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
        # What it has learnt, for whoever wants to know
        *("authenticated", "bindings", "certificate", "counts", "esmtp", "forwarded", "helo"),
        *("nonce", "settings", "state", "tls", "transaction", "trusted", "xclient"),
        # Its parts, and what `lines` and `answers` go by
        *("asked", "asks", "buffer", "intake", "legal", "login", "output", "pardon"),
        *("_ended", "_untold"),
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
        self.trusted = trusted
        self.state = State.GREETING if greet else State.HELLO
        self.authenticated = False
        self.helo = ""  # the name in HELO or EHLO
        self.esmtp = False  # whether it was EHLO
        self.xclient: Attributes = {}  # all that XCLIENT has said
        self.forwarded: Attributes | None = None  # what XFORWARD has said of the next message
        self.transaction: Transaction | None = None
        self.counts = counts = counts or Counts()
        names = settings.mechanisms
        transcript = Transcript(observer, names) if observer is not None else None
        self.output = Output(settings, counts, tally or Tally(), transcript)
        self.intake = Intake(settings, counts, self.output)
        self.login: Login | None = None
        self.pardon = False  # for a stray "*"
        self.asked: Event | None = None  # what the next call of reply() answers
        self._untold: Event | None = None  # came of an answer; told by the next call of next_event
        self.asks = asks
        self.legal = commands.LEGAL_IN_LMTP if settings.lmtp else commands.LEGAL
        self.buffer = Buffer()
        self._ended = False  # the client will not send any more

    # -- bytes -----------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what the network brought; it may be anything."""
        if self.state is not _CLOSED:
            self.buffer.feed(data)

    def receive_eof(self) -> None:
        """The client has closed its sending side; what it said before is still answered."""
        self._ended = True

    def data_to_send(self) -> bytes:
        """All that is to be sent now; it is handed out once."""
        output = self.output
        wires = output.wires
        if not wires:
            return b""
        data = wires[0] if len(wires) == 1 else b"".join(wires)
        wires.clear()
        output.let_go = 0
        return data

    @property
    def buffered(self) -> int:
        """Octets received and not yet read."""
        return len(self.buffer)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way, from MAIL being asked about to the final reply."""
        return self.transaction is not None or type(self.asked) is events.Mail

    # -- facts -----------------------------------------------------------------------------------

    def usable_mechanisms(self) -> tuple[str, ...]:
        """The names of the mechanisms that the client could use now."""
        if self.authenticated:
            return ()
        return self.settings.usable_mechanisms(
            tls=self.tls, binding=bool(self.bindings), certificate=self.certificate is not None
        )

    def facts(self) -> Facts:
        """What decides which extensions are offered now."""
        return Facts(self.settings, self.tls, self.usable_mechanisms(), self.trusted)

    def note_failure(self, error: Exception) -> None:
        """What a user's own code has done wrong, when we ran it."""
        self.output.note_failure(error)

    # -- events ----------------------------------------------------------------------------------

    def next_event(self) -> Event | Waiting:
        """The next thing that the client did, or why there is none now."""
        if self.asked is not None:
            return self._what_is_untold()
        output, intake, buffer = self.output, self.intake, self.buffer
        answered = 0
        while not output.over:
            if output.slow and len(output.wires) > output.let_go:
                return self.ask(events.Tarpit(1.0))
            reader = intake.reader
            event: Event | Waiting | None
            if reader is not None:
                found = intake.read(reader, buffer, self.transaction)
                event = self._end_body(reader) if found is END else found
            elif self.state is _GREETING:
                event = self.ask_about(events.CONNECT)
            elif buffer.empty:
                return self.close() if self._ended else NEED_DATA
            else:
                event = lines.read(self)
            if event is not None:
                return self.close() if event is NEED_DATA and self._ended else event
            answered += 1
            if answered == _MOST_REPLIES:
                return events.FULL
        return self.close()

    def _what_is_untold(self) -> Event | Waiting:
        untold, self._untold = self._untold, None
        if self.asked is _TELLING:
            self.asked = None
        return PAUSED if untold is None else untold

    def _tell(self, event: Event | None) -> None:
        """Have the next call of `next_event` return what came of an answer."""
        if event is not None:
            self._untold = event
            self.asked = event if type(event) in ACCEPT else _TELLING
        elif self.output.over:
            self.close()

    # -- for `lines` and `answers` ---------------------------------------------------------------

    def ask(self, event: Event) -> Event:
        """Wait for an answer to this; it is returned."""
        self.asked = event
        return event

    def ask_about(self, event: Event) -> Event | None:
        """Ask, unless this is a kind of command that nobody wants to be asked about."""
        kind = type(event)
        if kind in events.QUESTIONS and kind not in self.asks:
            return ACCEPT[kind](self, event, None)
        return self.ask(event)

    def go_on(self, question: Event | None) -> Event | None:
        """The login has made a step: ask its question, if any; let go of it when it is over."""
        if self.login is not None and self.login.over:
            self.login = None
        self.asked = question
        return question

    def close(self) -> events.Close:
        """This is the end: nothing more is read."""
        self.state = State.CLOSED
        self.buffer.clear()
        self.transaction = self.login = self.intake.reader = None
        self.output.over = True
        return events.Close(self.output.linger)

    # -- the body --------------------------------------------------------------------------------

    def _end_body(self, reader: Reader) -> Event | None:
        """The message is here, wanted or not; or a chunk that was refused has gone by."""
        if isinstance(reader, Skipper):
            self._end_skipping(reader)
            return None
        transaction = self.transaction
        assert transaction is not None  # noqa: S101  a body has a transaction
        self.state = AFTER[self.state]["."]
        if transaction.refusal is None:
            self.asked = events.MessageEnd(transaction)
            return self.asked
        self._refuse_message(transaction, transaction.refusal)
        return None

    def _refuse_message(self, transaction: Transaction, refusal: Reply) -> None:
        chunks = transaction.chunks
        if chunks is not None and chunks.failed and not self.settings.lmtp:
            refusal = replies.CHUNK_FAILED  # why has been said, to the chunk that failed
        self._end_transaction()
        self.output.outcome(refusal, transaction)

    def _end_transaction(self) -> None:
        self.transaction = self.forwarded = None
        self.state = AFTER[self.state]["."]

    def _end_skipping(self, reader: Skipper) -> None:
        none = reader.refusal in (replies.RCPT_BEFORE_BDAT, replies.NO_VALID_RECIPIENTS_LMTP)
        if self.settings.lmtp and reader.last and none and self.state is State.MAIL:
            # RFC 2033 4.3: one reply for each recipient that was accepted, and there is none
            self.transaction = self.forwarded = None
            self.state = State.READY
        else:
            self.output.answer(reader.refusal, to="BDAT")

    def refuse_body(self, reply: Reply) -> events.BodyRefused:
        """Throw away what comes of this body, and say `reply`, a 4xx or 5xx, at its end.

        Between chunks, at the end of the next one. Raises `ProtocolError` where no body is.
        """
        return self.intake.refuse(reply, self.transaction)

    # -- answers ---------------------------------------------------------------------------------

    def reply(self, answer: Reply | None = None) -> None:
        """Answer the event that paused us: `None` accepts in our words, a `Reply` says it all.

        Raises `ProtocolError` when nothing was asked, or the reply is none for that question (a
        354 goes with DATA and nothing else does).
        """
        asked = self.asked
        kind = type(asked)
        accept = ACCEPT.get(kind)
        if accept is None:
            raise ProtocolError("nothing was asked")
        if answer is not None:
            if answer.refuses:
                self._reply_no(asked, answer)
                return
            if answer.code != 354 if kind is events.Data else answer.code >= 300:
                raise ProtocolError(f"{answer.code} does not answer {kind.__name__}")
        self.asked = None
        told = accept(self, asked, answer)
        if told is not None or self.output.over:
            self._tell(told)

    def _reply_no(self, asked: Event | None, answer: Reply) -> None:
        self.asked = None
        self._tell(REFUSE[type(asked)](self, asked, answer))

    def reply_each(self, answers: Sequence[Reply | None]) -> None:
        """Answer the end of a message in LMTP: one answer for each recipient, in their order.

        Each is what `reply` takes. Raises `ProtocolError` when it was not asked, the number is
        another, or one of them is no answer to a message.
        """
        asked = self.asked
        if not self.settings.lmtp or type(asked) is not events.MessageEnd:
            raise ProtocolError("nothing was asked that has an answer for each recipient")
        if len(answers) != len(asked.transaction.recipients):
            raise ProtocolError("one answer for each recipient")
        spoken = [answer or replies.QUEUED for answer in answers]
        if any(300 <= answer.code < 400 for answer in spoken):
            raise ProtocolError("a 3xx does not answer a message")
        self.asked = None
        self._end_transaction()
        self.output.each(spoken)
        self._tell(None)

    def give_secret(self, secret: object) -> None:
        """Answer `events.Secret`: a password, `ScramKeys`, a list of these, or `None` for nobody.

        Raises `TypeError` or `ValueError` for what is no secret, which leaves the question open,
        and `ProtocolError` when none was asked for.
        """
        login = self.login
        if type(self.asked) is not events.Secret or login is None:
            raise ProtocolError("no secret was asked for")
        self._tell(self.go_on(login.give(secret)))

    def hang_up(self, reply: Reply | None = None) -> None:
        """End the connection from our side, whatever it was doing; `reply` is said first."""
        self.asked = None
        if self.state is not State.CLOSED:
            if reply is not None:
                self.output.reply(reply, to="")
            self.close()

    def resume(self) -> None:
        """Go on after a `Tarpit`. Raises `ProtocolError` when there was none."""
        if type(self.asked) is not events.Tarpit:
            raise ProtocolError("nothing to resume")
        self.asked = None
        self.output.let_go = len(self.output.wires)
