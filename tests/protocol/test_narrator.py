"""`Narrator`: which lines a transcript gets, masked or not, with bodies or without."""

from __future__ import annotations

import pytest

from ehlo.protocol import Reply, Responder, Settings
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.output import Narrator
from ehlo.transcript import Transcript

BEGIN = b"HELO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
PLAIN = Settings(
    mechanisms={name: MECHANISMS[name] for name in ("PLAIN", "LOGIN")},
    open_mechanisms=frozenset({"PLAIN", "LOGIN"}),
)


def heard(
    *packets: bytes,
    settings: Settings | None = None,
    secrets: bool = False,
    bodies: bool = False,
    ends: bool = False,
) -> list[str]:
    """Return the lines of the client, and the notes, after a greeting."""
    transcript = Transcript(secrets, bodies)
    responder = Responder(settings=settings, transcript=transcript, nonce=lambda: "nonce")
    for packet in packets:
        responder.feed(packet)
    if ends:
        responder.feed_eof()
    return [
        line.text if line.direction == "client" else f"* {line.text}"
        for line in transcript
        if line.direction != "server"
    ]


def split(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_body_is_shown_as_it_came_however_it_is_cut(size: int) -> None:
    sent = BEGIN + b"DATA\r\nSubject: x\r\n\r\n..a\r\nbare\nline\r\n.\r\nNOOP\r\n"
    assert heard(*split(sent, size), bodies=True)[4:] == [
        *("Subject: x", "", "..a", r"bare\n", "line", ".", "NOOP")
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_are_shown_without_dots(size: int) -> None:
    sent = BEGIN + b"BDAT 7\r\n.a\r\n.b\r" + b"BDAT 2 LAST\r\n\n\xff" + b"NOOP\r\n"
    assert heard(*split(sent, size), bodies=True)[3:] == [
        *("BDAT 7", ".a", r".b\r", "BDAT 2 LAST", r"\n", r"\xff", "NOOP")
    ]


def test_bodies_are_counted_where_they_are_not_shown() -> None:
    assert heard(BEGIN + b"DATA\r\nSubject: x\r\n.\r\nNOOP\r\n")[3:] == [
        *("DATA", "* 12 bytes of a message", "NOOP")
    ]
    assert heard(BEGIN + b"BDAT 3\r\nabcBDAT 0 LAST\r\n")[3:] == [
        *("BDAT 3", "* 3 bytes of a message", "BDAT 0 LAST", "* 0 bytes of a message")
    ]


def test_a_chunk_that_was_rejected_before_it_began_is_not_shown() -> None:
    assert heard(b"HELO c\r\nBDAT 5\r\nNOOP\nNOOP\r\n", bodies=True) == ["HELO c", "BDAT 5", "NOOP"]


@pytest.mark.parametrize(
    ("bodies", "shown"),
    [(False, "* 10 bytes of a message, without its end"), (True, "half of it")],
)
def test_a_body_without_its_end_is_noted(bodies: bool, shown: str) -> None:
    lines = heard(BEGIN + b"DATA\r\nhalf of it\r\n", bodies=bodies, ends=True)
    assert lines[4:] == [shown, "* client closed its sending side", "* connection closed"]


def test_a_line_of_a_body_is_cut_in_little_memory() -> None:
    long = [b"x" * 70_000] * 30
    lines = heard(BEGIN + b"DATA\r\n", *long, b"\r\n.\r\n", bodies=True)
    assert lines[4:] == ["x" * 2_000 + f"... ({30 * 70_000 - 2_000} more)", "."]


def test_a_body_far_over_the_limit_is_noted_when_it_is_broken_off() -> None:
    lines = heard(BEGIN + b"DATA\r\n", b"x" * 2_000_000, settings=Settings(max_size=10))
    assert lines[4:] == ["* 2000000 bytes of a message, without its end", "* connection closed"]


def test_a_body_is_noted_before_the_reply_that_ends_it() -> None:
    transcript = Transcript()
    responder = Responder(transcript=transcript)
    responder.feed(BEGIN + b"DATA\r\nhalf of it")
    responder.connection.hang_up(Reply(421, "4.4.2", "Too slow"))
    assert [line.text for line in transcript][-3:] == [
        "10 bytes of a message, without its end",
        "421 4.4.2 Too slow",
        "connection closed",
    ]


def test_secrets_are_shown_only_where_they_are_asked_for() -> None:
    sent = b"EHLO c\r\nAUTH LOGIN\r\ndGlt\r\nc2VjcmV0\r\nAUTH PLAIN AHRpbQBzZWNyZXQ=\r\n"
    masked = ["EHLO c", "AUTH LOGIN", "****", "****", "AUTH PLAIN ****"]
    assert heard(sent, settings=PLAIN) == masked
    assert heard(sent, settings=PLAIN, bodies=True) == masked
    assert heard(sent, settings=PLAIN, secrets=True) == sent.decode().split("\r\n")[:-1]


def test_challenges_after_a_secret_are_masked() -> None:
    transcripts = Transcript(), Transcript(secrets=True)
    for transcript in transcripts:
        responder = Responder(settings=PLAIN, transcript=transcript, nonce=lambda: "nonce")
        responder.feed(b"EHLO c\r\nAUTH LOGIN dGlt\r\n")
    assert transcripts[0][-1].text == "334 ****"
    assert transcripts[1][-1].text == "334 UGFzc3dvcmQ6"


def test_lines_that_are_no_commands_are_shown_as_they_came() -> None:
    sent = b"\xff\x00\r\nNOOP\n" + b"x" * 9_000 + b"\r\nhello w\xc3\xb6rld\r\nHELO \xff\r\n"
    lines = heard(sent)
    assert lines[:2] == [r"\xff\0", "NOOP"]
    assert lines[2].startswith("x" * 2_000 + "... (")
    assert lines[3:] == ["HELLO wörld", r"HELO \xff"]


def test_bytes_behind_starttls_are_noted() -> None:
    lines = heard(b"EHLO c\r\nSTARTTLS\r\nNOOP\r\n", settings=Settings(tls_available=True))
    assert lines[1:] == [
        *("STARTTLS", "* bytes followed STARTTLS in its packet", "* connection closed")
    ]


def test_a_client_that_is_lost_is_noted_once() -> None:
    transcript = Transcript()
    responder = Responder(transcript=transcript)
    responder.feed(BEGIN + b"DATA\r\nhalf\r\n")
    for _ in range(2):
        responder.connection.lose()
    responder.connection.hang_up()
    assert [line.text for line in transcript][-2:] == [
        *("4 bytes of a message, without its end", "client disconnected")
    ]
    Responder().connection.lose()


def test_an_observer_gets_neither_bodies_nor_notes() -> None:
    lines: list[str] = []
    narrator = Narrator(lambda _direction, _verb, line: lines.append(line))
    narrator.body(b"x\r\n", dots=True)
    narrator.end_body(dots=True)
    narrator.note("connection closed")
    narrator.close("connection closed")
    assert lines == []
