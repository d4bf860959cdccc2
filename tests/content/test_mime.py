"""The parts of a message, and where each of them stands."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message as Parsed

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.mime import MOST_DEPTH, MOST_PARTS, Part, parse_message


def multipart(*parts: bytes, boundary: bytes = b"B", end: bytes = b"--") -> bytes:
    head = b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n"
    delimited = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return head + delimited + (b"--" + boundary + end + b"\r\n" if end else b"")


def bodies(data: bytes) -> list[bytes]:
    return [data[part.start : part.end] for part in parse_message(data).leaves()]


def test_a_message_without_parts_is_one() -> None:
    root = parse_message(b"Subject: x\r\n\r\nbody\r\n")
    assert root.content_type == "text/plain"
    assert root.children == []
    assert bodies(b"Subject: x\r\n\r\nbody\r\n") == [b"body\r\n"]


def test_parts_are_found_between_delimiters() -> None:
    data = b"X: y\r\n" + multipart(b"\r\none", b"Content-Type: text/html\r\n\r\ntwo\r\n")
    root = parse_message(data + b"epilogue")
    assert root.content_type == "multipart/mixed"
    assert [part.content_type for part in root.children] == ["text/plain", "text/html"]
    assert bodies(data) == [b"one", b"two\r\n"]


def test_a_part_inside_a_part_ends_with_the_outer_one() -> None:
    inner = multipart(b"\r\none", b"\r\ntwo", boundary=b"I", end=b"")
    data = multipart(inner, b"\r\nthree")
    root = parse_message(data)
    assert [len(part.children) for part in root.children] == [2, 0]
    assert bodies(data) == [b"one", b"two\r\n", b"three"]


def test_an_inner_multipart_may_have_the_outer_ones_boundary() -> None:
    data = multipart(multipart(b"\r\none"), b"\r\ntwo")
    assert b"one" in bodies(data)
    assert b"two" in bodies(data)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"Content-Type: multipart/mixed\r\n\r\ntext", [b"text"]),
        (b"Content-Type: multipart/mixed; boundary=B\r\n\r\ntext", [b"text"]),
        (multipart(b"\r\none", end=b""), [b"one\r\n"]),
        (multipart(), [b"--B--\r\n"]),
        (b"no header, only text\r\nand more\r\n", [b"no header, only text\r\nand more\r\n"]),
        (b"", [b""]),
        (b"\r\n\r\n", [b"\r\n"]),
        (multipart(b"Content-Type: text/plain"), [b""]),  # a header without an end
        (multipart(b"A: b\r\n--B", b"\r\nx"), [b"", b"", b"x"]),
        (b"Content-Type: multipart/mixed; boundary=B\n\n--B\n\none\n--B--\n", [b"one"]),
        (b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B  \r\n\r\none\r\n--B--x", None),
        (multipart(b"\r\none\r\n--Bx\r\n--\r\n--B-\r\ntwo"), [b"one\r\n--Bx\r\n--\r\n--B-\r\ntwo"]),
    ],
)
def test_what_is_not_well_formed_is_parts_all_the_same(
    data: bytes, parts: list[bytes] | None
) -> None:
    found = bodies(data)
    assert found == parts if parts is not None else found[0].startswith(b"one")


@pytest.mark.parametrize("kind", [b"text", b"text/", b"/plain", b"te xt/plain", b"a/b/c", b""])
def test_a_type_that_is_none_is_plain_text(kind: bytes) -> None:
    assert parse_message(b"Content-Type: " + kind + b"\r\n\r\nx").content_type == "text/plain"


def test_the_parts_of_a_digest_are_messages() -> None:
    data = multipart(b"\r\nSubject: one\r\n\r\nx").replace(b"multipart/mixed", b"multipart/digest")
    assert [part.content_type for part in parse_message(data).children] == ["message/rfc822"]


def test_parts_are_bounded_and_the_last_holds_the_rest() -> None:
    data = multipart(*[b"\r\n%d " % number + b"x" * 64 for number in range(MOST_PARTS + 500)])
    root = parse_message(data)
    assert len(root.children) == MOST_PARTS
    last = root.children[-1]
    rest = data[last.start : last.end]
    assert rest.endswith(b"%d " % (MOST_PARTS + 499) + b"x" * 64 + b"\r\n--B--\r\n")


def test_in_a_small_message_fewer_parts_and_fields_are_told_apart() -> None:
    parts = parse_message(multipart(*[b"\r\n"] * 500)).children
    assert 20 <= len(parts) <= 120
    root = parse_message(b"A:\r\n" * 1_000)
    assert (len(root.fields), root.more_fields) == (64 + 4_000 // 16, 685)


def test_fields_are_bounded_in_all_parts_together() -> None:
    data = multipart(*[b"A: x\r\n" * 300 + b"\r\nx"] * 200)
    fields = [len(part.fields) for part in parse_message(data).children]
    assert fields[:33] == [300] * 33
    assert sum(fields) < 10_000 + len(fields)


def test_depth_is_bounded_and_what_is_deeper_is_text() -> None:
    data = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (depth, depth)
        for depth in range(MOST_DEPTH + 100)
    )
    depth, part = 0, parse_message(data)
    while part.children:
        (part,) = part.children
        depth += 1
    assert depth == MOST_DEPTH
    assert data[part.start : part.end].startswith(b"--b%d\r\n" % MOST_DEPTH)


TOKENS = st.sampled_from(
    [
        *(b"--A", b"--A--", b"--B", b"--B--", b"--", b"\r\n", b"\n", b"\r\n\r\n", b" ", b"text"),
        b"Content-Type: multipart/mixed; boundary=A\r\n\r\n",
        b"Content-Type: multipart/alternative; boundary=B\r\n\r\n",
        b"Content-Type: message/rfc822\r\n\r\n",
        b"Subject: x\r\n",
    ]
)


@given(st.lists(TOKENS, max_size=40).map(b"".join))
def test_parts_never_overlap_and_never_leave_the_message(data: bytes) -> None:
    at = 0
    for part in parse_message(data).leaves():
        assert at <= part.start <= part.end <= len(data)
        at = part.end


WELL_FORMED = st.recursive(
    st.sampled_from([b"\r\ntext", b"X: y\r\n\r\nmore\r\ntext", b"\r\n"]),
    lambda parts: st.builds(
        # Outer boundaries differ from inner ones, since what is around is longer
        lambda several: multipart(*several, boundary=b"b%d" % sum(map(len, several))),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@given(WELL_FORMED)
def test_well_formed_parts_are_those_that_the_standard_library_finds(data: bytes) -> None:
    assert tree(parse_message(data), data) == parsed_tree(message_from_bytes(data))


def tree(part: Part, data: bytes) -> object:
    if part.children:
        return [tree(child, data) for child in part.children]
    return data[part.start : part.end].decode()


def parsed_tree(part: Parsed) -> object:
    payload = part.get_payload()
    if isinstance(payload, list):
        return [parsed_tree(child) for child in payload if isinstance(child, Parsed)]
    return payload
