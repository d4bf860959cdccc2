"""Folding: the text of a mail that search looks at, in the form in which queries are, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from ehlo.content.breather import Rest, no_rest
from ehlo.content.fields import one_line, read_header
from ehlo.content.markup import text_of_html
from ehlo.content.view import read_content

PIECE: Final = 16_384
"""Characters of a text that are indexed at once; the first piece, before somebody searches."""
LONGEST_TERM: Final = 512
"""Characters of a term that are looked for. Pieces overlap by so many."""
LONGEST_HEADER: Final = 65_536
"""Bytes of a message in which fields are looked for."""
_SLICE: Final = 65_536
_BLANK: Final = re.compile(r"\s")
_SPACES: Final = '\0\r\n\t<>",;()'


def folded(text: str) -> str:
    """Return `text` as search compares it: in lower case, with one space for punctuation."""
    for each in _SPACES:
        if each in text:
            text = text.replace(each, " ")
    if not text.isascii():  # a lone surrogate is no text to SQLite
        text = text.encode("utf-8", "replace").decode()
    return " ".join(text.lower().split())


def searched_text(message: bytes, envelope: Iterable[str], rest: Rest = no_rest) -> str:
    """Return the text of a message that search looks at, folded.

    It has all header fields, the envelope, the plain text, the text of the HTML, and the names of
    the attachments. For `rest` see `ehlo.content.breather`.
    """
    content = read_content(message, rest)
    text = content.text
    pieces = [f"{name}: {value}" for name, value in content.headers]
    pieces += [*envelope, text]
    html = content.html
    if html is not None and (more := text_of_html(html, rest)) != text:
        pieces.append(more)
    pieces += [
        attachment.filename
        for attachment in content.attachments
        if attachment.filename and attachment.disposition != "inline"
    ]
    return " ".join(filter(None, map(folded, _slices("\n".join(pieces), rest))))


def _slices(text: str, rest: Rest) -> Iterator[str]:
    """Yield slices of a text, each of which ends at a blank."""
    at = 0
    while at < len(text):
        rest()
        blank = _BLANK.search(text, at + _SLICE)
        end = len(text) if blank is None else blank.end()
        yield text[at:end]
        at = end


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text; at least one."""
    return [text[at : at + PIECE + LONGEST_TERM] for at in range(0, max(1, len(text)), PIECE)]


def has_field(beginning: bytes, name: str, value: str) -> bool:
    """Return whether a message has a field `name` in which the folded `value` occurs."""
    wanted = name.lower()
    header = read_header(beginning, 0, lambda _begin, _end: False)
    return any(
        each.decoded_name.lower() == wanted and value in folded(one_line(each.text))
        for each in header.fields
    )
