"""The legal moves of a session, as data. What has no row here is out of sequence: 503."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply

if TYPE_CHECKING:
    from ehlo.protocol.address import Address
    from ehlo.protocol.body import ChunkReader

__all__ = ["AFTER", "OUT_OF_SEQUENCE", "TRANSITIONS", "Counts", "State", "Transaction"]


class State(enum.Enum):
    """Where a session is."""

    GREETING = "connected, not yet greeted"
    REFUSED = "greeted with a refusal; only QUIT is left"
    HELLO = "greeted; no HELO or EHLO yet"
    READY = "said hello; no transaction"
    AUTH = "an authentication exchange is under way"
    MAIL = "a reverse path was taken"
    RCPT = "at least one recipient was taken"
    DATA = "the body is being sent"
    BDAT = "some of the body was sent, in chunks"
    ENDED = "the body has been sent; the final reply is awaited"
    TLS = "220 was said to STARTTLS"
    CLOSED = "nothing more is read"

    # Enum's own hash is written in Python, and a state is looked up for every command
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


_ANY = (State.HELLO, State.READY, State.MAIL, State.RCPT, State.BDAT)

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = MappingProxyType(
    {
        **{(state, verb): State.READY for state in _ANY for verb in ("HELO", "EHLO", "LHLO")},
        **{(state, verb): state for state in _ANY for verb in ("NOOP", "HELP", "VRFY", "EXPN")},
        **{(state, "QUIT"): State.CLOSED for state in (*_ANY, State.REFUSED)},
        (State.HELLO, "RSET"): State.HELLO,
        (State.READY, "RSET"): State.READY,
        (State.MAIL, "RSET"): State.READY,
        (State.RCPT, "RSET"): State.READY,
        (State.BDAT, "RSET"): State.READY,
        (State.HELLO, "XCLIENT"): State.GREETING,
        (State.READY, "XCLIENT"): State.GREETING,
        (State.READY, "XFORWARD"): State.READY,
        (State.HELLO, "STARTTLS"): State.TLS,
        (State.READY, "STARTTLS"): State.TLS,
        (State.READY, "AUTH"): State.READY,
        (State.READY, "MAIL"): State.MAIL,
        (State.MAIL, "RCPT"): State.RCPT,
        (State.RCPT, "RCPT"): State.RCPT,
        (State.RCPT, "DATA"): State.DATA,
        (State.RCPT, "BDAT"): State.BDAT,
        (State.BDAT, "BDAT"): State.BDAT,
        (State.DATA, "."): State.ENDED,
        (State.BDAT, "."): State.ENDED,
        (State.ENDED, "."): State.READY,
    }
)

# The same rows, by verb for each state: `AFTER[state][verb]`. Plain dicts, as they are looked up
# several times for each message.
AFTER: Final[Mapping[State, Mapping[str, State]]] = {
    state: {verb: after for (at, verb), after in TRANSITIONS.items() if at is state}
    for state in State
}


# What is said where a row is missing; `replies.BAD_SEQUENCE` where nothing better is known
OUT_OF_SEQUENCE: Final[Mapping[tuple[State, str], Reply]] = MappingProxyType(
    {
        (State.HELLO, "MAIL"): replies.HELLO_FIRST,
        (State.HELLO, "AUTH"): replies.HELLO_FIRST,
        (State.HELLO, "RCPT"): replies.MAIL_FIRST,
        (State.READY, "RCPT"): replies.MAIL_FIRST,
        (State.MAIL, "MAIL"): replies.NESTED_MAIL,
        (State.RCPT, "MAIL"): replies.NESTED_MAIL,
        (State.HELLO, "DATA"): replies.RCPT_FIRST,
        (State.READY, "DATA"): replies.RCPT_FIRST,
        (State.MAIL, "DATA"): replies.RCPT_FIRST,
        **{
            (state, "BDAT"): replies.RCPT_BEFORE_BDAT
            for state in (State.HELLO, State.READY, State.MAIL)
        },
        **{(State.BDAT, verb): replies.AMID_CHUNKS for verb in ("MAIL", "RCPT", "DATA", "XCLIENT")},
        (State.BDAT, "AUTH"): replies.AUTH_IN_TRANSACTION,
        (State.MAIL, "AUTH"): replies.AUTH_IN_TRANSACTION,
        (State.RCPT, "AUTH"): replies.AUTH_IN_TRANSACTION,
    }
)


_NONE: Final = frozenset[str]()  # shared: an empty set of each client's own takes 216 octets


class Counts:
    """What is counted against a client for as long as it is connected, STARTTLS or not."""

    __slots__ = (
        *("domains", "errors", "failed_logins", "idle", "messages", "refusals"),
        "refused_recipients",
    )

    def __init__(self) -> None:
        self.errors = 0
        self.failed_logins = 0
        self.idle = 0  # commands since the last MAIL that brought no mail nearer
        self.refused_recipients = 0
        self.refusals = 0  # of any kind, since the last message that was taken
        self.messages = 0  # transactions, begun or refused
        self.domains: AbstractSet[str] = _NONE  # of recipients, where their number is limited

    def add_domain(self, domain: str) -> None:
        """That of a recipient who was taken."""
        if not isinstance(self.domains, set):
            self.domains = set()
        self.domains.add(domain.lower())

    def is_idle(self, limit: int) -> bool:
        """Count a command that brings no mail nearer; whether that is one too many."""
        self.idle += 1
        return 0 < limit < self.idle


class Transaction:
    """One mail transaction: begun by MAIL, ended by replacing it (RFC 5321 3.3)."""

    __slots__ = (
        *("chunks", "over_limit", "recipients", "refusal", "refused", "sender", "size"),
        "smtputf8",
    )

    def __init__(self, sender: Address) -> None:
        self.sender = sender
        self.smtputf8 = "SMTPUTF8" in sender.params  # RFC 6531: the client said so at MAIL
        self.recipients: list[Address] = []
        self.refused = 0  # recipients that were tried and not taken, for whatever reason
        self.over_limit = 0  # recipients past max_recipients
        self.size = 0  # octets of the body so far, after unstuffing
        self.chunks: ChunkReader | None = None  # where the body comes by BDAT
        self.refusal: Reply | None = None  # what is said at the end of a body that is thrown away

    @property
    def binary(self) -> bool:
        """Whether the client said BODY=BINARYMIME at MAIL (RFC 3030 3)."""
        return self.sender.params.get("BODY") == "BINARYMIME"

    @property
    def via(self) -> Literal["DATA", "BDAT"]:
        """The command that the body comes by."""
        return "DATA" if self.chunks is None else "BDAT"
