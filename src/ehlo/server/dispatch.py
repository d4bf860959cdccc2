"""From event to hook to reply: which hook an event is for, and what its answer changes.

One for a server, without anything of a session in it; the driver it is given has that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.errors import ProtocolError
from ehlo.protocol.events import Event
from ehlo.protocol.reply import Reply
from ehlo.protocol.sasl import CramMD5Credentials
from ehlo.protocol.state import Transaction
from ehlo.protocol.trace import Trace, received_field
from ehlo.server.hooks import Hook, Hooks, answer_of, failure_of, identity_of, queue_answer_of
from ehlo.session import Message

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["Dispatcher", "Notice", "Outcome", "Secured"]

_HOP_LIMIT = 100  # RFC 5321 6.3
_LONGEST_HEADER = 262_144  # no more than this is looked at for hops

Outcome = Callable[[Any], Reply | None]
"""Turns a hook's result into the answer; raises what is then taken for the hook's own failure."""


class Secured(NamedTuple):
    """A TLS handshake is done. The core knows nothing of it: the driver asks."""


class Notice(NamedTuple):
    """A hook is told something, and nobody waits for an answer."""


class Dispatcher:
    """The hooks of one server's handler, and the events that they are for."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    def dispatch(self, driver: Driver, event: Event) -> None:  # noqa: C901  one match, a line an event
        """Answer `event`, now or when a hook has said how."""
        hooks, session = self.hooks, driver.session
        match event:
            case events.BodyChunk(data):
                driver.keep(data)
            case events.MessageEnd(transaction):
                self._message(driver, transaction)
            case events.Mail(sender):
                self._mail(driver, sender)
            case events.Rcpt(recipient):
                self._ask(driver, event, hooks.rcpt, session, recipient, recipient.params)
            case events.Data():
                self._ask(driver, event, hooks.data, session)
            case events.Hello(name):
                self._ask(driver, event, hooks.hello, session, name)
            case events.Connect():
                self._ask(driver, event, hooks.connect, session)
            case events.Reset():
                self._ask(driver, event, hooks.reset, session)
            case events.Vrfy(text):
                self._ask(driver, event, hooks.vrfy, session, text)
            case events.Auth():
                self._auth(driver, event)
            case events.BodyRefused():
                session.sender = None
                driver.drop_body()
            case events.StartTLS():
                driver.start_tls()
            case events.Tarpit(seconds):
                driver.pause_for(seconds)
            case events.Close(linger):
                driver.close(linger=linger)

    def _ask(self, driver: Driver, event: Event, hook: Hook | None, *arguments: object) -> None:
        if hook is None:
            self._answer(driver, event, None)
        else:
            driver.run_hook(hook, arguments, event, answer_of)

    def _mail(self, driver: Driver, sender: Any) -> None:
        event = events.Mail(sender)
        if driver.runtime.memory.is_short:
            self._answer(driver, event, replies.NO_MEMORY)
        else:
            self._ask(driver, event, self.hooks.mail, driver.session, sender, sender.params)

    def _auth(self, driver: Driver, event: events.Auth) -> None:
        """CRAM-MD5 is checked here against a secret, where the handler gives secrets."""
        hooks, session, credentials = self.hooks, driver.session, event.credentials

        def by_identity(result: object) -> Reply | None:
            identity = identity_of(result)
            if isinstance(identity, Reply):
                return identity
            session.user = identity
            return None

        def by_secret(secret: object) -> Reply | None:
            if secret is not None and not isinstance(secret, str | bytes):
                raise TypeError(f"on_secret returns a secret or None, not {type(secret).__name__}")
            known = secret is not None and secret != "" and secret != b""
            good = cram.matches(secret if isinstance(secret, str | bytes) else b"")
            return by_identity(credentials.username if known and good else None)

        if isinstance(credentials, CramMD5Credentials) and hooks.secret is not None:
            cram = credentials
            driver.run_hook(hooks.secret, (session, credentials.username), event, by_secret)
        elif hooks.auth is not None:
            driver.run_hook(hooks.auth, (session, credentials), event, by_identity)
        else:
            raise ProtocolError("a login without a hook for it")

    def _message(self, driver: Driver, transaction: Transaction) -> None:
        event = events.MessageEnd(transaction)
        hook = self.hooks.message
        assert hook is not None  # noqa: S101  as_handler lets no handler in without it
        chunks = driver.take_body()
        if _hops(chunks) >= _HOP_LIMIT:
            self._answer(driver, event, replies.MAIL_LOOP)
            return
        driver.message = message = self._build(driver, transaction, chunks)
        driver.run_hook(hook, (driver.session, message), event, queue_answer_of)

    def _build(self, driver: Driver, transaction: Transaction, chunks: list[bytes]) -> Message:
        session, settings = driver.session, driver.rules.settings
        message_id = driver.next_message_id()
        recipients = transaction.recipients
        peer, tls = session.peer, session.tls
        trace = Trace(
            helo=session.helo,
            rdns=session.rdns,
            address="" if peer.is_unix else peer.host,
            hostname=settings.hostname,
            appname=settings.appname,
            esmtp=session.esmtp,
            tls=f"version={tls.version} cipher={tls.cipher}" if tls is not None else "",
            authenticated=session.user is not None,
            smtputf8=transaction.smtputf8,
            id=message_id,
            recipient=str(recipients[0]) if len(recipients) == 1 else "",
            date=driver.runtime.clock.date(),
        )
        return Message(message_id, transaction.sender, recipients, received_field(trace), chunks)

    # -- answers ---------------------------------------------------------------------------------

    def finish(self, driver: Driver, event: Any, hook: Hook, outcome: Outcome, future: Any) -> None:
        """A hook has ended: make its result the answer."""
        error = TimeoutError("cancelled") if future.cancelled() else future.exception()
        if error is None:
            try:
                self._answer(driver, event, outcome(future.result()))
            except (ProtocolError, TypeError, ValueError) as no_answer:
                error = no_answer
        if error is not None:
            trouble = failure_of(error, hook, driver.session.id, _trouble(event))
            self._answer(driver, event, trouble)

    def late(self, driver: Driver, event: Any) -> None:
        """A hook was over its deadline."""
        trouble = _trouble(event)
        late = replies.HANDLER_TIMEOUT if trouble is replies.TROUBLE else trouble
        self._answer(driver, event, late)

    def _answer(self, driver: Driver, event: Any, answer: Reply | None) -> None:
        """Give the core its answer, and note the facts that follow when it is a positive one."""
        session, connection = driver.session, driver.connection
        accepted = answer is None or not answer.refuses
        match event:
            case Notice():
                driver.noticed()
                return
            case Secured():
                driver.secured(answer)
                return
            case events.Auth() if not accepted and answer is not None and answer.code >= 500:
                session.user = None
                driver.delay_refused_login(answer)
                return
            case _:
                connection.reply(answer)
        match event:
            case events.Mail(sender) if accepted:
                session.sender = sender
            case events.Hello(name, esmtp) if accepted:
                session.helo, session.esmtp, session.sender = name, esmtp, None
            case events.MessageEnd():
                session.sender = None
                driver.message_answered()
            case events.Reset() if accepted:
                session.sender = None


def _trouble(event: Any) -> Reply:
    match event:
        case events.Connect() | Secured():
            return replies.CONNECT_TROUBLE
        case events.Auth():
            return replies.AUTH_TROUBLE
        case _:
            return replies.TROUBLE


def _hops(chunks: list[bytes]) -> int:
    """How many `Received` fields the client's header has; few are long enough to be counted."""
    header = b""
    for chunk in chunks:
        header += chunk
        end = header.find(b"\r\n\r\n")
        if end >= 0 or len(header) > _LONGEST_HEADER:
            header = header[: end if end >= 0 else _LONGEST_HEADER]
            break
    if len(header) < _HOP_LIMIT * len(b"\nReceived:"):
        return 0
    return (b"\n" + header).lower().count(b"\nreceived:")
