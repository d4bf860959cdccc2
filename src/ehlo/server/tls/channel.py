"""TLS through memory: the same on every event loop.

The caller passes in the bytes that the network brought, and sends the bytes that come out.

OpenSSL keeps its buffers as large as they once were, and makes room for a message as soon as its
header announces it. So it gets bytes in slices, and a ClientHello (RFC 8446 4.1.2) only as a whole.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Final

from ehlo.session import TLSInfo

_READ: Final = 16_384  # what a record holds (RFC 8446 5.1)
_SLICE: Final = 8_192  # bytes that OpenSSL gets at once

# Bytes that a connection counts as; measured with OpenSSL 3: 45 to 71 KiB in a handshake, 15 to 45
# after it, the more with half a record
HANDSHAKE_COST = 65_536
SESSION_COST = 32_768
_CERTIFICATE_COST = 106_496  # what is added where the client may send a chain of certificates

_HEADER: Final = 5  # bytes before what is in a record
_CHANGE_CIPHER_SPEC, _HANDSHAKE = 20, 22
_CLIENT_HELLO: Final = 1
_LARGEST_HELLO: Final = 16_384  # with the headers of its records; a usual one has 2,000 at most
# RFC 8446 4.1.3: the random of a HelloRetryRequest, on which a second ClientHello follows
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_RANDOM: Final = slice(11, 43)  # where it is in a ServerHello, with both headers


class ClientHelloError(ssl.SSLError):
    """Raised for a ClientHello that is too long."""

    reason = "CLIENT_HELLO_TOO_LONG"


class ClientHello:
    """Gathers a ClientHello, which may come in many records."""

    __slots__ = ("_at", "_data", "_head", "_size")

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # where the first record is that has not been looked at
        self._head = b""  # of the message: its type, and its size in three bytes
        self._size = 0  # of the message so far, with its head

    def receive(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return the complete ClientHello, and what came behind it; `None` before.

        What cannot be a ClientHello is complete at once. Raises `ClientHelloError`.
        """
        gathered = self._data
        gathered += data
        while (start := self._at + _HEADER) <= len(gathered):
            kind, end = gathered[self._at], start + _number(gathered[start - 2 : start])
            if kind not in (_CHANGE_CIPHER_SPEC, _HANDSHAKE):
                return bytes(gathered), b""
            if end > len(gathered):
                break
            self._at = end
            if kind == _HANDSHAKE and self._is_complete(gathered[start:end]):
                return bytes(gathered[:end]), bytes(gathered[end:])
        if len(gathered) > _LARGEST_HELLO:
            raise ClientHelloError
        return None

    def _is_complete(self, more: bytearray) -> bool:
        self._head = (self._head + more[:4])[:4]
        self._size += len(more)
        if len(self._head) < 4:
            return False
        announced = _number(self._head[1:])
        if self._head[0] != _CLIENT_HELLO:
            return True
        if announced > _LARGEST_HELLO:
            raise ClientHelloError
        return self._size >= 4 + announced


def _number(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "big")


class LoadedContext(ssl.SSLContext):
    """Holds a context and facts about the certificate that was loaded into it."""

    end_point: bytes | None = None
    """The channel binding `tls-server-end-point` (RFC 5929 4), if it is defined."""
    names: tuple[str, ...] = ()
    """The DNS names of the certificate, in lower case."""


class Channel:
    """Drives the server's end of one TLS connection."""

    __slots__ = ("_hello", "_incoming", "_outgoing", "_tls", "established", "peer_closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._hello: ClientHello | None = ClientHello()
        self.established: bool = False
        self.peer_closed: bool = False
        """Whether the client has ended its side (close_notify)."""

    @property
    def cost(self) -> int:
        """The bytes that it counts as now."""
        if self.established:
            return SESSION_COST
        may_be_long = self._tls.context.verify_mode != ssl.CERT_NONE
        return HANDSHAKE_COST + may_be_long * _CERTIFICATE_COST

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what to pass to `receive` of the bytes that the network brought; read after each.

        Raises `ClientHelloError`.
        """
        while data:
            piece, data = data, b""
            if self._hello is not None:
                found = self._hello.receive(piece)
                if found is None:
                    return
                self._hello = None
                piece, data = found
            if len(piece) <= _SLICE:
                yield piece
            else:
                yield from (piece[at : at + _SLICE] for at in range(0, len(piece), _SLICE))

    def receive(self, piece: bytes) -> None:
        """Pass in bytes that the network brought."""
        self._incoming.write(piece)

    def outgoing(self) -> bytes:
        """Return the bytes to send to the network."""
        data = self._outgoing.read() if self._outgoing.pending else b""
        if data[_RANDOM] == _RETRY and not self.established:
            self._hello = ClientHello()
        return data

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
        if len(data) <= _SLICE:
            self._tls.write(data)
            return self._outgoing.read()
        pieces = (data[start : start + _SLICE] for start in range(0, len(data), _SLICE))
        return b"".join(map(self.write, pieces))

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
