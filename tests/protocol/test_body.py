"""Reading DATA and BDAT: where a body ends, and what becomes of dots and of bare line ends."""

from __future__ import annotations

import itertools
import random

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.body import (
    END,
    BareNewlines,
    ChunkReader,
    DataReader,
    Skipper,
    has_bare_newline,
    joined,
    middle,
    normalized,
    whole,
)
from ehlo.protocol.buffer import Buffer


def read(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """The body, whether it has ended, and what was left over."""
    reader, buffer, body, ended = DataReader(), Buffer(), b"", False
    for piece in pieces:
        buffer.feed(piece)
        while not ended and (chunk := reader.read(buffer)) is not None:
            if chunk is END:
                ended = True
            else:
                assert chunk
                body += chunk
    return body, ended, buffer.take(len(buffer))


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
        (b"a.b\r\n.\r\n", b"a.b\r\n"),
        (b".\r.\r\n.\r\n", b"\r.\r\n"),
        (b".\n\r\n.\r\n", b"\n\r\n"),
        (b"\r\n..\r\n.\r\n", b"\r\n.\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\r\n"),
        (b"\0\xff\r\n.\r\n", b"\0\xff\r\n"),
    ],
)
def test_a_body_ends_and_is_unstuffed(sent: bytes, body: bytes) -> None:
    assert read(sent) == (body, True, b"")
    assert read(*octets(sent)) == (body, True, b"")
    assert read(sent + b"QUIT\r\n") == (body, True, b"QUIT\r\n")
    for at in range(len(sent)):
        assert read(sent[:at], sent[at:]) == (body, True, b"")


def test_a_packet_is_the_rest_of_a_body_only_if_the_reader_finds_the_same_in_it() -> None:
    for length in range(8):
        for letters in itertools.product("a.\r\n", repeat=length):
            packet = "".join(letters).encode()
            body, ended, rest = read(b"a", packet)
            is_rest = ended and not rest and body + b".\r\n" == b"a" + packet
            assert whole(packet) == (body[1:] if is_rest else None), packet


def test_a_packet_is_a_chunk_only_if_the_reader_finds_the_same_in_it() -> None:
    large = b"x" * 5_000
    for length in range(6):
        for letters in itertools.product("a.\r\n", repeat=length):
            mixed = "".join(letters).encode()
            for packet in (large + mixed, mixed + large, large + mixed + large):
                chunk = middle(packet)
                if chunk is not None:
                    assert (
                        read(b"a", packet)
                        == (b"a" + chunk, False, b"")
                        == (b"a" + packet, False, b"")
                    )
                else:
                    assert packet[-1:] in (b"\r", b"\n", b".") or b"\r\n." in packet


def test_a_chunk_is_a_copy_if_it_may_hold_a_page_more_than_it_needs() -> None:
    assert middle(b"x" * 4_096) is None
    for size, is_copy in ((4_097, True), (16_384, True), (16_385, False)):
        packet = b"x" * size
        assert (middle(packet) is not packet) == is_copy
        assert middle(packet) == packet


@pytest.mark.parametrize(
    "end", [b"\r\n.\r\n", b"\r\n..\r\n.\r\n", b"\r\n.\r\nQUIT\r\n.\r\n", b"\n.\r\n", b".\r\n"]
)
@pytest.mark.parametrize("dots", [0, 3, 200])
def test_a_large_packet_is_a_whole_body_if_the_reader_finds_the_same_in_it(
    end: bytes, dots: int
) -> None:
    packet = b"a. b" * dots + b"x" * 5_000 + end
    body, ended, rest = read(packet)
    is_whole = ended and not rest and body + b".\r\n" == packet
    assert whole(packet) == (body if is_whole else None)
    assert is_whole == (end == b"\r\n.\r\n")


