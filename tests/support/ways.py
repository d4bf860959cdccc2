"""Both ways of a packet into the core: the usual one, and the general one alone.

Connection.hear deals with the usual packet. What it declines takes the general way, and where it
declines all, every packet does.
"""

from __future__ import annotations

import re

import pytest

from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, Event, Waiting

__all__ = ["deliver", "packets", "way"]

_PACKET = re.compile(rb"(?is)(?<=DATA\r\n).*?\r\n\.\r\n|[^\n]*\n|[^\n]+")


def deliver(connection: Connection, packet: bytes, *, usual: bool = True) -> Event | Waiting:
    """Pass a packet to the core as a driver does; return the first event. A reply is queued."""
    heard = connection.hear(packet) if usual else None
    if isinstance(heard, bytes):
        connection.conversation.output.wires.append(heard)
        return NEED_DATA
    if heard is not None:
        return heard
    connection.receive_data(packet)
    return connection.next_event()


def packets(session: bytes) -> list[bytes]:
    """Cut what a client sends as one does that waits for each reply: by line, bodies whole."""
    found: list[bytes] = _PACKET.findall(session)
    return found


@pytest.fixture(params=["usual", "general"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the usual packet, and without it: return `"usual"` or `"general"`."""
    name: str = request.param
    if name == "general":
        monkeypatch.setattr(Connection, "hear", _decline)
        monkeypatch.setattr(Connection, "greet", lambda _connection: None)
    return name


def _decline(_connection: Connection, _packet: bytes) -> None:
    """Be `Connection.hear`, with nothing usual."""
