"""The usual packet: the core deals with it outside the buffer, and no one can tell."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo.protocol import events
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.settings import Settings
from support.ways import deliver

NO_QUESTIONS = frozenset[type]()
ENVELOPE = (b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", b"DATA\r\n")


def connect(settings: Settings | None = None) -> Connection:
    """A client that has sent HELO, to a server that is asked about messages alone."""
    connection = Connection(settings or Settings(), lambda: "nonce", asks=NO_QUESTIONS)
    assert connection.next_event() is NEED_DATA
    assert deliver(connection, b"HELO c\r\n") is NEED_DATA
    connection.data_to_send()
    return connection


def test_the_usual_packets_of_a_message_never_enter_the_buffer() -> None:
    connection = connect()
    for packet in ENVELOPE:
        assert connection.hear(packet) is NEED_DATA
    event = connection.hear(b"x\r\n.\r\n")
    assert isinstance(event, events.MessageEnd)
    assert event.body == b"x\r\n"
    connection.reply()
    assert connection.next_event() is NEED_DATA
    codes = [line[:3] for line in connection.data_to_send().split(b"\r\n")[:-1]]
    assert codes == [b"250", b"250", b"354", b"250"]


@pytest.mark.parametrize("count", range(4))
def test_the_last_packet_of_a_client_that_has_ended_is_answered_and_ends_the_session(
    count: int,
) -> None:
    """Under TLS it comes together with the end."""
    connection = connect()
    *before, last = (*ENVELOPE, b"x\r\n.\r\n")[: count + 1]
    for packet in before:
        deliver(connection, packet)
    connection.receive_eof()
    seen: list[Event] = []
    event = deliver(connection, last)
    while not isinstance(event, Waiting | events.Close):
        seen.append(event)
        if isinstance(event, events.MessageEnd):
            connection.reply()
        event = connection.next_event()
    assert isinstance(event, events.Close)
    assert len(connection.data_to_send().splitlines()) == count + 1


def test_a_packet_may_be_a_bytearray() -> None:
    """As asyncio reads on Windows in some versions; what is kept of it never changes."""
    connection = connect()
    kind: Any = bytearray
    for packet in ENVELOPE:
        assert deliver(connection, kind(packet)) is NEED_DATA
    chunk = deliver(connection, kind(b"x\r\n.\r\n"))
    assert chunk == events.BodyChunk(b"x\r\n")
    assert type(connection.next_event()) is events.MessageEnd
