"""Answers: from an event to a hook to a reply, with a coroutine for each event that waits.

`Routes` says what answers which type of event. A route either answers at once and returns `None`,
as where there is no hook, or it returns a coroutine, which the session's `AwaitSlot` runs; until
that is over, the core is not asked for more. What a coroutine holds is given back in a `finally`,
since it is closed when the session ends.

This file is longer than others, so that the way from an event to its reply stands in one place.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import ssl
import types
from collections.abc import Callable, Container, Generator, Mapping
from functools import partial
from typing import Any, Final

from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol import events, verbs
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import CramMD5Credentials, ProvedCredentials
from ehlo.protocol.auth.mechanism import MechanismError, Secret
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import NO_BINDINGS
from ehlo.protocol.reply import Disconnect, Reply
from ehlo.protocol.state import Counts, Transaction
from ehlo.server.bodies import Bodies, Stamp, hops
from ehlo.server.hooks import Call, Ended, Hook, Hooks, failure_of
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import Journal, about, observer_of
from ehlo.server.options.rules import Rules
from ehlo.server.results import (
    Answer,
    Meaning,
    Note,
    answer_of,
    answers_of,
    identity_of,
    secret_of,
)
from ehlo.server.runtime import Quota, Runtime
from ehlo.server.tls.channel import Channel
from ehlo.server.waits import DeadlineError, Deadlines, GoneError, Wait, Work
from ehlo.server.wire import Wire
from ehlo.session import ProxyInfo, Session, current_session
from ehlo.transcript import Transcript

logger: logging.Logger = logging.getLogger("ehlo.server")
handler_logger: logging.Logger = logging.getLogger("ehlo.handler")

_HOP_LIMIT = 100  # RFC 5321 6.3
_FURTHER = 10.0  # seconds after a failed login for one by another mechanism to be the same login
_SHORT = _HOP_LIMIT * len(b"Received:\r\n")  # bytes in which so many do not fit
_NOBODY: Final = frozenset[str]()  # an empty one for each client takes 216 bytes

Route = Callable[["Answers", Any], Work | None]

Outcome = Callable[[Meaning, object, Note], Answer]
"""Turns a hook's result into the answer."""


class Routes:
    """Maps each type of event to its answer; made once per listener.

    `asks` are the events that need an answer, since they have a hook. The core accepts the others
    itself, so a hook that is not overridden costs nothing, and neither does one that is silent now.
    """

    def __init__(self, rules: Rules, hooks: Hooks, *, streams: bool = False) -> None:
        """`streams` is `Handler.streams`."""
        self.rules = rules
        self.hooks = hooks
        self.streams = streams
        asked = {
            event: _question(hooks[row.hook], row.arguments)
            for event, row in verbs.ASKED.items()
            if row.hook in hooks
        }
        self.trusts: bool = bool(rules.xclient or rules.xforward)
        self.message: Hook = hooks["on_message"]
        self.replied: Hook | None = hooks.get("on_replied")
        self.disconnect: Hook | None = hooks.get("on_disconnect")
        self.table: Mapping[type, Route] = {
            **asked,
            events.BodyChunk: Answers.chunk,
            events.BodyRefused: Answers.drop_body,
            events.BodyDropped: Answers.drop_body,
            events.MessageEnd: Answers.message,
            events.Secret: Answers.secret,
            events.LoginStep: Answers.step,
            events.Auth: Answers.auth,
            events.StartTLS: Answers.start_tls,
            events.XClient: Answers.speak_for,
            events.Tarpit: Answers.tarpit,
            events.Full: Answers.breathe,
        }
        """The routes by event; the driver answers the events that are not in it."""
        asked_now = verbs.QUESTIONS & self.table.keys()
        silent: dict[object, Callable[[], bool]] = {
            event: is_silent
            for event in asked_now
            if (hook := hooks.get(verbs.ASKED[event].hook)) and (is_silent := hook.is_silent)
        }
        self.asks: Container[type] = (
            _Asked(asked_now - silent.keys(), silent) if silent else asked_now
        )


