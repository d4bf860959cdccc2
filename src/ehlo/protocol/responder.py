"""`Responder`: a whole SMTP server without input and output: it takes bytes and returns bytes.

It is `Connection` with the loop around it: bodies are put together, and one function decides. There
is no clock, so nothing times out, and no client has to wait after errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ehlo.protocol import events, verbs
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import CramMD5Credentials, PeerCertificate, ProvedCredentials
from ehlo.protocol.auth.mechanism import MechanismError
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import Event, Waiting
from ehlo.protocol.reply import Disconnect, ProtocolError, Reject, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, State
from ehlo.transcript import Transcript

Decision = Reply | Disconnect | Sequence[Reply | None] | None
"""What a `decide` function returns: `None` accepts; in LMTP, a message may have several answers."""

_NOTHING_ASKED: Final = frozenset[type[Event]]()


def accept_mail(event: Event) -> Decision:
    """Accept everything but a login."""
    return replies.BAD_CREDENTIALS if isinstance(event, events.Auth) else None


class Responder:
    r"""An SMTP server for one client: `feed` takes the client's bytes and returns the replies.

    `decide` is called with each event that needs a decision: `Connect`, `Hello`, `StartTLS`,
    `Auth`, `Mail`, `Rcpt`, `Data`, `MessageEnd` (with the whole body), `Reset`, `Vrfy`, `XClient`
    and `Command`. It returns `None` to accept, a `Reply`, or `Disconnect()` to close without a
    reply; it may raise `Reject` and `Disconnect`, too. In LMTP, it may answer a message with a list
    of a `Reply` or `None` for each recipient. Without `decide`, all mail is accepted, and every
    login is rejected.

    `settings` has the rules; with mechanisms for logins, `nonce` must be a function that returns
    unpredictable text. `secret` returns a user's password for SCRAM and CRAM-MD5, or `None`; their
    proofs are checked before `decide` is asked. It may raise `Reject`, too. `tls` is whether the
    connection begins under TLS, and `certificate` the client's there. `trusted` has `"XCLIENT"` and
    `"XFORWARD"` if the client may send those. `transcript` gets each line.

    Raises `ValueError` if there are mechanisms and no `nonce`.

    Example:

        >>> from ehlo.protocol import Reply, Responder, events
        >>> def decide(event):
        ...     if isinstance(event, events.Rcpt) and event.recipient.domain != "example.com":
        ...         return Reply(550, "5.1.1", "No such user here")
        >>> responder = Responder(decide)
        >>> responder.feed(b"")
        b'220 localhost smtpd ESMTP Service ready\r\n'
        >>> responder.feed(b"HELO c.example\r\nMAIL FROM:<a@c.example>\r\n").splitlines()
        [b'250 localhost greets c.example', b'250 2.1.0 Ok']
        >>> responder.feed(b"RCPT TO:<b@other.example>\r\n")
        b'550 5.1.1 No such user here\r\n'
    """

    __slots__ = (
        *("_body", "_certificate", "_decide", "_nonce", "_secret", "_settings", "_transcript"),
        *("_trusted",),
        *("closed", "connection"),
    )

    def __init__(
        self,
        decide: Callable[[Event], Decision] | None = None,
        settings: Settings | None = None,
        *,
        tls: bool = False,
        transcript: Transcript | None = None,
        nonce: Callable[[], str] | None = None,
        secret: Callable[[str], object] | None = None,
        trusted: frozenset[str] = frozenset(),
        certificate: PeerCertificate | None = None,
    ) -> None:
        settings = settings or Settings()
        if settings.mechanisms and nonce is None:
            raise ValueError(
                "settings.mechanisms needs a nonce; pass nonce=lambda: secrets.token_hex(16)"
            )
        self._decide = decide
        self._settings = settings
        self._transcript = transcript
        self._nonce: Callable[[], str] = nonce or str
        self._secret = secret
        self._trusted = trusted
        self._certificate = certificate
        self._body: list[bytes] = []
        self.closed: bool = False
        """Whether the connection is to be closed, once what was returned is sent."""
        self.connection: Connection = self._connect(tls=tls)
        """The connection as it is now: its state, the transaction and the client's name."""

    def _connect(
        self, *, tls: bool, greet: bool = True, counts: Counts | None = None
    ) -> Connection:
        return Connection(
            self._settings,
            self._nonce,
            tls=tls,
            greet=greet,
            counts=counts,
            asks=_NOTHING_ASKED if self._decide is None else verbs.QUESTIONS,
            transcript=self._transcript,
            trusted=self._trusted,
            certificate=self._certificate if tls else None,
        )

    @property
    def awaits_tls(self) -> bool:
        """Whether STARTTLS was accepted: call `secured` once the handshake is over."""
        return not self.closed and self.connection.state is State.TLS

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client, and return what to send; the first call returns the greeting.

        Raises `ProtocolError` between STARTTLS and `secured`, and what `decide` raises; the
        connection is closed then.
        """
        if self.awaits_tls:
            raise ProtocolError("STARTTLS was accepted; call secured() before feed()")
        if self.closed:
            return b""
        heard = self.connection.hear(data) if data else None
        if isinstance(heard, bytes):
            return heard
        if heard is None:
            self.connection.receive_data(data)
        return self._advance(heard)

    def feed_eof(self) -> bytes:
        """Note that the client sends no more; return the replies to what it has sent."""
        if self.closed:
            return b""
        self.connection.receive_eof()
        if self.awaits_tls:
            self.connection.hang_up()
        return self._advance()

    def secured(self) -> None:
        """Continue under TLS, after a handshake that is real or simulated (RFC 3207 4.2).

        Raises `ProtocolError` unless STARTTLS was accepted.
        """
        if not self.awaits_tls:
            raise ProtocolError("no STARTTLS was accepted")
        if self._transcript is not None:
            self._transcript.add("note", "TLS")
        self.connection = self._connect(tls=True, greet=False, counts=self.connection.counts)

    def _advance(self, event: Event | Waiting | None = None) -> bytes:
        """Deal with all events; `event` is the first one, if it is known."""
        connection = self.connection
        event = event or connection.next_event()
        try:
            while not isinstance(event, Waiting):
                if isinstance(event, events.Close):
                    self.closed = True
                    break
                self._on(event)
                event = connection.next_event()
        except BaseException:
            self.closed = True
            raise
        return connection.data_to_send()

    def _on(self, event: Event) -> None:
        connection = self.connection
        match event:
            case events.BodyChunk(data):
                self._body.append(data)
            case events.BodyRefused() | events.BodyDropped():
                self._body.clear()
            case events.Tarpit():
                connection.resume()
            case events.Full():
                pass
            case events.Secret(_, username):
                self._give_secret(username)
            case events.LoginStep():
                connection.give_derived(MechanismError("a Responder cannot await a step"))
            case _:
                self._answer(event)

    def _answer(self, event: Event) -> None:
        """Ask about an event, and reply."""
        if isinstance(event, events.MessageEnd):
            body = b"".join([*self._body, event.body or b""])
            self._body.clear()
            event = events.MessageEnd(event.transaction, body)
        try:
            decision: Decision = self._unproved(event)
            if decision is None:
                decision = (self._decide or accept_mail)(event)
        except Disconnect as disconnect:
            decision = disconnect.with_traceback(None)  # which keeps the event
        except Reject as reject:
            decision = reject.with_traceback(None).reply
        if isinstance(decision, Disconnect):
            self.connection.hang_up()
        elif decision is None or isinstance(decision, Reply):
            self.connection.reply(decision)
        else:
            self.connection.reply_each(decision)

    def _unproved(self, event: Event) -> Reply | None:
        """Return the rejection of a login whose proof is wrong."""
        if not isinstance(event, events.Auth):
            return None
        match event.credentials:
            case ProvedCredentials(proved=proved):
                known = proved
            case CramMD5Credentials(username=username) as credentials if self._secret is not None:
                password = self._secret(username)
                known = isinstance(password, str | bytes) and credentials.matches(password)
            case _:
                return None
        return None if known else replies.BAD_CREDENTIALS

    def _give_secret(self, username: str) -> None:
        try:
            secret = None if self._secret is None else self._secret(username)
        except Reject as reject:
            self.connection.reply(reject.with_traceback(None).reply)
        else:
            self.connection.give_secret(secret)
