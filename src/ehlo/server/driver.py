"""The asyncio protocol that drives one `Connection`: bytes up and down, and hooks in between.

It parses nothing and decides nothing. What the core asks goes to the dispatcher; while a hook is
under way nothing is read from the core, and what the client sends waits in its buffer. The parts
of a session have files of their own: `Wire`, `Account`, `Deadlines`, `Delivery`, `Ending`, and
what an `upgrade` to TLS is. The file is longer than others: asyncio, the sweep, a shutdown and
those parts all call this one object.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Final, cast

from ehlo.net import Peer
from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, PAUSED
from ehlo.protocol.reply import Reply
from ehlo.protocol.xclient import Attributes
from ehlo.server.dispatch import Dispatcher
from ehlo.server.driving import upgrade
from ehlo.server.driving.account import Account
from ehlo.server.driving.deadlines import Deadlines
from ehlo.server.driving.delivery import Delivery
from ehlo.server.driving.ending import Ending
from ehlo.server.driving.lookup import Lookup
from ehlo.server.driving.transcript import observer_of
from ehlo.server.driving.waits import DiskRun, MemoryWait, Pause, Turn
from ehlo.server.driving.wire import Wire, ends_of
from ehlo.server.hooks.hookrun import HookRun, Notice
from ehlo.server.hooks.hooks import Hook, Outcome
from ehlo.server.observing.journal import Journal, turned_away
from ehlo.server.options.rules import Rules
from ehlo.server.runtime import Runtime
from ehlo.server.tls.channel import Channel
from ehlo.session import ProxyInfo, Session, current_session

__all__ = ["Driver"]

_MOST_BUFFERED = 16_384  # while a hook runs; beyond it the client is not read
_NOTHING: Final = frozenset[str]()  # an empty one for each client takes 216 octets
_MOST_EVENTS = 200  # of one client, before others have their turn

Pending = HookRun | DiskRun | MemoryWait | Pause | Turn


class Driver(asyncio.Protocol):
    """One connected client."""

    __slots__ = (
        *("_context", "_dispatcher", "_lookup", "_stalled", "_trusted"),
        *("account", "connection", "deadlines", "delivery", "ending", "hooks", "journal"),
        *("pending", "rules", "runtime", "session", "wire"),
    )

    account: Account
    connection: Connection
    journal: Journal
    session: Session
    wire: Wire

    def __init__(self, runtime: Runtime, rules: Rules, dispatcher: Dispatcher) -> None:
        self.runtime = runtime
        self.rules = rules
        self.deadlines = Deadlines(rules, runtime.loop.time)
        self.delivery = Delivery(runtime.shelf)
        self.ending = Ending(dispatcher.hooks)
        self.hooks = dispatcher.hooks
        self._dispatcher = dispatcher
        self.pending: Pending | None = None  # until it is over, the core waits
        self._context: contextvars.Context | None = None
        self._lookup: Lookup | None = None
        self._trusted = _NOTHING
        self._stalled = False  # there are replies to make, and the client does not read

    # -- the beginning ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ends = ends_of(transport)
        if ends is not None:
            self.begin(cast("asyncio.Transport", transport), *ends)
            return
        self.ending.never_began()  # it left before it was accepted
        cast("asyncio.Transport", transport).abort()

    def begin(
        self, transport: asyncio.Transport, peer: Peer, local: Peer, proxy: ProxyInfo | None = None
    ) -> None:
        """Serve a client that is at `peer`, whoever it is that is connected."""
        runtime, rules = self.runtime, self.rules
        self.wire = Wire(transport, runtime.memory)
        self.account = Account(runtime, peer, proxy)
        if runtime.draining or not self.account.open():
            self._turn_away(peer)
            return
        session_id = runtime.new_id()
        self.journal = Journal(runtime.stats, session_id, peer)
        if rules.xclient or rules.xforward:
            self._trusted = _trusted(rules, peer)
        self.connection = self.new_connection(session_id, peer, tls=rules.tls_listener)
        self.session = Session(session_id, peer, local, self.connection.conversation, proxy)
        runtime.add(self)
        self.journal.opened(self)
        if self.ending.notices.of_replies:
            transport.set_write_buffer_limits(0)  # so that we are told when all has left
        if rules.reverse_dns:
            self._lookup = Lookup.of(runtime, self.session)
        self._open()

    def _turn_away(self, peer: Peer) -> None:
        """Before any session: said in clear, unless the client expects a handshake."""
        draining = self.runtime.draining
        turned_away(self.runtime.stats, peer, "draining" if draining else "too many")
        if not self.rules.tls_listener:
            self.wire.write((replies.DRAINING if draining else replies.TOO_MANY_CONNECTIONS).wire)
        self.wire.close(linger=False)
        self.ending.never_began()

    def _open(self) -> None:
        """Greet, or await a handshake."""
        rules = self.rules
        if rules.tls_listener and rules.tls is not None:
            self.deadlines.allow(rules.tls_timeout)
            self.wire.begin_tls(Channel(rules.tls.current))
        else:
            self.deadlines.allow_command()
            self.advance()

    def new_connection(
        self,
        session_id: str,
        peer: Peer,
        *,
        tls: bool,
        **more: Any,  # what it has of one before, and what TLS has to say of the client
    ) -> Connection:
        """What serves the client: from the beginning on, and another one under TLS."""
        return Connection(
            self.rules.settings,
            self.rules.nonce,
            tls=tls,
            asks=self._dispatcher.asks,
            trusted=self._trusted,
            observer=observer_of(self.rules, session_id, peer),
            tally=self.journal,
            **more,
        )

    def speak_for(self, attributes: Attributes) -> None:
        """XCLIENT: the session is that of the client behind this one, and begins anew."""
        session = self.session
        if self._lookup is not None:
            self._lookup.drop()  # of the proxy's name
        session.speak_for(attributes)
        self.journal.speaks_for(session.peer)
        self.account.speak_for(session.peer)
        # Whoever it is now says it for himself: a proxy passes on what its client says
        self._trusted = _trusted(self.rules, session.peer)
        self.connection.conversation.trusted = self._trusted
        self.connection.reply()

    # -- bytes -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        wire = self.wire
        wire.received += len(data)
        if self.ending.closing:
            return
        if wire.channel is not None:
            plain = upgrade.decrypted(self, data)
            if plain is None:
                return
            data = plain
        waited = self.pending is not None
        self.connection.receive_data(data)
        self.advance()
        # A small read leaves little behind: a client runs ahead by a large one, or by several
        if self.pending is not None and (waited or len(data) > _MOST_BUFFERED):
            self._adjust_reading()

    def eof_received(self) -> bool:
        """The client will not send any more; what it has said is still answered."""
        if self.ending.lingering or self.wire.in_handshake:
            self.abort()
        elif not self.ending.closing:
            self.connection.receive_eof()
            self.advance()
        return True

    def pause_writing(self) -> None:
        self.wire.writable = False
        self.deadlines.client_stops_reading()
        if type(self.pending) is Turn:
            self.deadlines.client_must_read()
        self._adjust_reading()

    def resume_writing(self) -> None:
        self.wire.writable = True
        self._adjust_reading()
        ours = self.pending is not None and type(self.pending) is not Turn
        if not ours and not self.ending.closing:
            self.deadlines.client_is_awaited(self.connection.conversation, self.wire, moved=True)
        stalled, self._stalled = self._stalled, False
        if self.ending.notices.is_due:
            self.ending.notices.look(self)
        elif stalled and not ours:
            self._go_on()

    def flush(self) -> None:
        """Send what has been said."""
        data = self.connection.data_to_send()
        if data and not self.ending.closing:
            self.wire.write(data)

    def _adjust_reading(self) -> None:
        """A client that does not read is not read; nor is one that runs far ahead of a hook.

        With memory nearly gone nobody runs ahead of one at all. What waits meanwhile is counted.
        """
        if self.ending.closing:
            return
        wire, ahead = self.wire, self.connection.buffered
        short = self.pending is not None and self.runtime.memory.excess > 0
        want = wire.writable and ahead <= (0 if short else _MOST_BUFFERED)
        if want != wire.reading:
            wire.read_on(want)
        wire.count_waiting(0 if want else ahead + wire.unsent)

    # -- the loop --------------------------------------------------------------------------------

    def advance(self) -> None:
        """All that can be done now: events to the dispatcher, then one write."""
        connection, routes, ending = self.connection, self._dispatcher.routes, self.ending
        wire = self.wire
        if not wire.writable and self.pending is None and self._awaits_reader():
            return
        moved = False
        done = 0
        while self.pending is None and not ending.closing:
            event = connection.next_event()
            if event is NEED_DATA or event is PAUSED:
                break
            moved = True
            routes[type(event)](self, event)
            done += 1
            if done == _MOST_EVENTS and self.pending is None:
                self.take_breath()
        if ending.closing:
            return
        pending = self.pending
        if type(pending) is not Pause:
            data = connection.data_to_send()
            if data:
                moved = True
                wire.write(data)
        if pending is not None:
            self.deadlines.client_waits(connection.conversation)
        elif wire.writable:
            self.deadlines.client_is_awaited(connection.conversation, wire, moved)
        else:
            self.deadlines.client_must_read()
        if not wire.reading:
            self._adjust_reading()
        if self.runtime.draining and pending is None:
            self.drain()

    def _awaits_reader(self) -> bool:
        """Whether nothing more is done for the client until it reads what we have said."""
        if self.ending.closing or self.connection.over:
            return False
        self._stalled = True
        self.flush()
        self.deadlines.client_must_read()
        self._adjust_reading()
        if self.runtime.draining:
            self.drain()
        return True

    # -- hooks, and what else the core waits for -------------------------------------------------

    def run_hook(
        self, hook: Hook, arguments: tuple[object, ...], event: object, outcome: Outcome
    ) -> HookRun:
        """Start a hook; `event` is answered by what `outcome` makes of its result."""
        context = self._context
        if context is None:
            self._context = context = contextvars.copy_context()
            context.run(current_session.set, self.session)
        self.deadlines.allow_hook()
        self.pending = run = HookRun(self, hook, event, outcome)
        run.start(arguments, context)
        return run

    def wait_for(self, wait: DiskRun | MemoryWait) -> None:
        """Ask the core for nothing more until this is over, which may take as long as a hook."""
        self.deadlines.allow_hook()
        self.pending = wait

    def go_on_after(self, then: Callable[[bool], None], *, well: bool) -> None:
        """What the core waited for is over."""
        self.pending = None
        then(well)
        self.advance()
        self.ending.settle(self)

    def hook_ended(self, run: HookRun, result: object, error: BaseException | None) -> None:
        """A hook has returned or raised; it may be one that nobody waits for any more."""
        self.journal.hook_ended(run)
        if run is not self.pending:
            self.runtime.memory.release(run.octets)
            run.octets = 0
            run.note_dropped(error)
            return
        self.pending = None
        if not self.ending.lost or isinstance(run.event, events.MessageEnd | Notice):
            self._dispatcher.finish(self, run, result, error)
            self.advance()
        if self.ending.lost:
            self.ending.settle(self)

    def hook_is_late(self, run: HookRun) -> None:
        """A hook is over its deadline: what it was asked is answered without it."""
        self.pending = None
        run.cancel()
        self.delivery.hand_over(run)
        self._dispatcher.late(self, run.event)
        self.advance()
        self.ending.settle(self)

    def message_answered(self) -> None:
        """The core has the final reply: send it, and say whether it could leave."""
        message = self.delivery.answered()
        if message is not None and self.ending.notices.of_replies:
            self.ending.notices.tell_when_sent(self, message)
        elif self.runtime.draining:
            self.drain()  # before what the client has pipelined begins another transaction

    def noticed(self) -> None:
        """A hook is done that no reply waited for: the client's own time runs again."""
        self.deadlines.allow_command()
        if self.runtime.draining:
            self.drain()

    # -- memory ----------------------------------------------------------------------------------

    @property
    def resting(self) -> int:
        """Octets of a body in memory that could go to disk now: its client is awaited."""
        awaited = self.pending is None and not self.ending.closing
        return self.delivery.holding.resting if awaited else 0

    @property
    def leaving(self) -> int:
        """Octets of a body on their way to disk."""
        return self.pending.octets if isinstance(self.pending, DiskRun) else 0

    def make_room(self) -> None:
        """Have the body that rests in memory written to disk."""
        self.delivery.make_room(self)

    # -- pauses ----------------------------------------------------------------------------------

    def pause_for(self, seconds: float) -> None:
        """Hold all replies back for a while: the client has made many errors."""
        self.pause(seconds, self.connection.resume)

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Say nothing for a while, and then what `then` does."""
        self.deadlines.allow(seconds + self.rules.command_timeout)
        self.pending = Pause(self, seconds, then)

    def take_breath(self) -> None:
        """Send what is there, and let others have their turn before more is answered."""
        self.runtime.stats.relieve()
        self.pending = Turn(self, self._go_on)

    def _go_on(self) -> None:
        """A client that does not read our replies gets no more of them until it does."""
        self._stalled = not self.wire.writable
        if self._stalled:
            self.deadlines.client_must_read()
        else:
            self.pending = None
            self.deadlines.allow_command()  # that others had their turn was no time of the client's
            self.advance()

    # -- what there is to see --------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """For the sweep."""
        return self.deadlines.at

    @property
    def session_id(self) -> str:
        """For the log."""
        return self.session.id

    @property
    def hook(self) -> str | None:
        """The name of the hook that is under way."""
        return self.pending.hook.name if isinstance(self.pending, HookRun) else None

    def seen(self) -> dict[str, Any]:
        """What there is to see of this session."""
        return self.journal.seen(self)

    # -- the end ---------------------------------------------------------------------------------

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._lookup is not None:
            self._lookup.drop()
        self.ending.client_has_gone(self)

    def count_out(self) -> None:
        """The client has gone, and all that had to be told of it has been."""
        self.journal.closed(self)
        self.delivery.holding.release()
        self.wire.forget()
        self.account.close()
        self.runtime.remove(self)

    def expire(self) -> None:
        """The deadline has passed."""
        self.ending.expire(self)

    def hang_up(self, reply: Reply) -> None:
        """Say `reply` and close, whatever the client was doing."""
        self.ending.hang_up(self, reply)

    def drain(self) -> None:
        """The server shuts down: end as soon as that is decent."""
        self.ending.drain(self)

    def cut(self) -> None:
        """End now, with whatever hook is under way."""
        self.ending.cut(self)

    def abort(self) -> None:
        """Close now, and lose what could not be sent."""
        self.ending.abort(self)


def _trusted(rules: Rules, peer: Peer) -> frozenset[str]:
    rows = (("XCLIENT", rules.xclient), ("XFORWARD", rules.xforward))
    return frozenset(verb for verb, networks in rows if peer in networks)
