"""The parts of a message (RFC 2046), found in one pass over its bytes, and where each stands.

A line that begins with `--` is looked up among the boundaries that are open; so depth costs
nothing. What is not well formed is a part all the same: a boundary that never comes, a multipart
without one, a header without an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ehlo.content.breather import Rest, no_rest
from ehlo.content.fields import (
    MOST_FIELDS,
    Field,
    Header,
    Parameterized,
    parse_parameters,
    read_header,
)

MOST_PARTS: Final = 1_000
"""Parts that are told apart; the last one holds the bytes of all that follow.

In a small message there are fewer: one for each 64 bytes, and 20 more.
"""
_FIELDS_IN_ALL: Final = 10_000  # that are read; in a small message one for each 16 bytes, and 64
MOST_DEPTH: Final = 100
"""Multiparts inside each other; a deeper one is shown as text."""
# A line of `--` and something else, which may be a boundary
_CANDIDATE: Final = re.compile(rb"--([^\r\n]{1,1000})")
# The same after another line. It took 50 MB of base64 from 420 to 25 ms that this begins with bytes
_NEXT: Final = re.compile(rb"\n--([^\r\n]{1,1000})")
_LONGEST: Final = 1_004  # bytes of such a line
_WINDOW: Final = 16_384
_MEDIA_TYPE: Final = re.compile("[^/\\s]+/[^/\\s]+")

_NOTHING: Final = Parameterized("", {})


@dataclass(slots=True)
class Part:
    """One part of a message, or the message itself."""

    fields: list[Field]
    more_fields: int
    """How many fields are left out of `fields`."""
    content_type: str
    """In lower case; `text/plain` when there is none, or none that is valid (RFC 2045 5.2)."""
    parameters: Parameterized
    """The field Content-Type."""
    disposition: Parameterized
    """The field Content-Disposition; its value is empty without one."""
    start: int
    """Where the body begins, in bytes from the beginning of the message."""
    named: Mapping[bytes, Field]
    """The first field of each name in lower case."""
    end: int = 0
    """Where the body ends."""
    children: list[Part] = field(default_factory=list)
    """The parts of a multipart."""

    @property
    def transfer_encoding(self) -> str:
        """The transfer encoding, in lower case."""
        return self.first("content-transfer-encoding").strip().lower()

    def first(self, name: str) -> str:
        """Return the first field `name` (in lower case) as text; empty when there is none."""
        found = self.named.get(name.encode())
        return "" if found is None else found.text

    def leaves(self) -> Iterator[Part]:
        """Yield the parts that have no parts, in their order."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            if part.children:
                waiting.extend(reversed(part.children))
            else:
                yield part


class _Delimiter(NamedTuple):
    """A line that delimits the multipart at `depth`."""

    depth: int
    begin: int
    end: int
    is_last: bool


@dataclass(slots=True)
class _Open:
    """A multipart whose end has not come."""

    part: Part
    boundary: bytes


