"""Charsets as mail names them: every byte is shown somehow, and nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.charsets import decode_text, is_ascii_compatible


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("gb2312", "朱镕基".encode("gbk"), "朱镕基"),
        ("x-gbk", "朱镕基".encode("gbk"), "朱镕基"),
        ("GB18030", "朱镕基".encode("gb18030"), "朱镕基"),
        ("shift_jis", "髙橋①".encode("cp932"), "髙橋①"),
        ("iso-2022-jp", b"\x1b$B-!$3$s\x1b(B", "①こん"),
        ("iso-2022-jp", b"\x1b$B|b66\x1b(B.", "髙橋."),  # NEC's selection of IBM's kanji
        ("iso-2022-jp", b"a\x1b(I11\x1b(J\\\x1b$@F|\x1b(Bz", "aｱｱ\\日z"),
        ("iso-2022-jp", b"\x1b$BF|\r\nK\\", "日\n本"),
        ("euc-jp", "日本".encode("euc-jp"), "日本"),
        ("euc-jp", b"\xad\xa1", "①"),
        ("windows-874", "สวัสดี".encode("cp874"), "สวัสดี"),
        ("tis-620", "สวัสดี".encode("cp874"), "สวัสดี"),
        ("iso-8859-1", "“so” …".encode("cp1252"), "“so” …"),
        ("latin1", b"caf\xe9", "café"),
        ("iso-8859-8-i", "שלום".encode("iso8859-8"), "שלום"),
        ("ISO_8859-1:1987", b"\x80", "€"),
        ("ks_c_5601-1987", "똠방".encode("cp949"), "똠방"),
        ("big5", "許功蓋".encode("big5"), "許功蓋"),
        ("koi8-u", "Привіт".encode("koi8-u"), "Привіт"),
        ("windows-1251", "Привет".encode("cp1251"), "Привет"),
        ("utf-16", "hé".encode("utf-16"), "hé"),
        ("utf-16", b"\xfe\xff\x00h", "h"),
        ("utf-16be", "hé".encode("utf-16-be"), "hé"),
        ("utf-7", b"Hi +AOk-", "Hi é"),
        ("iso-2022-kr", "한국".encode("iso2022_kr"), "한국"),
        ("hz-gb-2312", "中文".encode("hz"), "中文"),
        ("cp437", b"\x81", "ü"),
        ("IBM850", b"\x81", "ü"),
        ("gb2312-ms", "朱".encode("gbk"), "朱"),
        ("utf8", b"\xef\xbb\xbfx", "x"),
        (" UTF-8 ", b"\xc3\xa9", "é"),
    ],
)
def test_a_label_means_what_mail_means_by_it(label: str, data: bytes, text: str) -> None:
    assert decode_text(data, label) == text


@pytest.mark.parametrize("label", ["", "us-ascii", "ascii", "x-unknown", "?", "a" * 500])
@pytest.mark.parametrize(("data", "text"), [(b"\xc3\xa9", "é"), (b"\xe9", "é"), (b"e", "e")])
def test_without_a_label_it_is_utf_8_or_else_windows_1252(
    label: str, data: bytes, text: str
) -> None:
    assert decode_text(data, label) == text


@pytest.mark.parametrize(
    "label", ["idna", "punycode", "base64", "hex", "zlib", "bz2", "rot13", "unicode_escape", "uu"]
)
def test_codecs_that_are_no_charsets_are_left_out(label: str) -> None:
    assert decode_text(b"xn--ls8h \\x41 eA==", label) == "xn--ls8h \\x41 eA=="


def test_a_byte_without_meaning_is_shown_as_a_replacement() -> None:
    assert decode_text(b"a\xffb", "utf-8") == "a\ufffdb"
    assert decode_text(b"a\x81b", "windows-1252") == "a\ufffdb"


@pytest.mark.parametrize(
    ("label", "compatible"),
    [("utf-8", True), ("", True), ("iso-2022-jp", True), ("utf-16", False), ("utf-32be", False)],
)
def test_wide_charsets_have_line_ends_of_their_own(label: str, compatible: bool) -> None:
    assert is_ascii_compatible(label) is compatible


LABELS = ["", "utf-8", "utf-7", "utf-16", "utf-32", "iso-2022-jp", "iso-2022-kr", "hz", "gb18030"]


@given(st.binary(), st.sampled_from([*LABELS, "euc-jp", "big5", "cp1255", "cp037"]) | st.text())
def test_nothing_raises(data: bytes, label: str) -> None:
    assert isinstance(decode_text(data, label), str)
