"""A terminal obeys nothing in what is shown, and a person can read it to its end."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehlo.cli.readable import (
    cut,
    cut_inside,
    described,
    one_line,
    shortened,
    size_of,
    visible,
    width_of,
)
from ehlo.content import read_content


@given(st.text())
@example("\x1b[31m\x9b31m\r\x7f\u061c\u200e\u200f\u2028\u2029\u202e\u2066\ud800")
def test_visible_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    assert all(
        character.isprintable() or character in " \t\n" or ord(character) > 0x9F
        for character in visible(text)
    )
    assert not set(visible(text)) & set("\u061c\u200e\u200f\u2028\u2029\u202e\u2066")
    assert "\n" not in one_line(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (221, "221 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (1234, "1.2 KB"),
        (10_188, "9.9 KB"),
        (10_189, "10 KB"),
        (34_567, "34 KB"),
        (1_023_487, "999 KB"),
        (1_023_488, "1.0 MB"),
        (30_000_000, "29 MB"),
        (2_500_000_000, "2.3 GB"),
        (10**15, "909 TB"),
    ],
)
def test_sizes_are_for_a_person(count: int, text: str) -> None:
    assert size_of(count) == text


@pytest.mark.parametrize(
    ("lines", "more"),
    [(0, ""), (1, ""), (1000, ""), (1001, "1 more line"), (20_800, "19,800 more lines")],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_long_text_is_cut_and_says_how_much_is_missing(lines: int, more: str, end: str) -> None:
    text = "\n".join(["x"] * lines) + (end if lines else "")
    shown = "".join(shortened(text, 1000))
    assert "".join(shortened(text, 0)) == text.strip("\n")
    if more:
        assert shown == "x\n" * 1000 + f"… {more}"
    else:
        assert shown == text.strip("\n")


def test_a_long_line_is_made_visible_in_slices() -> None:
    pieces = list(shortened("\n\n" + "\x1b" * 100_000 + "\n" + "x" * 100_000 + "\n\n", 2))
    assert "".join(pieces) == "\\x1b" * 100_000 + "\n" + "x" * 100_000
    assert max(map(len, pieces)) <= 4 * 16_384


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a" * 20, "a" * 20),
        ("a" * 30, "a" * 30),
        ("a" * 31, "a" * 30 + "…\n… 1 more character"),
        ("a" * 10_000, "a" * 30 + "…\n… 9,970 more characters"),
        ("a" * 20 + "\nb", "a" * 20 + "\nb"),
        ("a" * 21 + "\nb\nc", "a" * 21 + "\n… 2 more lines"),
        ("a\n" + "b" * 50 + "\nc", "a\n" + "b" * 20 + "…\n… 1 more line"),
        ("a\nb\nc\nd\ne", "a\nb\nc\n… 2 more lines"),
    ],
)
def test_a_line_longer_than_the_terminal_counts_as_several(text: str, shown: str) -> None:
    assert "".join(shortened(text, 3, 10)) == shown


@given(st.text(), st.integers(1, 30))
@example("日本語のメール", 5)
@example("e\u0301" * 20, 5)
def test_what_is_cut_fits_its_columns(text: str, columns: int) -> None:
    text = one_line(text)
    for shown in (cut(text, columns), cut_inside(text, columns)):
        assert width_of(shown) <= columns
        assert shown == text or "…" in shown


def test_a_text_is_cut_at_its_end_and_an_address_inside() -> None:
    assert cut("abcdefghij", 10) == "abcdefghij"
    assert cut("abcdefghijk", 10) == "abcdefghi…"
    assert cut_inside("somebody@example.com", 11) == "someb…e.com"
    assert width_of("日本語") == 6
    assert cut("日本語", 5) == "日本…"


def test_an_attachment_is_described_by_name_or_subject_type_and_size() -> None:
    parts = (
        b"Content-Type: application/pdf; name=a.pdf\r\n\r\nx",
        b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhello",
        b"Content-Type: image/png\r\n\r\n",
    )
    body = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    body += b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--"
    assert [described(attachment) for attachment in read_content(body).attachments] == [
        "a.pdf, application/pdf, 1 B",
        "inner, message/rfc822, 23 B",
        "image/png, 0 B",
    ]
