"""`Peer`, `Message` and what else a handler sees, without a server."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from ehlo import Address, Message, Peer, TLSInfo, current_session

TRACE = b"Received: from c\r\n\tby mx;\r\n\tdate\r\n"
CHUNKS = [b"Subject: =?utf-8?q?=C3=BC?=\r\n", b"\r\nbody\r\n"]
BODY = b"".join(CHUNKS)


def message(chunks: list[bytes] | None = None) -> Message:
    sender, recipients = Address("a", "example.com"), [Address("b", "example.com")]
    return Message("id1", sender, recipients, TRACE, list(CHUNKS if chunks is None else chunks))


@pytest.mark.parametrize(
    ("peer", "text", "is_unix"),
    [
        (Peer("192.0.2.1", 25), "192.0.2.1:25", False),
        (Peer("2001:db8::1", 25), "[2001:db8::1]:25", False),
        (Peer("fe80::1%eth0", 25), "[fe80::1%eth0]:25", False),
        (Peer("unix:/run/smtp", 0), "unix:/run/smtp", True),
        (Peer("", 25), ":25", False),
    ],
)
def test_a_peer_prints_as_an_address_is_written(peer: Peer, text: str, is_unix: bool) -> None:
    assert str(peer) == f"{peer}" == text
    assert peer.is_unix is is_unix
    host, port = peer
    assert (host, port) == (peer.host, peer.port) == peer


@pytest.mark.parametrize("first", ["data", "body", "stream", "file", "email", "size"])
def test_every_view_of_a_message_agrees_whichever_comes_first(first: str) -> None:
    mail = message()
    value = getattr(mail, first)
    if first == "stream":
        assert b"".join(value()) == TRACE + BODY
    for _ in range(2):
        assert mail.data == TRACE + BODY
        assert mail.body == BODY
        assert mail.trace == TRACE
        assert mail.size == len(BODY)
        assert mail.file.read() == TRACE + BODY
        assert b"".join(mail.stream()) == TRACE + BODY
        assert mail.email["Subject"] == "ü"
    assert mail.data is mail.data
    assert mail.email is mail.email
    assert isinstance(mail.email, EmailMessage)
    assert mail.email["Received"].startswith("from c")


def test_each_file_begins_at_the_beginning() -> None:
    mail = message()
    one, two = mail.file, mail.file
    assert one.read(8) == b"Received"
    assert two.read(8) == b"Received"


@pytest.mark.parametrize("held", ["chunks", "data", "body"])
def test_a_stream_comes_in_slices_of_at_most_64_kib(held: str) -> None:
    mail = message([b"x" * 200_000, b"y" * 10, b"z" * 65_536])
    if held != "chunks":
        assert getattr(mail, held)
    slices = list(mail.stream())
    assert max(map(len, slices)) <= 65_536
    assert all(slices)
    assert b"".join(slices) == TRACE + b"x" * 200_000 + b"y" * 10 + b"z" * 65_536


def test_an_empty_message_is_one() -> None:
    mail = message([])
    assert mail.size == 0
    assert mail.body == b""
    assert mail.data == TRACE
    assert b"".join(mail.stream()) == TRACE


def test_the_repr_of_a_message_shows_no_content() -> None:
    assert repr(message()) == "<Message id1 from a@example.com for 1>"


def test_tls_facts_are_a_tuple() -> None:
    assert TLSInfo("TLSv1.3", "X", None, None)[:2] == ("TLSv1.3", "X")


def test_without_a_hook_there_is_no_session() -> None:
    assert current_session.get() is None
