"""The buffer: lines and slices, however the bytes came."""

from __future__ import annotations

import pytest

from ehlo.protocol.buffer import Buffer, find_dot


def fed(*pieces: bytes) -> Buffer:
    buffer = Buffer()
    for piece in pieces:
        buffer.feed(piece)
    return buffer


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def test_lines_are_taken_one_by_one_with_their_ends() -> None:
    buffer = fed(b"one\r\ntwo\nthr")
    assert [buffer.take_line(100) for _ in range(3)] == [b"one\r\n", b"two\n", None]
    buffer.feed(b"ee\r\n")
    assert buffer.take_line(100) == b"three\r\n"
    assert buffer.empty
    assert len(buffer) == 0


def test_a_line_may_come_byte_by_byte() -> None:
    buffer = Buffer()
    for octet in octets(b"NOOP\r"):
        buffer.feed(octet)
        assert buffer.take_line(100) is None
    buffer.feed(b"\n")
    assert buffer.take_line(100) == b"NOOP\r\n"


def test_a_line_of_just_the_limit_is_whole() -> None:
    for pieces in ([b"abc\r\nx"], octets(b"abc\r\nx")):
        assert fed(*pieces).take_line(5) == b"abc\r\n"


def test_of_a_line_over_the_limit_its_beginning_is_given_when_it_has_ended() -> None:
    whole = fed(b"abcdefgh\r\nnext\r\n")
    assert whole.take_line(5) == b"abcdef"
    assert whole.take_line(10) == b"next\r\n"
    dripping = Buffer()
    for octet in octets(b"abcdefgh\r"):
        dripping.feed(octet)
        assert dripping.take_line(5) is None
        assert len(dripping) <= 6
    assert dripping.line_startswith(b"abc")
    dripping.feed(b"\nnext\r\n")
    assert dripping.take_line(5) == b"abcdef"
    assert dripping.take_line(10) == b"next\r\n"
    assert not dripping.line_startswith(b"abc")


def test_feeding_nothing_leaves_it_empty() -> None:
    assert fed(b"", b"").empty
    assert not fed(b"", b"x", b"").empty
    buffer = fed(b"x", b"")
    assert buffer.take(1) == b"x"
    assert buffer.empty


def test_slices_are_found_and_taken_from_where_reading_is() -> None:
    buffer = fed(b"line\r\n", b"abc.def")
    assert buffer.take_line(100) == b"line\r\n"
    assert buffer.find(b".") == 3
    assert buffer.find(b"a", 1) == -1
    assert buffer.startswith(b"ab")
    assert buffer.endswith(b"ef")
    buffer.skip(1)
    assert buffer.take(2) == b"bc"
    assert buffer.take(100) == b".def"
    assert buffer.take(1) == b""


def test_cleared_it_has_nothing() -> None:
    buffer = fed(b"a", b"b")
    buffer.clear()
    assert buffer.empty
    assert len(buffer) == 0


def test_what_has_been_taken_is_given_back_while_more_comes() -> None:
    """A client that always leaves a little unread must not make the buffer grow for ever."""
    buffer = fed(b"x", b"x")
    for _ in range(300):
        buffer.feed(b"y" * 1000)
        buffer.take(1000)
    assert len(buffer) == 2
    assert len(buffer._data) < 100_000  # noqa: SLF001  what it holds shows nowhere else


def test_it_keeps_no_reference_to_bytes_that_may_change() -> None:
    data = bytearray(b"abc\r\n")
    buffer = Buffer()
    buffer.feed(data)  # type: ignore[arg-type]  # a caller that does so gets no surprise
    data[0] = 0
    assert buffer.take_line(100) == b"abc\r\n"


LARGE = b"NOOP\r\n" * 20_000


def test_few_bytes_that_are_left_hold_no_large_block() -> None:
    lines = fed(LARGE + b"MAIL")
    while lines.take_line(100) is not None:
        assert lines.held <= 2 * len(lines) + 4096
    body, gathered = fed(LARGE), fed(b"x", LARGE)
    assert len(body.take(len(LARGE) - 3)) == len(LARGE) - 3
    gathered.skip(len(LARGE) - 3)
    for buffer in (lines, body, gathered):
        assert buffer.held <= 4096
    assert (len(lines), len(body), len(gathered)) == (4, 3, 4)
    lines.feed(b" FROM:<>\r\n")
    assert lines.take_line(100) == b"MAIL FROM:<>\r\n"
    assert body.take(9) == b"P\r\n"


def test_what_is_left_of_a_large_block_is_copied_once() -> None:
    buffer, copied, before = fed(LARGE), 0, len(LARGE)
    while not buffer.empty:
        buffer.take_line(100)
        if buffer.held < before:
            copied, before = copied + buffer.held, buffer.held
    assert copied <= len(LARGE)


def test_a_small_read_is_copied_when_it_is_taken() -> None:
    """asyncio cuts each read from a block of 256 KiB, of which a page stays: 4 KiB for 3 bytes."""
    buffer = Buffer()
    for size, copied in ((3, True), (16_384, True), (16_385, False)):
        read = b"x" * size
        buffer.feed(read)
        taken = buffer.take(size)
        assert taken == read
        assert (taken is not read) == copied


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b".",
        b"\r\n.",
        b".\r\n.\r\n",
        b"\n.\r.x.\r\n\r\n..",
        b"a.b" * 40,
        b"a.b" * 49 + b"\r\n.",
        b"a.b" * 50 + b"\r\n.",
        b"a.b" * 60 + b"\r\n.\r\n.",
    ],
)
def test_the_first_dot_of_a_line_is_found_among_few_and_many(rest: bytes) -> None:
    for data in (rest, b"\r\n." + rest, b"x\r\n" + rest):
        for start in range(4):
            assert find_dot(data, start) == data.find(b"\r\n.", start)