class _Asked(Container[type]):
    """Contains the events that are asked about now: some of them only while no hook is silent."""

    def __init__(
        self, always: Container[type], silent: Mapping[object, Callable[[], bool]]
    ) -> None:
        self._always = always
        self._silent = silent

    def __contains__(self, event: object) -> bool:
        is_silent = self._silent.get(event)
        return event in self._always if is_silent is None else not is_silent()


def _question(hook: Hook, arguments: Callable[[Any], tuple[object, ...]]) -> Route:
    """Return the route that calls `hook` with the session and the `arguments` for the event."""

    def ask(answers: Answers, event: Any) -> Work:
        return answers.question(hook, (answers.session, *arguments(event)))

    return ask


class Answers:
    """Holds one session, and answers its events."""

    __slots__ = (
        *("_context", "_count", "_deadlines", "_disconnect", "_further_until", "_login", "_read"),
        *("_routes", "_runtime", "_stamp", "_trusted", "_unsent", "_unsent_size", "_wire"),
        *("awaits_client", "bodies", "call", "connection", "due", "journal"),
        *("notifying", "quota", "session", "silent", "wants_name"),
    )

    def __init__(
        self,
        runtime: Runtime,
        routes: Routes,
        session: tuple[Peer, Peer, ProxyInfo | None],
        quota: Quota,
        deadlines: Deadlines,
        wire: Wire,
    ) -> None:
        """`session` has the client's address, the server's, and the header of a proxy."""
        rules, session_id, (peer, local, proxy) = routes.rules, runtime.new_id(), session
        self._routes = routes
        self._runtime = runtime
        self._deadlines = deadlines
        self._wire = wire
        self._stamp = Stamp(rules.by, runtime.clock, rules.settings.lmtp)
        self._context: contextvars.Context | None = None
        self._count = 0  # of messages
        self._unsent: Message | None = None  # answered; on_replied is still to be called
        self._unsent_size = 0  # bytes of memory that count for it
        self._disconnect = routes.disconnect  # until it is called
        self._read: Wait[None] | None = None  # for the client to read
        self._login = ""  # the mechanism of a login that has begun, and counts as a failed one
        self._further_until = 0.0  # when another mechanism is another login
        self._trusted = _NOBODY
        if routes.trusts:
            self._trusted = _trusted(rules, peer)
        self.quota = quota
        self.journal: Journal = Journal(runtime.stats, session_id, peer)
        self.bodies: Bodies = Bodies(runtime, deadlines, quota, session_id)
        kept = rules.transcripts
        self.connection: Connection = self._connect(
            None if kept is None else Transcript(*kept, hold=runtime.overhead.keep)
        )
        self.session: Session = Session(
            session_id, peer, local, self.connection.conversation, proxy
        )
        self.wants_name: bool = rules.options.reverse_dns
        """Whether the client's name is set when it arrives."""
        self.call: Call | None = None
        """The hook under way."""
        self.silent: bool = False
        """Whether replies are held back."""
        self.due: bool = False
        """Whether a complete message waits for its reply; it is handled even without its client."""
        self.notifying: bool = False
        """Whether a notification is under way; it continues without its client."""
        self.awaits_client: bool = False
        """Whether it is the client that has to read before anything more is answered."""

    def _connect(
        self,
        transcript: Transcript | None,
        channel: Channel | None = None,
        counts: Counts | None = None,
    ) -> Connection:
        """Return a connection for the client: one at the beginning, another under TLS."""
        rules, journal = self._routes.rules, self.journal
        options = rules.options
        observer = observer_of(
            journal.session_id, journal.peer, options.debug, options.log_read, options.log_write
        )
        # By position, and the last four only under TLS: this saves 5,000 instructions
        known = (rules.settings, rules.nonce, self._routes.asks, journal, self.quota)
        client = (*known, self._trusted, observer, transcript)
        if channel is None and not options.tls_listener:
            return Connection(*client)
        return Connection(
            *client,
            tls=True,
            greet=options.tls_listener,
            counts=counts,
            bindings=NO_BINDINGS if channel is None else channel.bindings(),
            certificate=None if channel is None else channel.info().peer_certificate,
        )

    def secure(self, channel: Channel) -> None:
        """Serve the client by a new connection, since the handshake has ended.

        RFC 3207 4.2: everything before TLS may have come from an attacker, so only the counts
        against the client are kept.
        """
        before, info = self.connection, channel.info()
        if before.conversation.xclient:
            self._stop_speaking()
        transcript = self.session.transcript
        if transcript is not None:
            transcript.add("note", f"{info.version} {info.cipher}")
        self.connection = self._connect(transcript, channel, before.counts)
        self.session.restart(self.connection.conversation)
        self.session.tls = info
        self.journal.secured(info)
        self._deadlines.allow_first()

    def let_go_of_transcript(self) -> None:
        """Count the transcript no more, since the session has ended."""
        if self.session.transcript is not None:
            self.session.transcript.let_go()

    def look_up(self) -> None:
        """Look up the client's name, without waiting for it."""

        def arrived(name: str) -> None:
            if self.wants_name:
                self.session.rdns = name

        self._runtime.lookups.begin(self.session.peer, self.quota.key, arrived)

    def speak_for(self, event: events.XClient) -> None:
        """Serve the client behind this one, which XCLIENT names; the session begins again."""
        self.wants_name = False  # it is the proxy's name
        self.session.speak_for(event.attributes)
        self._begin_again()
        self.quota.speak_for(self.session.peer)
        self.connection.conversation.trusted = self._trusted
        self.connection.reply()

    def _stop_speaking(self) -> None:
        """Serve the client that is connected: XCLIENT in plaintext may be an attacker's."""
        self.session.speak_for({})
        self._begin_again()
        self.quota.speak_for_itself()
        self.wants_name = self._routes.rules.options.reverse_dns
        if self.wants_name:
            self.look_up()

    def _begin_again(self) -> None:
        """Note the session's new client, who is trusted or not on its own.

        A proxy passes on what its client sends.
        """
        peer = self.session.peer
        self.journal.speaks_for(peer)
        self._trusted = _trusted(self._routes.rules, peer)

    # -- commands --------------------------------------------------------------------------------

    async def question(self, hook: Hook, arguments: tuple[object, ...]) -> None:
        """Ask a hook about a command, and reply."""
        self._reply(await self._ask(hook, arguments, answer_of))

    def start_tls(self, _event: events.StartTLS) -> Work | None:
        """Ask the hook about STARTTLS, or begin the handshake if there is none."""
        hook = self._routes.hooks.get("on_starttls")
        if hook is not None and (hook.is_silent is None or not hook.is_silent()):
            return self._ask_about_tls(hook)
        self._begin_tls()
        return None

    async def _ask_about_tls(self, hook: Hook) -> None:
        answer = await self._ask(hook, (self.session,), answer_of)
        if answer is None:
            self._begin_tls()
        else:
            self._reply(answer)

    def _begin_tls(self) -> None:
        """Send the 220 in plaintext; what comes next is the handshake."""
        tls = self._routes.rules.tls
        assert tls is not None  # noqa: S101  STARTTLS is offered only with it
        channel: Channel | None
        try:
            channel = Channel(tls.current)
        except ssl.SSLError as error:
            log_failure(about(logger, self.session.id), error, "TLS is not available")
            channel = None
        if channel is None or not self._wire.count_tls(channel):
            self.connection.reply(replies.TLS_UNAVAILABLE)
            return
        self.connection.reply()
        if not self.connection.over:
            self._flush()
            self._wire.begin_tls(channel)
            self._deadlines.allow_handshake()

    async def secured(self, hook: Hook) -> None:
        """Call `on_tls` after a handshake; after a rejection only QUIT is left (RFC 3207 4.1)."""
        answer = await self._ask(hook, (self.session,), answer_of)
        if isinstance(answer, Disconnect):
            self._reply(answer)
        elif isinstance(answer, Reply) and answer.refuses:
            self.connection.refuse(answer)
        self._deadlines.allow_first()

    # -- logins ----------------------------------------------------------------------------------

    async def secret(self, event: events.Secret) -> None:
        """Pass what is derived of the user's secret to the mechanism; the core continues."""
        hooks = self._routes.hooks
        hook = hooks.get("on_secret")
        if hook is None:
            self._cannot_serve(event, "on_secret")
            return
        if not self._begin_login(event):
            return
        found: list[Secret] = []
        keep = partial(self._keep, found)
        answer = await self._log_in(hook, (self.session, event.username), keep)
        if answer is None:
            arguments = (self.session, partial(event.derive, found.pop()))
            answer = await self._log_in(hooks["derive"], arguments, self._give)
        if answer is not None:
            await self._end_login(event, answer)

    async def step(self, event: events.LoginStep) -> None:
        """Await a step of a mechanism, and pass its outcome to it; the core continues."""
        if not event.last and not self._begin_login(event):
            return
        hook = self._routes.hooks["step"]
        answer = await self._log_in(hook, (event.proceed,), self._give)
        if answer is None:
            return
        if event.last:  # it is decided
            self.connection.give_derived(MechanismError("the last step has failed"))
        else:
            self._count_login(failed=False)
            self._reply(answer)

    async def auth(self, event: events.Auth) -> None:
        """Decide on a login. CRAM-MD5 is checked here if the handler has `on_secret`."""
        hooks, credentials = self._routes.hooks, event.credentials
        if not self._begin_login(event):
            return
        if isinstance(credentials, ProvedCredentials):
            user = credentials.username if credentials.proved else None
            await self._end_login(event, event.conclusion or self._log_in_as(user))
        elif isinstance(credentials, CramMD5Credentials) and (hook := hooks.get("on_secret")):
            outcome = partial(self._check, credentials)
            answer = await self._log_in(hook, (self.session, credentials.username), outcome)
            await self._end_login(event, answer)
        elif hook := hooks.get("on_auth"):
            answer = await self._log_in(hook, (self.session, credentials), self._identify)
            await self._end_login(event, answer)
        else:
            self._cannot_serve(event, "on_auth")

    def _begin_login(self, event: events.Auth | events.Secret | events.LoginStep) -> bool:
        """Count a login, or go on with it; reject it if the address has none left, or none now.

        A further mechanism of the same login is not counted, see `Counts.is_further`.
        """
        counts = self.connection.counts
        if self._login:
            return True
        if self._runtime.loop.time() > self._further_until:
            counts.forget_tried()
        further = counts.is_further(event.username, event.mechanism)
        no = self.quota.begin_login(further=further)
        if no is not None:
            self.connection.reply(no)
            return False
        self._login = event.mechanism
        return True

    def leave_login(self) -> None:
        """Count a login that the client has left as a failed one, if there is one, and end it."""
        self.connection.conversation.exchange = None
        if self._login:
            self.journal.login_left(self._login)
            self._count_login(failed=True)

    def _count_login(self, *, failed: bool) -> None:
        self._login = ""
        self.quota.end_login(failed=failed)

    async def _log_in(
        self, hook: Hook, arguments: tuple[object, ...], outcome: Outcome
    ) -> Reply | Disconnect | None:
        answer = await self._ask(hook, arguments, outcome)
        assert not isinstance(answer, list)  # noqa: S101  that is for messages
        return answer

    def _log_in_as(self, user: str | None) -> Reply | None:
        """Set the user, or return the rejection."""
        if not user:
            return replies.BAD_CREDENTIALS
        self.session.user = user
        return None

    def _identify(self, meaning: Meaning, result: object, note: Note) -> Reply | Disconnect | None:
        """Set the user to the result of `on_auth`, or return the rejection."""
        identity = identity_of(meaning, result, note)
        return self._log_in_as(identity) if isinstance(identity, str) else identity

    def _keep(
        self, found: list[Secret], meaning: Meaning, result: object, note: Note
    ) -> Reply | None:
        """Add the secret that is the result of `on_secret` to `found`."""
        secret = secret_of(meaning, result, note)
        if isinstance(secret, Reply):
            return secret
        found.append(secret)
        return None

    def _give(self, _meaning: Meaning, derived: object, _note: Note) -> None:
        """Pass what is derived of a secret to the mechanism."""
        self.connection.give_derived(derived)

    def _check(
        self, credentials: CramMD5Credentials, meaning: Meaning, result: object, note: Note
    ) -> Reply | None:
        """Compare the client's proof with the secret that is the result of `on_secret`."""
        secret = secret_of(meaning, result, note)
        if isinstance(secret, Reply):
            return secret
        known = isinstance(secret, str | bytes)  # keys are for SCRAM, and match nothing here
        good = credentials.matches(secret if isinstance(secret, str | bytes) else b"")
        return self._log_in_as(credentials.username if known and good else None)

    async def _end_login(
        self, event: events.Auth | events.Secret, answer: Reply | Disconnect | None
    ) -> None:
        """Reply to a login, after a delay if it has failed."""
        failed = isinstance(answer, Reply) and answer.code >= 500
        counts = self.connection.counts
        self._count_login(failed=failed and not counts.is_further(event.username, event.mechanism))
        if isinstance(answer, Reply) and failed:
            self.session.user = None
            self.journal.login_failed(event, answer)
            await self.pause(self.quota.login_delay())
            self.connection.reply(answer)
            self._further_until = self._runtime.loop.time() + _FURTHER
            self._flush()
            return
        self._reply(answer)
        if isinstance(event, events.Auth) and answer is None:
            self.journal.logged_in(self.session.user, event.mechanism)

    def _cannot_serve(self, event: events.Secret | events.Auth, hook: str) -> None:
        """Reject a login by a custom mechanism that needs a hook that is not overridden."""
        about(handler_logger, self.session.id).error("%s needs %s", event.mechanism, hook)
        if self._login:
            self._count_login(failed=False)
        self.connection.reply(replies.AUTH_TROUBLE)

    # -- bodies ----------------------------------------------------------------------------------

    def chunk(self, event: events.BodyChunk) -> Work | None:
        """Keep a chunk of the body."""
        return self.spill() if self.bodies.add(event.data) else None

    async def spill(self) -> None:
        """Write what is in memory of the body to disk, before there is more of it."""
        if not await self.bodies.write():
            self._lose_body()

    def make_room(self) -> None:
        """Write the body that rests in memory to disk, whatever is awaited meanwhile."""
        self.bodies.move_to_disk(self._lose_body)

    def _lose_body(self) -> None:
        """Reject the body at its end, since there is no room for it.

        Of a complete one, `message` knows already.
        """
        if not self.due:
            self.connection.refuse_body(replies.NO_MEMORY)
            self.drop_body()

    def drop_body(self, _event: events.Event | None = None) -> None:
        """Discard what there is of a body, but not a complete one, which a handler gets."""
        if not self.due:
            self.bodies.release()

    # -- messages --------------------------------------------------------------------------------

    async def message(self, event: events.MessageEnd) -> None:
        """Pass a complete message to the handler, even if the client leaves, and reply.

        Keep the body if it came whole, finish the file, claim the memory, build the message, await
        the hook, reply, release the body, and call `on_replied` when the reply has left. Until
        that has ended, the memory of the body counts.
        """
        routes, bodies, transaction = self._routes, self.bodies, event.transaction
        body, replied = event.body, routes.replied
        message: Message | None = None
        self.due = True
        try:
            spills = body is not None and bodies.add(body)
            del event, body  # which may be on disk before the handler has the message
            if spills and not await bodies.write():
                answer: Answer = replies.NO_MEMORY
            elif bodies.shelf is not None and not await bodies.finish(streams=routes.streams):
                answer = replies.NO_MEMORY
            elif (message := self._build(transaction)) is None:
                answer = replies.MAIL_LOOP
            else:
                outcome: Outcome = answer_of
                if message.per_recipient:
                    outcome = partial(answers_of, message, transaction.recipients)
                answer = await self._ask(routes.message, (self.session, message), outcome)
            self._reply(answer)
            self.journal.accepted(self.session, transaction, answer, message)
            if replied is None or message is None:
                bodies.release()
            else:  # which may read the message
                self._unsent_size = bodies.hand_over()
        finally:
            self.due = False
            if replied is not None:
                self._unsent = message  # also if this is closed, without any reply
        if replied is not None and message is not None:
            if isinstance(answer, Disconnect):
                return  # `farewell` calls it, since no reply was sent
            del transaction, message  # the handler may be the last to hold it
            await self._until_sent()
            await self._notify_replied(replied)

    def _build(self, transaction: Transaction) -> Message | None:
        """Return the message, or `None` after too many hops."""
        chunks, spool = self.bodies.take()
        if transaction.size > _SHORT and hops(chunks, spool) >= _HOP_LIMIT:
            return None
        self._count += 1
        conversation, session = self.connection.conversation, self.session
        message_id = f"{session.id}-{self._count}"  # an atom (RFC 5321 4.4)
        # All by position: keywords take 1 % of the instructions of a message
        return Message(
            message_id,
            transaction.sender,
            [*transaction.recipients],  # the handler's own: what it does to it changes no reply
            self._stamp.field(
                session, conversation.helo, conversation.esmtp, transaction, message_id
            ),
            chunks,
            transaction,
            spool,
            self._routes.streams,
            conversation.settings.lmtp,
        )

    # -- notifications ---------------------------------------------------------------------------

    @property
    def owes_reply(self) -> bool:
        """Whether `on_replied` is due, or a notification is under way."""
        return self._unsent is not None or self.notifying

    @property
    def owes_farewell(self) -> bool:
        """Whether notifications are due once the client has gone."""
        return self._unsent is not None or self._disconnect is not None

    async def farewell(self) -> None:
        """Call the last hooks of a session, once each, one after the other."""
        replied, disconnect = self._routes.replied, self._disconnect
        if self._unsent is not None and replied is not None:
            await self._notify_replied(replied)
        if disconnect is not None:
            self._disconnect = None
            await self._notify(disconnect, (self.session,))

    async def _notify_replied(self, hook: Hook) -> None:
        message, self._unsent = self._unsent, None
        try:
            await self._notify(hook, (self.session, message, not self._wire.closing))
        finally:
            size, self._unsent_size = self._unsent_size, 0
            self._runtime.memory.release(size)

    async def _notify(self, hook: Hook, arguments: tuple[object, ...]) -> None:
        """Call a hook that only notifies. Its time begins when it is called, not when it waits."""
        call = self._begin(hook, arguments)
        del arguments
        self.notifying = True
        try:
            result, error = await self._ended(call)
        finally:
            self.call = None
            self.notifying = False
        if error is None:
            self._read_result(call, answer_of, result)
        else:
            failure_of(error, hook, self.session.id)
        del error
        self._deadlines.allow_command()

    async def _ended(self, call: Call) -> Ended:
        while True:
            try:
                return await call
            except DeadlineError:
                if self._deadlines.allow_hook_after(call.spent):
                    continue
                self._log_late(call)
                self._leave(call)
                return None, None
            except GeneratorExit:
                if call.began is None:
                    log = about(logger, self.session.id)
                    log.warning("%s was never called", call.hook)
                self._leave(call)
                raise

    def _leave(self, call: Call) -> None:
        """Cancel a hook that only notifies; its message counts until it ends."""
        call.size += self._unsent_size
        self._unsent_size = 0
        call.cancel()

    # -- hooks -----------------------------------------------------------------------------------

    @types.coroutine
    def _ask(
        self, hook: Hook, arguments: tuple[object, ...], outcome: Outcome
    ) -> Generator[Call, Ended, Answer]:
        """Return what `outcome` makes of a hook's result, or the reply to its failure.

        Raises `GoneError` if the client has, and no message depends on the answer.
        """
        call = self._begin(hook, arguments)
        try:
            result, error = yield call  # as `await` does, which takes a frame more
        except DeadlineError:
            self._log_late(call)
            self._let_go(call)
            if self._wire.lost and not self.due:
                raise GoneError from None
            return replies.HANDLER_TIMEOUT if hook.trouble is replies.TROUBLE else hook.trouble
        except GeneratorExit:
            self._let_go(call)
            raise
        finally:
            self.call = None
        if self._wire.lost and not self.due:
            raise GoneError
        if error is None:
            if result is None and outcome is answer_of and hook.meaning.accepts_none:
                return None  # nearly always
            return self._read_result(call, outcome, result)
        try:
            return self._noted(failure_of(error, hook, self.session.id), hook)
        finally:
            del error  # its traceback refers to this frame, and the frame to the whole message

    def _noted(self, answer: Answer, hook: Hook) -> Answer:
        """Return `answer`, and log it if it drops the connection."""
        if isinstance(answer, Disconnect):
            self.journal.dropped(hook.name)
        return answer

    def _read_result(self, call: Call, outcome: Outcome, result: object) -> Answer:
        """Return what `outcome` makes of a result, which may raise when it is looked at."""
        meaning = call.hook.meaning
        try:
            return self._noted(outcome(meaning, result, call.note_wrong), call.hook)
        except Exception as error:  # noqa: BLE001  of the user's, whatever it is
            log = about(handler_logger, self.session.id)
            log_failure(log, error, "%s returned what cannot be read", call.hook, users=True)
            error.__traceback__ = None  # as in `failure_of`
        return outcome(meaning, True, call.note_wrong) if meaning.stored else meaning.trouble

    def _begin(
        self,
        hook: Hook,
        arguments: tuple[object, ...],
    ) -> Call:
        context = self._context
        if context is None:
            self._context = context = contextvars.copy_context()
            context.run(current_session.set, self.session)
        self._deadlines.allow_hook()
        self.call = call = Call(self._runtime, self.journal, hook, self.quota.key)
        call.start(arguments, context)
        return call

    def _let_go(self, call: Call) -> None:
        """Cancel a hook that is no longer awaited; its message counts until it ends."""
        if self.due:
            call.size = self.bodies.hand_over()
        call.cancel()

    def _log_late(self, call: Call) -> None:
        about(logger, self.session.id).warning("%s is over its deadline", call.hook)

    def _reply(self, answer: Answer) -> None:
        """Pass the answer to the core. `results` lets only such through as fit."""
        if answer is None or type(answer) is Reply:
            self.connection.reply(answer)
        elif isinstance(answer, list):
            self.connection.reply_each(answer)
        else:
            self.connection.hang_up()

    # -- time ------------------------------------------------------------------------------------

    async def tarpit(self, event: events.Tarpit) -> None:
        """Hold all replies back for a while, since the client has made many errors."""
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
        if not self._wire.writable and not self._wire.closing:
            self._deadlines.client_must_read()
        await self._turn()
        while self._wire.unsent:
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


def _trusted(rules: Rules, peer: Peer) -> frozenset[str]:
    rows = (("XCLIENT", rules.xclient), ("XFORWARD", rules.xforward))
    return frozenset(verb for verb, networks in rows if peer in networks)
