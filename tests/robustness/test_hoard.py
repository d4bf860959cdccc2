"""Clients that make the server hold as much as they can: its memory keeps to `max_memory`.

Each kind has a server of its own. In the full form there are 1,000 clients of it, and the process
has at most 64 MiB in addition to `max_memory`, Python and ehlo included.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from base64 import b64encode
from collections.abc import Awaitable, Callable

import pytest

from ehlo import Peer
from robustness.caller import Caller, together
from robustness.process import Launch, Tell
from robustness.scale import MIB, full, need_descriptors, peak
from support.certificates import Certificates
from support.client import SMALL

CLIENTS = full(1000, short=100)
AT_ONCE = 50  # that connect
MEMORY = 16 * MIB
MOST = MEMORY + 64 * MIB
TIME = full(120, short=30)  # seconds, for a command and for a hook
QUEUED = "250 2.0.0 Ok: queued"
NOOPS = b"NOOP " + b"x" * 1500 + b"\r\n"
EMOJI = "\U0001f600"


async def recipients(caller: Caller) -> None:
    await caller.hello()
    await caller.say("MAIL FROM:<a@example.com> SMTPUTF8")
    for number in range(100):
        await caller.say(f"RCPT TO:<{'x' * 1300}{EMOJI}{number}@example.com>")


async def parameters(caller: Caller) -> None:
    await caller.hello()
    await caller.say("MAIL FROM:<a@example.com> SMTPUTF8")
    original = f"NOTIFY=SUCCESS ORCPT=utf-8;{'y' * 480}\\x{{1F600}}"
    for number in range(100):
        await caller.say(f"RCPT TO:<{'x' * 600}{number}@example.com> {original}")


async def a_line_without_an_end(caller: Caller) -> None:
    await caller.hello()
    caller.send(b"AUTH PLAIN " + b"x" * 12_200)


async def few_bytes_behind_commands(caller: Caller) -> None:
    await caller.hello()
    caller.send(NOOPS * 43 + b"MAIL")
    for _ in range(43):
        await caller.reply()


async def few_bytes_behind_a_body(caller: Caller) -> None:
    await caller.hello()
    await caller.envelope("a@example.com")
    await caller.say("DATA")
    caller.send(b"x" * 65_000 + b"\r\n.\r\nMAIL")
    assert await caller.reply() == QUEUED


async def input_ahead_of_a_hook(caller: Caller) -> None:
    await caller.hello()
    caller.send(b"MAIL FROM:<wait@example.com>\r\n" + NOOPS * 170)


async def replies_that_are_not_read(caller: Caller) -> None:
    await caller.hello()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    message = b"MAIL FROM:<a@example.com>\r\n" + b"RCPT TO:<a@example.com>\r\n" * 99 + b"RSET\r\n"
    caller.send(message * 300)


async def an_answer_to_scram(caller: Caller) -> None:
    await caller.hello()
    first = "n,,n=a,r=" + "r" * 2000
    await caller.say(f"AUTH SCRAM-SHA-256 {b64encode(first.encode()).decode()}")


# -- TLS -------------------------------------------------------------------------------------------


class Secret:
    """A client's end of TLS, in memory, so that it can stop anywhere."""

    def __init__(self, caller: Caller, context: ssl.SSLContext) -> None:
        self._caller = caller
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def shake_hands(self) -> None:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                self._caller.writer.write(self._outgoing.read())
                return
            self._caller.writer.write(self._outgoing.read())
            await self.take()

    async def take(self) -> None:
        """Take what the server has sent."""
        data = await self._caller.reader.read(65_536)
        if not data:
            raise EOFError
        self._incoming.write(data)

    def begin(self) -> None:
        """Send a ClientHello."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._caller.writer.write(self._outgoing.read())

    def encrypted(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    async def reads(self, count: int) -> None:
        """Read as many bytes."""
        while count > 0:
            try:
                count -= len(self._tls.read(65_536))
            except ssl.SSLWantReadError:
                await self.take()


async def start_tls(caller: Caller) -> bool:
    await caller.hello()
    return (await caller.say("STARTTLS")).startswith("220 ")


def hello(announced: int, size: int) -> bytes:
    """Return the records of a ClientHello that has no end."""
    body = bytes([1]) + announced.to_bytes(3, "big") + b"\3\3" + b"x" * size
    pieces = [body[at : at + 2000] for at in range(0, len(body), 2000)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(piece)) + piece for piece in pieces)


async def a_large_client_hello(caller: Caller) -> None:
    if await start_tls(caller):
        caller.send(hello(131_000, 130_000))


async def a_client_hello_that_is_announced(caller: Caller) -> None:
    if await start_tls(caller):
        caller.send(hello(131_000, 10))


async def half_a_client_hello(caller: Caller) -> None:
    if await start_tls(caller):
        caller.send(hello(16_000, 15_500))


def with_tls(
    then: Callable[[Caller, Secret], Awaitable[None]],
) -> Callable[[Caller, ssl.SSLContext], Awaitable[None]]:
    async def way(caller: Caller, context: ssl.SSLContext) -> None:
        if await start_tls(caller):
            await then(caller, Secret(caller, context))

    way.__name__ = then.__name__
    return way


@with_tls
async def half_a_handshake(caller: Caller, secret: Secret) -> None:
    secret.begin()
    await secret.take()
    caller.send(bytes([23, 3, 3, 0x40, 0]) + b"x" * 16_000)


@with_tls
async def half_a_record(caller: Caller, secret: Secret) -> None:
    await secret.shake_hands()
    caller.send(secret.encrypted(b"x" * 16_000)[:-1])


@with_tls
async def half_a_record_behind_many(caller: Caller, secret: Secret) -> None:
    await secret.shake_hands()
    caller.send(secret.encrypted(NOOPS * 60) + secret.encrypted(b"x" * 16_000)[:-1])
    await secret.reads(60 * len("250 2.0.0 Ok\r\n"))


@with_tls
async def long_replies(caller: Caller, secret: Secret) -> None:
    await secret.shake_hands()
    caller.send(secret.encrypted(b"EHLO c\r\n" * 90))
    await secret.reads(90 * 200)


IN_CLEAR: tuple[Callable[[Caller], Awaitable[None]], ...] = (
    *(recipients, parameters, a_line_without_an_end, few_bytes_behind_commands),
    *(few_bytes_behind_a_body, input_ahead_of_a_hook, replies_that_are_not_read),
    *(an_answer_to_scram, a_large_client_hello, a_client_hello_that_is_announced),
    half_a_client_hello,
)
UNDER_TLS = (half_a_handshake, half_a_record, half_a_record_behind_many, long_replies)


WAYS = full((*IN_CLEAR, *UNDER_TLS), short=(recipients, half_a_record))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_clients_make_the_server_hold_keeps_to_the_memory(
    launch: Launch,
    certificates: Certificates,
    tell: Tell,
    way: Callable[..., Awaitable[None]],
) -> None:
    need_descriptors(2 * CLIENTS + 1000)
    server = launch(
        *("Waiting", "--max-memory", str(MEMORY), "--max-connections", str(CLIENTS + 10)),
        *("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file),
        *("--timeout", str(TIME), "--handler-timeout", str(TIME), "--extensions", "DSN=on"),
        *("--auth-mechs", "SCRAM-SHA-256=on", "--max-handlers", str(2 * CLIENTS)),
    )
    before = peak(server.pid)

    async def hoard(address: Peer) -> tuple[int, str]:
        places = asyncio.Semaphore(AT_ONCE)
        more = (certificates.client,) if way in UNDER_TLS else ()

        async def one() -> Caller:
            async with places:
                small = SMALL if way is replies_that_are_not_read else 0
                caller = await Caller.connect(address, buffers=small)
                with contextlib.suppress(EOFError, ConnectionError):  # it was cut off
                    await way(caller, *more)
                return caller

        callers = await together(*(one() for _ in range(CLIENTS)))
        async with await Caller.connect(address) as honest:
            await honest.hello()
            answer = await honest.mail("honest@example.com")
        most = peak(server.pid)
        for caller in callers:
            caller.writer.transport.abort()
        return most, answer

    most, answer = asyncio.run(hoard(server.address))
    tell(f"{CLIENTS} clients: at most {most / MIB:.0f} MiB of {before / MIB:.0f}")
    assert most <= MOST
    assert answer == QUEUED
    assert server.wait_until_no_sessions()["now"]["memory"] == 0
