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


TEXT = st.text(alphabet="<>()[]@:;,.\"'=?*%/ abq8-\\").map(str.encode) | st.binary()


@given(st.sampled_from(NAMES), TEXT)
def test_no_field_raises(name: str, value: bytes) -> None:
    message = parse_email(name.encode() + b": " + value + b"\r\n\r\nx")
    for each in NAMES:
        assert isinstance(str(message[each]), str)
    assert isinstance(message.get_content_type(), str)
    assert isinstance(message.is_attachment(), bool)
