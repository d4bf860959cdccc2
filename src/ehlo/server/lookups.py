"""Looks up the names of clients (reverse DNS), in threads of its own.

A name server that hangs takes only those threads, not the ones in which the event loop resolves
names for everybody else. They are shared between the addresses of clients as hooks are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from ehlo.net import Peer
from ehlo.server.limits import Turns
from ehlo.server.system.threads import Threads

_AT_ONCE: Final = 16
_MOST_WAITING: Final = 64  # further clients are not looked up


class Lookups:
    """Looks up names without delaying any session.

    Example::

        lookups = Lookups(runtime.to_loop)
        lookups.begin(peer, key, lambda name: print(name))
        lookups.stop()
    """

    def __init__(self, to_loop: Callable[[Callable[[], None]], bool]) -> None:
        self._to_loop = to_loop
        self._threads = Threads(_AT_ONCE, "ehlo-lookup")
        self._turns = Turns(_AT_ONCE)
        self._waiting = 0

    @property
    def under_way(self) -> int:
        """How many names are being looked up."""
        return _AT_ONCE - self._turns.free

    def begin(self, peer: Peer, key: str | None, arrived: Callable[[str], None]) -> None:
        """Look up a client, and call `arrived` if it has a name.

        `key` is that of its address; `None` is exempt. A lookup is never cancelled: the resolver
        goes on all the same.
        """
        if peer.is_unix:
            return
        if self._turns.take(key):
            self._look_up(peer, key, arrived)
        elif self._waiting < _MOST_WAITING:
            self._waiting += 1
            self._turns.wait(key, object(), partial(self._look_up_next, peer, key, arrived))

    def _look_up_next(self, peer: Peer, key: str | None, arrived: Callable[[str], None]) -> None:
        self._waiting -= 1
        self._look_up(peer, key, arrived)

    def _look_up(self, peer: Peer, key: str | None, arrived: Callable[[str], None]) -> None:
        def done(found: tuple[str, str] | None, error: BaseException | None) -> None:
            def end() -> None:
                self._turns.give_back(key)
                if found is not None and error is None:
                    arrived(found[0])

            self._to_loop(end)

        self._threads.submit(partial(_name_of, peer), done)

    def stop(self) -> None:
        """End the threads; does not wait for one that is busy."""
        self._threads.stop()


def _name_of(peer: Peer) -> tuple[str, str]:
    flags = socket.NI_NAMEREQD | socket.NI_NUMERICSERV
    return socket.getnameinfo((peer.host, peer.port), flags)
