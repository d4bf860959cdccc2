"""Events: what `Connection.next_event` returns, one immutable value for each thing a client did.

An event marked "Answer" pauses the connection until `Connection.reply` is called; the others only
inform. Two kinds of events are never equal. An event without fields is a constant.

A frozen dataclass with one field is made in about 0.35 us. For a plain message the core makes one
of them, `MessageEnd`, and one for each command that somebody asks about.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ehlo.protocol.auth.credentials import claimed_name

if TYPE_CHECKING:
    from ehlo.protocol.address import Address
    from ehlo.protocol.auth.credentials import Credentials
    from ehlo.protocol.reply import Reply
    from ehlo.protocol.state import Transaction
    from ehlo.protocol.xclient import Attributes


class Waiting(enum.Enum):
    """Why there is no event now."""

    NEED_DATA = "call receive_data or receive_eof"
    PAUSED = "an event has not been answered"

    def __repr__(self) -> str:
        return self.name


NEED_DATA: Final = Waiting.NEED_DATA
PAUSED: Final = Waiting.PAUSED


class Event:
    """Base of all events."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Connect(Event):
    """A client has connected and has not been greeted. Answer: the greeting."""


@dataclass(frozen=True, slots=True)
class Hello(Event):
    """HELO, EHLO or LHLO. Answer."""

    name: str
    """The client's name for itself."""
    esmtp: bool
    """Whether the command was EHLO or LHLO."""


@dataclass(frozen=True, slots=True)
class Mail(Event):
    """MAIL FROM. Answer."""

    sender: Address
    """The envelope sender with its parameters."""


@dataclass(frozen=True, slots=True)
class Rcpt(Event):
    """RCPT TO. Answer."""

    recipient: Address
    """The recipient with its parameters."""


@dataclass(frozen=True, slots=True)
class Data(Event):
    """DATA, or the first BDAT, with at least one recipient. Answer: 354 or a rejection."""


@dataclass(frozen=True, slots=True)
class BodyChunk(Event):
    """A chunk of the body, with dots unstuffed and line ends normalized."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyRefused(Event):
    """The rest of this body is discarded, and `reply` is sent at its end."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class BodyDropped(Event):
    """The client has abandoned a body that it began with BDAT; nothing is sent at its end."""


@dataclass(frozen=True, slots=True)
class MessageEnd(Event):
    """The whole message was received. Answer: a 2xx is the promise to deliver it."""

    transaction: Transaction
    body: bytes | None = field(default=None, repr=False)
    """The end of the body that no `BodyChunk` had: what came in the packet that ended it. `None` if
    it came in chunks alone. From a `Responder`, it is the whole body."""


@dataclass(frozen=True, slots=True)
class Secret(Event):
    """A login needs a user's secret. Answer: `Connection.give_secret`, or a rejection.

    Where nothing may block, call `derive` with the secret in a thread, and answer by `give_derived`
    with its result.
    """

    mechanism: str
    username: str
    derive: Callable[[object], object] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LoginStep(Event):
    """A mechanism has a step to await. Answer: `Connection.give_derived`, or a rejection.

    Call and await `proceed`, and give its result. After the `last` step the login ends as it was
    decided, so that it cannot be rejected.
    """

    mechanism: str
    username: str
    proceed: Callable[[], Awaitable[object]] = field(repr=False, compare=False)
    last: bool = False


@dataclass(frozen=True, slots=True)
class Auth(Event):
    """A login to decide on. Answer: 235 or a rejection.

    If the exchange has failed after a secret was given, `conclusion` is the reply that the client
    gets, whatever the answer is. It is a failed login, unless that reply is a 4xx.
    """

    mechanism: str
    credentials: Credentials
    conclusion: Reply | None = None

    @property
    def username(self) -> str | None:
        """The name that the client claims to have; `None` if the mechanism has none."""
        return claimed_name(self.credentials)


@dataclass(frozen=True, slots=True)
class StartTLS(Event):
    """STARTTLS. Answer: 220, after which the caller runs the handshake."""


@dataclass(frozen=True, slots=True)
class Vrfy(Event):
    """VRFY. Answer."""

    text: str
    smtputf8: bool = False
    """Whether the answer may be UTF-8 (RFC 6531 3.7.4.2)."""


@dataclass(frozen=True, slots=True)
class Reset(Event):
    """RSET. Answer."""


@dataclass(frozen=True, slots=True)
class XClient(Event):
    """XCLIENT from a trusted client. Answer; accepting it restarts the session."""

    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Command(Event):
    """A command that an extension of the user defines. Answer."""

    verb: str
    argument: str


@dataclass(frozen=True, slots=True)
class Tarpit(Event):
    """The client has made many errors: wait before sending more, then call `resume`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Full(Event):
    """Many replies are queued: send them and serve other clients before the next event."""


@dataclass(frozen=True, slots=True)
class Close(Event):
    """Send what is queued, then close.

    With `linger` the client is still sending: shut down the sending side, discard input for a
    while, then close.
    """

    linger: bool = False


CONNECT: Final = Connect()
DATA: Final = Data()
RESET: Final = Reset()
START_TLS: Final = StartTLS()
BODY_DROPPED: Final = BodyDropped()
FULL: Final = Full()
