"""`Session`: facts about a connected client, as a handler sees them."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import NamedTuple, Self

from ehlo.net import Peer, unmapped
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import PeerCertificate
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.proxy import ProxyHeader, ProxySSL
from ehlo.protocol.state import Transaction
from ehlo.transcript import Transcript


class TLSInfo(NamedTuple):
    """Describes a completed TLS handshake.

    Example:

        def on_tls(self, session):
            print(session.tls.version, session.tls.cipher)    # "TLSv1.3 TLS_AES_256_GCM_SHA384"
    """

    version: str
    """The version of TLS as `ssl` names it, such as `"TLSv1.3"`."""
    cipher: str
    """The name of the cipher suite."""
    sni: str | None
    """The server name that the client asked for (RFC 6066 3), or `None`."""
    peer_certificate: PeerCertificate | None
    """The client's certificate, as `ssl.SSLObject.getpeercert` returns it, or `None`."""


class ProxyInfo(NamedTuple):
    """Holds the facts in a PROXY header, which are true only if the proxy is honest.

    TLS between client and proxy does not set `Session.tls`.

    Example:

        def on_connect(self, session):
            if session.proxy is not None and session.proxy.ssl is None:
                raise ehlo.Reject(421, "4.7.0", "Please connect by TLS")
    """

    peer: Peer
    """The address of the proxy."""
    version: int
    """The version of the header: 1 or 2."""
    command: str
    """`"PROXY"`, or `"LOCAL"` if the proxy connects for itself, as in a health check."""
    authority: str
    """The host name that the client asked the proxy for (SNI), or `""`."""
    unique_id: bytes
    """The proxy's id of the connection, or `b""`."""
    ssl: ProxySSL | None
    """The TLS between client and proxy, or `None`."""
    alpn: bytes
    """The protocol that client and proxy negotiated (ALPN), or `b""`."""
    tlvs: Mapping[int, bytes]
    """All values (TLVs) of a version 2 header by type, as bytes."""

    @classmethod
    def of(cls, peer: Peer, header: ProxyHeader) -> Self:
        """Return the facts in `header` from the proxy at `peer`. Only the server calls this."""
        rest = (header.authority, header.unique_id, header.ssl, header.alpn, header.tlvs)
        return cls(peer, header.version, header.command, *rest)


