"""SASLprep (RFC 4013): names and passwords in the one form in which they are compared.

The tables are those of stringprep (RFC 3454), for Unicode 3.2, from the standard library.
"""

from __future__ import annotations

import stringprep
from collections.abc import Callable
from typing import Final
from unicodedata import ucd_3_2_0

__all__ = ["saslprep"]

# RFC 4013 2.3
_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """`text`, prepared; code points that Unicode 3.2 did not have are allowed (RFC 3454 7).

    Raises `ValueError` for text with prohibited characters, or that mixes directions.
    """
    if text.isascii() and text.isprintable():
        return text
    # RFC 4013 2.1: other spaces become a space, and what is commonly mapped to nothing goes
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(character) for character in prepared for prohibits in _PROHIBITED):
        raise ValueError("a character that no name or password has")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """RFC 3454 6: text that runs from right to left does so from end to end."""
    if not any(map(stringprep.in_table_d1, text)):
        return
    ends_so = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    if not ends_so or any(map(stringprep.in_table_d2, text)):
        raise ValueError("text in two directions")
