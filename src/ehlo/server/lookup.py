"""Clients' names by reverse DNS, looked up without delaying any session.

A lookup is never cancelled: the resolver goes on all the same, so it still counts as one in
progress. (uvloop fails, too, when the name of a cancelled lookup arrives.)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ehlo.net import Peer

_MOST_LOOKUPS = 64  # at once; further clients are not looked up


class Lookup:
    """One lookup in progress; `drop` it when its name is not wanted any more."""

    __slots__ = ("arrived", "task")

    task: asyncio.Task[None]
    """Referred to here, since the loop refers to its tasks weakly."""

    def __init__(self, arrived: Callable[[str], None]) -> None:
        self.arrived: Callable[[str], None] | None = arrived
        """Called with the name, if it is wanted."""

    def drop(self) -> None:
        """Discard the name when it arrives."""
        self.arrived = None


class Lookups:
    """Looks names up for all sessions of a server; its length is how many are in progress."""

    __slots__ = ("_loop", "_under_way")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._under_way: set[Lookup] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, peer: Peer, arrived: Callable[[str], None]) -> Lookup | None:
        """Look `peer` up, and call `arrived` if it has a name; `None` if nothing is looked up."""
        if peer.is_unix or len(self._under_way) >= _MOST_LOOKUPS:
            return None
        lookup = Lookup(arrived)
        self._under_way.add(lookup)
        lookup.task = self._loop.create_task(self._look_up(peer, lookup))
        return lookup

    async def _look_up(self, peer: Peer, lookup: Lookup) -> None:
        try:
            name, _ = await self._loop.getnameinfo(
                (peer.host, peer.port), socket.NI_NAMEREQD | socket.NI_NUMERICSERV
            )
        except OSError:
            return  # it has no name
        finally:
            self._under_way.discard(lookup)
        if lookup.arrived is not None:
            lookup.arrived(name)
