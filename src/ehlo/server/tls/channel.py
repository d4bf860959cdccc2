"""TLS through memory: the same on every event loop.

The caller passes in the bytes that the network brought, and sends the bytes that come out.
"""

from __future__ import annotations

import contextlib
import ssl

from ehlo.session import TLSInfo

_READ = 65_536

# Bytes that a connection counts as; measured with OpenSSL 3: 45 KiB in a handshake, 15 KiB after it
HANDSHAKE_COST = 49_152
SESSION_COST = 16_384


class LoadedContext(ssl.SSLContext):
    """Holds a context and facts about the certificate that was loaded into it."""

    end_point: bytes | None = None
    """The channel binding `tls-server-end-point` (RFC 5929 4), if it is defined."""
    names: tuple[str, ...] = ()
    """The DNS names of the certificate, in lower case."""


class Channel:
    """Drives the server's end of one TLS connection."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "established", "peer_closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.peer_closed = False
        """Whether the client has ended its side (close_notify)."""

    def receive(self, data: bytes) -> None:
        """Pass in bytes that the network brought."""
        self._incoming.write(data)

    def outgoing(self) -> bytes:
        """Return the bytes to send to the network."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def handshake(self) -> bool:
        """Continue the handshake, and return whether it is complete. Raises `ssl.SSLError`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def read(self) -> bytes:
        """Return the plaintext that has arrived. Raises `ssl.SSLError`."""
        chunks = []
        while self._incoming.pending or self._tls.pending():
            try:
                chunk = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                chunk = b""
            if not chunk:
                self.peer_closed = True
                break
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def write(self, data: bytes) -> bytes:
        """Encrypt `data`, and return the bytes to send to the network."""
        self._tls.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the close_notify of an established connection, to send to the network."""
        with contextlib.suppress(ssl.SSLError):  # the client's close_notify is not awaited
            self._tls.unwrap()
        return self.outgoing()

    def info(self) -> TLSInfo:
        """Return what the handshake agreed on."""
        cipher = self._tls.cipher()
        return TLSInfo(
            self._tls.version() or "",
            cipher[0] if cipher else "",
            getattr(self._tls, "ehlo_sni", None),
            self._tls.getpeercert() or None,
        )

    def bindings(self) -> dict[str, bytes]:
        """Return the channel bindings of this connection (RFC 5929) by type."""
        found: dict[str, bytes | None] = {}
        context = self._tls.context  # the one that the server name (SNI) has chosen
        if isinstance(context, LoadedContext):
            found["tls-server-end-point"] = context.end_point
        if self._tls.version() == "TLSv1.2":  # RFC 8446 C.5: not defined for TLS 1.3
            found["tls-unique"] = self._tls.get_channel_binding("tls-unique")
        return {kind: data for kind, data in found.items() if data}


def can_bind(context: ssl.SSLContext | None) -> bool:
    """Return whether a connection over `context` may have a channel binding."""
    if context is None:
        return False
    loaded = isinstance(context, LoadedContext) and context.end_point is not None
    return loaded or context.minimum_version <= ssl.TLSVersion.TLSv1_2
