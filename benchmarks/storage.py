"""Measures the store of the inbox: what a mail costs, and what reading costs at 10,000 mails.

    python benchmarks/storage.py [--mails 10000] [--size 1000] [--file mail.db] [--real-time]

Times are CPU of this process, in all threads, unless the clock is named. Twenty tasks put mails at
once, as twenty connections do. The time of an answer is the least of twenty.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ehlo.content.summary import summarize
from ehlo.store import Delivery, Store
from ehlo.store.folding import searched_text

CONNECTIONS = 20
QUERIES = {
    "a rare word (at most 1)": "quetzal",
    "a word that does not occur": "xylophone",
    "a common word (at most 50)": "invoice",
    "a common word of two letters": "in",
    "an address": "to:r7@example.net",
    "a header": "header:message-id=77@example",
    "all but a common word": "-invoice",
}
SEARCHES = {
    "a rare word": ["quetzal"] * 60,
    "a common word": ["invoice"] * 10,
    "a header": ["-header:x-none=1"] * 2,
    "new mails": ["quetzal"],
}
TURNS = 3  # of which each has puts during searches, and puts without
WORDS = [
    "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=7))  # noqa: S311  as below
    for number in range(4_000)
]


def mails(count: int, size: int) -> Iterator[bytes]:
    """Yield messages of about `size` bytes; each says "invoice", one in a thousand "quetzal"."""
    chosen = random.Random(1)  # noqa: S311  words for a measurement
    for number in range(count):
        head = (
            f"Received: from client (client [192.0.2.1]) by mx.example with ESMTP id {number}\r\n"
            f"From: Sender {number} <sender{number}@example.com>\r\n"
            f'To: "Recipient, {number % 50}" <r{number % 50}@example.net>\r\n'
            f"Subject: invoice {number}{' quetzal' if number % 1_000 == 7 else ''}\r\n"
            f"Date: Sat, 28 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@example.com>\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        )
        lines = [
            " ".join(chosen.choices(WORDS, k=9)) for _ in range(max(1, (size - len(head)) // 72))
        ]
        yield (head + "\r\n".join(lines) + "\r\n").encode()


def microseconds(work: Callable[[], object], times: int) -> float:
    """Return the CPU time of `work`, the least of five."""
    least = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(times):
            work()
        least = min(least, (time.process_time() - begun) / times * 1e6)
    return least


async def milliseconds(work: Callable[[], Awaitable[object]], times: int = 20) -> float:
    """Return the CPU time of one answer, in all threads; the least of `times`."""
    least = float("inf")
    for _ in range(times):
        begun = time.process_time()
        await work()
        least = min(least, (time.process_time() - begun) * 1e3)
    return least


def memory() -> float:
    """Return the memory of this process now, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1_024


async def fill(store: Store, left: Iterator[bytes]) -> float:
    """Put all messages, twenty at once; return the CPU time of it."""
    made = 0.0

    async def client() -> None:
        nonlocal made
        while True:
            begun = time.thread_time()
            message = next(left, b"")
            made += time.thread_time() - begun
            if not message:
                return
            await store.put(Delivery(message, "a@example.com", ["r@example.net"]))

    before = time.process_time()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return time.process_time() - before - made


class Waited(NamedTuple):
    """How long one put took, in milliseconds."""

    used: float  # CPU time of the process meanwhile
    clock: float


async def delays(
    store: Store, work: Callable[[], Awaitable[object]], message: bytes
) -> list[Waited]:
    """Return how long each put takes while `work` is done; there is one each 3 ms."""
    task = asyncio.ensure_future(work())
    found = []
    while not task.done():
        await asyncio.sleep(0.003)
        begun, used = time.perf_counter(), time.process_time()
        await store.put(Delivery(message))
        clock = time.perf_counter() - begun
        found.append(Waited((time.process_time() - used) * 1e3, clock * 1e3))
    await task
    return found


async def compare(store: Store, message: bytes) -> None:
    """Print how long puts take during searches and without any, in turns of the same run.

    A thread that waits for others of this process waits at most for the CPU time that they use. On
    a machine that does other things the clock shows those.
    """
    alone: list[Waited] = []
    during: dict[str, list[Waited]] = {name: [] for name in SEARCHES}
    for _ in range(TURNS):
        for name, queries in SEARCHES.items():
            if name == "new mails":
                await fill(store, mails(200, 1_000))

            async def search(queries: Sequence[str] = queries) -> None:
                for query in queries:
                    await store.search(query)

            during[name] += await delays(store, search, message)
            alone += await delays(store, partial(asyncio.sleep, 0.1), message)
    tell_waits("put without a search", alone)
    least = max(alone).used
    for name, found in during.items():
        tell_waits(f"put during searches for {name}", found)
        tell("  longer than without, CPU (at most 20)", max(found).used - least, "ms")


def tell_waits(name: str, found: Sequence[Waited]) -> None:
    tell(
        f"{name}, CPU of the process: median", statistics.median(each.used for each in found), "ms"
    )
    tell("  longest", max(found).used, "ms")
    tell("  longest by the clock", max(each.clock for each in found), "ms")


def schedule(policy: int, priority: int) -> None:
    """Set how the threads of this process are scheduled, in Linux and with root's rights."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


def tell(text: str, value: float, unit: str) -> None:
    print(f"{text:<62}{value:>10.2f} {unit}")


async def measure(count: int, size: int, path: str, *, real_time: bool) -> None:
    """Fill a store, and print what it costs."""
    one = next(mails(1, size))
    tell(f"summary of {len(one)} bytes, CPU", microseconds(lambda: summarize(one), 1_000), "us")
    tell("text for the index, CPU", microseconds(lambda: searched_text(one, ()), 200), "us")
    async with Store.open(path, keep=0) as store:
        tell("put, CPU per mail", await fill(store, mails(count, size)) / count * 1e6, "us")
        before = time.process_time()
        await store.search("quetzal")
        used = (time.process_time() - before) / count * 1e6
        tell("first search: index of all mails, CPU per mail", used, "us")
        mail_id = (await store.list()).mails[0].id
        await store.search("quetzal")
        tell("list of 50 (at most 2)", await milliseconds(store.list), "ms")
        tell("list of 50 as JSON", await milliseconds(lambda: listed(store)), "ms")
        tell(
            "list of 50 from the middle",
            await milliseconds(lambda: store.list(start=count // 2)),
            "ms",
        )
        tell("a message (at most 1)", await milliseconds(lambda: store.get(mail_id)), "ms")
        for name, query in QUERIES.items():
            tell(f"search: {name}", await milliseconds(partial(store.search, query)), "ms")
        tell("size of the database", await store.size() / 2**20, "MiB")
        tell("memory of the process (at most 60)", memory(), "MiB")
        if real_time:
            schedule(os.SCHED_RR, 1)
        await compare(store, one)
        if real_time:
            schedule(os.SCHED_OTHER, 0)
        tell("delete all", await milliseconds(store.delete, 1), "ms")


async def listed(store: Store) -> object:
    """Return a list as JSON, as the API sends it."""
    page = await store.list()
    return [
        json.dumps([each.id, each.is_read, each.created])[:-1] + each.summary for each in page.mails
    ]


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1_000)
    parser.add_argument("--file", default="", help="a file to keep; by default a temporary one")
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="compare puts before all other programs, for five seconds: as if there were none",
    )
    arguments = parser.parse_args()
    gc.freeze()  # as `ehlo` does: to look through what is imported takes 30 to 60 ms
    asyncio.run(
        measure(arguments.mails, arguments.size, arguments.file, real_time=arguments.real_time)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
