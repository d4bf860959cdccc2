"""One run of a server: where it listens, how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Peer, Server, Session
from ehlo.server.doors import Doors
from ehlo.server.driver import Driver
from ehlo.server.system.loops import loop_factory
from ehlo.server.tls.certificates import FileContext
from support.certificates import Certificates
from support.client import Client
from support.hooks import KINDS, Noted, handler_of
from support.ports import reserved_port
from support.serving import DEADLINE, Box, Serve

DRAINING = b"421 4.3.2 Service shutting down\r\n"


class Gate(Handler):
    """A message is handled when the gate is opened."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.done: list[str] = []

    async def on_message(self, session: Session, message: Message) -> None:
        self.inside.release()
        await asyncio.to_thread(self.go_on.wait, DEADLINE)
        self.done.append(message.id)

    def wait(self) -> None:
        """Until a message is being handled."""
        assert self.inside.acquire(timeout=DEADLINE)


def run(loop_name: str, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and see that it leaves no task and no thread."""
    threads = set(threading.enumerate())

    async def checked() -> None:
        await asyncio.wait_for(work, DEADLINE)
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set()

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(checked())
    for thread in set(threading.enumerate()) - threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), thread


async def dialogue(address: Peer, *lines: str) -> list[str]:
    """The first three characters of each reply line, until the server closes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode())
    heard = (await reader.read()).decode().splitlines()
    writer.close()
    await writer.wait_closed()
    return [line[:3] for line in heard]


# -- in a loop -----------------------------------------------------------------------------------


def test_async_with_serves_while_the_block_runs(loop_name: str) -> None:
    async def work() -> None:
        server = Server(Box(), addr=f"127.0.0.1:{reserved_port()}", hostname="mx.example")
        assert server.addresses == []
        async with server as same:
            assert same is server
            (address,) = server.addresses
            assert address.host == "127.0.0.1"
            assert address.port > 0
            assert await dialogue(address, "HELO c", "QUIT") == ["220", "250", "221"]
        assert server.addresses == []
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection(address.host, address.port)

    run(loop_name, work())


def test_an_ended_session_is_freed_without_the_garbage_collector(loop_name: str) -> None:
    def drivers() -> int:
        return sum(type(each) is Driver for each in gc.get_objects())

    async def work() -> None:
        gc.collect()
        before = drivers()
        gc.disable()
        try:
            async with Server(Box(), addr="127.0.0.1:0", hostname="mx.example") as server:
                (address,) = server.addresses
                lines = ("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", ".")
                assert (await dialogue(address, *lines, "QUIT"))[-1] == "221"
                assert (await dialogue(address, "QUIT"))[-1] == "221"
            for _ in range(3):
                await asyncio.sleep(0)
            assert drivers() == before
        finally:
            gc.enable()

    run(loop_name, work())


def test_a_server_can_be_started_again(loop_name: str) -> None:
    async def work() -> None:
        server = Server(Box(), addr="127.0.0.1:0")
        for _ in range(3):
            async with server:
                assert await dialogue(server.addresses[0], "QUIT") == ["220", "221"]
        await server.start()
        server.close()
        await server.wait_closed()
        async with server:
            assert await dialogue(server.addresses[0], "QUIT") == ["220", "221"]

    run(loop_name, work())


def test_a_server_runs_once_at_a_time(loop_name: str) -> None:
    async def work() -> None:
        async with Server(Box(), addr="127.0.0.1:0") as server:
            with pytest.raises(RuntimeError, match="already running"):
                await server.start()
            assert await dialogue(server.addresses[0], "QUIT") == ["220", "221"]

    run(loop_name, work())


def test_two_servers_in_one_loop_share_nothing(loop_name: str) -> None:
    async def work() -> None:
        one, two = Box(), Box()
        async with (
            Server(one, addr="127.0.0.1:0", hostname="one.example") as first,
            Server(two, addr="127.0.0.1:0", hostname="two.example", max_size=10) as second,
        ):
            lines = ["EHLO c", "MAIL FROM:<a@x.org>", "RCPT TO:<b@x.org>", "DATA", "x" * 50, "."]
            heard = await dialogue(first.addresses[0], *lines, "QUIT")
            assert heard[-2:] == ["250", "221"]
            heard = await dialogue(second.addresses[0], *lines, "QUIT")
            assert heard[-2:] == ["552", "221"]
            await first.shutdown()
            assert await dialogue(second.addresses[0], "QUIT") == ["220", "221"]
        assert len(one.mails) == 1
        assert two.mails == []
        assert b"one.example" in one.mails[0][3]

    run(loop_name, work())


