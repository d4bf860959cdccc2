"""What a handler sees: `Session`, facts about a client; `Message`, mail that is here as a whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from ehlo.protocol.address import Address
from ehlo.protocol.connection import Connection

if TYPE_CHECKING:
    from email.message import EmailMessage

    from ehlo.protocol.proxy import ProxyHeader, ProxySSL

__all__ = ["Message", "Peer", "ProxyInfo", "Session", "TLSInfo", "current_session"]

_SLICE = 65_536


class Peer(NamedTuple):
    """An end of a connection. Prints as `host:port`, `[v6]:port`, or the path of a Unix socket."""

    host: str
    """An IP address, or `unix:` and a path."""
    port: int
    """0 for a Unix socket."""

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether this is an end of a Unix socket."""
        return self.host.startswith("unix:")


class TLSInfo(NamedTuple):
    """What was agreed on in the handshake."""

    version: str
    """As `ssl` names it: `"TLSv1.3"`."""
    cipher: str
    sni: str | None
    """The server name that the client asked for, where we could see it."""
    peer_certificate: dict[str, Any] | None
    """As `ssl.SSLObject.getpeercert` gives it; `None` when the client has shown none."""


class ProxyInfo(NamedTuple):
    """What a proxy said in its PROXY header. None of it is proof of anything but the proxy's word.

    Above all TLS between client and proxy is not TLS with us: `Session.tls` does not tell of it.
    """

    peer: Peer
    """The proxy itself."""
    version: int
    """Of the header: 1 or 2."""
    command: str
    """`"PROXY"`; `"LOCAL"` when the proxy speaks for itself, as in a health check."""
    authority: str
    """The host name that the client asked the proxy for (SNI), or `""`."""
    unique_id: bytes
    ssl: ProxySSL | None
    """What was said of TLS between client and proxy."""
    alpn: bytes
    tlvs: Mapping[int, bytes]
    """Every value by its type, as it came."""

    @classmethod
    def of(cls, peer: Peer, header: ProxyHeader) -> Self:
        """`header`, as the proxy at `peer` sent it."""
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
    """Facts about a connected client; a hook reads them and sets none but `state`.

    `id` is unique, and the same in the log, in `Received` and in message ids. After STARTTLS
    `helo`, `esmtp`, `user` and `state` are new; the rest stays.
    """

    __slots__ = ("_connection", "_state", "id", "local", "peer", "proxy", "rdns", "tls", "user")

    def __init__(
        self,
        session_id: str,
        peer: Peer,
        local: Peer,
        connection: Connection,
        proxy: ProxyInfo | None = None,
    ) -> None:
        self._connection = connection
        self.id = session_id
        self.peer = peer
        """The client's address."""
        self.local = local
        """Our address, as the client reached it."""
        self.proxy = proxy
        """The proxy between us, which has told both; `None` without one."""
        self.tls: TLSInfo | None = None
        self.user: str | None = None
        """The identity that the client has proved, or `None`."""
        self.rdns = ""
        """The client's name by reverse DNS, once it has arrived; `""` when not asked for."""
        self._state: SimpleNamespace | None = None

    @property
    def helo(self) -> str:
        """The name in HELO or EHLO; `""` before it."""
        return self._connection.helo

    @property
    def esmtp(self) -> bool:
        """Whether it was EHLO."""
        return self._connection.esmtp

    @property
    def sender(self) -> Address | None:
        """The reverse path of the transaction under way; `None` outside of one."""
        transaction = self._connection.transaction
        return transaction.sender if transaction is not None else None

    @property
    def state(self) -> SimpleNamespace:
        """A namespace that is the user's own, for what hooks want to keep."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    def restart(self, connection: Connection) -> None:
        """RFC 3207 4.2: what the client said before TLS is not remembered."""
        self._connection = connection
        self.user = None
        self._state = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.peer}>"


current_session: ContextVar[Session | None] = ContextVar("ehlo_session", default=None)
"""The session that a hook is run for; the threads of `def` hooks have it, too."""


class Message:
    """A message as a handler gets it: the whole of it is here.

    `sender` and `recipients` are `Address` values, in the order given; `size` is the octets of the
    body. Bytes are asked for as `data` (our `Received` field and the body), `body` or `trace`.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_data",
        "_email",
        "id",
        "recipients",
        "sender",
        "trace",
    )

    def __init__(
        self,
        message_id: str,
        sender: Address,
        recipients: list[Address],
        trace: bytes,
        chunks: list[bytes],
    ) -> None:
        self.id = message_id
        """Unique; the same in `Received` and in the log."""
        self.sender = sender
        self.recipients = recipients
        self.trace = trace
        """Our `Received` field, with its line ends."""
        self._chunks = chunks
        self._data: bytes | None = None
        self._body: bytes | None = None
        self._email: EmailMessage | None = None

    @property
    def size(self) -> int:
        """Octets of the body."""
        if self._data is not None:
            return len(self._data) - len(self.trace)
        return sum(map(len, self._chunks)) if self._body is None else len(self._body)

    @property
    def data(self) -> bytes:
        """`trace` and `body`: what is to be stored or passed on."""
        if self._data is None:
            body = self._chunks if self._body is None else [self._body]
            self._data = b"".join([self.trace, *body])
            self._chunks = []
        return self._data

    @property
    def body(self) -> bytes:
        """What the client sent: dots unstuffed, line ends as the server was told to make them."""
        if self._body is None:
            data = self._data
            self._body = b"".join(self._chunks) if data is None else data[len(self.trace) :]
            self._chunks = []
        return self._body

    @property
    def file(self) -> BinaryIO:
        """A new binary file over `data`, at its beginning, for reading."""
        return io.BytesIO(self.data)

    def stream(self) -> Iterator[bytes]:
        """`data` in slices of at most 64 KiB."""
        if self._data is not None:
            pieces = [self._data]
        else:
            pieces = [self.trace, *(self._chunks if self._body is None else [self._body])]
        for piece in pieces:
            for start in range(0, len(piece), _SLICE):
                yield piece[start : start + _SLICE]

    @property
    def email(self) -> EmailMessage:
        """The message parsed by the standard library, when first asked for."""
        if self._email is None:
            from email import message_from_bytes, policy  # slow to import, and few ask

            self._email = message_from_bytes(self.data, policy=policy.default)
        return self._email

    def __repr__(self) -> str:
        return f"<Message {self.id} from {self.sender} for {len(self.recipients)}>"
