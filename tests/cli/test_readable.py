"""A terminal obeys nothing in what is shown, and a person can read it to its end."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehlo.cli.readable import MOST_LINES, bytes_of, described, one_line, shortened, visible
from ehlo.content import read_content


@given(st.text())
@example("\x1b[31m\x9b31m\r\x7f\u2028\u2029\u202e\u2066\ud800")
def test_visible_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    assert all(
        character.isprintable() or character in " \t\n" or ord(character) > 0x9F
        for character in visible(text)
    )
    assert not set(visible(text)) & set("\u2028\u2029\u202e\u2066")
    assert "\n" not in one_line(text)


def test_sizes_are_grouped_by_thousands() -> None:
    assert [bytes_of(count) for count in (0, 1, 1234)] == ["0 bytes", "1 byte", "1,234 bytes"]


@pytest.mark.parametrize(
    ("lines", "more"), [(0, 0), (1, 0), (MOST_LINES, 0), (MOST_LINES + 1, 1), (20_800, 19_800)]
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_long_text_is_cut_and_says_how_much_is_missing(lines: int, more: int, end: str) -> None:
    text = "\n".join(["x"] * lines) + (end if lines else "")
    shown = "".join(shortened(text))
    if more:
        assert shown == "x\n" * MOST_LINES + f"… {more:,} more lines"
    else:
        assert shown == text.strip("\n")


def test_a_long_line_is_made_visible_in_slices() -> None:
    pieces = list(shortened("\n\n" + "\x1b" * 100_000 + "\n" + "x" * 100_000 + "\n\n"))
    assert "".join(pieces) == "\\x1b" * 100_000 + "\n" + "x" * 100_000
    assert max(map(len, pieces)) <= 4 * 16_384


def test_an_attachment_is_described_by_name_or_subject_type_and_size() -> None:
    parts = (
        b"Content-Type: application/pdf; name=a.pdf\r\n\r\nx",
        b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhello",
        b"Content-Type: image/png\r\n\r\n",
    )
    body = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    body += b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--"
    assert [described(attachment) for attachment in read_content(body).attachments] == [
        "a.pdf, application/pdf, 1 byte",
        "inner, message/rfc822, 23 bytes",
        "image/png, 0 bytes",
    ]
