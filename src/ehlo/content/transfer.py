"""Content-Transfer-Encoding undone (RFC 2045 6), in time proportional to the bytes.

Broken data is decoded as far as possible: a wrong byte never hides the rest.
"""

from __future__ import annotations

import binascii
import contextlib
import re
import string
from collections.abc import Iterator
from typing import Final, Protocol

from ehlo.content.breather import Rest, no_rest

_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()
_NO_LETTERS: Final = bytes(set(range(256)) - set(_ALPHABET))
_NO_BASE64: Final = bytes(set(_NO_LETTERS) - set(b"="))
_PADDING: Final = re.compile(rb"=+")
# Lines that give nothing, of which a message may have half a million; and a line of uuencode
_LINE: Final = re.compile(rb"(?:[\r\n]|(?<![^\r\n])[ `][^\r\n]*+)*+([^\r\n]*+)")
_UUENCODED: Final = frozenset(("uuencode", "x-uuencode", "uue", "x-uue"))
_SLICE: Final = 16_384
_MOST_BROKEN: Final = 100  # lines
_LINES: Final = 100  # of uuencode, from one rest to the next


def decode_transfer(data: bytes, encoding: str, rest: Rest = no_rest) -> bytes:
    """Decode `data` from `base64`, `quoted-printable` or uuencode; other encodings change nothing.

    `encoding` is in lower case. For `rest` see `ehlo.content.breather`.
    """
    if not encoding:  # as most parts have none
        return data
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
    decoder = decoder_of(encoding, rest)
    return None if decoder is None else _pieces(data, decoder, rest)


def _pieces(data: bytes | memoryview, decoder: TransferDecoder, rest: Rest) -> Iterator[bytes]:
    for start in range(0, len(data), _SLICE):
        yield decoder.feed(bytes(data[start : start + _SLICE]))
        rest()
    yield decoder.end()


def decoded_size(data: memoryview, encoding: str, rest: Rest = no_rest) -> int:
    """Return the number of bytes that `decode_transfer` gives, with little memory."""
    if encoding == "base64":
        letters = 0
        for start in range(0, len(data), _SLICE):
            letters += len(bytes(data[start : start + _SLICE]).translate(None, _NO_LETTERS))
            rest()
        return letters * 3 // 4  # exact unless several pieces with padding follow each other
    if encoding == "quoted-printable" or encoding in _UUENCODED:
        return sum(map(len, decoded_pieces(data, encoding, rest) or ()))
    return len(data)


class TransferDecoder(Protocol):
    """Undoes one encoding of bytes that come in pieces, which may end anywhere."""

    def feed(self, data: bytes) -> bytes:
        """Return what the next bytes give; the last of them may have to wait for more."""

    def end(self) -> bytes:
        """Return what has waited for more."""


def decoder_of(encoding: str, rest: Rest = no_rest) -> TransferDecoder | None:
    """Return a new decoder of an encoding, in lower case; `None` if it would change nothing.

    Example:

        >>> from ehlo.content.transfer import decoder_of
        >>> decoder = decoder_of("base64")
        >>> decoder.feed(b"aGVs"), decoder.feed(b"bG8"), decoder.end()
        (b'hel', b'', b'lo')
    """
    if encoding == "base64":
        return _Base64()
    if encoding == "quoted-printable":
        return _Quoted()
    return _Uuencode(rest) if encoding in _UUENCODED else None


class _Base64:
    """Decodes what is in the alphabet; pieces that end in padding may follow each other."""

    def __init__(self) -> None:
        self._spare = b""

    def feed(self, data: bytes) -> bytes:
        letters = self._spare + data.translate(None, _NO_BASE64)
        pieces = []
        at = 0
        for padding in _PADDING.finditer(letters):
            pieces.append(_unpadded(letters[at : padding.start()]))
            at = padding.end()
        whole = len(letters) - (len(letters) - at) % 4
        self._spare = letters[whole:]
        return b"".join((*pieces, binascii.a2b_base64(letters[at:whole])))

    def end(self) -> bytes:
        spare, self._spare = self._spare, b""
        return _unpadded(spare)


class _Quoted:
    """Decodes what ends with a line, or else not within an escaped byte."""

    def __init__(self) -> None:
        self._spare = b""

    def feed(self, data: bytes) -> bytes:
        data = self._spare + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _SLICE:
            escape = data.rfind(b"=", -2)
            end = escape if escape >= 0 else len(data)
        self._spare = data[end:]
        return binascii.a2b_qp(data[:end])

    def end(self) -> bytes:
        spare, self._spare = self._spare, b""
        return binascii.a2b_qp(spare)


class _Uuencode:
    """Decodes the lines between `begin` and `end`; a line that is broken stays as it is.

    After many broken lines, everything else does.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._spare = b""
        self._began = False
        self._ended = False
        self._broken = 0

    def feed(self, data: bytes) -> bytes:
        data = self._spare + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not end and len(data) > _SLICE:
            end = len(data)
        self._spare = data[end:]
        return self._decoded(data[:end])

    def end(self) -> bytes:
        spare, self._spare = self._spare, b""
        return self._decoded(spare)

    def _decoded(self, data: bytes) -> bytes:
        if self._broken > _MOST_BROKEN:
            return data
        decoded = bytearray()
        for number, match in enumerate(_LINE.finditer(data)):
            if not number % _LINES:
                self._rest()
            line = match[1]
            if self._ended or not line:
                break
            self._add(line, decoded)
            if self._broken > _MOST_BROKEN:
                return bytes(decoded + data[match.start(1) :])
        return bytes(decoded)

    def _add(self, line: bytes, decoded: bytearray) -> None:
        """Add what a line gives."""
        # The first character counts the bytes; blanks at the end may have been cut off
        count = (line[0] - 32) & 63
        if line == b"end":
            self._ended = True
            return
        if not count or (not self._began and line.startswith(b"begin ")):
            return
        self._began = True
        try:
            if count > 3 * len(line) or len(line) < 3:
                raise binascii.Error("too few letters")
            # Some encoders append a checksum
            decoded += binascii.a2b_uu(line[: (count * 4 + 5) // 3])
        except binascii.Error:
            self._broken += 1
            if self._broken <= _MOST_BROKEN:
                decoded += line + b"\n"


def _unpadded(letters: bytes) -> bytes:
    spare = len(letters) % 4
    if spare == 1:  # six bits, which are no byte
        letters, spare = letters[:-1], 0
    return binascii.a2b_base64(letters + b"=" * (-spare % 4))
