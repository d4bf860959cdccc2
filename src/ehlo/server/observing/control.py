"""The control socket: a client sends one line of JSON, and gets one line back.

`{"ask": "snapshot"}` is the only request. The socket's mode lets in the server's own user only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from ehlo.server.observing.stats import Snapshot

__all__ = ["answer", "ask"]

_PATIENCE: Final = 5.0  # seconds, for the request to arrive and the answer to leave
_LONGEST: Final = 1024  # bytes of a request
_READ: Final = 65_536
_REQUEST: Final = {"ask": "snapshot"}


async def answer(
    snapshot: Callable[[], Awaitable[Snapshot]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Serve one client of the socket, and close."""
    try:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
                reply = await snapshot() if _is_request(line) else {"error": "unknown request"}
                writer.write(json.dumps(reply).encode() + b"\n")
                writer.close()
                await writer.wait_closed()
    except ValueError:  # a line without an end
        pass
    finally:
        writer.transport.abort()  # loses nothing if the client has read it all


def _is_request(line: bytes) -> bool:
    try:
        return len(line) <= _LONGEST and bool(json.loads(line) == _REQUEST)
    except (RecursionError, ValueError):
        return False


def ask(path: str) -> Snapshot:
    """Return the snapshot of the server behind the socket at `path`; this blocks.

    Raises `OSError` if no server answers, `ValueError` if the answer is no snapshot.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        sock.sendall(json.dumps(_REQUEST).encode() + b"\n")
        answer = b"".join(iter(lambda: sock.recv(_READ), b""))
    found = json.loads(answer)
    if not isinstance(found, dict) or "stats" not in found:
        raise ValueError("not the control socket of ehlo")
    return found
