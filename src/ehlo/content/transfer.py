"""Content-Transfer-Encoding undone (RFC 2045 6), in time proportional to the bytes.

What is broken is decoded as far as it goes: no byte is a reason to show nothing.
"""

from __future__ import annotations

import binascii
import contextlib
import re
import string
from collections.abc import Iterator
from typing import Final

from ehlo.content.breather import Rest, no_rest

_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()
_NO_LETTERS: Final = bytes(set(range(256)) - set(_ALPHABET))
_NO_BASE64: Final = bytes(set(_NO_LETTERS) - set(b"="))
_PADDING: Final = re.compile(rb"=+")
_LINE: Final = re.compile(rb"[^\r\n]+")
_UUENCODED: Final = frozenset(("uuencode", "x-uuencode", "uue", "x-uue"))
_SLICE: Final = 16_384
_MOST_BROKEN: Final = 100  # lines
_LINES: Final = 100  # of uuencode, from one rest to the next


def decode_transfer(data: bytes, encoding: str, rest: Rest = no_rest) -> bytes:
    """Decode `data` from `base64`, `quoted-printable` or uuencode; other encodings change nothing.

    `encoding` is in lower case. For `rest` see `ehlo.content.breather`.
    """
    if encoding == "base64" and len(data) <= _SLICE:
        with contextlib.suppress(binascii.Error):  # most encoded-words are one whole piece
            return binascii.a2b_base64(data, strict_mode=True)
    if encoding == "quoted-printable" and len(data) <= _SLICE:
        return binascii.a2b_qp(data)
    pieces = decoded_pieces(data, encoding, rest)
    return data if pieces is None else b"".join(pieces)


def decoded_pieces(
    data: bytes | memoryview, encoding: str, rest: Rest = no_rest
) -> Iterator[bytes] | None:
    """Return what `decode_transfer` does in pieces; `None` if it would change nothing."""
    if encoding == "base64":
        return _from_base64(data, rest)
    if encoding == "quoted-printable":
        return _from_quoted(bytes(data), rest)
    if encoding in _UUENCODED:
        return _from_uuencode(bytes(data), rest)
    return None


def decoded_size(data: memoryview, encoding: str, rest: Rest = no_rest) -> int:
    """Return the number of bytes that `decode_transfer` gives, with little memory."""
    if encoding == "base64":
        letters = 0
        for start in range(0, len(data), _SLICE):
            letters += len(bytes(data[start : start + _SLICE]).translate(None, _NO_LETTERS))
            rest()
        return letters * 3 // 4  # exact unless several pieces with padding follow each other
    if encoding == "quoted-printable" or encoding in _UUENCODED:
        return sum(map(len, decoded_pieces(bytes(data), encoding, rest) or ()))
    return len(data)


def _from_base64(data: bytes | memoryview, rest: Rest) -> Iterator[bytes]:
    """Decode what is in the alphabet; pieces that end in padding may follow each other."""
    spare = b""
    for start in range(0, len(data), _SLICE):
        letters = spare + bytes(data[start : start + _SLICE]).translate(None, _NO_BASE64)
        at = 0
        for padding in _PADDING.finditer(letters):
            yield _unpadded(letters[at : padding.start()])
            at = padding.end()
        whole = len(letters) - (len(letters) - at) % 4
        yield binascii.a2b_base64(letters[at:whole])
        spare = letters[whole:]
        rest()
    yield _unpadded(spare)


def _from_quoted(data: bytes, rest: Rest) -> Iterator[bytes]:
    """Decode slices that end with a line, or else not within an escaped byte."""
    start = 0
    while start < len(data):
        end = start + _SLICE
        if end < len(data):
            escape = data.rfind(b"=", end - 2, end)
            end = data.rfind(b"\n", start, end) + 1 or (escape if escape >= 0 else end)
        yield binascii.a2b_qp(data[start:end])
        start = end
        rest()


def _unpadded(letters: bytes) -> bytes:
    spare = len(letters) % 4
    if spare == 1:  # six bits, which are no byte
        letters, spare = letters[:-1], 0
    return binascii.a2b_base64(letters + b"=" * (-spare % 4))


def _from_uuencode(data: bytes, rest: Rest) -> Iterator[bytes]:
    """Decode the lines between `begin` and `end`; a line that is broken stays as it is.

    After many broken lines, everything else does.
    """
    decoded = bytearray()
    began = False
    broken = 0
    for number, match in enumerate(_LINE.finditer(data)):
        if not number % _LINES:
            rest()
        line = match[0]
        if line.startswith(b"begin ") and not began:
            continue
        if line == b"end":
            break
        # The first character counts the bytes; blanks at the end may have been cut off
        count = (line[0] - 32) & 63
        if not count:
            continue
        began = True
        try:
            if count > 3 * len(line) or len(line) < 3:
                raise binascii.Error("too few letters")
            # Some encoders append a checksum
            decoded += binascii.a2b_uu(line[: (count * 4 + 5) // 3])
        except binascii.Error:
            broken += 1
            if broken > _MOST_BROKEN:
                yield bytes(decoded + data[match.start() :])
                return
            decoded += line + b"\n"
        if len(decoded) >= _SLICE:
            yield bytes(decoded)
            decoded.clear()
    yield bytes(decoded)
