"""What is noted of a connection: each command, each reply, each refusal."""

from __future__ import annotations

import pytest

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import Waiting
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.output import NOTHING, Rejected, Tally
from ehlo.protocol.parameters import ExtensionError
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings

Refusal = tuple[str, int, bool]


def _sender_of(about: Rejected) -> str | None:
    return None if about.transaction is None else str(about.transaction.sender)


class Notes(Tally):
    def __init__(self) -> None:
        self.list: list[str | int] = []
        super().__init__(self.list)
        self.refusals: list[Refusal] = []
        self.about: list[tuple[str, str | None, str]] = []
        self.failures: list[Exception] = []

    def refused(
        self, verb: str, reply: Reply, about: Rejected = NOTHING, *, wholly: bool = True
    ) -> None:
        self.refusals.append((verb, reply.code, wholly))
        self.about.append((verb, _sender_of(about), str(about.path or "")))

    def failed(self, error: Exception) -> None:
        self.failures.append(error)


def play(
    data: bytes, *answers: Reply | list[Reply | None] | None, lmtp: bool = False
) -> tuple[Notes, bytes]:
    """Say it, and answer each question in turn; when answers run out, by acceptance."""
    notes, given = Notes(), list(answers)
    settings = Settings(lmtp=lmtp)
    connection = Connection(settings, lambda: "nonce", tally=notes)
    connection.receive_data(data)
    while not isinstance(event := connection.next_event(), Waiting | events.Close):
        if isinstance(event, events.BodyChunk | events.BodyRefused | events.Full):
            continue
        answer = given.pop(0) if given else None
        if isinstance(answer, list):
            connection.reply_each(answer)
        else:
            connection.reply(answer)
    return notes, connection.data_to_send()


BEGIN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
WHOLE = BEGIN + b"DATA\r\nx\r\n.\r\n"
NO = Reply(550, "5.7.1", "No")


def test_verbs_and_codes_are_noted_in_turn() -> None:
    notes, sent = play(WHOLE + b"QUIT\r\n")
    assert notes.list == [220, "EHLO", 250, "MAIL", 250, "RCPT", 250, "DATA", 354, 250, "QUIT", 221]
    assert notes.refusals == []
    assert sent.startswith(b"220 ")


@pytest.mark.parametrize("line", [b"AGVAAG9wZW4=", b"secret word", b"\xff\xff", b"x" * 3000])
def test_what_is_no_verb_of_ours_is_unknown(line: bytes) -> None:
    notes, _ = play(line + b"\r\n")
    assert notes.list == [220, "unknown", 500]
    assert notes.refusals == [("unknown", 500, True)]


@pytest.mark.parametrize(
    ("question", "verb"), list(enumerate(["", "EHLO", "MAIL", "RCPT", "DATA", "."]))
)
def test_a_hook_s_refusal_is_that_of_its_command(question: int, verb: str) -> None:
    notes, _ = play(WHOLE, *[None] * question, NO)
    assert notes.refusals[0] == (verb, 550, True)


def test_refusals_of_the_core_are_those_of_their_command() -> None:
    notes, _ = play(b"EHLO c\r\nRCPT TO:<a@b.example>\r\nMAIL FROM:\r\nSTARTTLS\r\nAUTH X\r\n")
    assert [row[0] for row in notes.refusals] == ["RCPT", "MAIL", "STARTTLS", "AUTH"]


def test_a_chunk_is_refused_to_bdat_and_a_message_at_its_end() -> None:
    first, _ = play(BEGIN + b"BDAT 1\r\nxBDAT 1 LAST\r\nx", *[None] * 4, NO)
    assert first.refusals == [("BDAT", 550, True), (".", 503, True)]


def test_what_ends_a_connection_is_said_to_no_command() -> None:
    notes = Notes()
    connection = Connection(Settings(), lambda: "nonce", tally=notes)
    connection.hang_up(replies.DRAINING)
    assert notes.refusals == [("", 421, True)]


LMTP = WHOLE.replace(b"EHLO", b"LHLO").replace(b"DATA", b"RCPT TO:<e@f.example>\r\nDATA")


