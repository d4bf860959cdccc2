"""Text for a terminal, without anything that a terminal would obey, and of a length to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ehlo.content import Attachment

# C0 without tab and line feed, DEL, C1; line and paragraph separators; marks that change the
# direction of the text; surrogates, which are no characters
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MOST_LINES = 1_000
"""Lines of a text that are shown."""
_SLICE: Final = 16_384  # characters that are made visible at once


def visible(text: str) -> str:
    r"""Return `text` with an escape such as `\x1b` for all that a terminal might obey."""
    return _HARMFUL.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def slices(text: str, start: int, end: int) -> Iterator[str]:
    """Yield the text from `start` to `end` in slices: a copy of a long text takes much memory."""
    return (text[at : min(at + _SLICE, end)] for at in range(start, end, _SLICE))


def shortened(text: str) -> Iterator[str]:
    """Yield the first lines of `text`, as `visible` does, and how many more there are.

    Empty lines at its beginning and at its end are left out.
    """
    start, end = 0, len(text)
    while end > 0 and text[end - 1] == "\n":
        end -= 1
    while start < end and text[start] == "\n":
        start += 1
    at = start
    for _ in range(MOST_LINES):
        at = text.find("\n", at, end) + 1
        if at == 0:
            at = end
            break
    yield from map(visible, slices(text, start, at))
    if at < end:
        yield f"… {text.count(chr(10), at, end) + 1:,} more lines"


def bytes_of(count: int) -> str:
    """Return a size for a person, such as `1,234 bytes`."""
    return "1 byte" if count == 1 else f"{count:,} bytes"


def described(attachment: Attachment) -> str:
    """Return the name or the subject of an attachment, its type and its size."""
    name = attachment.filename or attachment.subject
    facts = [attachment.content_type, bytes_of(attachment.size)]
    return ", ".join([name, *facts] if name else facts)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
