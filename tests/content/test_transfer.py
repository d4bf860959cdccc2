"""Transfer encodings, well formed and broken."""

from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.transfer import decode_transfer, decoded_size, decoder_of

ENCODINGS = ["", "7bit", "8bit", "binary", "base64", "quoted-printable", "x-uuencode", "unknown"]


@pytest.mark.parametrize(
    ("encoding", "data", "decoded"),
    [
        ("base64", b"aGVs\r\nbG8=\r\n", b"hello"),
        ("base64", b"aGVsbG8", b"hello"),  # its padding is missing
        ("base64", b"aGVsbG8===", b"hello"),
        ("base64", b"a*G\xffV s!bG8=", b"hello"),
        ("base64", b"aGVs=bG8=", b"hello"),  # two pieces behind each other
        ("base64", b"YQ==Yg==", b"ab"),
        ("base64", b"aGVsb", b"hel"),  # six bits are no byte
        ("base64", b"", b""),
        ("base64", b"====", b""),
        ("quoted-printable", b"caf=C3=A9=\r\n.", "café.".encode()),
        ("quoted-printable", b"=zz =", b"=zz "),
        ("x-uuencode", b"begin 644 x\n#86)C\n`\nend\nmore", b"abc"),
        ("uuencode", b"#86)C\r\n", b"abc"),
        ("uuencode", b"#86)Cx\n", b"abc"),  # a checksum behind it
        ("uuencode", b"not \xff encoded\n", b"not \xff encoded\n"),
        ("7bit", b"=C3", b"=C3"),
        ("unknown", b"=C3", b"=C3"),
    ],
)
def test_what_was_encoded_is_decoded_as_far_as_it_goes(
    encoding: str, data: bytes, decoded: bytes
) -> None:
    assert decode_transfer(data, encoding) == decoded


@given(st.binary())
def test_what_is_well_formed_is_decoded_exactly(data: bytes) -> None:
    assert decode_transfer(base64.encodebytes(data), "base64") == data
    assert decode_transfer(binascii.b2a_qp(data, istext=False), "quoted-printable") == data
    lines = [binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45)]
    encoded = b"begin 644 x\n" + b"".join(lines) + b"`\nend\n"
    assert decode_transfer(encoded, "x-uuencode") == data


@given(st.binary(), st.sampled_from(ENCODINGS))
def test_nothing_raises_and_the_size_is_right(data: bytes, encoding: str) -> None:
    decoded = decode_transfer(data, encoding)
    if encoding != "base64" or b"=" not in data.rstrip(b"= \r\n"):
        assert decoded_size(memoryview(data), encoding) == len(decoded)


LETTERS = st.sampled_from(
    [b"QUJD", b"Q", b"=", b"==", b"=4", b"=41", b"=\r\n", b"\r\n", b"\n", b" "]
)
LINES = st.sampled_from([b"#86)C\r\n", b"begin 644 x\n", b"`\n", b"end\n", b"#8", b"\xff\n", b"\r"])


@given(st.lists(LETTERS | LINES | st.binary(max_size=3)), st.sampled_from(ENCODINGS[4:7]))
def test_pieces_that_end_anywhere_give_what_the_whole_does(
    pieces: list[bytes], encoding: str
) -> None:
    decoder = decoder_of(encoding)
    assert decoder is not None
    decoded = b"".join([*map(decoder.feed, pieces), decoder.end()])
    assert decoded == decode_transfer(b"".join(pieces), encoding)


def test_after_many_broken_lines_everything_stays_as_it_is() -> None:
    data = b"#86)C\n" + b"\xff \n" * 101 + b"#86)C\r\n\r\n."
    decoder = decoder_of("uuencode")
    assert decoder is not None
    decoded = b"abc" + data[6:]
    assert decode_transfer(data, "uuencode") == decoded
    fed = [decoder.feed(data[at : at + 7]) for at in range(0, len(data), 7)]
    assert b"".join((*fed, decoder.end())) == decoded


@pytest.mark.parametrize("encoding", ENCODINGS[4:7])
def test_a_line_without_an_end_waits_for_no_more_than_a_slice(encoding: str) -> None:
    decoder = decoder_of(encoding)
    assert decoder is not None
    assert sum(len(decoder.feed(b"QUJD" * 1_000)) for _ in range(5))


def test_the_size_of_much_base64_is_counted_without_decoding_it() -> None:
    data = base64.encodebytes(bytes(1_000_001))
    assert decoded_size(memoryview(data), "base64") == 1_000_001
