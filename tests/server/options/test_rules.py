"""What options resolve to: the defaults, and `timeout`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ehlo import Handler, Message, Server, Session
from ehlo.handler import callbacks_of_handler
from ehlo.server.options import rules
from ehlo.server.options.rules import Rules, disk_limit, memory_limit, resolve
from ehlo.server.system import machine
from ehlo.server.workers.recipe import share_of


class Nothing(Handler):
    async def on_message(self, session: Session, message: Message) -> None: ...


def rules_of(**options: Any) -> Rules:
    handler = Nothing()
    return resolve(Server(handler, **options).options, callbacks_of_handler(handler))


def times_of(rules: Rules) -> tuple[float, float, float, float, float]:
    """The times for a command, a handshake, a PROXY header, a read of a body, and a hook."""
    times = rules.times
    return times.command, times.tls, times.proxy, times.body, times.handler


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, (300, 30, 5, 180, 300)),
        ({"timeout": 7}, (7, 7, 7, 7, 300)),
        ({"proxy_timeout": 2}, (300, 30, 2, 180, 300)),
        ({"timeout": 7, "proxy_timeout": 2}, (7, 7, 2, 7, 300)),
        ({"handler_timeout": 20}, (300, 30, 5, 180, 20)),
    ],
)
def test_each_wait_has_its_timeout(options: dict[str, float], times: tuple[float, ...]) -> None:
    assert times_of(rules_of(**options)) == times


def test_the_memory_limit_is_a_quarter_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 4_000_000_003)
    assert memory_limit(Server(Nothing()).options) == 1_000_000_000
    assert memory_limit(Server(Nothing(), max_memory=5).options) == 5


def test_the_disk_limit_is_a_quarter_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda path: 4003 if path == str(tmp_path) else 0)
    assert disk_limit(Server(Nothing(), spool_dir=str(tmp_path)).options) == 1000
    assert disk_limit(Server(Nothing(), max_disk=5).options) == 5


def test_without_a_directory_there_is_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "spool_directory", lambda _wanted: "")
    assert disk_limit(Server(Nothing(), max_disk=5).options) == 0


def test_workers_share_memory_and_disk() -> None:
    share = share_of(Server(Nothing(), max_memory=10, max_disk=7).options, 4, 0)
    assert (share.max_memory, share.max_disk) == (3, 2)