class Envelope:
    """Describes a mail transaction: the envelope of one message, from MAIL to its end.

    It is `session.transaction`, for all hooks from `on_mail` to `on_message`. A transaction ends
    with the reply to the message, with RSET, HELO, EHLO or QUIT, or without its client. MAIL begins
    another (RFC 5321 3.3). If MAIL is rejected, there was none.

    Example:

        async def on_rcpt(self, session, recipient, params):
            if len(session.transaction.recipients) == 10:
                raise ehlo.Reject(452, "4.5.3", "Ten recipients are enough")
            session.transaction.state.mailbox = await self.find(recipient)
    """

    __slots__ = ("_transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    @property
    def sender(self) -> Address:
        """The envelope sender, with its parameters; `sender.is_null` for the null reverse path."""
        return self._transaction.sender

    @property
    def recipients(self) -> tuple[Address, ...]:
        """The recipients accepted so far, in the order in which the client gave them.

        In `on_rcpt`, they do not include the recipient that the hook decides on.
        """
        return tuple(self._transaction.recipients)

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for your own values, which ends with the transaction.

        `message.state` is the same object.
        """
        return self._transaction.state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Envelope) and self._transaction is other._transaction

    def __hash__(self) -> int:
        return hash(id(self._transaction))

    def __repr__(self) -> str:
        return f"<Envelope from {self.sender} for {len(self._transaction.recipients)}>"


class Session:
    """Holds the facts about a connected client. Hooks read them, and may write to `state`.

    `id`, `peer` and `local` are there from the beginning. The client adds `helo` and `esmtp` by
    HELO, EHLO or LHLO, `tls` by STARTTLS, `user` by AUTH, and `transaction` by MAIL.

    STARTTLS (RFC 3207 4.2) and XCLIENT reset `helo`, `esmtp`, `user` and `state`. STARTTLS also
    undoes an XCLIENT before it.

    Example:

        async def on_mail(self, session, sender, params):
            if session.tls is None and not session.peer.is_unix:
                raise ehlo.Reject(530, "5.7.0", "Must issue a STARTTLS command first")
    """

    __slots__ = (
        *("_conversation", "_ends", "_state"),
        *("id", "local", "peer", "proxy", "rdns", "tls", "user"),
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
        """The unique id of the session, also in the log and in message ids."""
        self.peer: Peer = peer
        """The client's address."""
        self.local: Peer = local
        """The server's address that the client connected to."""
        self.proxy = proxy
        """The PROXY header of the connection; `None` without one."""
        self.tls: TLSInfo | None = None
        """The TLS handshake of the connection; `None` in plaintext."""
        self.user: str | None = None
        """The identity of the client after a login; `None` before."""
        self.rdns: str = ""
        """The client's name by reverse DNS (option `reverse_dns`); `""` until it is known."""
        self._ends: tuple[Peer, Peer] | None = None  # the real peer and local, after XCLIENT
        self._state: SimpleNamespace | None = None

    @property
    def helo(self) -> str:
        """The name that the client gave in HELO, EHLO or LHLO; `""` before."""
        return self._conversation.helo

    @property
    def esmtp(self) -> bool:
        """Whether the client sent EHLO or LHLO rather than HELO; already known in `on_hello`."""
        return self._conversation.esmtp

    @property
    def transaction(self) -> Envelope | None:
        """The mail transaction: its sender, its recipients and its `state`; `None` outside of one.

        It is there for all hooks from `on_mail` to `on_message`.
        """
        transaction = self._conversation.transaction
        return Envelope(transaction) if transaction is not None else None

    @property
    def sender(self) -> Address | None:
        """The envelope sender of the current transaction; `None` outside of one."""
        transaction = self._conversation.transaction
        return transaction.sender if transaction is not None else None

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for your own values, kept until the session ends or is reset.

        It is for the whole session. What belongs to one message goes into `transaction.state`.
        """
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def transcript(self) -> Transcript | None:
        """The lines of this session so far; `None` unless the option `transcripts` keeps them.

        It is there for all hooks, `on_disconnect` included, whether the session brought mail or
        not. Keep a reference to it to read it later; the server drops it at the end.
        """
        narrator = self._conversation.output.narrator
        return None if narrator is None else narrator.transcript

    @property
    def xclient(self) -> Mapping[str, str | None]:
        """The attributes that a proxy sent by XCLIENT, by upper-case name; empty without XCLIENT.

        A value is `None` if the proxy does not know it. `peer`, `local`, `rdns`, `user`, `helo`
        and `esmtp` already reflect these attributes.
        """
        return self._conversation.xclient

    @property
    def forwarded(self) -> Mapping[str, str | None] | None:
        """The attributes of the next message that an upstream server sent by XFORWARD, or `None`.

        The names are NAME, ADDR, PORT, PROTO, HELO, IDENT and SOURCE. They are meant for logs; the
        server does not act on them. They are dropped when the transaction ends.
        """
        return self._conversation.forwarded

    def restart(self, conversation: Conversation) -> None:
        """Forget what the client sent before TLS (RFC 3207 4.2). Only the server calls this."""
        self._conversation = conversation
        self.user = None
        self._state = None

    def speak_for(self, attributes: Mapping[str, str | None]) -> None:
        """Replace the client's facts by those from XCLIENT. Only the server calls this."""
        self._ends = peer, local = self._ends or (self.peer, self.local)
        self.peer = _end(peer, attributes, "ADDR", "PORT")
        self.local = _end(local, attributes, "DESTADDR", "DESTPORT")
        self.rdns = attributes.get("NAME") or ""
        self.user = attributes.get("LOGIN")
        self._state = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.peer}>"


def _end(end: Peer, attributes: Mapping[str, str | None], address: str, port: str) -> Peer:
    """Return `end` with its host and port replaced by the attributes, if they are known."""
    host = attributes.get(address)
    number = attributes.get(port)
    if host is None:
        return end if number is None or end.is_unix else Peer(end.host, int(number))
    return Peer(unmapped(host), int(number or 0))


current_session: ContextVar[Session | None] = ContextVar("ehlo_session", default=None)
"""The session whose hook is running, in a thread of a `def` hook too; `None` outside of hooks."""
