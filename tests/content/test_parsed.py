"""The standard library's view of a message, whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.parsed import parse_email

NAMES = ("subject", "from", "to", "cc", "message-id", "content-type", "content-disposition", "date")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"Message-ID: <[b378dfc5@example.com]>", "<[b378dfc5@example.com]>"),
        (b'To: "', '"'),
        (b"Cc: (x): a@example.com;", "(x): a@example.com;"),
        (b"Content-Type: text/html; name*", "text/html"),
        (b"Subject: =?utf-8?q?=C3=BC?=", "ü"),
    ],
)
def test_a_malformed_field_is_text(header: bytes, text: str) -> None:
    message = parse_email(header + b"\r\n\r\nx")
    assert str(message[header.partition(b":")[0].decode()]) == text
    assert str(message.get_payload()).strip() == "x"


def test_what_is_well_formed_keeps_its_structure() -> None:
    message = parse_email(
        b"To: =?utf-8?q?J=C3=B6rg?= <j@x.test>\r\nDate: Tue, 4 Mar 2025 9:15\r\n\r\nx"
    )
    (address,) = message["to"].addresses
    assert (address.display_name, address.addr_spec) == ("Jörg", "j@x.test")
    assert message["date"].datetime.year == 2025


def test_a_malformed_type_leaves_the_body_readable() -> None:
    message = parse_email(b"Content-Type: text/plain; name*\r\n\r\nhello")
    body = message.get_body()
    assert body is not None
    assert body.get_content().strip() == "hello"
    assert list(message.iter_attachments()) == []


PARTS = b"""\
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

gr\xc3\xbc\xc3\x9fe
two
--b
Content-Type: text/html
Content-Transfer-Encoding: quoted-printable

<p>=3D
and a long =
line
--b
Content-Type: text/csv
Content-Disposition: attachment
Content-Transfer-Encoding: base64

YQ0KYg0K
--b
Content-Type: message/rfc822

Subject: forwarded

a
b
--b
Content-Type: application/zip
Content-Transfer-Encoding: 8bit

\x00
\xff
--b
Content-Type: application/zip
Content-Transfer-Encoding: base64

YQ0KYg0K
--b--
""".replace(b"\n", b"\r\n")


def test_text_has_lf_line_ends_and_bytes_stay_as_they_were() -> None:
    message = parse_email(PARTS)
    plain, html, csv, forwarded, raw, encoded = message.iter_parts()
    assert plain.get_content() == "grüße\ntwo"
    assert html.get_content() == "<p>=\nand a long line"
    assert csv.get_content() == "a\nb\n"
    assert forwarded.get_content().get_content() == "a\nb"
    assert html.get_payload() == "<p>=3D\nand a long =\nline"
    assert raw.get_content() == b"\0\r\n\xff"
    assert encoded.get_content() == b"a\r\nb\r\n"
    assert encoded.get_payload(decode=True) == b"a\r\nb\r\n"


def test_a_message_of_one_part_has_lf_line_ends() -> None:
    for header in (b"", b"Content-Type: multipart/mixed\r\n", b"Content-Type: text\r\n"):
        message = parse_email(header + b"Subject: a\r\n b\r\n\r\none\r\ntwo\r\n")
        assert message.get_payload() == "one\ntwo\n"
        assert message["subject"] == "a b"
    message.set_content("three\r\nfour\r\n")
    assert message.get_content() == "three\nfour\n"


def test_a_message_can_be_changed() -> None:
    message = parse_email(b'Subject: one\r\nTo: "\r\n\r\ntext\r\n')
    message["X-Tag"] = "spam"
    message.replace_header("Subject", "two")
    message.set_content("grüße\n")
    changed = parse_email(message.as_bytes())
    assert (changed["subject"], changed["x-tag"], changed["to"]) == ("two", "spam", '"')
    assert changed.get_content() == "grüße\n"


TEXT = st.text(alphabet="<>()[]@:;,.\"'=?*%/ abq8-\\").map(str.encode) | st.binary()


@given(st.sampled_from(NAMES), TEXT)
def test_no_field_raises(name: str, value: bytes) -> None:
    message = parse_email(name.encode() + b": " + value + b"\r\n\r\nx")
    for each in NAMES:
        assert isinstance(str(message[each]), str)
    assert isinstance(message.get_content_type(), str)
    assert isinstance(message.is_attachment(), bool)
