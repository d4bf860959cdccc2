"""Output: every reply is queued here, counted here, and shown to an observer here.

Each method takes `to`, the command that the reply answers: `""` is the connection, `"."` the end of
a message, `UNKNOWN` a line that is not a command. A reply that closes sets `over`; the
connection sees that and ends, so a caller need not know which reply was the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, MutableSequence, Sequence
from typing import Final, NamedTuple

from ehlo.protocol import reply as replies
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, Transaction
from ehlo.transcript import LONGEST, MASK, Transcript, escaped

UNKNOWN: Final = "unknown"
"""The name under which a line is counted that is no command of ours."""

Observer = Callable[[str, str, str], None]
"""Called with each line: `("read" or "write", verb, line)`."""

_MISTAKES: Final = frozenset({500, 501, 502, 503, 504, 555})  # our replies that count as errors
_SHOWN: Final = 512  # bytes of a line that is no command


class Rejected(NamedTuple):
    """Names the mail that a rejection is about, for the log."""

    transaction: Transaction | None = None
    path: object = None
    """The argument of MAIL or RCPT, or the `Address` in it."""


NOTHING: Final = Rejected()


class Output:
    """Queues the replies of one connection, in order, until they are sent.

    `wires` has the queued replies; the sender empties it and sets `let_go` to 0. `said` is the
    tally's sequence; the connection appends the verbs of commands to it.
    """

    __slots__ = (
        *("_counts", "_settings", "_tally", "let_go", "linger", "over", "said", "slow"),
        *("narrator", "wires"),
    )

    def __init__(
        self, settings: Settings, counts: Counts, tally: Tally, narrator: Narrator | None
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._tally = tally
        self.narrator = narrator
        self.said: MutableSequence[str | int] = tally.said
        self.wires: list[bytes] = []
        self.let_go = 0  # how many of `wires` were held back long enough
        self.slow: bool = 0 < settings.limits.slow_errors <= counts.errors  # hold each reply back
        self.over: bool = False  # the last reply was queued
        self.linger: bool = False  # the client is still sending

    def reply(self, reply: Reply, to: str, about: Rejected = NOTHING) -> None:
        """Queue `reply`, which may be a rejection, then of the mail that it is `about`."""
        if reply.refuses:
            self.reject(reply, to, about)
            return
        self.wires.append(reply.wire)
        self.said.append(reply.code)
        if self.narrator is not None:
            self.narrator.wrote(reply.wire, to)

    def taken(self) -> bytes:
        """Return the replies that wait to be sent, once."""
        wires = self.wires
        self.let_go = 0
        if len(wires) == 1:
            return wires.pop()
        data = b"".join(wires)
        wires.clear()
        return data

    def reject(self, reply: Reply, to: str, about: Rejected = NOTHING) -> None:
        """Queue a rejection; one too many since the last accepted message ends the session."""
        if self._is_one_too_many() and not reply.closes:
            reply = replies.TOO_MANY_IDLE
        self._tally.refused(to, reply, about)
        self.over = self.over or reply.closes
        self._queue(reply, to)

    def answer(self, reply: Reply, to: str, about: Rejected = NOTHING) -> None:
        """Queue a reply of the core's own; a code for mistakes of the client counts as one."""
        if reply.code in _MISTAKES:
            self.mistake(reply, to, about)
        else:
            self.reply(reply, to, about)

    def mistake(self, reply: Reply, to: str, about: Rejected = NOTHING) -> None:
        """Queue a rejection that counts as an error: errors slow the client down, then end it."""
        limits = self._settings.limits
        self._counts.errors += 1
        if 0 < limits.errors <= self._counts.errors:
            self.reject(replies.TOO_MANY_ERRORS, to, about)
            return
        self.slow = 0 < limits.slow_errors <= self._counts.errors
        self.reject(reply, to, about)

    def outcome(self, reply: Reply, transaction: Transaction) -> None:
        """Queue a rejection of a message; in LMTP, queue any outcome once per recipient."""
        if self._settings.lmtp:
            self.each([reply] * len(transaction.recipients), transaction)
        else:
            self.reply(reply, ".", Rejected(transaction))

    def each(self, outcomes: Sequence[Reply], transaction: Transaction) -> None:
        """Queue one reply per recipient (LMTP), all of them even if one closes."""
        refusals = [reply for reply in outcomes if reply.refuses]
        wholly = len(refusals) == len(outcomes)
        if not wholly:
            self.forgive()
        elif self._is_one_too_many():
            outcomes = refusals = [replies.TOO_MANY_IDLE] * len(outcomes)
        for reply in outcomes:
            self._queue(reply, to=".")
        if refusals:
            self._tally.refused(".", refusals[0], Rejected(transaction), wholly=wholly)
            self.over = self.over or any(reply.closes for reply in refusals)

    def challenge(self, wire: bytes) -> None:
        """Queue a challenge of a login (RFC 4954 4)."""
        self.wires.append(wire)
        self.said.append(334)
        if self.narrator is not None:
            self.narrator.challenge(wire)

    def stop_reading(self) -> None:
        """End the connection while the client is still sending."""
        self.over = self.linger = True

    def note_failure(self, error: Exception) -> None:
        """Report that an extension or a mechanism of the user failed."""
        self._tally.failed(error)

    def _queue(self, reply: Reply, to: str) -> None:
        self.wires.append(reply.wire)
        self.said.append(reply.code)
        if self.narrator is not None:
            self.narrator.wrote(reply.wire, to)

    def forgive(self) -> None:
        """Start again what is counted between accepted messages, as Postfix does."""
        counts = self._counts
        counts.errors = counts.refused_recipients = counts.refusals = 0
        self.slow = False

    def _is_one_too_many(self) -> bool:
        """Count a rejection of any kind, so that a client cannot get them without end."""
        self._counts.refusals += 1
        return 0 < self._settings.refusal_limit < self._counts.refusals


