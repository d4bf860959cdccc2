"""Readers that find the end of a body, wanted or not, and the check for bare line ends.

Framing comes before meaning: the end is found, and dots are unstuffed, on CRLF alone (RFC 5321
4.1.1.4, 4.5.2), and a chunk has as many bytes as BDAT announced (RFC 3030 2). Bare CR and LF are
searched only after framing, which makes the body safe to store and to forward: no later reader can
find an end of data in it that this one did not.
"""

from __future__ import annotations

import enum
import io
import re
from typing import Final, Literal

from ehlo.protocol.buffer import COPIED, Buffer, find_dot
from ehlo.protocol.reply import Reply


class End(enum.Enum):
    """Marks the end of a body or chunk."""

    END = 1

    def __repr__(self) -> str:
        return "END"


END: Final = End.END


class BareNewlines(enum.Enum):
    """How to handle a CR without LF, or a LF without CR, in a message."""

    NORMALIZE = "normalize"
    REJECT = "reject"
    KEEP = "keep"

    @classmethod
    def _missing_(cls, value: object) -> BareNewlines | None:
        """Accept the former spelling."""
        return cls.NORMALIZE if value == "normalise" else None


_CRLF_ONLY: Final = (None, "\r\n")
_CRS_BEFORE_LF: Final = re.compile(rb"(?<!\r)\r++(?=\n)")  # linear: it begins where a run does
_FIRST: Final = 4_096  # bytes that may begin with a header, or that end a body
_SLICE: Final = 32_768  # bytes that stay in the processor's cache
_WIDTH: Final = 32  # bytes of a line; columns of shorter ones are slower than the decoder
_TAILS: Final = b"\r\n."

# What the end of a slice may be the beginning of; the longest first
_HOLD_BACK: Final = ((b"\r\n.\r", 4), (b"\r\n.", 3), (b"\r\n", 2), (b"\r", 1))


class DataReader:
    """Reads the body after a 354 up to CRLF . CRLF, unstuffs dots, and leaves line ends."""

    __slots__ = ("_ended", "at_start")

    def __init__(self) -> None:
        self.at_start: bool = True  # the CRLF before the first line is the command's own
        self._ended = False

    def read(self, buffer: Buffer) -> bytes | Literal[End.END] | None:
        """Return the largest slice that is surely body, `END`, or `None` for more bytes."""
        if self._ended:
            return END
        if buffer.empty:
            return None
        if self.at_start:
            if buffer.startswith(b"."):
                past = self._read_first_dot(buffer)
                if past is not True:
                    return past
            self.at_start = False
        dot = buffer.find_dot()
        if dot >= 0:
            end = buffer.find(b"\r\n.\r\n", dot)
            if end >= 0:
                self._ended = True
                chunk = buffer.take(end + 2, 3)
                return _unstuffed(chunk) if dot != end else chunk
        # A slice never ends inside what may be CRLF . CRLF, nor between CRLF and a dot
        safe = len(buffer) - _held_back(buffer)
        if safe == 0:
            return None
        chunk = buffer.take(safe)
        return _unstuffed(chunk) if dot >= 0 else chunk

    def _read_first_dot(self, buffer: Buffer) -> Literal[True, End.END] | None:
        """Skip the dot of the first line and return `True`; a lone dot ends an empty body."""
        if buffer.startswith(b".\r\n"):
            self._ended = True
            buffer.skip(3)
            return END
        if len(buffer) < 2 or (len(buffer) == 2 and buffer.startswith(b".\r")):
            return None
        buffer.skip(1)
        return True


class ChunkReader:
    """Reads the body that comes by BDAT (RFC 3030 2); one reader for all of its chunks.

    A slice may end between CR and LF, and so may a chunk.
    """

    __slots__ = ("_left", "count", "failed", "last", "size")

    def __init__(self) -> None:
        self.count: int = 0  # of chunks
        self.size: int = 0  # of the chunk under way
        self.last: bool = False  # whether that is the last one
        self.failed: bool = False  # a chunk was rejected, and so are all after it
        self._left = 0

    def begin(self, size: int, *, last: bool) -> None:
        """Begin a chunk of `size` bytes."""
        self.count += 1
        self.size = self._left = size
        self.last = last

    def read(self, buffer: Buffer) -> bytes | Literal[End.END] | None:
        """Return a slice, `END` at the end of each chunk, or `None` for more bytes."""
        if not self._left:
            return END
        if buffer.empty:
            return None
        chunk = buffer.take(self._left)
        self._left -= len(chunk)
        return chunk


