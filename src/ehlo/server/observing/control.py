"""The control socket: who connects says one line of JSON, and is answered by one.

`{"ask": "snapshot"}` is the only question there is. The socket's mode lets in our own user alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["answer", "ask"]

_PATIENCE: Final = 5.0  # seconds, for the question to come and the answer to leave
_LONGEST: Final = 1024  # octets of a question
_READ: Final = 65_536


async def answer(
    snapshot: Callable[[], Awaitable[dict[str, Any]]],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Serve one who has connected."""
    try:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
                said = await snapshot() if _asks(line) else {"error": "no such question"}
                writer.write(json.dumps(said).encode() + b"\n")
                writer.close()
                await writer.wait_closed()
    except ValueError:  # a line without an end
        pass
    finally:
        writer.transport.abort()  # nothing is left for who has read all


def _asks(line: bytes) -> bool:
    try:
        return len(line) <= _LONGEST and bool(json.loads(line) == {"ask": "snapshot"})
    except (RecursionError, ValueError):
        return False


def ask(path: str) -> dict[str, Any]:
    """The snapshot of the server behind the socket at `path`; blocks.

    Raises `OSError` when nobody answers there, `ValueError` for what is no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        sock.sendall(b'{"ask": "snapshot"}\n')
        pieces = []
        while piece := sock.recv(_READ):
            pieces.append(piece)
    found = json.loads(b"".join(pieces))
    if not isinstance(found, dict) or "stats" not in found:
        raise ValueError("no server of ours")
    return found
