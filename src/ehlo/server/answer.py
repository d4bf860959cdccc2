"""Answers: from an event to a hook to a reply, with a coroutine for each event that waits.

`Routes` says what answers which type of event. A route either answers at once and returns `None`,
as where there is no hook, or it returns a coroutine, which the session's `Slot` runs; until that is
over, the core is not asked for more. There is one slot, and one thing in it.

A coroutine awaits a `Wait`. There `DeadlineError` is raised when the deadline has passed, and it
is closed when the session ends; so what it holds is given back in a `finally`.

This file is longer than others, so that the way from an event to its reply stands in one place.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from ehlo.message import Message
from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import CramMD5Credentials, ProvedCredentials
from ehlo.protocol.auth.mechanism import checked_secret
from ehlo.protocol.connection import Connection
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.state import Transaction
from ehlo.server.account import Account
from ehlo.server.bodies import Bodies, Stamp
from ehlo.server.deadlines import Deadlines
from ehlo.server.hooks import (
    Answer,
    Call,
    Hook,
    Hooks,
    Outcome,
    Wait,
    answer_of,
    answers_of,
    failure_of,
    identity_of,
    queue_answer_of,
)
from ehlo.server.observing.journal import Journal, about
from ehlo.server.runtime import Runtime
from ehlo.server.wire import Wire
from ehlo.session import Session, current_session

__all__ = ["Answers", "DeadlineError", "GoneError", "Routes", "Slot", "Work"]

logger = logging.getLogger("ehlo.server")
handler_logger = logging.getLogger("ehlo.handler")

_HOP_LIMIT = 100  # RFC 5321 6.3
_SHORT = _HOP_LIMIT * len(b"Received:\r\n")  # bytes in which so many do not fit
_TRACE = 2048  # bytes that the server's own field may have

Work = Coroutine[Any, Any, None]
"""What a session awaits; each of its awaits ends in a `Wait`."""

Route = Callable[["Answers", Any], Work | None]


class DeadlineError(Exception):
    """Raised in what a session awaits when its deadline has passed."""


class GoneError(Exception):
    """Raised by a coroutine that has nothing more to do, since the client has gone."""


class Slot:
    """Runs the one coroutine that a session awaits.

    Example::

        slot.begin(answers.message(event))
        slot.expire()                       # raises DeadlineError in it, at its await
        slot.drop()                         # closes it
    """

    __slots__ = ("_over", "_wait", "work")

    def __init__(self, over: Callable[[Exception | None], None]) -> None:
        """`over` is called after each coroutine that has waited, with what it has raised."""
        self._over = over
        self._wait: Wait[Any] | None = None
        self.work: Work | None = None
        """The coroutine under way; only the slot itself sets it."""

    def begin(self, work: Work) -> bool:
        """Run `work` until it waits, and return whether it does.

        Raises `RuntimeError` if something is awaited already.
        """
        if self.work is not None:
            work.close()
            raise RuntimeError("the session awaits something else already")
        self.work = work
        try:
            self._wait = wait = work.send(None)
        except StopIteration:
            self.work = None
            return False
        except BaseException:
            self.work = None
            raise
        wait.resume = self._resume
        return True

    def expire(self) -> None:
        """Raise `DeadlineError` in the coroutine."""
        work, wait = self.work, self._wait
        if work is None or wait is None:
            raise RuntimeError("the session awaits nothing")
        wait.resume = None
        self._resume(None, DeadlineError())

    def drop(self) -> None:
        """Close the coroutine, if there is one; `over` is not called."""
        work, wait = self.work, self._wait
        self.work = self._wait = None
        if work is not None:
            if wait is not None:
                wait.resume = None
            work.close()

    def retire(self) -> None:
        """Let go of the driver of a session that has ended, which has this slot."""
        self._over = _ignore

    def _resume(self, result: object, problem: DeadlineError | None = None) -> None:
        """Step on, with the result of what was awaited, or with a problem instead."""
        work, error = self.work, None
        assert work is not None  # noqa: S101  a wait that was let go of resumes nothing
        try:
            self._wait = wait = work.send(result) if problem is None else work.throw(problem)
        except StopIteration:
            pass
        except Exception as failure:  # noqa: BLE001  the driver knows what to do
            error = failure
        else:
            wait.resume = self._resume
            return
        self.work = self._wait = None
        try:
            self._over(error)
        finally:
            del error  # its traceback refers to this frame


def _ignore(_error: Exception | None) -> None:
    pass


class Routes:
    """Knows what answers which type of event: one for each listener, without any session's state.

    `asks` are the events that there is a hook for. The core accepts the others by itself, so that
    a hook that is not overridden costs nothing.
    """

    def __init__(
        self, hooks: Hooks, *, streams: bool = False, counts_recipients: bool = False
    ) -> None:
        """`streams` is `Handler.streams`."""
        self.hooks = hooks
        self.streams = streams
        trouble = replies.CONNECT_TROUBLE
        questions: dict[type, Route | None] = {
            events.Connect: _question(hooks.connect, lambda _event: (), trouble),
            events.Hello: _question(hooks.hello, lambda event: (event.name,)),
            events.Mail: Answers.mail,
            events.Rcpt: _question(
                hooks.rcpt, lambda event: (event.recipient, event.recipient.params)
            ),
            events.Data: _question(hooks.data, lambda _event: ()),
            events.Vrfy: _question(hooks.vrfy, lambda event: (event.text,)),
            events.Reset: _question(hooks.reset, lambda _event: ()),
        }
        if counts_recipients:
            questions[events.Rcpt] = _counted(questions[events.Rcpt])
        asked = {kind: route for kind, route in questions.items() if route is not None}
        command = _question(hooks.command, lambda event: (event.verb, event.argument))
        self.asks = frozenset(asked)
        self.table: Mapping[type, Route] = {
            **asked,
            **({} if command is None else {events.Command: command}),
            events.BodyChunk: Answers.chunk,
            events.BodyRefused: Answers.drop_body,
            events.BodyDropped: Answers.drop_body,
            events.MessageEnd: Answers.message,
            events.Secret: Answers.secret,
            events.Auth: Answers.auth,
            events.Tarpit: Answers.tarpit,
            events.Full: Answers.breathe,
        }
        """What answers an event; the driver itself answers those that are not in it."""


def _question(
    hook: Hook | None,
    arguments: Callable[[Any], tuple[object, ...]],
    trouble: Reply = replies.TROUBLE,
) -> Route | None:
    """Return what asks `hook`, with the session and what `arguments` takes from the event."""
    if hook is None:
        return None
    return lambda answers, event: answers.question(
        hook, (answers.session, *arguments(event)), trouble
    )


def _counted(route: Route | None) -> Route:
    """Return a route that accepts only as many recipients as the client's address may have."""

    def count(answers: Answers, event: events.Rcpt) -> Work | None:
        if not answers.account.may_add_recipient():
            answers.connection.reply(replies.TOO_MUCH_RCPT)
        elif route is None:
            answers.connection.reply()
        else:
            return route(answers, event)
        return None

    return count


