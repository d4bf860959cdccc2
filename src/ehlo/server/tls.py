"""TLS that we drive ourselves, through memory: the same on every event loop.

The driver hands in what the network brought and sends on what comes out. Nothing here knows SMTP.
"""

from __future__ import annotations

import contextlib
import ssl

from ehlo.session import TLSInfo

__all__ = ["Channel", "server_context"]

_READ = 65_536


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


def server_context(
    cert_file: str, key_file: str, passphrase: str | bytes | None = None
) -> ssl.SSLContext:
    """A context for a server: TLS 1.2 at least, and Python's defaults beyond that.

    Raises `OSError` when a file cannot be read and `ssl.SSLError` when it is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a passphrase OpenSSL would ask for one on the terminal, and a server would hang there
    context.load_cert_chain(cert_file, key_file, passphrase if passphrase is not None else "")
    context.sni_callback = _note_sni
    return context


def _note_sni(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    tls.ehlo_sni = name  # type: ignore[attr-defined]  # the object lives as long as its connection
