"""Random sessions, near to plain mail and near to what is no plain mail, and a player of them.

Two players of a session, one for each way of its packets, must see the same: `Seen`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ehlo.protocol import events, extensions
from ehlo.protocol.address import Address
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import Admission
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.output import NOTHING, Rejected, Tally
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Transaction
from ehlo.protocol.verbs import QUESTIONS
from ehlo.transcript import Line, Transcript
from support.ways import deliver

__all__ = [
    *("ASKS", "BODIES", "DATA", "MAIL", "PARAMETERS", "PATHS", "RCPT", "SETTINGS"),
    *("Plan", "Seen", "mutated", "plan", "play", "shortened"),
]

# -- lines ---------------------------------------------------------------------------------------

HELLOS = [b"EHLO c\r\n", b"HELO c\r\n", b"LHLO c\r\n", b"EHLO\r\n"]
MAIL = [
    *(b"MAIL FROM:", b"mail from:", b"Mail From:", b"MAIL from:", b"MAIL FROM: ", b"MAIL FROM:  "),
    *(b"MAIL  FROM:", b"MAIL FROM", b" MAIL FROM:", b"MAIL\tFROM:", b"MAIL TO:", b"MAILFROM:"),
]
RCPT = [
    *(b"RCPT TO:", b"rcpt to:", b"Rcpt To:", b"RCPT to:", b"RCPT TO: ", b"RCPT  TO:", b"RCPT TO"),
    *(b" RCPT TO:", b"RCPT FROM:", b"RCPTTO:"),
]
DATA = [
    *(b"DATA\r\n", b"data\r\n", b"Data\r\n", b"DATA \r\n", b"DATA x\r\n", b"DATA\n", b"DATA\r\r\n"),
    *(b" DATA\r\n", b"DATA\0\r\n", b"DATAX\r\n"),
]
PATHS = [
    *(b"<a@x>", b"<a.b+c=d@m-x.example>", b"<A@X>", b"<1@2>", b"<a_b@x_y>", b"<bad@x>", b"<a@y>"),
    *(b"<>", b"<postmaster>", b"<Postmaster@x>", b'<"q q"@x>', b'<"a"@x>', b"<a@[192.0.2.1]>"),
    *(b"<a@[IPv6:::1]>", b"<a@[x]>", b"<@r.example:a@x>", b"<a..b@x>", b"<.a@x>", b"<a.@x>"),
    *(b"<a@x..y>", b"<a@-x>", b"<a@x->", b"<a@x.>", b"a@x", b"<a@x", b"a@x>", b"<a@x>>", b"<<a@x>"),
    *(b"<\xc3\xbc@x>", b"<a@\xc3\xbc>", b"<\xff@x>", b"<a@@x>", b"<a b@x>", b"<a@x y>", b"<a>"),
    *(
        b"<a\0@x>",
        b"<a\x7f@x>",
        b"<a@x\xc2\x85>",
        b"<a/b%c!d@x>",
        b"<a(b@x>",
        b"<a,b@x>",
        b"< a@x>",
    ),
]
PARAMETERS = [
    *(b" SIZE=1", b" size=20", b" SIZE=30", b" SIZE=31", b" SIZE=99999999999", b" SIZE=007"),
    *(b" SIZE=" + b"1" * 20, b" SIZE=" + b"1" * 21, b" SIZE=", b" SIZE", b" SIZE=+1", b" SIZE=x"),
    *(b" BODY=8BITMIME", b" body=7bit", b" BODY=7BIT", b" BODY=BINARYMIME", b" BODY=", b" BODY=X"),
    *(b" SMTPUTF8", b" AUTH=<>", b" RET=FULL", b" NOTIFY=NEVER", b" X=1", b" x", b" BY=120;R"),
    *(b"  SIZE=1", b" ", b"\t", b" SIZE=1 ", b" SIZE=1=2", b" =1", b"SIZE=1", b" SI\xc5\xbfE=1"),
]
OTHERS = [
    *(b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY b\r\n", b"HELP\r\n", b"BOGUS\r\n", b"\r\n"),
    *(b"RSET x\r\n", b"EXPN l\r\n", b"STARTTLS\r\n", b"XFOO\r\n", b"XCLIENT ADDR=192.0.2.1\r\n"),
    *(b"BDAT 3\r\nabc", b"BDAT 2 LAST\r\n\r\n", b"BDAT 0 LAST\r\n", b"BDAT 5\r\na", b"BDAT 0\r\n"),
    *(b"AUTH LOGIN\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"*\r\n", b"YQ==\r\n"),
    *(b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"\xff\r\n", b"x" * 700 + b"\r\n", b"x" * 13_000),
]
BODIES = [
    *(
        b"x\r\n.\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"a.\r\n",
        b"a\r\n",
        b"\r\n",
        b".",
        b"",
        b"..\r\n.\r\n",
    ),
    *(b"a\r\n..b\r\n.\r\n", b".a\r\n.\r\n", b"a\r\n.\r\nRSET\r\n", b"a\r\n.\r\n.\r\n", b"\r\n."),
    *(b"a\nb\r\n.\r\n", b"a\rb\r\n.\r\n", b"a\r\r\n.\r\n", b"\n.\n", b"a\n.\r\n", b"a\r\n.\n"),
    *(b"\0\xff\r\n.\r\n", b"x" * 28 + b"\r\n.\r\n", b"x" * 29 + b"\r\n.\r\n", b"a\r\n.\r\r\n"),
    *(b"x" * 70 + b"\r\n.\r\n", b"Subject: x\r\n\r\n" + b"y" * 60 + b"\r\n.\r\n", b"\n\r\n.\r\n"),
]
PLAIN = ([b"MAIL FROM:<a@x>\r\n"], [b"RCPT TO:<b@x>\r\n"], [b"DATA\r\n"], [b"x\r\n.\r\n"])
LENGTHS = (60, 255, 512)  # of lines, near to a limit
ODD = b'\r\n\0\t .<>@:=[]"\\aAzZ-_\x7f\xc3\xbc\xff'


def line(chance: random.Random, heads: list[bytes]) -> bytes:
    """A command with a path; its pieces are plain ones, more often than not."""
    usual = chance.random() < 0.6
    head = heads[chance.randrange(2) if usual else chance.randrange(len(heads))]
    path = PATHS[chance.randrange(7) if usual else chance.randrange(len(PATHS))]
    rest = b""
    while chance.random() < 0.3:
        rest += chance.choice(PARAMETERS)
    end = (
        b"\r\n"
        if chance.random() < 0.9
        else chance.choice([b"\n", b"\r", b"", b"\r\r\n", b" \r\n"])
    )
    if chance.random() < 0.1 and b"@" in path:
        length = chance.choice(LENGTHS) + chance.randrange(-2, 3)
        local, at, domain = path.partition(b"@")
        more = max(0, length - len(head + path + rest + end))
        inside = b"a" * more
        path = (
            local + inside + at + domain
            if chance.random() < 0.5
            else (local + at + domain[:-1] + inside + domain[-1:])
        )
    return head + path + rest + end


def mutated(chance: random.Random, packet: bytes) -> bytes:
    """One byte is another one, or one more, or one less."""
    at = chance.randrange(len(packet) + 1)
    match chance.randrange(3):
        case 0:
            return packet[:at] + bytes([chance.choice(ODD)]) + packet[at + 1 :]
        case 1:
            return packet[:at] + bytes([chance.choice(ODD)]) + packet[at:]
        case _:
            return packet[:at] + packet[at + 1 :]


def _near_mail(chance: random.Random) -> Iterator[bytes]:
    """A transaction, of which each packet may be anything near to it."""
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: line(chance, MAIL),
        lambda: line(chance, RCPT),
        lambda: chance.choice(DATA),
        lambda: chance.choice(BODIES),
    )
    for plain, make in zip(PLAIN, makers, strict=True):
        for _ in range(1 if plain is not PLAIN[1] else chance.choice((1, 1, 1, 2, 4))):
            yield make() if chance.random() < 0.35 else plain[0]


# -- a plan --------------------------------------------------------------------------------------

_ALL = {row.keyword: True for row in extensions.TABLE if row.default != "on" and row.make is None}
_PATIENT = Limits(errors=10_000, slow_errors=10_000, idle_commands=0)


def _offered() -> tuple[extensions.Extension, ...]:
    wanted: dict[str, Any] = {**_ALL, "BINARYMIME": True}
    return extensions.rows(wanted, (), lambda: datetime(2030, 1, 1, tzinfo=UTC))


SETTINGS = [
    Settings(),
    Settings(limits=_PATIENT, max_messages=0),
    Settings(max_size=30, max_recipients=2, strict_eol=True, limits=Limits(excess_recipients=1)),
    Settings(limits=Limits(command_line=60), extensions=(), max_size=0),
    Settings(lenient_addresses=True, ignore_unknown_params=True, bare_newlines=BareNewlines.REJECT),
    Settings(bare_newlines=BareNewlines.KEEP, extensions=_offered(), limits=_PATIENT),
    Settings(max_messages=2, max_recipient_domains=1, limits=Limits(errors=6, slow_errors=2)),
    Settings(limits=Limits(refused_recipients=1, idle_commands=4), max_recipients=3),
    Settings(lmtp=True, max_size=30),
    Settings(lmtp=True, limits=_PATIENT),
    Settings(tls_available=True, tls_required=True),
    Settings(
        mechanisms={name: MECHANISMS[name] for name in ("PLAIN", "LOGIN")},
        open_mechanisms=frozenset({"PLAIN", "LOGIN"}),
        auth_required=True,
    ),
    Settings(
        mechanisms={name: MECHANISMS[name] for name in ("PLAIN", "LOGIN")},
        open_mechanisms=frozenset({"PLAIN", "LOGIN"}),
        tls_available=True,
    ),
]
ASKS = [
    *(frozenset[type](), QUESTIONS, frozenset({events.Mail}), frozenset({events.Rcpt})),
    *(frozenset({events.Data}), frozenset({events.Rcpt, events.Data, events.Reset})),
]
ANSWERS = [Reply(450, "4.0.0", "Later"), Reply(550, "5.0.0", "No"), Reply(421, "4.3.0", "Bye")]
TURN_AWAY = Reply(554, "5.7.0", "No")
FULL = Reply(452, "4.3.1", "Full")


@dataclass(frozen=True)
class Plan:
    """What a client sends, what it sends it to, and the seed of all that is answered."""

    settings: Settings
    asks: frozenset[type]
    packets: list[bytes]
    seed: int
    observed: bool = False
    """Whether an observer and a transcript get the lines."""
    trusted: bool = False
    admits: float = 1.0
    """How often there is room for a sender, a recipient, or its memory."""
    rejects: float = 0.0
    """How often a hook rejects."""
    disturbs: float = 0.0
    """How often something happens to the core between two packets."""


def plan(chance: random.Random) -> Plan:
    """Make a session."""
    settings = chance.choice(SETTINGS)
    packets = [b"LHLO c\r\n" if settings.lmtp else b"EHLO c\r\n"]
    if settings.auth_required and chance.random() < 0.8:
        packets.append(b"AUTH PLAIN AGEAYg==\r\n")
    if settings.tls_required and chance.random() < 0.8:
        packets += [b"STARTTLS\r\n", packets[0]]
    for _ in range(chance.randrange(1, 6)):
        if chance.random() < 0.3:
            packets.append(chance.choice(OTHERS if chance.random() < 0.8 else HELLOS))
        else:
            packets += _near_mail(chance)
    return Plan(
        settings,
        chance.choice(ASKS),
        _cut(chance, packets),
        chance.randrange(1 << 30),
        observed=chance.random() < 0.2,
        trusted=chance.random() < 0.2,
        admits=chance.choice((1.0, 1.0, 0.8)),
        rejects=chance.choice((0.0, 0.0, 0.05, 0.4)),
        disturbs=chance.choice((0.0, 0.0, 0.0, 0.05)),
    )


def _cut(chance: random.Random, packets: list[bytes]) -> list[bytes]:
    """Change some, cut some in two, and have some come together."""
    found: list[bytes] = []
    rate = chance.choice((0.0, 0.05, 0.3))
    for packet in packets:
        each = mutated(chance, packet) if chance.random() < rate else packet
        if chance.random() < rate:
            at = chance.randrange(len(each) + 1)
            found += [each[:at], each[at:]]
        elif found and chance.random() < rate:
            found[-1] += each
        else:
            found.append(each)
    return found


# -- the player ----------------------------------------------------------------------------------


class Admitting(Admission):
    """Admits what chance wants, and notes what it was asked; the memory that it counts."""

    counts_recipients = True

    def __init__(self, chance: random.Random, admits: float) -> None:
        self._chance = chance
        self._admits = admits
        self.asked: list[object] = []
        self.held = 0

    def _admit(self, about: object) -> bool:
        self.asked.append(about)
        return self._chance.random() < self._admits

    def admit_sender(self, sender: Address) -> Reply | None:
        return None if self._admit(str(sender)) else ANSWERS[0]

    def admit_recipient(self) -> Reply | None:
        return None if self._admit("a recipient") else ANSWERS[0]

    def hold(self, size: int) -> bool:
        if size < 0:
            self.held += size
            return True
        if not self._admit("memory"):
            return False
        self.held += size
        return True


@dataclass
class Seen:
    """All that can be seen of a session from outside of the core."""

    steps: list[tuple[object, ...]] = field(default_factory=list)
    """After each packet: what was sent, the state, the counts, and more."""
    told: list[object] = field(default_factory=list)
    """The events, with the chunks of a body joined."""
    said: list[str | int] = field(default_factory=list)
    refused: list[tuple[object, ...]] = field(default_factory=list)
    observed: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    asked: list[object] = field(default_factory=list)


class Noting(Tally):
    """Notes what is counted."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen.said)
        self._seen = seen

    def refused(
        self, verb: str, reply: Reply, about: Rejected = NOTHING, *, wholly: bool = True
    ) -> None:
        transaction, path = about
        facts = () if transaction is None else _facts(transaction)
        self._seen.refused.append((verb, reply, wholly, path, *facts))


