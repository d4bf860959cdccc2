"""Rows: mails as they are in the tables, and back."""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Final, NamedTuple

from ehlo.content.breather import Breather
from ehlo.content.summary import Summary, summarize
from ehlo.sqlite.connecting import Database
from ehlo.store.folding import folded
from ehlo.store.heap import Heap
from ehlo.store.query import read_query
from ehlo.store.records import Delivery, MailCounts, StoredMail, StoredMessage, StoredSession
from ehlo.store.shortening import bounded, storable, summary_json, text_json
from ehlo.transcript import Direction, Line

ROW: Final = (
    "SELECT id, number, inbox, created, is_read, username, size,"
    " (SELECT group_concat(tag, char(10)) FROM tags WHERE tags.number = mails.number), summary"
    " FROM mails"
)
"""Selects what `read_mails` reads."""
_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGIT_OF: Final = bytes(_DIGITS[byte % len(_DIGITS)] for byte in range(256))
_NO_TAG: Final = re.compile("[^A-Za-z0-9 ._@-]")
_LONGEST_TAG: Final = 100
MOST_TAGS: Final = 100
"""Tags of one mail."""
_DIRECTIONS: Final[Mapping[str, Direction]] = MappingProxyType(
    {"c": "client", "s": "server", "n": "note"}
)
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


def as_json(value: object) -> str:
    """Return a value as JSON without blanks."""
    return _JSON.encode(value)


def clean_tags(tags: Iterable[str]) -> list[str]:
    """Return tags as they are stored, without those that are empty or differ in case only.

    Of more than 100, the first ones are.
    """
    found: dict[str, str] = {}
    for tag in islice(tags, MOST_TAGS):
        name = " ".join(_NO_TAG.sub(" ", tag[: 2 * _LONGEST_TAG]).split())[:_LONGEST_TAG].strip()
        if name:
            found.setdefault(name.lower(), name)
    return list(found.values())


def new_id() -> str:
    """Return a new id: 22 letters and digits."""
    return os.urandom(22).translate(_DIGIT_OF).decode()


def own_message_id(mail_id: str) -> str:
    """Return the Message-ID that a summary has of a message without one."""
    return f"{mail_id}@ehlo"


class MailRow(NamedTuple):
    """A mail as it is inserted into the tables."""

    number: int
    id: str
    inbox: str
    tags: list[str]
    mail: tuple[object, ...]
    message: tuple[object, ...]


def row_of(delivery: Delivery, number: int, summary: Summary | None, data: bytes) -> MailRow:
    """Return a mail as it is inserted; `data` is what SQLite stores of its message.

    The `summary` is made here unless it is given.
    """
    summary = summary or summarize(delivery.message, delivery.rcpt_tos)
    mail_id, inbox = delivery.id or new_id(), storable(delivery.inbox)
    identifier = summary.message_id or own_message_id(mail_id)
    lists = ([summary.sender], summary.to, summary.cc, summary.bcc, summary.reply_to)
    mail = (
        *(number, mail_id, inbox),
        int((delivery.created or time.time()) * 1_000),
        *(summary.size, summary.attachments, summary.inlines),
        storable(delivery.username),
        summary_json(summary, identifier),
        *(folded(identifier), folded(summary.subject)),
        *[folded("\n".join(map(" ".join, each))) if each else "" for each in lists],
    )
    message = (
        number,
        storable(delivery.mail_from),
        _list_of_texts(delivery.rcpt_tos),
        as_json(dict(delivery.facts)),
        _transcript_text(delivery.transcript),
        data,
    )
    tags = clean_tags(delivery.tags) if delivery.tags else []
    return MailRow(number, mail_id, inbox, tags, mail, message)


def insert_mails(database: Database, rows: Sequence[MailRow]) -> None:
    """Insert mails into the tables, and count them."""
    database.executemany(
        "INSERT INTO mails(number, id, inbox, created, size, attachments, inlines, username,"
        " summary, message_id, subject, sender, receivers, copied, hidden, reply_to)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [each.mail for each in rows],
    )
    database.executemany(
        "INSERT INTO messages(number, mail_from, rcpt_tos, facts, transcript, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [each.message for each in rows],
    )
    counts = Counter(each.inbox for each in rows)
    database.executemany(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT(inbox) DO UPDATE"
        " SET total = total + excluded.total, unread = unread + excluded.unread",
        [(inbox, new, new) for inbox, new in counts.items()],
    )
    for each in rows:
        if each.tags:
            add_tags(database, [each.number], each.tags)


def read_message(
    database: Database, heap: Heap, mail_id: str, inbox: str | None, most: int | None
) -> StoredMessage | None:
    """Return the mail with an id, and at most so many bytes of its message."""
    where, values = selected(inbox, [mail_id], None, "")
    row = database.execute(f"{ROW} WHERE {where}", values).fetchone()
    if row is None:
        return None
    mail = _read_mail(row)
    sql = "SELECT mail_from, rcpt_tos, facts, transcript FROM messages WHERE number = ?"
    sender, recipients, facts, lines = database.execute(sql, (mail.number,)).fetchone()
    size = mail.size if most is None else min(most, mail.size)
    data = heap.read(database, mail.number, 0, size)
    if data is None:
        return None
    known = (json.loads(recipients), json.loads(facts))
    return StoredMessage(mail, data, sender, *known, read_transcript(lines))


