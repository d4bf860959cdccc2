"""A client's bytes, both ways: the transport, TLS over it once there is TLS, and what is counted.

Nothing here knows SMTP. What a client makes the server hold is counted in its overhead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ehlo.net import Peer, unmapped
from ehlo.server.overhead import Overhead
from ehlo.server.tls.channel import Channel

_MOST_UNSENT = 4_096  # bytes of replies; beyond them the client is asked for nothing more


class Wire:
    """Reads and writes the bytes of one connection."""

    __slots__ = (
        *("_decrypted", "_overhead", "_tls", "_transport", "_waiting"),
        *("channel", "closing", "is_usual", "lingering", "lost", "reading", "received", "sent"),
        "writable",
    )

    def __init__(self, transport: asyncio.Transport, overhead: Overhead) -> None:
        self._transport = transport
        self._overhead = overhead
        self._waiting = 0  # bytes that are counted, and neither read nor sent
        self._tls = 0  # bytes that are counted of TLS
        self._decrypted = 0  # bytes
        self.channel: Channel | None = None
        """TLS, from the handshake on."""
        self.reading: bool = True
        self.is_usual: bool = True
        """Whether the client is read and reads, nothing that waits is counted, and none closes."""
        self.writable = True
        """Whether the client reads what is written."""
        self.closing: bool = False
        """Whether nothing more is written, or read by the core."""
        self.lingering: bool = False
        """Whether the input is discarded until the client closes."""
        self.lost: bool = False
        """Whether the client has gone."""
        self.received = 0
        """Bytes that came from the network."""
        self.sent: int = 0

    @property
    def said(self) -> int:
        """Bytes that the client has sent since the beginning, or since the TLS handshake."""
        return self.received if self.channel is None else self._decrypted

    @property
    def in_handshake(self) -> bool:
        """Whether TLS has begun, and is not established."""
        return self.channel is not None and not self.channel.established

    def write(self, data: bytes) -> None:
        """Send `data` to the client, under TLS if there is TLS."""
        if self.channel is not None:
            data = self.channel.write(data)
        self.sent += len(data)
        self._transport.write(data)

    def _send(self, data: bytes) -> None:
        self.sent += len(data)
        self._transport.write(data)

    def notice_when_sent(self) -> None:
        """Set the transport to call `resume_writing` only when everything has been sent."""
        self._transport.set_write_buffer_limits(0)

    def bound_unsent(self) -> None:
        """Set the transport to call `pause_writing` before much waits to be sent."""
        self._transport.set_write_buffer_limits(_MOST_UNSENT)

    def read_on(self, want: bool) -> None:
        """Read the client, or let it wait."""
        if want == self.reading:
            return
        self.reading = want
        self._look()
        if want:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def count_waiting(self, size: int) -> bool:
        """Count the bytes that wait here, and return whether there is room for them."""
        more = size - self._waiting
        if more > 0 and not self._overhead.hold(more):
            return False
        if more < 0:
            self._overhead.release(-more)
        self._waiting = size
        self._look()
        return True

    def let_write(self, may: bool) -> None:
        """Note whether the client reads what is written."""
        self.writable = may
        self._look()

    def _look(self) -> None:
        """Decide again whether the state of the connection is the usual one."""
        rests = self.writable and not self._waiting and not self.closing
        self.is_usual = self.reading and rests

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return self._transport.get_write_buffer_size()

    # -- TLS -------------------------------------------------------------------------------------

    def count_tls(self, channel: Channel) -> bool:
        """Count a handshake that is to begin, and return whether there is room for it.

        Raises `RuntimeError` if there is TLS already.
        """
        if self.channel is not None:
            raise RuntimeError("TLS has begun already")
        if not self._overhead.begin_tls(channel.cost, self, self._give_up):
            return False
        self._tls = channel.cost
        return True

    def begin_tls(self, channel: Channel) -> None:
        """Begin a handshake that has been counted."""
        self.channel = channel

    def decrypted(self, data: bytes, secured: Callable[[Channel], None]) -> bytes | None:
        """Return the plaintext of `data`; `None` until the handshake has ended, with `secured`.

        Raises `ssl.SSLError`; call `fail_tls` then.
        """
        channel = self.channel
        assert channel is not None  # noqa: S101  begin_tls came first
        plain = []
        for piece in channel.pieces(data):
            channel.receive(piece)
            if not channel.established:
                done = channel.handshake()
                self._send_tls(channel)
                if not done:
                    continue
                self._overhead.established(self)
                self._overhead.end_tls(self._tls - channel.cost)
                self._tls = channel.cost
                secured(channel)
            plain.append(channel.read())
        self._send_tls(channel)
        if not channel.established:
            return None
        said = plain[0] if len(plain) == 1 else b"".join(plain)
        self._decrypted += len(said)
        return said

    def _give_up(self) -> None:
        """Close amid a handshake, since there is no room for another one."""
        self.abort()
        self._forget_tls()

    def _send_tls(self, channel: Channel) -> None:
        data = channel.outgoing()
        if data:
            self._send(data)

    # -- the end ---------------------------------------------------------------------------------

    def close(self, last: bytes = b"", *, linger: bool = False) -> None:
        """Send `last`, and nothing more. With `linger` the client may go on sending.

        The end of TLS is in the same write as `last`: clients of asyncio that read `last` alone
        might leave their socket open, since many do not wait for the end.
        """
        self._write_no_more()
        if self.lost:
            return
        if self.channel is not None:
            last = (self.channel.write(last) if last else b"") + self.channel.close()
        if last:
            self._send(last)
        self.lingering = linger and self._transport.can_write_eof()
        if self.lingering:
            self._transport.write_eof()
            self.read_on(True)
        else:
            self._transport.close()

    def fail_tls(self) -> None:
        """Send the TLS alert that says why, and close."""
        self._write_no_more()
        if self.channel is not None:
            self._send(self.channel.outgoing())
        self._transport.close()

    def abort(self) -> None:
        """Close now, and drop what was not sent."""
        self._write_no_more()
        if not self.lost:
            self._transport.abort()

    def lose(self) -> None:
        """Record that the client has gone."""
        self.lost = True
        self._write_no_more()

    def _write_no_more(self) -> None:
        self.closing, self.is_usual = True, False

    def forget(self) -> None:
        """Count nothing of the client any more."""
        if self._waiting:
            self.count_waiting(0)
        self._forget_tls()

    def _forget_tls(self) -> None:
        if self._tls:
            self._overhead.established(self)
            self._overhead.end_tls(self._tls)
            self._tls = 0


def ends_of(transport: asyncio.BaseTransport) -> tuple[Peer, Peer] | None:
    """Return the addresses of client and server; `None` if the client has gone already.

    A client of a Unix socket has no name and gets the socket's. A client by IPv4 may come by an
    IPv6 socket, which shows its address as an IPv6 one.
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
