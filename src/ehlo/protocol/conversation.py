"""`Conversation`: all that a client has said and all that follows from it, as one object.

The verbs read and change it; it knows none of them. `Connection` stands above both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from ehlo.protocol import events
from ehlo.protocol.auth.mechanism import Exchange
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.intake import Intake
from ehlo.protocol.output import Output
from ehlo.protocol.parameters import Facts
from ehlo.protocol.reply import ProtocolError
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, State, Transaction
from ehlo.protocol.xclient import Attributes

__all__ = ["Conversation", "no_transaction"]

# Used for each message; looking into an enumeration takes 700 instructions before Python 3.12
_BDAT: Final = State.BDAT
_GREETING: Final = State.GREETING
_READY: Final = State.READY


def no_transaction() -> NoReturn:
    """Raise `ProtocolError`: outside of a transaction the rows let no such command pass."""
    raise ProtocolError("no transaction is open")


class Conversation:
    """Holds the facts of one connection to a client, and its parts for input and output.

    `nonce` is called for unpredictable text without spaces and brackets. `asks` has the events that
    the server wants to be asked about, in addition to those that it always is. `trusted` names
    those of XCLIENT and XFORWARD that this client may send. `bindings` are the channel bindings
    (RFC 5929) of the TLS connection; `certificate` is the client's, where TLS has verified it.
    """

    __slots__ = (
        *("asks", "authenticated", "bindings", "body", "buffer", "certificate", "counts", "esmtp"),
        *("exchange", "forwarded", "helo", "nonce", "output", "pardon", "settings", "state"),
        *("tls", "transaction", "trusted", "xclient"),
    )

    def __init__(
        self,
        settings: Settings,
        nonce: Callable[[], str],
        output: Output,
        counts: Counts,
        *,
        asks: frozenset[type],
        tls: bool,
        greet: bool,
        trusted: frozenset[str],
        bindings: Mapping[str, bytes],
        certificate: Mapping[str, Any] | None,
    ) -> None:
        # The server's side
        self.settings = settings
        self.nonce = nonce
        self.asks = asks
        self.trusted = trusted
        self.counts = counts
        # The connection
        self.tls = tls
        self.bindings = bindings
        self.certificate = certificate
        self.buffer = Buffer()
        self.output = output
        self.body = Intake(settings, counts, output)
        # What the client has said
        self.state = _GREETING if greet else State.HELLO
        self.helo = ""
        """The name in HELO, EHLO or LHLO."""
        self.esmtp = False
        """Whether the client sent EHLO or LHLO."""
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
        if self.transaction is not None:
            self.state = _READY
        self.transaction = self.forwarded = None
        return events.BODY_DROPPED if abandoned else None

    def close(self) -> None:
        """End the conversation: nothing more is read."""
        self.end_transaction()
        self.state = State.CLOSED
        self.exchange = self.body.reader = None
        self.buffer.clear()
        self.output.over = True

    def usable_mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms that the client may use now."""
        if self.authenticated:
            return ()
        return self.settings.usable_mechanisms(
            tls=self.tls, binding=bool(self.bindings), certificate=self.certificate is not None
        )

    def facts(self) -> Facts:
        """Return what decides which extensions are offered now."""
        return Facts(self.settings, self.tls, self.usable_mechanisms(), self.trusted)
