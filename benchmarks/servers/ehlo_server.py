"""ehlo on uvloop, with a plain function as handler: `--handler async` or `--handler def`."""

import argparse
import ssl
from typing import Any

from serving import Tally, parser, run, tls_context, until_terminated

import ehlo


def handler_for(kind: str, tally: Tally) -> Any:
    """A handler that takes every message: a coroutine function or, for the threads, a plain one."""

    async def on_loop(remote_addr: Any, mail_from: Any, rcpt_tos: Any, data: bytes) -> None:
        del remote_addr, mail_from, rcpt_tos
        tally.add(data)

    def in_thread(remote_addr: Any, mail_from: Any, rcpt_tos: Any, data: bytes) -> None:
        del remote_addr, mail_from, rcpt_tos
        tally.add(data)

    return on_loop if kind == "async" else in_thread


async def serve(handler: Any, context: ssl.SSLContext | None) -> None:
    """Listen on a free port of the loopback until told to stop."""
    server = ehlo.Server(
        handler,
        addr="127.0.0.1:0",
        hostname="bench.example",
        max_size=0,
        max_messages=0,  # a kept connection takes a whole round
        max_connections=4096,  # the idle connections, and room
        tls_config=context,
        tls_listener=context is not None,
    )
    async with server:
        address = server.addresses[0]
        await until_terminated(address.host, address.port)


def arguments() -> argparse.Namespace:
    options = parser()
    options.add_argument("--handler", choices=("async", "def"), default="async")
    return options.parse_args()


def main() -> None:
    chosen = arguments()
    tally = Tally()
    run(serve(handler_for(chosen.handler, tally), tls_context(chosen)), tally)


if __name__ == "__main__":
    main()
