"""Slow and obvious models, which the core is held against."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Body", "Lines", "body_of", "normalised"]


class Body(NamedTuple):
    content: bytes
    ended: bool
    rest: bytes


def body_of(data: bytes) -> Body:
    """RFC 5321 4.1.1.4 and 4.5.2: the CRLF of the DATA command counts as the first of the body."""
    seen = b"\r\n"
    for at in range(len(data)):
        seen += data[at : at + 1]
        if seen.endswith(b"\r\n.\r\n"):
            return Body(_unstuffed(seen[:-3]), True, data[at + 1 :])
    return Body(_unstuffed(seen), False, b"")


def _unstuffed(seen: bytes) -> bytes:
    content, at = b"", 0
    while at < len(seen):
        if seen[at : at + 3] == b"\r\n.":
            content += b"\r\n"
            at += 3
        else:
            content += seen[at : at + 1]
            at += 1
    return content[2:]


def normalised(data: bytes) -> bytes:
    """Each CRLF, CR alone and LF alone is a line end; octet by octet."""
    found, at = b"", 0
    while at < len(data):
        if data[at : at + 2] == b"\r\n":
            found += b"\r\n"
            at += 2
        else:
            found += b"\r\n" if data[at : at + 1] in (b"\r", b"\n") else data[at : at + 1]
            at += 1
    return found


class Lines:
    """The buffer's lines, from all that was ever fed."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    def take_line(self, limit: int) -> bytes | None:
        line, found, rest = self._data.partition(b"\n")
        if not found:
            return None
        self._data = rest
        line += b"\n"
        return line if len(line) <= limit else line[: limit + 1]

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken
