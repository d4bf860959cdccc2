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
# Characters that are folded at once: in lower case, a text with an emoji takes 12 bytes for each
_SLICE: Final = 8_192
_SPACES: Final = '\0\r\n\t<>",;()'
_BLANK: Final = re.compile(f"[{re.escape(_SPACES)}\\s]")


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
    head = "\n".join([*[f"{name}: {value}" for name, value in content.headers], *envelope])
    found = list(_folded_pieces(head, rest))
    # Each of these may take four times as much as the message, so only one is held at a time
    html = [content.html or ""]
    of_html = list(_folded_pieces(text_of_html(html.pop(), rest), rest))
    of_text = list(_folded_pieces(content.text, rest))
    found += of_text
    if of_html != of_text:  # the text may be made of it
        found += of_html
    names = [
        each.filename
        for each in content.attachments
        if each.filename and each.disposition != "inline"
    ]
    found += _folded_pieces("\n".join(names), rest)
    del content
    found[-1:] = [each.rstrip() for each in found[-1:]]  # a copy of all of it may be large
    return "".join(found)


def _folded_pieces(text: str, rest: Rest) -> Iterator[str]:
    """Yield a folded text in pieces, with a space after it."""
    at = 0
    while at < len(text):
        rest()
        last = at + 2 * _SLICE
        blank = _BLANK.search(text, at + _SLICE, last + 1)
        end = last if blank is None else blank.end()
        if piece := folded(text[at:end]):
            yield piece if blank is None and end < len(text) else f"{piece} "
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
