"""Measures the API of the inbox at 10,000 mails, in this process: `python benchmarks/webapi.py`.

It prints medians, in milliseconds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message

from ehlo.faults import Faults
from ehlo.inbox import Desk, make_site
from ehlo.store import Delivery, Store

MAILS = 10_000
ROUNDS = 200
BODY = "".join(f"Line {line} of a mail that is about 1 KB large.\r\n" for line in range(20))


async def ask(app: ASGIApp, target: str) -> int:
    """Make one request, and return the size of its answer."""
    path, _, query = target.partition("?")
    size = 0
    is_asked = False
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8025")],
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 8_025),
    }

    async def receive() -> Message:
        nonlocal is_asked
        if is_asked:
            await asyncio.Event().wait()  # the client stays
        is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal size
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"{target}: {message['status']}")
        size += len(message.get("body", b""))

    await app(scope, receive, send)
    return size


async def median_of(app: ASGIApp, target: Callable[[int], str]) -> float:
    """Return the median time of a request, in milliseconds."""
    await ask(app, target(0))
    times = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        await ask(app, target(number))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1_000


async def main() -> None:
    """Measure, and print a table."""
    async with Store.open(keep=0) as store:

        async def deliver(delivery: Delivery) -> str:
            return await store.put(delivery)

        def mail(number: int) -> bytes:
            head = f"From: Ann <a{number}@x.test>\r\nTo: b@y.test\r\nSubject: mail {number}\r\n"
            return f"{head}Message-ID: <{number}@x.test>\r\n\r\nrare{number}\r\n{BODY}".encode()

        mails = (Delivery(mail(each), "a@x.test", ["b@y.test"]) for each in range(MAILS))
        ids = await asyncio.gather(*map(store.put, mails))
        app = make_site(Desk(store=store, faults=Faults(), deliver=deliver))
        await ask(app, "/api/v1/search?query=rare1")  # which waits for the index
        rows: dict[str, Callable[[int], str]] = {
            "list of 50": lambda _number: "/api/v1/messages",
            "message, read": lambda _number: f"/api/v1/message/{ids[-1]}",
            "message, unread": lambda number: f"/api/v1/message/{ids[number]}",
            "source": lambda number: f"/api/v1/message/{ids[number]}/raw",
            "headers": lambda number: f"/api/v1/message/{ids[number]}/headers",
            "rare word": lambda number: f"/api/v1/search?query=rare{5_000 + number}",
            "common word": lambda _number: "/api/v1/search?query=Line",
            "info": lambda _number: "/api/v1/info",
        }
        for name, target in rows.items():
            taken = await median_of(app, target)
            sys.stdout.write(f"{name:<20}{taken:8.2f} ms\n")


if __name__ == "__main__":
    asyncio.run(main())
