"""Provides the common parts of the Python servers: arguments, certificate, tally, stop.

Each server prints `host port` when it listens and `messages bytes` when it stops, and nothing else.
The benchmark finds the server by the first line, and checks by the second that it received
everything.
"""

import argparse
import asyncio
import signal
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path

import uvloop


class Tally:
    """Counts messages and their bytes, under a lock, because handlers in threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.messages = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self.messages += 1
            self.size += len(data)


def parser() -> argparse.ArgumentParser:
    """Return a parser for the arguments of both servers."""
    options = argparse.ArgumentParser()
    options.add_argument("--cert", type=Path, help="certificate chain; enables implicit TLS")
    options.add_argument("--key", type=Path, help="its private key")
    return options


def tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the TLS context of both servers, or `None` without a certificate."""
    if arguments.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.cert, arguments.key)
    return context


async def until_terminated(host: str, port: int) -> None:
    """Print the address, then wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(host, port, flush=True)
    await stop.wait()


def run(main: Coroutine[object, object, None], tally: Tally) -> None:
    """Run under uvloop, then print the tally."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
    print(tally.messages, tally.size, flush=True)