class Answers:
    """Answers the events of one session."""

    __slots__ = (
        *("_context", "_count", "_deadlines", "_disconnect", "_journal", "_message", "_read"),
        *("_routes", "_runtime", "_stamp", "_unsent", "_wire"),
        *("account", "awaits_client", "bodies", "call", "connection", "due", "leaving"),
        *("notifying", "session", "silent"),
    )

    def __init__(
        self,
        routes: Routes,
        runtime: Runtime,
        session: Session,
        connection: Connection,
        *,
        account: Account,
        deadlines: Deadlines,
        journal: Journal,
        stamp: Stamp,
        wire: Wire,
    ) -> None:
        self._routes = routes
        self._runtime = runtime
        self._deadlines = deadlines
        self._journal = journal
        self._stamp = stamp
        self._wire = wire
        self._context: contextvars.Context | None = None
        self._count = 0  # of messages
        self._message: Message | None = None  # that the handler has, its reply not yet sent
        self._unsent: Message | None = None  # answered; on_replied is still to be called
        self._disconnect = routes.hooks.disconnect  # until it is called
        self._read: Wait[None] | None = None  # for the client to read
        self.session = session
        self.connection = connection
        self.account = account
        self.bodies = Bodies(runtime.memory, runtime.directory, runtime.threshold)
        self.call: Call | None = None
        """The hook under way."""
        self.leaving = 0
        """Bytes of a body on their way to disk."""
        self.silent = False
        """Whether replies are held back."""
        self.due = False
        """Whether a complete message waits for its reply; it is wanted even without its client."""
        self.notifying = False
        """Whether a hook is called that answers nothing; it is called even without a client."""
        self.awaits_client = False
        """Whether it is the client that has to read before anything more is answered."""

    # -- commands --------------------------------------------------------------------------------

    async def question(self, hook: Hook, arguments: tuple[object, ...], trouble: Reply) -> None:
        """Reply to a command what a hook answers."""
        self._reply(await self._ask(hook, arguments, answer_of, trouble), hook, trouble)

    def mail(self, event: events.Mail) -> Work | None:
        """Accept MAIL if there is memory, the address may send more, and the hook agrees."""
        memory, hook = self._runtime.memory, self._routes.hooks.mail
        if memory.held > memory.comfortable:
            self._runtime.make_room()
            self.connection.reply(replies.NO_MEMORY)
        elif self._runtime.message_rate.most and not self.account.may_send():
            self.connection.reply(replies.TOO_MUCH_MAIL)
        elif hook is None:
            self.connection.reply()
        else:
            arguments = (self.session, event.sender, event.sender.params)
            return self.question(hook, arguments, replies.TROUBLE)
        return None

    async def secured(self, hook: Hook) -> None:
        """Call `on_tls` after a handshake; a rejection ends the session."""
        answer = await self._ask(hook, (self.session,), answer_of, replies.CONNECT_TROUBLE)
        if isinstance(answer, Reply) and answer.refuses:
            self.connection.hang_up(answer)
        self._deadlines.allow_command()

    # -- logins ----------------------------------------------------------------------------------

    async def secret(self, event: events.Secret) -> None:
        """Give a mechanism what the handler keeps of a user; the core goes on with it."""
        hook, no = self._routes.hooks.secret, self._no_login()
        if hook is None:
            self._cannot_serve(event, "on_secret")
        elif no is not None:
            self.connection.reply(no)
        else:
            arguments = (self.session, event.username)
            give = self.connection.give_secret
            answer = await self._log_in(hook, arguments, give)
            if answer is not None:
                await self._end_login(event, answer, hook)

    async def auth(self, event: events.Auth) -> None:
        """Decide on a login. CRAM-MD5 is checked here, where the handler has `on_secret`."""
        hooks, session, credentials = self._routes.hooks, self.session, event.credentials
        no = self._no_login()
        if no is not None:
            self.connection.reply(no)
        elif isinstance(credentials, ProvedCredentials):
            user = credentials.username if credentials.proved else None
            await self._end_login(event, self._identify(user), None)
        elif isinstance(credentials, CramMD5Credentials) and hooks.secret is not None:
            outcome = partial(self._check, credentials)
            answer = await self._log_in(hooks.secret, (session, credentials.username), outcome)
            await self._end_login(event, answer, hooks.secret)
        elif hooks.auth is not None:
            answer = await self._log_in(hooks.auth, (session, credentials), self._identify)
            await self._end_login(event, answer, hooks.auth)
        else:
            self._cannot_serve(event, "on_auth")

    def _no_login(self) -> Reply | None:
        """Return the answer to a login that is not to be checked, for good or while others are."""
        if not self.account.may_log_in():
            return replies.TOO_MANY_LOGINS
        return None if self.account.may_be_asked() else replies.AUTH_TROUBLE

    async def _log_in(
        self, hook: Hook, arguments: tuple[object, ...], outcome: Outcome
    ) -> Reply | None:
        answer = await self._ask(
            hook, arguments, outcome, replies.AUTH_TROUBLE, self.account.begin_login()
        )
        assert not isinstance(answer, list)  # noqa: S101  that is for messages
        return answer

    def _identify(self, result: object) -> Reply | None:
        """Set the user that the result of `on_auth` says, or return the rejection."""
        identity = identity_of(result)
        if isinstance(identity, Reply):
            return identity
        self.session.user = identity
        return None

    def _check(self, credentials: CramMD5Credentials, result: object) -> Reply | None:
        """Compare the client's proof with the secret that is the result of `on_secret`."""
        secret = checked_secret(result)
        known = isinstance(secret, str | bytes)  # keys are for SCRAM, and match nothing here
        good = credentials.matches(secret if isinstance(secret, str | bytes) else b"")
        return self._identify(credentials.username if known and good else None)

    async def _end_login(
        self, event: events.Auth | events.Secret, answer: Reply | None, hook: Hook | None
    ) -> None:
        """Reply to a login, after a delay if it has failed."""
        if answer is not None and answer.code >= 500:
            self.session.user = None
            self._journal.login_failed(event, answer)
            await self.pause(self.account.note_failed_login())
            self.connection.reply(answer)
            self._flush()
            return
        said = self._reply(answer, hook, replies.AUTH_TROUBLE)
        if isinstance(event, events.Auth) and (
            said is None or (isinstance(said, Reply) and not said.refuses)
        ):
            self._journal.logged_in(self.session.user, event.mechanism)

    def _cannot_serve(self, event: events.Secret | events.Auth, hook: str) -> None:
        """Reject a login by a mechanism of the user's that needs a hook which is not there."""
        about(handler_logger, self.session.id).error("%s needs %s", event.mechanism, hook)
        self.connection.reply(replies.AUTH_TROUBLE)

    # -- bodies ----------------------------------------------------------------------------------

    def chunk(self, event: events.BodyChunk) -> Work | None:
        """Keep a chunk of the body."""
        return self.spill() if self.bodies.add(event.data) else None

    async def spill(self) -> None:
        """Write what is in memory of the body to disk, before there is more of it."""
        if not await self._write():
            self.connection.refuse_body(replies.NO_MEMORY)
            self.drop_body()

    async def make_room(self) -> None:
        """Write the body to disk while the client is awaited; its deadline stays what it was."""
        deadline = self._deadlines.at
        well = await self._write()
        self._deadlines.at = deadline
        if not well:
            self.connection.refuse_body(replies.NO_MEMORY)
            self.drop_body()

    def drop_body(self, _event: events.Event | None = None) -> None:
        """Discard what there is of a body, but not a complete one, which a handler gets."""
        if not self.due:
            self.bodies.release()

    async def _write(self) -> bool:
        """Write what is in memory of the body to disk; return whether that went well."""
        runtime, bodies = self._runtime, self.bodies
        wait: Wait[BaseException | None] = Wait()
        writing = bodies.spill()

        def done(_result: object, error: BaseException | None) -> None:
            def end() -> None:
                if error is not None:
                    about(logger, self.session.id).warning("no room on disk: %s", error)
                if not wait.end(error):
                    writing.drop()

            if not runtime.to_loop(end):
                writing.forget()

        job = runtime.disk.submit(writing.write, done)
        self.leaving = writing.size
        self._deadlines.allow_hook()
        try:
            error = await wait
        except BaseException as problem:  # a disk that is too slow is as good as full
            if job.cancel():
                writing.drop()
            if not isinstance(problem, DeadlineError):
                raise
            return False
        finally:
            self.leaving = 0
        runtime.stats.spooled += bodies.written(writing)
        return error is None

    # -- messages --------------------------------------------------------------------------------

    async def message(self, event: events.MessageEnd) -> None:
        """Await the handler for a complete message, whatever its client does, and reply.

        Finish the file, claim the memory, build the message, await the hook, reply, release the
        body, and call `on_replied` when the reply has left.
        """
        hooks, bodies, transaction = self._routes.hooks, self.bodies, event.transaction
        hook = hooks.message
        assert hook is not None  # noqa: S101  the options accept no handler without it
        message: Message | None = None
        self.due = True
        try:
            if bodies.spool is not None and not await self._gather():
                answer: Answer = replies.NO_MEMORY
            elif (message := self._build(transaction)) is None:
                answer = replies.MAIL_LOOP
            else:
                self._message = message
                outcome: Outcome = queue_answer_of
                if message.per_recipient:
                    outcome = partial(answers_of, message, transaction.recipients)
                arguments = (self.session, message)
                answer = await self._ask(hook, arguments, outcome, replies.TROUBLE)
            answer = self._reply(answer, hook, replies.TROUBLE)
            self._journal.accepted(self.session, transaction, answer, message)
            bodies.release()
        finally:
            self.due = False
            self._message = None
            if hooks.replied is not None:
                self._unsent = message  # also if this is closed, without any reply
        if hooks.replied is not None and message is not None:
            del event, transaction, message  # the last who has it is told of it
            await self._until_sent()
            await self._notify_replied(hooks.replied)

    async def _gather(self) -> bool:
        """Finish the file, and claim memory for a handler that reads all of it; as `_write`."""
        bodies = self.bodies
        if bodies.unfinished and not await self._write():
            return False
        spool = bodies.spool
        size = 0 if self._routes.streams or spool is None else spool.size + _TRACE
        if size and not self._runtime.memory.reserve_due(size):
            return await self._claim(size)
        bodies.count(size)
        return True

    async def _claim(self, size: int) -> bool:
        """Wait until others have released `size` bytes; return whether they have."""
        wait: Wait[None] = Wait()
        granted = False

        def grant() -> None:  # within the release of another session's memory
            nonlocal granted
            granted = True
            self.bodies.count(size)
            self._runtime.loop.call_soon(wait.end, None)

        claim = self._runtime.memory.claim(size, grant)
        if claim is None:
            about(logger, self.session.id).warning("a message is larger than max_memory")
            return False
        self._deadlines.allow_hook()
        try:
            await wait
        except BaseException as problem:
            if not granted:
                claim.cancel()
            if not isinstance(problem, DeadlineError):
                raise
            return False
        return True

    def _build(self, transaction: Transaction) -> Message | None:
        """Return the message; `None` if it has come by too many hops."""
        body = self.bodies.take()
        if transaction.size > _SHORT and body.hops() >= _HOP_LIMIT:
            return None
        self._count += 1
        conversation, session = self.connection.conversation, self.session
        message_id = f"{session.id}.{self._count}"
        return Message(
            message_id,
            transaction.sender,
            [*transaction.recipients],  # the handler's own: what it does to it changes no reply
            self._stamp.field(
                session, conversation.helo, transaction, message_id, esmtp=conversation.esmtp
            ),
            body.chunks,
            spool=body.spool,
            streams=self._routes.streams,
            via="DATA" if transaction.chunks is None else "BDAT",
            per_recipient=conversation.settings.lmtp,
        )

    # -- what only tells the handler -------------------------------------------------------------

    @property
    def owes_reply(self) -> bool:
        """Whether `on_replied` is to be called, or a hook that answers nothing is under way."""
        return self._unsent is not None or self.notifying

    @property
    def owes_farewell(self) -> bool:
        """Whether the handler is still to be told of something once the client has gone."""
        return self._unsent is not None or self._disconnect is not None

    async def farewell(self) -> None:
        """Call the last hooks of a session, once each, one after the other."""
        replied, disconnect = self._routes.hooks.replied, self._disconnect
        if self._unsent is not None and replied is not None:
            await self._notify_replied(replied)
        if disconnect is not None:
            self._disconnect = None
            await self._notify(disconnect, (self.session,))

    async def _notify_replied(self, hook: Hook) -> None:
        message, self._unsent = self._unsent, None
        await self._notify(hook, (self.session, message, not self._wire.closing))

    async def _notify(self, hook: Hook, arguments: tuple[object, ...]) -> None:
        """Call a hook that answers nothing. It has its time from when it begins."""
        call = self._begin(hook, arguments)
        del arguments
        self.notifying = True
        try:
            result, error = await self._ended(call)
            if error is None:
                answer_of(result)
        except (TypeError, ValueError) as no_answer:
            error = no_answer
        finally:
            self.call = None
            self.notifying = False
        if error is not None:
            failure_of(error, hook, self.session.id, replies.TROUBLE)
        del error
        self._deadlines.allow_command()

    async def _ended(self, call: Call) -> tuple[Any, BaseException | None]:
        while True:
            try:
                return await call
            except DeadlineError:
                if self._deadlines.allow_hook_after(call.spent):
                    continue
                self._log_late(call)
                call.cancel()
                return None, None
            except GeneratorExit:
                if call.began is None:
                    log = about(logger, self.session.id)
                    log.warning("%s was never called", call.hook.name)
                call.cancel()
                raise

    # -- hooks -----------------------------------------------------------------------------------

    async def _ask(
        self,
        hook: Hook,
        arguments: tuple[object, ...],
        outcome: Outcome,
        trouble: Reply,
        at_end: Callable[[], None] | None = None,
    ) -> Answer:
        """Return what `outcome` makes of a hook's result; `trouble` if the hook has failed.

        Raises `GoneError` if the client has, and no message depends on the answer.
        """
        call = self._begin(hook, arguments, at_end)
        try:
            result, error = await call
        except DeadlineError:
            self._log_late(call)
            self._let_go(call)
            if self._wire.lost and not self.due:
                raise GoneError from None
            return replies.HANDLER_TIMEOUT if trouble is replies.TROUBLE else trouble
        except GeneratorExit:
            self._let_go(call)
            raise
        finally:
            self.call = None
        if self._wire.lost and not self.due:
            raise GoneError
        try:
            if error is None:
                return outcome(result)
        except (ProtocolError, TypeError, ValueError) as no_answer:
            error = no_answer
        try:
            return failure_of(error, hook, self.session.id, trouble)
        finally:
            del error  # its traceback refers to this frame, and the frame to the whole message

    def _begin(
        self,
        hook: Hook,
        arguments: tuple[object, ...],
        at_end: Callable[[], None] | None = None,
    ) -> Call:
        context = self._context
        if context is None:
            self._context = context = contextvars.copy_context()
            context.run(current_session.set, self.session)
        self._deadlines.allow_hook()
        self.call = call = Call(self._runtime, self._journal, hook, at_end)
        call.start(arguments, context)
        return call

    def _let_go(self, call: Call) -> None:
        """Cancel a hook that is awaited no more; what it has of a message counts until it ends."""
        if self._message is not None:
            call.size = self.bodies.hand_over()
        call.cancel()

    def _log_late(self, call: Call) -> None:
        about(logger, self.session.id).warning("%s is over its deadline", call.hook.name)

    def _reply(self, answer: Answer, hook: Hook | None, trouble: Reply) -> Answer:
        """Give the core the answer; return what it was. One that does not fit is `trouble`."""
        connection = self.connection
        try:
            if isinstance(answer, list):
                connection.reply_each(answer)
            else:
                connection.reply(answer)
        except ProtocolError as no_answer:
            if hook is None:
                raise
            answer = failure_of(no_answer, hook, self.session.id, trouble)
            connection.reply(answer)
        return answer

    # -- time ------------------------------------------------------------------------------------

    async def tarpit(self, event: events.Tarpit) -> None:
        """Hold all replies back for a while: the client has made many errors."""
        await self.pause(event.seconds)
        self.connection.resume()
        self._flush()

    async def pause(self, seconds: float) -> None:
        """Send nothing for a while."""
        self._deadlines.allow_pause(seconds)
        wait: Wait[None] = Wait()
        timer = self._runtime.loop.call_later(seconds, wait.end, None)
        self.silent = True
        try:
            await wait
        finally:
            timer.cancel()
            self.silent = False

    async def breathe(self, _event: events.Full | None = None) -> None:
        """Let other sessions run, and the client read, before more is answered."""
        self._runtime.stats.relieve()
        await self._turn()
        while not self._wire.writable:
            self._deadlines.client_must_read()
            await self._until_read()
        self._deadlines.allow_command()  # the turn of others was not the client's time

    async def _until_sent(self) -> None:
        """Wait until the replies have left."""
        self._flush()
        if not self._wire.writable:
            self._deadlines.client_must_read()
        await self._turn()
        while not self._wire.has_sent_all:
            await self._until_read()

    async def _turn(self) -> None:
        """Wait for the next turn of the loop."""
        wait: Wait[None] = Wait()
        handle: asyncio.Handle = self._runtime.loop.call_soon(wait.end, None)
        self.awaits_client = True
        try:
            await wait
        finally:
            self.awaits_client = False
            handle.cancel()

    async def _until_read(self) -> None:
        """Wait until the client has read what was written."""
        self._read = wait = Wait[None]()
        self.awaits_client = True
        try:
            await wait
        finally:
            self.awaits_client = False
            self._read = None

    def client_reads(self) -> None:
        """Called when the client has read what was written."""
        if self._read is not None:
            self._read.end(None)

    def _flush(self) -> None:
        data = self.connection.data_to_send()
        if data and not self._wire.closing:
            self._wire.write(data)
