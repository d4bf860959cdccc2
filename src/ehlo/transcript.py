"""`Transcript`: the lines of one session, with their times and directions, bounded.

It is data: the protocol writes to it, and a hook, a test or a recording reads it. A line is text
without control characters, whatever the client sent, so that it can be printed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, Literal, NamedTuple, overload

Direction = Literal["client", "server", "note"]

MASK: Final = "****"
"""The text that stands for a secret, and for anything that may be one."""

_MARKS: Final = {"client": "C", "server": "S", "note": "*"}
_ESCAPES: Final = {"\r": r"\r", "\n": r"\n", "\t": r"\t", "\0": r"\0", "\\": r"\\"}
_COST: Final = 100  # bytes of a line in memory, in addition to its text
_BLOCK: Final = 1_024  # bytes that are counted at once; a call for each line would double its cost
LONGEST: Final = 2_000
"""The bytes of a line after which it is cut."""


class Line(NamedTuple):
    """One line of a session.

    Example:

        >>> line = ehlo.Line(0.0, "client", "EHLO client.example")
        >>> line.direction, line.text
        ('client', 'EHLO client.example')
    """

    time: float
    """When it was read or written, in seconds since the epoch."""
    direction: Direction
    """Whether the `"client"` or the `"server"` sent it; a `"note"` is an event, such as TLS."""
    text: str
    r"""The line without its line end; control characters, bytes that are not UTF-8, and backslashes
    are escaped, as `\r`, `\xff` and `\\`."""


class Transcript(Sequence[Line]):
    """Holds the lines of one session: a sequence of `Line`, and readable as `str`.

    Secrets are masked unless `secrets` is true, and bodies are left out unless `bodies` is. The
    first and the last lines are kept, up to `most_lines` and `most_bytes` of memory in all;
    `omitted` counts the lines between them. Of a line of more than 2,000 bytes the rest is only
    counted, as `... (98 more)`.

    Example:

        >>> transcript = ehlo.Transcript(clock=lambda: 0.0)
        >>> transcript.add("client", "EHLO client.example")
        >>> transcript.add("server", "250 mx.example greets client.example")
        >>> print(transcript)
          0.000 C: EHLO client.example
          0.000 S: 250 mx.example greets client.example
    """

    __slots__ = (
        *("_clock", "_counted", "_first", "_hold", "_last", "_most_bytes", "_most_lines"),
        *("bodies", "omitted", "secrets", "size"),
    )

    def __init__(
        self,
        secrets: bool = False,
        bodies: bool = False,
        *,
        most_lines: int = 1_000,
        most_bytes: int = 262_144,
        clock: Callable[[], float] = time.time,
        hold: Callable[[int], bool] | None = None,
    ) -> None:
        """`hold` counts bytes (negative: no more); a line for which it is false is omitted."""
        self.secrets: bool = secrets
        """Whether passwords and other secrets are shown."""
        self.bodies: bool = bodies
        """Whether the lines of messages are shown."""
        self.omitted: int = 0
        """The number of lines that are not kept."""
        self.size: int = 0
        """The memory that the lines take, in bytes, approximately."""
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._clock = clock
        self._hold = hold
        self._counted = 0  # bytes, by `hold`
        self._first: list[Line] = []
        self._last: deque[Line] = deque()

    def add(self, direction: Direction, text: str) -> None:
        """Add a line that is read or written now, as `escaped` returns it."""
        size = _COST + text.__sizeof__()
        total, kept = self.size + size, self._first
        # The first half stays; of the second half, the oldest lines leave
        is_first = len(kept) < self._most_lines // 2 and total <= self._most_bytes // 2
        if not is_first or self._last or self.omitted:
            self._add_last(direction, text, size)
        elif total <= self._counted or self._has_room(total):
            self.size = total
            kept.append(Line(self._clock(), direction, text))
        else:
            self.omitted += 1

    def _add_last(self, direction: Direction, text: str, size: int) -> None:
        """Add a line behind the first half."""
        kept, total = self._last, self.size + size
        most = self._most_lines - len(self._first)
        while kept and (len(kept) >= most or total > self._most_bytes):
            total -= _COST + kept.popleft().text.__sizeof__()
            self.omitted += 1
        self.size = total - size
        fits = len(kept) < most and total <= self._most_bytes
        if fits and (total <= self._counted or self._has_room(total)):
            self.size = total
            kept.append(Line(self._clock(), direction, text))
        else:
            self.omitted += 1

    def _has_room(self, total: int) -> bool:
        """Count memory for lines of `total` bytes, by the block; return whether there is room."""
        while total > self._counted:
            if self._hold is not None and not self._hold(_BLOCK):
                return False
            self._counted += _BLOCK
        return True

    def let_go(self) -> None:
        """Stop counting the lines, since the session has ended. Only the server calls this."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold(-self._counted)

    # -- the sequence ----------------------------------------------------------------------------

    @property
    def gap(self) -> int:
        """The index of the first line after those that are omitted."""
        return len(self._first)

    def __len__(self) -> int:
        return len(self._first) + len(self._last)

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> list[Line]: ...
    def __getitem__(self, index: int | slice) -> Line | list[Line]:
        return [*self][index]

    def __iter__(self) -> Iterator[Line]:
        return chain(self._first[:], [*self._last])  # copies: it may grow meanwhile

    def newest(self, count: int) -> list[Line]:
        """Return the last `count` lines that are kept, in their order; fewer if there are no more.

        It takes time for these lines only.
        """
        found = list(islice(reversed(self._last), count))
        if len(found) < count:
            found += islice(reversed(self._first), count - len(found))
        found.reverse()
        return found

    def __str__(self) -> str:
        lines = [*self]
        start = lines[0].time if lines else 0.0
        shown = [f"{at - start:7.3f} {_MARKS[who]}: {text}".rstrip() for at, who, text in lines]
        if self.omitted:
            shown.insert(self.gap, f"        ({self.omitted} lines omitted)")
        return "\n".join(shown)

    def __repr__(self) -> str:
        return f"<Transcript of {len(self)} lines, {self.omitted} omitted>"


def escaped(line: bytes | str, skipped: int = 0) -> str:
    r"""Return a line as text that can be printed: `\r`, `\n`, `\t`, `\0`, `\\` and `\xff`.

    Text may have bytes that are not UTF-8 as surrogate escapes. A long line is cut; `skipped` is
    the number of bytes that follow it.
    """
    if len(line) > LONGEST or skipped:
        data = line if isinstance(line, bytes) else line.encode(errors="surrogateescape")
        return f"{escaped(data[:LONGEST])}... ({max(len(data) - LONGEST, 0) + skipped} more)"
    text = line.decode(errors="surrogateescape") if isinstance(line, bytes) else line
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(rf"\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
