"""A server in unusual surroundings: a block that fails, a fork, a loop that runs or was closed, a
hook that calls `sys.exit`, and any name of the machine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Peer, Server, Session
from ehlo.server.system.loops import loop_factory
from support.client import Client
from support.ports import reserved_port
from support.serving import DEADLINE, Box, Serve

DRAINING = b"421 4.3.2 Service shutting down\r\n"


def run(loop_name: str, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(work)


# -- a block that ends, or fails -----------------------------------------------------------------


@pytest.mark.parametrize("commands", [1, 3], ids=["after MAIL", "amid DATA"])
def test_a_block_that_fails_does_not_wait_for_transactions(loop_name: str, commands: int) -> None:
    lines = ["MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"]
    server = Server(Box(), addr="127.0.0.1:0", loop=loop_name, grace=1000)  # type: ignore[arg-type]

    def fail() -> Client:
        with server.in_thread():
            clients.append(Client(server.addresses[0]))
            clients[0].hello()
            for line in lines[:commands]:
                clients[0].say(line)
            raise ZeroDivisionError

    clients: list[Client] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    with clients[0] as client:
        assert client.rest() == DRAINING


def test_a_block_that_ends_gives_transactions_no_more_than_a_moment() -> None:
    server = Server(Box(), addr="127.0.0.1:0", grace=1000)
    with server.in_thread():
        client = Client(server.addresses[0])
        client.hello()
        client.say("MAIL FROM:<a@example.com>")
    with client:
        assert client.rest() == DRAINING


class Slow(Handler):
    """Is in `on_message` until the block has ended."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def on_message(self, session: Session, message: Message) -> str:
        self.inside.set()
        self.go_on.wait(DEADLINE)
        return "kept"


