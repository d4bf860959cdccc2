"""`Transcript`: what it keeps, what it counts, and how it reads."""

from __future__ import annotations

import itertools

import pytest

from ehlo.transcript import Line, Transcript, escaped


def counted(most_lines: int, lines: int) -> Transcript:
    transcript = Transcript(most_lines=most_lines, clock=itertools.count(100.0).__next__)
    for number in range(lines):
        transcript.add("client", f"NOOP {number}")
    return transcript


def test_a_transcript_is_a_sequence_of_lines() -> None:
    transcript = counted(10, 3)
    assert transcript[0] == Line(100.0, "client", "NOOP 0")
    assert transcript[-1].text == "NOOP 2"
    assert [line.text for line in transcript[1:]] == ["NOOP 1", "NOOP 2"]
    assert len(transcript) == 3
    assert Line(101.0, "client", "NOOP 1") in transcript
    with pytest.raises(IndexError):
        transcript[3]


def test_a_transcript_reads_with_times_since_its_first_line() -> None:
    transcript = Transcript(clock=iter([7.0, 7.0035, 8.5, 2000.0]).__next__)
    transcript.add("server", "220 ready")
    transcript.add("client", "STARTTLS")
    transcript.add("note", "TLS 1.3")
    transcript.add("client", "")
    assert str(transcript).splitlines() == [
        "  0.000 S: 220 ready",
        "  0.003 C: STARTTLS",
        "  1.500 *: TLS 1.3",
        "1993.000 C:",
    ]
    assert repr(transcript) == "<Transcript of 4 lines, 0 omitted>"
    assert str(Transcript()) == ""


def test_the_first_and_the_last_lines_are_kept() -> None:
    transcript = counted(4, 1000)
    assert [line.text for line in transcript] == ["NOOP 0", "NOOP 1", "NOOP 998", "NOOP 999"]
    assert transcript.omitted == 996
    assert transcript.gap == 2
    assert str(transcript).splitlines()[2] == "        (996 lines omitted)"


def test_a_million_lines_take_no_more_memory_than_the_limit() -> None:
    transcript = Transcript(most_bytes=10_000)
    text = "x" * 100
    for _ in range(1_000_000):
        transcript.add("client", text)
    assert len(transcript) + transcript.omitted == 1_000_000
    assert 5_000 < transcript.size <= 10_000


def test_a_line_that_does_not_fit_at_all_is_omitted() -> None:
    transcript = Transcript(most_bytes=1_000)
    transcript.add("client", "short")
    transcript.add("client", "x" * 1_500)
    assert (len(transcript), transcript.omitted) == (1, 1)


@pytest.mark.parametrize("added", [0, 3, 8, 50])
def test_the_newest_lines_are_the_last_ones_that_are_kept(added: int) -> None:
    transcript = Transcript(most_lines=10)
    for number in range(added):
        transcript.add("note", str(number))
    for count in range(12):
        kept = list(transcript)
        assert transcript.newest(count) == kept[len(kept) - min(count, len(kept)) :]


def test_a_long_line_is_cut() -> None:
    assert escaped("x" * 100_000) == "x" * 2_000 + "... (98000 more)"


def test_what_is_held_is_counted_until_it_is_let_go() -> None:
    held = 0
    room = True

    def hold(size: int) -> bool:
        nonlocal held
        if size > 0 and not room:
            return False
        held += size
        return True

    transcript = Transcript(most_lines=100, hold=hold)
    for number in range(30):
        transcript.add("client", f"NOOP {number}")
        assert transcript.size <= held < transcript.size + 1_024  # it is counted by the block
    before, room = held, False
    for number in range(200):
        transcript.add("client", f"NOOP without room {number}")
        assert transcript.size <= held == before
    assert "NOOP without room 199" not in str(transcript)
    transcript.let_go()
    transcript.let_go()
    assert held == 0
    transcript.add("note", "closed")
    assert held == 0


def test_a_transcript_may_grow_while_it_is_read() -> None:
    transcript = counted(10, 8)
    for _ in transcript:
        transcript.add("client", "NOOP more")
    assert len(transcript) == 10


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"NOOP", "NOOP"),
        ("Grüße".encode(), "Grüße"),
        (b"DOMAIN\\user", r"DOMAIN\\user"),
        (b"a\r\n\tb\0", r"a\r\n\tb\0"),
        (b"\xff\x1b[2J\x7f", r"\xff\x1b[2J\x7f"),
        ("a\u202eb\u2028", r"a\xe2\x80\xaeb\xe2\x80\xa8"),
        ("\udcff", r"\xff"),
    ],
)
def test_text_is_printable_and_can_be_read_back(line: bytes | str, text: str) -> None:
    assert escaped(line) == text
    assert text.isprintable()
