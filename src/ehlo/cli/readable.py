"""Text for a terminal, without anything that a terminal would obey, and of a length to read."""

from __future__ import annotations

import re

from ehlo.content import Attachment

# C0 without tab and line feed, DEL, C1; line and paragraph separators; marks that change the
# direction of the text; surrogates, which are no characters
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MOST_LINES = 1_000
"""Lines of a text that are shown."""


def visible(text: str) -> str:
    r"""Return `text` with an escape such as `\x1b` for all that a terminal might obey."""
    return _HARMFUL.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def shortened(text: str) -> str:
    """Return the first lines of `text`, and how many more there are."""
    end = 0
    for _ in range(MOST_LINES):
        end = text.find("\n", end) + 1
        if end == 0:
            return text
    more = text.count("\n", end) + (not text.endswith("\n"))
    return f"{text[:end]}… {more:,} more lines" if more else text


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
