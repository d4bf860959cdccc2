"""SASLprep: the examples of RFC 4013, other names and passwords, and scramp in comparison."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramException
from scramp.utils import saslprep as scramps_saslprep

from ehlo.protocol.auth.keys import ScramKeys, saslprep


# RFC 4013 3, and beyond
@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\N{SOFT HYPHEN}X", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\N{FEMININE ORDINAL INDICATOR}", "a"),
        ("\N{ROMAN NUMERAL NINE}", "IX"),
        ("", ""),
        ("a b", "a b"),
        ("a\N{NO-BREAK SPACE}b", "a b"),
        ("u\N{COMBINING DIAERESIS}", "ü"),
        ("\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}", "\N{HEBREW LETTER ALEF}\u05d1"),
        ("\N{ARABIC LETTER ALEF}1\N{ARABIC LETTER BEH}", "\u06271\u0628"),
        ("\N{SOFT HYPHEN}", ""),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),  # newer than Unicode 3.2
    ],
)
def test_text_is_prepared(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\x07",
        "a\nb",
        "\x7f",
        "\x85",
        "\N{ARABIC LETTER ALEF}1",
        "\N{ARABIC LETTER ALEF}a\N{ARABIC LETTER ALEF}",
        "a\N{ARABIC LETTER ALEF}",
        "\ue000",
        "\ufdd0",
        chr(0xD800),
        "\N{REPLACEMENT CHARACTER}",
        "\N{IDEOGRAPHIC DESCRIPTION CHARACTER LEFT TO RIGHT}",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "\N{LANGUAGE TAG}",
    ],
)
def test_prohibited_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|directions"):
        saslprep(text)


@given(st.text(st.characters(max_codepoint=0x33FF), max_size=8))
def test_scramp_prepares_text_in_the_same_way(text: str) -> None:
    try:
        wanted = scramps_saslprep(text)
    except ScramException:
        wanted = None
    try:
        prepared = saslprep(text)
    except ValueError:
        prepared = None
    if wanted is not None:  # scramp rejects code points that Unicode 3.2 did not have
        assert prepared == wanted


def test_keys_are_derived_from_the_prepared_password() -> None:
    def salted(password: bytes) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", password, b"salt", 1)

    def stored(password: str | bytes) -> bytes:
        return ScramKeys.derive(password, b"salt", iterations=1).stored_key

    assert stored("\N{ROMAN NUMERAL NINE}") == stored(b"IX")
    assert stored("a\x07") == stored(b"a\x07")  # SASLprep rejects it, so it is unchanged
    assert salted(b"IX") != salted("\N{ROMAN NUMERAL NINE}".encode())
    assert stored("\N{ROMAN NUMERAL NINE}".encode()) != stored(b"IX")
