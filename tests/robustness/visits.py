"""Sessions of honest clients and of clients with each kind of fault, at random.

Each function is one visit: a connection from its beginning to its end. A ledger records the
replies, to compare the server's counts with them. An unexpected reply fails the test.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from ehlo import Peer
from robustness.caller import Caller
from robustness.scale import full
from support.logins import plain

__all__ = ["MAX_SIZE", "TIMEOUT", "WEIGHTS", "Ledger", "Visitor"]

MAX_SIZE: Final = 1_000_000  # of the server that is visited
TIMEOUT: Final = full(3, short=6)  # the server's idle timeout in seconds
_QUEUED: Final = "250 2.0.0 Ok: queued"
_GONE: Final = (ConnectionError, EOFError, ssl.SSLError)


class Ledger:
    """Counts what all clients have sent and read."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        """Sender and digest of each message with a 250."""
        self.in_doubt: set[str] = set()
        """Sender and digest of each message that was sent, and had no reply."""
        self.refused = 0
        self.heard: Counter[str] = Counter()
        self.unheard = 0
        """The most replies that may have been sent and not read."""
        self.connections = 0
        self.unseen = 0
        """Connections that were cut before the greeting: they may have become sessions."""
        self.visits: Counter[str] = Counter()
        self._count = 0

    def new_sender(self, kind: str) -> str:
        """Return a sender that no other message has."""
        self._count += 1
        return f"{kind}-{self._count}@soak.example"

    def add(self, other: Caller) -> None:
        """Add the counts of a visit that is over."""
        greeted = bool(other.heard)
        self.connections += greeted
        self.unseen += not greeted
        self.heard.update(other.heard)
        self.unheard += other.unheard


class Visitor:
    """A client that connects again and again."""

    def __init__(self, address: Peer, ledger: Ledger, random: Random, tls: ssl.SSLContext) -> None:
        self.address = address
        self.ledger = ledger
        self.random = random
        self.tls = tls

    async def come(self, visit: Visit | None = None) -> None:
        """Make one visit: this one, or one at random."""
        if visit is None:
            (visit,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.ledger.visits[visit.__name__] += 1
        small = 4096 if visit is slow_reader else 0
        async with await Caller.connect(self.address, buffers=small) as caller:
            try:
                await visit(self, caller)
            except BaseException as error:
                error.add_note(f"in {visit.__name__}, which has heard {dict(caller.heard)}")
                raise
            finally:
                self.ledger.add(caller)

    # -- messages --------------------------------------------------------------------------------

    def body(self, most: int = 2000) -> bytes:
        """Return a body of random size; no line begins with a dot."""
        size = self.random.choice((1, 10, most, most, most * 100))
        line = self.random.randbytes(36).hex().encode() + b"\r\n"
        return b"Subject: x\r\n\r\n" + line * (1 + min(size, MAX_SIZE // 2) // len(line))

    def told(self, sender: str, body: bytes) -> str:
        """Return the line that the handler writes for this message."""
        return f"{sender} {hashlib.sha256(body).hexdigest()[:16]}"

    async def settle(self, caller: Caller, told: str) -> str:
        """Read the reply to the end of a message, and record it."""
        self.ledger.in_doubt.add(told)
        await caller.writer.drain()
        answer = await caller.reply()
        self.ledger.in_doubt.discard(told)
        if answer == _QUEUED:
            self.ledger.acknowledged.add(told)
        else:
            assert answer[0] in "45", answer
            self.ledger.refused += 1
        return answer

    async def by_data(self, caller: Caller, kind: str = "good", *recipients: str) -> str:
        """Send a message by DATA, a step at a time."""
        sender, body = self.ledger.new_sender(kind), self.body()
        await caller.envelope(sender, *recipients)
        answer = await caller.say("DATA")
        assert answer.startswith("354 "), answer
        caller.send(body + b".\r\n", replies=1)
        return await self.settle(caller, self.told(sender, body))

    async def by_chunks(self, caller: Caller, kind: str = "good") -> str:
        """Send a message by BDAT, in some chunks, in one write."""
        sender, body = self.ledger.new_sender(kind), self.body()
        await caller.envelope(sender)
        cuts = sorted(self.random.randrange(len(body)) for _ in range(self.random.randrange(4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        for piece in pieces[:-1]:
            caller.send(b"BDAT %d\r\n" % len(piece) + piece, replies=1)
        caller.send(b"BDAT %d LAST\r\n" % len(pieces[-1]) + pieces[-1], replies=1)
        for _ in pieces[:-1]:
            answer = await caller.reply()
            assert answer.startswith("250 "), answer
        return await self.settle(caller, self.told(sender, body))

    async def some(self, caller: Caller) -> None:
        """Send some messages by DATA or BDAT, which are accepted."""
        for _ in range(self.random.randrange(1, 6)):
            way = self.random.choice((self.by_data, self.by_chunks))
            kind = self.random.choice(("good", "good", "slow"))
            assert await way(caller, kind) == _QUEUED

    def all_of_it(self, sender: str, body: bytes) -> bytes:
        """Return a whole transaction for one write."""
        return (
            f"MAIL FROM:<{sender}>\r\nRCPT TO:<b@soak.example>\r\nDATA\r\n".encode()
            + body
            + b".\r\n"
        )


Visit = Callable[[Visitor, Caller], Awaitable[None]]

# -- honest --------------------------------------------------------------------------------------


async def honest(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    await visitor.some(caller)
    await caller.quit()


async def under_tls(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    await caller.start_tls(visitor.tls)
    await caller.say("EHLO again")
    if visitor.random.random() < 0.5:
        assert (await caller.say(plain("user", "secret"))).startswith("235 ")
    await visitor.some(caller)
    await caller.quit()


async def pipelined(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    sender, body = visitor.ledger.new_sender("good"), visitor.body()
    caller.send(visitor.all_of_it(sender, body), replies=4)
    for code in ("250 ", "250 ", "354 "):
        assert (await caller.reply()).startswith(code)
    assert await visitor.settle(caller, visitor.told(sender, body)) == _QUEUED
    await caller.quit()


async def dripping(visitor: Visitor, caller: Caller) -> None:
    """Send a message a few bytes at a time, but in time: a busy machine makes pauses longer."""
    await caller.hello()
    sender, body = visitor.ledger.new_sender("good"), b"Subject: x\r\n\r\nx\r\n"
    caller.asked += 4
    left = visitor.all_of_it(sender, body)
    while left:
        count = visitor.random.randrange(1, 7)
        caller.send(left[:count])
        left = left[count:]
        await asyncio.sleep(visitor.random.random() * 0.01)  # the pace of it
    for code in ("250 ", "250 ", "354 "):
        assert (await caller.reply()).startswith(code)
    assert await visitor.settle(caller, visitor.told(sender, body)) == _QUEUED
    await caller.quit()


async def refused_by_the_handler(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    for kind, code in (("later", "451 4.2.0 "), ("never", "554 5.7.1 ")):
        assert (await visitor.by_data(caller, kind)).startswith(code)
        assert (await visitor.by_chunks(caller, kind)).startswith(code)
    assert await visitor.by_data(caller, "good", "nobody@soak.example", "b@soak.example") == _QUEUED
    await caller.quit()


# -- wrong, and told so --------------------------------------------------------------------------


async def out_of_order(visitor: Visitor, caller: Caller) -> None:
    await caller.reply()
    wrong = ["DATA", "RCPT TO:<b@soak.example>", "BDAT 0 LAST", "MAIL FROM:<a@soak.example>"]
    visitor.random.shuffle(wrong)
    for line in wrong:
        assert (await caller.say(line)).startswith("503 "), line
    await caller.say("EHLO c")
    for line, code in (("MAIL FROM:<>", "250"), ("MAIL FROM:<>", "503"), ("RSET", "250")):
        assert (await caller.say(line)).startswith(code)
    assert (await caller.say("NONSENSE")).startswith("500 ")
    await visitor.some(caller)
    await caller.quit()


async def oversize(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    declared = f"MAIL FROM:<a@soak.example> SIZE={MAX_SIZE + 1}"
    assert (await caller.say(declared)).startswith("552 5.3.4 ")
    await caller.envelope("oversize@soak.example")
    await caller.say("DATA")
    caller.send((b"x" * 998 + b"\r\n") * (MAX_SIZE // 1000 + 10) + b".\r\n", replies=1)
    await caller.writer.drain()
    assert (await caller.reply()).startswith("552 5.3.4 ")
    visitor.ledger.refused += 1
    await visitor.some(caller)
    await caller.quit()


async def far_oversize(visitor: Visitor, caller: Caller) -> None:
    """Send far more than the limit: the server replies amid the body and stops reading."""
    await caller.hello()
    await caller.envelope("oversize@soak.example")
    await caller.say("DATA")
    caller.asked += 1
    hearing = asyncio.ensure_future(caller.rest())
    try:
        while not hearing.done():
            caller.send(b"x" * 65_536)
            await caller.writer.drain()
    except ConnectionError:
        pass
    heard = await hearing
    assert not heard or heard[0].startswith("552 5.3.4 ")
    visitor.ledger.refused += 1


async def many_recipients(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    assert await visitor.by_data(caller, "good", *["b@soak.example"] * 105) == _QUEUED
    await caller.quit()


async def wrong_logins(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    await caller.start_tls(visitor.tls)
    await caller.say("EHLO again")
    for _ in range(visitor.random.randrange(1, 4)):
        assert (await caller.say(plain("user", "wrong"))).startswith("535 ")
    await visitor.some(caller)
    await caller.quit()


async def wrong_chunk(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    await caller.envelope("chunk@soak.example")
    assert (await caller.say("BDAT nonsense")).startswith("501 5.5.4 ")
    assert await caller.rest() == []


# -- gone ----------------------------------------------------------------------------------------


async def cut_anywhere(visitor: Visitor, caller: Caller) -> None:
    """Leave by FIN or RST, after any byte of a pipelined transaction."""
    await caller.hello()
    sender, body = visitor.ledger.new_sender("good"), visitor.body()
    whole = visitor.all_of_it(sender, body)
    at = visitor.random.choice((len(whole), visitor.random.randrange(len(whole)), 60))
    told = visitor.told(sender, body)
    caller.send(whole[:at], replies=min(4, whole[:at].count(b"\r\n")))
    if at == len(whole):
        visitor.ledger.in_doubt.add(told)
    if visitor.random.random() < 0.5:
        caller.reset()
        return
    caller.end()
    heard = await caller.rest()
    if at == len(whole):
        assert heard[-1] == _QUEUED
        visitor.ledger.in_doubt.discard(told)
        visitor.ledger.acknowledged.add(told)


async def cut_at_once(visitor: Visitor, caller: Caller) -> None:
    caller.reset()


async def cut_amid_tls(visitor: Visitor, caller: Caller) -> None:
    await caller.hello()
    answer = await caller.say("STARTTLS")
    assert answer.startswith("220 "), answer
    caller.send(visitor.random.randbytes(visitor.random.randrange(1, 300)))
    if visitor.random.random() < 0.5:
        caller.reset()
    else:
        caller.end()
        await asyncio.wait_for(_until_closed(caller), TIMEOUT * 5)


async def _until_closed(caller: Caller) -> None:
    try:
        await caller.reader.read()  # an alert, perhaps
    except _GONE:
        return


async def injected(visitor: Visitor, caller: Caller) -> None:
    """Send commands after STARTTLS in the same packet: the connection ends."""
    await caller.hello()
    caller.send(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@soak.example>\r\n", replies=1)
    await asyncio.wait_for(_until_closed(caller), TIMEOUT * 5)


async def silent(visitor: Visitor, caller: Caller) -> None:
    """Send nothing more, at some point, until the idle timeout."""
    await caller.hello()
    if visitor.random.random() < 0.5:
        await caller.envelope("silent@soak.example")
        await caller.say("DATA")
    (last,) = await caller.rest()
    assert last.startswith("421 4.4.2 ")


async def slow_reader(visitor: Visitor, caller: Caller) -> None:
    """Cause many replies, and read them slowly."""
    await caller.hello()
    count = visitor.random.randrange(1, 90)
    caller.send(b"VRFY someone\r\n" * count, replies=count)
    for number in range(count):
        assert (await caller.reply()).startswith("252 ")
        if number % 20 == 0:  # a pause for each would exceed the timeout on a busy machine
            await asyncio.sleep(visitor.random.random() * 0.1)  # the pace of it
    await visitor.some(caller)
    await caller.quit()


async def too_many_errors(visitor: Visitor, caller: Caller) -> None:
    """Make errors: the first have immediate replies, further ones wait."""
    await caller.hello()
    for _ in range(visitor.random.randrange(5, 12)):
        assert (await caller.say("NONSENSE")).startswith("500 ")
    if visitor.random.random() < 0.5:
        caller.reset()
    else:
        await caller.quit()


WEIGHTS: Final[dict[Visit, int]] = {
    **dict.fromkeys((honest, under_tls, pipelined), 10),
    **dict.fromkeys((refused_by_the_handler, out_of_order, cut_anywhere), 6),
    **dict.fromkeys((dripping, slow_reader, many_recipients, injected, cut_at_once), 3),
    **dict.fromkeys((oversize, cut_amid_tls, wrong_logins, wrong_chunk, silent), 2),
    **dict.fromkeys((far_oversize, too_many_errors), 1),
}