class _Player:
    """Plays a plan, and answers by chance: as in the other way, if it sees the same."""

    def __init__(self, plan: Plan, *, usual: bool) -> None:
        self._plan = plan
        self._usual = usual
        self._chance = random.Random(plan.seed)  # noqa: S311  not for secrets
        self._admission = Admitting(self._chance, plan.admits)
        self._body = b""
        self._closed = False
        self._transcript = Transcript(plan.seed % 2 > 0, plan.seed % 3 > 0, clock=lambda: 0.0)
        self.seen = Seen(asked=self._admission.asked)
        self.heard = 0  # packets that took the usual way
        self._connection = self._connect(tls=False)

    def _connect(self, *, tls: bool) -> Connection:
        seen, plan = self.seen, self._plan
        observed = seen.observed
        return Connection(
            plan.settings,
            lambda: "nonce",
            tls=tls,
            greet=not tls,
            counts=self._connection.counts if tls else None,
            asks=plan.asks,
            trusted=frozenset({"XCLIENT"} if plan.trusted else ()),
            observer=(lambda *line: observed.append(line)) if plan.observed else None,
            transcript=self._transcript if plan.observed else None,
            tally=Noting(seen),
            admission=self._admission,
        )

    def play(self) -> Seen:
        greeting = self._connection.greet() if self._usual else None
        if greeting is None:
            self._go_on(self._connection.next_event())
        else:
            self._go_on(NEED_DATA, greeting)
        for packet in self._plan.packets:
            if not self._closed:
                if self._usual:
                    heard = self._connection.hear(packet)
                    self.heard += heard is not None
                    if isinstance(heard, bytes):
                        self._go_on(NEED_DATA, heard)
                    else:
                        self._go_on(heard or deliver(self._connection, packet, usual=False))
                else:
                    self._go_on(deliver(self._connection, packet, usual=False))
            if not self._closed and self._chance.random() < self._plan.disturbs:
                self._disturb()
        if not self._closed:
            self._connection.receive_eof()
            self._go_on(self._connection.next_event())
        assert self._admission.held == 0
        self.seen.lines.extend(self._transcript)
        return self.seen

    def _disturb(self) -> None:
        """Have something happen that does not come from the client."""
        connection = self._connection
        match self._chance.randrange(4):
            case 0:
                connection.refuse(TURN_AWAY)
            case 1:
                connection.hang_up(ANSWERS[2])
            case 2 if connection.conversation.reader is not None and connection.transaction:
                self._told(connection.refuse_body(FULL))
            case _:
                connection.receive_eof()
        self._go_on(connection.next_event())

    def _go_on(self, event: Event | Waiting, sent: bytes = b"") -> None:
        while not isinstance(event, Waiting | events.Close):
            if self._told(event):
                sent += self._connection.data_to_send()
                self._connection = self._connect(tls=True)
            sent += self._connection.data_to_send()
            event = self._connection.next_event()
        self._closed = isinstance(event, events.Close)
        connection, conversation = self._connection, self._connection.conversation
        rest = None if self._closed else connection.rest()
        sent += connection.data_to_send() if rest is None else rest
        if rest is not None:
            assert event is NEED_DATA
            assert connection.next_event() is NEED_DATA
            assert connection.data_to_send() == b""
        transaction, counts = connection.transaction, connection.counts
        self.seen.steps.append(
            (
                *(sent, connection.state, connection.over, connection.in_transaction),
                *(connection.buffered, conversation.output.slow, conversation.output.linger),
                *(counts.errors, counts.idle, counts.refused_recipients, counts.refusals),
                *(counts.messages, frozenset(counts.domains), type(conversation.reader)),
                *(conversation.helo, conversation.esmtp),
                *(() if transaction is None else _facts(transaction)),
            )
        )

    def _told(self, event: Event) -> bool:
        """Answer an event; return whether TLS is to begin."""
        connection, told = self._connection, self.seen.told
        match event:
            case events.BodyChunk(data):
                self._body += data
                return False
            case events.Full():
                return False
            case events.BodyRefused() | events.BodyDropped():
                self._body = b""
                told.append(event)
                return False
            case events.Tarpit():
                told.append(event)
                connection.resume()
                return False
            case events.MessageEnd(transaction, body):
                told.append((*_facts(transaction), self._body + (body or b"")))
                self._body = b""
                if connection.conversation.settings.lmtp and self._chance.random() < 0.5:
                    connection.reply_each([self._answer() for _ in transaction.recipients])
                    return False
            case events.Mail(address) | events.Rcpt(address):
                told.append((type(event), *_parts(address)))
            case _:
                told.append(repr(event))
        told.append(len(self._transcript))  # what a hook sees there
        answer = self._answer()
        connection.reply(answer)
        return isinstance(event, events.StartTLS) and answer is None

    def _answer(self) -> Reply | None:
        return self._chance.choice(ANSWERS) if self._chance.random() < self._plan.rejects else None


def _parts(address: Address) -> tuple[object, ...]:
    return address.local, address.domain, str(address), repr(address), dict(address.params)


def _facts(transaction: Transaction) -> tuple[object, ...]:
    return (
        *_parts(transaction.sender),
        *(part for recipient in transaction.recipients for part in _parts(recipient)),
        *(transaction.smtputf8, transaction.size, transaction.refused, transaction.over_limit),
        *(transaction.refusal, transaction.chunks is None, transaction.held > 0),
    )


def play(plan: Plan) -> int:
    """Play a plan both ways; return how many packets took the usual one.

    Raises `AssertionError` if anything differs.
    """
    usual, general = _Player(plan, usual=True), _Player(plan, usual=False)
    one, other = usual.play(), general.play()
    for number, (step, same) in enumerate(zip(one.steps, other.steps, strict=False)):
        assert step == same, (number, plan)
    assert one == other, plan
    return usual.heard


def shortened(found: Plan) -> Plan:
    """Return a plan that fails, without the packets that do not matter to that."""
    at = 0
    while at < len(found.packets):
        less = replace(found, packets=found.packets[:at] + found.packets[at + 1 :])
        try:
            play(less)
        except AssertionError:
            found = less
        else:
            at += 1
    return found
