"""The shapes of the API: what clients send and get, as `TypedDict`s; and stored mail in them.

The OpenAPI document is made of these types, and events carry them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NotRequired, TypedDict

from ehlo.content.breather import Rest, no_rest
from ehlo.content.fields import one_line
from ehlo.content.summary import Mailbox, read_message_id, read_people
from ehlo.inbox.api.anatomy import Anatomy, Piece, rest_for
from ehlo.inbox.api.goform import go_time, to_text, written_time
from ehlo.inbox.api.unsubscribe import ListUnsubscribe, read_unsubscribe
from ehlo.inbox.sorting import DEFAULT
from ehlo.store import Page, StoredMail, StoredMessage
from ehlo.store.rows import own_message_id
from ehlo.store.shortening import LONGEST_ADDRESS, shortened

# The inbox of those who have no others: clients that check all keys know no field for it
_UNNAMED: Final = frozenset(("", DEFAULT))
_LONGEST_DATE: Final = 200


class MailAddress(TypedDict):
    """A mailbox in a field, decoded."""

    Name: str
    Address: str


class MessageSummary(TypedDict):
    """A message in a list, and in the event of a new one.

    It has the beginning of what is very long; the message has all of it.
    """

    ID: str
    MessageID: str
    """The Message-ID without its brackets."""
    Read: bool
    From: MailAddress
    To: list[MailAddress]
    Cc: list[MailAddress]
    Bcc: list[MailAddress]
    """The mailboxes of Bcc, and the envelope recipients that no field names."""
    ReplyTo: list[MailAddress]
    Subject: str
    Created: str
    """When it was received (RFC 3339)."""
    Username: str
    """The identity that the client logged in as."""
    Tags: list[str]
    Size: int
    """The size in bytes, as it came."""
    Attachments: int
    """The number of attachments."""
    Snippet: str
    """The beginning of the text, in one line."""
    Inbox: NotRequired[str]
    """The inbox that it is in; missing for the usual one, `default`."""
    Omitted: NotRequired[dict[str, int]]
    """The number of mailboxes that are left out, by `To`, `Cc`, `Bcc` and `ReplyTo`."""


class MessageList(TypedDict):
    """A page of messages."""

    total: int
    """The number of messages in the inbox."""
    unread: int
    count: int
    """The number of messages on this page."""
    messages_count: int
    """The number of messages that were found, on all pages."""
    messages_unread: int
    start: int
    tags: list[str]
    """The tags of the inbox, sorted: the first 1,000."""
    messages: list[MessageSummary]


class Checksums(TypedDict):
    """Checksums of a part, decoded, in hexadecimal."""

    MD5: str
    SHA1: str
    SHA256: str


class MessagePart(TypedDict):
    """A part of a message that is a file."""

    PartID: str
    FileName: str
    ContentType: str
    ContentID: str
    Size: int
    """The size in bytes, decoded; a text is in UTF-8."""
    Checksums: Checksums


class WholeMessage(TypedDict):
    """A message."""

    ID: str
    MessageID: str
    From: MailAddress
    To: list[MailAddress]
    Cc: list[MailAddress]
    Bcc: list[MailAddress]
    ReplyTo: list[MailAddress]
    ReturnPath: str
    """The envelope sender."""
    Subject: str
    ListUnsubscribe: ListUnsubscribe
    Date: str
    """The field Date in its own zone (RFC 3339); without one, when it was received."""
    Tags: list[str]
    Username: str
    Text: str
    """The plain text; made from the HTML if there is none."""
    HTML: str
    Size: int
    Inline: list[MessagePart]
    Attachments: list[MessagePart]
    OtherParts: NotRequired[list[MessagePart]]
    """Parts without a name, and a second HTML; missing if there are none."""
    Inbox: NotRequired[str]


class RuntimeStats(TypedDict):
    """Counts since the start."""

    Uptime: int
    """In seconds."""
    Memory: int
    """Of this process, in bytes."""
    MessagesDeleted: int
    SMTPAccepted: int
    SMTPAcceptedSize: int
    """In bytes."""
    SMTPRejected: int
    SMTPIgnored: int


class AppInfo(TypedDict):
    """The program that runs, and how much it has."""

    Version: str
    LatestVersion: str
    """Always `disabled`: ehlo does not look for one."""
    Database: str
    DatabaseSize: int
    """In bytes."""
    Messages: int
    Unread: int
    Tags: dict[str, int]
    """The number of messages by tag."""
    RuntimeStats: RuntimeStats


class RelaySettings(TypedDict):
    """The server that messages are released to."""

    Enabled: bool
    SMTPServer: str
    ReturnPath: str
    AllowedRecipients: str
    BlockedRecipients: str
    OverrideFrom: str
    PreserveMessageIDs: bool
    RecipientAllowlist: str


class WebSettings(TypedDict):
    """Settings that the pages need."""

    Label: str
    MessageRelay: RelaySettings
    SpamAssassin: bool
    ChaosEnabled: bool
    DuplicatesIgnored: bool
    HideDeleteAllButton: bool


# -- requests --------------------------------------------------------------------------------------


class MarkRequest(TypedDict):
    """Names messages that are read or unread: those in `IDs`, those that `Search` finds, or all."""

    Read: bool
    IDs: list[str]
    Search: str


class DeleteRequest(TypedDict):
    """Names the messages to delete: those in `IDs`, or all."""

    IDs: list[str]


class TagsRequest(TypedDict):
    """The tags to set, and the messages that get them."""

    Tags: list[str]
    IDs: list[str]


class TagRequest(TypedDict):
    """A new name of a tag."""

    Name: str


class SendAddress(TypedDict):
    """A mailbox of a message to send."""

    Email: str
    Name: str


class SendAttachment(TypedDict):
    """A file of a message to send."""

    Content: str
    """The bytes in base64; what stands before `,` in a `data:` URL is left out."""
    Filename: str
    ContentType: str
    ContentID: str
    """Makes it inline: HTML refers to it by `cid:`."""


class SendRequest(TypedDict):
    """A message to send."""

    From: SendAddress
    To: list[SendAddress]
    Cc: list[SendAddress]
    Bcc: list[str]
    ReplyTo: list[SendAddress]
    Subject: str
    Text: str
    HTML: str
    Tags: list[str]
    Headers: dict[str, str]
    Attachments: list[SendAttachment]


class SendAnswer(TypedDict):
    """The id of the message that was sent."""

    ID: str


# -- stored mail in these shapes -------------------------------------------------------------------


def summary_text(mail: StoredMail) -> str:
    """Return a `MessageSummary` as JSON; cheap, since the store has most of it ready."""
    read = "true" if mail.is_read else "false"
    tags = to_text(mail.tags) if mail.tags else "[]"
    user = to_text(shortened(mail.username, LONGEST_ADDRESS)) if mail.username else '""'
    inbox = f'"Inbox":{to_text(mail.inbox)},' if mail.inbox not in _UNNAMED else ""
    return (
        f'{{"ID":{to_text(mail.id)},"Read":{read},"Created":"{go_time(mail.created)}","Username":{user},'
        f'"Tags":{tags},{inbox}{mail.summary[1:]}'
    )


def summary_texts(mails: Iterable[StoredMail]) -> str:
    """Return the `MessageSummary` of each mail as JSON, with commas between them."""
    return ",".join(map(summary_text, mails))


def list_head(page: Page, start: int, tags: list[str]) -> str:
    """Return the beginning of a `MessageList` as JSON; its messages and their number follow."""
    total, unread = page.inbox
    return (
        f'{{"total":{total},"unread":{unread},'
        f'"messages_count":{page.found.total},"messages_unread":{page.found.unread},'
        f'"start":{start},"tags":{to_text(tags)},"messages":['
    )


def whole_message(stored: StoredMessage, anatomy: Anatomy | None = None) -> WholeMessage:
    """Return a stored message as a whole; it takes time in proportion to its size."""
    mail = stored.mail
    anatomy = anatomy or Anatomy(stored.data)
    root = anatomy.root
    sender, *lists = read_people(root, stored.rcpt_tos)
    to, cc, bcc, reply_to = (list(map(_address_of, each)) for each in lists)
    first = root.first
    rest = rest_for(len(stored.data))

    def shapes(pieces: list[Piece]) -> list[MessagePart]:
        return [part_shape(piece, stored.data, rest) for piece in pieces]

    whole: WholeMessage = {
        "ID": mail.id,
        "MessageID": read_message_id(root) or own_message_id(mail.id),
        "From": _address_of(sender),
        "To": to,
        "Cc": cc,
        "Bcc": bcc,
        "ReplyTo": reply_to,
        "ReturnPath": stored.mail_from,
        "Subject": one_line(first("subject")),
        "ListUnsubscribe": read_unsubscribe(
            one_line(first("list-unsubscribe")), one_line(first("list-unsubscribe-post"))
        ),
        "Date": _date_of(first("date"), mail.created),
        "Tags": mail.tags,
        "Username": mail.username,
        "Text": anatomy.readable,
        "HTML": anatomy.html,
        "Size": mail.size,
        "Inline": shapes(anatomy.inline),
        "Attachments": shapes(anatomy.attachments),
    }
    if anatomy.others:
        whole["OtherParts"] = shapes(anatomy.others)
    if mail.inbox not in _UNNAMED:
        whole["Inbox"] = mail.inbox
    return whole


def _address_of(mailbox: Mailbox) -> MailAddress:
    return {"Name": mailbox.name, "Address": mailbox.address}


def part_shape(piece: Piece, message: bytes, rest: Rest = no_rest) -> MessagePart:
    """Return a part of a message, with the checksums of its content."""
    md5 = hashlib.md5(usedforsecurity=False)
    sha1 = hashlib.sha1(usedforsecurity=False)
    sha256 = hashlib.sha256()
    size = 0
    for data in piece.content(message, rest):
        size += len(data)
        for checksum in (md5, sha1, sha256):
            checksum.update(data)
    return {
        "PartID": piece.number,
        "FileName": piece.name,
        "ContentType": piece.part.content_type,
        "ContentID": piece.content_id,
        "Size": size,
        "Checksums": {
            "MD5": md5.hexdigest(),
            "SHA1": sha1.hexdigest(),
            "SHA256": sha256.hexdigest(),
        },
    }


def _date_of(field: str, created: float) -> str:
    """Return the time in a field Date; `created` if there is none, or none that can be read."""
    if not field:
        return go_time(created)
    try:
        moment = parsedate_to_datetime(field[:_LONGEST_DATE])
    except (ValueError, TypeError, IndexError, OverflowError):  # what it raises for broken ones
        return go_time(created)
    return written_time(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
