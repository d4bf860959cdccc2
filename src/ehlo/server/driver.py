"""The asyncio protocol that drives one `Connection`: bytes up and down, TLS, deadlines, hooks.

It parses nothing and decides nothing. What the core asks goes to the dispatcher; while a hook is
under way nothing is read from the core, and what the client sends waits in its buffer.

Longer than most files here: a session's ends (by the client, a deadline, a shutdown, in the middle
of a hook) are one subject, and would be harder to follow in pieces.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, cast

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, PAUSED
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import Counts, State
from ehlo.protocol.xclient import Attributes, endpoints
from ehlo.server.dispatch import Dispatcher, Notice, Secured
from ehlo.server.holding import Holding
from ehlo.server.hookrun import HookRun
from ehlo.server.hooks import Hook, Outcome, answer_of
from ehlo.server.journal import Journal, about, turned_away
from ehlo.server.pace import Pace
from ehlo.server.rules import Rules
from ehlo.server.runtime import Runtime
from ehlo.server.tls import HANDSHAKE_COST, SESSION_COST, Channel
from ehlo.server.transcript import observer_of
from ehlo.server.waits import DiskRun, MemoryWait
from ehlo.session import Message, Peer, ProxyInfo, Session, current_session

__all__ = ["Driver", "ends_of"]

logger = logging.getLogger("ehlo.server")

_MOST_BUFFERED = 65_536  # while a hook runs; beyond it the client is not read
_TRACE = 2048  # octets that our own field may have
_MOST_EVENTS = 200  # of one client, before others have their turn
_MOST_LOOKUPS = 64  # of clients' names at once; who comes beyond it is not looked up
_LINGER = 5.0  # seconds for a client to notice that we do not listen any more
_CLOSING = 30.0  # seconds for our last words to leave


Pending = HookRun | DiskRun | MemoryWait | asyncio.Handle


class Driver(asyncio.Protocol):
    """One connected client."""

    __slots__ = (
        "_channel",
        "_client_key",
        "_closing",
        "_context",
        "_dispatcher",
        "_due",
        "_key",
        "_lingering",
        "_lookup",
        "_lost",
        "_messages",
        "_pace",
        "_pending",
        "_reading",
        "_received",
        "_replied",
        "_slow",
        "_stalled",
        "_told",
        "_trusted",
        "_writable",
        "connection",
        "deadline",
        "holding",
        "journal",
        "message",
        "received",
        "rules",
        "runtime",
        "sent",
        "session",
        "transport",
    )

    connection: Connection
    journal: Journal
    session: Session
    transport: asyncio.Transport

    def __init__(self, runtime: Runtime, rules: Rules, dispatcher: Dispatcher) -> None:
        self.runtime = runtime
        self.rules = rules
        self.deadline = math.inf
        self.holding = Holding(runtime.shelf)
        self.message: Message | None = None  # handed to on_message, its reply not yet said
        self._dispatcher = dispatcher
        self.received = 0  # octets, as they came from the network
        self.sent = 0
        self._channel: Channel | None = None  # TLS, from the handshake on
        self._pending: Pending | None = None  # until it is over, the core waits
        self._due = False  # a whole message is here, and on its way to the handler
        self._context: contextvars.Context | None = None
        self._lookup: asyncio.Task[None] | None = None
        self._replied: Message | None = None  # answered; its reply may not have left yet
        self._told = False  # on_disconnect has been called
        self._messages = 0
        self._received = 0  # octets, but for those of a TLS handshake
        self._pace: Pace | None = None  # of a body that has begun
        self._key: str | None = None  # what its connection is counted under
        self._client_key: str | None = None  # and its logins, also behind a proxy
        self._trusted: frozenset[str] = frozenset()
        self._reading = True
        self._writable = True
        self._closing = False  # no more is read from the core
        self._slow = False  # replies are held back for a while
        self._stalled = False  # there are replies to make, and the client does not read
        self._lingering = False  # what comes is thrown away
        self._lost = False

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ends = ends_of(transport)
        if ends is not None:
            self.begin(cast("asyncio.Transport", transport), *ends)
            return
        self._lost = self._closing = True  # it left before it was accepted
        cast("asyncio.Transport", transport).abort()

    def begin(
        self, transport: asyncio.Transport, peer: Peer, local: Peer, proxy: ProxyInfo | None = None
    ) -> None:
        """Serve a client that is at `peer`, whoever it is that is connected."""
        self.transport = transport
        runtime, rules = self.runtime, self.rules
        session_id = runtime.new_id()
        self.journal = Journal(runtime.stats, session_id, peer)
        if rules.xclient or rules.xforward:
            self._trusted = _trusted(rules, peer)
        self.connection = self._new_connection(session_id, peer, tls=rules.tls_listener)
        self.session = Session(session_id, peer, local, self.connection, proxy)
        unknown = proxy is not None and proxy.peer == peer  # a proxy is many clients, or none
        self._key = None if unknown else runtime.exempt.key(peer)
        self._client_key = self._key
        if runtime.draining or not self._is_let_in():
            turned_away(runtime.stats, peer, "draining" if runtime.draining else "too many")
            self._turn_away(replies.DRAINING if runtime.draining else replies.TOO_MANY_CONNECTIONS)
            return
        runtime.add(self)
        self.journal.opened(self)
        wait = rules.tls_timeout if rules.tls_listener else rules.command_timeout
        self.deadline = runtime.loop.time() + wait
        if self._dispatcher.hooks.replied is not None:
            self.transport.set_write_buffer_limits(0)  # so that we are told when all has left
        if rules.reverse_dns and not peer.is_unix and runtime.lookups < _MOST_LOOKUPS:
            self._lookup = runtime.loop.create_task(self._look_up(peer))
        if rules.tls_listener and rules.tls is not None:
            self._hold_channel(Channel(rules.tls.current))
        else:
            self._advance()

    def _is_let_in(self) -> bool:
        """By how many there are, and by how often its address has come."""
        runtime, key = self.runtime, self._key
        if runtime.connection_rate.spent(key) or not runtime.connections.admit(key):
            return False
        runtime.connection_rate.note(key)
        return True

    def may_send(self) -> bool:
        """Count a message; whether its address may send one more."""
        return self.runtime.message_rate.admit(self._client_key)

    def may_add_recipient(self) -> bool:
        """The same for a recipient."""
        return self.runtime.recipient_rate.admit(self._client_key)

    def may_not_log_in(self) -> bool:
        """Whether its address was wrong too often."""
        return self.runtime.login_failures.spent(self._client_key)

    def _new_connection(
        self,
        session_id: str,
        peer: Peer,
        *,
        tls: bool,
        greet: bool = True,
        counts: Counts | None = None,
        **proofs: Any,  # what TLS has to say of the client
    ) -> Connection:
        return Connection(
            self.rules.settings,
            self.rules.nonce,
            tls=tls,
            greet=greet,
            counts=counts,
            asks=self._dispatcher.asks,
            trusted=self._trusted,
            observer=observer_of(self.rules, session_id, peer),
            tally=self.journal,
            **proofs,
        )

    def _turn_away(self, reply: Reply) -> None:
        """Before any session: said in clear, unless the client expects a handshake."""
        self._closing = True
        self._key = None
        self._lost = True  # there is nothing to count out
        if not self.rules.tls_listener:
            self.transport.write(reply.wire)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._closing:
            return
        if self._channel is not None:
            plain = self._decrypted(self._channel, data)
            if plain is None:
                return
            data = plain
        self._received += len(data)
        self.connection.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """The client will not send any more; what it has said is still answered."""
        if self._lingering or (self._channel is not None and not self._channel.established):
            self.abort()
        elif not self._closing:
            self.connection.receive_eof()
            self._advance()
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        if self._lookup is not None:
            self._lookup.cancel()
        self.drop_body()
        pending = self._pending
        if self._has_message and pending is not None:
            return  # a message that is here stays wanted
        if isinstance(pending, HookRun):
            if not isinstance(pending.event, Notice):
                pending.cancel()
            return
        if pending is not None:
            pending.cancel()
            self._pending = None
        if self._replied is not None:
            self._check_sent()
        else:
            self._after()

    def pause_writing(self) -> None:
        self._writable = False
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._adjust_reading()
        if self._replied is not None:
            self._check_sent()
        elif self._stalled:
            self._stalled = False
            self._go_on()

    # -- the loop --------------------------------------------------------------------------------

    def _advance(self) -> None:
        """All that can be done now: events to the dispatcher, then one write."""
        connection, routes = self.connection, self._dispatcher.routes
        moved = False
        done = 0
        while self._pending is None and not self._closing:
            event = connection.next_event()
            if event is NEED_DATA or event is PAUSED:
                break
            moved = True
            routes[type(event)](self, event)
            done += 1
            if done == _MOST_EVENTS and self._pending is None:
                self.take_breath()
        if self._closing:
            return
        if not self._slow:
            data = connection.data_to_send()
            if data:
                moved = True
                wire = data if self._channel is None else self._channel.write(data)
                self.sent += len(wire)
                self.transport.write(wire)
        if self._pace is not None or connection.in_body or connection.state is State.BDAT:
            self._time_body(moved)
        elif moved and self._pending is None and self._writable:
            channel, rules = self._channel, self.rules
            plain = channel is None or channel.established
            wait = rules.command_timeout if plain else rules.tls_timeout
            self.deadline = self.runtime.loop.time() + wait
        if self._pending is not None or not self._reading:
            self._adjust_reading()
        if self.runtime.draining and self._pending is None:
            self.drain()

    def _time_body(self, moved: bool) -> None:
        """Each read of a body has its deadline, and so has the whole, between its chunks too."""
        connection, rules, now = self.connection, self.rules, self.runtime.loop.time()
        pace = self._pace
        if pace is None:
            self._pace = pace = Pace(now, self._received)
        elif connection.transaction is None and not connection.in_body:
            self._pace = None
        if self._pending is not None:
            if pace.hold(now) and isinstance(self._pending, DiskRun):
                self.deadline = now + rules.handler_timeout
        elif self._writable and (moved or connection.in_body):
            wait = rules.body_timeout if connection.in_body else rules.command_timeout
            rate, due = rules.min_body_rate, now + wait
            if rate and self._pace is not None:
                due = min(due, pace.due(now, self._received, rate))
            self.deadline = due

    def _flush(self) -> None:
        data = self.connection.data_to_send()
        if data and not self._closing:
            self._write(data if self._channel is None else self._channel.write(data))

    def _write(self, wire: bytes) -> None:
        self.sent += len(wire)
        self.transport.write(wire)

    def _adjust_reading(self) -> None:
        """A client that does not read is not read; nor is one that runs far ahead of a hook."""
        want = self._writable and self.connection.buffered <= _MOST_BUFFERED
        if want == self._reading or self._closing:
            return
        self._reading = want
        if want:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # -- hooks -----------------------------------------------------------------------------------

    def run_hook(
        self, hook: Hook, arguments: tuple[object, ...], event: object, outcome: Outcome
    ) -> None:
        """Start a hook; `event` is answered by what `outcome` makes of its result."""
        context = self._context
        if context is None:
            self._context = context = contextvars.copy_context()
            context.run(current_session.set, self.session)
        self.deadline = self.runtime.loop.time() + self.rules.handler_timeout
        run = self._pending = HookRun(self, hook, event, outcome)
        run.start(arguments, context)

    def hook_ended(self, run: HookRun, result: object, error: BaseException | None) -> None:
        """A hook has returned or raised; it may be one that nobody waits for any more."""
        self.journal.hook_ended(run)
        if run is not self._pending:
            self.runtime.memory.release(run.octets)
            run.octets = 0
            self._note_late(run, error)
            return
        self._pending = None
        if not self._lost or isinstance(run.event, events.MessageEnd | Notice):
            self._dispatcher.finish(self, run, result, error)
            self._advance()
        self._settle()

    def _settle(self) -> None:
        """When the client has gone and nothing is under way any more, this is the end."""
        if self._lost and self._pending is None:
            self._after()

    def _note_late(self, run: HookRun, error: BaseException | None) -> None:
        """The result of a hook that was over its deadline is dropped, and said to be."""
        if not isinstance(error, asyncio.CancelledError):
            about(logger, self.session.id).warning(
                "%s ended when nobody waited any more; its result is dropped (%s)",
                run.hook.name,
                "it returned" if error is None else "it failed",
            )

    def message_answered(self) -> None:
        """The core has the final reply: send it, and say whether it could leave."""
        message, self.message = self.message, None
        self._due = False
        self.holding.release()
        if message is not None and self._dispatcher.hooks.replied is not None:
            self._flush()
            self._replied = message
            self._pending = self.runtime.loop.call_soon(self._check_sent)
        elif self.runtime.draining:
            self.drain()  # before what the client has pipelined begins another transaction

    def _check_sent(self) -> None:
        """Whether the final reply has left; if not yet, `resume_writing` asks again."""
        if not self._lost and self.transport.get_write_buffer_size():
            return
        message, self._replied = self._replied, None
        hook = self._dispatcher.hooks.replied
        if message is not None and hook is not None:
            arguments = (self.session, message, not self._closing)
            self.run_hook(hook, arguments, Notice(), answer_of)

    def _after(self) -> None:
        """The client has gone and no hook is under way."""
        hook = self._dispatcher.hooks.disconnect
        if hook is None or self._told:
            self._end()
        else:
            self._told = True
            self.run_hook(hook, (self.session,), Notice(), answer_of)

    def _end(self) -> None:
        self.journal.closed(self)
        self.holding.release()
        if self._channel is not None:
            held = SESSION_COST if self._channel.established else HANDSHAKE_COST
            self.runtime.memory.release(held)
        self.runtime.connections.release(self._key)
        self.runtime.remove(self)

    # -- the body --------------------------------------------------------------------------------

    def keep(self, chunk: bytes) -> None:
        """Add to the body, in memory or on disk."""
        if self.holding.add(chunk):
            self._pending = DiskRun(self, self.holding.spill(), self._kept)

    def _kept(self, well: bool) -> None:
        if not well:
            self.connection.refuse_body(replies.NO_MEMORY)
            self.drop_body()

    def prepare(self, takes_bytes: bool, then: Callable[[bool], None]) -> None:
        """Have the whole of a body where its message's handler can read it, then go on.

        Where the handler `takes_bytes`, there must be memory for all of them beside the file.
        """
        self._due = True
        if self.holding.must_be_finished:
            written = partial(self._written, takes_bytes, then)
            self._pending = DiskRun(self, self.holding.spill(), written)
        else:
            self._written(takes_bytes, then, well=True)

    def _written(self, takes_bytes: bool, then: Callable[[bool], None], well: bool) -> None:
        spool = self.holding.spool
        octets = spool.size + _TRACE if takes_bytes and spool is not None else 0
        if not well or not octets or self.runtime.memory.reserve(octets):
            self.holding.claim_all(octets if well else 0)
            then(well)
            return
        wait = MemoryWait(self, then)
        if wait.start(octets):
            self._pending = wait
            self.deadline = self.runtime.loop.time() + self.rules.handler_timeout
        else:
            about(logger, self.session.id).warning("a message is larger than max_memory")
            then(False)

    @property
    def _has_message(self) -> bool:
        """Whether a whole message is here, its reply not yet said."""
        return self._due or self.message is not None

    @property
    def hook(self) -> str | None:
        """The name of the hook that is under way."""
        return self._pending.hook.name if isinstance(self._pending, HookRun) else None

    @property
    def session_id(self) -> str:
        """For the log."""
        return self.session.id

    def seen(self) -> dict[str, Any]:
        """What there is to see of this session."""
        return self.journal.seen(self)

    def is_waiting_for(self, wait: object) -> bool:
        """Whether this is what the core waits for."""
        return wait is self._pending

    def go_on_after(self, then: Callable[[bool], None], *, well: bool) -> None:
        """What the core waited for is over."""
        self._pending = None
        then(well)
        self._advance()
        self._settle()

    def drop_body(self) -> None:
        """Throw away what there is of a body; what a handler has, or will have, is still held."""
        if not self._has_message:
            self.holding.release()

    def next_message_id(self) -> str:
        """The session's id and a count."""
        self._messages += 1
        return f"{self.session.id}.{self._messages}"

    # -- TLS -------------------------------------------------------------------------------------

    def start_tls(self) -> None:
        """Say 220 in clear; what comes next is the handshake (RFC 3207)."""
        assert self.rules.tls is not None  # noqa: S101  STARTTLS is offered only with it
        try:
            channel = Channel(self.rules.tls.current)
        except ssl.SSLError:
            about(logger, self.session.id).exception("TLS is not to be had")
            self.connection.reply(replies.TLS_UNAVAILABLE)
            return
        self.connection.reply()
        self._flush()
        self._hold_channel(channel)

    def _hold_channel(self, channel: Channel) -> None:
        """It is counted, whether there is memory for it or not: without TLS there is no mail."""
        self.runtime.memory.take(HANDSHAKE_COST)
        self._channel = channel

    def _decrypted(self, channel: Channel, data: bytes) -> bytes | None:
        """What the client said under TLS; `None` before the handshake is done, and if it fails."""
        channel.receive(data)
        try:
            if not channel.established and not self._shake_hands(channel):
                return None
            plain = channel.read()
        except ssl.SSLError as error:
            self.journal.tls_failed(error.reason)
            self._write(channel.outgoing())  # the alert that says why
            self._closing = True
            self.transport.close()
            return None
        out = channel.outgoing()
        if out:
            self._write(out)
        if channel.peer_closed:
            self.connection.receive_eof()
        return plain

    def _shake_hands(self, channel: Channel) -> bool:
        """Whether it is done. From then on a new connection serves the client."""
        done = channel.handshake()
        out = channel.outgoing()
        if out:
            self._write(out)
        if not done:
            return False
        self.runtime.memory.release(HANDSHAKE_COST - SESSION_COST)
        session, rules, before, info = self.session, self.rules, self.connection, channel.info()
        self.connection = self._new_connection(
            session.id,
            session.peer,
            tls=True,
            greet=rules.tls_listener,
            counts=before.counts,
            bindings=channel.bindings(),
            certificate=info.peer_certificate,
        )
        self.connection.xclient = endpoints(before.xclient)
        session.restart(self.connection)
        session.tls = info
        self.journal.secured(info)
        self.deadline = self.runtime.loop.time() + rules.command_timeout
        hook = self._dispatcher.hooks.tls
        if hook is not None:
            self.run_hook(hook, (session,), Secured(), answer_of)
        return True

    def secured(self, answer: Reply | None) -> None:
        """on_tls has answered; a refusal is said under TLS, and ends the session."""
        if answer is not None and answer.refuses:
            self.connection.hang_up(answer)
        self.noticed()

    def noticed(self) -> None:
        """A hook is done that no reply waited for: the client's own time runs again."""
        self.deadline = self.runtime.loop.time() + self.rules.command_timeout
        if self.runtime.draining:
            self.drain()

    def speak_for(self, attributes: Attributes) -> None:
        """XCLIENT: the session is that of the client behind this one, and begins anew."""
        session = self.session
        if self._lookup is not None:
            self._lookup.cancel()  # of the proxy's name
        session.speak_for(attributes)
        self.journal.speaks_for(session.peer)
        self._client_key = self.runtime.exempt.key(session.peer)
        # Whoever it is now says it for himself: a proxy passes on what its client says
        self._trusted = self.connection.trusted = _trusted(self.rules, session.peer)
        self.connection.reply()

    # -- waiting ---------------------------------------------------------------------------------

    def pause_for(self, seconds: float) -> None:
        """Hold all replies back for a while: the client has made many errors."""
        self._wait(seconds, self.connection.resume)

    def delay_refused_login(self, answer: Reply) -> None:
        """A wrong login waits for its answer, by how often its address was wrong."""
        self.runtime.login_failures.note(self._client_key)
        seconds = self.runtime.failed_logins.delay(self._client_key)
        self._wait(seconds, lambda: self.connection.reply(answer))

    def _wait(self, seconds: float, then: Any) -> None:
        def go_on() -> None:
            self._pending = None
            self._slow = False
            then()
            self._flush()
            self._advance()

        loop = self.runtime.loop
        self.deadline = loop.time() + seconds + self.rules.command_timeout
        self._slow = True
        self._pending = loop.call_later(seconds, go_on)

    def take_breath(self) -> None:
        """Send what is there, and let others have their turn before more is answered."""
        self._pending = self.runtime.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """A client that does not read our replies gets no more of them until it does."""
        self._stalled = not self._writable
        if not self._stalled:
            self._pending = None
            self._advance()

    async def _look_up(self, peer: Peer) -> None:
        """The client's name; whoever needs it before it is here does without."""
        self.runtime.lookups += 1
        try:
            name, _ = await self.runtime.loop.getnameinfo(
                (peer.host, peer.port), socket.NI_NAMEREQD | socket.NI_NUMERICSERV
            )
        except OSError:
            return  # no name: as good as not asked
        finally:
            self.runtime.lookups -= 1
        self.session.rdns = name

    # -- the end ---------------------------------------------------------------------------------

    def expire(self) -> None:
        """The deadline has passed: of a hook, of the client, or of our last words."""
        run = self._pending
        if isinstance(run, HookRun) and (self._lost or not self._closing):
            if not self._has_time(run):
                self._expire_hook(run)
        elif self._due and isinstance(run, DiskRun | MemoryWait):
            self._expire_wait(run)
        elif isinstance(run, DiskRun) and not self._closing:
            self._expire_write(run)
        elif self._closing:
            self.abort()
        else:
            self.hang_up(self.rules.settings.timed_out)

    def _has_time(self, run: HookRun) -> bool:
        """A hook that is told something is told it in any case: its time begins when it does."""
        left = self.rules.handler_timeout
        if run.began is not None:
            left -= monotonic() - run.began
        if type(run.event) is not Notice or left <= 0:
            return False
        self.deadline = self.runtime.loop.time() + left
        return True

    def _expire_hook(self, run: HookRun) -> None:
        about(logger, self.session.id).warning("%s is over its deadline", run.hook.name)
        self._pending = None
        run.cancel()
        if self.message is not None:
            run.octets = self.holding.hand_over()
        self._dispatcher.late(self, run.event)
        self._advance()
        self._settle()

    def _expire_wait(self, wait: DiskRun | MemoryWait) -> None:
        """A message for which neither disk nor memory was to be had in time."""
        self._pending = None
        wait.cancel()
        self.connection.reply(replies.NO_MEMORY)
        self.message_answered()
        self._advance()
        self._settle()

    def _expire_write(self, run: DiskRun) -> None:
        """Some of a body could not be written in time: the rest of it is thrown away."""
        self._pending = None
        run.cancel()
        self._kept(False)
        self._advance()

    def hang_up(self, reply: Reply) -> None:
        """Say `reply` and close, whatever the client was doing."""
        if self._closing:
            return
        if self._channel is not None and not self._channel.established:
            self.abort()
            return
        self._drop_pending()
        self.connection.hang_up(reply)
        self._advance()

    def _drop_pending(self) -> None:
        pending, self._pending = self._pending, None
        self._slow = False
        if isinstance(pending, HookRun) and self.message is not None:
            pending.octets = self.holding.hand_over()
        if isinstance(pending, HookRun) and type(pending.event) is Notice and pending.began is None:
            logger.warning("session %s: %s was never called", self.session.id, pending.hook.name)
        if self._dispatcher.hooks.replied is not None and self._replied is None:
            self._replied = self.message  # whose reply will not leave
        self.message = None
        self._due = False
        if pending is not None:
            pending.cancel()

    def drain(self) -> None:
        """The server shuts down: at once without a transaction, else when it has ended."""
        pending = self._pending
        telling = isinstance(pending, HookRun) and type(pending.event) is Notice
        if self._closing or self._replied is not None or telling:
            return  # what comes next is asked for when that has been told
        if not self.connection.in_transaction:
            self.hang_up(replies.DRAINING)

    def close(self, *, linger: bool = False) -> None:
        """Send what is there to send, then close."""
        self._flush()
        self._closing = True
        self.drop_body()
        if self._lost:
            return
        loop = self.runtime.loop
        if self._channel is not None:
            self._write(self._channel.close())
        if linger and self.transport.can_write_eof():
            self._lingering = True
            self.transport.write_eof()
            self.deadline = loop.time() + _LINGER
            return
        self.deadline = loop.time() + _CLOSING
        self.transport.close()

    def cut(self) -> None:
        """End the session now, with whatever hook is under way."""
        self._drop_pending()
        self.abort()
        if self._lost and self._replied is not None:
            self._check_sent()
        self._settle()

    def abort(self) -> None:
        """Close now, and lose what could not be sent."""
        self._closing = True
        if not self._lost:
            self.transport.abort()


def _trusted(rules: Rules, peer: Peer) -> frozenset[str]:
    rows = (("XCLIENT", rules.xclient), ("XFORWARD", rules.xforward))
    return frozenset(verb for verb, networks in rows if peer in networks)


def ends_of(transport: asyncio.BaseTransport) -> tuple[Peer, Peer] | None:
    """Who is at both ends; `None` when the client has gone, so that nobody knows who it was.

    A client of a Unix socket has no name; it gets the socket's.
    """
    local = transport.get_extra_info("sockname")
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and isinstance(local, tuple):
        return Peer(peer[0], peer[1]), Peer(local[0], local[1])
    if isinstance(local, tuple):
        return None
    path = local.decode(errors="replace") if isinstance(local, bytes) else str(local or "")
    unix = Peer(f"unix:{path}", 0)
    return unix, unix
