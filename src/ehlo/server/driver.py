"""The asyncio protocol that drives one `Connection`: bytes up and down, and answers in between.

It parses nothing and decides nothing. What an event is answered is in `answer.py`; while a
coroutine of it is under way, nothing is read from the core, and what the client sends waits in its
buffer. All ways in which a session ends are here, too.

This file is longer than others: asyncio, the sweep and a shutdown all call this one object.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any, Final, cast

from ehlo.net import Peer
from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, PAUSED
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import Counts
from ehlo.protocol.xclient import Attributes, endpoints
from ehlo.server.account import Account
from ehlo.server.answer import Answers, DeadlineError, GoneError, Routes, Slot, Work
from ehlo.server.bodies import Stamp
from ehlo.server.deadlines import Deadlines
from ehlo.server.lookup import Lookup
from ehlo.server.observing.journal import Journal, about, observer_of, turned_away
from ehlo.server.observing.stats import SessionView
from ehlo.server.options.rules import Rules
from ehlo.server.runtime import End, Occupant, Runtime
from ehlo.server.tls.channel import Channel
from ehlo.server.wire import Wire, ends_of
from ehlo.session import ProxyInfo, Session

__all__ = ["Driver", "take_over"]

_MOST_BUFFERED = 16_384  # bytes while a hook runs; beyond them the client is not read
_MOST_EVENTS = 200  # of one client, before others have their turn
_LINGER = 5.0  # seconds for a client to notice that nothing it sends is read
_CLOSING = 30.0  # seconds for the last replies to leave
_NOTHING: Final = frozenset[str]()  # an empty one for each client takes 216 bytes

logger = logging.getLogger("ehlo.server")


class Driver(Occupant):
    """Drives the session of one connected client."""

    __slots__ = (
        *("_lookup", "_routes", "_serves", "_trusted"),
        *("account", "answers", "connection", "deadlines", "journal", "rules", "runtime"),
        *("session", "slot", "wire"),
    )

    account: Account
    answers: Answers
    connection: Connection
    journal: Journal
    session: Session
    slot: Slot
    wire: Wire

    def __init__(self, runtime: Runtime, rules: Rules, routes: Routes) -> None:
        self.runtime = runtime
        self.rules = rules
        self.deadlines = Deadlines(runtime.loop.time, rules.times)
        self._routes = routes
        self._serves = False  # there is a session
        self._lookup: Lookup | None = None
        self._trusted = _NOTHING

    # -- the beginning ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a client has connected."""
        ends = ends_of(transport)
        if ends is not None:
            self.begin(cast("asyncio.Transport", transport), *ends)
        else:  # the client left before it was accepted
            cast("asyncio.Transport", transport).abort()

    def begin(
        self, transport: asyncio.Transport, peer: Peer, local: Peer, proxy: ProxyInfo | None = None
    ) -> None:
        """Serve a client at `peer`, which may not be the one that is connected."""
        runtime, rules = self.runtime, self.rules
        self.wire = wire = Wire(transport, runtime.memory)
        self.account = account = Account(runtime, peer, proxy)
        if runtime.draining or not account.open():
            self._turn_away(peer)
            return
        session_id = runtime.new_id()
        self.journal = journal = Journal(runtime.stats, session_id, peer)
        if rules.xclient or rules.xforward:
            self._trusted = _trusted(rules, peer)
        self.connection = connection = self._new_connection(tls=rules.options.tls_listener)
        self.session = session = Session(session_id, peer, local, connection.conversation, proxy)
        self.answers = Answers(
            self._routes,
            runtime,
            session,
            connection,
            account=account,
            deadlines=self.deadlines,
            journal=journal,
            stamp=Stamp(rules.by, runtime.clock, lmtp=rules.settings.lmtp),
            wire=wire,
        )
        self.slot = Slot(self._over)
        self._serves = True
        runtime.add(self)
        journal.opened(session)
        if self._routes.hooks.replied is not None:
            wire.notice_when_sent()
        if rules.options.reverse_dns:
            self._lookup = runtime.lookups.begin(peer, self._name_arrived)
        if rules.options.tls_listener and rules.tls is not None:
            self.deadlines.allow_handshake()
            wire.begin_tls(Channel(rules.tls.current))
        else:
            self.deadlines.allow_command()
            self._advance()

    def _turn_away(self, peer: Peer) -> None:
        """Reject a client before any session: in plaintext, unless it expects a handshake."""
        draining = self.runtime.draining
        turned_away(self.runtime.stats, peer, "draining" if draining else "too many")
        if not self.rules.options.tls_listener:
            self.wire.write((replies.DRAINING if draining else replies.TOO_MANY_CONNECTIONS).wire)
        self.wire.close()

    def _new_connection(
        self,
        *,
        tls: bool,
        greet: bool = True,
        counts: Counts | None = None,
        bindings: Mapping[str, bytes] | None = None,
        certificate: Mapping[str, Any] | None = None,
    ) -> Connection:
        """Return what serves the client: from the beginning, and another one under TLS."""
        options, journal = self.rules.options, self.journal
        return Connection(
            self.rules.settings,
            self.rules.nonce,
            tls=tls,
            greet=greet,
            counts=counts,
            asks=self._routes.asks,
            trusted=self._trusted,
            observer=observer_of(
                journal.session_id,
                journal.peer,
                debug=options.debug,
                log_read=options.log_read,
                log_write=options.log_write,
            ),
            tally=journal,
            bindings=bindings or {},
            certificate=certificate,
        )

    def _name_arrived(self, name: str) -> None:
        self.session.rdns = name

    # -- bytes -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Called with what the network has brought."""
        wire = self.wire
        wire.received += len(data)
        if wire.closing:
            return
        if wire.channel is not None:
            plain = self._decrypted(data)
            if plain is None:
                return
            data = plain
        waited = self.slot.work is not None
        self.connection.receive_data(data)
        self._advance()
        # A small read leaves little behind: a client runs ahead by a large one, or by several
        if self.slot.work is not None and (waited or len(data) > _MOST_BUFFERED):
            self._adjust_reading()

    def eof_received(self) -> bool:
        """Called when the client sends nothing more; what it has sent is still answered."""
        if self.wire.lingering or self.wire.in_handshake:
            self.wire.abort()
        elif not self.wire.closing:
            self.connection.receive_eof()
            self._advance()
        return True

    def pause_writing(self) -> None:
        """Called when the client does not read fast enough."""
        self.wire.writable = False
        if self.wire.closing:
            return
        self.deadlines.client_stops_reading()
        if self.answers.awaits_client:
            self.deadlines.client_must_read()
        self._adjust_reading()

    def resume_writing(self) -> None:
        """Called when the client has read what was written."""
        self.wire.writable = True
        if self.wire.closing:
            return
        self._adjust_reading()
        if self.slot.work is not None and not self.answers.awaits_client:
            return
        self.deadlines.client_is_awaited(self.connection.conversation, self.wire, moved=True)
        self.answers.client_reads()
        if self.slot.work is None:
            self._advance()

    def _adjust_reading(self) -> None:
        """Read the client, unless it does not read either, or runs far ahead of a hook.

        With memory nearly gone no client runs ahead of one at all. What waits is counted.
        """
        wire, ahead = self.wire, self.connection.buffered
        if wire.closing:
            return
        short = self.slot.work is not None and self.runtime.memory.excess > 0
        want = wire.writable and ahead <= (0 if short else _MOST_BUFFERED)
        if want != wire.reading:
            wire.read_on(want)
        wire.count_waiting(0 if want else ahead + wire.unsent)

    # -- the pump --------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do all that can be done now: answer events, write once, set the deadline."""
        connection, slot, wire, table = self.connection, self.slot, self.wire, self._routes.table
        if not wire.writable and slot.work is None and self._awaits_reader():
            return
        moved = False
        done = 0
        while slot.work is None and not wire.closing:
            event = connection.next_event()
            if event is NEED_DATA or event is PAUSED:
                break
            moved = True
            route = table.get(type(event))
            if route is None:
                self._heed(event)
            elif (work := route(self.answers, event)) is not None:
                self._begin(work)
            done += 1
            if done == _MOST_EVENTS and slot.work is None:
                slot.begin(self.answers.breathe())
        if wire.closing:
            return
        awaits = slot.work is not None
        if not (awaits and self.answers.silent) and (data := connection.data_to_send()):
            moved = True
            wire.write(data)
        if awaits:
            self.deadlines.client_waits(connection.conversation)
        else:
            self.deadlines.client_is_awaited(connection.conversation, wire, moved)
        if not wire.reading or self.runtime.draining:
            self._end_turn(awaits)

    def _begin(self, work: Work) -> None:
        if not self.slot.begin(work) and self.runtime.draining:
            self.end(End.DRAIN)  # before a command that was pipelined begins a transaction

    def _end_turn(self, awaits: bool) -> None:
        if not self.wire.reading:
            self._adjust_reading()
        if self.runtime.draining and not awaits:
            self.end(End.DRAIN)

    def _awaits_reader(self) -> bool:
        """Return whether nothing more is done for the client until it reads what was written."""
        if self.wire.closing or self.connection.over:
            return False
        self._flush()
        self.deadlines.client_must_read()
        self._adjust_reading()
        if self.runtime.draining:
            self.end(End.DRAIN)
        return True

    def _flush(self) -> None:
        data = self.connection.data_to_send()
        if data and not self.wire.closing:
            self.wire.write(data)

    def _heed(self, event: object) -> None:
        """Answer an event that is about the connection itself."""
        match event:
            case events.Close(linger):
                self._close(linger=linger)
            case events.StartTLS():
                self._start_tls()
            case events.XClient(attributes):
                self._speak_for(attributes)

    def _over(self, error: Exception | None) -> None:
        """Go on after what was awaited; `error` is what it has raised."""
        if isinstance(error, DeadlineError):
            self._time_out()
        elif error is not None and not isinstance(error, GoneError):
            about(logger, self.session.id).error("the session failed", exc_info=error)
            self.end(End.ABORT)
        elif self.wire.lost:
            self._settle()
        else:
            if self.runtime.draining:
                self.end(End.DRAIN)
            self._advance()

    def _speak_for(self, attributes: Attributes) -> None:
        """Serve the client behind this one, which XCLIENT names; the session begins again."""
        session = self.session
        if self._lookup is not None:
            self._lookup.drop()  # it is the proxy's name
        session.speak_for(attributes)
        self.journal.speaks_for(session.peer)
        self.account.speak_for(session.peer)
        # That client is trusted or not on its own: a proxy passes on what its client sends
        self._trusted = _trusted(self.rules, session.peer)
        self.connection.conversation.trusted = self._trusted
        self.connection.reply()

    # -- TLS -------------------------------------------------------------------------------------

    def _start_tls(self) -> None:
        """Answer STARTTLS: the 220 in plaintext; what comes next is the handshake."""
        tls = self.rules.tls
        assert tls is not None  # noqa: S101  STARTTLS is offered only with it
        try:
            channel = Channel(tls.current)
        except ssl.SSLError:
            about(logger, self.session.id).exception("TLS is not available")
            self.connection.reply(replies.TLS_UNAVAILABLE)
            return
        self.connection.reply()
        self._flush()
        self.wire.begin_tls(channel)

    def _decrypted(self, data: bytes) -> bytes | None:
        """Return the plaintext; `None` before the handshake has ended, and if it fails."""
        wire = self.wire
        try:
            plain = wire.decrypted(data, self._secured)
        except ssl.SSLError as error:
            self.journal.tls_failed(error.reason)
            self.answers.drop_body()
            wire.fail_tls()
            return None
        if wire.peer_closed:
            self.connection.receive_eof()
        return plain

    def _secured(self, channel: Channel) -> None:
        """Serve the client by a new connection, since the handshake has ended.

        RFC 3207 4.2: nothing is remembered of what was said before, which may have been anybody's,
        except what is counted against the client.
        """
        session, before, info = self.session, self.connection, channel.info()
        self.connection = self.answers.connection = connection = self._new_connection(
            tls=True,
            greet=self.rules.options.tls_listener,
            counts=before.counts,
            bindings=channel.bindings(),
            certificate=info.peer_certificate,
        )
        conversation = connection.conversation
        conversation.xclient = endpoints(before.conversation.xclient)
        session.restart(conversation)
        session.tls = info
        self.journal.secured(info)
        self.deadlines.allow_command()
        if self._routes.hooks.tls is not None:
            self.slot.begin(self.answers.secured(self._routes.hooks.tls))

    # -- what there is to see --------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `expire` is called, by the loop's clock."""
        return self.deadlines.at

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.session.id

    @property
    def hook(self) -> str | None:
        """The name of the hook that is under way."""
        call = self.answers.call
        return None if call is None else call.hook.name

    @property
    def resting(self) -> int:
        """Bytes of a body in memory that could go to disk now: the client is awaited."""
        awaited = self.slot.work is None and not self.wire.closing
        return self.answers.bodies.resting if awaited else 0

    @property
    def leaving(self) -> int:
        """Bytes of a body on their way to disk."""
        return self.answers.leaving

    def make_room(self) -> None:
        """Write the body that rests in memory to disk."""
        self.slot.begin(self.answers.make_room())

    def seen(self) -> SessionView:
        """Return what a snapshot shows of the session."""
        return self.journal.seen(
            self.session,
            state=self.connection.state.name,
            hook=self.hook,
            received=self.wire.received,
            sent=self.wire.sent,
            on_disk=self.answers.bodies.on_disk,
        )

    # -- the end ---------------------------------------------------------------------------------

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called when the client has gone. A complete message is wanted, and so are notices."""
        if self._lookup is not None:
            self._lookup.drop()
        if not self._serves or self.wire.lost:
            return
        answers = self.answers
        self.wire.lose()
        answers.drop_body()
        if self.slot.work is None:
            self._settle()
        elif answers.due or answers.notifying:
            return
        elif answers.call is not None:
            answers.call.cancel()  # and its end is awaited
        else:
            self.slot.drop()
            self._settle()

    def expire(self) -> None:
        """Called when the deadline has passed: of what is awaited, or of the last replies."""
        if self.wire.closing and not self.wire.lost:
            self.wire.abort()
        elif self.slot.work is not None:
            self.slot.expire()
        else:
            self._time_out()

    def end(self, how: End, /) -> None:
        """End the session from this side."""
        answers, wire = self.answers, self.wire
        if how is End.ABORT:
            self.slot.drop()
            wire.abort()
            answers.drop_body()
            self._settle()
        elif how is End.HANG_UP or not (answers.owes_reply or self.connection.in_transaction):
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
        reads = self.wire.has_sent_all
        self._hang_up(self.rules.settings.timed_out)
        if not reads:
            self.deadlines.allow(0.0)

    def _close(self, *, linger: bool) -> None:
        """Send what is queued, then close."""
        self._flush()
        self.wire.close(linger=linger)
        self.answers.drop_body()
        if not self.wire.lost:
            self.deadlines.allow_last_words(_LINGER if self.wire.lingering else _CLOSING)

    def _settle(self) -> None:
        """End a session whose client has gone, once the handler has been told."""
        if not self.wire.lost or self.slot.work is not None:
            return
        if self.answers.owes_farewell and self.slot.begin(self.answers.farewell()):
            return
        self.journal.closed(self.wire.received, self.wire.sent)
        self.answers.bodies.release()
        self.wire.forget()
        self.account.close()
        self.runtime.remove(self)
        self.slot.retire()


def take_over(
    runtime: Runtime,
    rules: Rules,
    routes: Routes,
    transport: asyncio.Transport,
    peer: Peer,
    local: Peer,
    proxy: ProxyInfo,
) -> asyncio.Protocol:
    """Serve a client whose proxy is at the other end of `transport`; return its protocol."""
    driver = Driver(runtime, rules, routes)
    transport.set_protocol(driver)
    driver.begin(transport, peer, local, proxy)
    return driver


def _trusted(rules: Rules, peer: Peer) -> frozenset[str]:
    rows = (("XCLIENT", rules.xclient), ("XFORWARD", rules.xforward))
    return frozenset(verb for verb, networks in rows if peer in networks)
