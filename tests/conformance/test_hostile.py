"""`ehlo check` on servers that do their worst: it ends in time, in bounded memory, and says why."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from conformance.toy import Faults, Toy
from ehlo import Peer
from ehlo.conformance import CASES, Patience, check
from ehlo.conformance.probe import CLOSED, GARBAGE, NOTHING, Heard, Probe, readable, shown
from support.ports import reserved_port

Act = Callable[[socket.socket], None]
GREETING = b"220 toy.example ready\r\n"


@contextlib.contextmanager
def served(act: Act) -> Iterator[Peer]:
    """Run `act` for each client, until the client or the block has ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def run(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            act(client)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            threads.append(threading.Thread(target=run, args=(client,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield Peer("127.0.0.1", listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(60)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def reads_all(client: socket.socket) -> None:
    while client.recv(65_536):
        pass


def says(data: bytes, client: socket.socket) -> None:
    client.sendall(data)
    reads_all(client)


def is_silent(client: socket.socket) -> None:
    reads_all(client)


def closes(client: socket.socket) -> None:
    pass


def floods(client: socket.socket) -> None:
    while True:
        client.sendall(b"2" * 65_536)


def floods_with_replies(client: socket.socket) -> None:
    while True:
        client.sendall(b"250 2.0.0 Ok\r\n" * 4096)


def floods_with_lines(client: socket.socket) -> None:
    while True:
        client.sendall(b"220-more\r\n" * 4096)


def drips(client: socket.socket) -> None:
    """A byte now and then, and never a line."""
    client.settimeout(0.01)
    while True:
        client.sendall(b"2")
        with contextlib.suppress(TimeoutError):
            if not client.recv(65_536):
                return


NO_SERVERS: dict[str, tuple[Act, str]] = {
    "is silent": (is_silent, "the greeting: nothing within 3 s; try later"),
    "closes at once": (closes, "the greeting: the connection is closed"),
    "says garbage": (partial(says, b"\x00\x1b]0;x\x07\xff\r\n"), r"not a reply: \x00\x1b]0;x\x07"),
    "ends lines with LF": (partial(says, b"220 toy\n"), r"not a reply: 220 toy\n"),
    "says half a line": (partial(says, b"220 to"), "nothing within 3 s but 220 to"),
    "rejects": (partial(says, b"554 go away\r\n"), "the greeting: 554 go away; try later"),
    "changes the code": (
        partial(says, b"220-a\r\n250 b\r\n"),
        "two codes in one reply: 220-a / 250",
    ),
    "floods": (floods, "too long"),
    "floods with lines": (floods_with_lines, "too long"),
    "drips": (drips, "nothing within 3 s but 2"),
    "knows no EHLO": (partial(says, GREETING + b"502 no\r\n"), "EHLO client.example: 502 no"),
}


@pytest.mark.parametrize("name", NO_SERVERS)
def test_what_is_no_server_is_a_connection_error(name: str) -> None:
    act, reason = NO_SERVERS[name]
    reply = 3 if "nothing" in reason else 60  # what does come must come in time
    with served(act) as address, pytest.raises(ConnectionError) as caught:
        list(check(address, patience=Patience(reply=reply, hush=0.1)))
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_listener_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="cannot connect: Connection refused"):
        list(check(Peer("127.0.0.1", reserved_port())))


@dataclass(frozen=True)
class AfterHello(Patience):
    """Waits as long as it must for the first EHLO: without one there is nothing to check."""

    heard: threading.Event = field(default_factory=threading.Event)

    def until(self, seconds: float) -> float:
        return super().until(seconds) if self.heard.is_set() else time.monotonic() + 60

    def before(self, act: Act, client: socket.socket) -> None:
        """Answer EHLO, and then act."""
        client.sendall(GREETING)
        client.recv(65_536)
        self.heard.set()  # before the reply: each wait after it is a short one
        client.sendall(b"250-toy.example\r\n250-CHUNKING\r\n250-SIZE 100\r\n250 STARTTLS\r\n")
        act(client)


@pytest.mark.parametrize(
    "act", [is_silent, closes, floods, floods_with_replies, floods_with_lines, drips]
)
def test_a_server_that_goes_wrong_passes_nothing_that_asks_for_a_reply(act: Act) -> None:
    waits = act in (is_silent, drips)
    patience = AfterHello(reply=2 if waits else 60, hush=0.05, total=3600)
    with served(partial(patience.before, act)) as address:
        cases = CASES[::20] if waits else CASES
        results = list(check(address, patience=patience, cases=cases))
    assert len(results) == len(cases)
    groups = {"addresses", "pipelining", "end of data", "messages", "limits"}
    passed = [each for each in results if each.case.group in groups and each.outcome == "passed"]
    # What a server may answer by closing, too
    assert {each.case.section for each in passed} <= {"RFC 5321 4.5.3.1.9"}


def test_all_of_it_is_bounded_in_time() -> None:
    patience = AfterHello(reply=2, hush=0.05, total=8)
    with served(partial(patience.before, is_silent)) as address:
        began = time.monotonic()
        results = list(check(address, patience=patience))
        took = time.monotonic() - began
    late = [result for result in results if "8 s for all cases are over" in result.reason]
    assert len(results) == len(CASES)
    assert late
    assert all(result.outcome in ("not tried", "not offered") for result in results[-len(late) :])
    assert took < 30  # and not 2 s for each of the cases


def test_a_flood_is_not_held_in_memory() -> None:
    with served(floods) as address:
        tracemalloc.start()
        try:
            probe = Probe(address, Patience(reply=60))
            heard = probe.hear()
            probe.close()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert heard.code == GARBAGE
    assert len(str(heard)) < 400
    assert peak < 2_000_000


def test_endless_replies_are_heard_up_to_a_bound() -> None:
    with served(floods_with_replies) as address:
        probe = Probe(address, Patience(reply=60))
        assert len(probe.rest()) == 20
        probe.close()


def test_a_server_that_reads_nothing_does_not_hang_a_large_message() -> None:
    gone = threading.Event()

    def act(client: socket.socket) -> None:
        gone.wait(60)

    with served(act) as address:
        probe = Probe(address, Patience(reply=0.5))
        probe.send(b"x" * 50_000_000)
        assert probe.hear().code == NOTHING
        probe.close()
        gone.set()


def test_a_handshake_that_drips_is_bounded_in_time() -> None:
    def act(client: socket.socket) -> None:
        client.sendall(b"\x16\x03\x03\x3f\xff")  # a record of 16 KiB, which never comes
        drips(client)

    with served(act) as address:
        probe = Probe(address, Patience(reply=0.5))
        began = time.monotonic()
        assert not probe.secure()
        assert time.monotonic() - began < 30  # and not as long as the record takes
        probe.close()


def test_a_recipient_that_is_rejected_is_not_tried() -> None:
    faults = Faults(says={"mail RCPT .*": "550 5.1.1 No such user"})
    with Toy(faults) as toy:
        results = list(check(toy.address, recipient="me@example.net"))
    reasons = {result.reason for result in results if result.outcome == "not tried"}
    assert reasons == {
        "RCPT TO:<me@example.net>: 550 5.1.1 No such user; give another --to",
    }


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE 134217729", "SIZE x"])
def test_a_size_that_cannot_be_exceeded_is_not_offered(size: str) -> None:
    faults = Faults(says={"start EHLO .*": f"250 toy.example/250 CHUNKING/250 {size}"})
    cases = [case for case in CASES if "oversize" in case.name]
    with Toy(faults) as toy:
        results = list(check(toy.address, cases=cases))
    assert {(each.outcome, each.reason) for each in results} == {
        ("not offered", "SIZE from 1 to 134217728")
    }


def test_a_server_that_dies_is_not_tried_any_more() -> None:
    with Toy() as toy:
        results = check(toy.address)
        first = next(results)
    assert first.outcome == "passed"
    rest = list(results)
    assert {result.outcome for result in rest} == {"not tried", "not offered"}
    assert "cannot connect: Connection refused" in {result.reason for result in rest}


@pytest.mark.parametrize(
    ("expected", "lines", "fits"),
    [
        ("250", ["250 Ok"], True),
        ("250", ["251 Ok"], False),
        ("25x 4xx", ["252 Ok"], True),
        ("25x 4xx", ["450 Ok"], True),
        ("25x 4xx", ["550 Ok"], False),
        ("!500 !55x", ["250 Ok"], True),
        ("!500 !55x", ["555 Ok"], False),
        ("250 one-line", ["250-Ok", "250 Ok"], False),
        ("250 enhanced", ["250 2.1.0 Ok"], True),
        ("250 enhanced", ["250 Ok"], False),
        ("250 enhanced", ["250 5.1.0 Ok"], False),
        ("<ehlo> SIZE !DSN", ["250-toy", "250 size 100"], True),
        ("<ehlo> SIZE !DSN", ["250-toy", "250-SIZE", "250 DSN"], False),
        ("<ehlo> SIZE !DSN", ["250 toy"], False),
        ("<ehlo>", ["502 no"], False),
        ("2xx closed", [], True),
        ("2xx", [], False),
        ("!500", [], False),
    ],
)
def test_a_reply_fits_what_is_expected(expected: str, lines: list[str], fits: bool) -> None:
    code = int(lines[0][:3]) if lines else CLOSED
    assert Heard(code, tuple(lines)).fits(expected) is fits


def test_what_is_shown_is_short_and_harmless() -> None:
    assert readable("a\x1b[2J\u202eb\n") == r"a\x1b[2J\u202eb\n"
    assert shown(b"\xff\r\n") == r"\xff\r\n"
    assert len(shown(b"x" * 10_000_000)) < 250
    assert "(9,999,850 bytes)" in shown(b"x" * 10_000_000)