# Everything that stands around a dot in what is known as SMTP smuggling, and some more
NO_END = [
    before + b"." + after
    for before, after in itertools.product(
        (b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r", b"\n\n", b"\r\n\0", b"\0\r\n", b"", b"\r\n."),
        (
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\r",
            b"\r\r",
            b"\r\r\n",
            b"\n\r\n",
            b"\0\r\n",
            b"\r\0\n",
            b" \r\n",
        ),
    )
    if b"\r\n.\r\n" not in before + b"." + after
]


@pytest.mark.parametrize("variant", NO_END, ids=repr)
def test_nothing_else_ends_a_body(variant: bytes) -> None:
    sent = (
        b"first" + variant + b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<x@example.com>\r\nDATA\r\n"
    )
    for pieces in ([sent], octets(sent)):
        _, ended, left = read(*pieces)
        assert not ended
        assert len(left) <= 4
    body, ended, left = read(sent + b".\r\n")
    assert ended
    assert left == b""
    assert b"evil@example.com" in body
    assert (body, ended, left) == read(*octets(sent + b".\r\n"))


def test_after_its_end_a_reader_says_so_again() -> None:
    reader, buffer = DataReader(), Buffer()
    buffer.feed(b".\r\nQUIT\r\n")
    assert reader.read(buffer) is END
    assert reader.read(buffer) is END
    assert buffer.take_line(100) == b"QUIT\r\n"
    assert repr(END) == "END"


def test_a_reader_waits_while_there_is_nothing() -> None:
    reader, buffer = DataReader(), Buffer()
    assert reader.read(buffer) is None
    for piece in (b".", b"\r"):
        buffer.feed(piece)
        assert reader.read(buffer) is None
    buffer.feed(b"x")
    assert reader.read(buffer) == b"\rx"
    for tail in (b"\r", b"\n", b".", b"\r"):
        buffer.feed(tail)
        assert reader.read(buffer) is None
    buffer.feed(b"\n")
    assert reader.read(buffer) == b"\r\n"
    assert reader.read(buffer) is END


@pytest.mark.parametrize(
    "data", [b"", b"a", b"a\r\nb\r\n", b"\r\n\r\n", b"\r\n", "ü\x85\u2028".encode()]
)
def test_clean_lines_have_no_bare_newline(data: bytes) -> None:
    assert not has_bare_newline(data)
    assert normalized(joined(data)) == data


@pytest.mark.parametrize(
    ("data", "clean"),
    [
        (b"\n", b"\r\n"),
        (b"\r", b"\r\n"),
        (b"a\nb", b"a\r\nb"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"\r\r\n", b"\r\n"),
        (b"a\r\r\r\r\nb\r\r", b"a\r\nb\r\n\r\n"),
        (b"\r\r\n\r\r\n\r\r\rc", b"\r\n\r\n\r\n\r\n\r\nc"),
        (b"\r\n\n", b"\r\n\r\n"),
        (b"\n\r", b"\r\n\r\n"),
        (b"a\r\n.\nb\r\n", b"a\r\n.\r\nb\r\n"),
    ],
)
def test_bare_newlines_are_seen_and_made_whole(data: bytes, clean: bytes) -> None:
    assert has_bare_newline(data)
    assert normalized(joined(data)) == clean
    assert not has_bare_newline(clean)


@pytest.mark.parametrize("where", [0, 1, 39, 77, 78, 79, 80, 81, -3, -2, -1])
@pytest.mark.parametrize("change", [b"\r", b"\n"])
def test_one_changed_byte_of_even_lines_is_seen_wherever_it_is(where: int, change: bytes) -> None:
    lines = bytearray((b"x" * 78 + b"\r\n") * 1_000)
    assert not has_bare_newline(bytes(lines))
    for line in range(0, 1_000, 37):
        at = (80 * line + where) % len(lines)
        kept = lines[at]
        lines[at] = change[0]
        assert has_bare_newline(bytes(lines)) == (kept != change[0])
        lines[at] = kept


@pytest.mark.parametrize("size", [4_096, 8_192, 32_768])
@pytest.mark.parametrize("width", [32, 64, 78, 998])
def test_a_bare_cr_before_even_lines_and_a_bare_lf_behind_them_are_no_line_end(
    size: int, width: int
) -> None:
    even = (b"y" * (width - 2) + b"\r\n") * (2 * size // width)
    assert has_bare_newline(b"x" * (size - 1) + b"\r" + even + b"\n" + b"tail\r\n")
    assert has_bare_newline(b"x" * (size - 1) + b"\r" + even + b"tail\r\n")


def test_slices_of_all_kinds_are_read_as_the_simple_search_reads_them() -> None:
    randomness = random.Random(12)  # noqa: S311  the same in each run
    even = [(b"y" * (width - 2) + b"\r\n") * 200 for width in (31, 32, 64, 80, 998)]
    long = [b"x" * size for size in (4_095, 4_096, 8_191, 8_192, 32_767, 32_768)]
    ends = [b"\r", b"\n", b"\r\n", b"\n\r", b"\r\r\n", b"z"]
    for _ in range(2_000):
        parts = (randomness.choice(randomness.choice((even, long, ends))) for _ in range(5))
        data = b"".join(parts)
        rest = data.replace(b"\r\n", b"")
        assert has_bare_newline(data) == (b"\r" in rest or b"\n" in rest)


def test_the_policies_have_the_names_that_options_give_them() -> None:
    assert [policy.value for policy in BareNewlines] == ["normalize", "reject", "keep"]
    assert BareNewlines("normalise") is BareNewlines.NORMALIZE
    with pytest.raises(ValueError, match="neither"):
        BareNewlines("neither")


# -- chunks (RFC 3030) ---------------------------------------------------------------------------


def chunks(reader: ChunkReader, *sent: bytes, rest: bytes = b"") -> list[bytes]:
    """The slices of a body whose chunks these are, each fed whole; the last one is the last."""
    buffer, slices = Buffer(), []
    for number, chunk in enumerate(sent, 1):
        reader.begin(len(chunk), last=number == len(sent))
        buffer.feed(chunk + rest)
        while (found := reader.read(buffer)) is not END:
            assert found
            slices.append(found)
        assert buffer.take(len(rest)) == rest
        assert buffer.empty
    return slices


@pytest.mark.parametrize(
    "sent", [[b""], [b"a"], [b"a", b"b", b""], [b"", b"", b".\r\n"], [b"QUIT\r\n", b"\r\n.\r\n"]]
)
def test_chunks_are_the_bytes_that_were_announced(sent: list[bytes]) -> None:
    assert b"".join(chunks(ChunkReader(), *sent)) == b"".join(sent)
    assert b"".join(chunks(ChunkReader(), *sent, rest=b"NOOP\r\n")) == b"".join(sent)


def test_a_chunk_waits_for_all_of_its_bytes() -> None:
    reader, buffer = ChunkReader(), Buffer()
    reader.begin(3, last=True)
    assert reader.read(buffer) is None
    for octet in (b"a", b"\r"):
        buffer.feed(octet)
        assert reader.read(buffer) == octet
        assert reader.read(buffer) is None
    buffer.feed(b"\nQUIT\r\n")
    assert reader.read(buffer) == b"\n"
    assert reader.read(buffer) is END
    assert buffer.take_line(100) == b"QUIT\r\n"
    assert (reader.size, reader.count, reader.last) == (3, 1, True)


def test_what_fills_a_read_is_not_copied() -> None:
    """RFC 3030's point: the bytes of a large chunk are handed on as the network brought them."""
    reader, buffer = ChunkReader(), Buffer()
    reads = [bytes([65 + number]) * 65_536 for number in range(10)]
    reader.begin(10 * 65_536, last=True)
    for read in reads:
        buffer.feed(read)
        assert reader.read(buffer) is read
        assert reader.read(buffer) in (None, END)


def test_bytes_of_a_rejected_chunk_are_counted_off_and_dropped() -> None:
    skipper, buffer = Skipper(9, replies.TOO_LARGE, last=True), Buffer()
    assert skipper.read(buffer) is None
    buffer.feed(b"QUIT")
    assert skipper.read(buffer) is None
    assert buffer.empty
    buffer.feed(b"RSET\nNOOP\r\n")
    assert skipper.read(buffer) is END
    assert buffer.take_line(100) == b"NOOP\r\n"
    assert (skipper.refusal, skipper.last) == (replies.TOO_LARGE, True)


def test_a_refused_chunk_of_nothing_ends_at_once() -> None:
    assert Skipper(0, replies.TOO_LARGE, last=False).read(Buffer()) is END
