"""Servers for a dialogue: a handler or server in memory or on a port, or an address."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator
from typing import cast

from ehlo.calling import call_hook
from ehlo.handler import Composed
from ehlo.message import Message
from ehlo.net import Peer, parse_address
from ehlo.protocol.reply import Reply
from ehlo.server.options.config import AnyHandler
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server
from ehlo.session import Session
from ehlo.testing.dialogue.scenario import Received

Target = Server | AnyHandler | Peer
"""What a dialogue is played against: a server, a handler, or the address of a server that runs."""

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def address_of(target: Target) -> Peer | None:
    """Return where a server already runs."""
    match target:
        case Peer():
            return target
        case str():
            return parse_address(target)
        case Server() if target.addresses:
            return target.addresses[0]
        case _:
            return None


@contextlib.asynccontextmanager
async def connected(
    target: Target, accepted: list[Received], *, port: bool
) -> AsyncIterator[_Streams]:
    """Connect to a server, or start one for a handler; `accepted` gets its messages."""
    address = address_of(target)
    async with contextlib.AsyncExitStack() as stack:
        if address is None:
            server = _noting(target, accepted)
            if not port:
                streams = await stack.enter_async_context(_in_memory(server))
            else:
                server.configure(addr="127.0.0.1:0")
                await stack.enter_async_context(server)
                address = server.addresses[0]
        if address is not None:
            streams = await _open(address)
        try:
            yield streams
        finally:
            streams[1].close()
            with contextlib.suppress(OSError, ssl.SSLError):  # the server may have reset it
                await streams[1].wait_closed()


@contextlib.asynccontextmanager
async def _in_memory(server: Server) -> AsyncIterator[_Streams]:
    streams = await server.connect_memory()
    try:
        yield streams
    except BaseException:
        server.close()  # a hook may hang
        raise
    finally:
        await server.wait_closed()


async def _open(address: Peer) -> _Streams:
    if address.is_unix:
        return await asyncio.open_unix_connection(address.host.removeprefix("unix:"))
    return await asyncio.open_connection(address.host or "127.0.0.1", address.port)


def _noting(target: Server | AnyHandler | Peer, accepted: list[Received]) -> Server:
    """Return a server with the same options, whose accepted messages are added to `accepted`."""
    server = target if isinstance(target, Server) else Server(cast("AnyHandler", target))
    options = with_handler(server.options)
    callbacks = callbacks_of(options)
    inner = callbacks.by_name["on_message"]

    async def on_message(session: Session, message: Message) -> object:
        answer = await call_hook(inner, (session, message))
        if answer is not False and not (isinstance(answer, Reply) and answer.refuses):
            recipients = [str(recipient) for recipient in message.recipients]
            accepted.append(Received(str(message.sender), recipients, _body_of(message)))
        return answer

    hooks = {**callbacks.by_name, "on_message": on_message}
    handler = Composed(dataclasses.replace(callbacks, by_name=hooks))
    noted = Server(handler)
    noted.options = dataclasses.replace(options, handler=handler, workers=1)
    return noted


def _body_of(message: Message) -> bytes:
    with message.file as file:
        return file.read()[len(message.trace) :]
