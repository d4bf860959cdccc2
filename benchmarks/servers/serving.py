"""What the two Python servers under measurement share: arguments, certificate, tally, stop.

Each prints `host port` when it listens and `messages octets` when it was told to stop, and says
nothing else: that is how the benchmark finds it, and how it knows that all was delivered.
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
    """Messages and octets taken so far. Handlers in threads add to it too, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.messages = 0
        self.octets = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self.messages += 1
            self.octets += len(data)


def parser() -> argparse.ArgumentParser:
    """The arguments that both servers take."""
    options = argparse.ArgumentParser()
    options.add_argument("--cert", type=Path, help="certificate chain; with it, TLS from the start")
    options.add_argument("--key", type=Path, help="its private key")
    return options


def tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """The same context for both, or None without a certificate."""
    if arguments.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.cert, arguments.key)
    return context


async def until_terminated(host: str, port: int) -> None:
    """Tell where we listen, then wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(host, port, flush=True)
    await stop.wait()


def run(main: Coroutine[object, object, None], tally: Tally) -> None:
    """Run under uvloop, then print what was taken."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
    print(tally.messages, tally.octets, flush=True)
