"""HTML as readable text: what a person would see of it, without a browser, in one pass.

It is not an HTML parser. Tags start and end lines, links keep their addresses, and what a browser
does not show (scripts, styles, comments) is left out. The links can be collected in the same pass.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ehlo.content.breather import Rest, no_rest

# A tag, with its name and its end; or the beginning of what is no text, and no tag either
_MARKUP: Final = re.compile(r"<(?:(/?)([a-zA-Z][a-zA-Z0-9:-]{0,63})[^>]*+(>?)|[!?/])")
_ATTRIBUTE: Final = re.compile(
    r"""(?<=[\s/"'])(href|alt|action)\s*+=\s*+(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE
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
_BREAKS: Final = MappingProxyType({**dict.fromkeys(_LINES, 1), **dict.fromkeys(_PARAGRAPHS, 2)})
_CELLS: Final = frozenset(("td", "th"))
_LONGEST_ENTITY: Final = 40
# Characters that are laid out at once; what is made of them takes 30 times more
_SLICE: Final = 4_096
_TAGS_AT_ONCE: Final = 50  # from one rest to the next
_LONGEST_TAG: Final = 65_536
_LONGEST_ADDRESS: Final = 2_048
_LONGEST_LABEL: Final = 200
_LONGEST_AFTER: Final = 80
_BEFORE: Final = 240  # bytes of text that are kept of what stands before a link
_OTHER_LINKS: Final = MappingProxyType({"area": "href", "form": "action"})
_OTHERS: Final = frozenset(("a", "img", *_OTHER_LINKS, *_CELLS))
"""Elements that mean something else than a line. Nothing is done for the tags of the rest."""


@dataclass(slots=True)
class Anchor:
    """A link in HTML, as it came."""

    tag: str
    """`a`, `area` or `form`."""
    href: str
    label: str
    """The text of the link."""
    before: str
    """The end of the text before it in the same line."""
    after: str = ""
    """The beginning of the text after it in the same line."""


def text_of_html(markup: str, rest: Rest = no_rest) -> str:
    """Return the text of `markup`, with LF line ends. For `rest` see `ehlo.content.breather`."""
    page = _laid_out(markup, _Addresses(), rest=rest)
    del markup  # which may be as large as the text
    return page.text


def read_html(
    markup: str, most: Callable[[int], int], rest: Rest = no_rest
) -> tuple[str, list[Anchor]]:
    """Return the text of `markup` without the addresses of links, and its first links.

    `most` returns how many, for so many characters. For `rest` see `ehlo.content.breather`.
    """
    links = _Anchors(most(len(markup)))
    page = _laid_out(markup, links, rest=rest)
    del markup  # which may be as large as the text
    links.end(page)
    return page.text, links.found


def beginning_of_html(markup: str, most: int, rest: Rest = no_rest) -> str:
    """Return at least `most` bytes of the text of `markup`, without its links and images."""
    return _laid_out(markup, _Nothing(), most, rest).text


def _laid_out(
    markup: str,
    links: _Addresses | _Anchors | _Nothing,
    most: int = sys.maxsize,
    rest: Rest = no_rest,
) -> _Page:
    page = _Page()
    out, search, at, count = page.out, _MARKUP.search, 0, 0
    while (found := search(markup, at)) is not None and len(out) < most:
        count += 1
        if count % _TAGS_AT_ONCE == 0:
            rest()
        start, end = found.span()
        if start > at:
            _add_text(links, page, markup, at, start, rest)
        slash, name, close = found.groups()
        if name is None:
            at = _after_no_tag(markup, start)
            continue
        if not close:  # a tag without an end: nothing of it is shown by a browser, either
            return page
        at, name = end, name.lower()
        if name in _BREAKS:
            page.break_line(name, slash)
        elif name in _HIDDEN and not slash:
            at = _after_hidden(markup, at, name)
        if name in _OTHERS:
            _follow(links, page, markup, found, name)
    if found is None:
        _add_text(links, page, markup, at, len(markup), rest)
    return page


def _follow(
    links: _Addresses | _Anchors | _Nothing,
    page: _Page,
    markup: str,
    tag: re.Match[str],
    name: str,
) -> None:
    """Do what the tag of a link, an image or a cell stands for."""
    is_open = not tag[1]
    if name == "a":
        links.end(page)
        if is_open and (href := _attribute(markup, tag, "href")):
            links.begin(href, page)
    elif name == "img":
        links.image(_attribute(markup, tag, "alt"), page)
    elif name in _CELLS:
        page.has_space = True
    elif is_open:
        address = _attribute(markup, tag, _OTHER_LINKS[name])
        links.other(name, address, _attribute(markup, tag, "alt"))


class _Addresses:
    """Writes the address of a link after its label, unless the label shows it."""

    __slots__ = ("_href", "_label")

    def __init__(self) -> None:
        self._href = ""
        self._label = ""

    def begin(self, href: str, _page: _Page) -> None:
        self._href, self._label = _address(href), ""

    def add(self, shown: str, page: _Page) -> None:
        if self._href and len(self._label) < _LONGEST_ADDRESS:
            self._label += shown
        page.add(shown)

    image = add

    def end(self, page: _Page) -> None:
        if self._href and self._href not in self._label:
            page.add(f" ({self._href})")
        self._href = ""

    def other(self, tag: str, href: str, label: str) -> None:
        """Do nothing, as no text belongs to them."""


class _Anchors:
    """Collects the first links."""

    __slots__ = ("_before", "_behind", "_href", "_label", "_most", "found")

    def __init__(self, most: int) -> None:
        self.found: list[Anchor] = []
        self._most = most
        self._href = ""
        self._label = ""
        self._before = ""
        self._behind: Anchor | None = None  # the link before the text that is read

    def begin(self, href: str, page: _Page) -> None:
        if href and len(self.found) < self._most and len(href) <= _LONGEST_ADDRESS:
            self._href, self._label, self._before = href, "", page.line
            self._behind = None

    def add(self, shown: str, page: _Page) -> None:
        if self._href:
            if len(self._label) < _LONGEST_LABEL:
                self._label += shown[:_LONGEST_LABEL]
        elif self._behind is not None:
            if page.begins_line or len(self._behind.after) >= _LONGEST_AFTER:
                self._behind = None
            else:
                self._behind.after += shown[:_LONGEST_AFTER]
        page.add(shown)

    image = add

    def end(self, _page: _Page) -> None:
        if self._href:
            label = _BLANKS.sub(" ", self._label).strip()
            self._behind = Anchor("a", self._href, label, self._before)
            self.found.append(self._behind)
        self._href = ""

    def other(self, tag: str, href: str, label: str) -> None:
        if href and len(self.found) < self._most and len(href) <= _LONGEST_ADDRESS:
            self.found.append(Anchor(tag, href, label[:_LONGEST_LABEL].strip(), ""))


class _Nothing:
    """Leaves out links and images."""

    __slots__ = ("_is_open",)

    def __init__(self) -> None:
        self._is_open = False

    def begin(self, href: str, _page: _Page) -> None:
        self._is_open = bool(href)

    def add(self, shown: str, page: _Page) -> None:
        if not self._is_open:
            page.add(shown)

    def image(self, shown: str, page: _Page) -> None:
        """Do nothing."""

    def end(self, _page: _Page) -> None:
        self._is_open = False

    def other(self, tag: str, href: str, label: str) -> None:
        """Do nothing."""


def _add_text(
    links: _Addresses | _Anchors | _Nothing,
    page: _Page,
    markup: str,
    start: int,
    end: int,
    rest: Rest,
) -> None:
    """Add the text from `start` to `end`, in slices that end in no entity."""
    while end - start > _SLICE:
        rest()
        stop = start + _SLICE
        entity = markup.rfind("&", stop - _LONGEST_ENTITY, stop)
        if entity >= 0:
            stop = entity
        links.add(_unescaped(markup[start:stop]), page)
        start = stop
    links.add(_unescaped(markup[start:end]), page)


class _Page:
    """Lays out text: blanks become one, and lines end where elements do."""

    __slots__ = ("_breaks", "_preserved", "has_space", "out")

    def __init__(self) -> None:
        # A quarter of the size of a `str`, if one character is an emoji
        self.out: bytearray = bytearray()
        self._breaks = -1  # line ends to write before more text; -1 at the beginning
        self.has_space: bool = False  # whether there is to be a blank before more text
        self._preserved = 0  # how many `pre` are open

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "surrogatepass")

    @property
    def begins_line(self) -> bool:
        """Whether text that is added begins a line."""
        return self._breaks != 0

    @property
    def line(self) -> str:
        """The end of the line that is being written."""
        if self.begins_line:
            return ""
        line = self.out[-_BEFORE:].rpartition(b"\n")[2]
        return line.decode("utf-8", "ignore")

    def add(self, text: str) -> None:
        """Add text; its line ends and blanks count in `pre`."""
        if text.isalnum():  # without blanks: saves a quarter where there is a tag for each letter
            self._write(text)
            return
        if self._preserved:
            self._write(text.replace("\r\n", "\n"))
            return
        flat = _BLANKS.sub(" ", text)
        bare = flat.strip(" ")
        self.has_space = self.has_space or flat[:1] == " "
        if bare:
            self._write(bare)
            self.has_space = flat[-1] == " "

    def break_line(self, name: str, slash: str) -> None:
        """End the line, as the tag of an element in `_BREAKS` does; `slash` if it closes one."""
        if name == "br":
            self._breaks = min(2, max(0, self._breaks) + (not slash)) if self.out else -1
            return
        breaks = _BREAKS[name]
        if breaks > self._breaks and self.out:
            self._breaks = breaks
        if name == "pre":
            self._preserved = max(0, self._preserved + (-1 if slash else 1))
        elif name == "li":
            if not slash:
                self._write("-")
                self.has_space = True
        elif name == "hr":
            self._write("---")
            self._breaks = 1

    def _write(self, text: str) -> None:
        if self._breaks > 0:
            self.out += b"\n" * self._breaks
        elif self.has_space and self.out:
            self.out += b" "
        self._breaks, self.has_space = 0, False
        self.out += text.encode("utf-8", "surrogatepass")


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


def _attribute(markup: str, tag: re.Match[str], name: str) -> str:
    """Return the value of an attribute of a tag; empty without it."""
    start, end = tag.end(2), tag.start(3)
    if end - start <= len(name):
        return ""
    for match in _ATTRIBUTE.finditer(markup, start, min(end, start + _LONGEST_TAG)):
        if match[1].lower() == name:
            return _unescaped(match[2] or match[3] or match[4] or "")
    return ""


def _address(href: str) -> str:
    """Return an address that is worth showing: no anchor, no script, no image in itself."""
    if not href:
        return ""
    address = href.strip()
    shown = address.lower().startswith(("http:", "https:", "mailto:", "tel:", "ftp:"))
    return address if shown and len(address) <= _LONGEST_ADDRESS else ""


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text).replace("\xa0", " ")
