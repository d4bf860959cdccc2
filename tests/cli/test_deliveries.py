"""What `ehlo queue` prints: a table on a terminal, lines in a pipe, and nothing that is obeyed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator

import pytest

from ehlo import Address
from ehlo.cli.deliveries import print_deliveries, write_visibly
from ehlo.cli.readable import width_of
from ehlo.queue.entries import Listed

NOW = 1_700_000_000.0
PLAIN = Listed(
    id="8c26317000000f-1",
    accepted=NOW - 90,
    sender=Address("alice", "example.com"),
    size=1_234,
    recipient=Address("bob", "example.org"),
    state="waiting",
    due=NOW + 300,
    attempts=2,
    error="450 4.2.1 Mailbox full",
)
HOSTILE = PLAIN._replace(
    sender=Address("\x1b[31mred\u202e", "x.test"),
    recipient=Address("名前\x9b2J", "例え.test"),
    state="failed",
    due=None,
    error="550 \x1b]0;title\x07\nehlo: all is well\u2028" + "x" * 900,
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_terminal(*rows: Listed, in_full: bool = False) -> list[str]:
    with contextlib.redirect_stdout(Terminal()) as out:
        print_deliveries(rows, NOW, as_json=False, in_full=in_full)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_a_table_has_the_width_of_the_terminal_and_obeys_nothing(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    bounce = PLAIN._replace(sender=Address("", ""), due=NOW - 1, error="")
    lines = on_terminal(PLAIN, HOSTILE, bounce)
    assert all(line.isprintable() and width_of(line) <= max(columns, 66) for line in lines)
    assert lines[0].split()[:5] == ["ID", "STATE", "TRY", "DUE", "AGE"]
    assert ("SIZE" in lines[0]) == (columns >= 100)
    assert lines[1].split()[:5] == ["8c26317000000f-1", "waiting", "2", "5m", "90s"]
    assert lines[2] == "  450 4.2.1 Mailbox full"
    assert lines[3].split()[1:4] == ["failed", "2", "-"]
    assert lines[4].endswith("…")
    assert lines[5].split()[3] == "now"
    assert "<>" in lines[5]
    assert lines[6:] == ["2 waiting, 1 failed"]
    if columns == 160:
        assert "<alice@example.com>" in lines[1]
        assert lines[1].endswith("<bob@example.org>")


def test_an_empty_queue_is_said_to_be_empty() -> None:
    assert on_terminal() == ["empty"]


def test_one_message_is_shown_in_full() -> None:
    (line,) = on_terminal(HOSTILE, in_full=True)
    assert line.isprintable()
    assert line.endswith("x" * 900)


def test_json_has_an_object_on_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_deliveries([PLAIN, HOSTILE], NOW, as_json=True)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    first, second = map(json.loads, out.splitlines())
    assert first["recipient"] == "bob@example.org"
    assert (first["state"], first["due"], first["accepted"]) == ("waiting", NOW + 300, NOW - 90)
    assert second["error"] == HOSTILE.error


def test_a_pipe_gets_a_line_for_each_delivery_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", out)
    print_deliveries([PLAIN, HOSTILE], NOW, as_json=False)
    out.seek(0)
    first, second = out.read().splitlines()
    assert first == (
        "8c26317000000f-1 waiting attempts=2 due=+300s age=90s size=1234 "
        "from=<alice@example.com> to=<bob@example.org> error=450 4.2.1 Mailbox full"
    )
    assert r"\u540d\u524d" in second


def test_a_long_list_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def many() -> Iterator[Listed]:
        return (PLAIN for _ in range(20_000))

    with open(os.devnull, "w", encoding="utf-8") as out:  # noqa: PTH123  no file
        monkeypatch.setattr("sys.stdout", out)
        tracemalloc.start()
        print_deliveries(many(), NOW, as_json=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 1_000_000


def test_a_message_on_a_terminal_is_shown_and_not_obeyed() -> None:
    chunks = b"Subject: \x1b[31mred\r", b"\n\r\nGr\xc3", b"\xbc\xc3\x9fe \xff\x07\tx\r\n"
    with contextlib.redirect_stdout(Terminal()) as out:
        write = write_visibly()
        for chunk in chunks:
            write(chunk)
    assert out.getvalue() == "Subject: \\x1b[31mred\n\nGrüße \\xff\\x07\tx\n"
