"""BDAT on a real server: the handler sees no difference, and no memory is held in vain."""

from __future__ import annotations

import hashlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ehlo import Handler, Message, Reject, Session
from support.client import Client
from support.clock import StoppedClock
from support.hooks import Noted, handler_of
from support.serving import DEADLINE, Box, Collector, Running, Serve

TOO_LARGE = "552 5.3.4 Message size exceeds fixed limit"
NO_MEMORY = "452 4.3.1 Insufficient system storage"


def begin(client: Client, params: str = "") -> None:
    """A transaction that wants a body."""
    assert client.say(f"MAIL FROM:<a@example.com>{params}").startswith("250")
    assert client.say("RCPT TO:<b@example.com>").startswith("250")


def chunk(client: Client, octets: bytes, *, last: bool = False) -> str:
    """One chunk; its reply."""
    client.send(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)
    return client.reply()


def held(running: Running) -> int:
    """Return the bytes held for bodies, once the loop has read what was sent."""
    running.run(running.turn)
    return running.runtime.memory.held


# -- what a handler sees -------------------------------------------------------------------------

BODY = b"Subject: x\r\n\r\n.\r\n..dots\r\nQUIT\r\nbare\nline\rends\r\r\n\0\xff\r\n"


@pytest.mark.parametrize("policy", ["normalise", "keep"])
def test_a_handler_gets_the_same_bytes_by_either_way(serve: Serve, policy: str) -> None:
    collector = Collector()
    with serve(collector, bare_newlines=policy).ready() as client:
        stuffed = BODY.replace(b"\r\n.", b"\r\n..")
        assert client.mail(stuffed) == "250 2.0.0 Ok: queued"
        for sizes in ([len(BODY)], [1] * len(BODY), [7] * 10):
            begin(client)
            rest = BODY
            for size in sizes:
                part, rest = rest[:size], rest[size:]
                assert chunk(client, part) == f"250 2.0.0 {len(part)} octets received"
            assert chunk(client, b"", last=True) == "250 2.0.0 Ok: queued"
    by_data, *by_chunks = collector.messages
    assert by_data.via == "DATA"
    assert len(by_chunks) == 3
    for message in by_chunks:
        assert message.via == "BDAT"
        assert (message.body, message.size) == (by_data.body, by_data.size)
        assert b"".join(message.stream()) == message.data
        assert message.trace.splitlines()[:2] == by_data.trace.splitlines()[:2]


def test_a_function_need_not_know(serve: Serve) -> None:
    box = Box()
    with serve(box).ready() as client:
        begin(client)
        assert chunk(client, b"", last=True) == "250 2.0.0 Ok: queued"
        begin(client)
        assert chunk(client, b"no line end", last=True) == "250 2.0.0 Ok: queued"
    assert box.bodies == [b"", b"no line end"]


def test_binary_bytes_are_not_changed(serve: Serve) -> None:
    binary = bytes(range(256)) * 1000 + b"\r"
    collector = Collector()
    running = serve(collector, bare_newlines="keep", extensions={"BINARYMIME": True})
    with running.ready() as client:
        begin(client, " BODY=BINARYMIME")
        for start in range(0, len(binary), 1000):
            assert chunk(client, binary[start : start + 1000]).startswith("250")
        assert chunk(client, b"", last=True) == "250 2.0.0 Ok: queued"
    (message,) = collector.messages
    assert message.body == binary
    assert message.sender.params["BODY"] == "BINARYMIME"


