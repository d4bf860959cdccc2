"""`Message`: its views agree, in memory and on disk; `refuse`; the spool beneath it."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path

import pytest

from ehlo import Address, Message, Reply
from ehlo.block import Block
from ehlo.message import Spool, SpooledFile, check_directory, spool_directory

TRACE = b"Received: from c\r\n\tby mx;\r\n\tdate\r\n"
CHUNKS = [b"Subject: =?utf-8?q?=C3=BC?=\r\n", b"\r\nbody\r\n"]
BODY = b"".join(CHUNKS)
VAR_TMP = "/var/tmp"  # noqa: S108  its name only
SENDER = Address("a", "example.com")
RECIPIENTS = [Address("b", "example.com"), Address("c", "example.com")]
NO_SUCH_USER = Reply(550, "5.1.1", "No such user here")


def message(chunks: list[bytes] | None = None) -> Message:
    """Return a message that is held in memory."""
    return Message("id1", SENDER, RECIPIENTS, TRACE, list(CHUNKS if chunks is None else chunks))


def spooled(directory: Path, chunks: list[bytes], *, streams: bool = False) -> Message:
    """Return a message whose body is on disk."""
    spool = Spool(str(directory))
    spool.write(chunks)
    return Message("id1", SENDER, RECIPIENTS, TRACE, [], spool=spool, streams=streams)


def in_block(chunks: list[bytes]) -> Message:
    """Return a message whose body is in one block of memory."""
    block = Block()
    block.write(chunks)
    return Message("id1", SENDER, RECIPIENTS, TRACE, [], spool=block)


def lmtp() -> Message:
    """Return a message for which each recipient gets its own reply."""
    return Message("id1", SENDER, RECIPIENTS, TRACE, list(CHUNKS), per_recipient=True)


# -- content -------------------------------------------------------------------------------------


VIEWS = ["data", "body", "stream", "file", "email", "size"]


def check_all_views_after(first: str, mail: Message) -> None:
    """Read the view `first` before all of them."""
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


@pytest.mark.parametrize("first", VIEWS)
def test_every_view_of_a_message_agrees_in_memory(first: str) -> None:
    mail = message()
    assert not mail.spooled
    check_all_views_after(first, mail)


@pytest.mark.parametrize("first", VIEWS)
def test_every_view_of_a_message_agrees_on_disk(tmp_path: Path, first: str) -> None:
    mail = spooled(tmp_path, CHUNKS)
    assert mail.spooled
    check_all_views_after(first, mail)


@pytest.mark.parametrize("first", VIEWS)
def test_every_view_of_a_message_agrees_in_a_block(first: str) -> None:
    mail = in_block(CHUNKS)
    assert not mail.spooled
    check_all_views_after(first, mail)


def test_a_file_that_reads_a_block_goes_on_after_its_data_was_made() -> None:
    mail = in_block(CHUNKS)
    file = mail.file
    begin = file.read(5)
    assert mail.data == TRACE + BODY == mail.data
    assert begin + file.read() == TRACE + BODY


@pytest.mark.parametrize("view", ["data", "body"])
def test_a_block_is_read_without_a_second_copy(view: str) -> None:
    tracemalloc.start()
    try:
        mail = in_block([b"x" * 65_536] * 64)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        size = len(getattr(mail, view))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size >= 4_194_304
    assert before < size * 9 / 8 + 65_536
    assert peak - before < 65_536


def test_each_file_begins_at_the_beginning() -> None:
    mail = message()
    one, two = mail.file, mail.file
    assert one.read(8) == b"Received"
    assert two.read(8) == b"Received"


@pytest.mark.parametrize("held", ["chunks", "data", "body"])
def test_a_stream_yields_chunks_of_at_most_64_kib(held: str) -> None:
    mail = message([b"x" * 200_000, b"y" * 10, b"z" * 65_536])
    if held != "chunks":
        assert getattr(mail, held)
    chunks = list(mail.stream())
    assert max(map(len, chunks)) <= 65_536
    assert all(chunks)
    assert b"".join(chunks) == TRACE + b"x" * 200_000 + b"y" * 10 + b"z" * 65_536


def test_a_message_may_be_empty() -> None:
    mail = message([])
    assert mail.size == 0
    assert mail.body == b""
    assert mail.data == TRACE
    assert b"".join(mail.stream()) == TRACE


def test_the_repr_of_a_message_shows_no_content() -> None:
    assert repr(message()) == "<Message id1 from a@example.com for 2>"


def test_a_handler_that_streams_cannot_read_a_body_on_disk_into_memory(tmp_path: Path) -> None:
    mail = spooled(tmp_path, CHUNKS, streams=True)
    for view in ("data", "body", "email"):
        with pytest.raises(RuntimeError, match="has `streams` set; use"):
            getattr(mail, view)
    assert b"".join(mail.stream()) == mail.file.read() == TRACE + BODY


# -- refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipient", [RECIPIENTS[1], str(RECIPIENTS[1])])
def test_refuse_rejects_one_recipient(recipient: Address | str) -> None:
    mail = lmtp()
    assert mail.refusals == {}
    mail.refuse(recipient, NO_SUCH_USER)
    assert mail.refusals == {"c@example.com": NO_SUCH_USER}


def test_refuse_raises_value_error_for_a_stranger_or_a_reply_that_accepts() -> None:
    mail = lmtp()
    with pytest.raises(ValueError, match="not a recipient of id1"):
        mail.refuse("d@example.com", NO_SUCH_USER)
    with pytest.raises(ValueError, match="250 does not reject"):
        mail.refuse("b@example.com", Reply(250, "2.0.0", "Ok"))
    assert mail.refusals == {}


def test_refuse_raises_runtime_error_in_smtp() -> None:
    with pytest.raises(RuntimeError, match="raise Reject instead"):
        message().refuse("b@example.com", NO_SUCH_USER)


# -- the spool -----------------------------------------------------------------------------------


def test_a_spool_is_read_at_any_position(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"abc", b"", b"def"])
    spool.write([b"ghi"])
    assert spool.size == 9
    assert spool.read_at(2, 4) == b"cdef"
    assert spool.read_at(7, 100) == b"hi"
    assert spool.read_at(9, 1) == spool.read_at(100, 1) == b""
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.read_at(0, 1)


def test_a_spool_has_no_name(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body"])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"abc"])
    pwritev = os.pwritev

    def some(file: int, chunks: list[bytes], offset: int) -> int:
        return pwritev(file, chunks[:1], offset)

    def full(_file: int, _data: bytes, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", some)
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            spool.write([b"d", b"e"])
    assert spool.size == 3
    spool.write([b"xyz"])
    assert spool.read_at(0, 10) == b"abcxyz"


def test_a_spool_writes_and_reads_on_where_the_system_does_less_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [b"%d\r\n" % number for number in range(2_500)]  # more than one call takes
    pwritev, pwrite, pread = os.pwritev, os.pwrite, os.pread
    monkeypatch.setattr(
        os, "pwritev", lambda file, data, at: pwritev(file, [data[0], data[1][:1]], at)
    )
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:700], at))
    monkeypatch.setattr(os, "pread", lambda file, count, at: pread(file, min(count, 900), at))
    mail = spooled(tmp_path, chunks)
    assert mail.size == len(b"".join(chunks))
    assert mail.data == TRACE + b"".join(chunks)


def test_what_is_read_before_a_spool_changes_nothing_in_it(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body"])
    file = SpooledFile(b"head", spool)
    assert spool.read_after(b"x" * 4_096) == b"x" * 4_096 + b"body"
    assert spool.read_after(b"") == spool.read_at(0, 9) == b"body"
    assert spool.read_after(b"y") == b"ybody"
    assert file.read() == b"headbody"


def test_a_head_that_is_longer_than_its_room_is_read_too(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body"])
    assert spool.read_after(b"x" * 4_097) == b"x" * 4_097 + b"body"


@pytest.mark.parametrize("written", [0, 1])
def test_a_head_that_is_written_in_part_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body"])
    monkeypatch.setattr(os, "pwrite", lambda *_: written)
    assert spool.read_after(b"head") == b"headbody"


def test_threads_that_read_with_and_without_a_head_read_the_same(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body" * 50_000])
    heads = [TRACE, b"", TRACE, b""] * 16
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(spool.read_after, heads))
    assert found == [head + b"body" * 50_000 for head in heads]


def test_a_body_on_a_full_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mail, pwrite = spooled(tmp_path, CHUNKS), os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if data:
            raise OSError(28, "No space left on device")
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert mail.data == TRACE + BODY


def test_a_spooled_file_reads_across_its_head(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.write([b"body"])
    file = SpooledFile(b"head", spool)
    assert file.readable()
    assert file.seekable()
    assert [file.read(3) for _ in range(4)] == [b"hea", b"d", b"bod", b"y"]
    assert file.read(1) == b""
    assert file.seek(2) == 2
    assert file.readall() == b"adbody"
    assert file.seek(100) == 100
    assert file.read(1) == b""
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)


def test_a_missing_directory_cannot_hold_bodies(tmp_path: Path) -> None:
    check_directory(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        check_directory(str(tmp_path / "missing"))


def test_bodies_go_to_a_directory_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert spool_directory("/somewhere") == "/somewhere"
    assert spool_directory("") == VAR_TMP
    monkeypatch.setattr("os.access", lambda *_: False)
    assert spool_directory("") not in {VAR_TMP, ""}

    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", fail)
    assert spool_directory("") == ""
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", "/")
    assert spool_directory("") != VAR_TMP


@pytest.mark.parametrize("name", ["subject", "text", "html", "attachments", "headers"])
def test_what_is_in_the_content_is_an_attribute_error_that_says_so(name: str) -> None:
    advice = rf"^a Message has no {name}; write message.content.{name}$"
    with pytest.raises(AttributeError, match=advice):
        getattr(message(), name)


def test_another_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^a Message has no sender_name$"):
        getattr(message(), "sender" + "_name")
