"""`Connection`: the server's half of an SMTP connection, without a socket and without a clock.

    connection.receive_data(data)
    while not isinstance(event := connection.next_event(), Waiting):
        ...                                  # where an answer is wanted: connection.reply(answer)
    send(connection.data_to_send())

An event that wants an answer pauses the connection; what the client pipelined stays in the buffer.
Order, back-pressure and "rejected, so nothing changed" follow from that one rule: the state moves
when the answer is positive, and only then. The end of a message always ends the transaction.

A connection moves bytes and events. What a command means stands in `verbs`, what it has changed in
`conversation`. `hear` does for plain commands what `verbs.hear` does for all, in one call, which
saves 3 % of the instructions of a message on a kept connection. This module is longer than others,
since both ways of a packet stand in it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final

from ehlo.protocol import events, verbs
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import PeerCertificate
from ehlo.protocol.body import END
from ehlo.protocol.conversation import ADMISSION, NO_BINDINGS, Admission, Conversation
from ehlo.protocol.events import NEED_DATA, PAUSED, Event, Waiting
from ehlo.protocol.output import Narrator, Observer, Output, Rejected, Tally
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, State, Transaction
from ehlo.protocol.verbs import greeting, login, mail
from ehlo.protocol.verbs.greeting import CONNECT, STARTTLS
from ehlo.protocol.verbs.verb import AnyQuestion, Ask, Told, accept, reject, take
from ehlo.transcript import Transcript

_MOST_REPLIES: Final = 100  # of the core's own, to pipelined commands, before some are sent
# Compared for each event; looking into an enumeration takes 700 instructions before Python 3.12
_CLOSED: Final = State.CLOSED
_GREETING: Final = State.GREETING


class Connection:
    """Serves one client, from the greeting (or from the end of STARTTLS) to its end.

    `nonce` is called for unpredictable text without spaces and brackets. With `greet=False` the
    client was greeted before: this connection replaces another one after STARTTLS, and knows
    nothing of it (RFC 3207 4.2) but its `counts`. `asks` has the events that the server wants to be
    asked about; those in `verbs.QUESTIONS` that are not in it are accepted without an event. For
    `trusted`, `bindings`, `certificate` and `admission` see `Conversation`. `observer` is called
    with each line, `transcript` gets each line, and `tally` counts.

    Example:

        >>> import secrets
        >>> from ehlo.protocol import NEED_DATA, Connection, Settings
        >>> connection = Connection(Settings(hostname="mx.example"), lambda: secrets.token_hex(16))
        >>> connection.next_event()
        Connect()
        >>> connection.reply()
        >>> connection.next_event() is NEED_DATA
        True
        >>> connection.data_to_send()[:14]
        b'220 mx.example'
    """

    __slots__ = (
        *("_ended", "_halted", "_queued", "_question", "_subject", "_tarpit"),
        "conversation",
    )

    def __init__(
        self,
        settings: Settings,
        nonce: Callable[[], str],
        asks: Container[type] = verbs.QUESTIONS,
        tally: Tally | None = None,
        admission: Admission = ADMISSION,
        trusted: frozenset[str] = frozenset(),
        observer: Observer | None = None,
        transcript: Transcript | None = None,
        *,
        tls: bool = False,
        greet: bool = True,
        counts: Counts | None = None,
        bindings: Mapping[str, bytes] = NO_BINDINGS,
        certificate: PeerCertificate | None = None,
    ) -> None:
        counts = counts or Counts()
        narrator = None
        if observer is not None or transcript is not None:
            narrator = Narrator(observer, settings.mechanisms, transcript)
        output = Output(settings, counts, tally or Tally(), narrator)
        self.conversation: Conversation = Conversation(
            *(settings, nonce, output, counts, asks, admission, trusted),
            *(tls, greet, bindings, certificate),
        )
        """The facts of the connection."""
        self._halted = False  # whether anything below must end before the next line is read
        self._question: AnyQuestion | None = None  # the next call of reply() answers it
        self._subject: object = None
        self._queued: Event | None = None  # an event that came of an answer
        self._tarpit = False
        self._ended = False  # the client will not send any more

    # -- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state of the session."""
        return self.conversation.state

    @property
    def transaction(self) -> Transaction | None:
        """The mail transaction; `None` outside of one."""
        return self.conversation.transaction

    @property
    def counts(self) -> Counts:
        """The counts held against the client."""
        return self.conversation.counts

    @property
    def buffered(self) -> int:
        """The number of bytes received and not yet read."""
        return len(self.conversation.buffer)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, from the question about MAIL to the final reply."""
        return self.conversation.transaction is not None

    @property
    def over(self) -> bool:
        """Whether the last reply was queued."""
        return self.conversation.output.over

    def rest(self) -> bytes | None:
        """Return the bytes to send, once; `None` if there is more to do: call `next_event` then.

        The greeting is among them, unless the server wants to be asked.
        """
        conversation, output = self.conversation, self.conversation.output
        if self._halted or self._ended or not conversation.buffer.empty:
            return None
        if conversation.reader is not None or output.slow or output.over:
            return None
        if conversation.state is _GREETING:
            if CONNECT.event in conversation.asks:
                return None
            accept(conversation, CONNECT, events.CONNECT, None)
        return output.taken()

    # -- bytes -----------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the network."""
        conversation = self.conversation
        if not conversation.output.over:
            conversation.buffer.feed(data)

    def receive_eof(self) -> None:
        """Note that the client has closed its sending side; what it sent is still answered."""
        self._ended = True
        if self.conversation.output.narrator is not None:
            self.conversation.output.narrator.end("client closed its sending side")

    def lose(self) -> None:
        """Note in the transcript that the client has gone, unless the server has closed before."""
        if self.conversation.output.narrator is not None:
            self.conversation.output.narrator.close("client disconnected")

    def data_to_send(self) -> bytes:
        """Return the bytes to send now, once."""
        return self.conversation.output.taken()

    # -- events ----------------------------------------------------------------------------------

    def hear(self, packet: bytes) -> bytes | Event | Waiting | None:
        """Take bytes that are the usual packet: one plain command, a whole body, or a part of one.

        Such a packet never enters the buffer. Returns the reply to an accepted command, to be sent
        at once; or what `next_event` does; or `None` for any other packet: call `receive_data`.
        """
        conversation = self.conversation
        output = conversation.output
        if (
            self._halted
            or self._ended
            or not conversation.buffer.empty
            or output.wires
            or output.slow
            or output.over
            or type(packet) is not bytes
        ):
            return None
        reader = conversation.reader
        if reader is not None:
            event = mail.hear_body(conversation, reader, packet)
            if type(event) is events.MessageEnd:
                # The question keeps no body: it may be on disk before its answer
                self._question, self._subject = mail.MESSAGE, event.transaction
                self._halted = True
            return event
        usual = verbs.USUAL.get(packet[:4])  # on 3.11, 0.8 % fewer instructions than USUAL.get
        if usual is None:
            return None
        verb, parse, accepts, to = usual
        settings = conversation.settings
        if (
            conversation.state not in verb.since
            or conversation.exchange is not None
            or len(packet) > settings.plain_limit
        ):
            return None
        closed = settings.gated and verbs.refusal_of(conversation, verb) is not None
        subject = None if closed else parse(conversation, packet)
        if subject is None:
            return None
        if output.narrator is not None:
            output.narrator.command(verb.name, verbs.argument_of(verb, packet), known=True)
        if type(subject) is Reply or verb.event in conversation.asks:
            output.said.append(verb.name)
            if type(subject) is not Reply:
                return self._ask(*verb.ask(conversation, subject))
            verbs.fail(conversation, verb, verbs.argument_of(verb, packet), subject)
            return self.next_event()  # the client may have to wait now, or to leave
        reply = accepts(conversation, subject, None)
        conversation.state = to
        if to is _CLOSED:
            output.said.append(verb.name)
            output.reply(reply, verb.name)
            return self._close()
        output.said.extend((verb.name, reply.code))
        if output.narrator is not None:
            output.narrator.wrote(reply.wire, verb.name)
        return reply.wire

    def next_event(self) -> Event | Waiting:
        """Return the next event, or why there is none now."""
        if self._halted:
            return self._next_queued()
        conversation = self.conversation
        output, buffer = conversation.output, conversation.buffer
        answered = 0
        while not output.over:
            if output.slow and len(output.wires) > output.let_go:
                self._halted = self._tarpit = True
                return events.Tarpit(1.0)
            reader = conversation.reader
            event: Event | Waiting | None
            if reader is not None:
                found = conversation.read_body(reader)
                if found is END:
                    ask = mail.end_of_body(conversation, reader)
                    event = None if ask is None else self._ask(*ask)
                else:
                    event = found
            elif conversation.state is _GREETING:
                event = self._follow(take(conversation, CONNECT, events.CONNECT))
            elif buffer.empty:
                event = NEED_DATA
            else:
                heard = verbs.hear(conversation)
                event = self._ask(*heard) if isinstance(heard, tuple) else heard
            if event is not None:
                return self._close() if event is NEED_DATA and self._ended else event
            answered += 1
            if answered == _MOST_REPLIES:
                return events.FULL
        return self._close()

    def _next_queued(self) -> Event | Waiting:
        queued, self._queued = self._queued, None
        if queued is None:
            return PAUSED
        self._halted = self._question is not None
        return queued

    def _follow(self, found: Ask | Told) -> Event | None:
        """Open the question that was found, or return the event that only informs."""
        return self._ask(*found) if isinstance(found, tuple) else found

    def _ask(self, question: AnyQuestion, subject: object) -> Event:
        """Open a question; return its event."""
        self._question, self._subject, self._halted = question, subject, True
        return question.made_of(subject)

    def _close(self) -> events.Close:
        self.conversation.close()
        return events.Close(self.conversation.output.linger)

    # -- answers ---------------------------------------------------------------------------------

    def reply(self, answer: Reply | None = None) -> None:
        """Reply to the open question: `None` accepts in the server's own words.

        Raises `ProtocolError` if nothing was asked, or if `answer` does not fit the question: a 354
        answers DATA, and nothing else does.
        """
        question, subject, conversation = self._question, self._subject, self.conversation
        if question is None:
            raise ProtocolError("nothing was asked")
        if answer is not None and not answer.refuses:
            is_data = question.event is events.Data
            if answer.code != 354 if is_data else answer.code >= 300:
                name = getattr(question.event, "__name__", "")
                raise ProtocolError(f"{answer.code} does not answer {name}")
        self._question = self._subject = None
        self._halted = False
        if answer is not None and answer.refuses:
            found = reject(conversation, question, subject, answer)
        else:
            found = accept(conversation, question, subject, answer)
        if found is not None or question is STARTTLS or conversation.output.over:
            self._queue(found)

    def reply_each(self, answers: Sequence[Reply | None]) -> None:
        """Reply to the end of a message in LMTP: one answer per recipient, in their order.

        Each is as in `reply`. Raises `ProtocolError` if a message was not asked about, or if
        `answers` does not fit it.
        """
        transaction, settings = self.conversation.transaction, self.conversation.settings
        if not settings.lmtp or self._question is not mail.MESSAGE or transaction is None:
            raise ProtocolError("nothing was asked that has an answer for each recipient")
        if len(answers) != len(transaction.recipients):
            raise ProtocolError("one answer for each recipient")
        outcomes = [answer or replies.QUEUED for answer in answers]
        if any(300 <= answer.code < 400 for answer in outcomes):
            raise ProtocolError("a 3xx does not answer a message")
        self._answered()
        self.conversation.end_transaction()
        self.conversation.output.each(outcomes, transaction)
        mail.turn_away_after_refusals(self.conversation)
        self._queue(None)

    def give_secret(self, secret: object) -> None:
        """Pass the secret for `events.Secret`: a password, `ScramKeys` (or a list), or `None`.

        Raises `TypeError` or `ValueError` for any other value, which leaves the question open,
        and `ProtocolError` if none was asked for. This may take some milliseconds.
        """
        event = self._subject
        if not isinstance(event, events.Secret):
            raise ProtocolError("no secret was asked for")
        self.give_derived(event.derive(secret))

    def give_derived(self, derived: object) -> None:
        """Pass what `derive` of `events.Secret`, or `proceed` of `events.LoginStep`, has returned.

        Raises `ProtocolError` as above.
        """
        if self._question is not login.SECRET and self._question is not login.STEP:
            raise ProtocolError("no secret was asked for")
        ask = login.give(self.conversation, derived)
        self._answered()
        self._queue(None if ask is None else take(self.conversation, *ask))

    def refuse_body(self, reply: Reply) -> events.BodyRefused:
        """Discard the rest of this body, and send `reply`, a 4xx or 5xx, at its end.

        Between chunks, at the end of the next one. Raises `ProtocolError` if there is no body.
        """
        return self.conversation.refuse_body(reply)

    def refuse(self, reply: Reply) -> None:
        """Turn the client away: each command but QUIT gets `reply`, a 4xx or 5xx, from now on.

        A 5xx becomes a 554 (RFC 3207 4.1). A client that was not greeted is greeted with it.
        """
        if reply.code >= 500 and not reply.closes:
            reply = Reply(554, "5.7.0", reply.text)
        greeted = self.conversation.state is not _GREETING
        self.conversation.turn_away(reply)
        if not greeted:
            self.conversation.output.reject(greeting.plain(reply), to="")

    def resume(self) -> None:
        """Continue after a `Tarpit`. Raises `ProtocolError` if there was none."""
        if not self._tarpit:
            raise ProtocolError("nothing to resume")
        self._halted = self._tarpit = False
        self.conversation.output.let_go = len(self.conversation.output.wires)

    def hang_up(self, reply: Reply | None = None) -> None:
        """End the connection, whatever it was doing, after sending `reply`."""
        self._answered()
        self._queued, self._tarpit = None, False
        if self.conversation.state is not State.CLOSED:
            if self.conversation.output.narrator is not None:
                self.conversation.output.narrator.break_off()
            if reply is not None:
                self.conversation.output.reply(reply, "", Rejected(self.conversation.transaction))
            self.conversation.close()

    def _answered(self) -> None:
        self._question = self._subject = None
        self._halted = False

    def _queue(self, found: Ask | Told) -> None:
        """Return what was found from the next call of `next_event`; end after a last word."""
        if found is not None:
            self._queued, self._halted = self._follow(found), True
        elif self.conversation.output.over:
            self.conversation.close()
        elif self.conversation.state is State.TLS:
            self._halted = True  # for good: what comes now is TLS
