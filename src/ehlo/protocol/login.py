"""A login under way: from AUTH to the reply that ends it, one object for each.

It says its challenges and refusals itself; what must be decided elsewhere it returns as an event.
"""

from __future__ import annotations

from typing import Any

from ehlo.protocol import events, sasl
from ehlo.protocol import reply as replies
from ehlo.protocol.output import Output
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts

__all__ = ["Login"]

Question = events.Secret | events.Auth


class Login:
    """The lines of one exchange. When it is `over`, the next line is a command again."""

    __slots__ = ("_counts", "_exchange", "_output", "_settings", "over")

    def __init__(
        self, exchange: sasl.Exchange, settings: Settings, counts: Counts, output: Output
    ) -> None:
        self._exchange = exchange
        self._settings = settings
        self._counts = counts
        self._output = output
        self.over = False

    def start(self) -> Question | None:
        """What follows on AUTH."""
        return self._step(self._exchange.start())

    def respond(self, line: bytes) -> Question | None:
        """What follows on a line of the client's, with its end."""
        if len(line) > self._settings.limits.auth_line:
            return self._step(replies.AUTH_LINE_TOO_LONG)
        if self._output.transcript is not None:
            self._output.transcript.response()
        if self._settings.strict_eol and line[-2:] != b"\r\n":
            return self._step(replies.BARE_LINE_END)
        text = line.decode("ascii", "replace").rstrip("\r\n \t")
        return self._step(self._exchange.respond(text))

    def give(self, secret: Any) -> Question | None:
        """What follows on the secret that was asked for. Raises as `sasl.checked_secret` does."""
        return self._step(self._exchange.give(sasl.checked_secret(secret)))

    def accept(self, answer: Reply | None) -> None:
        """The login is good."""
        self.over = True
        self._exchange.accept()
        self._output.reply(answer or replies.AUTHENTICATED, to="AUTH")

    def refuse(self, answer: Reply, asked: Question) -> Question | None:
        """The login is wrong, or nobody could tell: a 4xx is our own trouble.

        A mechanism that has shown its proof may have a last challenge to say before the refusal.
        """
        self.over = True
        if answer.code >= 500:
            self._counts.failed_logins += 1
            if self._counts.failed_logins >= self._settings.limits.failed_logins:
                answer = replies.TOO_MANY_LOGINS
        if answer.code < 500 or answer.closes:
            self._output.reject(answer, to="AUTH")
            return None
        proved = isinstance(asked, events.Auth)
        return self._step(self._exchange.refuse(answer) if proved else answer)

    def _step(self, step: sasl.Step) -> Question | None:
        self.over = False
        name = self._exchange.mechanism.name
        match step:
            case bytes():
                self._output.challenge(step)
                return None
            case Reply():
                self._end(step)
                return None
            case sasl.SecretWanted():
                return events.Secret(name, step.username)
            case _:
                return events.Auth(name, step)

    def _end(self, reply: Reply) -> None:
        self.over = True
        if reply is replies.AUTH_TROUBLE:
            self._output.reject(reply, to="AUTH")
        else:
            self._output.mistake(reply, to="AUTH")
