"""What we say: each reply is put in line to be sent, and counted, here and nowhere else.

A reply that closes sets `over`; the connection looks at that, and ends. So whoever says something
need not know what comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, Transaction
from ehlo.protocol.tally import Tally
from ehlo.protocol.transcript import Transcript

__all__ = ["Outgoing"]

_MISTAKES: Final = frozenset({500, 501, 502, 503, 504, 555})  # those of our replies that count


class Outgoing:
    """The replies of one connection, in order, until they are sent.

    `wires` has those that wait; who sends them empties it, and sets `let_go` to 0. `said` is the
    tally's, and takes the verbs of commands too. `verb` is that whose reply may be a refusal.
    """

    __slots__ = (
        *("_counts", "_settings", "_tally", "let_go", "linger", "over", "said", "slow"),
        *("transcript", "verb", "wires"),
    )

    def __init__(
        self, settings: Settings, counts: Counts, tally: Tally, transcript: Transcript | None
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._tally = tally
        self.transcript = transcript
        self.said = tally.said
        self.wires: list[bytes] = []
        self.let_go = 0  # of `wires`, those that have been held back for long enough
        self.slow = counts.errors >= settings.limits.slow_errors  # each is held back for a while
        self.verb = ""
        self.over = False  # that was the last word
        self.linger = False  # and the client is sending still

    def say(self, reply: Reply) -> None:
        """Say it, whatever it is; but a refusal that is one too many becomes the last word."""
        if reply.refuses:
            if self._is_one_too_many() and not reply.closes:
                reply = replies.TOO_MANY_IDLE
            self._tally.refused(self.verb, reply)
            self.over = self.over or reply.closes
        self.wires.append(reply.wire)
        self.said.append(reply.code)
        if self.transcript is not None:
            self.transcript.said(reply.wire)

    def say_own(self, reply: Reply) -> None:
        """Say a reply of our own; it counts as an error where it is for the client's mistakes."""
        if reply.code in _MISTAKES:
            self.error(reply)
        else:
            self.say(reply)

    def error(self, reply: Reply) -> None:
        """Say a refusal that counts: enough of them slow the client down, and then end it."""
        limits = self._settings.limits
        self._counts.errors += 1
        if self._counts.errors >= limits.errors:
            self.say(replies.TOO_MANY_ERRORS)
            return
        self.slow = self._counts.errors >= limits.slow_errors
        self.say(reply)

    def say_outcome(self, reply: Reply, transaction: Transaction) -> None:
        """Say what became of a message: in LMTP once for each recipient (RFC 2033 4.2)."""
        if self._settings.lmtp:
            self.say_each([reply] * len(transaction.recipients))
        else:
            self.say(reply)

    def say_each(self, spoken: Sequence[Reply]) -> None:
        """All of them are said, also where one of them closes. It is one message's outcome."""
        refusals = [reply for reply in spoken if reply.refuses]
        wholly = len(refusals) == len(spoken)
        if not wholly:
            self._counts.refusals = 0
        elif self._is_one_too_many():
            spoken = refusals = [replies.TOO_MANY_IDLE] * len(spoken)
        for reply in spoken:
            self.wires.append(reply.wire)
            self.said.append(reply.code)
            if self.transcript is not None:
                self.transcript.said(reply.wire)
        if refusals:
            self._tally.refused(self.verb, refusals[0], wholly=wholly)
            self.over = self.over or any(reply.closes for reply in refusals)

    def _is_one_too_many(self) -> bool:
        """Count a refusal, whatever it is for, so that none can be had without end."""
        self._counts.refusals += 1
        return 0 < self._settings.refusal_limit < self._counts.refusals

    def challenge(self, wire: bytes) -> None:
        """Say a challenge of a login (RFC 4954 4)."""
        self.wires.append(wire)
        self.said.append(334)
        if self.transcript is not None:
            self.transcript.challenge(wire)

    def stop_listening(self) -> None:
        """The client is sending still, and will read what we have said only after that."""
        self.over = self.linger = True

    def note_failure(self, error: Exception) -> None:
        """What a user's own code has done wrong, when we ran it."""
        self._tally.failed(error)
