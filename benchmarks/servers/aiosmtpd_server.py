"""Runs aiosmtpd on uvloop, with a handler that counts the bytes of each message."""

import asyncio
import ssl
from typing import Any

from aiosmtpd.smtp import SMTP
from serving import Tally, parser, run, tls_context, until_terminated


class Handler:
    """Accepts every message."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def handle_DATA(  # noqa: N802  # the name that aiosmtpd calls
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        del server, session
        self._tally.add(envelope.content)
        return "250 2.0.0 Ok"


async def serve(tally: Tally, context: ssl.SSLContext | None) -> None:
    """Listen on a free port of the loopback interface until SIGTERM."""
    loop = asyncio.get_running_loop()
    handler = Handler(tally)

    def protocol() -> Any:
        return SMTP(
            handler,
            data_size_limit=2**30,
            enable_SMTPUTF8=True,
            decode_data=False,
            hostname="bench.example",  # set, so that no DNS lookup is counted
            loop=loop,
        )

    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context, backlog=1024)
    async with server:
        await until_terminated(*server.sockets[0].getsockname())


def main() -> None:
    tally = Tally()
    run(serve(tally, tls_context(parser().parse_args())), tally)


if __name__ == "__main__":
    main()
