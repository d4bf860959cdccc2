"""The usual packet: the core deals with it outside the buffer, and no one can tell."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, Event, Waiting
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts
from protocol.sessions import (
    ASKS,
    BODIES,
    DATA,
    MAIL,
    PARAMETERS,
    PATHS,
    RCPT,
    SETTINGS,
    Plan,
    mutated,
    plan,
    play,
)
from support.examples import examples
from support.ways import deliver

NO_QUESTIONS = frozenset[type]()
ENVELOPE = (b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", b"DATA\r\n")


def connect(settings: Settings | None = None) -> Connection:
    """A client that has sent HELO, to a server that is asked about messages alone."""
    connection = Connection(settings or Settings(), lambda: "nonce", asks=NO_QUESTIONS)
    assert connection.next_event() is NEED_DATA
    assert deliver(connection, b"HELO c\r\n") is NEED_DATA
    connection.data_to_send()
    return connection


def test_the_usual_packets_of_a_message_never_enter_the_buffer() -> None:
    connection = connect()
    for packet, code in zip(ENVELOPE, (b"250", b"250", b"354"), strict=True):
        reply = connection.hear(packet)
        assert isinstance(reply, bytes)
        assert reply.startswith(code)
    event = connection.hear(b"x\r\n.\r\n")
    assert isinstance(event, events.MessageEnd)
    assert event.body == b"x\r\n"
    connection.reply()
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send().startswith(b"250")


def test_a_client_is_greeted_at_once_where_no_hook_is_asked() -> None:
    settings = Settings(hostname="mx.example")
    connection = Connection(settings, lambda: "nonce", asks=NO_QUESTIONS)
    assert connection.greet() == settings.greeting.wire
    assert connection.greet() is None  # once
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b""
    assert isinstance(connection.hear(b"EHLO c\r\n"), bytes)


def test_no_client_is_greeted_before_the_server_is_asked_and_none_that_has_gone() -> None:
    asked = Connection(Settings(), lambda: "nonce", asks={events.Connect})
    assert asked.greet() is None
    assert asked.next_event() == events.CONNECT
    gone = Connection(Settings(), lambda: "nonce", asks=NO_QUESTIONS)
    gone.receive_eof()
    assert gone.greet() is None
    counts = Counts()
    counts.errors = 10
    slow = Connection(Settings(), lambda: "nonce", asks=NO_QUESTIONS, counts=counts)
    assert slow.greet() is None


def test_a_plain_command_that_is_rejected_is_answered_by_what_is_queued() -> None:
    connection = connect(Settings(max_size=30))
    assert connection.hear(b"MAIL FROM:<a@x> SIZE=31\r\n") is NEED_DATA
    assert connection.data_to_send() == replies.TOO_LARGE.wire


def test_no_packet_is_usual_before_the_replies_to_others_are_sent() -> None:
    connection = connect()
    connection.receive_data(b"NOOP\r\n")
    assert connection.next_event() is NEED_DATA
    assert connection.hear(ENVELOPE[0]) is None
    connection.data_to_send()
    assert isinstance(connection.hear(ENVELOPE[0]), bytes)


@pytest.mark.parametrize("count", range(4))
def test_the_last_packet_of_a_client_that_has_ended_is_answered_and_ends_the_session(
    count: int,
) -> None:
    """Under TLS it comes together with the end."""
    connection = connect()
    *before, last = (*ENVELOPE, b"x\r\n.\r\n")[: count + 1]
    for packet in before:
        deliver(connection, packet)
    connection.receive_eof()
    seen: list[Event] = []
    event = deliver(connection, last)
    while not isinstance(event, Waiting | events.Close):
        seen.append(event)
        if isinstance(event, events.MessageEnd):
            connection.reply()
        event = connection.next_event()
    assert isinstance(event, events.Close)
    assert len(connection.data_to_send().splitlines()) == count + 1


def test_a_packet_may_be_a_bytearray() -> None:
    """As asyncio reads on Windows in some versions; what is kept of it never changes."""
    connection = connect()
    mutable: Any = bytearray
    for packet in ENVELOPE:
        assert deliver(connection, mutable(packet)) is NEED_DATA
    chunk = deliver(connection, mutable(b"x\r\n.\r\n"))
    assert chunk == events.BodyChunk(b"x\r\n")
    assert type(connection.next_event()) is events.MessageEnd


# -- both ways are the same ----------------------------------------------------------------------

# What a client has sent when a line comes
BEFORE = {
    "connected": [],
    "idle": [b"NOOP\r\n"],
    "ready": [b"EHLO c\r\n"],
    "in a transaction": [b"EHLO c\r\n", ENVELOPE[0]],
    "with a recipient": [b"EHLO c\r\n", *ENVELOPE[:2]],
    "with as many recipients as there may be": [b"EHLO c\r\n", ENVELOPE[0], *[ENVELOPE[1]] * 3],
    "in a body": [b"EHLO c\r\n", *ENVELOPE],
    "within a body": [b"EHLO c\r\n", *ENVELOPE, b"x"],
    "after a message": [b"EHLO c\r\n", *ENVELOPE, b"x\r\n.\r\n"],
    "amid chunks": [b"EHLO c\r\n", *ENVELOPE[:2], b"BDAT 1\r\nx"],
    "within a chunk": [b"EHLO c\r\n", *ENVELOPE[:2], b"BDAT 9\r\nx"],
    "within a line": [b"EHLO c\r\n", b"NOOP "],
    "within a line that is too long": [b"EHLO c\r\n", b"x" * 13_000],
    "in a login": [b"EHLO c\r\n", b"AUTH LOGIN\r\n"],
    "after a login": [b"EHLO c\r\n", b"AUTH PLAIN AGEAYg==\r\n"],
    "slowed down": [b"EHLO c\r\n", *[b"BOGUS\r\n"] * 12],
    "one error before the end": [b"EHLO c\r\n", *[b"BOGUS\r\n"] * 19],
    "ended": [b"EHLO c\r\n", *[b"BOGUS\r\n"] * 20],
}

heads = st.sampled_from([*MAIL, *MAIL[:2] * 4, *RCPT, *RCPT[:2] * 4])
paths = st.one_of(
    st.sampled_from(PATHS),
    st.from_regex(rb"<[a-z0-9.+]{1,9}@[a-z0-9.\-]{1,9}>", fullmatch=True),
    st.from_regex(rb"<[ -~]{0,12}>", fullmatch=True),
    st.text(max_size=8).map(lambda text: b"<%s@x>" % text.encode(errors="replace")),
    st.integers(225, 260).map(lambda length: b"<%s@x>" % (b"a" * length)),
    st.integers(225, 260).map(lambda length: b"<a@%s>" % (b"x" * length)),
    st.integers(480, 520).map(lambda length: b"<a@%s>" % (b"x" * length)),
)
endings = st.sampled_from([b"\r\n"] * 6 + [b"\n", b"", b"\r", b"\r\r\n", b" \r\n", b"\r\nNOOP\r\n"])
names = st.one_of(
    st.sampled_from(
        [b"c", b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"c d", b"", b"_c_", b"\xfc", b"a\0"]
    ),
    st.integers(245, 260).map(lambda length: b"c" * length),
)
lines = st.one_of(
    st.tuples(
        heads, paths, st.lists(st.sampled_from(PARAMETERS), max_size=3).map(b"".join), endings
    ).map(b"".join),
    st.sampled_from([*DATA, *BODIES]),
    st.tuples(st.sampled_from([b"EHLO ", b"ehlo ", b"HELO ", b"LHLO "]), names, endings).map(
        b"".join
    ),
    st.tuples(st.sampled_from([b"QUIT", b"quit", b"QUIT "]), endings).map(b"".join),
)


@pytest.mark.no_cover
@examples(600)
@given(
    st.sampled_from(sorted(BEFORE)),
    lines,
    st.sampled_from(SETTINGS),
    st.sampled_from(ASKS),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_line_in_any_state_is_the_same_both_ways(
    state: str,
    said: bytes,
    rules: Settings,
    asks: frozenset[type],
    observed: bool,
    chance: Random,
) -> None:
    before = [
        packet.replace(b"EHLO", b"LHLO") if rules.lmtp else packet for packet in BEFORE[state]
    ]
    seed = chance.randrange(6)
    play(Plan(rules, asks, [*before, said, *ENVELOPE], seed, observed))
    packets = [*before, mutated(chance, said), b"x\r\n.\r\n"]
    play(Plan(rules, asks, packets, seed, observed))
    at = chance.randrange(len(said) + 1)
    play(Plan(rules, asks, [*before, said[:at], said[at:]], seed, observed))


@pytest.mark.no_cover
@examples(300)
@given(st.randoms(use_true_random=False))
def test_any_session_is_the_same_both_ways(chance: Random) -> None:
    play(plan(chance))


PLAIN = (
    *(b"MAIL FROM:<a@x>\r\n", b"mail from:<a.b+c@m-x.example> size=10 body=8bitmime\r\n"),
    *(b"MAIL FROM:<%s@x>\r\n" % (b"a" * 238), b"MAIL FROM:<a@%s>\r\n" % (b"x" * 238)),
)


@pytest.mark.parametrize("said", PLAIN)
def test_what_is_plain_takes_the_usual_way(said: bytes) -> None:
    assert len(said) <= 255
    assert connect().hear(said) == replies.MAIL_OK.wire


@pytest.mark.parametrize(
    "said", [b"EHLO c-1.example\r\n", b"ehlo [IPv6:2001:db8::1]\r\n", b"HELO c\r\n"]
)
def test_the_first_hello_takes_the_usual_way_and_no_other_one(said: bytes) -> None:
    assert play(Plan(Settings(), ASKS[0], [said, said], 0)) == 1
    assert play(Plan(Settings(), ASKS[0], [b"NOOP\r\n", said], 0)) == 0
    assert play(Plan(Settings(lmtp=True), ASKS[0], [said], 0)) == 0


@pytest.mark.parametrize("said", [b"QUIT\r\n", b"quit\r\n"])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_quit_takes_the_usual_way_in_any_state(said: bytes, before: int) -> None:
    packets = [b"EHLO c\r\n", *ENVELOPE][:before]
    assert play(Plan(Settings(), ASKS[0], [*packets, said], 0)) == before + 1


@pytest.mark.parametrize("asks", ASKS)
def test_a_plain_session_takes_the_usual_way_whatever_is_asked(asks: frozenset[type]) -> None:
    packets = [b"EHLO c\r\n", *[*ENVELOPE, b"x\r\n.\r\n"] * 3]
    assert play(Plan(Settings(), asks, packets, 0)) == 13
    for seed in range(6):  # of transcripts with and without secrets and bodies
        assert play(Plan(Settings(), asks, packets, seed, observed=True)) == 13


def test_a_whole_body_of_the_limit_is_usual_and_a_larger_one_is_not() -> None:
    packets = [b"EHLO c\r\n", *ENVELOPE, b"x" * 28 + b"\r\n.\r\n"]
    assert play(Plan(Settings(max_size=30), ASKS[0], packets, 0)) == 5
    packets[-1] = b"x" + packets[-1]
    assert play(Plan(Settings(max_size=30), ASKS[0], packets, 0)) == 4


def test_large_chunks_and_the_packet_that_ends_them_are_usual() -> None:
    chunk = (b"x" * 62 + b"\r\n") * 100 + b"y"
    packets = [b"EHLO c\r\n", *ENVELOPE, chunk, chunk, chunk + b"\r\n.\r\n", ENVELOPE[0]]
    for settings in (Settings(), Settings(max_size=3 * len(chunk) + 2)):
        for seed in range(6):
            assert play(Plan(settings, ASKS[0], packets, seed, observed=True)) == len(packets)
    too_small = Settings(max_size=2 * len(chunk))
    assert play(Plan(too_small, ASKS[0], packets, 0)) == len(packets) - 1


pieces = st.sampled_from(
    [
        *(b"x" * 5_000, (b"x" * 62 + b"\r\n") * 100, b"a.b" * 2_000, b"y" * 20_000),
        *(b"\r", b"\n", b"\r\n", b".", b"..", b"\r\n.", b"\r\n.\r", b"\r\n.\r\n", b"\r\r\n", b"z"),
    ]
)


@pytest.mark.no_cover
@examples(150)
@given(
    st.lists(st.lists(pieces, min_size=1, max_size=4).map(b"".join), min_size=1, max_size=5),
    st.sampled_from([*SETTINGS, Settings(max_size=12_000)]),
    st.integers(0, 5),
)
def test_a_large_body_is_the_same_both_ways(
    packets: list[bytes], rules: Settings, seed: int
) -> None:
    hello = b"LHLO c\r\n" if rules.lmtp else b"EHLO c\r\n"
    play(Plan(rules, ASKS[0], [hello, *ENVELOPE, *packets, b"x\r\n.\r\n"], seed, observed=True))


def test_a_line_that_begins_in_the_packet_before_is_no_command() -> None:
    """Neither the rest of one that is too long, of which nothing is in the buffer."""
    for before in (b"NOOP ", b"x" * 13_000):
        packets = [b"EHLO c\r\n", before, *ENVELOPE]
        assert play(Plan(Settings(), ASKS[0], packets, 0)) == 1
