"""Runs the inbox of ehlo on uvloop: `ehlo.inbox.Catcher`, with the sessions of its mail.

It is what `ehlo --no-print` runs, without its pages. By default the index of texts is filled before
a session that follows many messages is greeted, so that the work of a round belongs to the round;
with `--no-index` there is none.
"""

import argparse
import gc
import socket
from collections.abc import Callable
from typing import Any

from ehlo_server import LIMITS
from serving import parser

import ehlo
from ehlo.inbox import Catcher
from ehlo.sqlite.connecting import Database
from ehlo.store.indexing import Index

MANY = 50  # messages; sessions that begin together have brought fewer so far


class Filling(ehlo.Handler):
    """Fills the index when a session begins after many messages."""

    def __init__(self) -> None:
        self.catcher: Catcher | None = None
        self.indexed = 0

    async def on_connect(self, session: ehlo.Session) -> None:
        del session
        catcher = self.catcher
        desk = None if catcher is None else catcher.desk
        if desk is not None and desk.traffic.accepted - self.indexed > MANY:
            self.indexed = desk.traffic.accepted
            await desk.store.search("a text that is in no message")


def without_index() -> None:
    """Let no message be indexed, neither when one comes nor while none does."""

    def tell(_index: Index, _newest: int, *, dropped: bool) -> None:
        del dropped

    def tidy(_index: Index, _database: Database, _is_wanted: Callable[[], bool]) -> bool:
        return False

    setattr(Index, "tell", tell)  # noqa: B010  a method of another class, as below
    setattr(Index, "tidy", tidy)  # noqa: B010


def arguments() -> argparse.Namespace:
    options = parser()
    options.add_argument("--no-index", action="store_true", help="index no message")
    return options.parse_args()


def main() -> None:
    chosen = arguments()
    handler = Filling()
    if chosen.no_index:
        without_index()
        catcher = Catcher()
    else:
        catcher = handler.catcher = Catcher(handler)
    gc.freeze()  # as the command line does
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(*sock.getsockname(), flush=True)
    limits: dict[str, Any] = LIMITS
    server = ehlo.Server(
        catcher,
        addr=f"fd:{sock.detach()}",
        hostname="bench.example",
        loop="uvloop",
        transcripts="masked",
        **limits,
    )
    server.listen_and_serve(tune_malloc=True)
    print(catcher.traffic.accepted, catcher.traffic.accepted_size, flush=True)


if __name__ == "__main__":
    main()
