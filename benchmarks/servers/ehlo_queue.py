"""Runs ehlo on uvloop with a queue in the current directory; `--workers 4` runs several processes.

Its deliveries do nothing. It prints `host port`, and its control socket is in that directory, too.
"""

import argparse
import socket

from ehlo_server import LIMITS

import ehlo


async def handler(session: ehlo.Session, message: ehlo.Message) -> None:
    """Return, so that the message is delivered."""


queue = ehlo.Queue("mail.db", handler)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--workers", type=int, default=1)
    workers = options.parse_args().workers
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(*sock.getsockname(), flush=True)
    server = ehlo.Server(
        "ehlo_queue:queue",
        addr=f"fd:{sock.detach()}",
        hostname="bench.example",
        control="control",
        workers=workers,
        loop="uvloop",
        **LIMITS,
    )
    server.listen_and_serve(tune_malloc=True)  # as `ehlo serve --queue` does


if __name__ == "__main__":
    main()
