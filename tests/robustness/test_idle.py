"""Idle connections: the memory of each, and a new client is served immediately."""

from __future__ import annotations

import statistics
import time

import pytest
from load import Endpoint, idle, settle
from measure import anonymous_memory

from robustness.process import Launch, Tell
from robustness.scale import IN_FULL, KIB, full, need_descriptors
from support.certificates import Certificates
from support.client import Client

PATIENCE = 0.05  # seconds for a whole session, at the median
FRESH = full(101, short=21)


@pytest.mark.parametrize(
    ("tls", "count", "most"),
    [(False, full(5000, short=1000), 4 * KIB), (True, full(1000, short=200), 48 * KIB)],
    ids=["plain", "tls"],
)
def test_idle_connections_cost_little_and_delay_no_other_client(
    launch: Launch, certificates: Certificates, tell: Tell, tls: bool, count: int, most: int
) -> None:
    need_descriptors(2 * count + 1000)  # the server keeps half of them for bodies on disk
    files = ("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file)
    options = (*files, "--tls-listener") if tls else ()
    server = launch("drop", "--max-connections", str(count + 100), *options)
    context = certificates.client if tls else None
    endpoint = Endpoint(server.address.port, context)

    def serve_one() -> float:
        begun = time.perf_counter()
        with Client(server.address, tls=context) as client:
            client.hello()
            assert client.mail() == "250 2.0.0 Ok: queued"
            assert client.say("QUIT").startswith("221 ")
        return time.perf_counter() - begun

    for _ in range(FRESH):
        serve_one()  # the first sessions fill caches
    settle(endpoint)
    before = anonymous_memory(server.pid)
    with idle(endpoint, count):
        each = (anonymous_memory(server.pid) - before) / count
        assert server.snapshot()["now"]["sessions"] == count
        median = statistics.median(serve_one() for _ in range(FRESH))
        assert server.snapshot()["now"]["sessions"] >= count
    tell(f"{count} connections, {each:.0f} octets each; a fresh client {median * 1000:.1f} ms")
    assert each <= most
    if IN_FULL:
        assert median <= PATIENCE
    server.wait_until_no_sessions()
    assert serve_one()