class _Reader:
    """Reads the parts of one message; `_open` are the multiparts around the place that is read."""

    def __init__(self, data: bytes, rest: Rest) -> None:
        self._data = data
        self._rest = rest
        self._open: list[_Open] = []
        self._depth_of: dict[bytes, int] = {}  # of the innermost multipart with that boundary
        self._most = min(MOST_PARTS, 20 + len(data) // 64)
        self._fields_left = min(_FIELDS_IN_ALL, 64 + len(data) // 16)
        self._count = 0

    def read(self, start: int) -> Part:
        data = self._data
        root = self._part(start)
        current: Part | None = root  # what the bytes belong to; `None` after a multipart's end
        at = root.start
        while self._open and (found := self._next_delimiter(at)) is not None:
            begin, at = found.begin, found.end
            if current is not None:
                current.end = self._line_before(begin, current)
            while len(self._open) > found.depth + 1:
                self._close(begin)
            if found.is_last:
                self._close(at)
                current = None
            elif self._count >= self._most:
                current = self._remainder(found.depth, at)
                break
            else:
                current = self._part(at, self._open[found.depth].part)
                at = current.start
        for part in (current, *(each.part for each in self._open)):
            if part is not None:
                part.end = len(data)
        return root

    def _part(self, start: int, parent: Part | None = None) -> Part:
        """Read a part's header, and open it if it is a multipart."""
        self._count += 1
        self._rest()
        most = max(1, min(MOST_FIELDS, self._fields_left))
        header = read_header(self._data, start, self._is_delimiter, most)
        self._fields_left -= len(header.fields)
        part = _described(header, parent)
        if parent is not None:
            parent.children.append(part)
        boundary = part.parameters.boundary.rstrip()
        is_multipart = part.content_type.startswith("multipart/")
        if is_multipart and boundary and len(self._open) < MOST_DEPTH:
            self._open.append(_Open(part, boundary))
            self._depth_of[boundary] = len(self._open) - 1
        return part

    def _remainder(self, depth: int, start: int) -> Part:
        """Return a part for all bytes that follow, since there are too many parts."""
        part = _described(Header([], 0, start), None)
        self._open[depth].part.children.append(part)
        return part

    def _next_delimiter(self, at: int) -> _Delimiter | None:
        """Return the next line that delimits an open multipart; one may begin at `at`."""
        depths = self._depth_of
        for match in self._candidates(at - 1):
            name = match[1].rstrip()
            is_last = name not in depths and name.endswith(b"--")
            depth = depths.get(name[:-2] if is_last else name)
            if depth is not None:
                end = self._data.find(b"\n", match.end()) + 1 or len(self._data)
                return _Delimiter(depth, match.start() + 1, end, is_last)
        return None

    def _candidates(self, at: int) -> Iterator[re.Match[bytes]]:
        """Yield the lines after `at` that may be boundaries.

        The search goes on in windows: while one is searched, no other thread runs.
        """
        for start in range(max(0, at), len(self._data), _WINDOW):
            stop = start + _WINDOW
            for match in _NEXT.finditer(self._data, start, stop + _LONGEST):
                if match.start() >= stop:
                    break
                yield match
            self._rest()

    def _is_delimiter(self, begin: int, end: int) -> bool:
        match = _CANDIDATE.match(self._data, begin, end)
        if match is None:
            return False
        name = match[1].rstrip()
        return name in self._depth_of or name.removesuffix(b"--") in self._depth_of

    def _line_before(self, at: int, part: Part) -> int:
        """Return where the body of `part` ends: the line end before a delimiter belongs to it."""
        data = self._data
        end = at - (2 if data[at - 2 : at] == b"\r\n" else 1)
        return max(end, part.start)

    def _close(self, at: int) -> None:
        """End the innermost multipart, whose bytes end at `at`."""
        ended = self._open.pop()
        ended.part.end = max(at, ended.part.start)
        del self._depth_of[ended.boundary]
        for depth, each in enumerate(self._open):
            if each.boundary == ended.boundary:
                self._depth_of[each.boundary] = depth


def parse_message(data: bytes, start: int = 0, rest: Rest = no_rest) -> Part:
    """Return the message in `data`, which may be no proper message at all.

    `rest` is called now and then; see `ehlo.content.breather`.
    """
    return _Reader(data, rest).read(start)


def _described(header: Header, parent: Part | None) -> Part:
    named = {each.name.lower(): each for each in reversed(header.fields)}
    content_type, disposition = (
        _NOTHING if each is None else parse_parameters(each.value)
        for each in (named.get(b"content-type"), named.get(b"content-disposition"))
    )
    # RFC 2046 5.1.5: in a digest the parts are messages unless they say otherwise
    in_digest = parent is not None and parent.content_type == "multipart/digest"
    default = "message/rfc822" if in_digest else "text/plain"
    kind = content_type.value
    if not kind or _MEDIA_TYPE.fullmatch(kind) is None:
        kind = default
    fields, more, start = header
    return Part(fields, more, kind, content_type, disposition, start, named, start)
