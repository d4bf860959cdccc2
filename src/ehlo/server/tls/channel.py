"""TLS that we drive ourselves, through memory: the same on every event loop.

The driver hands in what the network brought and sends on what comes out. Nothing here knows SMTP.
"""

from __future__ import annotations

import contextlib
import ssl

from ehlo.session import TLSInfo

__all__ = ["HANDSHAKE_COST", "SESSION_COST", "Channel", "LoadedContext", "can_bind"]

_READ = 65_536

# Octets that one counts as holding; with OpenSSL 3 it was 45 KiB amid a handshake, 15 KiB after it
HANDSHAKE_COST = 49_152
SESSION_COST = 16_384


class LoadedContext(ssl.SSLContext):
    """A context that knows the certificate that was loaded into it."""

    end_point: bytes | None = None
    """Its channel binding, `tls-server-end-point` (RFC 5929 4), where that is defined."""
    names: tuple[str, ...] = ()
    """The DNS names that it is for, in lower case."""


class Channel:
    """The server's end of one TLS connection."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "established", "peer_closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.peer_closed = False
        """Whether the client has said that it will not send any more (close_notify)."""

    def receive(self, data: bytes) -> None:
        """Take what the network brought."""
        self._incoming.write(data)

    def outgoing(self) -> bytes:
        """What the network is to get."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises `ssl.SSLError` when it fails."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def read(self) -> bytes:
        """What the client said, as far as it is here. Raises `ssl.SSLError`."""
        pieces = []
        while self._incoming.pending or self._tls.pending():
            try:
                piece = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            if not piece:
                self.peer_closed = True
                break
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, data: bytes) -> bytes:
        """`data`, encrypted."""
        self._tls.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        """Our close_notify, for a connection that was established."""
        with contextlib.suppress(ssl.SSLError):  # the client's own is not waited for
            self._tls.unwrap()
        return self.outgoing()

    def info(self) -> TLSInfo:
        """What the handshake agreed on."""
        cipher = self._tls.cipher()
        return TLSInfo(
            self._tls.version() or "",
            cipher[0] if cipher else "",
            getattr(self._tls, "ehlo_sni", None),
            self._tls.getpeercert() or None,
        )

    def bindings(self) -> dict[str, bytes]:
        """The channel bindings of this connection (RFC 5929), by the name of their type."""
        found: dict[str, bytes | None] = {}
        context = self._tls.context  # the one in use, which the server name may have chosen
        if isinstance(context, LoadedContext):
            found["tls-server-end-point"] = context.end_point
        if self._tls.version() == "TLSv1.2":  # RFC 8446 C.5: not defined for TLS 1.3
            found["tls-unique"] = self._tls.get_channel_binding("tls-unique")
        return {kind: data for kind, data in found.items() if data}


def can_bind(context: ssl.SSLContext | None) -> bool:
    """Whether a connection over `context` may have a channel binding."""
    if context is None:
        return False
    loaded = isinstance(context, LoadedContext) and context.end_point is not None
    return loaded or context.minimum_version <= ssl.TLSVersion.TLSv1_2
