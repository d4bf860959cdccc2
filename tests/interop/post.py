"""The server of these tests, and a handler that keeps the messages it gets."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import trustme

import ehlo

USER = "dötty@example.com"
ASCII_USER = "dot@example.com"
PASSWORD = "correct horse; battery=staple"
TOKEN = "ya29.vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
REFUSED = "refused@example.com"
REFUSED_MARK = b"X-Please-Refuse: yes"
DEFERRED_MARK = b"X-Please-Defer: once"
ADDRESS = "127.0.0.1"
PATIENCE = 60.0
"""Seconds that a test waits at most."""

Security = Literal["plain", "starttls", "tls"]
SECURITIES: tuple[Security, ...] = ("plain", "starttls", "tls")


@dataclass(frozen=True)
class Received:
    """A message as the handler got it, and the facts of its session."""

    sender: str
    recipients: list[str]
    trace: bytes
    body: bytes
    data: bytes
    email: EmailMessage
    user: str | None
    tls: str
    params: Mapping[str, Any]
    via: str
    peer: ehlo.Peer
    xclient: Mapping[str, str | None]
    forwarded: Mapping[str, str | None] | None


class Post(ehlo.Handler):
    """Keeps all mail, except what it is asked to reject or to defer; knows two users."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.transcript: list[str] = []
        self._deferred: set[str] = set()
        self.sessions = 0
        self._changed = threading.Condition()

    def on_auth(self, _session: ehlo.Session, credentials: ehlo.Credentials) -> str | None:
        match credentials:
            case ehlo.PasswordCredentials(username, secret):
                known = username in (USER, ASCII_USER) and secret == PASSWORD
                return username if known else None
            case ehlo.TokenCredentials(username, secret):
                return username if (username, secret) == (ASCII_USER, TOKEN) else None
            case ehlo.CertificateCredentials(certificate, authzid):
                names = [name for kind, name in certificate["subjectAltName"] if kind == "email"]
                return names[0] if authzid in ("", *names) else None
            case ehlo.AnonymousCredentials():
                return "anonymous"
            case _:
                return None

    def on_secret(self, _session: ehlo.Session, username: str) -> str | None:
        return PASSWORD if username in (USER, ASCII_USER) else None

    def on_rcpt(
        self, _session: ehlo.Session, recipient: ehlo.Address, _params: Mapping[str, Any]
    ) -> None:
        if str(recipient) == REFUSED:
            raise ehlo.Reject(550, "5.1.1", "No such user here")

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> str:
        if REFUSED_MARK in message.body:
            raise ehlo.Reject(554, "5.7.1", "Not this one, thank you")
        if DEFERRED_MARK in message.body and not self._has_deferred(message.email["message-id"]):
            raise ehlo.Reject(451, "4.3.0", "Later, please")
        received = Received(
            str(message.sender),
            [str(recipient) for recipient in message.recipients],
            message.trace,
            message.body,
            message.data,
            message.email,
            session.user,
            session.tls.version if session.tls is not None else "",
            message.sender.params,
            message.via,
            session.peer,
            session.xclient,
            session.forwarded,
        )
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        return message.id

    def _has_deferred(self, name: str) -> bool:
        """Return whether this message was deferred before, and remember it."""
        with self._changed:
            before = name in self._deferred
            self._deferred.add(name)
            return before

    def on_connect(self, _session: ehlo.Session) -> None:
        with self._changed:
            self.sessions += 1

    def on_disconnect(self, _session: ehlo.Session) -> None:
        with self._changed:
            self.sessions -= 1
            self._changed.notify_all()

    def wait_for(self, messages: int, patience: float = PATIENCE) -> bool:
        """Wait until so many are here and all clients gone; return whether that came in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: len(self.received) >= messages and not self.sessions, patience
            )

    def note_read(self, _peer: ehlo.Peer, _verb: str, line: str) -> None:
        self.transcript.append(f"C: {line}")

    def note_written(self, _peer: ehlo.Peer, _verb: str, line: str) -> None:
        self.transcript.append(f"S: {line}")


@dataclass(frozen=True)
class Certificates:
    """A certificate for `localhost` and 127.0.0.1, and its authority."""

    certificate: Path
    key: Path
    authority: Path
    client: Path
    """A client certificate and its key."""

    @classmethod
    def made_in(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        pair = authority.issue_cert("localhost", ADDRESS)
        files = ("server.crt", "server.key", "ca.pem", "client.pem")
        made = cls(*(folder / name for name in files))
        for blob in pair.cert_chain_pems:
            blob.write_to_path(str(made.certificate), append=True)
        pair.private_key_pem.write_to_path(str(made.key))
        authority.cert_pem.write_to_path(str(made.authority))
        user = authority.issue_cert(ASCII_USER)
        user.private_key_and_cert_chain_pem.write_to_path(str(made.client))
        return made

    def client_context(self) -> ssl.SSLContext:
        """Return a context for Python clients that trusts only this authority."""
        return ssl.create_default_context(cafile=str(self.authority))


@dataclass
class Office:
    """A running server: its address, and the messages it got."""

    port: int
    security: Security
    authority: Path
    post: Post = field(repr=False)
    host: str = "localhost"
    client_certificate: Path = Path()

    @property
    def received(self) -> list[Received]:
        return self.post.received

    @property
    def transcript(self) -> str:
        return "\n".join(self.post.transcript)


@contextlib.contextmanager
def office(
    certificates: Certificates,
    security: Security,
    post: Post | None = None,
    newest_tls: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    **options: Any,
) -> Iterator[Office]:
    """Run a server in a thread, on a free port of loopback."""
    post = post or Post()
    server = ehlo.Server(
        post,
        addr=f"{ADDRESS}:0",
        hostname="mx.example.com",
        log_read=post.note_read,
        log_write=post.note_written,
        tls_listener=security == "tls",
        **options,
    )
    if security != "plain":
        server.configure_tls(
            str(certificates.certificate),
            str(certificates.key),
            client_ca=str(certificates.authority),
        )
        assert isinstance(server.options.tls_config, ssl.SSLContext)
        server.options.tls_config.maximum_version = newest_tls
    with server.in_thread():
        yield Office(
            server.addresses[0].port,
            security,
            certificates.authority,
            post,
            client_certificate=certificates.client,
        )
