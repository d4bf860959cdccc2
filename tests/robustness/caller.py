"""A client for hundreds in one event loop: it reads and counts lines and replies."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from types import TracebackType
from typing import Any, Self

from ehlo import Peer
from robustness.scale import DEADLINE
from support.client import set_buffers

__all__ = ["Caller", "together"]


class Caller:
    """One connection. The caller sets a deadline for all of it, as `together` does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heard: Counter[str] = Counter()
        """How many replies of each code were read."""
        self.asked = 1  # replies to expect, including the greeting

    @classmethod
    async def connect(
        cls, address: Peer, *, tls: ssl.SSLContext | None = None, buffers: int = 0
    ) -> Caller:
        """A connection; the greeting is not read yet."""
        sock = socket.socket()
        sock.setblocking(False)
        if buffers:
            set_buffers(sock, buffers)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        named: dict[str, Any] = {"ssl": tls, "server_hostname": "localhost"} if tls else {}
        return cls(*await asyncio.open_connection(sock=sock, **named))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, and drop what is not sent yet."""
        self.writer.transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Send STARTTLS and complete the handshake."""
        answer = await self.say("STARTTLS")
        assert answer.startswith("220 "), answer
        await self.writer.start_tls(context, server_hostname="localhost")

    # -- sending ----------------------------------------------------------------------------

    def send(self, data: bytes, *, replies: int = 0) -> None:
        """Send `data`, which causes this many replies."""
        self.asked += replies
        self.writer.write(data)

    async def say(self, line: str) -> str:
        """Send a command; return its reply."""
        self.send(line.encode() + b"\r\n", replies=1)
        await self.writer.drain()
        return await self.reply()

    async def hello(self, name: str = "client.example") -> str:
        """Read the greeting and say EHLO."""
        greeting = await self.reply()
        assert greeting.startswith("220 "), greeting
        return await self.say(f"EHLO {name}")

    async def envelope(self, sender: str, *recipients: str) -> list[str]:
        """Send MAIL and RCPT in one write; return their replies."""
        wanted = recipients or ("b@example.com",)
        lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in wanted)]
        self.send("".join(f"{line}\r\n" for line in lines).encode(), replies=len(lines))
        return [await self.reply() for _ in lines]

    async def mail(self, sender: str, body: bytes = b"Subject: x\r\n\r\nHello.\r\n") -> str:
        """Send a message; return the first reply that rejects something, or the final one."""
        for answer in (*await self.envelope(sender), await self.say("DATA")):
            if answer[0] not in "23":
                return answer
        self.send(body + b".\r\n", replies=1)
        await self.writer.drain()
        return await self.reply()

    # -- receiving ---------------------------------------------------------------------------

    async def reply(self) -> str:
        """Return the last line of the next reply. Raises `EOFError` at the end."""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                self.heard[line[:3].decode()] += 1
                return line[:-2].decode()

    async def rest(self) -> list[str]:
        """Return all replies until the server closes or resets the connection."""
        found: list[str] = []
        try:
            while True:
                found.append(await self.reply())
        except (EOFError, ConnectionError, ssl.SSLError):
            return found

    # -- the end ---------------------------------------------------------------------------------

    @property
    def unheard(self) -> int:
        """The number of replies that may have been lost."""
        return max(0, self.asked - self.heard.total())

    def end(self) -> None:
        """Send nothing more: FIN, or a close under TLS."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        else:
            self.writer.close()

    def reset(self) -> None:
        """Cut the connection (RST)."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def quit(self) -> None:
        """Send QUIT and read until the server closes."""
        self.send(b"QUIT\r\n", replies=1)
        await self.rest()
        self.writer.close()


async def together(*clients: Any, deadline: float = DEADLINE) -> list[Any]:
    """Run all within a deadline and return their results; the first failure ends the others."""
    async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
        tasks = [group.create_task(client) for client in clients]
    return [task.result() for task in tasks]
