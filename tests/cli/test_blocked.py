"""A hook that blocks the event loop is logged while it does, and a second signal ends it."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from ehlo import Peer
from support.client import Client
from support.program import DEADLINE, Program, Start

LOOPBACK = ("--addr", "127.0.0.1:0")

MODULE = """
import os, socket, time, ehlo

class Handler(ehlo.Handler):
    async def on_message(self, session, message):
        pass

class Sleeps(Handler):
    async def on_message(self, session, message):
        os.write(1, b"inside\\n")
        time.sleep(3600)

class Reads(Handler):
    async def on_message(self, session, message):
        ours, theirs = socket.socketpair()
        os.write(1, b"inside\\n")
        ours.recv(1)

class Starts(Handler):
    async def on_startup(self, server):
        os.write(1, b"inside\\n")
        time.sleep(3600)

class Ends(Handler):
    async def on_shutdown(self, server):
        os.write(1, b"inside\\n")
        time.sleep(3600)

class Background(Handler):
    async def on_startup(self, server):
        import asyncio
        asyncio.get_running_loop().call_later(0.1, self.block)

    def block(self):
        os.write(1, b"inside\\n")
        time.sleep(3600)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with `blocking.py` in it."""
    (tmp_path / "blocking.py").write_text(MODULE)
    return tmp_path


def serve(start: Start, here: Path, name: str, loop: str, workers: int = 1) -> Program:
    return start(
        *("-m", "ehlo", "serve", f"blocking:{name}", *LOOPBACK, "--loop", loop, "--grace", "600"),
        *("--workers", str(workers)),
        cwd=here,
    )


def message(program: Program) -> Client:
    """Return a client whose message is in a hook that blocks the event loop."""
    client = Client(Peer(*program.listening()))
    client.hello()
    client.begin_message()
    client.replies(3)
    program.out.until("inside")
    return client


@pytest.mark.parametrize("name", ["Sleeps", "Reads"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_hook_that_blocks_is_logged_at_once_and_a_second_signal_ends_it(
    start: Start, here: Path, loop: str, name: str
) -> None:
    program = serve(start, here, name, loop)
    with message(program) as client:
        program.process.send_signal(signal.SIGTERM)
        line = program.err.until("has blocked the event loop")
        assert re.search(r'level=warning .*"session [0-9a-f]{14}: on_message has blocked the', line)
        program.process.send_signal(signal.SIGINT)
        assert client.rest() == b""  # and no 250
    assert program.wait() == 0
    assert "interrupted what blocked the event loop" in program.err.text
    assert "Traceback" not in program.err.text
    assert program.err.text.count("has blocked the event loop") == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_signals_end_a_hook_once_it_has_blocked_for_long_enough(
    start: Start, here: Path, loop: str
) -> None:
    program = serve(start, here, "Sleeps", loop)
    with message(program):
        program.process.send_signal(signal.SIGINT)
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == 0
    assert "interrupted what blocked" in program.err.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_ends_an_on_startup_that_blocks(
    start: Start, here: Path, loop: str
) -> None:
    program = serve(start, here, "Starts", loop)
    program.out.until("inside")
    program.process.send_signal(signal.SIGTERM)
    assert ": on_startup" not in program.err.until("on_startup has blocked the event loop")
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert "Traceback" not in program.err.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_ends_an_on_shutdown_that_blocks(
    start: Start, here: Path, loop: str
) -> None:
    program = serve(start, here, "Ends", loop)
    program.listening()
    program.process.send_signal(signal.SIGTERM)
    program.err.until("on_shutdown has blocked the event loop")
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_ends_a_callback_that_blocks(start: Start, here: Path, loop: str) -> None:
    """The callback is no hook: an unhandled signal shows that the loop is blocked."""
    program = serve(start, here, "Background", loop)
    program.out.until("inside")
    program.process.send_signal(signal.SIGTERM)
    with pytest.raises(TimeoutExpired):
        program.process.wait(1.2)
    until = time.monotonic() + DEADLINE
    while program.process.poll() is None:  # a process that is slow may have noted the first late
        assert time.monotonic() < until
        program.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutExpired):  # one that was interrupted has time
            program.process.wait(10)
    assert program.wait() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_to_the_parent_ends_a_blocked_worker(
    start: Start, here: Path, loop: str
) -> None:
    program = serve(start, here, "Sleeps", loop, workers=2)
    with message(program) as client:
        program.process.send_signal(signal.SIGTERM)
        program.err.until("shutting down")
        program.process.send_signal(signal.SIGTERM)
        assert client.rest() == b""
    assert program.wait() == 0
    assert "interrupted what blocked" in program.err.text
    assert "killed" not in program.err.text