def insert_session(database: Database, session: StoredSession) -> int:
    """Insert a session without mail, whose number is not used; return its size in bytes."""
    facts, transcript = as_json(session.facts), _transcript_text(session.transcript)
    size = len(facts) + len(transcript)
    database.execute(
        "INSERT INTO sessions(inbox, created, username, facts, transcript, size)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            storable(session.inbox),
            int((session.created or time.time()) * 1_000),
            storable(session.username),
            *(facts, transcript, size),
        ),
    )
    return size


def read_sessions(
    database: Database, inbox: str | None, before: int | None, limit: int
) -> list[StoredSession]:
    """Return sessions without mail, the newest first, from those before the number `before`."""
    rows = database.execute(
        "SELECT number, inbox, created, username, facts, transcript FROM sessions"
        " WHERE inbox = coalesce(?, inbox) AND number < coalesce(?, number + 1)"
        " ORDER BY number DESC LIMIT ?",
        (None if inbox is None else storable(inbox), before, limit),
    )
    return [
        StoredSession(
            number, name, created / 1_000, username, json.loads(facts), read_transcript(lines)
        )
        for number, name, created, username, facts, lines in rows
    ]


def _transcript_text(lines: Sequence[Line]) -> str:
    """Return the lines of a session as text: their times, their directions, then each line.

    It takes a third of the time that JSON does, which has lines that are not of one line.
    """
    if not lines:
        return ""
    times, directions, texts = zip(*lines, strict=True)
    packed = struct.pack(f"<{len(times)}d", *times).hex()
    text = "\n".join((packed, "".join([each[0] for each in directions]), *texts))
    if text.count("\n") == len(texts) + 1 and text == storable(text):
        return text
    return as_json(lines)


def read_transcript(text: str) -> list[Line]:
    """Return the lines of a session as they are stored, also by an older ehlo.

    That one wrote JSON, by lines or by columns.
    """
    if not text.startswith("["):
        if not text:
            return []
        packed, initials, *texts = text.split("\n")
        directions = [_DIRECTIONS[each] for each in initials]
    else:
        stored = json.loads(text)
        if not stored or isinstance(stored[0], list):
            return [Line(*each) for each in stored]
        packed, directions, texts = stored
    times = struct.unpack(f"<{len(texts)}d", bytes.fromhex(packed))
    return list(map(Line, times, directions, texts))


def _list_of_texts(texts: Sequence[str]) -> str:
    """Return texts as a JSON list; `as_json` took four times as long for one address."""
    text = f"[{','.join(map(text_json, texts))}]"
    return text if text.isascii() else as_json(list(texts))


def add_tags(database: Database, numbers: Sequence[int], tags: list[str]) -> None:
    """Add tags to mails."""
    rows = [(number, tag) for number in numbers for tag in tags]
    database.executemany("INSERT OR IGNORE INTO tags(number, tag) VALUES (?, ?)", rows)


def rename_tag(database: Database, tag: str, name: str | None, inbox: str | None) -> None:
    """Rename a tag, or delete it without a `name`. Raises `ValueError`: see `Store.rename_tag`."""
    where, values = selected(inbox, None, None, "")
    tagged = f"SELECT number FROM mails WHERE {where}"
    rows = database.execute(
        f"SELECT number FROM tags WHERE tag = ? AND number IN ({tagged})",
        (tag, *values),
    ).fetchall()
    if not rows:
        raise ValueError(f"tag not found: {tag}")
    new = clean_tags([name]) if name is not None else []
    if name is not None:
        if not new:
            raise ValueError("invalid tag name: ")
        taken = f"SELECT tag FROM tags WHERE tag = ? AND number IN ({tagged}) LIMIT 1"
        found = database.execute(taken, (new[0], *values)).fetchone()
        if found is not None and new[0].lower() != tag.lower():
            raise ValueError(f"tag already exists: {new[0]}")
    numbers = [row[0] for row in rows]
    delete = "DELETE FROM tags WHERE number = ? AND tag = ?"
    database.executemany(delete, [(number, tag) for number in numbers])
    add_tags(database, numbers, new)


def selected(
    inbox: str | None, ids: Iterable[str] | None, query: str | None, zone: str
) -> tuple[str, tuple[object, ...]]:
    """Return a condition on `mails`, and its values."""
    where: list[str] = []
    values: list[object] = []
    if inbox is not None:
        where.append("inbox = ?")
        values.append(storable(inbox))
    if ids is not None:
        where.append("id IN (SELECT value FROM json_each(?))")
        values.append(as_json(list(ids)))
    if query is not None:
        condition = read_query(query, zone)
        where.append(f"({condition.sql})")
        values += condition.values
    return " AND ".join(where) or "1", tuple(values)


def count_mails(database: Database, inbox: str | None) -> MailCounts:
    """Count the mails of an inbox, or of all."""
    where, values = selected(inbox, None, None, "")
    sql = f"SELECT coalesce(sum(total), 0), coalesce(sum(unread), 0) FROM counts WHERE {where}"
    return MailCounts(*database.execute(sql, values).fetchone())


_Row = tuple[str, int, str, int, int, str, int, str | None, str]


def read_mails(rows: Iterable[_Row]) -> list[StoredMail]:
    """Return the mails in rows that `ROW` selects."""
    rest = Breather().rest  # since an older ehlo may have stored long summaries
    mails = []
    for row in rows:
        rest()
        mails.append(_read_mail(row))
    return mails


def _read_mail(row: _Row) -> StoredMail:
    mail_id, number, inbox, created, is_read, username, size, tags, summary = row
    names = sorted(tags.split("\n"), key=str.lower) if tags else []
    summary, moment = bounded(summary), created / 1_000
    return StoredMail(mail_id, number, inbox, moment, bool(is_read), username, size, names, summary)
