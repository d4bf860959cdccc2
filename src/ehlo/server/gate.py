"""The gate of a PROXY listener: who is let through, and as whom, before the first word of SMTP.

Nothing is ever said here. A peer that is not one of the proxies is closed, and so is one whose
header is wrong or late, or that comes when there are too many; there is nobody to tell, since what
speaks to us is no client.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import cast

from ehlo.net import Peer
from ehlo.protocol.proxy import ProxyError, ProxyHeader, ProxyReader
from ehlo.protocol.reply import Reply
from ehlo.server.driver import Driver
from ehlo.server.driving.wire import ends_of
from ehlo.server.observing.journal import turned_away
from ehlo.server.options.rules import Rules
from ehlo.server.runtime import Runtime
from ehlo.session import ProxyInfo

__all__ = ["Gate"]


class Gate(asyncio.Protocol):
    """A connection until its header is here; then a `Driver` has it."""

    __slots__ = (
        "_counted",
        "_local",
        "_new_driver",
        "_open",
        "_peer",
        "_reader",
        "_rules",
        "_runtime",
        "_transport",
        "deadline",
    )

    _transport: asyncio.Transport
    _peer: Peer
    _local: Peer

    def __init__(self, runtime: Runtime, rules: Rules, new_driver: Callable[[], Driver]) -> None:
        self._runtime = runtime
        self._rules = rules
        self._new_driver = new_driver
        self._reader = ProxyReader()
        self._open = True
        self._counted = False
        self.deadline = math.inf

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        runtime = self._runtime
        ends = ends_of(transport)
        if ends is None:
            self.abort()  # it left before it was accepted
            return
        self._peer, self._local = ends
        if self._peer not in self._rules.proxies:
            self._refuse("no proxy", "it is not one of proxy_networks")
        elif runtime.draining:
            self.abort()
        elif not runtime.connections.admit(None):
            self._refuse("too many")
        else:
            self._counted = True
            runtime.add(self)
            self.deadline = runtime.loop.time() + self._rules.times.proxy

    def data_received(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            found = self._reader.feed(data)
        except ProxyError as error:
            self._refuse("no PROXY header", str(error))
            return
        if found is not None:
            self._open = False
            self._let_in(*found)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._open = False
        if self._counted:
            self._count_out()
            self._runtime.remove(self)

    # -- the way in ------------------------------------------------------------------------------

    def _let_in(self, header: ProxyHeader, rest: bytes) -> None:
        """The driver takes the transport over, as if the client itself had connected."""
        driver = self._new_driver()
        self._transport.set_protocol(driver)
        self._count_out()
        try:
            driver.begin(self._transport, *self._ends(header))
        finally:
            self._runtime.remove(self)  # not before the driver is there: somebody is, all the time
        if rest:
            driver.data_received(rest)

    def _ends(self, header: ProxyHeader) -> tuple[Peer, Peer, ProxyInfo]:
        """Of the connection to the proxy, where the header tells of them; else our own."""
        source, destination = header.source, header.destination
        peer = self._peer if source is None else Peer(*source)
        local = self._local if destination is None else Peer(*destination)
        return peer, local, ProxyInfo.of(self._peer, header)

    def _count_out(self) -> None:
        self._counted = False
        self._runtime.connections.release(None)

    # -- the end ---------------------------------------------------------------------------------

    def _refuse(self, reason: str, why: str = "") -> None:
        turned_away(self._runtime.stats, self._peer, reason, why)
        self.abort()

    session_id = ""
    resting = leaving = 0

    def make_room(self) -> None:
        """There is no body here."""

    def seen(self) -> None:
        """There is no session yet."""

    def expire(self) -> None:
        """The header is late."""
        self._refuse("no PROXY header", "late")

    def hang_up(self, _reply: Reply) -> None:
        """Nothing is said to a proxy."""
        self.abort()

    def drain(self) -> None:
        """The server shuts down, and nobody has begun anything here."""
        self.abort()

    def cut(self) -> None:
        """End it now."""
        self.abort()

    def abort(self) -> None:
        """Close now; `connection_lost` tells when that is done."""
        self._open = False
        self.deadline = math.inf
        self._transport.abort()