class Skipper:
    """Counts off the bytes of a chunk that was rejected before it began, without a look at them."""

    __slots__ = ("_left", "last", "refusal")

    def __init__(self, size: int, refusal: Reply, *, last: bool) -> None:
        self.refusal: Reply = refusal
        self.last: bool = last
        self._left = size

    def read(self, buffer: Buffer) -> Literal[End.END] | None:
        """Return `END` after the last byte, or `None` for more bytes."""
        skipped = min(self._left, len(buffer))
        buffer.skip(skipped)
        self._left -= skipped
        return None if self._left else END


def whole(packet: bytes) -> bytes | None:
    """Return the rest of a body, if `packet` is that with its end, and no line has a dot first.

    Such a dot would have to be dropped.
    """
    end = len(packet) - 3
    if packet[-5:] != b"\r\n.\r\n":
        return None
    dot = packet.find(b"\r\n.") if end < _FIRST else find_dot(packet)  # which is for large ones
    return packet[:end] if dot == end - 2 else None


def middle(packet: bytes) -> bytes | None:
    """Return a chunk of a body, if `packet` is a large one, and no line has a dot first.

    It must not end with what may be the beginning of the end of the body.
    """
    if len(packet) <= _FIRST or packet[-1] in _TAILS or find_dot(packet) >= 0:
        return None
    return packet if len(packet) > COPIED else bytes(memoryview(packet))


def _unstuffed(chunk: bytes) -> bytes:
    """Drop the first dot of each line that begins with one (RFC 5321 4.5.2)."""
    return chunk.replace(b"\r\n.", b"\r\n")


def _held_back(buffer: Buffer) -> int:
    for tail, length in _HOLD_BACK:
        if buffer.endswith(tail):
            return length
    return 0


def has_bare_newline(chunk: bytes) -> bool:
    """Return whether there is a CR or a LF outside of CRLF; a CR at the end of `chunk` is one.

    Large bodies are attachments, whose lines have one length: those are compared by column. The
    standard library's decoder of line ends looks at all others, and reports the kinds that it met.
    """
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    start, size = 0, _FIRST
    while len(chunk) - start > _FIRST:
        end = chunk.rfind(b"\n", start, start + size) + 1 or start + size
        lines = memoryview(chunk)[start:end]
        # Even lines have no line feed first, so a CR that ended the slice before is a bare one
        decoder.decode(" " if _are_even(bytearray(lines)) else str(lines, "latin-1"))
        start, size = end, _SLICE
    decoder.decode(chunk[start:].decode("latin-1"), True)  # a CR at the very end is a bare one
    return decoder.newlines not in _CRLF_ONLY


def _are_even(lines: bytearray) -> bool:
    """Return whether all lines have the length of the first, and no CR or LF but their CRLF.

    `lines` is overwritten. 100 KB of such lines take 14 us, and the decoder takes 46.
    """
    width = lines.find(b"\n") + 1
    if width < _WIDTH or len(lines) % width:
        return False
    count = len(lines) // width
    if lines[width - 1 :: width] != b"\n" * count or lines[width - 2 :: width] != b"\r" * count:
        return False
    lines[width - 1 :: width] = lines[width - 2 :: width] = b" " * count
    return b"\n" not in lines and b"\r" not in lines


def joined(chunk: bytes) -> bytes:
    """Return `chunk` with any number of CRs before a LF made one: programs write CR CR LF."""
    return _CRS_BEFORE_LF.sub(b"\r", chunk) if b"\r\r\n" in chunk else chunk


def normalized(chunk: bytes) -> bytes:
    """Return `chunk`, which is `joined`, with every bare CR and bare LF made a CRLF."""
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
