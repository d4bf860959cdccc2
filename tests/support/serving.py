"""A real server on loopback for a test, and the checks that follow each test.

The fixtures are imported by each `conftest.py` that wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import queue
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Peer, Server, Session
from ehlo.message import Spool
from ehlo.server.driver import Driver
from ehlo.server.limits import FailedLogins
from ehlo.server.runtime import Runtime
from support.certificates import Certificates, make_certificates
from support.client import Client, set_buffers

__all__ = [
    "LOOPS",
    "Box",
    "Collector",
    "Running",
    "Serve",
    "certificates",
    "delays",
    "full_disk",
    "listening",
    "loop_name",
    "no_delay",
    "serve",
]

LOOPS = ["asyncio", "uvloop"]
DEADLINE = 60.0  # seconds for what a test waits for: long enough on a machine that is busy


class Running:
    """A server that runs in a thread, and its internals."""

    def __init__(self, server: Server) -> None:
        self.server = server
        run = server.running
        assert run is not None
        self.runtime: Runtime = run.runtime
        self.address: Peer = server.addresses[0]

    def client(self, **options: Any) -> Client:
        """Return a new connection; the greeting is not read yet."""
        return Client(self.address, **options)

    def ready(self, **options: Any) -> Client:
        """Return a new connection that has sent EHLO."""
        client = self.client(**options)
        client.hello()
        return client

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run `work` in the server's event loop and return its result."""

        async def call() -> Any:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self.runtime.loop).result(DEADLINE)

    def wait_until_no_sessions(self) -> None:
        """Return once every session has ended, hooks included. Raises `TimeoutError`."""
        self.run(self.runtime.all_gone)

    async def turn(self) -> None:
        """Let the event loop run once."""
        await asyncio.sleep(0)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` holds; it is looked at in each turn of the loop."""
        until = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < until, "it did not happen"
            self.run(self.turn)

    def wait_until_received(self, client: Client) -> None:
        """Return once the session of `client` has read all that was sent, in clear text."""
        port = client.sock.getsockname()[1]
        (driver,) = (each for each in self.drivers if each.answers.session.peer.port == port)
        self.wait_until(lambda: driver.wire.received == client.sent)

    def wait_until_lost(self) -> None:
        """Return once no client is connected, although hooks may be under way."""
        self.wait_until(lambda: all(driver.wire.lost for driver in self.drivers))

    @property
    def drivers(self) -> list[Driver]:
        """The drivers of all sessions."""
        return [each for each in list(self.runtime.drivers) if isinstance(each, Driver)]

    @property
    def sessions(self) -> int:
        """The number of sessions now."""
        return len(self.runtime.drivers)


Serve = Callable[..., Running]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each write of a body to disk fail."""

    def write(_spool: Spool, _slices: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "write", write)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make the certificates once for all tests: keys are slow to make."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Run the test with each event loop that ehlo supports."""
    name: str = request.param
    return name


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Start a server: `serve(handler, option=...)`. All are stopped when the test is over.

    `buffers` is the size of the kernel's buffers of each connection. Afterwards no session, no
    counted connection, no byte of a body, no thread is left, and no event loop has had a reason to
    complain.
    """
    before = set(threading.enumerate())
    runtimes: list[Runtime] = []
    with contextlib.ExitStack() as stack:

        def start(handler: Any, *, buffers: int = 0, **options: Any) -> Running:
            addr = f"fd:{listening(buffers).detach()}" if buffers else "127.0.0.1:0"
            defaults = {"addr": addr, "hostname": "mx.example", "grace": 5.0}
            given: dict[str, Any] = defaults | {"loop": "asyncio"} | options
            server = stack.enter_context(Server(handler, **given).in_thread())
            running = Running(server)
            runtimes.append(running.runtime)
            return running

        yield start
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)
        assert not thread.is_alive(), thread
    for runtime in runtimes:
        assert_nothing_left(runtime)
    assert_loops_were_content(caplog)


def listening(buffers: int) -> socket.socket:
    """Return a listening socket for a server; its connections have buffers of this size."""
    sock = socket.socket()
    set_buffers(sock, buffers)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def assert_nothing_left(runtime: Runtime) -> None:
    """Check that no session, no counted connection and no byte of a body is left."""
    assert runtime.drivers == set()
    assert runtime.memory.held == 0
    assert runtime.connections.count == 0
    assert runtime.connections._by_address == {}  # noqa: SLF001  the counter is what is tested


def assert_loops_were_content(caplog: pytest.LogCaptureFixture) -> None:
    """Check that no uncaught exception is in the log of asyncio or of the server."""
    for record in (*caplog.get_records("setup"), *caplog.get_records("call")):
        trouble = record.name == "asyncio" and record.levelno >= logging.WARNING
        own = record.name == "ehlo.server" and record.levelno >= logging.ERROR
        if trouble or own:
            pytest.fail(record.getMessage())


class Box:
    """A function handler that keeps the messages it gets."""

    def __init__(self) -> None:
        self.mails: list[tuple[Peer, str, list[str], bytes]] = []
        self.arrived = threading.Semaphore(0)

    async def __call__(
        self, remote_addr: Peer, mail_from: str, rcpt_tos: list[str], data: bytes
    ) -> None:
        self.mails.append((remote_addr, mail_from, rcpt_tos, data))
        self.arrived.release()

    @property
    def bodies(self) -> list[bytes]:
        """The bodies, without the `Received` field of the server."""
        return [_without_trace(data) for _, _, _, data in self.mails]


def _without_trace(data: bytes) -> bytes:
    """Remove the field of the server, which is folded with tabs."""
    lines = data.splitlines(keepends=True)
    assert lines[0].startswith(b"Received: from ")
    index = 1
    while lines[index : index + 1] and lines[index].startswith(b"\t"):
        index += 1
    return b"".join(lines[index:])


class Collector(Handler):
    """A handler that keeps messages and signals the end of sessions."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.senders: list[Address] = []
        self.sessions: list[Session] = []
        self.disconnected = threading.Semaphore(0)

    async def on_message(self, session: Session, message: Message) -> None:
        self.messages.append(message)
        self.sessions.append(session)

    async def on_disconnect(self, session: Session) -> None:
        self.disconnected.release()

    def wait_for_disconnect(self, count: int = 1) -> None:
        """Wait until `count` more sessions have ended."""
        for _ in range(count):
            assert self.disconnected.acquire(timeout=DEADLINE), "a session did not end"


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[float]:
    """Collect the seconds for which each wrong login waits, as it begins to."""
    begun: queue.SimpleQueue[float] = queue.SimpleQueue()
    delay = FailedLogins.delay

    def noted(failed: FailedLogins, key: str | None) -> float:
        seconds = delay(failed, key)
        begun.put(seconds)
        return seconds

    monkeypatch.setattr(FailedLogins, "delay", noted)
    return begun


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer wrong logins immediately; the delays have tests of their own."""
    monkeypatch.setattr(FailedLogins, "delay", lambda _self, _key: 0.0)
