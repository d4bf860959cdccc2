"""A client's octets, both ways: the transport, TLS over it once there is TLS, and what is counted.

Nothing here knows SMTP, or when a session ends. TLS, and what waits, are counted in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ehlo.net import Peer, unmapped
from ehlo.server.limits.admission import Memory
from ehlo.server.tls.channel import HANDSHAKE_COST, SESSION_COST, Channel

__all__ = ["Wire", "ends_of"]


class Wire:
    """One connection, as its driver reads it and writes to it."""

    __slots__ = (
        *("_decrypted", "_memory", "_transport", "_waiting"),
        *("channel", "reading", "received", "sent", "writable"),
    )

    def __init__(self, transport: asyncio.Transport, memory: Memory) -> None:
        self._transport = transport
        self._memory = memory
        self.reading = True
        self._waiting = 0  # octets that are counted, and neither read nor sent
        self._decrypted = 0  # octets
        self.channel: Channel | None = None  # TLS, from the handshake on
        self.received = 0  # octets, as they came from the network
        self.sent = 0
        self.writable = True  # the client takes what we write

    @property
    def said(self) -> int:
        """Octets that the client has said since the beginning, or since TLS is there."""
        return self.received if self.channel is None else self._decrypted

    @property
    def in_handshake(self) -> bool:
        """Whether TLS has begun, and is not there yet."""
        return self.channel is not None and not self.channel.established

    def write(self, data: bytes) -> None:
        """Say something to the client, under TLS where there is TLS."""
        octets = data if self.channel is None else self.channel.write(data)
        self.sent += len(octets)
        self._transport.write(octets)

    def _send(self, octets: bytes) -> None:
        self.sent += len(octets)
        self._transport.write(octets)

    def read_on(self, want: bool) -> None:
        """Whether the client is to be read, or to wait."""
        if want == self.reading:
            return
        self.reading = want
        if want:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def count_waiting(self, octets: int) -> None:
        """So many wait here while the client is not read."""
        if octets != self._waiting:
            self._memory.count_ahead(octets - self._waiting)
            self._waiting = octets

    # -- TLS -------------------------------------------------------------------------------------

    def begin_tls(self, channel: Channel) -> None:
        """It is counted, whether there is memory for it or not: without TLS there is no mail."""
        self._memory.take(HANDSHAKE_COST)
        self.channel = channel

    def decrypted(self, data: bytes, secured: Callable[[Channel], None]) -> bytes | None:
        """What `data` says; `None` before the handshake is done, and then `secured` is called.

        Raises `ssl.SSLError`, and `fail_tls` is to follow.
        """
        channel = self.channel
        assert channel is not None  # noqa: S101  begin_tls came first
        channel.receive(data)
        if not channel.established:
            done = channel.handshake()
            self._send_what_tls_says(channel)
            if not done:
                return None
            self._memory.release(HANDSHAKE_COST - SESSION_COST)
            secured(channel)
        plain = channel.read()
        self._decrypted += len(plain)
        self._send_what_tls_says(channel)
        return plain

    def _send_what_tls_says(self, channel: Channel) -> None:
        octets = channel.outgoing()
        if octets:
            self._send(octets)

    def fail_tls(self) -> None:
        """Send the alert that says why, and close."""
        if self.channel is not None:
            self._send(self.channel.outgoing())
        self._transport.close()

    @property
    def peer_closed(self) -> bool:
        """Whether the client has said under TLS that it will not send any more."""
        return self.channel is not None and self.channel.peer_closed

    # -- the end ---------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Octets that wait to leave us."""
        return self._transport.get_write_buffer_size()

    @property
    def has_sent_all(self) -> bool:
        """Whether there are none."""
        return not self.unsent

    def close(self, *, linger: bool) -> bool:
        """Say no more. With `linger` the client may talk on, where it can; whether it may."""
        if self.channel is not None:
            self._send(self.channel.close())
        if linger and self._transport.can_write_eof():
            self._transport.write_eof()
            return True
        self._transport.close()
        return False

    def abort(self) -> None:
        """Close now, and lose what could not be sent."""
        self._transport.abort()

    def forget(self) -> None:
        """The session is over: nothing waits, and TLS holds nothing any more."""
        self.count_waiting(0)
        if self.channel is not None:
            self._memory.release(SESSION_COST if self.channel.established else HANDSHAKE_COST)


def ends_of(transport: asyncio.BaseTransport) -> tuple[Peer, Peer] | None:
    """Who is at both ends; `None` when the client has gone, so that nobody knows who it was.

    A client of a Unix socket has no name; it gets the socket's. One of IPv4 may come by a socket of
    IPv6, which writes its address as one of IPv6.
    """
    local = transport.get_extra_info("sockname")
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and isinstance(local, tuple):
        if len(peer) == 2:  # of IPv4
            return Peer(peer[0], peer[1]), Peer(local[0], local[1])
        return Peer(unmapped(peer[0]), peer[1]), Peer(unmapped(local[0]), local[1])
    if isinstance(local, tuple):
        return None
    path = local.decode(errors="replace") if isinstance(local, bytes) else str(local or "")
    unix = Peer(f"unix:{path}", 0)
    return unix, unix
