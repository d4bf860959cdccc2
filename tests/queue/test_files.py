"""The files of a queue that other processes have left behind, or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from ehlo import Queue, Server
from ehlo.queue.family import Family
from support.queueing import Jump, Player, serving, wait_until

FAILED = "cannot deliver from a file of the queue: error="


def test_a_damaged_file_is_logged_once_and_again_after_it_was_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, jump = tmp_path / "mail-7.db", Jump()
    begun: list[None] = []
    members = Family.members

    def counted(self: Family) -> list[Path]:
        begun.append(None)
        return members(self)

    def look(server: Server) -> None:
        """Return when all files were looked at once more, from the first to the last."""
        wanted = len(begun) + 2

        def has_looked() -> bool:
            jump.advance(5)
            return len(begun) >= wanted

        wait_until(server, has_looked)

    monkeypatch.setattr(Family, "members", counted)
    damaged.write_bytes(b"no database, by far " * 100)
    with serving(Queue(str(tmp_path / "mail.db"), Player(), time=jump)) as server:
        for times, content in ((1, b"no database"), (1, b""), (2, b"no database, again")):
            damaged.write_bytes(content * 100)
            for _ in range(2):
                look(server)
            assert caplog.text.count(FAILED) == times
