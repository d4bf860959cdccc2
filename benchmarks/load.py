"""Provides the clients: Postfix's smtp-source, a small one in Python, and idle connections.

The Python client is for TLS, where it has the same dialogue as smtp-source (HELO, then for each
message MAIL, RCPT, DATA and the body, waiting for each reply; QUIT at the end), and for clients
that do not wait for each reply.
"""

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from scenarios import Dialogue, Messages

TIMEOUT = 60.0  # seconds, for a round of smtp-source and for each step of the Python client
SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin"  # where Postfix installs, often not on PATH
MAIL = b"MAIL FROM:<foo@bench.example>\r\n"
RCPT = b"RCPT TO:<foo@bench.example>\r\n"
HEADER = (
    b"From: <foo@bench.example>\r\n"
    b"To: <foo@bench.example>\r\n"
    b"Date: Sun, 22 Nov 2026 15:02:31 +0000 (UTC)\r\n"
    b"Message-Id: <1214.0003.0002@bench.example>\r\n"
    b"\r\n"
)


class LoadError(Exception):
    """A client received an unexpected reply, or a required program is missing."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The port of a server and, under TLS, a context that trusts it."""

    port: int
    tls: ssl.SSLContext | None = None


def program(name: str) -> str:
    """Return the path of one of Postfix's programs."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PROGRAMS}")
    if found is None:
        raise LoadError(f"{name} is missing: install Postfix (Debian: apt install postfix)")
    return found


def body_of(size: int) -> bytes:
    """Return a body of about `size` bytes in lines of 80, as smtp-source sends it."""
    line = b"X" * 78 + b"\r\n"
    return line * (size // len(line)) + b"X" * (size % len(line)) + b"\r\n"


def connect(endpoint: Endpoint) -> socket.socket:
    """Open a connection, and complete the handshake under TLS."""
    plain = socket.create_connection(("127.0.0.1", endpoint.port), TIMEOUT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.tls is None:
        return plain
    return endpoint.tls.wrap_socket(plain, server_hostname="localhost")


def expect(replies: BinaryIO, code: bytes) -> None:
    """Read one reply of any number of lines, and raise `LoadError` unless it has this code."""
    line = replies.readline()
    while line[3:4] == b"-":
        line = replies.readline()
    if line[:3] != code:
        raise LoadError(f"expected {code.decode()}, received {line!r}")


class Client:
    """One session: a connection after its greeting and HELO."""

    def __init__(self, endpoint: Endpoint, dialogue: Dialogue) -> None:
        self._send = {"each": self._each, "pipelined": self._pipelined, "bdat": self._bdat}[
            dialogue
        ]
        self._socket = connect(endpoint)
        self._replies: BinaryIO = self._socket.makefile("rb")
        expect(self._replies, b"220")
        self._ask(b"HELO bench.example\r\n", b"250")

    def _ask(self, data: bytes, *codes: bytes) -> None:
        self._socket.sendall(data)
        for code in codes:
            expect(self._replies, code)

    def send(self, body: bytes) -> None:
        self._send(body)

    def send_timed(self, body: bytes) -> float:
        """Send a message; return the seconds from its last byte to the reply."""
        self._ask(MAIL, b"250")
        self._ask(RCPT, b"250")
        self._ask(b"DATA\r\n", b"354")
        self._socket.sendall(HEADER + body + b".\r\n")
        sent = time.perf_counter()
        expect(self._replies, b"250")
        return time.perf_counter() - sent

    def _each(self, body: bytes) -> None:
        self._ask(MAIL, b"250")
        self._ask(RCPT, b"250")
        self._ask(b"DATA\r\n", b"354")
        self._ask(HEADER + body + b".\r\n", b"250")

    def _pipelined(self, body: bytes) -> None:
        self._ask(MAIL + RCPT + b"DATA\r\n", b"250", b"250", b"354")
        self._ask(HEADER + body + b".\r\n", b"250")

    def _bdat(self, body: bytes) -> None:
        chunk = b"BDAT %d LAST\r\n" % (len(HEADER) + len(body))
        self._ask(MAIL + RCPT + chunk + HEADER + body, b"250", b"250", b"250")

    def close(self) -> None:
        with closing(self._socket), closing(self._replies):
            self._ask(b"QUIT\r\n", b"221")


def _share(total: int, parts: int) -> list[int]:
    whole, rest = divmod(total, parts)
    return [whole + (part < rest) for part in range(parts)]


def _one_session(endpoint: Endpoint, count: int, messages: Messages, body: bytes) -> None:
    connections, each = (1, count) if messages.kept else (count, 1)
    for _ in range(connections):
        with closing(Client(endpoint, messages.dialogue)) as client:
            for _ in range(each):
                client.send(body)


def python_load(endpoint: Endpoint, messages: Messages) -> None:
    """Send the messages of one round from blocking threads, one per session."""
    body = body_of(messages.size)
    with ThreadPoolExecutor(messages.sessions) as pool:
        sent = [
            pool.submit(_one_session, endpoint, count, messages, body)
            for count in _share(messages.count, messages.sessions)
        ]
    for each in sent:
        each.result()


def smtp_source(endpoint: Endpoint, messages: Messages) -> None:
    """Send the messages of one round with smtp-source, which stops at an unexpected reply."""
    command = [
        program("smtp-source"),
        *(["-d"] if messages.kept else []),
        *("-s", str(messages.sessions), "-m", str(messages.count), "-l", str(messages.size)),
        f"127.0.0.1:{endpoint.port}",
    ]
    subprocess.run(command, check=True, timeout=TIMEOUT)


def send(endpoint: Endpoint, messages: Messages) -> None:
    """Send the messages of one round."""
    if endpoint.tls is None and messages.dialogue == "each":
        smtp_source(endpoint, messages)
    else:
        python_load(endpoint, messages)


def settle(endpoint: Endpoint) -> None:
    """Run a short session to its end; the server has then finished all earlier work."""
    with closing(connect(endpoint)) as connection, connection.makefile("rb") as replies:
        expect(replies, b"220")
        connection.sendall(b"QUIT\r\n")
        expect(replies, b"221")
        replies.read()


@contextmanager
def idle(endpoint: Endpoint, count: int) -> Iterator[None]:
    """Hold connections that received the greeting and then stay idle."""
    with ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(closing(connect(endpoint)))
            with connection.makefile("rb", buffering=0) as greeting:
                greeting.readline()
        yield
