"""Random sessions on a server by both ways of a packet: replies, messages, hooks and counts."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest

from ehlo import Address, Session
from ehlo.protocol.connection import Connection
from ehlo.server.answer import Answers
from ehlo.server.driver import Driver
from protocol.sessions import plan
from support.hooks import KINDS, Noted, handler_of
from support.serving import Running, Serve

SEEDS = range(40)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "limited": {"max_size": 30, "max_recipients": 2, "max_messages": 3, "slow_errors": 2},
    "lmtp": {"lmtp": True},
}


def packets_of(seed: int, *, lmtp: bool = False, **_options: object) -> list[bytes]:
    hello, other = (b"LHLO", b"EHLO") if lmtp else (b"EHLO", b"LHLO")
    packets = plan(Random(seed)).packets  # noqa: S311  not for secrets
    return [packet.replace(other, hello) for packet in packets]


async def receive(driver: Driver, packet: bytes) -> None:
    """Have a session receive one packet, which a network might cut."""
    driver.data_received(packet)


def played(running: Running, packets: list[bytes]) -> bytes:
    """All that a client hears that sends these packets."""
    with running.client() as client:
        heard = client.line().encode()
        (driver,) = running.drivers
        for packet in packets:
            running.run(partial(receive, driver, packet))
            running.wait_until(lambda: driver.slot.work is None or driver.wire.lost)
        client.end()
        heard += client.rest()
    running.wait_until_no_sessions()
    return heard


@pytest.mark.parametrize("kind", [*KINDS, "no hook"])
@pytest.mark.parametrize("options", OPTIONS)
def test_random_sessions_are_the_same_both_ways(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    loop_name: str,
    kind: str,
    options: str,
) -> None:
    monkeypatch.setattr(Answers, "tarpit", lambda answers, _event: answers.connection.resume())

    def rejects(_session: Session, recipient: Address, _params: object) -> bool:
        return recipient.local != "bad"

    found: list[tuple[object, ...]] = []
    for _ in range(2):
        noted = Noted()
        hooks: dict[str, Any] = {"on_mail": None, "on_rcpt": rejects, "on_data": None}
        handler = handler_of(
            "def" if kind == "def" else "async def", noted, **{} if kind == "no hook" else hooks
        )
        running = serve(handler, loop=loop_name, **OPTIONS[options])
        heard = [played(running, packets_of(seed, **OPTIONS[options])) for seed in SEEDS]
        messages = [
            (str(message.sender), [*map(str, message.recipients)], message.body)
            for _, message in noted.of("on_message")
        ]
        stats = running.runtime.stats
        stats.settle()
        assert len(messages) > 10
        found.append((heard, messages, noted.names, stats.commands, stats.replies, stats.refusals))
        monkeypatch.setattr(Connection, "hear", lambda _connection, _packet: None)
    assert found[0] == found[1]
