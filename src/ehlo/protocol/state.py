"""The state of a session, the counts held against a client, and one mail transaction."""

from __future__ import annotations

import enum
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, Literal

from ehlo.protocol.address import Address
from ehlo.protocol.body import ChunkReader
from ehlo.protocol.reply import Reply


class State(enum.Enum):
    """The place of a session in the protocol. `verbs.TRANSITIONS` has the legal moves."""

    GREETING = "connected; the greeting is not sent yet"
    REFUSED = "rejected; only QUIT is left"
    HELLO = "greeting sent; no HELO, EHLO or LHLO yet"
    READY = "after HELO, EHLO or LHLO; no transaction"
    MAIL = "a sender was accepted"
    RCPT = "at least one recipient was accepted"
    DATA = "the body is being sent"
    BDAT = "a part of the body has been sent, in chunks"
    ENDED = "the body has been sent; the final reply is awaited"
    TLS = "220 was sent to STARTTLS"
    CLOSED = "nothing more is read"

    if not TYPE_CHECKING:  # pragma: no branch
        # Enum's own hash is written in Python, and a state is looked up for every command
        __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


_NONE: Final = frozenset[str]()  # shared: an empty set per client takes 216 bytes
# The hash of a name, since a name may take 36 KiB, and its mechanisms
_NOBODY: Final[tuple[int | None, frozenset[str]]] = (None, _NONE)


class Counts:
    """Counts what is held against a client as long as it is connected, STARTTLS or not."""

    __slots__ = (
        *("_tried", "domains", "errors", "failed_logins", "idle", "messages", "refusals"),
        "refused_recipients",
    )

    def __init__(self) -> None:
        self.errors = 0
        self.failed_logins: int = 0
        self._tried = _NOBODY  # who failed last, and by which mechanisms
        self.idle: int = 0  # commands since the last message that did not advance delivery
        self.refused_recipients = 0  # by a hook, since the last accepted message
        self.refusals = 0  # rejections of any kind since the last accepted message
        self.messages = 0  # transactions, begun or rejected
        self.domains: AbstractSet[str] = _NONE  # of recipients, where their number is limited

    def add_domain(self, domain: str) -> None:
        """Add the domain of an accepted recipient."""
        if not isinstance(self.domains, set):
            self.domains = set()
        self.domains.add(domain.lower())

    def is_further(self, username: str | None, mechanism: str) -> bool:
        """Return whether a login is the first by a further mechanism of the user who failed last.

        It is the same login: smtplib tries all mechanisms in one call of `login`.
        """
        user, mechanisms = self._tried
        return username is not None and user == hash(username) and mechanism not in mechanisms

    def add_failed_login(self, username: str | None, mechanism: str) -> None:
        """Count a failed login, unless it is a further mechanism of the one before it."""
        self.failed_logins += not self.is_further(username, mechanism)
        (before, mechanisms), user = self._tried, hash(username)
        self._tried = user, (mechanisms if before == user else _NONE) | {mechanism}

    def forget_tried(self) -> None:
        """Forget who failed: further mechanisms come too late to be the same login."""
        self._tried = _NOBODY

    def is_idle(self, limit: int) -> bool:
        """Count a command that does not advance delivery; return whether it is one too many."""
        self.idle += 1
        return 0 < limit < self.idle


@dataclass(slots=True, eq=False)
class Transaction:
    """Holds one mail transaction, from MAIL to its end (RFC 5321 3.3)."""

    sender: Address
    smtputf8: bool = False
    """Whether the client asked for SMTPUTF8 at MAIL (RFC 6531)."""
    recipients: list[Address] = field(default_factory=list)
    """The recipients accepted so far."""
    refused: int = 0
    """Recipients tried and not accepted, for whatever reason."""
    over_limit: int = 0
    """Recipients, and chunks after a rejected one, past their limit."""
    size: int = 0
    """Bytes of the body so far, after unstuffing."""
    held: int = 0
    """About how many bytes the recipients take after the first one, the rejected ones included."""
    crs: int = 0
    """CRs at the end of the body so far: their meaning depends on the next byte."""
    chunks: ChunkReader | None = None
    """The reader of the chunks if the body comes by BDAT."""
    refusal: Reply | None = None
    """The reply to send at the end of a body that is discarded."""
    _state: SimpleNamespace = field(init=False, repr=False)  # not there until it is used

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for values of the user."""
        try:
            return self._state
        except AttributeError:
            self._state = SimpleNamespace()
            return self._state

    @property
    def binary(self) -> bool:
        """Whether the client sent BODY=BINARYMIME at MAIL (RFC 3030 3)."""
        return self.sender.params.get("BODY") == "BINARYMIME"

    @property
    def via(self) -> Literal["DATA", "BDAT"]:
        """The command that the body comes by."""
        return "DATA" if self.chunks is None else "BDAT"
