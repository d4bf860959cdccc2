"""HTML as readable text: what a person would see of it, without a browser, in one pass.

It is no parser of HTML. Tags start and end lines, links keep their addresses, and what is not shown
(scripts, styles, comments) is left out.
"""

from __future__ import annotations

import html
import io
import re
from typing import Final

# A tag, with its name; or the beginning of what is no text, and no tag either
_MARKUP: Final = re.compile(r"<(?:(/?)([a-zA-Z][a-zA-Z0-9:-]{0,63})|[!?/])")
_ATTRIBUTE: Final = re.compile(
    r"""(?<=[\s/"'])(href|alt)\s*+=\s*+(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE
)
_BLANKS: Final = re.compile(r"[ \t\r\n\f\u200b\ufeff]+")
# Few digits, since a number takes the square of its digits to read
_ENTITY: Final = re.compile(
    r"&(?:#[0-9]{1,7}(?![0-9])|#[xX][0-9a-fA-F]{1,6}(?![0-9a-fA-F])|[A-Za-z][A-Za-z0-9]{1,31});?"
)

_HIDDEN: Final = frozenset(("script", "style", "template", "title"))
_LINES: Final = frozenset(
    (
        *("address", "article", "aside", "br", "center", "dd", "div", "dt", "fieldset", "figure"),
        *("footer", "form", "header", "hr", "li", "main", "nav", "option", "section", "tr"),
    )
)
_PARAGRAPHS: Final = frozenset(
    (
        *("blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table"),
        *("ul",),
    )
)
_CELLS: Final = frozenset(("td", "th"))
_LONGEST_TAG: Final = 65_536
_LONGEST_ADDRESS: Final = 2_048


def text_of_html(markup: str) -> str:
    """Return the text of `markup`, with LF line ends."""
    page = _Page()
    at = 0
    href, label = "", ""
    preserved = 0  # how many `pre` are open
    while (found := _MARKUP.search(markup, at)) is not None:
        start = found.start()
        if start > at:
            shown = _unescaped(markup[at:start])
            label = (label + shown)[:_LONGEST_ADDRESS] if href else ""
            page.add(shown, preserved=preserved > 0)
        if not found[2]:
            at = _after_no_tag(markup, start)
            continue
        closing, name = bool(found[1]), found[2].lower()
        end = markup.find(">", found.end())
        if end < 0:  # a tag without an end: nothing of it is shown by a browser, either
            return page.text
        at = end + 1
        if name in _HIDDEN and not closing:
            at = _after_hidden(markup, at, name)
        elif name == "a":
            if closing and href and href not in label:
                page.add(f" ({href})")
            href = "" if closing else _address(_attribute(markup, found.end(), end, "href"))
            label = ""
        elif name == "img":
            page.add(_attribute(markup, found.end(), end, "alt"))
        else:
            if name == "pre":
                preserved = max(0, preserved + (-1 if closing else 1))
            page.tag(name, closing=closing)
    page.add(_unescaped(markup[at:]), preserved=preserved > 0)
    return page.text


class _Page:
    """Lays out text: blanks become one, and lines end where elements do."""

    __slots__ = ("_breaks", "_out", "_space")

    def __init__(self) -> None:
        self._out = io.StringIO()
        self._breaks = -1  # line ends to write before more text; -1 at the beginning
        self._space = False  # whether there is to be a blank before more text

    @property
    def text(self) -> str:
        return self._out.getvalue()

    def add(self, text: str, *, preserved: bool = False) -> None:
        """Add text; its line ends and blanks count when they are `preserved`."""
        if preserved:
            self._write(text.replace("\r\n", "\n"))
            return
        flat = _BLANKS.sub(" ", text)
        bare = flat.strip(" ")
        self._space = self._space or flat[:1] == " "
        if bare:
            self._write(bare)
            self._space = flat[-1] == " "

    def tag(self, name: str, *, closing: bool) -> None:
        """Do what the tag stands for."""
        if name in _PARAGRAPHS:
            self._end_lines(2)
        elif name == "br":
            self._breaks = min(2, max(0, self._breaks) + (not closing)) if self._has_text else -1
        elif name in _CELLS:
            self._space = True
        elif name in _LINES:
            self._end_lines(1)
            if name == "li" and not closing:
                self._write("-")
                self._space = True
            elif name == "hr":
                self._write("-" * 40)
                self._end_lines(1)

    @property
    def _has_text(self) -> bool:
        return self._out.tell() > 0

    def _end_lines(self, count: int) -> None:
        if self._has_text:
            self._breaks = max(self._breaks, count)

    def _write(self, text: str) -> None:
        if self._breaks > 0:
            self._out.write("\n" * self._breaks)
        elif self._space and self._has_text:
            self._out.write(" ")
        self._breaks, self._space = 0, False
        self._out.write(text)


def _after_no_tag(markup: str, start: int) -> int:
    """Return where the text goes on after a comment, a declaration or a broken tag."""
    is_comment = markup.startswith("<!--", start)
    ends = "-->" if is_comment else ">"
    end = markup.find(ends, start + 4 if is_comment else start)
    return len(markup) if end < 0 else end + len(ends)


def _after_hidden(markup: str, at: int, name: str) -> int:
    """Return where an element ends that is not shown; all that follows is hidden without an end."""
    found = re.compile(f"</{name}", re.IGNORECASE).search(markup, at)
    end = -1 if found is None else markup.find(">", found.end())
    return len(markup) if end < 0 else end + 1


def _attribute(markup: str, start: int, end: int, name: str) -> str:
    """Return the value of an attribute of the tag between `start` and `end`; empty without it."""
    for match in _ATTRIBUTE.finditer(markup, start, min(end, start + _LONGEST_TAG)):
        if match[1].lower() == name:
            return _unescaped(match[2] or match[3] or match[4] or "")
    return ""


def _address(href: str) -> str:
    """Return an address that is worth showing: no anchor, no script, no image in itself."""
    address = href.strip()
    shown = address.lower().startswith(("http:", "https:", "mailto:", "tel:", "ftp:"))
    return address if shown and len(address) <= _LONGEST_ADDRESS else ""


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text).replace("\xa0", " ")
