"""`Session`: facts about a connected client, as a handler sees them."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ehlo.net import Peer, unmapped
from ehlo.protocol.address import Address
from ehlo.protocol.conversation import Conversation

if TYPE_CHECKING:
    from ehlo.protocol.proxy import ProxyHeader, ProxySSL

__all__ = ["ProxyInfo", "Session", "TLSInfo", "current_session"]


class TLSInfo(NamedTuple):
    """Describes a TLS handshake that has succeeded."""

    version: str
    """The version of TLS, as `ssl` names it: `"TLSv1.3"`."""
    cipher: str
    """The name of the cipher suite."""
    sni: str | None
    """The server name that the client asked for (RFC 6066 3); `None` if it named none."""
    peer_certificate: dict[str, Any] | None
    """The client's certificate, as `ssl.SSLObject.getpeercert` returns it, or `None`."""


class ProxyInfo(NamedTuple):
    """Holds what a proxy sent in its PROXY header; it proves nothing but the proxy's word.

    TLS between client and proxy is not TLS with this server, and never sets `Session.tls`.
    """

    peer: Peer
    """The address of the proxy."""
    version: int
    """The version of the header: 1 or 2."""
    command: str
    """`"PROXY"`, or `"LOCAL"` when the proxy connects for itself, as in a health check."""
    authority: str
    """The host name that the client asked the proxy for (SNI), or `""`."""
    unique_id: bytes
    """The proxy's id of the connection, or `b""`."""
    ssl: ProxySSL | None
    """What the proxy says about TLS between client and proxy, or `None`."""
    alpn: bytes
    """The protocol that client and proxy agreed on (ALPN), or `b""`."""
    tlvs: Mapping[int, bytes]
    """All values of the header, by type, unparsed."""

    @classmethod
    def of(cls, peer: Peer, header: ProxyHeader) -> Self:
        """Return the facts of `header`, which the proxy at `peer` sent."""
        return cls(
            peer,
            header.version,
            header.command,
            header.authority,
            header.unique_id,
            header.ssl,
            header.alpn,
            header.tlvs,
        )


class Session:
    """Facts about a connected client. A hook reads them, and may write to `state`.

    STARTTLS resets `helo`, `esmtp`, `user` and `state` (RFC 3207 4.2); the rest stays.

    Example:

        async def on_mail(self, session, sender, params):
            if session.tls is None and not session.peer.is_unix:
                raise ehlo.Reject(530, "5.7.0", "Must issue a STARTTLS command first")
    """

    __slots__ = (
        *(
            "_conversation",
            "_ends",
            "_state",
            "id",
            "local",
            "peer",
            "proxy",
            "rdns",
            "tls",
            "user",
        ),
    )

    def __init__(
        self,
        session_id: str,
        peer: Peer,
        local: Peer,
        conversation: Conversation,
        proxy: ProxyInfo | None = None,
    ) -> None:
        self._conversation = conversation
        self.id = session_id
        """The unique id of the session, also in the log, in `Received` and in message ids."""
        self.peer = peer
        """The client's address."""
        self.local = local
        """The server's address, as the client reached it."""
        self.proxy = proxy
        """What the proxy between client and server has sent; `None` without a proxy."""
        self.tls: TLSInfo | None = None
        """The TLS of the connection; `None` in plaintext."""
        self.user: str | None = None
        """The identity of the client after a login, or `None`."""
        self.rdns = ""
        """The client's name by reverse DNS, once the answer has arrived; else `""`."""
        self._ends: tuple[Peer, Peer] | None = None  # the real ones, once XCLIENT has named others
        self._state: SimpleNamespace | None = None

    @property
    def helo(self) -> str:
        """The name in HELO or EHLO; `""` before it."""
        return self._conversation.helo

    @property
    def esmtp(self) -> bool:
        """Whether the client has sent EHLO or LHLO."""
        return self._conversation.esmtp

    @property
    def sender(self) -> Address | None:
        """The envelope sender of the current transaction; `None` outside of one."""
        transaction = self._conversation.transaction
        return transaction.sender if transaction is not None else None

    @property
    def state(self) -> SimpleNamespace:
        """A namespace of your own, for values that hooks want to keep."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def xclient(self) -> Mapping[str, str | None]:
        """The attributes that a proxy has sent by XCLIENT, by upper-case name.

        The value is `None` where the proxy does not know it. `peer`, `local`, `rdns`, `user`,
        `helo` and `esmtp` already reflect these attributes.
        """
        return self._conversation.xclient

    @property
    def forwarded(self) -> Mapping[str, str | None] | None:
        """The attributes that an upstream server has sent by XFORWARD, by upper-case name.

        They are NAME, ADDR, PORT, PROTO, HELO, IDENT and SOURCE; `None` without XFORWARD. They are
        for a log: the server itself does not trust them.
        """
        return self._conversation.forwarded

    def restart(self, conversation: Conversation) -> None:
        """Forget what the client sent before TLS (RFC 3207 4.2); called by the server."""
        self._conversation = conversation
        self.user = None
        self._state = None

    def speak_for(self, attributes: Mapping[str, str | None]) -> None:
        """Replace the client's facts by those from XCLIENT; called by the server."""
        self._ends = peer, local = self._ends or (self.peer, self.local)
        self.peer = _end(peer, attributes, "ADDR", "PORT")
        self.local = _end(local, attributes, "DESTADDR", "DESTPORT")
        self.rdns = attributes.get("NAME") or ""
        self.user = attributes.get("LOGIN")
        self._state = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.peer}>"


def _end(end: Peer, attributes: Mapping[str, str | None], address: str, port: str) -> Peer:
    """Return `end` with what XCLIENT says in its place."""
    host = attributes.get(address)
    number = attributes.get(port)
    if host is None:
        return end if number is None or end.is_unix else Peer(end.host, int(number))
    return Peer(unmapped(host), int(number or 0))


current_session: ContextVar[Session | None] = ContextVar("ehlo_session", default=None)
"""The session of the running hook, also in the threads of `def` hooks."""
