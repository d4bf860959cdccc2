"""Runs ehlo on uvloop, with a function as its handler: `--handler async` or `--handler def`.

All default limits are enabled, and no address is exempt, not even on the loopback interface. Limits
that the load would reach are set higher; their counters still run.
"""

import argparse
import socket
import ssl
from typing import Any

from serving import Tally, parser, tls_context

import ehlo

NEVER = 10**9

LIMITS: dict[str, Any] = {
    "exempt_networks": (),
    "max_messages": NEVER,  # a kept connection may send a whole round
    "max_connections": 4096,  # enough for the idle connections
    "max_connections_per_address": 4096,
    "max_connection_rate": NEVER,
}
HOURLY: dict[str, Any] = {"max_messages_per_hour": NEVER, "max_recipients_per_hour": NEVER}


def handler_for(kind: str, tally: Tally) -> Any:
    """Return a handler that accepts every message: `async def`, or `def` for the threads."""

    async def on_loop(remote_addr: Any, mail_from: Any, rcpt_tos: Any, data: bytes) -> None:
        del remote_addr, mail_from, rcpt_tos
        tally.add(data)

    def in_thread(remote_addr: Any, mail_from: Any, rcpt_tos: Any, data: bytes) -> None:
        del remote_addr, mail_from, rcpt_tos
        tally.add(data)

    return on_loop if kind == "async" else in_thread


def serve(
    handler: Any, context: ssl.SSLContext | None, limits: dict[str, Any], *, tune_malloc: bool
) -> None:
    """Listen on a free port of the loopback interface, and block until SIGTERM."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(*sock.getsockname(), flush=True)
    server = ehlo.Server(
        handler,
        addr=f"fd:{sock.detach()}",
        hostname="bench.example",
        tls_config=context,
        tls_listener=context is not None,
        loop="uvloop",
        **limits,
    )
    server.listen_and_serve(tune_malloc=tune_malloc)


def arguments() -> argparse.Namespace:
    options = parser()
    options.add_argument("--handler", choices=("async", "def"), default="async")
    options.add_argument("--hourly", action="store_true", help="enable the hourly limits")
    options.add_argument(
        "--tune-malloc", action="store_true", help="set malloc as the command line and workers do"
    )
    return options.parse_args()


def main() -> None:
    chosen = arguments()
    tally = Tally()
    limits = {**LIMITS, **HOURLY} if chosen.hourly else LIMITS
    handler, context = handler_for(chosen.handler, tally), tls_context(chosen)
    serve(handler, context, limits, tune_malloc=chosen.tune_malloc)
    print(tally.messages, tally.size, flush=True)


if __name__ == "__main__":
    main()