class Tally:
    """Counts nothing. Derive from it to count replies and to learn of rejections.

    One tally may serve many connections. `said` gets the verb of each command and the code of each
    reply, in turn: appending to a list is the cheapest thing to do for each; its owner counts
    later. What a client sent never becomes a name in it.
    """

    __slots__ = ("said",)

    def __init__(self, said: MutableSequence[str | int] | None = None) -> None:
        self.said: MutableSequence[str | int] = deque[str | int](maxlen=0) if said is None else said

    def refused(
        self, verb: str, reply: Reply, about: Rejected = NOTHING, *, wholly: bool = True
    ) -> None:
        """Called when a 4xx or 5xx was queued: `verb` is what it answers, as in `Output`.

        In LMTP a message may be rejected for some recipients only; then `wholly` is false.
        """

    def failed(self, error: Exception) -> None:
        """Called when the user's extension or mechanism failed."""


class Narrator:
    """Shows lines to an observer and to a transcript, with credentials masked and without bodies.

    The transcript may ask for credentials and bodies; the observer never gets them. After AUTH, a
    line that is no command may be a secret of a client that did not wait.
    """

    __slots__ = (
        *(
            "_answered",
            "_closed",
            "_heard",
            "_masking",
            "_mechanisms",
            "_observer",
            "_rest",
            "_size",
            "_tail",
        ),
        "transcript",
    )

    def __init__(
        self,
        observer: Observer | None,
        mechanisms: Container[str] = (),
        transcript: Transcript | None = None,
    ) -> None:
        self._observer = observer
        self.transcript = transcript
        self._mechanisms = mechanisms  # names that may be shown, in addition to the known ones
        self._answered = False  # whether the client has sent a line of a login
        self._masking = False
        self._closed = False
        self._heard = ""  # the verb of the command under way
        self._size = 0  # of the body so far
        self._tail = b""  # the beginning of a line of the body
        self._rest = 0  # bytes of that line that are not kept

    def note(self, text: str) -> None:
        """Show an event in the transcript."""
        if self.transcript is not None:
            self.transcript.add("note", text)

    def command(self, verb: str, argument: str, *, known: bool) -> None:
        """Show a line that has the form of a command; bytes that are not UTF-8 in hexadecimal."""
        line = masked = f"{verb} {argument}".rstrip()
        if verb == "AUTH":
            self._masking = True
            mechanism, space, _secret = argument.strip().partition(" ")
            shown = mechanism if not mechanism or self._knows(mechanism.upper()) else MASK
            masked = f"{verb} {shown} {MASK}" if space else f"{verb} {shown}".rstrip()
            self._answered = bool(space)
        elif known:
            self._masking = False
        elif (self._masking and verb != "*") or line.lstrip()[:4].upper() == "AUTH":
            self._masking = True
            verb = masked = MASK
        self._heard = verb
        if self._observer is not None:
            self._observer("read", verb, _in_hexadecimal(masked))
        transcript = self.transcript
        if transcript is not None:
            transcript.add("client", escaped(line if transcript.secrets else masked))

    def _knows(self, mechanism: str) -> bool:
        return mechanism in MECHANISMS or mechanism in self._mechanisms

    def no_command(self, line: bytes) -> None:
        """Show a line that is rejected as it stands."""
        self._heard = ""
        if line.lstrip()[:4].upper() == b"AUTH":
            self._masking = True
        if self._masking:
            shown = told = MASK
        else:
            shown = line[:_SHOWN].decode("ascii", "backslashreplace")
            shown = shown.encode("unicode_escape").decode()
            told = escaped(line.removesuffix(b"\r\n"))
        self._read("", shown, told, line.removesuffix(b"\r\n"))

    def response(self, line: bytes) -> None:
        """Show that a line of a login was read."""
        self._answered = True
        self._read("AUTH", MASK, MASK, line.removesuffix(b"\r\n"))

    def _read(self, verb: str, shown: str, told: str, line: bytes | str) -> None:
        """Show a line of the client: `shown` to the observer, `told` or all of it to the rest."""
        if self._observer is not None:
            self._observer("read", verb, shown)
        transcript = self.transcript
        if transcript is not None:
            transcript.add("client", escaped(line) if transcript.secrets else told)

    def challenge(self, wire: bytes) -> None:
        """Show a challenge, masked once the client has answered: SCRAM makes it of a secret."""
        line = wire.decode().rstrip("\r\n")
        self._write(f"334 {MASK}" if self._answered else line, line)

    def wrote(self, wire: bytes, to: str) -> None:
        """Show a reply, under the verb as the client sent it."""
        if to == ".":
            self._heard = "."
        for line in wire.decode().splitlines():
            self._write(line, line)

    def _write(self, shown: str, line: str) -> None:
        if self._observer is not None:
            self._observer("write", self._heard, shown)
        transcript = self.transcript
        if transcript is not None:
            transcript.add("server", escaped(line if transcript.secrets else shown))

    # -- bodies ----------------------------------------------------------------------------------

    def body(self, chunk: bytes, *, dots: bool) -> None:
        """Show a chunk of a body, with the dots that it has lost after DATA (`dots`)."""
        transcript = self.transcript
        if transcript is None:
            return
        self._size += len(chunk)
        if not transcript.bodies:
            return
        start = 0
        while (end := chunk.find(b"\n", start) + 1) > 0:
            self._add_to_line(chunk[start:end])
            self._end_line(transcript, dots=dots, end=2)
            start = end
        self._add_to_line(chunk[start:])

    def _add_to_line(self, piece: bytes) -> None:
        """Keep a piece of a line, up to the length at which a line is cut."""
        kept = piece[: max(LONGEST + 2 - len(self._tail), 0)]
        self._tail += kept
        self._rest += len(piece) - len(kept)

    def _end_line(self, transcript: Transcript, *, dots: bool, end: int = 0) -> None:
        """Show the line so far; `end` is the size of its line end, if it is cut."""
        line, rest = self._tail, self._rest and self._rest - end
        self._tail, self._rest = b"", 0
        if dots and line.startswith(b"."):
            line = b"." + line
        transcript.add("client", escaped(line.removesuffix(b"\r\n"), rest))

    def end_body(self, *, dots: bool, complete: bool = True) -> None:
        """Show the end of a body after DATA (`dots`), or of a chunk; or that it did not come."""
        transcript, size = self.transcript, self._size
        self._size = 0
        if transcript is None:
            return
        if not transcript.bodies:
            end = "" if complete else ", without its end"
            transcript.add("note", f"{size} bytes of a message{end}")
            return
        if self._tail or self._rest:
            self._end_line(transcript, dots=dots)
        if dots and complete:
            transcript.add("client", ".")

    def break_off(self) -> None:
        """Show that a body does not come to its end, if one has begun."""
        if self._size:
            self.end_body(dots=True, complete=False)

    def end(self, why: str) -> None:
        """Show that the client sends no more, maybe in the middle of a body."""
        self.break_off()
        self.note(why)

    def close(self, why: str) -> None:
        """Show the end of the connection, once."""
        if not self._closed:
            self._closed = True
            self.end(why)


def _in_hexadecimal(line: str) -> str:
    """Return a line with its bytes that are not UTF-8, if there are any, in hexadecimal."""
    if line.isascii():
        return line
    return line.encode(errors="surrogateescape").decode(errors="backslashreplace")
