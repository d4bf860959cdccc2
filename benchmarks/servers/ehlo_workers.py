"""Runs ehlo in several processes, `--workers 2`, or in one; each imports its handler from here.

It prints `host port`. Then each process that serves prints its id, and `messages bytes` at its end.
"""

import argparse
import os
import socket
from typing import Any

from ehlo_server import LIMITS
from serving import Tally

import ehlo


class CountingHandler(ehlo.Handler):
    """Accepts every message. There is one instance in each process that serves."""

    def __init__(self) -> None:
        self._tally = Tally()

    async def on_startup(self, server: Any) -> None:
        del server
        say(os.getpid())

    async def on_message(self, session: Any, message: Any) -> None:
        del session
        self._tally.add(message.data)

    async def on_shutdown(self, server: Any) -> None:
        del server
        say(self._tally.messages, self._tally.size)


def say(*words: object) -> None:
    """Print a line in one write, because all processes share the pipe."""
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--workers", type=int, required=True)
    workers = options.parse_args().workers
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    say(*sock.getsockname())
    server = ehlo.Server(
        "ehlo_workers:CountingHandler",
        hostname="bench.example",
        workers=workers,
        loop="uvloop",
        **LIMITS,
    )
    server.serve(sock)


if __name__ == "__main__":
    main()
