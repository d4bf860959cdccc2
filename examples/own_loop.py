"""Runs a server in your own event loop, next to your other tasks."""

import asyncio
import signal
import sys

import ehlo


async def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    await asyncio.sleep(0)  # here you would await a database, a queue or an HTTP client
    print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes")


async def main() -> None:
    server = ehlo.Server(handler, addr=sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with server:
        print("listening on", server.addresses[0], flush=True)
        await stop.wait()  # or `server.wait_closed()`, if other code closes the server


asyncio.run(main())
