"""Endless input of each kind: memory stays, the reply is right, others are served."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ehlo import Peer
from robustness.process import Launch, Tell
from robustness.scale import DEADLINE, IN_FULL, MIB, full, peak
from support.client import Client

OCTETS = full(1_000_000_000, short=50_000_000)  # at most, of an endless input
COUNT = full(1_000_000, short=100_000)
TIME = full(20, short=4)  # seconds for a command to come
MAX_SIZE = full(33_554_432, short=2_000_000)
GROWTH = 12 * MIB  # bytes that all clients of a test may take together
BLOCK = 65_536
BUFFERS = 65_536  # the size of the kernel's buffers at each end of a connection
AT_ONCE = 1000  # commands in one write

QUEUED = "250 2.0.0 Ok: queued"


def pour(client: Client, pieces: Iterable[bytes]) -> None:
    """Send all of it, or as much as the server reads."""
    with contextlib.suppress(OSError):
        for piece in pieces:
            client.send(piece)


def flood(client: Client, pieces: Iterable[bytes]) -> list[str]:
    """Send all of it in a thread; return the lines read until the server closes."""
    pouring = threading.Thread(target=pour, args=(client, pieces))
    pouring.start()
    try:
        return client.rest().decode().splitlines()
    finally:
        client.sock.close()  # which ends the sending, too
        pouring.join()


def codes_of(answers: list[str]) -> list[str]:
    """Return the code and the enhanced code of each reply."""
    return [answer[:9] for answer in answers]


def without_last(codes: list[str], last: str) -> list[str]:
    """Remove the last code if it is `last`; a reset may have come before it.

    The server closes on a client that is still sending: its last reply may be lost.
    """
    return codes[:-1] if codes[-1:] == [last] else codes


def blocks(octets: bytes) -> Iterator[bytes]:
    """Return very many of these bytes."""
    return itertools.repeat(octets * (BLOCK // len(octets)), OCTETS // BLOCK)


def commands(line: str) -> Iterator[bytes]:
    """Return many of one command."""
    return itertools.repeat(f"{line}\r\n".encode() * AT_ONCE, COUNT // AT_ONCE)


def begin_data(client: Client) -> None:
    client.begin_message(b"", end=b"")
    assert client.replies(3)[2].startswith("354 ")


def an_endless_line(client: Client) -> None:
    heard = flood(client, itertools.cycle([b"x" * BLOCK]))
    assert without_last(codes_of(heard), "421 4.4.2") == []  # bytes do not move the deadline


def an_endless_header(client: Client) -> None:
    begin_data(client)
    heard = flood(client, itertools.chain([b"X-Long: "], blocks(b"x")))
    assert codes_of(heard) == ["552 5.3.4"]


def endless_header_fields(client: Client) -> None:
    begin_data(client)
    assert codes_of(flood(client, blocks(b"X-Many: x\r\n"))) == ["552 5.3.4"]


def endless_chunks(client: Client) -> None:
    client.say("MAIL FROM:<a@example.com>")
    client.say("RCPT TO:<b@example.com>")
    chunk = b"BDAT %d\r\n" % BLOCK + b"x" * BLOCK
    codes = codes_of(flood(client, itertools.repeat(chunk, OCTETS // BLOCK)))
    taken = MAX_SIZE // BLOCK
    assert codes[:taken] == ["250 2.0.0"] * taken
    assert codes[taken] == "552 5.3.4"
    # The session ends by too many errors, or by twice the allowed size
    last = full("421 4.7.0", short="552 5.3.4")
    assert set(without_last(codes[taken + 1 :], last)) <= {"503 5.5.1"}


def many_recipients(client: Client) -> None:
    client.say("MAIL FROM:<a@example.com>")
    if IN_FULL:
        codes = codes_of(flood(client, commands("RCPT TO:<b@example.com>")))
    else:  # no further than to where each reply takes a second
        client.send(b"RCPT TO:<b@example.com>\r\n" * 209)
        client.end()
        codes = codes_of(client.rest().decode().splitlines())
    assert codes[:200] == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 100
    assert without_last(codes[200:], "421 4.7.0") == ["452 4.5.3"] * full(19, short=9)


def many_noops_that_are_limited(client: Client) -> None:
    codes = codes_of(flood(client, commands("NOOP")))
    assert without_last(codes, "421 4.7.0") == ["250 2.0.0"] * 100


def many_noops(client: Client) -> None:
    heard = flood(client, itertools.chain(commands("NOOP"), [b"QUIT\r\n"]))
    assert Counter(codes_of(heard)) == {"250 2.0.0": COUNT, "221 2.0.0": 1}


def many_noops_of_one_who_does_not_read(client: Client) -> None:
    line = "NOOP " + "x" * 400  # more of them than the buffers hold
    pieces = itertools.chain(commands(line), [b"QUIT\r\n"])
    pouring = threading.Thread(target=pour, args=(client, pieces))
    pouring.start()
    assert client.reply().startswith("250 ")
    assert pouring.is_alive()  # all of it is more than the buffers hold
    heard = client.rest().decode().splitlines()
    pouring.join()
    assert Counter(codes_of(heard)) == {"250 2.0.0": COUNT - 1, "221 2.0.0": 1}


def a_megabyte_command(client: Client) -> None:
    client.send(b"MAIL FROM:<" + b"x" * 1_000_000 + b"@example.com>\r\nNOOP\r\n")
    assert client.reply().startswith("500 5.5.2 ")
    assert client.reply() == "250 2.0.0 Ok"
    assert client.mail() == QUEUED


LIMITED = (
    *(an_endless_line, an_endless_header, endless_header_fields, endless_chunks),
    *(many_recipients, many_noops_that_are_limited, a_megabyte_command),
)
UNLIMITED = (many_noops, many_noops_of_one_who_does_not_read)


def serve_beside(address: Peer, others: list[Future[None]]) -> float:
    """Serve new clients until `others` are done; return the longest time of one, in seconds."""
    longest = 0.0
    while not all(other.done() for other in others):
        begun = time.monotonic()
        with Client(address, timeout=DEADLINE) as client:
            client.hello()
            assert client.mail() == QUEUED
        longest = max(longest, time.monotonic() - begun)
    return longest


@pytest.mark.parametrize("loop", full(["asyncio", "uvloop"], short=["uvloop"]))
@pytest.mark.parametrize(
    ("ways", "idle_commands"), [(LIMITED, 100), (UNLIMITED, 0)], ids=["limited", "unlimited"]
)
def test_endless_input_takes_no_memory(
    launch: Launch,
    tell: Tell,
    ways: tuple[Callable[[Client], None], ...],
    idle_commands: int,
    loop: str,
) -> None:
    options = {"timeout": TIME, "max-size": MAX_SIZE, "max-idle-commands": idle_commands}
    options["spool-threshold"] = MIB  # which may be 16 MiB otherwise
    given = (text for name, value in options.items() for text in (f"--{name}", str(value)))
    server = launch("drop", "--loop", loop, *given, buffers=BUFFERS)

    def run(way: Callable[[Client], None]) -> None:
        with Client(server.address, timeout=DEADLINE, buffers=BUFFERS) as client:
            client.hello()
            way(client)

    run(a_megabyte_command)
    before = peak(server.pid)
    with ThreadPoolExecutor(len(ways)) as pool:
        under_way = [pool.submit(run, way) for way in ways]
        longest = serve_beside(server.address, under_way)
    for each in under_way:
        each.result()
    grown = peak(server.pid) - before
    tell(
        f"{len(ways)} kinds took {grown / MIB:.1f} MiB; "
        f"a fresh client took {longest * 1000:.0f} ms at most"
    )
    assert grown <= GROWTH
    server.wait_until_no_sessions()
    run(a_megabyte_command)