def test_a_block_that_ends_lets_a_message_end(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Slow()
    server = Server(handler, addr="127.0.0.1:0")
    shutdown = Server.shutdown

    async def shut_down(self: Server, grace: float | None = None) -> None:
        handler.go_on.set()
        await shutdown(self, grace)

    monkeypatch.setattr(Server, "shutdown", shut_down)
    with server.in_thread():
        client = Client(server.addresses[0])
        client.hello()
        client.begin_message()
        client.replies(3)
        assert handler.inside.wait(DEADLINE)
    with client:
        assert client.reply() == "250 2.0.0 Ok: queued as kept"


# -- a fork --------------------------------------------------------------------------------------

FORK = """
import os, sys, ehlo
options = {"addr": sys.argv[1], "loop": sys.argv[2]}
server = ehlo.Server(lambda *_: None, **options)
with server.in_thread():
    process = os.fork()
    if not process:
        print("child", server.running, server.addresses, flush=True)
        server.close()
        server.configure(addr="127.0.0.1:0")
        with server.in_thread():
            print(len(server.addresses), flush=True)
if process:
    os.waitpid(process, 0)
print("left", flush=True)
"""


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "unix:smtp"])
def test_a_forked_child_leaves_the_block_and_may_serve(
    loop_name: str, addr: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        # Python 3.12 warns of any fork next to threads, which is what is tested
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, addr, loop_name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.stdout.split() == ["child", "None", "[]", "1", "left", "left"]
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_fork_takes_nothing_from_its_parent(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    running = serve(Box(), addr=f"unix:{path}")
    process = os.fork()
    if process == 0:
        os._exit(running.server.running is not None)
    assert os.waitpid(process, 0)[1] == 0
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"


# -- a loop that runs, and one that was closed ---------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["listen_and_serve", "serve"])
def test_a_form_that_blocks_is_an_error_in_a_running_loop(
    loop_name: str, form: str, workers: int
) -> None:
    server = Server("json:loads", addr="127.0.0.1:0", workers=workers)

    async def work() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as sock,
            pytest.raises(RuntimeError, match=rf"{form} cannot be called in a running .*in_thread"),
        ):
            getattr(server, form)(*[sock] * (form == "serve"))

    run(loop_name, work())  # warnings, such as of coroutines never awaited, are errors


def test_an_unknown_loop_leaves_no_coroutine_behind() -> None:
    server = Server(Box(), addr="127.0.0.1:0", loop="round")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loop is 'round'"):
        server.listen_and_serve()
    with pytest.raises(ValueError, match="loop is 'round'"), server.in_thread():
        pytest.fail("it has started")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the loop that closes
def test_a_server_whose_loop_was_closed_can_be_started_again(
    loop_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "smtp"
    server = Server(Box(), addr=[f"127.0.0.1:{reserved_port()}", f"unix:{path}"])

    async def start() -> Peer:
        await server.start()
        return server.addresses[0]

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        address = runner.run(start())
    assert server.running is None
    assert server.addresses == []
    assert not path.exists()
    assert caplog.messages[-1].startswith("the event loop was closed before the server")
    server.close()
    server.configure(addr=str(address))  # which is free

    async def serve_again() -> None:
        async with server:
            assert server.addresses == [address]
        await server.wait_closed()

    run(loop_name, serve_again())


# -- sys.exit ------------------------------------------------------------------------------------


def test_an_exit_in_an_async_hook_is_answered_like_any_failure(
    serve: Serve, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Exits(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            sys.exit("broken")

    with serve(Exits(), loop=loop_name).ready() as client:
        for _ in range(2):
            assert client.mail().startswith("451 4.3.0")
    assert caplog.text.count("SystemExit: broken") == 2


def test_an_interrupt_of_a_hook_in_a_thread_is_answered_like_any_failure(
    serve: Serve, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupts(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            raise KeyboardInterrupt

    with serve(Interrupts(), loop=loop_name).ready() as client:
        for _ in range(2):
            assert client.mail().startswith("451 4.3.0")
    assert caplog.text.count("Interrupts.on_message) failed") == 2


def test_an_exit_in_a_callback_of_the_loop_ends_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(*_: object) -> Any:
        sys.exit("broken")

    def mechanism(_initial: bytes | None, _context: object) -> Any:
        yield b""
        sys.exit("broken")

    async def nobody(*_: object) -> bool:
        return False

    running = serve(
        Box(),
        auth_handler=nobody,
        log_read=leave,
        auth_mechs={"X-EXIT": ehlo.Mechanism("X-EXIT", mechanism, needs_tls=False)},
        own_extensions=[ehlo.Extension("XFOO", 0, mail={"XLEN": leave})],
    )
    with running.ready() as client:
        assert client.say("AUTH X-EXIT").startswith("334")
        assert client.say("").startswith("454 4.7.0")
        assert client.say("MAIL FROM:<a@example.com> XLEN=1").startswith("451 4.3.0")
        assert client.mail().startswith("250 ")
    assert "log_read failed" in caplog.text


async def exits_async(_self: Handler, _server: Server) -> None:
    sys.exit("broken")


def exits(_self: Handler, _server: Server) -> None:
    sys.exit("broken")


def handler_with(**hooks: object) -> Handler:
    async def on_message(_self: Handler, _session: Session, _message: Message) -> None: ...

    made: Handler = type("Exiting", (Handler,), {"on_message": on_message, **hooks})()
    return made


@pytest.mark.parametrize("hook", [exits, exits_async])
def test_an_exit_in_on_startup_reaches_the_caller_of_the_start(
    loop_name: str, hook: Callable[..., object]
) -> None:
    threads = set(threading.enumerate())
    server = Server(handler_with(on_startup=hook), addr="127.0.0.1:0", loop=loop_name)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="broken"), server.in_thread():
        pytest.fail("it has started")
    with pytest.raises(SystemExit, match="broken"):
        server.listen_and_serve()
    assert server.running is None
    for thread in set(threading.enumerate()) - threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.mark.parametrize("hook", [exits, exits_async])
def test_an_exit_in_on_shutdown_does_not_prevent_the_end(
    loop_name: str, hook: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(handler_with(on_shutdown=hook), addr="127.0.0.1:0", loop=loop_name)  # type: ignore[arg-type]
    with server.in_thread():
        pass
    assert server.running is None
    assert "on_shutdown failed" in caplog.text


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my host", "DESKTOP-Ü1", "Anna’s Mac", "", "a\r\nb", "x\udc80"])
def test_a_machine_may_have_any_name(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    box = Box()
    with serve(box, hostname="").client() as client:
        assert client.reply() == "220 localhost smtpd ESMTP Service ready"
        client.say("HELO c")
        client.mail()
    assert b"by localhost (smtpd)" in box.mails[0][3]
    (said,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert said.getMessage() == (
        f"the machine's name is {name!a}, which cannot be a host name; using localhost "
        "(set hostname)"
    )


def test_a_usual_name_of_the_machine_is_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my_host")
    with serve(Box(), hostname="").client() as client:
        assert client.reply() == "220 my_host smtpd ESMTP Service ready"
    assert all(each.levelno < logging.WARNING for each in caplog.records)


RESOLVE = socket.getaddrinfo


def resolver_of(**hosts: list[str]) -> Callable[..., Any]:
    """Return a resolver for which these names have these addresses."""

    def getaddrinfo(host: str, *args: Any, **more: Any) -> Any:
        return [each for at in hosts.get(host, [host]) for each in RESOLVE(at, *args, **more)]

    return getaddrinfo


def test_a_name_of_several_addresses_is_all_of_them_on_one_port(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of them twice
    both = resolver_of(localhost=["::1", "127.0.0.11", "::1"])
    monkeypatch.setattr(socket, "getaddrinfo", both)
    running = serve(Box(), addr="localhost:0")
    first, second = running.server.addresses
    assert (first.host, second.host) == ("::1", "127.0.0.11")
    assert first.port == second.port
    for address in (first, second):
        with Client(address) as client:
            assert client.reply().startswith("220 ")
    running.run(running.server.shutdown)
    port = reserved_port("::1")
    for _ in range(2):
        with Server(Box(), addr=f"localhost:{port}").in_thread() as again:
            assert [each.port for each in again.addresses] == [port, port]


def test_an_address_that_the_machine_lacks_is_left_out_unless_it_is_the_only_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = resolver_of(both=["192.0.2.77", "127.0.0.1"], strange=["192.0.2.77"])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    assert [each.host for each in serve(Box(), addr="both:0").server.addresses] == ["127.0.0.1"]
    with pytest.raises(OSError, match="cannot listen on strange:0: Cannot assign requested"):
        serve(Box(), addr="strange:0")


def test_a_port_that_is_taken_in_one_family_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver_of(localhost=["127.0.0.1", "::1"]))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        server = Server(Box(), addr=f"localhost:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match="Address already in use"), server.in_thread():
            pytest.fail("it has started")