@pytest.mark.parametrize(
    ("size", "length"), [(1000, 1_000_000), (10**6, 10**7), (5 * 10**7, 5 * 10**7)]
)
def test_chunks_of_any_size_arrive_byte_for_byte(
    serve: Serve, size: int, length: int, loop_name: str
) -> None:
    body = b"".join(b"%05d\r\n.\r\n" % (number % 99_999) for number in range(length // 10))
    digests: list[str] = []

    class Hashing(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            digests.append(hashlib.sha256(message.body).hexdigest())

    running = serve(Hashing(), max_size=0, loop=loop_name)
    with running.ready(timeout=60) as client:
        begin(client)
        starts = range(0, length, size)
        answers: list[str] = []
        reader = threading.Thread(target=lambda: answers.extend(client.replies(len(starts) + 1)))
        reader.start()
        for start in starts:  # pipelined
            part = body[start : start + size]
            client.send(b"BDAT %d\r\n" % len(part) + part)
        client.send(b"BDAT 0 LAST\r\n")
        reader.join(60)
    assert answers[0] == f"250 2.0.0 {size} octets received"
    assert answers[-1] == "250 2.0.0 Ok: queued"
    assert digests == [hashlib.sha256(body).hexdigest()]


# -- hooks ---------------------------------------------------------------------------------------


def test_the_hook_of_data_is_asked_once_for_a_body(serve: Serve) -> None:
    noted = Noted()
    with serve(handler_of("async def", noted, on_data=None)).ready() as client:
        begin(client)
        for _ in range(3):
            assert chunk(client, b"x").startswith("250")
        assert chunk(client, b"", last=True).startswith("250")
    assert noted.names == ["on_data", "on_message"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_rejected_body_is_read_and_never_obeyed(serve: Serve, kind: str) -> None:
    noted = Noted()
    refusal = Reject(450, "4.7.1", "Not now")
    running = serve(handler_of(kind, noted, on_data=refusal, on_reset=None))
    with running.ready() as client:
        begin(client)
        client.send(b"BDAT 12\r\nRSET\r\nQUIT\r\nBDAT 6\r\nQUIT\r\n")
        client.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        assert client.replies(4) == [
            "450 4.7.1 Not now",
            "503 5.5.1 Bad sequence of commands: a chunk was refused",
            "450 4.7.1 Not now",  # so that the client tries again
            "250 2.0.0 Ok",
        ]
        assert held(running) == 0
    assert noted.names == ["on_data"]


def test_a_crash_in_the_hook_of_data_is_our_trouble(serve: Serve) -> None:
    with serve(handler_of("async def", on_data=RuntimeError("x"))).ready() as client:
        begin(client)
        assert chunk(client, b"QUIT\r\n", last=True).startswith("451 4.3.0 ")
        assert client.say("NOOP") == "250 2.0.0 Ok"


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["RSET", "EHLO c", "HELO c", "QUIT", "end", "reset"])
def test_the_memory_of_chunks_is_released_when_the_body_is_abandoned(
    serve: Serve, way: str
) -> None:
    collector = Collector()
    running = serve(collector)
    client = running.ready()
    begin(client)
    chunk(client, b"x" * 100_000)
    assert held(running) >= 100_000
    if way == "reset":
        client.reset()
    elif way == "end":
        client.end()
        assert client.is_closed()
    else:
        assert client.say(way)[:1] == "2"
        assert held(running) == 0
    client.close()
    collector.wait_for_disconnect()
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0
    assert collector.messages == []


def test_an_abandoned_body_is_in_no_other_message(serve: Serve) -> None:
    collector = Collector()
    with serve(collector).ready() as client:
        client.send(
            b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 3\r\noldRSET\r\n"
            b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 3\r\nOLDEHLO c\r\n"
            b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 3 LAST\r\nnew"
        )
        assert client.replies(11)[-1] == "250 2.0.0 Ok: queued"
    assert [message.body for message in collector.messages] == [b"new"]


def test_chunks_over_the_limit_hold_nothing(serve: Serve) -> None:
    running = serve(Box(), max_size=1_000_000)
    with running.ready() as client:
        begin(client)
        assert chunk(client, b"x" * 900_000).startswith("250")
        assert held(running) >= 900_000
        assert chunk(client, b"x" * 100_001) == TOO_LARGE
        assert held(running) == 0
        assert chunk(client, b"RSET\r\n").startswith("503 ")
        assert client.say("RSET") == "250 2.0.0 Ok"
        begin(client)
        assert chunk(client, b"x", last=True) == "250 2.0.0 Ok: queued"


def test_chunks_for_which_there_is_no_room_are_452(serve: Serve, full_disk: None) -> None:
    running = serve(Box(), max_memory=100_000)
    with running.ready() as client:
        begin(client)
        assert chunk(client, b"x" * 60_000).startswith("250")
        assert chunk(client, b"x" * 60_000) == NO_MEMORY
        assert running.runtime.memory.held == 0
        assert chunk(client, b"x" * 60_000).startswith("503 ")
        assert chunk(client, b"x" * 60_000, last=True) == NO_MEMORY
        begin(client)
        assert chunk(client, b"x" * 60_000, last=True) == "250 2.0.0 Ok: queued"


def test_a_chunk_of_one_byte_costs_more_than_one_byte(serve: Serve, full_disk: None) -> None:
    """The memory that a chunk takes in addition to its bytes counts, too."""
    running = serve(Box(), max_memory=10_000)
    with running.ready() as client:
        begin(client)
        client.send(b"BDAT 1\r\nx" * 200)
        answers = client.replies(200)
    assert 100 < answers.index(NO_MEMORY) < 200


# -- time and size -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"BDAT 100 LAST\r\nhalf", b"BDAT 100\r\n", b"BDAT 4\r\nhalf", b"RSET\r\nBDAT 9\r\nhalf"],
)
def test_a_client_that_stalls_in_a_chunk_or_between_two_is_sent_away(
    serve: Serve, clock: StoppedClock, said: bytes, loop_name: str
) -> None:
    collector = Collector()
    running = serve(collector, timeout=40, loop=loop_name)
    with running.ready() as client:
        begin(client)
        client.send(said)
        running.wait_until_received(client)
        clock.advance(39)
        assert running.sessions == 1
        clock.advance(2)
        assert b"421 4.4.2 " in client.rest()
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_a_slow_chunk_is_waited_for(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box(), timeout=60, min_body_rate=0)
    with running.ready() as client:
        begin(client)
        client.send(b"BDAT 5 LAST\r\n")
        for _ in range(4):
            client.send(b"y")
            running.wait_until_received(client)
            clock.advance(40)
        client.send(b"y")
        assert client.reply() == "250 2.0.0 Ok: queued"


@pytest.mark.parametrize("last", [b"", b" LAST"])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_gigabyte_is_rejected_when_it_is_announced(
    serve: Serve, last: bytes, wanted: bool
) -> None:
    collector = Collector()
    running = serve(collector, max_size=1_000_000)
    with running.ready() as client:
        if wanted:
            begin(client)
        client.send(b"BDAT 1000000000%s\r\nRSET\r\nNOOP\r\n" % last)
        assert client.reply() == (
            TOO_LARGE if wanted else "503 5.5.1 Bad sequence of commands: need RCPT before BDAT"
        )
        assert client.is_closed()
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_nothing_is_delivered_of_a_chunk_that_is_not_all_there(serve: Serve) -> None:
    collector = Collector()
    running = serve(collector)
    with running.ready() as client:
        begin(client)
        client.send(b"BDAT 1000000 LAST\r\n" + b"x" * 999_999)
        client.end()
        assert client.is_closed()
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_a_flood_of_small_chunks_lets_others_have_their_turn(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), loop=loop_name)
    turns: list[int] = []
    counting = threading.Event()

    async def flood() -> None:
        """Note how many are done at each turn of the loop, until all of them are."""
        (driver,) = running.drivers
        counting.set()
        while (transaction := driver.connection.transaction) is not None:
            turns.append(transaction.size)
            await running.turn()

    with running.ready() as client:
        begin(client)
        said = b"BDAT 1\r\nx" * 1_000 + b"BDAT 0 LAST\r\n"
        with ThreadPoolExecutor(2) as threads:
            flooded = threads.submit(running.run, flood)
            assert counting.wait(DEADLINE)
            with client.sending(said):
                heard = threads.submit(client.replies, 1_001)
                flooded.result()
        assert heard.result()[-1] == "250 2.0.0 Ok: queued"
    # What was read goes on, and more is read, in the same turn
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 400


def test_chunks_of_one_byte_without_end_are_not_answered_without_end(serve: Serve) -> None:
    """What a chunk costs does not depend on its size: their number is bounded by the size."""
    box = Box()
    with serve(box).ready() as client:
        begin(client)
        with client.sending(b"BDAT 1\r\nx" * 20_000):
            said = client.rest().split(b"\r\n")
    assert said[-2:] == [b"421 4.7.0 Too many chunks for the size of the message", b""]
    assert 1_000 < len(said) < 1_100
    assert box.bodies == []


def test_chunks_of_a_line_each_are_not_too_many(serve: Serve) -> None:
    box = Box()
    with serve(box).ready() as client:
        begin(client)
        with client.sending((b"BDAT 70\r\n" + b"x" * 70) * 3_000 + b"BDAT 0 LAST\r\n"):
            said = client.replies(3_001)
    assert said[-1] == "250 2.0.0 Ok: queued"
    assert len(box.bodies) == 1


def test_a_drain_waits_for_chunks_that_have_begun(serve: Serve) -> None:
    box = Box()
    running = serve(box, grace=DEADLINE)
    with running.ready() as client:
        begin(client)
        chunk(client, b"x")
        ended: list[Any] = []
        down = threading.Thread(
            target=lambda: ended.append(running.run(lambda: running.server.shutdown()))
        )
        down.start()
        assert chunk(client, b"y").startswith("250")
        assert chunk(client, b"z", last=True) == "250 2.0.0 Ok: queued"
        assert client.rest().startswith(b"421 4.3.2 ")
        down.join(DEADLINE)
    assert box.bodies == [b"xyz"]
