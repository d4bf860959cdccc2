"""Fields that are put on top of a message when it is read as source or as headers.

The store has the bytes as they came, and the envelope apart from them. Clients expect Return-Path,
Received, a Message-ID, and a Bcc with the recipients that no field names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ehlo.content.fields import Header, read_header
from ehlo.content.summary import read_mailboxes
from ehlo.store import StoredMessage

RECEIVED = "received"
"""The name of the fact with the `Received` fields of a message, as the server made them."""
_UNSAFE = re.compile("[^ -~\x80-\U0010ffff]+")


def own_header(message: bytes) -> Header:
    """Return the header of a message, as it came."""
    return read_header(message, 0, lambda _begin, _end: False)


def added_fields(stored: StoredMessage, header: Header) -> bytes:
    """Return the fields to put on top of a message that has `header`."""
    mail = stored.mail
    names = {field.name.lower() for field in header.fields}
    lines = []
    if unnamed := _unnamed(stored, header):
        lines.append("Bcc: " + ",\r\n ".join(unnamed))
    if b"message-id" not in names:
        lines.append(f"Message-ID: <{_safe(json.loads(mail.summary)['MessageID'])}>")
    if stored.mail_from:
        lines.append(f"Return-Path: <{_safe(stored.mail_from)}>")
    received = stored.facts.get(RECEIVED)
    if isinstance(received, str) and received.strip():
        lines.append(received.strip("\r\n"))
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def _unnamed(stored: StoredMessage, header: Header) -> list[str]:
    """Return the envelope recipients that no field names."""
    named: set[str] = set()
    seen: set[bytes] = set()
    for field in header.fields:
        name = field.name.lower()
        if name in (b"to", b"cc", b"bcc") and name not in seen:
            seen.add(name)
            named |= {each.address.lower() for each in read_mailboxes(field.value)}
    return list(dict.fromkeys(_safe(each) for each in _not_in(stored.rcpt_tos, named)))


def _not_in(recipients: Iterable[str], named: set[str]) -> Iterable[str]:
    return (each for each in recipients if each.lower() not in named)


def _safe(address: str) -> str:
    """Return an address without what could end its field."""
    return _UNSAFE.sub("", address)
