"""Records: what is put into a store, and what comes out of it, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ehlo.transcript import Line

Facts = Mapping[str, object]
_NO_FACTS: Final[Facts] = MappingProxyType({})
ChangeKind = Literal["new", "read", "unread", "tags", "delete", "prune", "truncate"]


class Delivery(NamedTuple):
    """A mail to store: the message, and its envelope.

    Example:

        await store.put(Delivery(message.body, "a@x.test", ["b@y.test"], inbox="support"))
    """

    message: bytes
    """The message, stored as it is."""
    mail_from: str = ""
    """The envelope sender."""
    rcpt_tos: Sequence[str] = ()
    """The envelope recipients."""
    inbox: str = ""
    """The name of the inbox."""
    username: str = ""
    """The identity that the client logged in as."""
    facts: Facts = _NO_FACTS
    """Further facts about the session and the envelope, as JSON has them."""
    transcript: Sequence[Line] = ()
    """The lines of the session."""
    tags: Sequence[str] = ()
    id: str = ""
    """The id to store it under; empty for a new one."""
    created: float = 0.0
    """When it was received, in seconds since the epoch; 0 for now."""


class StoredMail(NamedTuple):
    """A mail in a list."""

    id: str
    number: int
    """The number of the mail in the store; a later mail has a larger one."""
    inbox: str
    created: float
    """When it was received, in seconds since the epoch, to milliseconds."""
    is_read: bool
    username: str
    size: int
    """The size of the message in bytes, as it came."""
    tags: list[str]
    """The tags, sorted."""
    summary: str
    """A JSON object with MessageID, From, To, Cc, Bcc, ReplyTo, Subject, Size, Attachments and
    Snippet, of at most 65,536 characters. It may have Omitted: the number of mailboxes that are
    left out, by To, Cc, Bcc and ReplyTo. A message without a Message-ID has one that is made of its
    id."""


class StoredMessage(NamedTuple):
    """A whole mail."""

    mail: StoredMail
    data: bytes
    """The message as it came."""
    mail_from: str
    rcpt_tos: list[str]
    facts: dict[str, object]
    transcript: list[Line]
    """The lines of the session that brought it."""


class StoredSession(NamedTuple):
    """A session that brought no mail."""

    number: int
    """The number of the session in the store; a later session has a larger one."""
    inbox: str
    created: float
    """When it ended, in seconds since the epoch, to milliseconds."""
    username: str
    facts: dict[str, object]
    transcript: list[Line]
    """The lines of the session."""


class MailCounts(NamedTuple):
    """The number of mails, and of those that are unread."""

    total: int
    unread: int


class Page(NamedTuple):
    """A part of an inbox or of the result of a search, the newest mail first."""

    mails: list[StoredMail]
    inbox: MailCounts
    """The counts of the whole inbox."""
    found: MailCounts
    """The counts of all that was found, on all pages."""
    rest: Sequence[int] = ()
    """The numbers of the mails of this page that follow those in `mails`, if not all were to be
    read at once."""


class Change(NamedTuple):
    """A change of the store."""

    number: int
    """A number that grows with each change, also when the store is opened again."""
    kind: ChangeKind
    """`new`, `read`, `unread`, `tags` and `delete` are about the mails in `ids`. After `prune`,
    lists are read again: mails were too many or too old, or a change was about very many. After
    `truncate` the inbox is empty."""
    inbox: str | None
    """The inbox; `None` when several may have changed."""
    ids: tuple[str, ...]
