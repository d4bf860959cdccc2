"""The bytes that recipients take: asked for at each one after the first, and given back."""

from __future__ import annotations

from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import Admission
from ehlo.protocol.events import Waiting
from ehlo.protocol.settings import Settings


class Room(Admission):
    """Has room for so many bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def hold(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


def replies(connection: Connection, *lines: str) -> list[bytes]:
    connection.receive_data("".join(f"{line}\r\n" for line in lines).encode())
    while not isinstance(connection.next_event(), Waiting):
        pass
    return connection.data_to_send().split(b"\r\n")[:-1]


def test_recipients_without_room_are_452_and_their_bytes_are_given_back() -> None:
    room = Room(1000)
    connection = Connection(Settings(), lambda: "nonce", asks=frozenset(), admission=room)
    replies(connection, "HELO c", "MAIL FROM:<a@example.com>")
    said = replies(connection, *["RCPT TO:<b@example.com>"] * 5)
    assert [line[:9] for line in said] == [b"250 2.1.5"] * 3 + [b"452 4.3.1"] * 2
    transaction = connection.transaction
    assert transaction is not None
    assert transaction.held == 1000 - room.left > 0
    assert replies(connection, "RSET") == [b"250 2.0.0 Ok"]
    assert room.left == 1000


def test_parameters_count_as_what_they_are_decoded_to() -> None:
    room = Room(10_000)
    connection = Connection(Settings(), lambda: "nonce", asks=frozenset(), admission=room)
    replies(connection, "HELO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>")
    assert room.left == 10_000  # the first is free
    replies(connection, "RCPT TO:<b@example.com>")
    plain, room.left = 10_000 - room.left, 10_000
    replies(connection, "RCPT TO:<b@example.com> NOTIFY=NEVER")
    assert 10_000 - room.left > plain + 500
