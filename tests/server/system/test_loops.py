"""What a loop made here logs, and what it leaves to asyncio."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest

from ehlo.server.system.loops import Complaints


class Loop(asyncio.SelectorEventLoop):
    """One whose clock is the test's."""

    now = 100.0

    def time(self) -> float:
        return self.now


def failed_accept(number: int) -> dict[str, Any]:
    return {
        "message": "socket.accept() out of system resource",
        "exception": OSError(number, "Too many open files"),
    }


def test_a_failure_to_accept_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    loop, complaints = Loop(), Complaints()
    for after in (0.0, 0.2, 0.9):
        loop.now = 100.0 + after
        complaints(loop, failed_accept(errno.EMFILE))
    assert caplog.messages == ["accepting connections failed: Too many open files"]
    assert caplog.records[0].exc_info is None
    loop.now = 101.0
    complaints(loop, failed_accept(errno.ENFILE))
    assert len(caplog.records) == 2
    loop.close()


@pytest.mark.parametrize(
    "context",
    [
        {"message": "Task exception was never retrieved", "exception": OSError(errno.EMFILE, "x")},
        {"message": "a failed accept", "exception": ValueError("x")},
        {"message": "Task was destroyed but it is pending!"},
    ],
)
def test_anything_else_is_logged_by_asyncio(
    caplog: pytest.LogCaptureFixture, context: dict[str, Any]
) -> None:
    loop = Loop()
    Complaints()(loop, context)
    loop.close()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asyncio", logging.ERROR)
