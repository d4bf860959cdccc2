"""What options resolve to: the defaults, and `timeout`."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo import Handler, Message, Server, Session
from ehlo.handler import callbacks_of_handler
from ehlo.server.options.rules import Rules, memory_limit, resolve
from ehlo.server.system import machine


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
