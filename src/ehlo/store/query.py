"""Queries: the search language of the inbox, from text to a condition in SQL.

| Written | Finds mails |
|---|---|
| `word` | with it in a header field, the envelope, the text, the HTML or a name of an attachment |
| `"some words"` | with these words, one after the other |
| `from:` `to:` `cc:` `bcc:` `reply-to:` | with the value in a name or an address of the field |
| `addressed:` | with the value in one of these five |
| `subject:` `message-id:` | with the value in the field |
| `header:NAME` `header:NAME=VALUE` | with the field, or with VALUE in it |
| `tag:` | with the tag, which is written whole |
| `is:read` `is:unread` `is:tagged` | that are read, are unread, or have a tag |
| `has:attachment` `has:inline` | with a part that is declared as an attachment or as inline |
| `larger:` `smaller:` | larger or smaller than `500`, `2KB`, `1.5m`; a KB has 1,024 bytes |
| `after:` `before:` | received then: `2026-11-28`, `11/28/2026`, `2026-11-28 14:30`, RFC 3339 |

All terms must match, in any case. `-` or `!` before a term finds the other mails. Quotes may stand
behind a prefix: `subject:"password reset"`. `bcc:` also finds envelope recipients that no field
names. A date is its midnight, and may be seconds since the epoch.

A term without a value is ignored, and so is a date that cannot be read. An unknown prefix, an
unknown value of `is:` and `has:`, and a size that cannot be read are text. The characters
`< > " , ; ( )` count as blanks. Nothing else is special: `%`, `_` and `*` are text.

Whatever is ignored finds more mails than were asked for. So nothing is changed or deleted by such
a query: see `Condition.ignored`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

from ehlo.store.folding import LONGEST_TERM, folded

LONGEST_QUERY: Final = 4_096
"""Characters of a query that are read."""
MOST_TERMS: Final = 50
_MOST_GRAMS: Final = 12  # of a long word; they leave few mails to look at

_TERM: Final = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_PREFIX: Final = re.compile(r"([a-z-]+):(.*)", re.DOTALL | re.IGNORECASE)
_SIZE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kmg]?)b?", re.IGNORECASE)
_MOST_SIZE: Final = 1 << 63  # the first number that SQLite cannot hold
_UNITS: Final = MappingProxyType({"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30})
_COLUMNS: Final = MappingProxyType(
    {
        "from": ("sender",),
        "to": ("receivers",),
        "cc": ("copied",),
        "bcc": ("hidden",),
        "reply-to": ("reply_to",),
        "addressed": ("sender", "receivers", "copied", "hidden", "reply_to"),
        "subject": ("subject",),
        "message-id": ("message_id",),
    }
)
_STATES: Final = MappingProxyType(
    {
        "is:read": "is_read = 1",
        "is:unread": "is_read = 0",
        "is:tagged": "EXISTS (SELECT 1 FROM tags WHERE tags.number = mails.number)",
        **dict.fromkeys(("has:attachment", "has:attachments"), "attachments > 0"),
        **dict.fromkeys(("has:inline", "has:inlines"), "inlines > 0"),
    }
)
_TEXT: Final = "mails.number IN (SELECT number FROM texts WHERE {grams}instr(body, ?) > 0)"
_GRAMS: Final = "piece IN (SELECT rowid FROM grams WHERE grams MATCH ?) AND "
_FIELD: Final = "has_header(mails.number, ?, ?)"


@dataclass(slots=True)
class Condition:
    """A condition on rows of `mails`, and the values of its parameters."""

    sql: str = "1"
    values: list[object] = field(default_factory=list)
    reads_text: bool = False
    """Whether the index of texts must be complete."""
    ignored: str = ""
    """What is ignored of the query although it says which mails are meant; empty if nothing is."""


def read_query(text: str, zone: str = "") -> Condition:
    """Return the condition that a query stands for; see the table above.

    `zone` is the IANA name of the time zone of its dates; unknown or empty, it is the local one.
    """
    condition = Condition(ignored=text[LONGEST_QUERY:].strip())
    parts = []
    for number, word in enumerate(dict.fromkeys(_TERM.findall(text[:LONGEST_QUERY]))):
        if number == MOST_TERMS:
            condition.ignored = condition.ignored or word
            break
        negated = len(word) > 1 and word[0] in "-!"
        found = _term(word[1:] if negated else word, _zone(zone))
        if found is None:
            if ":" in word:  # the others are blanks
                condition.ignored = condition.ignored or word
            continue
        parts.append(f"NOT ({found.sql})" if negated else found.sql)
        condition.values += found.values
        condition.reads_text = condition.reads_text or found.reads_text
    condition.sql = " AND ".join(parts) or "1"
    if not parts:
        condition.ignored = condition.ignored or text or '""'
    return condition


def _term(word: str, zone: tzinfo | None) -> Condition | None:
    """Return the condition of one term; `None` if it is ignored."""
    match = _PREFIX.fullmatch(word.replace('"', "") if ":" in word else word)
    name = match[1].lower() if match is not None else ""
    value = match[2].strip() if match is not None else ""
    if match is not None and name in _READERS:
        return _READERS[name](name, value, zone) if value else None
    return _text(word)


def _text(word: str) -> Condition | None:
    text = folded(word)
    return _containing(text) if text else None


def _containing(text: str) -> Condition:
    """Return a condition on mails whose text contains `text`."""
    text = text[:LONGEST_TERM]
    if len(text) < 3:  # shorter than what the index has
        return Condition(_TEXT.format(grams=""), [text], reads_text=True)
    grams = [text[at : at + 3] for at in range(len(text) - 2)]
    step = len(grams) // _MOST_GRAMS + 1
    wanted = " AND ".join(f'"{gram}"' for gram in dict.fromkeys(grams[::step]))
    return Condition(_TEXT.format(grams=_GRAMS), [wanted, text], reads_text=True)


# -- terms with a prefix ---------------------------------------------------------------------------


def _column(name: str, value: str, _zone: tzinfo | None) -> Condition | None:
    text = folded(value)
    if not text:
        return None
    columns = _COLUMNS[name]
    sql = " OR ".join(f"instr({column}, ?) > 0" for column in columns)
    return Condition(f"({sql})", [text] * len(columns))


def _field(_name: str, value: str, _zone: tzinfo | None) -> Condition | None:
    name, _, wanted = value.partition("=")
    text = folded(wanted)
    if not name.strip():
        return None
    found = _containing(text or folded(f"{name}:"))
    values = [*found.values, name.strip(), text]
    return Condition(f"{found.sql} AND {_FIELD}", values, reads_text=True)


def _tag(_name: str, value: str, _zone: tzinfo | None) -> Condition:
    sql = "EXISTS (SELECT 1 FROM tags WHERE tags.number = mails.number AND tag = ?)"
    return Condition(sql, [value])


def _state(name: str, value: str, _zone: tzinfo | None) -> Condition | None:
    sql = _STATES.get(f"{name}:{value.lower()}")
    return _text(f"{name}:{value}") if sql is None else Condition(sql)


def _size(name: str, value: str, _zone: tzinfo | None) -> Condition | None:
    match = _SIZE.fullmatch(value)
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match is not None else 0
    if not 0 < size < _MOST_SIZE:
        return _text(f"{name}:{value}")
    return Condition("size > ?" if name == "larger" else "size < ?", [size])


def _date(name: str, value: str, zone: tzinfo | None) -> Condition | None:
    moment = read_date(value, zone)
    if moment is None:
        return None
    return Condition("created >= ?" if name == "after" else "created <= ?", [int(moment * 1_000)])


_Reader = Callable[[str, str, tzinfo | None], Condition | None]
_READERS: Final[MappingProxyType[str, _Reader]] = MappingProxyType(
    {
        **dict.fromkeys(_COLUMNS, _column),
        "header": _field,
        "tag": _tag,
        **dict.fromkeys(("is", "has"), _state),
        **dict.fromkeys(("larger", "smaller"), _size),
        **dict.fromkeys(("after", "before"), _date),
    }
)


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ValueError, OSError):  # `ZoneInfoNotFoundError` is a `KeyError`
        return None
    except KeyError:
        return None


_FORMATS: Final = (
    *("%Y/%m/%d", "%m/%d/%Y", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S"),
    *("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d %b %Y", "%b %d %Y", "%d %B %Y", "%B %d %Y"),
)


def read_date(text: str, zone: tzinfo | None) -> float | None:
    """Return the seconds since the epoch that `text` stands for; `None` if it is no date."""
    if text.isascii() and text.isdigit() and 9 <= len(text) <= 11:
        return float(text)
    for moment in _moments(text):
        local = moment.replace(tzinfo=zone) if moment.tzinfo is None and zone else moment
        try:
            return local.astimezone(UTC).timestamp()
        except (ValueError, OverflowError, OSError):  # a year near 1 or 9999
            return None
    return None


def _moments(text: str) -> Iterator[datetime]:
    try:
        yield datetime.fromisoformat(text)
    except ValueError:
        for each in _FORMATS:
            try:
                yield datetime.strptime(text, each)  # noqa: DTZ007  the zone is that of the query
            except ValueError:
                continue
