"""The receiving end of sd_notify: a service manager as a service sees it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo import Peer
from ehlo.net import parse_address
from support.program import DEADLINE

__all__ = ["Manager", "manager"]


class Manager:
    """Listens at NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._sock.settimeout(DEADLINE)

    def hears(self) -> list[str]:
        """Return the lines of the next datagram."""
        return self._sock.recv(4096).decode().split("\n")

    def hears_of(self, state: str) -> list[str]:
        """Return the next datagram that begins with `state`."""
        while True:
            lines = self.hears()
            if lines[0] == state:
                return lines

    def where(self) -> list[Peer]:
        """Wait until the service listens; return its addresses."""
        _, status = self.hears_of("READY=1")
        where = status.removeprefix("STATUS=Listening on ").partition(" with ")[0]
        return [parse_address(each) for each in where.split(", ")]

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Return a manager; give its `address` to a program as NOTIFY_SOCKET."""
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()
