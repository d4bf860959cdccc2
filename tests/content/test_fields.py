"""Header fields as real mail has them: encoded-words, raw UTF-8, parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.fields import (
    LONGEST_VALUE,
    MOST_FIELDS,
    MOST_PARAMETERS,
    decode_header,
    parse_parameters,
    read_header,
)


def never(_begin: int, _end: int) -> bool:
    return False


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b" folded\r\n line ", "folded line"),
        (b"raw \xc3\xbc", "raw ü"),
        (b"raw \xfc", "raw ü"),
        (b"=?utf-8?q?J=C3=B6rg?= <j@x.test>", "Jörg <j@x.test>"),
        (b"=?utf-8*en?Q?Caf=C3=A9?=", "Café"),
        (b"=?UTF-8?Q?Caf=C3=A9 at noon?=", "Café at noon"),
        (b"=?us-ascii?Q?Hel?= =?utf-8?Q?l=C3=B6?=", "Hellö"),
        (b"=?utf-8?q?a?=\r\n =?utf-8?q?b?= c", "ab c"),
        (b"=?utf-8?b?ww==?= =?utf-8?b?vA==?=", "ü"),  # a character that is split over two words
        (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),
        (b"=?utf-8?q?a_b=5F?=", "a b_"),
        (b"=?utf-8?q??=", ""),
        (b"=?utf-8?q?=41?=x", "Ax"),
        (b"=?iso-2022-jp?b?GyRCJDMkcxsoQg==?=", "こん"),
        (b"=?utf-8?b?AAA=AAA?=", "\0\0\0\0"),
        (b"=?utf-8?b?!?=", "=?utf-8?b?!?="),  # nothing that could be shown instead
        (b"=?x-no?q?=FC?=", "ü"),
        (b"=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        (b"=?utf-8?q?no end", "=?utf-8?q?no end"),
        (b"=?=?=?utf-8?q?x?=", "=?=?x"),
        (b"a =?utf-8?q?b?= c =?utf-8?q?d?=", "a b c d"),
    ],
)
def test_a_value_is_read_as_text(value: bytes, text: str) -> None:
    assert decode_header(value) == text


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (b"text/plain; charset=utf-8", "charset", "utf-8"),
        (b'text/plain; Charset = "utf-8" ; x=y', "charset", "utf-8"),
        (b"a/b;;;; name=x", "name", "x"),
        (b'a/b; name="a \\" b; c"', "name", 'a " b; c'),
        (b"a/b; name=with blanks in it.pdf; x=y", "name", "with blanks in it.pdf"),
        (b'a/b; name="no end', "name", "no end"),
        (b'attachment; filename="Factur\xc3\xa9.pdf"', "filename", "Facturé.pdf"),
        (b'attachment; filename="=?utf-8?q?J=C3=B6rg.pdf?="', "filename", "Jörg.pdf"),
        (b"attachment; filename*=utf-8'en'J%C3%B6rg.pdf", "filename", "Jörg.pdf"),
        (b"attachment; filename=a; filename*=utf-8''%C3%B6", "filename", "ö"),
        (b"a; filename*0=abc; filename*1=def", "filename", "abcdef"),
        (b"a; filename*1*=%BCx; filename*0*=utf-8''%C3", "filename", "üx"),
        (b"a; filename*0*=latin1''%FC; filename*1=.txt", "filename", "ü.txt"),
        (b"a; filename*=%zz", "filename", "%zz"),
        (b"a; name=1; name=2", "name", "1"),
    ],
)
def test_a_parameter_is_read_as_text(value: bytes, name: str, expected: str) -> None:
    assert parse_parameters(value).parameters[name] == expected


def test_parameters_are_bounded() -> None:
    value = b"a/b" + b"".join(b"; p%d=x" % number for number in range(MOST_PARAMETERS + 50))
    assert len(parse_parameters(value).parameters) == MOST_PARAMETERS
    assert parse_parameters(b"a/b" + b";" * 200_000 + b"x=y").value == "a/b"


def test_a_header_ends_at_an_empty_line() -> None:
    fields, more, end = read_header(b"A: 1\r\nB:2\r\n  3\r\n\r\nbody", 0, never)
    assert [(field.name, field.text) for field in fields] == [(b"A", "1"), (b"B", "2  3")]
    assert (more, end) == (0, 18)


@pytest.mark.parametrize(
    ("data", "names", "end"),
    [
        (b"", [], 0),
        (b"no header\r\n", [], 0),
        (b"A: 1\r\nno field\r\n\r\n", [b"A"], 6),
        (b" starts with a blank\r\n", [], 0),
        (b"A: 1", [b"A"], 4),
        (b"A:\n\nx", [b"A"], 4),
        (b"\r\nx", [], 2),
    ],
)
def test_a_line_that_is_no_field_begins_the_body(data: bytes, names: list[bytes], end: int) -> None:
    header = read_header(data, 0, never)
    assert [field.name for field in header.fields] == names
    assert header.end == end


def test_fields_are_bounded_in_number_and_in_length() -> None:
    header = read_header(b"a: b\r\n" * 5_000 + b"\r\nbody", 0, never)
    assert len(header.fields) == MOST_FIELDS
    assert header.more == 5_000 - MOST_FIELDS
    assert header.end == 30_002
    long = read_header(b"a: " + b"x" * 200_000 + b"\r\n\r\n", 0, never)
    assert len(long.fields[0].value) == LONGEST_VALUE - len("a: ")


@given(st.binary())
def test_nothing_raises(data: bytes) -> None:
    header = read_header(data, 0, never)
    assert 0 <= header.end <= len(data)
    for field in header.fields:
        assert isinstance(field.text, str)
        assert isinstance(parse_parameters(field.value).value, str)
    assert isinstance(decode_header(data), str)
