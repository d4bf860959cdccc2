"""Metrics and `ehlo top` of several workers show one server, also when workers hang or die."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.program import DEADLINE, Program, Start
from support.snapshots import snapshot_of

MODULE = """
import os, ehlo

class Handler(ehlo.Handler):
    async def on_message(self, session, message):
        return f"by-{os.getpid()}"

class Patient(Handler):
    def on_startup(self, server):
        open("begin").close()  # a pipe: until somebody opens it to write
"""


class Server:
    """Runs two workers with metrics and a control socket."""

    def __init__(self, start: Start, here: Path, *flags: str, handler: str = "Handler") -> None:
        (here / "counted.py").write_text(MODULE)
        self.control = here / "control"
        self.program: Program = start(
            *("-m", "ehlo", "serve", f"counted:{handler}", "--addr", "127.0.0.1:0"),
            *("--metrics", "127.0.0.1:0", "--control", str(self.control)),
            *("--workers", "2", *flags),
            cwd=here,
        )
        found = re.search(r"metrics on 127\.0\.0\.1:(\d+)", self.program.err.until("metrics on"))
        assert found is not None
        self.port = int(found[1])
        self.pids: set[int] = set()

    def listening(self) -> Server:
        """Wait until both workers serve."""
        self.pids = {self.next_ready(), self.next_ready()}
        self.address = self.program.listening()
        return self

    def next_ready(self) -> int:
        """Return the next process that is ready."""
        return int(re.findall(r"process (\d+)", self.program.err.until(" is ready"))[0])

    def fetch(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def samples(self) -> dict[str, float]:
        """Return each sample by its name and the values of its labels."""
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(self.fetch("/metrics")[1])
            for sample in family.samples
        }

    def scrape(self, answered: int = 2) -> dict[str, float]:
        """Return the samples with which so many workers have answered: a busy one may be late."""
        found: dict[str, float] = {}

        def is_whole() -> bool:
            found.update(self.samples())
            return found["ehlo_workers_answered"] == answered

        eventually(is_whole)
        return found

    def top(self, answered: int = 2) -> dict[str, Any]:
        """Return what so many workers have answered."""
        workers = {"wanted": 2, "answered": answered}
        return snapshot_of(self.control, lambda it: it["workers"] == workers)

    @contextlib.contextmanager
    def clients(self) -> Iterator[dict[int, smtplib.SMTP]]:
        """Yield a client of each worker, by process; each has sent at least one message."""
        found: dict[int, smtplib.SMTP] = {}
        self.sent = 0
        with contextlib.ExitStack() as stack:
            until = time.monotonic() + DEADLINE
            while set(found) != self.pids:  # no one chooses which worker accepts a connection
                assert time.monotonic() < until, "one worker accepts all connections"
                client = smtplib.SMTP(*self.address, timeout=DEADLINE)
                stack.callback(client.close)
                found[send(client)] = client
                self.sent += 1
            yield found


def send(client: smtplib.SMTP, body: bytes = b"Subject: x\r\n\r\n") -> int:
    """Send a message; return the process that accepted it."""
    client.ehlo_or_helo_if_needed()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    code, text = client.data(body)
    assert code == 250
    return int(text.rpartition(b"by-")[2])


def eventually(true: Callable[[], bool]) -> None:
    """Ask until the answer is true: nothing else shows what a process has done."""
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until


@pytest.fixture
def server(start: Start, tmp_path: Path) -> Server:
    return Server(start, tmp_path).listening()


ACCEPTED = "ehlo_messages_total accepted"


def test_several_workers_look_like_one_server(server: Server, start: Start) -> None:
    with server.clients() as clients:
        for client in clients.values():
            for _ in range(3):
                send(client)
        found = server.scrape()
        messages = server.sent + 6
        assert found[ACCEPTED] == messages
        assert found["ehlo_hook_seconds_count on_message"] == messages
        assert found["ehlo_connections_total"] == found["ehlo_sessions"] == server.sent
        assert found["ehlo_workers"] == 2
        seen = server.top()
        assert set(seen["pids"]) == {session["pid"] for session in seen["sessions"]} == server.pids
        lines: list[str] = []

        def is_whole() -> bool:
            top = start("-m", "ehlo", "top", str(server.control), "--once")
            lines[:] = top.out.text.splitlines() if top.wait() == 0 else [""]
            return re.match(r"ehlo, 2 of 2 workers: up \d+[sm]", lines[0]) is not None

        eventually(is_whole)
    assert lines[4].split()[:2] == ["PID", "SESSION"]
    assert {int(line.split()[0]) for line in lines[5:]} == server.pids
    assert server.program.stop() == 0
    assert not server.control.exists()


def test_the_counters_of_a_dead_worker_stay(server: Server) -> None:
    with server.clients() as clients:
        before = server.scrape()
        for pid in clients:
            os.kill(pid, signal.SIGKILL)
            server.program.err.until("was killed by SIGKILL")
            after = server.samples()
            for name in before:
                if name.endswith(("_total", "_bucket", "_count", "_sum")):
                    assert after[name] >= before[name], name
    server.next_ready()
    server.next_ready()
    with smtplib.SMTP(*server.address, timeout=DEADLINE) as client:
        send(client)
    assert server.scrape()[ACCEPTED] == before[ACCEPTED] + 1
    assert server.program.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_worker_that_ends_in_order_reports_all(start: Start, tmp_path: Path, loop: str) -> None:
    server = Server(start, tmp_path, "--loop", loop).listening()
    with server.clients() as clients:
        pid, client = clients.popitem()
        send(client)
        os.kill(pid, signal.SIGTERM)
    server.program.err.until(f"process {pid}) ended with exit code 0")
    eventually(lambda: server.samples()["ehlo_sessions"] == 0)
    found = server.scrape()
    assert found[ACCEPTED] == server.sent + 1
    assert found["ehlo_replies_total 220"] == server.sent
    assert server.program.stop() == 0


def test_a_worker_that_hangs_delays_no_other(server: Server) -> None:
    with server.clients() as clients:
        (hung, client), (_, other) = clients.items()
        before = server.scrape()
        os.kill(hung, signal.SIGSTOP)
        try:
            found = server.scrape(answered=1)
            assert found["ehlo_workers"] == 2
            assert found[ACCEPTED] == before[ACCEPTED]
            send(other)
            assert server.scrape(answered=1)[ACCEPTED] == before[ACCEPTED] + 1
            assert server.fetch("/readyz")[0] == 200
            server.top(answered=1)
        finally:
            os.kill(hung, signal.SIGCONT)
        server.scrape()
        send(client)
    assert server.program.stop() == 0


def test_readyz_is_200_once_the_first_worker_serves(start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "begin"
    os.mkfifo(pipe)
    server = Server(start, tmp_path, handler="Patient")
    assert server.fetch("/readyz") == (503, "no worker serves\n")
    assert server.samples()["ehlo_workers_answered"] == 0
    with pipe.open("w"):
        server.listening()
    assert server.fetch("/readyz") == (200, "ready\n")
    assert server.program.stop() == 0


def test_readyz_is_503_while_the_workers_drain(server: Server) -> None:
    with server.clients() as clients:
        for client in clients.values():
            client.mail("a@example.com")
        server.program.process.send_signal(signal.SIGTERM)
        server.program.err.until("shutting down")
        assert server.fetch("/readyz") == (503, "draining\n")
        found = server.scrape()
        assert found["ehlo_draining"] == 1
    assert server.program.wait() == 0


def test_a_busy_metrics_address_is_reported_on_one_line(start: Start, server: Server) -> None:
    program = start(
        *("-m", "ehlo", "serve", "counted:Handler", "--addr", "127.0.0.1:0", "--workers", "2"),
        *("--metrics", f"127.0.0.1:{server.port}"),
        cwd=server.control.parent,
    )
    assert program.wait() == 1
    assert program.err.text.startswith("ehlo: cannot listen on 127.0.0.1:")
    assert server.program.stop() == 0


def test_workers_log_in_json_if_the_option_says_so(start: Start, tmp_path: Path) -> None:
    server = Server(start, tmp_path, "--log-format", "json").listening()
    with server.clients():
        pass
    assert server.program.stop() == 0
    lines = [json.loads(line) for line in server.program.err.text.splitlines()]
    about = [line for line in lines if line["logger"] in ("ehlo.connection", "ehlo.message")]
    assert len(about) == 3 * server.sent
    assert all("session" in line for line in about)


def test_no_link_to_a_worker_is_on_the_file_system(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.control))
    sockets = [path for path in server.control.parent.iterdir() if path.is_socket()]
    assert sockets == [server.control]
    assert server.program.stop() == 0
