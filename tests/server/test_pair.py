"""`Server.connect_memory`: a user's own handler, rules and logins, without a socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from ehlo import Handler, Listener, Message, Peer, Reject, Server, Session
from ehlo.server.system.loops import loop_factory
from support.certificates import Certificates
from support.serving import Box, assert_loops_were_content

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Work = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Work], None]

LARGE = b"x" * 998 + b"\r\n"


@pytest.fixture
def run(loop_name: str, caplog: pytest.LogCaptureFixture) -> Iterator[Run]:
    """Run a coroutine on each event loop; nothing is left behind, and no loop complains."""
    before = set(threading.enumerate())

    def call(work: Work) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await work()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
            runner.run(bounded())

    yield call
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread
    assert_loops_were_content(caplog)


async def reply(reader: asyncio.StreamReader) -> str:
    lines = [(await reader.readline()).decode()]
    while lines[-1][3:4] == "-":
        lines.append((await reader.readline()).decode())
    return "".join(lines).rstrip("\r\n").replace("\r\n", " / ")


async def say(streams: Streams, line: str) -> str:
    reader, writer = streams
    writer.write(line.encode() + b"\r\n")
    return await reply(reader)


@contextlib.asynccontextmanager
async def connection(server: Server, **options: Any) -> AsyncIterator[Streams]:
    """Connect; read the greeting."""
    streams = await server.connect_memory(**options)
    try:
        assert (await reply(streams[0])).startswith("220 ")
        yield streams
    finally:
        streams[1].close()


async def mail(streams: Streams, recipient: str = "b@d.example") -> str:
    for line in ("EHLO c", "MAIL FROM:<a@b.example>", f"RCPT TO:<{recipient}>"):
        said = await say(streams, line)
        if not said.startswith("250"):
            return said
    await say(streams, "DATA")
    return await say(streams, "Subject: x\r\n\r\nx\r\n.")


def test_mail_reaches_the_handler_of_a_server_that_does_not_listen(run: Run) -> None:
    box = Box()
    server = Server(box)

    async def work() -> None:
        async with connection(server) as streams:
            assert await mail(streams) == "250 2.0.0 Ok: queued"
            assert (await say(streams, "QUIT")).startswith("221 ")
            assert await streams[0].read() == b""
        await server.wait_closed()
        assert server.running is None

    run(work)
    assert [sender for _, sender, _, _ in box.mails] == ["a@b.example"]
    assert box.bodies == [b"Subject: x\r\n\r\nx\r\n"]


def test_one_client_follows_another_at_once(run: Run) -> None:
    box = Box()
    server = Server(box)

    async def work() -> None:
        for _ in range(20):
            async with connection(server) as streams:
                assert await mail(streams) == "250 2.0.0 Ok: queued"
        await server.wait_closed()

    run(work)
    assert len(box.mails) == 20


def test_the_server_sees_the_addresses_that_are_given(run: Run) -> None:
    seen: list[tuple[Peer, Peer]] = []

    class Gate(Handler):
        async def on_connect(self, session: Session) -> None:
            seen.append((session.peer, session.local))
            if session.peer.host == "192.0.2.66":
                raise Reject(554, "5.7.1", "Not you")

        async def on_message(self, session: Session, message: Message) -> None: ...

    async def work() -> None:
        async with Server(Gate(), addr=()) as server:
            async with connection(server, peer="192.0.2.1:4711", local="[2001:db8::1]:587") as both:
                writer = both[1]
                assert writer.get_extra_info("peername") == ("2001:db8::1", 587, 0, 0)
                assert writer.get_extra_info("sockname") == ("192.0.2.1", 4711)
            async with connection(server, peer=Peer("unix:/run/client", 0)) as both:
                assert both[1].get_extra_info("sockname") == "/run/client"
            reader, writer = await server.connect_memory(peer="192.0.2.66:1")
            assert await reply(reader) == "554 Not you"
            writer.close()

    run(work)
    assert seen == [
        (Peer("192.0.2.1", 4711), Peer("2001:db8::1", 587)),
        (Peer("unix:/run/client", 0), Peer("127.0.0.1", 25)),
        (Peer("192.0.2.66", 1), Peer("127.0.0.1", 25)),
    ]


@pytest.mark.parametrize("wrong", ["client.example:25", "192.0.2.1", ":25", "", None, 25])
def test_an_end_that_is_no_address_is_an_error(wrong: Any) -> None:
    async def work() -> None:
        server = Server(Box())
        with pytest.raises(ValueError, match=r"^peer: .*write 192\.0\.2\.1:4711"):
            await server.connect_memory(peer=wrong)
        assert server.running is None

    asyncio.run(work())


def test_limits_of_addresses_hold_and_end_with_the_connection(run: Run) -> None:
    async def work() -> None:
        options: dict[str, Any] = {"max_connections_per_address": 1, "addr": ()}
        async with Server(Box(), **options) as server:
            async with connection(server, peer="192.0.2.1:1"):
                reader, writer = await server.connect_memory(peer="192.0.2.1:2")
                assert (await reply(reader)).startswith("421 4.7.0 ")
                assert await reader.read() == b""
                writer.close()
                async with connection(server, peer="192.0.2.2:1"):
                    pass
            async with connection(server, peer="192.0.2.1:3") as streams:
                assert await mail(streams) == "250 2.0.0 Ok: queued"

    run(work)


def test_rules_and_logins_are_those_of_a_listener(run: Run, certificates: Certificates) -> None:
    server = Server(
        Box(),
        tls_config=certificates.server(),
        auth_handler=lambda username, password: (username, password) == ("tim", "tanstaaf"),
        listeners=[Listener("127.0.0.1:0"), Listener.submission("127.0.0.1:0")],
    )
    plain = base64.b64encode(b"\0tim\0tanstaaf").decode()

    async def work() -> None:
        async with connection(server) as streams:
            assert await mail(streams) == "250 2.0.0 Ok: queued"
        async with connection(server, listener=1) as streams:
            assert (await mail(streams)).startswith("530 5.7.0 Must issue")
            assert (await say(streams, "STARTTLS")).startswith("220 ")
            await streams[1].start_tls(certificates.client, server_hostname="localhost")
            assert (await mail(streams)).startswith("530 5.7.0 Authentication required")
            assert (await say(streams, f"AUTH PLAIN {plain}")).startswith("235 ")
            assert await mail(streams) == "250 2.0.0 Ok: queued"
        with pytest.raises(IndexError):
            await server.connect_memory(listener=2)
        await server.wait_closed()

    run(work)


# -- TLS -----------------------------------------------------------------------------------------


def test_starttls_is_real(run: Run, certificates: Certificates) -> None:
    seen: list[Session] = []

    class Secured(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            seen.append(session)

    server = Server(Secured(), tls_config=certificates.server(), tls_required=True)

    async def work() -> None:
        async with connection(server) as streams:
            reader, writer = streams
            assert (await mail(streams)).startswith("530 5.7.0 ")
            assert (await say(streams, "STARTTLS")).startswith("220 ")
            await writer.start_tls(certificates.client, server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert writer.get_extra_info("sslcontext") is certificates.client
            assert await mail(streams) == "250 2.0.0 Ok: queued"
            with pytest.raises(RuntimeError, match="already"):
                await writer.start_tls(certificates.client, server_hostname="localhost")
            assert (await say(streams, "QUIT")).startswith("221 ")
            assert await reader.read() == b""
        await server.wait_closed()

    run(work)
    assert seen[0].tls is not None
    assert seen[0].tls.version == "TLSv1.3"


def test_implicit_tls_carries_large_mail_both_ways(run: Run, certificates: Certificates) -> None:
    box = Box()
    server = Server(box, tls_config=certificates.server(), tls_listener=True)

    async def work() -> None:
        reader, writer = await server.connect_memory()
        await writer.start_tls(certificates.client, server_hostname="localhost")
        assert (await reply(reader)).startswith("220 ")
        writer.write(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        for _ in range(4):
            await reply(reader)
        writer.write(LARGE * 2_000)
        await writer.drain()
        assert await say((reader, writer), ".") == "250 2.0.0 Ok: queued"
        writer.write(b"NOOP\r\n" * 80)
        assert [await reply(reader) for _ in range(80)] == ["250 2.0.0 Ok"] * 80
        writer.close()
        await writer.wait_closed()
        await server.wait_closed()

    run(work)
    assert box.bodies == [LARGE * 2_000]


def test_a_client_that_does_not_trust_the_server_is_told_so(
    run: Run, certificates: Certificates
) -> None:
    server = Server(Box(), tls_config=certificates.server())
    stranger = ssl.create_default_context()

    async def work() -> None:
        async with connection(server) as streams:
            assert (await say(streams, "STARTTLS")).startswith("220 ")
            with pytest.raises(ssl.SSLCertVerificationError):
                await streams[1].start_tls(stranger, server_hostname="localhost")
            assert streams[1].is_closing()
            with pytest.raises(ConnectionResetError):
                await streams[1].start_tls(certificates.client, server_hostname="localhost")
        await server.wait_closed()

    run(work)


def test_a_handshake_ends_with_the_server_and_with_its_own_time(
    run: Run, certificates: Certificates
) -> None:
    async def work() -> None:
        server = Server(Box())
        async with connection(server) as (_, writer):
            with pytest.raises(OSError):  # noqa: PT011  it answers a TLS hello with 421
                await writer.start_tls(certificates.client, server_hostname="localhost")
        await server.wait_closed()
        server = Server(Hanging())
        reader, writer = await server.connect_memory()
        with pytest.raises(TimeoutError):
            await writer.start_tls(
                certificates.client, server_hostname="localhost", ssl_handshake_timeout=0.001
            )
        assert await reader.read() == b""
        server.close()
        await server.wait_closed()

    run(work)


class Hanging(Handler):
    """Greets no client."""

    async def on_connect(self, session: Session) -> None:
        await asyncio.Event().wait()

    async def on_message(self, session: Session, message: Message) -> None: ...


# -- back-pressure, ends, shutdown ---------------------------------------------------------------


def test_a_client_that_sends_ahead_of_a_hook_is_paused(run: Run) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            begun.set()
            await go_on.wait()

    server = Server(Slow(), max_idle_commands=0)

    async def work() -> None:
        async with connection(server) as (reader, writer):
            writer.write(
                b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\n"
            )
            await begun.wait()
            writer.write(b"NOOP\r\n" * 50_000)
            drained = asyncio.ensure_future(writer.drain())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not drained.done()
            ahead = 50_000 * 6 - writer.transport.get_write_buffer_size()
            assert ahead <= 2 * 65_536  # what the server has taken
            go_on.set()
            replies = [await reply(reader) for _ in range(5 + 50_000)]
            assert replies[-1] == "250 2.0.0 Ok"
            await drained
        await server.wait_closed()

    run(work)


def test_a_client_that_does_not_read_stops_the_server(run: Run) -> None:
    server = Server(Box(), max_idle_commands=0)

    async def work() -> None:
        async with connection(server) as (reader, writer):
            writer.write(b"NOOP\r\n" * 100_000)
            for _ in range(200):
                await asyncio.sleep(0)
            assert server.running is not None
            (driver,) = server.running.runtime.drivers
            unsent = writer.transport.get_write_buffer_size()
            assert unsent > 300_000, "the server has read on"
            seen = driver.seen()
            assert seen is not None
            assert seen["sent"] < 1_000_000
            for _ in range(100_000):
                assert await reply(reader) == "250 2.0.0 Ok"
        await server.wait_closed()

    run(work)


def test_a_client_may_end_its_direction_and_still_be_answered(run: Run) -> None:
    server = Server(Box())

    async def work() -> None:
        async with connection(server) as (reader, writer):
            assert writer.can_write_eof()
            writer.write(b"EHLO c\r\nNOOP\r\n")
            writer.write_eof()
            assert (await reader.read()).endswith(b"250 2.0.0 Ok\r\n")
        await server.wait_closed()

    run(work)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_client_that_leaves_in_its_body_delivers_nothing(run: Run, way: str) -> None:
    box = Box()
    server = Server(box)

    async def work() -> None:
        async with connection(server) as streams:
            for line in ("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                await say(streams, line)
            streams[1].write(b"half of it\r\n")
            getattr(streams[1] if way == "close" else streams[1].transport, way)()
            with contextlib.suppress(ConnectionError):
                await streams[1].wait_closed()
        await server.wait_closed()

    run(work)
    assert box.mails == []


def test_a_client_that_leaves_at_its_final_dot_has_delivered(run: Run) -> None:
    left, messages = asyncio.Event(), []

    class Slow(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            await left.wait()
            messages.append(message)

    server = Server(Slow())

    async def work() -> None:
        async with connection(server) as streams:
            for line in ("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                await say(streams, line)
            streams[1].write(b"x\r\n.\r\n")
        with contextlib.suppress(ConnectionError):
            await streams[1].wait_closed()
        left.set()
        await server.wait_closed()

    run(work)
    assert len(messages) == 1


def test_a_task_that_is_cancelled_in_a_read_leaves_nothing(run: Run) -> None:
    server = Server(Box())

    async def work() -> None:
        greeted = asyncio.Event()

        async def client() -> None:
            async with connection(server) as (reader, _):
                greeted.set()
                await reader.read()

        task = asyncio.ensure_future(client())
        await greeted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_closed()

    run(work)


def test_a_shutdown_says_goodbye_to_clients_in_memory(run: Run) -> None:
    async def work() -> None:
        async with Server(Box(), addr=()) as server:
            reader, writer = await server.connect_memory()
            assert (await reply(reader)).startswith("220 ")
            await server.shutdown()
            assert await reply(reader) == "421 4.3.2 Service shutting down"
            assert await reader.read() == b""
            writer.write(b"NOOP\r\n")
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(work)


def test_a_server_that_closes_ends_the_streams_of_its_clients(run: Run) -> None:
    async def work() -> None:
        server = Server(Box())
        reader, writer = await server.connect_memory()
        assert (await reply(reader)).startswith("220 ")
        server.close()
        await server.wait_closed()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        writer.close()

    run(work)


@pytest.mark.parametrize("leaves", ["closes", "closes and waits for a turn", "stays", "fails"])
def test_a_loop_that_ends_with_its_clients_destroys_no_task(
    loop_name: str, leaves: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    class Noting(Handler):
        async def on_message(self, session: Session, message: Message) -> None: ...
        async def on_disconnect(self, session: Session) -> None:
            await asyncio.sleep(0)

        async def on_shutdown(self, server: Server) -> None:
            await asyncio.sleep(0)

    async def work() -> None:
        reader, writer = await Server(Noting()).connect_memory()
        assert (await reply(reader)).startswith("220 ")
        writer.write(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n")
        if leaves.startswith("closes"):
            writer.close()
        if leaves == "closes and waits for a turn":
            await asyncio.sleep(0)
        if leaves == "fails":
            raise LookupError

    loops = asyncio.Runner(loop_factory=loop_factory(loop_name))
    with contextlib.suppress(LookupError), loops as runner:
        runner.run(work())
    for _ in range(3):
        gc.collect()
    assert [str(each.message) for each in recwarn if "await" in str(each.message)] == []
    assert_loops_were_content(caplog)


def test_a_client_during_a_shutdown_is_rejected(run: Run) -> None:
    async def work() -> None:
        async with Server(Box(), addr="127.0.0.1:0") as server:
            assert server.running is not None
            async with connection(server) as streams:
                for line in ("EHLO c", "MAIL FROM:<a@b.example>"):
                    await say(streams, line)
                ending = server.running.begin_shutdown()
                await asyncio.sleep(0)
                reader, writer = await server.connect_memory()
                assert await reply(reader) == "421 4.3.2 Service shutting down"
                writer.close()
                assert (await say(streams, "QUIT")).startswith("221 ")
            await ending

    run(work)


def test_what_on_startup_raises_is_raised_and_the_run_ends(run: Run) -> None:
    class Broken(Handler):
        async def on_startup(self, server: Server) -> None:
            raise LookupError("no database")

        async def on_message(self, session: Session, message: Message) -> None: ...

    async def work() -> None:
        server = Server(Broken())
        with pytest.raises(LookupError, match="no database"):
            await server.connect_memory()
        await server.wait_closed()

    run(work)


def test_only_the_loop_of_the_server_may_connect() -> None:
    with Server(Box(), addr="127.0.0.1:0").in_thread() as server:

        async def work() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await server.connect_memory()

        asyncio.run(work())
