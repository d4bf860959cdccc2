"""A client of which there can be hundreds in one loop: it knows and counts lines and replies."""

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

__all__ = ["Caller", "together"]


class Caller:
    """One connection. Who uses it sets a deadline for all of it, as `together` does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heard: Counter[str] = Counter()
        """The codes of the replies."""
        self.asked = 1  # replies that we have a right to, the greeting among them

    @classmethod
    async def connect(
        cls, address: Peer, *, tls: ssl.SSLContext | None = None, receive_buffer: int = 0
    ) -> Caller:
        """A connection; the greeting is not read yet."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
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
        """Whatever has happened: the connection is closed, and nothing waits to be sent."""
        self.writer.transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Say STARTTLS, and shake hands."""
        answer = await self.say("STARTTLS")
        assert answer.startswith("220 "), answer
        await self.writer.start_tls(context, server_hostname="localhost")

    # -- what is said ----------------------------------------------------------------------------

    def send(self, data: bytes, *, replies: int = 0) -> None:
        """These octets, which want so many replies."""
        self.asked += replies
        self.writer.write(data)

    async def say(self, line: str) -> str:
        """A command; its reply."""
        self.send(line.encode() + b"\r\n", replies=1)
        await self.writer.drain()
        return await self.reply()

    async def hello(self, name: str = "client.example") -> str:
        """Read the greeting and say EHLO."""
        greeting = await self.reply()
        assert greeting.startswith("220 "), greeting
        return await self.say(f"EHLO {name}")

    async def envelope(self, sender: str, *recipients: str) -> list[str]:
        """MAIL and RCPT in one write; their replies."""
        wanted = recipients or ("b@example.com",)
        lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in wanted)]
        self.send("".join(f"{line}\r\n" for line in lines).encode(), replies=len(lines))
        return [await self.reply() for _ in lines]

    async def mail(self, sender: str, body: bytes = b"Subject: x\r\n\r\nHello.\r\n") -> str:
        """A whole transaction; the first reply that is no success, or the final one."""
        for answer in (*await self.envelope(sender), await self.say("DATA")):
            if answer[0] not in "23":
                return answer
        self.send(body + b".\r\n", replies=1)
        await self.writer.drain()
        return await self.reply()

    # -- what is heard ---------------------------------------------------------------------------

    async def reply(self) -> str:
        """The next reply, its last line. Raises `EOFError` where there is none."""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                self.heard[line[:3].decode()] += 1
                return line[:-2].decode()

    async def rest(self) -> list[str]:
        """All replies until the server closes; a reset counts as one."""
        found: list[str] = []
        try:
            while True:
                found.append(await self.reply())
        except (EOFError, ConnectionError, ssl.SSLError):
            return found

    # -- the end ---------------------------------------------------------------------------------

    @property
    def unheard(self) -> int:
        """How many replies may have been lost."""
        return max(0, self.asked - self.heard.total())

    def end(self) -> None:
        """Say nothing more: FIN, and under TLS what comes of closing."""
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
        """Say QUIT, and hear all until the server closes."""
        self.send(b"QUIT\r\n", replies=1)
        await self.rest()
        self.writer.close()


async def together(*clients: Any, deadline: float = DEADLINE) -> list[Any]:
    """What all of them return, within a deadline; the first failure ends the others."""
    async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
        tasks = [group.create_task(client) for client in clients]
    return [task.result() for task in tasks]
