#!/usr/bin/env python3
"""Counts the instructions of one plain transaction, a figure that does not depend on the load.

`python benchmarks/instructions.py` runs itself under valgrind's callgrind, once with few
transactions and once with many, and prints the cost of each additional one in the core. `--driver`
measures the server's protocol class with a handler instead, on a transport and a loop that do
almost nothing: for an exempt address, without and with a hook for recipients, then for an address
with all counters, and last with one connection per transaction. `--src DIR` measures another tree,
to compare it with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

FEW, MANY = 100, 300
LAYERS = {
    "core": "in the core",
    "driver": "with its driver",
    "hooks": "with its driver, and a handler that has on_rcpt",
    "limits": "with limits of addresses",
    "connections": "with a connection of its own",
}

TRANSACTION = (
    b"MAIL FROM:<sender@example.com>\r\n",
    b"RCPT TO:<recipient@example.com>\r\n",
    b"DATA\r\n",
    b"Subject: hello\r\n\r\n" + b"x" * 68 + b"\r\n" + b"line\r\n" * 160 + b".\r\n",
)


def session(transactions: int) -> Iterator[bytes]:
    """Return the packets of a client, one per reply. QUIT is left out, because it costs, too."""
    repeated = chain.from_iterable(repeat(TRANSACTION, transactions))
    return chain((b"EHLO client.example\r\n",), repeated)


def run_core(transactions: int) -> None:
    """Run transactions on one kept connection without a server."""
    from ehlo.protocol import events
    from ehlo.protocol.connection import Connection
    from ehlo.protocol.settings import Settings

    connection = Connection(Settings(), lambda: "nonce", asks=frozenset())
    waiting = events.Waiting
    gc.freeze()
    for packet in chain((b"",), session(transactions)):
        event = connection.hear(packet)
        if isinstance(event, bytes):
            continue
        if event is None:
            connection.receive_data(packet)
            event = connection.next_event()
        while not isinstance(event, waiting):
            if isinstance(event, events.MessageEnd):
                connection.reply()
            event = connection.next_event()
        connection.data_to_send()


class Loop:
    """Provides the parts of an event loop that a message uses: callbacks that run in order."""

    def __init__(self) -> None:
        self._due: deque[tuple[Any, Callable[..., Any], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        """Return a constant, so that no per-second work is counted."""
        return 0.0

    def get_debug(self) -> bool:
        """Return false; tasks call this."""
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
        """Queue a callback for `go_on`."""
        self._due.append((context or copy_context(), callback, args))

    def call_later(self, *_later: Any) -> object:
        """Return a handle for a callback that never runs."""
        return self

    def go_on(self) -> None:
        """Run all callbacks in the queue."""
        while self._due:
            context, callback, args = self._due.popleft()
            context.run(callback, *args)


class Transport(asyncio.Transport):
    """Stands for the transport of a socket, and keeps the data that is written."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 40000), "sockname": ("192.0.2.1", 25)})
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def run_driver(sessions: Iterable[int], *, peer: str, asks: bool = False, **options: Any) -> None:
    """Open connections to one server, each with its number of transactions.

    With `asks` the handler is asked about each recipient.
    """
    from ehlo.handler import Handler, callbacks_of_handler
    from ehlo.message import Message
    from ehlo.protocol.address import Address
    from ehlo.server.answer import Routes
    from ehlo.server.driver import Driver
    from ehlo.server.hooks import hooks_of
    from ehlo.server.options import rules
    from ehlo.server.options.files import Files
    from ehlo.server.runtime import Clock, Runtime
    from ehlo.server.server import Server
    from ehlo.session import Session

    class Sink(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            del session, message

    class Asked(Sink):
        async def on_rcpt(self, session: Session, recipient: Address, params: Any) -> None:
            del session, recipient, params

    loop, handler = Loop(), Asked() if asks else Sink()
    callbacks = callbacks_of_handler(handler)
    server = Server(handler, max_messages=0, hostname="mx.example", **options)
    resolved = rules.resolve(server.options, callbacks, Files())
    runtime = Runtime(server.options, resolved.exempt, cast("asyncio.AbstractEventLoop", loop))
    runtime.clock = Clock(lambda: 0.0)
    routes = Routes(resolved, hooks_of(callbacks))
    gc.freeze()  # a garbage collection would hit so short a run at random
    for transactions in sessions:
        transport = Transport(peer)
        driver = Driver(runtime, routes)
        driver.connection_made(transport)
        for packet in session(transactions):
            driver.data_received(packet)
            loop.go_on()
        driver.connection_lost(None)
        accepted = sum(reply.startswith(b"250 2.0.0") for reply in transport.sent)
        if accepted != transactions:
            raise RuntimeError(f"{accepted} messages of {transactions} were accepted")


def run(layer: str, transactions: int) -> None:
    """Run the transactions to measure."""
    many = 1_000_000  # so that no transaction is rejected
    if layer == "core":
        run_core(transactions)
    elif layer == "driver":
        run_driver([transactions], peer="127.0.0.1")
    elif layer == "hooks":
        run_driver([transactions], peer="127.0.0.1", asks=True)
    elif layer == "connections":
        run_driver(repeat(1, transactions), peer="198.51.100.1", max_connection_rate=many)
    else:
        counted: dict[str, Any] = {"max_messages_per_hour": many, "max_recipients_per_hour": many}
        run_driver([transactions], peer="198.51.100.1", **counted)


def counted(src: Path, layer: str, transactions: int) -> int:
    """Return the number of instructions of a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"),
                *(sys.executable, __file__, "--run", layer, str(transactions)),
            ],
            env={**os.environ, "PYTHONPATH": str(src), "PYTHONHASHSEED": "0"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    total = re.search(r"Collected : (\d+)", found.stderr)
    if total is None or found.returncode:
        raise RuntimeError(found.stderr)
    return int(total[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Instructions of a plain transaction.")
    parser.add_argument("--src", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--driver", action="store_true", help="include the server's part")
    parser.add_argument(
        "--run",
        nargs=2,
        metavar=("LAYER", "N"),
        help="run the transactions themselves (used internally)",
    )
    given = parser.parse_args()
    if given.run is not None:
        run(given.run[0], int(given.run[1]))
        return
    for layer in ("driver", "hooks", "limits", "connections") if given.driver else ("core",):
        more = counted(given.src, layer, MANY) - counted(given.src, layer, FEW)
        print(f"{more // (MANY - FEW):,} instructions per transaction {LAYERS[layer]}")


if __name__ == "__main__":
    main()
