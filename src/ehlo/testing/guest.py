"""`Guest`: one client of an inbox, without input and output: bytes in, replies out.

The engine above it is a port or memory. It sends what `feed` returns, after the delay that
`take_delay` returns; nothing here waits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ehlo.faults import Stage
from ehlo.net import Peer
from ehlo.protocol import Responder, events
from ehlo.protocol import reply as replies
from ehlo.protocol.events import Event
from ehlo.protocol.reply import Disconnect, Reply
from ehlo.protocol.state import Transaction
from ehlo.session import TLSInfo
from ehlo.testing.received import ReceivedMail
from ehlo.testing.rulebook import Rulebook

Action = Reply | Disconnect | None


class Guest:
    r"""Serves one client by the rules of an inbox, as they were when it connected.

    Example::

        guest = Guest(rulebook, Peer("127.0.0.1", 4711))
        send(guest.feed(b""))                                # the greeting
        send(guest.feed(b"EHLO client.example\r\n"))
    """

    def __init__(self, rulebook: Rulebook, peer: Peer, *, implicit_tls: bool = False) -> None:
        """With `implicit_tls`, `secured` precedes the greeting."""
        self._rulebook = rulebook
        self._offer = rulebook.offer
        self._peer = peer
        self._tls: TLSInfo | None = None
        self._user: str | None = None
        self._refused_user: str | None = None  # by a fault, and by which mechanisms
        self._refused_by: dict[str, Action] = {}
        self._delay = 0.0
        self._session = rulebook.begin_session()
        self._responder = Responder(
            self._decide,
            self._offer.settings,
            tls=implicit_tls,
            transcript=self._session,
            nonce=_nonce,
        )

    @property
    def closed(self) -> bool:
        """Whether to close the connection, once what was returned is sent."""
        return self._responder.closed or self._rulebook.closed

    @property
    def awaits_tls(self) -> bool:
        """Whether a handshake comes next, and then `secured`."""
        return self._responder.awaits_tls

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client, and return the replies; the first call returns the greeting."""
        return self._responder.feed(data)

    def feed_eof(self) -> bytes:
        """Note that the client sends no more; return the replies to what it has sent."""
        return self._responder.feed_eof()

    def take_delay(self) -> float:
        """Return the seconds by which the replies that `feed` returned are late."""
        delay, self._delay = self._delay, 0.0
        return delay

    def secured(self, tls: TLSInfo) -> None:
        """Change to TLS after a handshake."""
        self._tls, self._user = tls, None
        self.note(f"TLS handshake: {tls.version} {tls.cipher}")
        if self.awaits_tls:
            self._responder.secured()

    def note(self, text: str) -> None:
        """Add an event to the transcript."""
        self._session.add("note", text)

    # -- decisions -------------------------------------------------------------------------------

    def _decide(self, event: Event) -> Action:
        match event:
            case events.Connect():
                return self._strike("connect")
            case events.Hello():
                return self._strike("helo")
            case events.StartTLS():
                return self._strike("starttls")
            case events.Auth():
                return self._login(event)
            case events.Mail(sender):
                return self._strike("mail", mail_from=str(sender))
            case events.Rcpt(recipient):
                return self._strike_in_transaction("rcpt", [str(recipient)])
            case events.Data():
                return self._strike_in_transaction("data")
            case events.MessageEnd(transaction, body):
                action = self._strike_in_transaction("end")
                if action is None or (isinstance(action, Reply) and not action.refuses):
                    return self._receive(transaction, body or b"", action)
                return action
            case _:
                return None

    def _strike(
        self, at: Stage, *, mail_from: str | None = None, to: Sequence[str] | None = None
    ) -> Action:
        """Return what a fault does here, and note its delay."""
        verdict = self._rulebook.faults.strike(at, mail_from=mail_from, to=to)
        self._delay += verdict.delay
        return verdict.action

    def _strike_in_transaction(self, at: Stage, to: Sequence[str] | None = None) -> Action:
        transaction = self._responder.connection.transaction
        if transaction is None:
            return self._strike(at, to=to)
        recipients = [str(each) for each in transaction.recipients] if to is None else to
        return self._strike(at, mail_from=str(transaction.sender), to=recipients)

    def _login(self, event: events.Auth) -> Action:
        mechanism, user = event.mechanism, event.username
        # smtplib tries all mechanisms in one login(), which a fault meets as a whole
        if user is None or user != self._refused_user or mechanism in self._refused_by:
            self._refused_user, self._refused_by = user, {}
        refusal = next(iter(self._refused_by.values()), None) or self._strike("auth")
        if refusal is not None:
            self._refused_by[mechanism] = refusal
            return refusal
        if not self._offer.knows(event.credentials):
            return replies.BAD_CREDENTIALS
        self._user = user
        return None

    def _receive(self, transaction: Transaction, body: bytes, reply: Reply | None) -> Reply:
        """Add a mail to the inbox."""
        mail = ReceivedMail(
            self._rulebook.next_id(),
            str(transaction.sender),
            [str(each) for each in transaction.recipients],
            body,
            session=self._session,
            peer=self._peer,
            params=transaction.sender.params,
            user=self._user,
            tls=self._tls,
        )
        self._rulebook.add(mail)
        return reply or replies.queued_as(mail.id)


def _nonce() -> str:
    return os.urandom(16).hex()
