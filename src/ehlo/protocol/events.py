"""What `Connection.next_event` returns: one immutable value for each thing that a client did.

Those marked "answer" pause the connection until `Connection.reply` is called; the others only tell.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ehlo.protocol.address import Address
    from ehlo.protocol.credentials import Credentials
    from ehlo.protocol.reply import Reply
    from ehlo.protocol.state import Transaction
    from ehlo.protocol.xclient import Attributes


class Waiting(enum.Enum):
    """There is no event now, and why."""

    NEED_DATA = "feed me, or tell me that the client has ended"
    PAUSED = "an event has not been answered"

    def __repr__(self) -> str:
        return self.name


NEED_DATA: Final = Waiting.NEED_DATA
PAUSED: Final = Waiting.PAUSED


class Connect(NamedTuple):
    """A client is there and has not been greeted. Answer: the greeting."""


class Hello(NamedTuple):
    """HELO, EHLO or LHLO. Answer."""

    name: str
    esmtp: bool


class Mail(NamedTuple):
    """MAIL FROM; the parameters are on the address. Answer."""

    sender: Address


class Rcpt(NamedTuple):
    """RCPT TO; the parameters are on the address. Answer."""

    recipient: Address


class Data(NamedTuple):
    """DATA, or the first BDAT, with at least one recipient. Answer: whether the body is wanted."""


class BodyChunk(NamedTuple):
    """Some of the body: dots unstuffed, line ends normalised."""

    data: bytes


class BodyRefused(NamedTuple):
    """What comes of this body is thrown away, and `reply` is said at its end."""

    reply: Reply


class BodyDropped(NamedTuple):
    """The client has given up a body that it had begun with BDAT; nothing is said at its end."""


class MessageEnd(NamedTuple):
    """The whole message is here. Answer: a 2xx is the promise to deliver it."""

    transaction: Transaction


class Secret(NamedTuple):
    """A login needs what is kept of a user. Answer: `Connection.give_secret`, or a refusal."""

    mechanism: str
    username: str


class Auth(NamedTuple):
    """A login to decide on. Answer: 235 or a refusal."""

    mechanism: str
    credentials: Credentials


class StartTLS(NamedTuple):
    """STARTTLS. Answer: 220, after which the handshake is the caller's."""


class Vrfy(NamedTuple):
    """VRFY. Answer."""

    text: str
    smtputf8: bool = False
    """Whether the answer may be UTF-8 (RFC 6531 3.7.4.2)."""


class Reset(NamedTuple):
    """RSET. Answer."""


class XClient(NamedTuple):
    """XCLIENT by one who may say it. Answer; to accept it begins the session anew."""

    attributes: Attributes


class Command(NamedTuple):
    """A command of a user's own. Answer."""

    verb: str
    argument: str


class Tarpit(NamedTuple):
    """The client has made many errors: wait before sending more, then call `resume`."""

    seconds: float


class Full(NamedTuple):
    """Many replies wait to be sent: send them, let others have their turn, and go on."""


class Close(NamedTuple):
    """Send what is there to send, then close.

    With `linger` the client is still sending: shut our side, drop its input for a while, close.
    """

    linger: bool = False


# Those that are commands, and are accepted unasked where nobody wants to be asked
QUESTIONS: Final[frozenset[type]] = frozenset({Connect, Hello, Mail, Rcpt, Data, Vrfy, Reset})

# The events that tell no more than that they are
CONNECT: Final = Connect()
DATA: Final = Data()
RESET: Final = Reset()
BODY_DROPPED: Final = BodyDropped()
FULL: Final = Full()

Event = (
    Connect
    | Hello
    | Mail
    | Rcpt
    | Data
    | BodyChunk
    | BodyRefused
    | BodyDropped
    | MessageEnd
    | Secret
    | Auth
    | StartTLS
    | Vrfy
    | Reset
    | XClient
    | Command
    | Tarpit
    | Full
    | Close
)
