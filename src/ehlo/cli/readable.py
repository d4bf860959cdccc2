"""Text for a terminal, without anything that a terminal obeys, and cut to a readable length."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Final, TextIO

from ehlo.content import Attachment

# C0 without tab and line feed, DEL, C1; line and paragraph separators; marks that change the
# direction of the text; surrogates, which are no characters
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SLICE: Final = 16_384  # characters that are made visible at once
_UNITS: Final = ("KB", "MB", "GB", "TB")
_WIDE: Final = frozenset("WF")  # of East Asian Width: two columns


def visible(text: str) -> str:
    r"""Return `text` with an escape such as `\x1b` for all that a terminal might obey."""
    return _HARMFUL.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def slices(text: str, start: int, end: int) -> Iterator[str]:
    """Yield the text from `start` to `end` in slices: a copy of a long text takes much memory."""
    return (text[at : min(at + _SLICE, end)] for at in range(start, end, _SLICE))


def shortened(text: str, most: int, columns: int = 0) -> Iterator[str]:
    """Yield the first `most` lines of `text` (0: all), as `visible` does, and what is missing.

    With `columns`, a line that is longer than them counts as several. Empty lines at the beginning
    and at the end are left out.
    """
    start, end = 0, len(text)
    while end > 0 and text[end - 1] == "\n":
        end -= 1
    while start < end and text[start] == "\n":
        start += 1
    at = _end_of(text, start, end, most, columns) if most else end
    yield from map(visible, slices(text, start, at))
    if at < end:
        inside = text[at - 1 : at] not in ("", "\n")
        lines = text.count("\n", at, end) + (not inside)
        more = plural(lines, "more line") if lines else plural(end - at, "more character")
        yield f"{'…' + chr(10) if inside else ''}… {more}"


def _end_of(text: str, start: int, end: int, most: int, columns: int) -> int:
    """Return where the rows end that are shown."""
    at, left = start, most
    while left > 0 and at < end:
        found = text.find("\n", at, end)
        line_end = found + 1 or end
        length = (found if found >= 0 else end) - at
        rows = 1 + max(0, length - 1) // columns if columns else 1
        if rows > left:
            return at + left * columns
        at, left = line_end, left - rows
    return at


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as `2 more lines`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_of(count: int) -> str:
    """Return a size for a person: `221 B`, `1.2 KB`, `34 MB`; a KB has 1,024 bytes."""
    if count < 1024:
        return f"{count} B"
    size, unit = float(count), ""
    for unit in _UNITS:  # noqa: B007  the last one is used
        size /= 1024
        if size < 999.5:
            break
    return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"


def reason_of(error: Exception) -> str:
    """Return why something failed, as part of a sentence."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]


def described(attachment: Attachment) -> str:
    """Return the name or the subject of an attachment, its type and its size."""
    name = attachment.filename or attachment.subject
    facts = [attachment.content_type, size_of(attachment.size)]
    return ", ".join([name, *facts] if name else facts)


def wants_color(out: TextIO) -> bool:
    """Return whether `out` is a terminal with colors, and NO_COLOR (no-color.org) is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(text: str) -> int:
    """Return how many columns a terminal needs for `text`, which is visible and on one line."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def cut(text: str, columns: int) -> str:
    """Return `text` without its end where it does not fit into the columns."""
    if width_of(text) <= columns:
        return text
    return _beginning(text, columns - 1) + "…"


def cut_inside(text: str, columns: int) -> str:
    """Return `text` without its middle where it does not fit into the columns."""
    if width_of(text) <= columns:
        return text
    last = _beginning(text[::-1], (columns - 1) // 2)[::-1]
    return f"{_beginning(text, columns - 1 - width_of(last))}…{last}"


def _beginning(text: str, columns: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += _columns_of(character)
        if taken > columns:
            return text[:at]
    return text


def _columns_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