def test_wait_closed_returns_when_the_server_is_closed(loop_name: str) -> None:
    async def work() -> None:
        async with Server(Box(), addr="127.0.0.1:0") as server:
            waiting = asyncio.create_task(server.wait_closed())
            await asyncio.sleep(0)
            assert not waiting.done()
            server.close()
            await waiting
        await server.wait_closed()  # it is closed

    run(loop_name, work())


def test_close_may_be_called_from_another_thread(loop_name: str) -> None:
    async def work() -> None:
        async with Server(Box(), addr="127.0.0.1:0") as server:
            thread = threading.Thread(target=server.close)
            thread.start()
            await server.wait_closed()
            thread.join()
            assert server.addresses == []

    run(loop_name, work())


def test_closing_a_server_that_does_not_run_does_nothing(loop_name: str) -> None:
    async def work() -> None:
        server = Server(Box(), addr="127.0.0.1:0")
        server.close()
        await server.shutdown()
        await server.wait_closed()
        async with server:
            server.close()
            server.close()
            await server.shutdown()
        server.close()

    run(loop_name, work())


@pytest.mark.parametrize("kind", KINDS)
def test_two_shutdowns_at_once_are_one(loop_name: str, kind: str) -> None:
    noted = Noted()

    async def work() -> None:
        server = Server(handler_of(kind, noted, on_shutdown=None), addr="127.0.0.1:0")
        async with server:
            await asyncio.gather(server.shutdown(), server.shutdown(), server.shutdown(0))
        assert noted.names == ["on_shutdown"]

    run(loop_name, work())


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_of_on_shutdown_does_not_prevent_the_end(
    loop_name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        server = Server(handler_of(kind, on_shutdown=OSError("no disk")), addr="127.0.0.1:0")
        async with server:
            pass
        await server.wait_closed()
        assert server.addresses == []

    run(loop_name, work())
    assert "on_shutdown failed" in caplog.text
    assert "no disk" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_an_on_shutdown_that_hangs_does_not_prevent_the_end(
    loop_name: str, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.server.run._LEAST_FOR_SHUTDOWN", 0.1)
    hang = threading.Event()

    class Hangs(Handler):
        def on_message(self, session: Session, message: Message) -> None: ...

        def on_shutdown(self, server: Server) -> None:
            hang.wait(DEADLINE)

    class HangsAsync(Handler):
        def on_message(self, session: Session, message: Message) -> None: ...

        async def on_shutdown(self, server: Server) -> None:
            await asyncio.Event().wait()

    async def work() -> None:
        handler = Hangs() if kind == "def" else HangsAsync()
        async with asyncio.timeout(DEADLINE / 2), Server(handler, addr="127.0.0.1:0", grace=0):
            pass
        hang.set()

    run(loop_name, work())
    assert "on_shutdown exceeded its deadline" in caplog.text


def test_on_shutdown_has_the_rest_of_the_grace_period(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.server.run._LEAST_FOR_SHUTDOWN", 0.01)
    noted = Noted()

    class Waits(Handler):
        def on_message(self, session: Session, message: Message) -> None: ...

        async def on_shutdown(self, server: Server) -> None:
            await asyncio.sleep(0.1)
            noted.note("on_shutdown", ())

    async def work() -> None:
        async with Server(Waits(), addr="127.0.0.1:0", grace=DEADLINE):
            pass
        assert noted.names == ["on_shutdown"]

    run("asyncio", work())
    assert "deadline" not in caplog.text


def test_a_def_on_shutdown_does_not_wait_for_hooks_that_hang(serve: Serve) -> None:
    gate, told = Gate(), threading.Event()

    class Hangs(Handler):
        def on_message(self, session: Session, message: Message) -> None:
            gate.inside.release()
            gate.go_on.wait(DEADLINE)

        def on_shutdown(self, server: Server) -> None:
            told.set()

    running = serve(Hangs(), threads=1, grace=0)
    with running.ready() as client:
        client.begin_message()
        client.replies(3)
        gate.wait()
        running.run(running.server.shutdown)
        assert told.is_set()
        gate.go_on.set()


def test_a_hook_that_ends_after_the_run_is_logged_even_if_its_loop_goes_on(
    loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    async def work() -> None:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()
        workers: list[threading.Thread] = []

        def hangs(*_: object) -> None:
            workers.append(threading.current_thread())
            loop.call_soon_threadsafe(entered.set)
            gate.wait(DEADLINE)

        async with Server(hangs, addr="127.0.0.1:0") as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            assert server.running is not None
            runtime = server.running.runtime
            writer.write(
                b"HELO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
            )
            await reader.readuntil(b"354 ")
            writer.write(b"Hello\r\n.\r\n")
            await entered.wait()
            await server.shutdown(0)
        assert runtime.memory.held > 0  # the hook has the message still
        gate.set()
        workers[0].join(DEADLINE)
        assert ") ended after the server" in caplog.text
        assert runtime.memory.held == 0
        await reader.read()
        writer.close()
        await writer.wait_closed()

    run(loop_name, work())


def test_an_exception_in_the_block_does_not_wait_for_clients(loop_name: str) -> None:
    async def work() -> None:
        streams: list[Any] = []

        async def fail() -> None:
            async with Server(Box(), addr="127.0.0.1:0", grace=1000) as server:
                streams.extend(await asyncio.open_connection(*server.addresses[0]))
                streams[1].write(b"EHLO c\r\nMAIL FROM:<a@example.com>\r\n")
                await streams[0].readuntil(b"2.1.0 Ok\r\n")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        reader, writer = streams
        assert await reader.read() == DRAINING
        writer.close()
        await writer.wait_closed()

    run(loop_name, work())


# -- close ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_close_cuts_sessions_and_acknowledges_nothing(
    serve: Serve, kind: str, loop_name: str
) -> None:
    noted = Noted()
    go_on, inside = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)

    handler = handler_of("def", noted, on_message=wait)
    other = handler_of(kind, noted, on_disconnect=None, on_shutdown=None)
    handler.on_disconnect = other.on_disconnect  # type: ignore[method-assign]
    handler.on_shutdown = other.on_shutdown  # type: ignore[method-assign]
    running = serve(handler, loop=loop_name)
    with running.ready() as busy, running.ready() as idle:
        busy.begin_message()
        assert inside.wait(DEADLINE)
        busy.replies(3)
        running.server.close()  # from this thread
        assert idle.rest() == b""
        assert busy.rest() == b""
        running.wait_until_no_sessions()
        go_on.set()
    running.run(running.server.wait_closed)
    assert noted.names == ["on_message", "on_disconnect", "on_disconnect", "on_shutdown"]


# -- shutdown ------------------------------------------------------------------------------------


def test_shutdown_ends_idle_sessions_at_once_and_lets_transactions_end(
    serve: Serve, loop_name: str
) -> None:
    gate = Gate()
    running = serve(gate, addr=f"127.0.0.1:{reserved_port()}", grace=DEADLINE, loop=loop_name)
    with (
        running.client() as fresh,
        running.ready() as idle,
        running.ready() as in_mail,
        running.ready() as in_data,
        running.ready() as handled,
        running.client() as silent,
    ):
        fresh.reply()
        in_mail.say("MAIL FROM:<a@example.com>")
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
            in_data.say(command)
        in_data.send(b"half")
        handled.begin_message(b"x\r\n", b".\r\nNOOP\r\n")
        handled.replies(3)
        gate.wait()
        silent.reply()
        running.run(begin(running.server.shutdown))

        assert fresh.rest() == DRAINING
        assert idle.rest() == DRAINING
        assert silent.rest() == DRAINING
        assert running.server.addresses == []
        with pytest.raises(ConnectionError):
            running.client()

        assert in_mail.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"
        assert in_mail.say("RSET") == "250 2.0.0 Ok"
        assert in_mail.rest() == DRAINING

        gate.go_on.set()
        assert handled.rest() == b"250 2.0.0 Ok: queued\r\n" + DRAINING
        in_data.send(b" a message\r\n.\r\nMAIL FROM:<c@example.com>\r\n")
        assert in_data.rest() == b"250 2.0.0 Ok: queued\r\n" + DRAINING
    running.run(running.server.wait_closed)
    assert len(gate.done) == 2


def begin(work: Any) -> Any:
    """Start a coroutine function in the loop, and do not wait for it."""
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.ensure_future(work()))
        await asyncio.sleep(0)

    return start


def test_on_replied_is_called_before_a_session_is_drained(serve: Serve, loop_name: str) -> None:
    noted = Noted()
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        noted.note("end of on_replied", ())

    running = serve(handler_of("def", noted, on_replied=wait), grace=DEADLINE, loop=loop_name)
    with running.ready() as client:
        client.mail()
        assert inside.wait(DEADLINE)
        running.run(begin(running.server.shutdown))
        go_on.set()
        assert client.rest() == DRAINING
    assert noted.names == ["on_message", "on_replied", "end of on_replied"]


@pytest.mark.parametrize("stage", ["on_message", "body", "rcpt"])
def test_after_the_grace_period_sessions_are_cut_off(
    serve: Serve, stage: str, loop_name: str
) -> None:
    noted = Noted()
    inside = threading.Event()

    class Stuck(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            inside.set()
            await asyncio.Event().wait()

        async def on_disconnect(self, session: Session) -> None:
            noted.note("on_disconnect", ())

    running = serve(Stuck(), loop=loop_name)
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<b@example.com>")
        if stage != "rcpt":
            client.say("DATA")
            client.send(b"half")
        if stage == "on_message":
            client.send(b"\r\n.\r\n")
            assert inside.wait(DEADLINE)
        running.run(lambda: running.server.shutdown(0.1))
        assert client.rest() == DRAINING
    assert noted.names == ["on_disconnect"]


def test_without_a_grace_period_no_session_is_cut_off_that_has_ended(
    serve: Serve, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(Box(), loop=loop_name)
    with running.ready() as client:
        running.run(lambda: running.server.shutdown(0.0))
        assert client.rest() == DRAINING
    assert "0 sessions were cut off" not in caplog.text


def test_a_thread_that_is_stuck_does_not_prevent_the_end(serve: Serve, loop_name: str) -> None:
    inside, go_on = threading.Event(), threading.Event()
    noted = Noted()

    def wait(*_: object) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)

    running = serve(handler_of("def", noted, on_message=wait, on_disconnect=None), loop=loop_name)
    with running.ready() as client:
        client.begin_message()
        assert inside.wait(DEADLINE)
        client.replies(3)
        running.run(lambda: running.server.shutdown(0.1))
        assert client.rest() == DRAINING
    assert noted.names == ["on_message", "on_disconnect"]
    go_on.set()


def test_a_message_of_a_client_that_left_after_its_final_dot_is_awaited(serve: Serve) -> None:
    gate = Gate()
    running = serve(gate, grace=DEADLINE)
    client = running.ready()
    client.begin_message()
    gate.wait()
    client.reset()
    running.wait_until_lost()
    running.run(begin(running.server.shutdown))
    gate.go_on.set()
    running.run(running.server.wait_closed)
    assert len(gate.done) == 1


def test_a_client_that_connects_during_a_shutdown_gets_421(serve: Serve) -> None:
    """A connection that the kernel had accepted already."""
    gate = Gate()
    running = serve(gate, grace=DEADLINE)
    with running.ready() as client:
        client.begin_message()
        gate.wait()
        running.runtime.draining = True
        with running.client() as late:
            assert late.rest() == DRAINING
        running.runtime.draining = False
        gate.go_on.set()


# -- in a thread ---------------------------------------------------------------------------------


def test_in_thread_serves_next_to_synchronous_code(loop_name: str) -> None:
    threads = set(threading.enumerate())
    box = Box()
    server = Server(box, addr="127.0.0.1:0", loop=loop_name)  # type: ignore[arg-type]
    with server.in_thread() as same, Client(server.addresses[0]) as client:
        assert same is server
        client.hello()
        client.mail()
        client.say("QUIT")
    assert server.addresses == []
    assert len(box.mails) == 1
    assert set(threading.enumerate()) <= threads


def test_in_thread_may_be_closed_within_its_block() -> None:
    threads = set(threading.enumerate())
    server = Server(Box(), addr="127.0.0.1:0")
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.hello()
        server.close()
        assert client.rest() == b""
    assert set(threading.enumerate()) <= threads


def test_in_thread_raises_what_start_raises() -> None:
    threads = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as in_use:
        server = Server(Box(), addr=f"127.0.0.1:{in_use.getsockname()[1]}")
        with pytest.raises(OSError, match="Address already in use"), server.in_thread():
            pytest.fail("it has started")
    assert set(threading.enumerate()) <= threads


# -- where ---------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_the_reason(loop_name: str) -> None:
    async def work() -> None:
        port = reserved_port()
        with socket.create_server(("127.0.0.1", port)):
            server = Server(Box(), addr=["127.0.0.1:0", f"127.0.0.1:{port}"])
            message = f"cannot listen on 127.0.0.1:{port}: Address already in use"
            with pytest.raises(OSError, match=re.escape(message)):
                await server.start()
            assert server.addresses == []
        await server.start()
        await server.shutdown()

    run(loop_name, work())


@pytest.mark.parametrize(
    ("addr", "message"),
    [
        ("192.0.2.77:0", "cannot listen on 192.0.2.77:0: "),
        ("no-such-host.invalid:0", "cannot listen on no-such-host.invalid:0: "),
        ("unix:/no/such/directory/socket", "cannot listen on unix:/no/such/directory/socket: "),
    ],
)
def test_an_address_that_cannot_be_bound_is_named(addr: str, message: str) -> None:
    with pytest.raises(OSError, match=re.escape(message)), Server(Box(), addr=addr).in_thread():
        pytest.fail("it has started")


def test_a_list_of_addresses_is_one_server(serve: Serve, tmp_path: Path) -> None:
    box = Box()
    running = serve(box, addr=["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path / 'smtp'}"])
    assert len(running.server.addresses) == 3
    for address in running.server.addresses:
        with Client(address) as client:
            client.hello()
            assert client.mail() == "250 2.0.0 Ok: queued"
    assert [str(mail[0]).split(":")[0] for mail in box.mails] == ["127.0.0.1", "[", "unix"]


def test_many_connections_may_wait_to_be_accepted(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), loop=loop_name)
    go_on = threading.Event()
    running.runtime.loop.call_soon_threadsafe(go_on.wait, DEADLINE)
    with contextlib.ExitStack() as stack:
        try:
            clients = [stack.enter_context(running.client()) for _ in range(500)]
        finally:
            go_on.set()
        assert {client.hello()[:4] for client in clients} == {"250-"}


def test_an_empty_host_means_all_addresses_of_both_families_on_one_port(serve: Serve) -> None:
    running = serve(Box(), addr=":0")
    addresses = running.server.addresses
    assert {address.host for address in addresses} == {"0.0.0.0", "::"}  # noqa: S104
    assert len({address.port for address in addresses}) == 1
    for host in ("127.0.0.1", "::1"):
        with Client(Peer(host, addresses[0].port)) as client:
            assert client.reply().startswith("220 ")


# -- Unix sockets --------------------------------------------------------------------------------


def test_a_unix_socket_exists_while_the_server_runs(
    serve: Serve, tmp_path: Path, loop_name: str
) -> None:
    path = tmp_path / "smtp"
    box = Box()
    running = serve(box, addr=f"unix:{path}", loop=loop_name)
    assert str(running.address) == f"unix:{path}"
    assert stat.S_ISSOCK(path.stat().st_mode)
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    running.run(running.server.shutdown)
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.exists()
    with serve(Box(), addr=f"unix:{path}").client() as client:
        assert client.reply().startswith("220 ")


def test_a_unix_socket_with_a_listener_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    first = Server(Box(), addr=f"unix:{path}")
    second = Server(Box(), addr=f"unix:{path}")
    with first.in_thread():
        with pytest.raises(OSError, match="Address already in use"), second.in_thread():
            pytest.fail("it has started")
        with Client(first.addresses[0]) as client:
            assert client.reply().startswith("220 ")


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with (
        pytest.raises(OSError, match="Address already in use"),
        Server(Box(), addr=f"unix:{path}").in_thread(),
    ):
        pytest.fail("it has started")
    assert path.read_text() == "data"


def test_a_full_or_forbidden_unix_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with socket.socket(socket.AF_UNIX) as full, contextlib.ExitStack() as stack:
        full.bind(str(path))
        full.listen(0)
        for _ in range(2):  # they are not accepted
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        with (
            pytest.raises(OSError, match="Address already in use"),
            Server(Box(), addr=f"unix:{path}").in_thread(),
        ):
            pytest.fail("it has started")
    assert path.exists()


@pytest.mark.parametrize("what", ["addr", "control"])
def test_a_directory_instead_of_a_unix_socket_does_not_prevent_the_end(
    tmp_path: Path, loop_name: str, what: str
) -> None:
    path = tmp_path / "socket"
    addr = f"unix:{path}" if what == "addr" else "127.0.0.1:0"

    async def work() -> None:
        server = Server(Box(), addr=addr, control=str(path) if what == "control" else "")
        await server.start()
        path.unlink()
        path.mkdir()
        await server.shutdown()
        await server.wait_closed()

    run(loop_name, work())
    assert path.is_dir()


def test_a_unix_socket_of_a_failed_start_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with socket.create_server(("127.0.0.1", 0)) as in_use:
        addr = [f"unix:{path}", f"127.0.0.1:{in_use.getsockname()[1]}"]
        with pytest.raises(OSError, match="in use"), Server(Box(), addr=addr).in_thread():
            pytest.fail("it has started")
    assert not path.exists()
    failing = handler_of("async def", on_startup=OSError("no"))
    with pytest.raises(OSError, match="no"), Server(failing, addr=f"unix:{path}").in_thread():
        pytest.fail("it has started")
    assert not path.exists()


# -- sockets and streams of your own ------------------------------------------------------------


def test_serve_accepts_a_listening_socket(loop_name: str) -> None:
    box = Box()
    server = Server(box, addr="unused:1", loop=loop_name)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = Peer(*sock.getsockname())
        thread = threading.Thread(target=server.serve, args=(sock,))
        thread.start()
        with Client(address) as client:
            client.hello()
            assert client.mail() == "250 2.0.0 Ok: queued"
            assert server.addresses == [address]
            client.say("QUIT")
        server.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert len(box.mails) == 1


async def stream_pair() -> tuple[
    tuple[asyncio.StreamReader, asyncio.StreamWriter],
    tuple[asyncio.StreamReader, asyncio.StreamWriter],
]:
    """Streams over both ends of a connected pair of sockets."""
    ours, theirs = socket.socketpair()
    return await asyncio.open_connection(sock=ours), await asyncio.open_connection(sock=theirs)


def test_serve_streams_serves_one_connected_pair(loop_name: str) -> None:
    noted = Noted()
    handler = handler_of(
        "async def",
        noted,
        **dict.fromkeys(("on_startup", "on_shutdown", "on_replied", "on_disconnect")),
    )

    async def work() -> None:
        server = Server(handler, hostname="mx.example")
        ours, (reader, writer) = await stream_pair()
        serving = asyncio.create_task(server.serve_streams(*ours))
        body = b"x" * 98 + b"\r\n"
        writer.write(b"EHLO c\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\n")
        writer.write(body * 5000 + b".\r\nQUIT\r\n")
        heard = await reader.read()
        assert heard.startswith(b"220 mx.example smtpd ESMTP Service ready\r\n250-")
        assert b"\r\n250 2.0.0 Ok: queued\r\n221 2.0.0 " in heard
        writer.close()
        await writer.wait_closed()
        await serving
        ((_, message),) = noted.of("on_message")
        assert message.body == body * 5000

    run(loop_name, work())
    assert noted.names == [
        *("on_startup", "on_message", "on_replied", "on_disconnect", "on_shutdown")
    ]


def test_serve_streams_works_while_the_server_listens(loop_name: str) -> None:
    async def work() -> None:
        async with Server(Box(), addr="127.0.0.1:0") as server:
            ours, (reader, writer) = await stream_pair()
            serving = asyncio.create_task(server.serve_streams(*ours))
            writer.write(b"QUIT\r\n")
            assert (await reader.read()).startswith(b"220 ")
            writer.close()
            await writer.wait_closed()
            await serving
            assert await dialogue(server.addresses[0], "QUIT") == ["220", "221"]

    run(loop_name, work())


def test_serve_streams_that_is_cancelled_ends_the_session(loop_name: str) -> None:
    noted = Noted()

    async def work() -> None:
        server = Server(handler_of("async def", noted, on_disconnect=None))
        ours, (reader, writer) = await stream_pair()
        serving = asyncio.create_task(server.serve_streams(*ours))
        await reader.readline()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(loop_name, work())
    assert noted.names == ["on_disconnect"]


def test_serve_streams_waits_for_a_client_that_reads_late(loop_name: str) -> None:
    noted = Noted()
    commands = 80_000

    async def work() -> None:
        server = Server(handler_of("async def", noted, on_replied=None), max_idle_commands=0)
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(
            server.serve_streams(*await asyncio.open_connection(sock=ours))
        )
        message = b"MAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\nx\r\n.\r\n"
        said = b"EHLO c\r\n" + b"NOOP\r\n" * commands + message + b"QUIT\r\n"
        sending = asyncio.create_task(loop.sock_sendall(theirs, said))
        done, _ = await asyncio.wait([sending], timeout=0.2)
        assert not done  # the server's buffers are full, and it does not read any more
        heard = b""
        while data := await loop.sock_recv(theirs, 65_536):
            heard += data
        await sending
        theirs.close()
        await serving
        assert heard.count(b"250 2.0.0 Ok\r\n") == commands
        assert heard.endswith(b"closing transmission channel\r\n")

    run(loop_name, work())
    assert [sent for _, _, sent in noted.of("on_replied")] == [True]


@pytest.mark.parametrize("way", ["end", "abort"])
def test_serve_streams_ends_when_the_client_leaves(loop_name: str, way: str) -> None:
    noted = Noted()

    async def work() -> None:
        server = Server(handler_of("def", noted, on_disconnect=None))
        ours, (reader, writer) = await stream_pair()
        serving = asyncio.create_task(server.serve_streams(*ours))
        writer.write(b"EHLO c\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\nhalf")
        await reader.readuntil(b"354 ")
        if way == "abort":
            writer.transport.abort()
        else:
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        await serving

    run(loop_name, work())
    assert noted.names == ["on_disconnect"]


def test_serve_streams_does_not_hang_on_input_after_quit(loop_name: str) -> None:
    class Slow(Handler):
        async def on_mail(self, *_: Any) -> None:
            await asyncio.sleep(0.05)

        async def on_message(self, *_: Any) -> None: ...

    async def work() -> None:
        ours, (reader, writer) = await stream_pair()
        serving = asyncio.create_task(Server(Slow()).serve_streams(*ours))
        writer.write(b"EHLO c\r\nMAIL FROM:<a@x.org>\r\nQUIT\r\n" + b"NOOP\r\n" * 50_000)
        with contextlib.suppress(ConnectionError):  # the server closes with much of it unread
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await serving

    run(loop_name, work())


def test_a_message_over_streams_is_handled_although_the_client_left(loop_name: str) -> None:
    gate = Gate()

    async def work() -> None:
        ours, (_, writer) = await stream_pair()
        serving = asyncio.create_task(Server(gate, grace=DEADLINE).serve_streams(*ours))
        writer.write(b"EHLO c\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\nx\r\n.\r\n")
        await asyncio.to_thread(gate.wait)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        gate.go_on.set()
        await serving

    run(loop_name, work())
    assert len(gate.done) == 1


# -- signals -------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading, time
import ehlo

log = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
kind, loop, hold = sys.argv[2:5]

def deliver(remote_addr, mail_from, rcpt_tos, data):
    time.sleep(float(hold))
    os.write(log, mail_from.encode() + b"\\n")
    os.fsync(log)

async def deliver_async(remote_addr, mail_from, rcpt_tos, data):
    import asyncio
    await asyncio.sleep(float(hold))
    os.write(log, mail_from.encode() + b"\\n")
    os.fsync(log)

class Server(ehlo.Server):
    async def start(self, sock=None):
        await super().start(sock)
        print(self.addresses[0].port, flush=True)

handler = deliver if kind == "def" else deliver_async
Server(handler, addr="127.0.0.1:0", loop=loop, grace=20).listen_and_serve()
print("the end", flush=True)
"""


@contextlib.contextmanager
def program(log: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Peer]]:
    """A server in a process of its own, and where it listens."""
    command = [sys.executable, "-c", PROGRAM, str(log), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Peer("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", KINDS)
def test_every_message_with_a_250_is_stored_after_a_signal(
    tmp_path: Path, number: signal.Signals, kind: str, loop_name: str
) -> None:
    log = tmp_path / "log"
    acknowledged: list[str] = []
    sending = threading.Barrier(9, timeout=DEADLINE)

    def send(address: Peer, name: int) -> None:
        client = Client(address)
        with client, contextlib.suppress(EOFError, ConnectionError):
            client.hello()
            for count in range(10_000):
                sender = f"{name}-{count}@example.com"
                if count == 3:
                    sending.wait()
                client.begin_message_from(sender)
                answers = client.replies(4)
                if answers[3].startswith("250"):
                    acknowledged.append(sender)

    with program(log, kind, loop_name, "0.002") as (process, address):
        threads = [threading.Thread(target=send, args=(address, name)) for name in range(8)]
        for thread in threads:
            thread.start()
        sending.wait()
        process.send_signal(number)
        for thread in threads:
            thread.join(DEADLINE)
        out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert out == "the end\n"
    assert errors == f"ehlo listens on {address}; press Ctrl+C to stop\n"
    delivered = log.read_text().split()
    assert len(acknowledged) >= 24
    assert set(acknowledged) <= set(delivered)
    assert len(set(delivered)) == len(delivered)


@pytest.mark.parametrize(
    "kind",
    [
        "def",
        "async def",
    ],
)
def test_a_second_signal_ends_at_once(tmp_path: Path, kind: str, loop_name: str) -> None:
    log = tmp_path / "log"
    with program(log, kind, loop_name, "3600") as (process, address), Client(address) as client:
        client.hello()
        with Client(address) as other:
            other.hello()
            client.begin_message()
            client.replies(3)
            process.send_signal(signal.SIGTERM)
            assert other.rest() == DRAINING  # so the first signal has been seen
            process.send_signal(signal.SIGTERM)
            assert client.rest() == b""
        process.communicate(timeout=DEADLINE)
    assert log.read_text() == ""


def test_signal_handlers_are_restored_when_the_server_has_ended() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signalled = handler_of("def", on_startup=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    server = Server(signalled, addr="127.0.0.1:0")
    server.listen_and_serve()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_listen_and_serve_blocks_until_closed(loop_name: str) -> None:
    noted = Noted()
    started = threading.Event()
    handler = handler_of("def", noted, on_startup=lambda _: started.set(), on_shutdown=None)
    server = Server(handler, addr="127.0.0.1:0", loop=loop_name)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.listen_and_serve)
    thread.start()
    assert started.wait(DEADLINE)
    server.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert noted.names == ["on_startup", "on_shutdown"]


class Starting(Handler):
    """Never done with its start; `async def`, or in a thread."""

    def __init__(self, kind: str) -> None:
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.told: list[str] = []
        if kind == "async def":
            self.on_startup = self.begin  # type: ignore[assignment,method-assign]  # of either kind

    def on_startup(self, server: Server) -> None:
        self.inside.set()
        self.go_on.wait(DEADLINE)

    async def begin(self, server: Server) -> None:
        self.inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.told.append("cancelled")

    def on_shutdown(self, server: Server) -> None:
        self.told.append("on_shutdown")

    def on_message(self, session: Session, message: Message) -> None: ...


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["shutdown", "close", "both"])
def test_a_server_that_is_ended_during_its_start_ends(loop_name: str, kind: str, way: str) -> None:
    async def work() -> None:
        handler = Starting(kind)
        addr = f"127.0.0.1:{reserved_port()}"
        server = Server(handler, addr=addr, metrics="127.0.0.1:0")
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(handler.inside.wait, DEADLINE)
        address = server.addresses[0]
        if way != "close":
            ending = asyncio.create_task(server.shutdown())
            await asyncio.sleep(0)
        if way != "shutdown":
            server.close()
        await starting
        await server.wait_closed()
        if way != "close":
            await ending
        assert server.addresses == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        handler.go_on.set()
        assert handler.told == (["cancelled"] if kind == "async def" else [])

    run(loop_name, work())


def test_a_start_that_is_cancelled_ends_on_startup(loop_name: str) -> None:
    async def work() -> None:
        handler = Starting("async def")
        server = Server(handler, addr="127.0.0.1:0")
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(handler.inside.wait, DEADLINE)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.sleep(0)
        assert handler.told == ["cancelled"]

    run(loop_name, work())


def test_a_signal_ends_a_server_that_starts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ehlo.server")
    handler = Starting("async def")
    server = Server(handler, addr="127.0.0.1:0")
    thread = threading.Thread(target=_signal_once, args=(handler.inside,))
    thread.start()
    server.listen_and_serve()
    thread.join()
    assert handler.told == ["cancelled"]
    assert "listening on" not in caplog.text


def _signal_once(moment: threading.Event) -> None:
    moment.wait(DEADLINE)
    os.kill(os.getpid(), signal.SIGTERM)


def test_no_hook_is_called_when_the_metrics_address_cannot_be_bound() -> None:
    noted = Noted()
    with socket.create_server(("127.0.0.1", 0)) as in_use:
        where = f"127.0.0.1:{in_use.getsockname()[1]}"
        handler = handler_of("async def", noted, on_startup=None)
        server = Server(handler, addr="127.0.0.1:0", metrics=where)
        with pytest.raises(OSError, match="in use"), server.in_thread():
            pytest.fail("it has started")
    assert noted.names == []


def test_a_close_during_the_start_of_a_listener_closes_it(
    loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[socket.socket] = []
    open_door = Doors.open
    server = Server(Box(), addr="127.0.0.1:0")

    async def open_and_be_closed(doors: Doors, sock: socket.socket, *more: Any) -> None:
        sockets.append(sock)
        await open_door(doors, sock, *more)
        server.close()

    monkeypatch.setattr(Doors, "open", open_and_be_closed)

    async def work() -> None:
        await server.start()
        await server.wait_closed()
        await asyncio.sleep(0)  # uvloop closes a socket a turn later
        assert [sock.fileno() for sock in sockets] == [-1]
        assert server.addresses == []

    run(loop_name, work())


def test_the_functions_start_the_same_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Server] = []
    monkeypatch.setattr(Server, "listen_and_serve", lambda server: started.append(server))
    box = Box()
    ehlo.listen_and_serve("", box)
    ehlo.listen_and_serve("127.0.0.1:2525", box, "App", "mx.example")
    found = [server.options for server in started]
    assert [(each.addr, each.appname, each.hostname) for each in found] == [
        ("", "", ""),
        ("127.0.0.1:2525", "App", "mx.example"),
    ]
    assert not any(each.tls_required or each.tls_listener for each in found)


def test_the_functions_take_all_options(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    started: list[Server] = []
    monkeypatch.setattr(Server, "listen_and_serve", lambda server: started.append(server))
    files = certificates.cert_file, certificates.key_file
    ehlo.listen_and_serve(2525, Box(), appname="App", max_size="10MB", threads=4)
    ehlo.listen_and_serve_tls(
        ("127.0.0.1", 2525), *files, Box(), hostname="mx.example", tls_required=True
    )
    plain, tls = (server.options for server in started)
    assert (plain.addr, plain.appname, plain.max_size, plain.threads) == (2525, "App", "10MB", 4)
    assert (tls.addr, tls.hostname, tls.tls_required) == (("127.0.0.1", 2525), "mx.example", True)
    assert isinstance(tls.tls_config, FileContext)
    with pytest.raises(TypeError, match="max_sise"):
        ehlo.listen_and_serve(2525, Box(), max_sise=7)  # type: ignore[call-arg]  # the point
