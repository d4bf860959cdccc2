"""What a handler sees: `Session`, facts about a client; `Message`, mail that is here as a whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, Self, cast

from ehlo.protocol.address import Address
from ehlo.protocol.connection import Connection
from ehlo.protocol.reply import Reply
from ehlo.spool import Spool, SpooledFile

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


def unmapped(host: str) -> str:
    """An IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) as what it stands for; any other as it is."""
    if not host.lower().startswith("::ffff:"):
        return host
    import ipaddress  # slow, and few listeners serve IPv4 over IPv6

    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


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

    __slots__ = (
        *("_connection", "_ends", "_state", "id", "local", "peer", "proxy", "rdns", "tls", "user"),
    )

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
        self._ends: tuple[Peer, Peer] | None = None  # the real ones, once XCLIENT told of others
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

    @property
    def xclient(self) -> Mapping[str, str | None]:
        """What a proxy has said by XCLIENT, by upper-case name; `None` for what it does not know.

        `peer`, `local`, `rdns`, `user`, `helo` and `esmtp` say it already.
        """
        return self._connection.xclient

    @property
    def forwarded(self) -> Mapping[str, str | None] | None:
        """What an upstream server has said by XFORWARD of where this message came from.

        By upper-case name: NAME, ADDR, PORT, PROTO, HELO, IDENT, SOURCE. `None` when it said
        nothing. It is for a log; nothing here believes it.
        """
        return self._connection.forwarded

    def restart(self, connection: Connection) -> None:
        """RFC 3207 4.2: what the client said before TLS is not remembered."""
        self._connection = connection
        self.user = None
        self._state = None

    def speak_for(self, attributes: Mapping[str, str | None]) -> None:
        """XCLIENT: what it says takes the place of what we have seen; the server calls this."""
        self._ends = peer, local = self._ends or (self.peer, self.local)
        self.peer = _end(peer, attributes, "ADDR", "PORT")
        self.local = _end(local, attributes, "DESTADDR", "DESTPORT")
        self.rdns = attributes.get("NAME") or ""
        self.user = attributes.get("LOGIN")
        self._state = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.peer}>"


def _end(end: Peer, attributes: Mapping[str, str | None], address: str, port: str) -> Peer:
    """An end of the connection, as far as XCLIENT says another."""
    host = attributes.get(address)
    number = attributes.get(port)
    if host is None:
        return end if number is None or end.is_unix else Peer(end.host, int(number))
    return Peer(unmapped(host), int(number or 0))


current_session: ContextVar[Session | None] = ContextVar("ehlo_session", default=None)
"""The session that a hook is run for; the threads of `def` hooks have it, too."""


class Message:
    """A message as a handler gets it: the whole of it is here.

    `sender` and `recipients` are `Address` values, in the order given; `size` is the octets of the
    body. Bytes are asked for as `data` (our `Received` field and the body), `body` or `trace`.
    `via` is the command that the body came by.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_chunks",
        "_data",
        "_email",
        "_refusals",
        "_spool",
        "_streams",
        "id",
        "per_recipient",
        "recipients",
        "sender",
        "trace",
        "via",
    )

    def __init__(
        self,
        message_id: str,
        sender: Address,
        recipients: list[Address],
        trace: bytes,
        chunks: list[bytes],
        *,
        spool: Spool | None = None,
        streams: bool = False,
        via: Literal["DATA", "BDAT"] = "DATA",
        per_recipient: bool = False,
    ) -> None:
        self.id = message_id
        """Unique; the same in `Received` and in the log."""
        self.sender = sender
        self.recipients = recipients
        self.trace = trace
        """Our `Received` field, with its line ends."""
        self.via = via
        self.per_recipient = per_recipient
        """Whether there is an answer for each recipient: in LMTP (RFC 2033)."""
        self._refusals: dict[str, Reply] = {}
        self._chunks = chunks
        self._spool = spool  # has all of the body when there is one
        self._streams = streams
        self._data: bytes | None = None
        self._body: bytes | None = None
        self._email: EmailMessage | None = None

    def refuse(self, recipient: Address | str, reply: Reply) -> None:
        """In LMTP, refuse for one recipient; for the others `on_message`'s result stands.

        A recipient given twice is refused twice. Raises `ValueError` for one that is none of
        `recipients` or a `reply` that is no 4xx or 5xx, `RuntimeError` where there is one answer
        for all.
        """
        if not self.per_recipient:
            raise RuntimeError("SMTP has one answer for all recipients: raise Reject")
        if str(recipient) not in map(str, self.recipients):
            raise ValueError(f"not a recipient of {self.id}")
        if not reply.refuses:
            raise ValueError(f"{reply.code} refuses nothing")
        self._refusals[str(recipient)] = reply

    @property
    def refusals(self) -> Mapping[str, Reply]:
        """What `refuse` was told, by recipient."""
        return self._refusals

    @property
    def size(self) -> int:
        """Octets of the body."""
        if self._spool is not None:
            return self._spool.size
        if self._data is not None:
            return len(self._data) - len(self.trace)
        return sum(map(len, self._chunks)) if self._body is None else len(self._body)

    @property
    def spooled(self) -> bool:
        """Whether the body is on disk: `data` and `body` read the whole of it into memory."""
        return self._spool is not None

    @property
    def data(self) -> bytes:
        """`trace` and `body`: what is to be stored or passed on."""
        if self._data is None:
            body = self._chunks if self._body is None else [self._body]
            self._data = self._read(self.trace) if self._spool else b"".join([self.trace, *body])
            self._chunks = []
        return self._data

    @property
    def body(self) -> bytes:
        """What the client sent: dots unstuffed, line ends as the server was told to make them."""
        if self._body is None:
            if self._data is not None:
                self._body = self._data[len(self.trace) :]
            else:
                self._body = self._read(b"") if self._spool else b"".join(self._chunks)
            self._chunks = []
        return self._body

    def _read(self, head: bytes) -> bytes:
        """All of the spool behind `head`, in memory once: the buffer becomes the bytes."""
        if self._streams:
            raise RuntimeError("the handler has `streams` set: read stream() or file")
        whole = io.BytesIO()
        whole.writelines(self._pieces(head))
        return whole.getvalue()

    def _pieces(self, head: bytes) -> Iterator[bytes]:
        """`head` and the body, piece by piece, as it rests."""
        yield head
        spool = self._spool
        if spool is None:
            yield from self._chunks if self._body is None else [self._body]
            return
        for start in range(0, spool.size, _SLICE):
            yield spool.read_at(start, _SLICE)

    @property
    def file(self) -> BinaryIO:
        """A new binary file over `data`, at its beginning, for reading; on disk if the body is."""
        if self._spool is not None and self._data is None:
            return cast("BinaryIO", io.BufferedReader(SpooledFile(self.trace, self._spool), _SLICE))
        return io.BytesIO(self.data)

    def stream(self) -> Iterator[bytes]:
        """`data` in slices of at most 64 KiB; no more than one is held of a body on disk."""
        pieces = [self._data] if self._data is not None else self._pieces(self.trace)
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
