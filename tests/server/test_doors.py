"""Accepting clients: only while there are places, and never leaving one behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from ehlo.server.doors import Doors
from ehlo.server.places import Connections, Table
from ehlo.server.system import shared
from ehlo.server.system.loops import loop_factory
from support.client import Client
from support.serving import DEADLINE, Box, Collector, Serve


class Listening(socket.socket):
    """A listening socket of which `accept` fails as long as `failure` is set."""

    failure: OSError | None = None
    tries = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        return super().accept()


def listening() -> Listening:
    sock = Listening()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    return sock


class Greeter(asyncio.Protocol):
    """Takes a place until its client has gone."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._counted = self._connections.admit(None)
        client.write(b"220" if self._counted else b"421")
        if not self._counted:
            client.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._counted:
            self._connections.release(None)


class Closing(asyncio.Protocol):
    """Serves no client, as a server that has ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Worker:
    """A worker on a socket that it shares with others."""

    def __init__(self, table: memoryview[int], number: int, most: int) -> None:
        self.connections = Connections(most, most)
        self.connections.share(Table(table, number))
        self.doors = Doors(asyncio.get_running_loop(), self.connections)

    async def open(self, sock: socket.socket) -> None:
        await self.doors.open(sock.dup(), lambda: Greeter(self.connections))


def run(loop_name: str, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(main())


async def connect(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*sock.getsockname())


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await turns()


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let doors look again only when a place is free, however slow the test is."""
    monkeypatch.setattr("ehlo.server.doors._LOOK_AGAIN", 2 * DEADLINE)


def test_a_full_worker_leaves_clients_to_the_others(loop_name: str) -> None:
    most = (3, 5, 2)

    async def work() -> None:
        with listening() as sock:
            table = shared.numbers(shared.create(2 * len(most)))
            workers = [Worker(table, *each) for each in enumerate(most)]
            for each in workers:
                await each.open(sock)
            clients = [await connect(sock) for _ in range(sum(most) + 4)]
            said = [await reader.read(3) for reader, _ in clients]
            assert sorted(said) == [b"220"] * sum(most) + [b"421"] * 4
            assert [each.connections.count for each in workers] == list(most)
            for client in clients[:3]:  # a place here or there
                if said.pop(0) == b"220":
                    client[1].close()
                    await until(lambda: sum(table[1::2]) < sum(most))
                    clients.append(await connect(sock))
                    assert await clients[-1][0].read(3) == b"220"
            for each in workers:
                each.doors.close()
            for _, writer in clients:
                writer.close()
            await until(lambda: not any(table[1::2]))
            assert list(table) == [3, 0, 5, 0, 2, 0]

    run(loop_name, work)


@pytest.mark.usefixtures("no_second_look")
def test_a_full_worker_does_not_try_to_accept_while_another_has_a_place(loop_name: str) -> None:
    async def work() -> None:
        table = shared.numbers(shared.create(4))
        full, other = Worker(table, 0, 1), Worker(table, 1, 1)
        sock = listening()
        await full.doors.open(sock, lambda: Greeter(full.connections))
        first, waits = await connect(sock), await connect(sock)
        assert await first[0].read(3) == b"220"
        tries = sock.tries
        await turns()
        assert sock.tries == tries
        assert other.connections.admit(None)
        full.doors._look_again()  # noqa: SLF001  as after a second
        assert await waits[0].read(3) == b"421"  # since all are full now
        for each in (first, waits):
            each[1].close()
        full.doors.close()
        await until(lambda: full.connections.count == 0)

    run(loop_name, work)


@pytest.mark.usefixtures("no_second_look")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EINVAL])
def test_a_failure_to_accept_is_logged_once_a_second_and_tried_again(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        sock, connections = listening(), Connections(5, 5)
        doors = Doors(asyncio.get_running_loop(), connections)
        sock.failure = OSError(number, "no more")
        await doors.open(sock, lambda: Greeter(connections))
        reader, writer = await connect(sock)
        await until(lambda: sock.tries > 0)
        for _ in range(2):  # two clients leave, so there may be a descriptor
            tries = sock.tries
            assert connections.admit(None)
            connections.release(None)
            await until(lambda: sock.tries > tries)  # noqa: B023  it is called at once
        await turns()
        assert sock.tries == 3
        assert caplog.messages == ["accepting connections failed: no more"]
        sock.failure = None
        doors._look_again()  # noqa: SLF001  as after a second
        assert await reader.read(3) == b"220"
        writer.close()
        doors.close()
        await until(lambda: connections.count == 0)

    run("asyncio", work)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ECONNABORTED, errno.EINTR])
def test_a_client_that_has_gone_is_no_failure(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        sock, connections = listening(), Connections(5, 5)
        doors = Doors(asyncio.get_running_loop(), connections)
        sock.failure = OSError(number, "gone")
        await doors.open(sock, lambda: Greeter(connections))
        reader, writer = await connect(sock)
        await until(lambda: sock.tries > 0)
        sock.failure = None
        assert await reader.read(3) == b"220"
        writer.close()
        doors.close()
        await until(lambda: connections.count == 0)

    run("asyncio", work)
    assert caplog.messages == []


def test_a_client_without_a_protocol_is_closed(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> asyncio.Protocol:
        raise ZeroDivisionError

    async def work() -> None:
        sock, connections = listening(), Connections(5, 5)
        connections.share(Table(shared.numbers(shared.create(2)), 0))
        doors = Doors(asyncio.get_running_loop(), connections)
        await doors.open(sock, fail)
        reader, writer = await connect(sock)
        assert await reader.read() == b""
        writer.close()
        doors.close()

    run(loop_name, work)
    assert caplog.messages == ["a client could not be served"]


@pytest.mark.parametrize("after", range(8))
def test_no_client_is_left_open_when_the_loop_ends(loop_name: str, after: int) -> None:
    async def work() -> None:
        sock, connections = listening(), Connections(5, 5)
        connections.share(Table(shared.numbers(shared.create(2)), 0))
        doors = Doors(asyncio.get_running_loop(), connections)
        await doors.open(sock, Closing)
        clients.append(socket.create_connection(sock.getsockname(), DEADLINE))
        await turns(after)
        doors.close()

    clients: list[socket.socket] = []
    run(loop_name, work)
    gc.collect()  # a transport that is left open warns
    with clients[0] as client, contextlib.suppress(ConnectionResetError):
        assert client.recv(10) == b""


@pytest.mark.parametrize("after", range(8))
def test_clients_that_come_at_the_end_are_told(serve: Serve, loop_name: str, after: int) -> None:
    """A client that has been accepted is told of the shutdown; others are reset."""
    running = serve(Collector(), loop=loop_name)

    async def end() -> None:
        await turns(after)
        running.server.close()

    client = running.client()
    with client:
        running.run(end)
        said = client.rest()
    assert said.startswith((b"220 ", b"421 4.3.2 ")) or said == b""


def test_places_are_counted_on_a_unix_socket(serve: Serve, loop_name: str, tmp_path: Any) -> None:
    running = serve(Box(), addr=f"unix:{tmp_path}/s", max_connections=1, loop=loop_name)
    with running.ready() as client:
        with running.client() as other:
            assert other.reply().startswith("421 4.7.0 ")
        assert client.mail() == "250 2.0.0 Ok: queued"
    running.wait_until_no_sessions()
    with Client(running.address) as client:
        assert client.reply().startswith("220 ")
