"""Every message can be shown, and a terminal obeys nothing in it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehlo.cli.readable import bytes_of, content_of, one_line, visible


def headers_of(*lines: bytes) -> dict[str, str]:
    return dict(content_of(b"\r\n".join(lines) + b"\r\n\r\n").headers)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?iso-8859-1?Q?Gr=FC=DFe?= an alle", "Grüße an alle"),
        (b"=?utf-8?b?R3LDvMOf?= =?utf-8?b?ZQ==?=", "Grüße"),
        (b"=?utf-8?b?R3LDvMOf?=\r\n =?utf-8?b?ZQ==?=", "Grüße"),
        (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),
        (b"folded\r\n\tline", "folded\tline"),
        ("Grüße in UTF-8".encode(), "Grüße in UTF-8"),
        (b"latin \xfc", "latin \ufffd"),
        (b"=?no-such-charset?q?x?=", "=?no-such-charset?q?x?="),
        (b"=?utf-8?b?a?=", "=?utf-8?b?a?="),
        (b"=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
        (b"", ""),
    ],
)
def test_headers_are_unfolded_and_decoded(raw: bytes, shown: str) -> None:
    assert headers_of(b"Subject: " + raw, b"X: y") == {"Subject": shown, "X": "y"}


def test_headers_keep_their_order_and_repetitions() -> None:
    content = content_of(b"X: 1\r\nA: 2\r\nX: 3\r\n\r\n")
    assert content.headers == [("X", "1"), ("A", "2"), ("X", "3")]


def test_a_very_long_header_is_not_decoded() -> None:
    raw = b"=?utf-8?q?a?= " * 2000
    assert headers_of(b"Subject: " + raw)["Subject"] == raw.decode().strip()


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (b"\r\nhello\r\n", "hello\n"),
        (b"Content-Type: text/plain; charset=latin1\r\n\r\ncaf\xe9", "café"),
        (b"Content-Type: text/plain; charset=nonsense\r\n\r\ncaf\xc3\xa9", "café"),
        (b"Content-Type: text/plain; charset=us-ascii\r\n\r\ncaf\xc3\xa9", "café"),
        (b"Content-Transfer-Encoding: base64\r\n\r\nY2Fmw6k=\r\n", "café"),
        (b"Content-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9", "café"),
        (b"Content-Type: text/html\r\n\r\n<p>hello", "<p>hello"),
        (b"Content-Type: image/png\r\n\r\nx", None),
        (b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nx", None),
    ],
)
def test_text_is_decoded(part: bytes, text: str | None) -> None:
    assert content_of(part).text == text


def test_plain_text_is_preferred_to_alternatives() -> None:
    content = content_of(
        b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/html\r\n\r\n<p>html\r\n"
        b"--b\r\n\r\nplain\r\n--b--\r\n"
    )
    assert content.text == "plain"
    assert content.attachments == ["text/html, 7 bytes"]


def test_a_message_in_a_message_is_an_attachment() -> None:
    content = content_of(b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhello")
    assert content.text is None
    assert content.attachments == ["message/rfc822"]


def test_parts_that_are_nested_too_deeply_are_shown_as_text() -> None:
    body = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (depth, depth)
        for depth in range(2000)
    )
    content = content_of(body + b"hello\r\n")
    assert content.text is not None
    assert "hello" in content.text


@given(st.binary())
@example(b"Content-Type: \xff; charset=\xff\r\nContent-Disposition: \xff\r\n\r\n\xff")
@example(b"Content-Type: text/plain; charset*=x''%ff\r\n\r\n\xff")
@example(b"Content-Type: text/plain; name*0*=a; name*1=\r\n\r\n")
@example(b"\x00: \x1b\r\n =?\r\n\r\n")
def test_any_bytes_can_be_shown(body: bytes) -> None:
    content = content_of(body)
    shown = [one_line(f"{name}: {value}") for name, value in content.headers]
    shown += [visible(content.text or ""), *map(one_line, content.attachments)]
    "".join(shown).encode()


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
