"""The asyncio protocol that drives one `Connection`: bytes up and down, and answers in between.

It parses nothing and decides nothing. `answer.py` answers events; while a coroutine of it is under
way, no event is read from the core, and the client's bytes wait in its buffer. All ways in which a
session ends are here, too.

This file is longer than others: asyncio, the sweep and a shutdown all call this one object.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import cast

from ehlo.net import Peer
from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, PAUSED, Event, Waiting
from ehlo.protocol.reply import Reply
from ehlo.server.answer import Answers, Routes
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import about, turned_away
from ehlo.server.observing.stats import SessionView
from ehlo.server.runtime import Ending, Occupant, Quota, Runtime
from ehlo.server.space import Memory
from ehlo.server.tls.channel import Channel
from ehlo.server.waits import AwaitSlot, DeadlineError, Deadlines, GoneError, Work
from ehlo.server.wire import Wire, ends_of
from ehlo.session import ProxyInfo

_MOST_BUFFERED = 16_384  # bytes while a hook runs; beyond them the client is not read
_MOST_UNCOUNTED = 4_096  # bytes that wait
_MOST_EVENTS = 200  # of one client, before others have their turn
_LINGER = 5.0  # seconds for a client to notice that nothing it sends is read
_CLOSING = 30.0  # seconds for the last replies to leave

logger: logging.Logger = logging.getLogger("ehlo.server")


class Driver(Occupant):
    """Drives the session of one connected client."""

    __slots__ = (
        *("_is_cut_off", "_serves", "answers", "connection", "deadlines", "quota", "routes"),
        *("runtime", "slot", "wire"),
    )

    answers: Answers
    connection: Connection
    """The connection of `answers`; every packet needs it."""
    quota: Quota
    slot: AwaitSlot
    wire: Wire

    def __init__(self, runtime: Runtime, routes: Routes) -> None:
        self.runtime = runtime
        self.deadlines: Deadlines = Deadlines(runtime.loop.time, routes.rules.times)
        self.routes = routes
        self._serves = False  # there is a session
        self._is_cut_off = False  # it ends when it awaits nothing more

    # -- the beginning ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a client has connected."""
        ends = ends_of(transport)
        if ends is not None:
            self.begin(cast("asyncio.Transport", transport), *ends)
        else:  # the client left before it was accepted
            cast("asyncio.Transport", transport).abort()

    def take_over(
        self, transport: asyncio.Transport, peer: Peer, local: Peer, proxy: ProxyInfo
    ) -> asyncio.Protocol:
        """Serve a client whose proxy is at the other end of `transport`; return its protocol."""
        transport.set_protocol(self)
        self.begin(transport, peer, local, proxy)
        return self

    def begin(
        self, transport: asyncio.Transport, peer: Peer, local: Peer, proxy: ProxyInfo | None = None
    ) -> None:
        """Serve a client at `peer`, which may not be the one that is connected."""
        runtime, routes, deadlines = self.runtime, self.routes, self.deadlines
        self.wire = wire = Wire(transport, runtime.overhead)
        self.quota = quota = Quota(runtime, peer, proxy)
        if runtime.draining or not quota.open():
            self._turn_away(peer)
            return
        ends = (peer, local, proxy)
        self.answers = answers = Answers(runtime, routes, ends, quota, deadlines, wire)
        self.connection = answers.connection
        self.slot = AwaitSlot(self._over)
        self._serves = True
        runtime.add(self)
        answers.journal.opened(answers.session)
        if routes.replied is not None:
            wire.notice_when_sent()
        else:
            wire.bound_unsent()
        rules = routes.rules
        if answers.wants_name:
            answers.look_up()
        if rules.options.tls_listener and rules.tls is not None:
            channel = Channel(rules.tls.current)
            if wire.count_tls(channel):
                deadlines.allow_handshake()
                wire.begin_tls(channel)
            else:
                self._close(linger=False)
        else:
            deadlines.allow_first()
            greeting = answers.connection.greet()
            if greeting is None:
                self._advance()
            else:
                wire.write(greeting)

    def _turn_away(self, peer: Peer) -> None:
        """Reject a client before any session: in plaintext, unless it expects a handshake."""
        draining = self.runtime.draining
        turned_away(self.runtime.stats, peer, "draining" if draining else "too many")
        if not self.routes.rules.options.tls_listener:
            self.wire.write((replies.DRAINING if draining else replies.TOO_MANY_CONNECTIONS).wire)
        self.wire.close()

    # -- bytes -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called when bytes have arrived."""
        wire = self.wire
        wire.received += len(data)
        if wire.channel is not None:
            plain = None if wire.closing else self._decrypted(data)
            if plain is None:
                return
            data = plain
        if wire.is_usual and self.slot.work is None:
            found = self.connection.hear(data)
            if isinstance(found, bytes):
                self.deadlines.moved = True
                wire.write(found)
                if self.runtime.draining:
                    self.end(Ending.DRAIN)
                return
            if found is not None:
                if type(found) is events.BodyChunk:
                    self._keep(found)
                else:
                    self._ask(found)
                return
        elif wire.closing:
            return
        self.connection.receive_data(data)
        if self.slot.work is None:
            self._advance()
            # A small read leaves little behind: a client runs ahead by a large one, or by several
            if len(data) <= _MOST_UNCOUNTED or self.slot.work is None:
                return
        self._adjust_reading()

    def eof_received(self) -> bool:
        """Called when the client sends no more; its commands so far are still answered."""
        if self.wire.lingering or self.wire.in_handshake:
            self.wire.abort()
        elif not self.wire.closing:
            self.connection.receive_eof()
            if self.slot.work is None:
                self._advance()
        return True

    def pause_writing(self) -> None:
        """Called when the client does not read fast enough."""
        self.wire.let_write(False)
        if self.wire.closing:
            return
        self.deadlines.client_stops_reading()
        if self.answers.awaits_client:
            self.deadlines.client_must_read()
        self._adjust_reading()

    def resume_writing(self) -> None:
        """Called when the client reads again."""
        self.wire.let_write(True)
        if self.wire.closing:
            return
        self._adjust_reading()
        if self.slot.work is not None and not self.answers.awaits_client:
            return
        self.deadlines.client_is_awaited(self.connection.conversation, self.wire, moved=True)
        self.answers.client_reads()
        # After a handshake another connection serves the client, or this one greets it
        free = self.slot.work is None and not self.wire.in_handshake
        if free and not self.wire.closing:
            self._advance()

    def _adjust_reading(self) -> None:
        """Read the client, unless it does not read either, or runs far ahead of a hook.

        With memory nearly gone no client runs ahead of one at all, and none of its body while that
        goes to disk. What waits is counted if it is more than a few bytes, which a small mail may
        be; where there is no room for it, the session ends.
        """
        wire, conversation = self.wire, self.connection.conversation
        if wire.closing:
            return
        if self._is_cut_off:
            if self.slot.work is None:
                self._cut_off()
            return
        buffer, most = conversation.buffer, _MOST_BUFFERED
        if self.slot.work is not None:
            if conversation.reader is not None:
                most = -1
            elif self.runtime.memory.excess > 0:
                most = 0
        want = wire.writable and len(buffer) <= most
        if want != wire.reading:
            wire.read_on(want)
        waiting = buffer.held + wire.unsent
        if not wire.count_waiting(waiting if waiting > _MOST_UNCOUNTED else 0):
            self._cut_off()

    def _cut_off(self) -> None:
        """End the session, since there is no room for what waits; a message has its reply first."""
        reads = self.wire.writable
        if self.answers.due or self.answers.notifying:
            self._is_cut_off = True
            self.wire.read_on(False)
            self.connection.conversation.buffer.clear()
            return
        self.connection.conversation.output.stop_reading()  # the client is still sending
        self._hang_up(replies.NO_MEMORY_AHEAD)
        if not reads:
            self.deadlines.allow(0.0)

    # -- the pump --------------------------------------------------------------------------------

    def _advance(self, event: Event | Waiting | None = None) -> None:
        """Do all that can be done now: answer events, write once, set the deadline.

        Nothing is awaited, and the transport is open. `event` is the first one, if it is known.
        """
        connection, wire, answers = self.connection, self.wire, self.answers
        if not wire.writable and not self._may_go_on():
            return
        table, done = self.routes.table, 0
        event = event or connection.next_event()
        while event is not NEED_DATA and event is not PAUSED:
            done += 1
            route = table.get(type(event))
            if route is None:
                self._heed(event)
                if wire.closing:
                    return
            elif (work := route(answers, event)) is not None:
                if self._begin(work):
                    break
                if wire.closing:
                    return
            if done == _MOST_EVENTS:
                self.slot.begin(answers.breathe())
                break
            event = connection.next_event()
        awaits = self.slot.work is not None
        if not answers.silent and (data := connection.data_to_send()):
            wire.write(data)
            done = 1
        if awaits:
            self.deadlines.client_waits(connection.conversation)
        else:
            self.deadlines.client_is_awaited(connection.conversation, wire, moved=done > 0)
        if not wire.is_usual or self.runtime.draining:
            self._end_turn(awaits)

    def _ask(self, event: Event | Waiting) -> None:
        """Answer the event of a usual packet: `_advance` with nothing before it or behind it."""
        route = self.routes.table.get(type(event))
        if route is None:
            if type(event) is events.Close:
                self._close(linger=event.linger)
            else:
                self._advance(event)
            return
        work = route(self.answers, event)
        if work is not None and self.slot.begin(work):
            self.deadlines.client_waits(self.connection.conversation)
        elif not self.wire.closing:
            self._advance()

    def _keep(self, event: events.BodyChunk) -> None:
        """Answer a large chunk of a body: `_advance` with nothing before it or behind it."""
        work = self.answers.chunk(event)
        if work is not None and self.slot.begin(work):
            self.deadlines.client_waits(self.connection.conversation)
            self._adjust_reading()
        elif not self.wire.closing:
            self.deadlines.client_is_awaited(self.connection.conversation, self.wire, moved=True)

    def _begin(self, work: Work) -> bool:
        """Begin to answer an event; return whether the answer waits."""
        awaits = self.slot.begin(work)
        if self.runtime.draining and not awaits:
            self.end(Ending.DRAIN)  # before a command that was pipelined begins a transaction
        return awaits

    def _end_turn(self, awaits: bool) -> None:
        if not self.wire.is_usual:
            self._adjust_reading()
        if self.runtime.draining and not awaits:
            self.end(Ending.DRAIN)

    def _may_go_on(self) -> bool:
        """Return whether to answer a client that does not read. If not, flush the replies."""
        if self.connection.over:
            return True
        self._flush()
        self.deadlines.client_must_read()
        self._adjust_reading()
        if self.runtime.draining:
            self.end(Ending.DRAIN)
        return False

    def _flush(self) -> None:
        data = self.connection.data_to_send()
        if data and not self.wire.closing:
            self.wire.write(data)

    def _heed(self, event: object) -> None:
        """Answer an event that is about the connection itself."""
        match event:
            case events.Close(linger):
                self._close(linger=linger)

    def _over(self, error: Exception | None) -> None:
        """Go on after a coroutine; `error` is its exception."""
        try:
            if error is not None and not isinstance(error, DeadlineError | GoneError):
                self._fail(error)
            elif self.wire.lost:
                self._settle()
            elif error is not None:
                self._time_out()
            elif not self._rests():
                if self.runtime.draining:
                    self.end(Ending.DRAIN)
                if not self.wire.closing:
                    self._advance()
        except Exception as failure:  # noqa: BLE001  no caller could end the session
            self._fail(failure)

    def _rests(self) -> bool:
        """Send the replies if the client's next command is all that there is to wait for.

        Return whether it is: `_advance` with nothing to do.
        """
        deadlines, wire = self.deadlines, self.wire
        if not wire.is_usual or deadlines.pace is not None or self.runtime.draining:
            return False  # the pace is that of a body, between its chunks
        data = self.connection.rest()
        if data:
            deadlines.moved = True
            wire.write(data)
        return data is not None

    def _fail(self, error: Exception) -> None:
        log_failure(about(logger, self.session_id), error, "the session failed")
        self.end(Ending.ABORT)

    # -- TLS -------------------------------------------------------------------------------------

    def _decrypted(self, data: bytes) -> bytes | None:
        """Return the plaintext; `None` before the handshake has ended, and if it fails."""
        wire = self.wire
        try:
            plain = wire.decrypted(data, self._secured)
        except ssl.SSLError as error:
            self.answers.journal.tls_failed(error.reason)
            if (transcript := self.answers.session.transcript) is not None:
                transcript.add("note", f"TLS failed: {error.reason}")
            self.answers.drop_body()
            wire.fail_tls()
            return None
        if wire.channel is not None and wire.channel.peer_closed:
            self.connection.receive_eof()
        return plain

    def _secured(self, channel: Channel) -> None:
        """Go on with the connection under TLS, since the handshake has ended."""
        self.answers.secure(channel)
        self.connection = self.answers.connection
        hook = self.routes.hooks.get("on_tls")
        if hook is not None:
            self.slot.begin(self.answers.secured(hook))

    # -- what there is to see --------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `expire` is called, by the loop's clock."""
        self._settle_deadline()
        return self.deadlines.at

    def _settle_deadline(self) -> None:
        """Set the deadline of a client that was heard since the last sweep."""
        if self.deadlines.moved:
            self.deadlines.settle(self.connection.conversation, self.wire)

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.answers.session.id

    @property
    def hook(self) -> str | None:
        """The name of the hook that is under way."""
        call = self.answers.call
        return None if call is None else call.hook.name

    def resting(self, memory: Memory, /) -> int:
        """Return the bytes of a body, counted in this memory, that could be on disk."""
        return 0 if self.wire.closing else self.answers.bodies.resting(memory)

    @property
    def idleness(self) -> float:
        """The seconds for which the client has been idle; 0 unless it is awaited."""
        if self.wire.lost or (self.slot.work is not None and not self.answers.awaits_client):
            return 0.0
        self._settle_deadline()
        return self.deadlines.idleness(self.wire.said)

    def make_room(self) -> None:
        """Write the body that rests in memory to disk."""
        self.answers.make_room()

    def seen(self) -> SessionView:
        """Return what a snapshot shows of the session."""
        answers = self.answers
        return answers.journal.seen(
            answers.session,
            state=self.connection.state.name,
            hook=self.hook,
            received=self.wire.received,
            sent=self.wire.sent,
            on_disk=answers.bodies.on_disk,
        )

    # -- the end ---------------------------------------------------------------------------------

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called when the client has gone. A complete message is still handled."""
        if not self._serves or self.wire.lost:
            return
        answers = self.answers
        answers.wants_name = False
        if self.routes.rules.transcripts is not None:
            self.connection.lose()
        self.wire.lose()
        if self.slot.work is None:
            self._settle()
            return
        answers.drop_body()
        if answers.due or answers.notifying:
            return
        if answers.call is not None:
            answers.call.cancel()  # and its end is awaited
        else:
            self.slot.drop()
            self._settle()

    def expire(self) -> None:
        """Called when the deadline has passed."""
        if self.wire.closing and not self.wire.lost:
            self.wire.abort()
        elif self.slot.work is not None:
            self.slot.expire()
        else:
            self._time_out()

    def end(self, how: Ending, /) -> None:
        """End the session from this side."""
        answers, wire = self.answers, self.wire
        if how is Ending.ABORT:
            self.slot.drop()
            wire.abort()
            answers.drop_body()
            self._settle()
        elif how is Ending.HANG_UP or not (answers.owes_reply or self.connection.in_transaction):
            self._hang_up(replies.DRAINING)

    def _hang_up(self, reply: Reply) -> None:
        """Send `reply` and close, whatever the client was doing."""
        if self.wire.closing:
            return
        if self.wire.in_handshake:
            self.wire.abort()
            return
        self.slot.drop()
        self.connection.hang_up(reply)
        self._advance()

    def _time_out(self) -> None:
        """End the session, since the client was too slow; without a reply if it does not read."""
        reads = not self.wire.unsent
        self._hang_up(self.routes.rules.settings.timed_out)
        if not reads:
            self.deadlines.allow(0.0)

    def _close(self, *, linger: bool) -> None:
        """Send what is queued, then close."""
        data = self.connection.data_to_send()
        self.wire.close(b"" if self.wire.closing else data, linger=linger)
        self.answers.drop_body()
        if not self.wire.lost:
            self.deadlines.allow_last_words(_LINGER if self.wire.lingering else _CLOSING)

    def _settle(self) -> None:
        """End the session of a client that has gone, after the last hooks."""
        if not self.wire.lost or self.slot.work is not None:
            return
        self.answers.bodies.release()
        self.answers.leave_login()
        if self.answers.owes_farewell and self.slot.begin(self.answers.farewell()):
            return
        self.answers.journal.closed(self.wire.received, self.wire.sent)
        if self.routes.rules.transcripts is not None:
            self.answers.let_go_of_transcript()
        self.wire.forget()
        self.quota.close()
        self.runtime.remove(self)
        self.slot.retire()
