"""`Server.protocol`: the protocol of a client that a program's own `loop.create_server` accepts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from ehlo import Peer, Server
from ehlo.server.driver import Driver
from ehlo.server.gate import Gate
from ehlo.server.system.loops import loop_factory
from support.certificates import Certificates
from support.client import Client
from support.serving import Box, Collector

DRAINING = "421 4.3.2 Service shutting down"


def run(loop_name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(work())


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Peer]:
    """Accept clients in the program's own way; yield where."""
    loop = asyncio.get_running_loop()
    own = await loop.create_server(server.protocol, "127.0.0.1", 0)
    try:
        yield Peer(*own.sockets[0].getsockname())
    finally:
        own.close()


def mail(address: Peer, **options: Any) -> list[str]:
    """Send a mail; return the greeting or what came instead, and the reply."""
    with Client(address, **options) as client:
        greeting = client.reply()
        if not greeting.startswith("220 "):
            return [greeting]
        client.say("EHLO client.example")
        return [greeting, client.mail()]


def test_a_program_accepts_the_clients_and_the_server_serves_them(loop_name: str) -> None:
    box = Box()

    async def work() -> None:
        async with Server(box, addr=(), hostname="mx.example", appname="App") as server:
            assert server.addresses == []
            async with listening(server) as address:
                greeting, reply = await asyncio.to_thread(mail, address)
                assert greeting == "220 mx.example App ESMTP Service ready"
                assert reply == "250 2.0.0 Ok: queued"
                assert type(server.protocol()) is Driver  # as for a client of its own address

    run(loop_name, work)
    assert len(box.mails) == 1


def test_a_client_before_the_start_or_after_the_end_gets_421(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Box(), addr=())

    async def work() -> None:
        async with listening(server) as address:
            assert await asyncio.to_thread(mail, address) == [DRAINING]
            async with server:
                assert len(await asyncio.to_thread(mail, address)) == 2
            assert await asyncio.to_thread(mail, address) == [DRAINING]

    run(loop_name, work)
    assert caplog.text.count("the server does not run in this loop; start it there") == 2


def test_a_shutdown_waits_for_the_transaction_of_such_a_client(loop_name: str) -> None:
    box = Box()

    async def work() -> None:
        server = Server(box, addr=(), grace=60)
        await server.start()
        async with listening(server) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"MAIL FROM:<a@example.com>\r\n")
            writer.write(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
            while not (await reader.readline()).startswith(b"354 "):
                pass
            shutdown = asyncio.create_task(server.shutdown())
            await asyncio.sleep(0)
            assert await asyncio.to_thread(mail, address) == [DRAINING]
            writer.write(b"x\r\n.\r\n")
            assert (await reader.readline()).startswith(b"250 2.0.0 Ok: queued")
            assert await reader.readline() == DRAINING.encode() + b"\r\n"
            await shutdown
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(loop_name, work)
    assert len(box.mails) == 1


def test_the_limits_of_the_server_apply(loop_name: str) -> None:
    async def work() -> None:
        exempt: Any = "none"
        server = Server(Box(), addr=(), max_connections_per_address=1, exempt_networks=exempt)
        async with server, listening(server) as address:
            _, writer = await asyncio.open_connection(*address)
            (reply,) = await asyncio.to_thread(mail, address)
            assert reply.startswith("421 4.7.0 ")
            writer.close()

    run(loop_name, work)


def test_a_proxy_says_who_the_client_is(loop_name: str) -> None:
    collector = Collector()

    async def work() -> None:
        async with Server(collector, addr=(), proxy_networks=["127.0.0.1"]) as server:
            assert type(server.protocol()) is Gate
            async with listening(server) as address:
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\nEHLO x\r\n")
                writer.write(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
                while not (await reader.readline()).startswith(b"354 "):
                    pass
                writer.write(b"x\r\n.\r\nQUIT\r\n")
                await reader.read()
                writer.close()

    run(loop_name, work)
    assert [session.peer for session in collector.sessions] == [Peer("192.0.2.1", 4000)]


def test_implicit_tls_is_an_option_of_the_server(
    loop_name: str, certificates: Certificates
) -> None:
    files: dict[str, Any] = {"tls_cert": certificates.cert_file, "tls_key": certificates.key_file}
    server = Server(Box(), addr=(), tls_listener=True, **files)

    async def work() -> None:
        async with listening(server) as address:
            async with server:
                answers = await asyncio.to_thread(mail, address, tls=certificates.client)
                assert len(answers) == 2
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b""  # nothing in plaintext
            writer.close()

    run(loop_name, work)


def test_a_server_without_an_address_runs_until_it_is_closed(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")

    async def work() -> None:
        server = Server(Box(), addr=[])
        await server.start()
        waiting = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()
        await server.shutdown()
        await waiting

    run(loop_name, work)
    assert caplog.messages == ["started"]
