"""From event to hook to reply: which hook an event is for, and what its answer changes.

One for a server, without anything of a session in it; the driver it is given has that.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ehlo.message import Message
from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import CramMD5Credentials, ProvedCredentials
from ehlo.protocol.auth.mechanism import checked_secret
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.state import Transaction
from ehlo.server.driving import upgrade
from ehlo.server.driving.holding import Body
from ehlo.server.hooks.hookrun import HookRun, Notice, Secured
from ehlo.server.hooks.hooks import (
    Answer,
    Hook,
    Hooks,
    Outcome,
    answer_of,
    answers_of,
    failure_of,
    identity_of,
    queue_answer_of,
)
from ehlo.server.observing.journal import about

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["Dispatcher"]

logger = logging.getLogger("ehlo.handler")

_HOP_LIMIT = 100  # RFC 5321 6.3
_SHORT = _HOP_LIMIT * len(b"Received:\r\n")  # octets in which so many do not fit
_LONGEST_HEADER = 262_144  # no more than this is looked at for hops

Route = Callable[["Driver", Any], object]


class Dispatcher:
    """The hooks of one server's handler, and the events that they are for.

    `routes` has a function for each type of event. `asks` are the commands that there is a hook
    for; the core accepts the others by itself, so that a hook that is not there costs nothing.
    `streams` is `Handler.streams`.
    """

    def __init__(
        self, hooks: Hooks, *, streams: bool = False, counts_recipients: bool = False
    ) -> None:
        self.hooks = hooks
        self._streams = streams
        questions = {
            events.Connect: _asks(hooks.connect, _nothing_more),
            events.Hello: _asks(hooks.hello, lambda event: (event.name,)),
            events.Mail: self._mail,
            events.Rcpt: _asks(hooks.rcpt, lambda event: (event.recipient, event.recipient.params)),
            events.Data: _asks(hooks.data, _nothing_more),
            events.Vrfy: _asks(hooks.vrfy, lambda event: (event.text,)),
            events.Reset: _asks(hooks.reset, _nothing_more),
        }
        if counts_recipients:
            questions[events.Rcpt] = _counted(questions[events.Rcpt])
        asked = {kind: route for kind, route in questions.items() if route is not None}
        self.asks = frozenset(asked)
        self.routes: Mapping[type, Route] = {
            **asked,
            events.BodyChunk: _keep,
            events.BodyRefused: lambda driver, _event: driver.delivery.drop_body(),
            events.BodyDropped: lambda driver, _event: driver.delivery.drop_body(),
            events.MessageEnd: self._message,
            events.Secret: self._secret,
            events.Auth: self._auth,
            events.XClient: lambda driver, event: driver.speak_for(event.attributes),
            events.Command: self._command,
            events.StartTLS: lambda driver, _event: upgrade.start(driver),
            events.Tarpit: lambda driver, event: driver.pause_for(event.seconds),
            events.Full: lambda driver, _event: driver.take_breath(),
            events.Close: lambda driver, event: driver.ending.close(driver, linger=event.linger),
        }

    def _mail(self, driver: Driver, event: events.Mail) -> None:
        hook = self.hooks.mail
        memory = driver.runtime.memory
        if memory.held > memory.comfortable:
            driver.runtime.make_room()
            driver.connection.reply(replies.NO_MEMORY)
        elif driver.runtime.message_rate.most and not driver.account.may_send():
            driver.connection.reply(replies.TOO_MUCH_MAIL)
        elif hook is None:
            driver.connection.reply()
        else:
            arguments = (driver.session, event.sender, event.sender.params)
            driver.run_hook(hook, arguments, event, answer_of)

    def _secret(self, driver: Driver, event: events.Secret) -> None:
        """A mechanism needs what the handler keeps of a user; the core goes on with it."""
        hook = self.hooks.secret
        if hook is None:
            self._unserved(driver, event)
        elif (no := _no_login(driver)) is not None:
            driver.connection.reply(no)
        else:
            give = driver.connection.give_secret
            run = driver.run_hook(hook, (driver.session, event.username), event, give)
            run.at_end = driver.account.begin_login()

    def _auth(self, driver: Driver, event: events.Auth) -> None:
        """CRAM-MD5 is checked here against a secret, where the handler gives secrets."""
        hooks, session, credentials = self.hooks, driver.session, event.credentials

        def by_identity(result: object) -> Reply | None:
            identity = identity_of(result)
            if isinstance(identity, Reply):
                return identity
            session.user = identity
            return None

        def by_secret(result: object) -> Reply | None:
            assert isinstance(credentials, CramMD5Credentials)  # noqa: S101  of those alone
            secret = checked_secret(result)
            known = isinstance(secret, str | bytes)  # keys are for SCRAM, and are nobody here
            good = credentials.matches(secret if isinstance(secret, str | bytes) else b"")
            return by_identity(credentials.username if known and good else None)

        no = _no_login(driver)
        if no is not None:
            driver.connection.reply(no)
        elif isinstance(credentials, ProvedCredentials):
            user = credentials.username if credentials.proved else None
            self._answer(driver, event, by_identity(user))
        elif isinstance(credentials, CramMD5Credentials) and hooks.secret is not None:
            run = driver.run_hook(hooks.secret, (session, credentials.username), event, by_secret)
            run.at_end = driver.account.begin_login()
        elif hooks.auth is not None:
            run = driver.run_hook(hooks.auth, (session, credentials), event, by_identity)
            run.at_end = driver.account.begin_login()
        else:
            self._unserved(driver, event)

    def _unserved(self, driver: Driver, event: events.Secret | events.Auth) -> None:
        """A mechanism of the user's wants a hook that the handler has not."""
        hook = "on_auth" if isinstance(event, events.Auth) else "on_secret"
        about(logger, driver.session.id).error("%s needs %s", event.mechanism, hook)
        driver.connection.reply(replies.AUTH_TROUBLE)

    def _message(self, driver: Driver, event: events.MessageEnd) -> None:
        if driver.delivery.holding.spool is not None:
            driver.delivery.prepare(
                driver, not self._streams, partial(self._deliver, driver, event)
            )
        else:
            self._deliver(driver, event, True)

    def _deliver(self, driver: Driver, event: events.MessageEnd, well: bool) -> None:
        """The whole body is where the handler can read it; or else it is to be sent again."""
        hook = self.hooks.message
        assert hook is not None  # noqa: S101  as_handler lets no handler in without it
        if not well:
            self._answer(driver, event, replies.NO_MEMORY)
            return
        body = driver.delivery.holding.take()
        if event.transaction.size > _SHORT and _hops(body) >= _HOP_LIMIT:
            self._answer(driver, event, replies.MAIL_LOOP)
            return
        driver.delivery.message = message = self._build(driver, event.transaction, body)
        outcome: Outcome = queue_answer_of
        if message.per_recipient:
            outcome = partial(answers_of, message, event.transaction.recipients)
        driver.run_hook(hook, (driver.session, message), event, outcome)

    def _command(self, driver: Driver, event: events.Command) -> None:
        hook = self.hooks.command
        assert hook is not None  # noqa: S101  resolve lets no verb in without it
        driver.run_hook(hook, (driver.session, event.verb, event.argument), event, answer_of)

    def _build(self, driver: Driver, transaction: Transaction, body: Body) -> Message:
        message_id = driver.delivery.next_id(driver)
        recipients = transaction.recipients
        trace = driver.delivery.stamp.field(driver, transaction, message_id)
        return Message(
            message_id,
            transaction.sender,
            [*recipients],  # the handler's own: what it does to it changes no reply
            trace,
            body.slices,
            spool=body.spool,
            streams=self._streams,
            via="DATA" if transaction.chunks is None else "BDAT",
            per_recipient=driver.connection.conversation.settings.lmtp,
        )

    # -- answers ---------------------------------------------------------------------------------

    def finish(
        self, driver: Driver, run: HookRun, result: object, error: BaseException | None
    ) -> None:
        """A hook has ended: make its result the answer."""
        event = run.event
        if error is None:
            try:
                self._answer(driver, event, run.outcome(result))
            except (ProtocolError, TypeError, ValueError) as no_answer:
                error = no_answer
        if error is not None:
            trouble = failure_of(error, run.hook, driver.session.id, _trouble(event))
            self._answer(driver, event, trouble)

    def late(self, driver: Driver, event: Any) -> None:
        """A hook was over its deadline."""
        trouble = _trouble(event)
        late = replies.HANDLER_TIMEOUT if trouble is replies.TROUBLE else trouble
        self._answer(driver, event, late)

    def _answer(self, driver: Driver, event: Any, answer: Answer) -> None:
        """Give the core its answer, or the driver where the core did not ask."""
        if isinstance(answer, list):
            driver.connection.reply_each(answer)
            driver.journal.accepted(driver, event, answer)
            driver.message_answered()
            return
        match event:
            case events.MessageEnd():
                driver.connection.reply(answer)
                driver.journal.accepted(driver, event, answer)
                driver.message_answered()
            case Notice():
                driver.noticed()
            case Secured():
                upgrade.answered(driver, answer)
            case events.Auth() | events.Secret() if answer is not None and answer.code >= 500:
                driver.session.user = None
                driver.journal.login_failed(event, answer)
                delay = driver.account.note_failed_login()
                driver.pause(delay, lambda: driver.connection.reply(answer))
            case events.Auth() if answer is None or not answer.refuses:
                driver.connection.reply(answer)
                driver.journal.logged_in(driver, event)
            case events.Secret() if answer is None:
                pass  # it has been given
            case _:
                driver.connection.reply(answer)


