"""The gate of a PROXY listener: reads the header of a proxy, before any SMTP.

The gate never sends anything. It closes a peer that is not one of the proxies, has a wrong or late
header, or comes when there are too many connections.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import cast

from ehlo.net import Peer
from ehlo.protocol.proxy import ProxyError, ProxyHeader, ProxyReader
from ehlo.server.observing.journal import turned_away
from ehlo.server.options.rules import Rules
from ehlo.server.runtime import Ending, Occupant, Runtime
from ehlo.server.wire import ends_of
from ehlo.session import ProxyInfo

TakeOver = Callable[[asyncio.Transport, Peer, Peer, ProxyInfo], asyncio.Protocol]
"""Serves the client that is at the first address; returns the protocol that does."""


class Gate(Occupant):
    """Holds a connection until its header has arrived; then `take_over` serves its client."""

    __slots__ = (
        *("_counted", "_deadline", "_local", "_open", "_peer", "_reader", "_rules", "_runtime"),
        *("_take_over", "_transport"),
    )

    _transport: asyncio.Transport
    _peer: Peer
    _local: Peer

    def __init__(self, runtime: Runtime, rules: Rules, take_over: TakeOver) -> None:
        self._runtime = runtime
        self._rules = rules
        self._take_over = take_over
        self._reader = ProxyReader()
        self._open = True
        self._counted = False
        self._deadline = math.inf

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a peer has connected."""
        self._transport = cast("asyncio.Transport", transport)
        runtime = self._runtime
        ends = ends_of(transport)
        if ends is None:
            self.end(Ending.ABORT)  # it left before it was accepted
            return
        self._peer, self._local = ends
        if self._peer not in self._rules.proxies:
            self._reject("no proxy", "it is not one of proxy_networks")
        elif runtime.draining:
            self.end(Ending.ABORT)
        elif not runtime.connections.admit(None):
            self._reject("too many")
        else:
            self._counted = True
            runtime.add(self)
            self._deadline = runtime.loop.time() + self._rules.times.proxy

    def data_received(self, data: bytes) -> None:
        """Called when bytes have arrived."""
        if not self._open:
            return
        try:
            found = self._reader.feed(data)
        except ProxyError as error:
            self._reject("no PROXY header", str(error))
            return
        if found is not None:
            self._open = False
            self._let_in(*found)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called when the peer has gone."""
        self._open = False
        if self._counted:
            self._count_out()
            self._runtime.remove(self)

    # -- the way in ------------------------------------------------------------------------------

    def _let_in(self, header: ProxyHeader, rest: bytes) -> None:
        """Hand the transport over, as if the client itself had connected."""
        self._count_out()
        try:
            protocol = self._take_over(self._transport, *self._ends(header))
        finally:
            self._runtime.remove(self)  # not before: the server must not seem empty meanwhile
        if rest:
            protocol.data_received(rest)

    def _ends(self, header: ProxyHeader) -> tuple[Peer, Peer, ProxyInfo]:
        """Return the ends of the connection to the proxy if the header has them, else our own."""
        source, destination = header.source, header.destination
        peer = self._peer if source is None else Peer(*source)
        local = self._local if destination is None else Peer(*destination)
        return peer, local, ProxyInfo.of(self._peer, header)

    def _count_out(self) -> None:
        self._counted = False
        self._runtime.connections.release(None)

    # -- the end ---------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `expire` is called, by the loop's clock."""
        return self._deadline

    def expire(self) -> None:
        """Called when the header is late."""
        self._reject("no PROXY header", "late")

    def _reject(self, reason: str, why: str = "") -> None:
        turned_away(self._runtime.stats, self._peer, reason, why)
        self.end(Ending.ABORT)

    def end(self, _how: Ending, /) -> None:
        """Close now, however it is to end: nothing is sent to a proxy, and nothing has begun."""
        self._open = False
        self._deadline = math.inf
        self._transport.abort()
