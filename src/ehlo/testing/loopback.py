"""`Port`: the engine of an inbox with a port; and `Commons`, which the inboxes of a run share.

There is one thread with one event loop for all of them. An inbox has a listening socket of its own,
so that a late mail of an earlier test finds a closed port.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Self, cast

from ehlo.net import Peer
from ehlo.server.doors import Doors
from ehlo.server.places import Connections
from ehlo.server.system.loops import LoopThread
from ehlo.server.tls.channel import Channel
from ehlo.testing.guest import Guest
from ehlo.testing.routing import Router
from ehlo.testing.rulebook import Rulebook

if TYPE_CHECKING:
    import trustme

_GONE = Peer("", 0)  # a client that has disconnected already
HANDSHAKE = 5.0
"""Seconds for a TLS handshake: a client that waits for a greeting in plaintext would never end."""
_MOST = 1_000_000  # clients at once: no limit
_NAMES = ("localhost", "127.0.0.1", "::1")


class Commons:
    """Holds what the inboxes of one run share: a loop in a thread, certificates, a router.

    They are made when they are first needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._ports: list[Peer] = []
        self._numbers = count(1)
        self.router: Router = Router()
        """Routes clients to the inboxes in memory."""

    @property
    def thread(self) -> LoopThread:
        """The thread, with its event loop."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive:  # as in a process that was forked
                self._thread = LoopThread("asyncio", "ehlo-testing")
            return self._thread

    @cached_property
    def authority(self) -> trustme.CA:
        """The certificate authority. Raises `ImportError` without trustme."""
        try:
            import trustme  # an extra, and slow to import
        except ImportError as error:
            message = "TLS in tests needs trustme; run pip install 'ehlo[testing]'"
            raise ImportError(message) from error
        return trustme.CA()

    @cached_property
    def server_context(self) -> ssl.SSLContext:
        """The context of the servers, with a certificate for this machine."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.authority.issue_cert(*_NAMES).configure_cert(context)
        return context

    @cached_property
    def client_context(self) -> ssl.SSLContext:
        """A context for clients that trusts the servers."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def next_host(self) -> str:
        """Return a name for an inbox in memory that no resolver knows (RFC 6761 6.4)."""
        return f"ehlo-memory-{next(self._numbers)}.invalid"

    def add_port(self, address: Peer) -> None:
        """Note where an inbox listens: clients that name it are not routed into memory."""
        self._ports.append(address)

    def remove_port(self, address: Peer) -> None:
        """Note that an inbox listens there no more."""
        self._ports.remove(address)

    def has_port(self, server: Peer) -> bool:
        """Return whether `server` is where an inbox listens."""
        return any(
            server.port == port and (server.host == host or server.host in _NAMES)
            for host, port in self._ports
        )

    def close(self) -> None:
        """End the thread, and put back what the router has replaced."""
        self.router.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Port:
    """Serves the clients of one inbox on a listening socket, until it is closed."""

    def __init__(self, commons: Commons, rulebook: Rulebook) -> None:
        self._commons = commons
        self._thread = commons.thread
        self._rulebook = rulebook
        self._clients: set[PortClient] = set()
        self._doors: Doors | None = None

    def open(self, host: str, port: int) -> Peer:
        """Listen, and return the address. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family)
        sock.setblocking(False)
        self._thread.call(partial(self._open, sock))
        return Peer(*sock.getsockname()[:2])

    async def _open(self, sock: socket.socket) -> None:
        self._doors = doors = Doors(asyncio.get_running_loop(), Connections(_MOST, _MOST))
        await doors.open(sock, self._client)

    def _client(self) -> PortClient:
        return PortClient(self._rulebook, self._commons, self._clients)

    def close(self) -> None:
        """Stop listening, and disconnect all clients."""
        if self._thread.is_alive:  # not in a process that was forked meanwhile
            self._thread.call(self._close)

    async def _close(self) -> None:
        if self._doors is None:  # the address was taken
            return
        self._doors.close()
        await self._doors.all_served()
        clients = list(self._clients)
        for client in clients:
            client.abort()
        for client in clients:
            await client.gone.wait()


class PortClient(asyncio.Protocol):
    """Serves one client of a port: moves bytes between its transport and its `Guest`."""

    def __init__(self, rulebook: Rulebook, commons: Commons, clients: set[PortClient]) -> None:
        self._rulebook = rulebook
        self._commons = commons
        self._clients = clients
        self._channel: Channel | None = None
        self._late: asyncio.TimerHandle | None = None
        self.gone: asyncio.Event = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        peer = Peer(*name[:2]) if name else _GONE
        self._clients.add(self)
        implicit = self._rulebook.offer.implicit_tls
        self._guest = Guest(self._rulebook, peer, implicit_tls=implicit)
        if implicit:
            self._guest.note("implicit TLS: the client begins with a handshake")
            self._begin_tls()
        else:
            self._answer(self._guest.feed(b""))

    def data_received(self, data: bytes) -> None:
        """Called with bytes of the client."""
        if self._channel is not None:
            data = self._decrypted(self._channel, data)
        if data:
            self._answer(self._guest.feed(data))

    def _answer(self, replies: bytes) -> None:
        """Send replies, now or after a delay, and do what comes after them."""
        delay = self._guest.take_delay()
        if delay:
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(delay, self._send_late, replies)
        else:
            self._send(replies)

    def _send_late(self, replies: bytes) -> None:
        self._transport.resume_reading()
        self._send(replies)

    def _send(self, replies: bytes) -> None:
        if replies and self._channel is not None:
            replies = self._channel.write(replies)
        if self._guest.closed and self._channel is not None:
            replies += self._channel.close()  # in one write: see `Wire.close`
        self._write(replies)
        if self._guest.closed:
            self._transport.close()
        elif self._guest.awaits_tls:
            self._begin_tls()

    def _write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    # -- TLS -------------------------------------------------------------------------------------

    def _begin_tls(self) -> None:
        self._channel = Channel(self._commons.server_context)
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(HANDSHAKE, self._transport.abort)

    def _decrypted(self, channel: Channel, data: bytes) -> bytes:
        """Return the plaintext of `data`; none before the end of the handshake."""
        plain = []
        try:
            for piece in channel.pieces(data):
                channel.receive(piece)
                if not channel.established:
                    done = channel.handshake()
                    self._write(channel.outgoing())
                    if not done:
                        continue
                    self._secured(channel)
                plain.append(channel.read())
            self._write(channel.outgoing())
        except ssl.SSLError as error:
            self._guest.note(f"TLS failed: {error.reason or error}")
            self._write(channel.outgoing())  # the alert that says why
            self._transport.close()
            return b""
        if channel.peer_closed:
            self._transport.close()
        return b"".join(plain)

    def _secured(self, channel: Channel) -> None:
        if self._late is not None:
            self._late.cancel()
        greet = not self._guest.awaits_tls
        self._guest.secured(channel.info())
        if greet:
            self._answer(self._guest.feed(b""))

    # -- the end ---------------------------------------------------------------------------------

    def eof_received(self) -> None:
        """Called when the client sends no more; the transport is closed after it."""
        if self._channel is None or self._channel.established:
            self._send(self._guest.feed_eof())

    def connection_lost(self, _error: Exception | None) -> None:
        """Called when the connection has ended."""
        if self._late is not None:
            self._late.cancel()
        self._clients.discard(self)
        self._guest.end()
        self.gone.set()

    def abort(self) -> None:
        """Disconnect the client now."""
        self._transport.abort()