@pytest.mark.parametrize(
    ("answers", "refusals"),
    [
        ([None, None], []),
        ([NO, None], [(".", 550, False)]),
        ([NO, NO], [(".", 550, True)]),
    ],
)
def test_in_lmtp_a_message_is_refused_once(
    answers: list[Reply | None], refusals: list[Refusal]
) -> None:
    notes, _ = play(LMTP, *[None] * 6, answers, lmtp=True)
    assert notes.refusals == refusals
    assert notes.list[-2:] == [550 if answer else 250 for answer in answers]


def test_bytes_of_a_name_that_are_not_utf_8_are_kept_for_the_log_only() -> None:
    lines: list[str] = []
    connection = Connection(
        Settings(), lambda: "nonce", observer=lambda _way, _verb, line: lines.append(line)
    )
    connection.receive_data(b"EHLO M\xdcLLER-\xc3\x9c\r\n")
    while not isinstance(connection.next_event(), Waiting):
        connection.reply()
    assert lines[1] == "EHLO M\\xdcLLER-Ü"
    assert connection.conversation.helo == "M\ufffdLLER-Ü"


def test_without_a_tally_nothing_is_kept() -> None:
    tally = Tally()
    tally.said.append("NOOP")
    assert list(tally.said) == []
    tally.refused("RCPT", NO)
    tally.failed(ExtensionError("of no user"))


def test_a_parser_that_fails_is_told_of() -> None:
    def fail(_value: str | None) -> None:
        raise ExtensionError("of X")

    notes = Notes()
    settings = Settings(extensions=(*EXTENSIONS, Extension("XFOO", 0, mail={"X": fail})))
    connection = Connection(settings, lambda: "nonce", tally=notes)
    connection.receive_data(b"EHLO c\r\nMAIL FROM:<> X=1\r\n")
    while not isinstance(connection.next_event(), Waiting):
        connection.reply()
    assert [str(error) for error in notes.failures] == ["of X"]
    assert notes.refusals == [("MAIL", 451, True)]


def test_a_rejection_is_told_with_the_mail_that_it_is_about() -> None:
    notes, _ = play(
        b"EHLO c\r\nMAIL FROM:<no@b.example>\r\nMAIL FROM:a@b\r\n"
        + BEGIN.removeprefix(b"EHLO c\r\n")
        + b"RCPT TO:<e@f.example>\r\nRCPT TO:<\r\nMAIL FROM:<g@h.example>\r\nDATA\r\nx\r\n.\r\n",
        *(None, None, NO, None, None, NO, None, NO),
    )
    assert notes.about == [
        ("MAIL", None, "no@b.example"),
        ("MAIL", None, "FROM:a@b"),
        ("RCPT", "a@b.example", "e@f.example"),
        ("RCPT", "a@b.example", "TO:<"),
        ("MAIL", "a@b.example", "FROM:<g@h.example>"),
        (".", "a@b.example", ""),
    ]


@pytest.mark.parametrize(
    "chunk",
    [b"BDAT x\r\n", b"BDAT 99999999999999\r\n", b"BDAT 99999999999999 LAST\r\n"],
)
def test_a_chunk_is_rejected_with_its_mail(chunk: bytes) -> None:
    ((verb, sender, _),) = play(BEGIN + chunk)[0].about
    assert (verb, sender) == ("." if b"LAST" in chunk else "BDAT", "a@b.example")


def test_a_client_that_is_timed_out_is_told_of_with_its_mail() -> None:
    notes = Notes()
    connection = Connection(Settings(), lambda: "nonce", asks=frozenset(), tally=notes)
    connection.receive_data(BEGIN + b"DATA\r\nhalf of")
    while not isinstance(connection.next_event(), Waiting):
        pass
    connection.hang_up(replies.NO_MEMORY_AHEAD)
    assert notes.about == [("", "a@b.example", "")]


def test_in_lmtp_a_rejection_is_told_with_its_mail_too() -> None:
    data = WHOLE.replace(b"EHLO", b"LHLO")
    assert play(data, *[None] * 5, [NO], lmtp=True)[0].about == [(".", "a@b.example", "")]


def test_one_recipient_too_many_is_told_with_its_mail() -> None:
    data = BEGIN + b"RCPT TO:<c@d.example>\r\n" * 208
    about = play(data)[0].about
    assert len(about) == 109
    assert set(about) == {("RCPT", "a@b.example", "TO:<c@d.example>")}
