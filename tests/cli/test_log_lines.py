"""The log of a running program: one line per event, with the session's id, and no traceback for a
scanner."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ehlo import Peer
from support.client import Client
from support.logins import plain
from support.program import Program, Start

MODULE = """
import time, ehlo

def careless(value):
    return len(value)

def mechanism(initial, context):
    raise RuntimeError("a mechanism that fails")
    yield b""

class Handler(ehlo.Handler):
    async def on_auth(self, session, credentials):
        return credentials.password == "right" and credentials.username

    async def on_rcpt(self, session, recipient, params):
        if recipient.local == "absent":
            raise ehlo.Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session, message):
        if b"boom" in message.body:
            raise RuntimeError("a bug")
        if b"slow" in message.body:
            time.sleep(1.5)

server = ehlo.Server(
    Handler(),
    addr="127.0.0.1:0",
    auth_mechs={"PLAIN": True, "X-FAILS": ehlo.Mechanism("X-FAILS", mechanism, needs_tls=False)},
    own_extensions=[ehlo.Extension("XFOO", 0, mail={"XLEN": careless})],
)
"""


@pytest.fixture
def program(start: Start, tmp_path: Path) -> Program:
    (tmp_path / "app.py").write_text(MODULE)
    return start("-m", "ehlo", "serve", "app:server", "--log-format", "json", cwd=tmp_path)


def lines_of(program: Program) -> Iterator[dict[str, Any]]:
    """Return all lines, once the program has ended; each must be JSON."""
    assert program.stop() == 0
    for line in program.err.text.splitlines():
        yield json.loads(line)


def talk(client: Client) -> None:
    """Cause one of each event of a session."""
    client.hello()
    client.say(plain("alice", "wrong"))
    client.say("AUTH X-FAILS")
    client.say(plain("alice", "right"))
    client.say("MAIL FROM:<a@b.example> XLEN")
    client.mail()
    for body in ("boom", "slow"):
        client.say("MAIL FROM:<a@b.example>")
        client.say("RCPT TO:<absent@c.example>")
        client.say("RCPT TO:<c@d.example>")
        client.say("DATA")
        client.say(f"{body}\r\n.")


def test_every_line_about_a_session_has_its_id(program: Program) -> None:
    with Client(Peer(*program.listening())) as client:
        talk(client)
    program.err.until("connection closed")
    told = list(lines_of(program))
    events = Counter(line["event"] for line in told if "event" in line)
    assert events == {
        "connection opened": 1,
        "login rejected": 1,
        "login accepted": 1,
        "message accepted": 2,
        "rejected": 5,  # AUTH and MAIL by internal errors, two recipients, a message
        "connection closed": 1,
    }
    ours = [line for line in told if line["logger"] not in ("ehlo.server", "asyncio")]
    (session,) = {line["session"] for line in ours}
    assert all(session in line["message"] for line in ours)
    errors = [line for line in told if line["level"] == "ERROR"]
    assert [line["message"] for line in errors] == [
        f"session {session}: mechanism X-FAILS failed",
        f"session {session}: the parser of XLEN failed",
        f"session {session}: on_message (app.Handler.on_message) failed",
    ]
    causes = ["a mechanism that fails", "has no len()", "a bug"]
    for line, cause in zip(errors, causes, strict=True):
        assert cause in line["exception"].splitlines()[-1]
    (blocked,) = [line for line in told if ": on_message blocked the event loop" in line["message"]]
    assert blocked["session"] == session
    assert [line["message"].split()[0] for line in told if "session" not in line] == [
        *("listening", "received")
    ]


def silent(_client: socket.socket) -> None: ...


def garbage(client: socket.socket) -> None:
    client.sendall(b"\x00\xff\r\n" + bytes(range(256)) + b"\r\n")


def hello_of_tls(client: socket.socket) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="mx.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client.sendall(outgoing.read())


def half_a_message(client: socket.socket) -> None:
    client.sendall(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nhalf of")


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    ("does", "most"),  # replies: one to each line that looks like one
    [(silent, 0), (garbage, 3), (hello_of_tls, 1), (half_a_message, 0)],
)
def test_a_scanner_is_not_an_error(program: Program, does: Any, most: int, reset: bool) -> None:
    address = program.listening()
    with socket.create_connection(address) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert client.recv(1024).startswith(
            b"220 "
        )  # otherwise it may be gone before the server accepts it
        does(client)
    program.err.until("connection closed")
    told = [line for line in lines_of(program) if "session" in line]
    assert "Traceback" not in program.err.text
    assert {line["level"] for line in told} == {"INFO"}
    events = Counter(line["event"] for line in told)
    assert events.pop("rejected", 0) <= most
    assert events == {"connection opened": 1, "connection closed": 1}
