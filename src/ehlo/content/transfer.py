"""Content-Transfer-Encoding undone (RFC 2045 6), in time proportional to the bytes.

What is broken is decoded as far as it goes: no byte is a reason to show nothing.
"""

from __future__ import annotations

import binascii
import contextlib
import re
import string
from typing import Final

_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()
_NO_LETTERS: Final = bytes(set(range(256)) - set(_ALPHABET))
_NO_BASE64: Final = bytes(set(_NO_LETTERS) - set(b"="))
_PADDING: Final = re.compile(rb"=+")
_LINE: Final = re.compile(rb"[^\r\n]+")
_UUENCODED: Final = frozenset(("uuencode", "x-uuencode", "uue", "x-uue"))
_SLICE: Final = 65_536
_MOST_BROKEN: Final = 100  # lines


def decode_transfer(data: bytes, encoding: str) -> bytes:
    """Decode `data` from `base64`, `quoted-printable` or uuencode; other encodings change nothing.

    `encoding` is in lower case.
    """
    if encoding == "base64":
        return _from_base64(data)
    if encoding == "quoted-printable":
        return binascii.a2b_qp(data)
    if encoding in _UUENCODED:
        return _from_uuencode(data)
    return data


def decoded_size(data: memoryview, encoding: str) -> int:
    """Return the number of bytes that `decode_transfer` gives, with little memory."""
    if encoding == "base64":
        # Exact unless several pieces with padding follow each other
        letters = sum(
            len(bytes(data[start : start + _SLICE]).translate(None, _NO_LETTERS))
            for start in range(0, len(data), _SLICE)
        )
        return letters * 3 // 4
    return len(decode_transfer(bytes(data), encoding))


def _from_base64(data: bytes) -> bytes:
    """Decode what is in the alphabet; pieces that end in padding may follow each other."""
    with contextlib.suppress(binascii.Error):  # most encoded-words are one whole piece
        return binascii.a2b_base64(data, strict_mode=True)
    letters = data.translate(None, _NO_BASE64)
    decoded = bytearray()
    at = 0
    for padding in _PADDING.finditer(letters):
        decoded += _unpadded(letters[at : padding.start()])
        at = padding.end()
    return bytes(decoded + _unpadded(letters[at:])) if decoded else _unpadded(letters[at:])


def _unpadded(letters: bytes) -> bytes:
    spare = len(letters) % 4
    if spare == 1:  # six bits, which are no byte
        letters, spare = letters[:-1], 0
    return binascii.a2b_base64(letters + b"=" * (-spare % 4))


def _from_uuencode(data: bytes) -> bytes:
    """Decode the lines between `begin` and `end`; a line that is broken stays as it is.

    After many broken lines, everything else does.
    """
    decoded = bytearray()
    broken = 0
    for match in _LINE.finditer(data):
        line = match[0]
        if line.startswith(b"begin ") and not decoded:
            continue
        if line == b"end":
            break
        # The first character counts the bytes; blanks at the end may have been cut off
        count = (line[0] - 32) & 63
        if not count:
            continue
        try:
            if count > 3 * len(line) or len(line) < 3:
                raise binascii.Error("too few letters")
            # Some encoders append a checksum
            decoded += binascii.a2b_uu(line[: (count * 4 + 5) // 3])
        except binascii.Error:
            broken += 1
            if broken > _MOST_BROKEN:
                return bytes(decoded + data[match.start() :])
            decoded += line + b"\n"
    return bytes(decoded)
