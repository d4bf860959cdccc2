"""A mixed load with random faults: memory stays, and the server's counts match the clients'.

`EHLO_SOAK_MINUTES` and `EHLO_SOAK_SEED` set it. A seed makes the same clients, but not the same
order between them. The short form has one seed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import time
import urllib.request
from collections import Counter
from random import Random
from typing import Any

from measure import anonymous_memory

from robustness.process import Launch, Launched, Tell
from robustness.scale import DEADLINE, IN_FULL, MIB, full, resident
from robustness.visits import MAX_SIZE, TIMEOUT, WEIGHTS, Ledger, Visit, Visitor
from support.certificates import Certificates

SECONDS = full(60 * float(os.environ.get("EHLO_SOAK_MINUTES", "30")), short=3.5)
FIRST = full(60.0, short=1.5)  # seconds until the memory is looked at for the first time
VISITORS = full(40, short=30)
MOST_GROWN = 1.05
PAUSE = 0.1  # seconds, at most, from one visit to the next, after the first minute
EACH = 60.0  # seconds from one look at the memory to the next
REST = full(12, short=0)  # seconds in which a server gives back what is free: it does every ten


async def visit_for(seconds: float, visitors: list[Visitor], pause: float, pid: int) -> list[float]:
    """Run all visitors; return the server's memory in MiB, minute by minute."""
    until = time.monotonic() + seconds

    async def keep_coming(visitor: Visitor, first: Visit) -> None:
        await visitor.come(first)
        while time.monotonic() < until:
            await visitor.come()
            await asyncio.sleep(visitor.random.random() * pause)  # the pace of the clients

    async def look() -> list[float]:
        found = []
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(EACH, left))  # a curve over time
            found.append(round(resident(pid) / MIB, 1))
        return found

    async with asyncio.timeout(seconds + DEADLINE), asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        for visitor, first in zip(visitors, itertools.cycle(WEIGHTS), strict=False):
            group.create_task(keep_coming(visitor, first))  # so that each kind of visit is made
    return looking.result()


def at_rest(server: Launched) -> int:
    """Return the server's memory in bytes once all clients are gone and free memory is returned."""
    server.wait_until_no_sessions()
    least = resident(server.pid)
    for _ in range(REST):
        time.sleep(1.0)  # a curve over time, of which the least is wanted
        least = min(least, resident(server.pid))
    return least


def metrics(server: Launched) -> dict[str, float]:
    """Return the server's metrics by name and labels."""
    found = re.search(r"metrics on ([\d.:]+)", server.program.err.text)
    assert found is not None
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_memory_stays_and_counts_agree_under_a_mixed_load(
    launch: Launch, certificates: Certificates, tell: Tell
) -> None:
    chosen = secrets.randbelow(10**9) if IN_FULL else 1
    seed = int(os.environ.get("EHLO_SOAK_SEED") or chosen)
    tell(f"EHLO_SOAK_SEED={seed}, for {SECONDS / 60:.1f} minutes")
    options = {
        "tls-cert": certificates.cert_file,
        "tls-key": certificates.key_file,
        "timeout": TIMEOUT,
        "max-size": MAX_SIZE,
        "max-memory": 64 * MIB,
        "spool-threshold": 65_536,
        "metrics": "127.0.0.1:0",
    }
    given = (str(text) for name, value in options.items() for text in (f"--{name}", value))
    server = launch("Soak", *given)
    ledger = Ledger()
    visitors = [
        Visitor(server.address, ledger, Random(f"{seed} {number}"), certificates.client)  # noqa: S311  chosen faults, no secrets
        for number in range(VISITORS)
    ]

    # Without pauses: the first minute sees the highest use, which malloc keeps
    asyncio.run(visit_for(FIRST, visitors, 0, server.pid))
    early = at_rest(server)
    tell(f"after {FIRST:.0f} s {early / MIB:.1f} MiB, {anonymous_memory(server.pid) / MIB:.1f} own")
    curve = asyncio.run(visit_for(SECONDS - FIRST, visitors, PAUSE, server.pid))
    late = at_rest(server)
    snapshot = server.wait_until_no_sessions()
    tell(f"in the end {late / MIB:.1f} MiB, {anonymous_memory(server.pid) / MIB:.1f} own; {curve}")
    told = f"EHLO_SOAK_SEED={seed}"
    assert ledger.visits.keys() == {visit.__name__ for visit in WEIGHTS}, told
    check_messages(server, snapshot, ledger, told)
    check_counts(snapshot, ledger, told)
    check_metrics(metrics(server), snapshot)
    assert (snapshot["now"]["memory"], snapshot["now"]["on_disk"]) == (0, 0)
    tell(
        f"{ledger.visits.total()} visits, {len(ledger.acknowledged)} messages acknowledged, "
        f"{len(ledger.in_doubt)} cut before their answer; {ledger.heard.total()} replies heard of "
        f"{sum(snapshot['stats']['replies'].values())}, {ledger.unheard} of them could be lost"
    )
    if IN_FULL:  # in a few seconds chance decides
        assert late <= MOST_GROWN * early, told  # after the counts, which are told either way
    assert server.program.stop() == 0
    heard = server.program.err.text
    assert "Traceback" not in heard, heard
    assert "level=error" not in heard, heard


def check_messages(server: Launched, snapshot: dict[str, Any], ledger: Ledger, told: str) -> None:
    """Check that acknowledged and delivered messages agree, except for clients that left early."""
    logged = server.logged()
    assert len(set(logged)) == len(logged), told
    assert ledger.acknowledged <= set(logged), told
    assert set(logged) - ledger.acknowledged <= ledger.in_doubt, told
    assert snapshot["stats"]["messages"]["accepted"] == len(logged), told
    refused = snapshot["stats"]["messages"]["refused"]
    assert refused == ledger.refused, told


def check_counts(snapshot: dict[str, Any], ledger: Ledger, told: str) -> None:
    """Check the counts of connections and replies, except for those that no client could see."""
    stats = snapshot["stats"]
    assert ledger.connections <= stats["connections"] <= ledger.connections + ledger.unseen, told
    assert stats["turned_away"] == {}, told
    said = Counter({str(code): count for code, count in stats["replies"].items()})
    assert ledger.heard <= said, (told, ledger.heard - said)
    assert said.total() - ledger.heard.total() <= ledger.unheard, told


def check_metrics(found: dict[str, float], snapshot: dict[str, Any]) -> None:
    """Check that the metrics agree with the snapshot."""
    stats = snapshot["stats"]
    assert found["ehlo_connections_total"] == stats["connections"]
    for outcome, count in stats["messages"].items():
        assert found[f'ehlo_messages_total{{outcome="{outcome}"}}'] == count
    for code, count in stats["replies"].items():
        assert found[f'ehlo_replies_total{{code="{code}"}}'] == count
    assert found["ehlo_sessions"] == 0