def _keep(driver: Driver, event: events.BodyChunk) -> None:
    """Add to the body; it is here that most octets go by."""
    delivery = driver.delivery
    if delivery.holding.add(event.data):
        delivery.spill(driver)


def _asks(hook: Hook | None, arguments: Callable[[Any], tuple[object, ...]]) -> Route | None:
    """What asks `hook`, with the session and what `arguments` takes of the event."""
    if hook is None:
        return None
    return lambda driver, event: driver.run_hook(
        hook, (driver.session, *arguments(event)), event, answer_of
    )


def _counted(route: Route | None) -> Route:
    """Ask only for as many recipients as the client's address may have."""

    def count(driver: Driver, event: events.Rcpt) -> None:
        if not driver.account.may_add_recipient():
            driver.connection.reply(replies.TOO_MUCH_RCPT)
        elif route is None:
            driver.connection.reply()
        else:
            route(driver, event)

    return count


def _no_login(driver: Driver) -> Reply | None:
    """What a login is answered that is not to be checked: for good, or while others are."""
    if not driver.account.may_log_in():
        return replies.TOO_MANY_LOGINS
    return None if driver.account.may_be_asked() else replies.AUTH_TROUBLE


def _nothing_more(_event: Any) -> tuple[object, ...]:
    return ()


def _trouble(event: Any) -> Reply:
    match event:
        case events.Connect() | Secured():
            return replies.CONNECT_TROUBLE
        case events.Auth() | events.Secret():
            return replies.AUTH_TROUBLE
        case _:
            return replies.TROUBLE


def _hops(body: Body) -> int:
    """How many `Received` fields the client's header has; few are long enough to be counted."""
    chunks = [body.spool.read_at(0, _LONGEST_HEADER)] if body.spool else body.slices
    start = chunks[0]
    if len(chunks) > 1 and len(start) < _LONGEST_HEADER:
        ends = itertools.accumulate(map(len, chunks))
        count = sum(1 for _ in itertools.takewhile(lambda end: end < _LONGEST_HEADER, ends))
        start = b"".join(chunks[: count + 1])
    end = start.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
    header = start[: end if end >= 0 else _LONGEST_HEADER]
    return (b"\n" + header).lower().count(b"\nreceived:")
