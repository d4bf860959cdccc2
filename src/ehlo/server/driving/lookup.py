"""A client's name by reverse DNS. Who needs it before it is here does without.

One under way is never cancelled: the resolver goes on all the same, and so it still counts as one
of those under way. (uvloop fails, too, when it is told of a name that nobody awaits any more.)
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from ehlo.net import Peer
from ehlo.session import Session

if TYPE_CHECKING:
    from ehlo.server.runtime import Runtime

__all__ = ["Lookup"]

_MOST_LOOKUPS = 64  # at once; who comes beyond it is not looked up


class Lookup:
    """One of them, under way. The runtime has it until its end."""

    __slots__ = ("_runtime", "_session", "_task")

    def __init__(self, runtime: Runtime, session: Session) -> None:
        self._runtime = runtime
        self._session: Session | None = session  # until the name is not wanted any more
        runtime.lookups.add(self)
        self._task = runtime.loop.create_task(self._look_up(session.peer))

    @classmethod
    def of(cls, runtime: Runtime, session: Session) -> Self | None:
        """Look up who is connected; `None` where there is no name, or there are too many to ask."""
        if session.peer.is_unix or len(runtime.lookups) >= _MOST_LOOKUPS:
            return None
        return cls(runtime, session)

    def drop(self) -> None:
        """Its name is not wanted any more."""
        self._session = None

    async def _look_up(self, peer: Peer) -> None:
        try:
            name, _ = await self._runtime.loop.getnameinfo(
                (peer.host, peer.port), socket.NI_NAMEREQD | socket.NI_NUMERICSERV
            )
        except OSError:
            return  # no name: as good as not asked
        finally:
            self._runtime.lookups.discard(self)
        if self._session is not None:
            self._session.rdns = name
