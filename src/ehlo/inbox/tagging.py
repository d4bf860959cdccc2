"""Tags that a message brings with it: those in X-Tags, and what stands behind `+` in an address."""

from __future__ import annotations

from typing import Final

from ehlo.content.fields import decode_header, read_header
from ehlo.content.summary import read_mailboxes

_MOST_TAGS: Final = 100
_ADDRESSES: Final = frozenset((b"to", b"cc", b"bcc", b"from"))


def tags_of(message: bytes) -> list[str]:
    r"""Return the tags that a message brings with it, as they are written there.

    Example:

        >>> from ehlo.inbox.tagging import tags_of
        >>> tags_of(b"To: ann+news@x.test\r\nX-Tags: beta, urgent\r\n\r\n")
        ['news', 'beta', 'urgent']
    """
    tags: list[str] = []
    for field in read_header(message, 0, lambda _begin, _end: False).fields:
        name = field.name.lower()
        if name == b"x-tags":
            tags += decode_header(field.value).split(",")
        elif name in _ADDRESSES and b"+" in field.value:
            for mailbox in read_mailboxes(field.value):
                tags.append(mailbox.address.rpartition("@")[0].partition("+")[2])
    return [tag.strip() for tag in tags if tag.strip()][:_MOST_TAGS]
