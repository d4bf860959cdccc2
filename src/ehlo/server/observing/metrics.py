"""Serves a snapshot over HTTP: `/metrics` for Prometheus, and `/readyz` for a load balancer.

`prometheus_client`, an extra, writes the text. Nothing is registered with it, and it is imported
with the first request.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ehlo.net import parse_address
from ehlo.server.observing.stats import BYTES, SECONDS, Snapshot, queued

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_PLAIN: Final = "text/plain; charset=utf-8"

# Name, help, labels, and the key in the snapshot. Several labels are one key, joined by spaces
COUNTERS: Final[Sequence[tuple[str, str, Sequence[str], str]]] = (
    ("connections", "Connections that started a session.", (), "connections"),
    ("turned_away", "Connections that were rejected before a session.", ("reason",), "turned_away"),
    ("tls_handshakes", "TLS handshakes that succeeded.", ("version",), "tls"),
    ("tls_failures", "TLS handshakes and connections that failed.", (), "tls_failures"),
    ("commands", "SMTP commands received.", ("verb",), "commands"),
    ("replies", "SMTP replies sent.", ("code",), "replies"),
    ("refusals", "Replies sent with a 4xx or 5xx code.", ("verb", "code", "reason"), "refusals"),
    ("logins", "Logins accepted and rejected.", ("mechanism", "outcome"), "logins"),
    ("messages", "Messages accepted and rejected.", ("outcome",), "messages"),
    ("bytes", "Bytes received from and sent to clients.", ("direction",), "bytes"),
    ("spooled_bytes", "Bytes of messages written to disk.", (), "spooled"),
    ("deliveries", "Deliveries of the queue by outcome.", ("outcome",), "deliveries"),
)
GAUGES: Final = (
    ("sessions", "Sessions that are open.", "sessions"),
    ("tls_sessions", "Open sessions that use TLS.", "under_tls"),
    ("memory_bytes", "Bytes of messages held in memory.", "memory"),
    ("memory_limit_bytes", "Maximum bytes of messages held in memory.", "memory_limit"),
    ("disk_bytes", "Bytes of messages held on disk.", "on_disk"),
    ("disk_limit_bytes", "Maximum bytes of messages held on disk.", "disk_limit"),
    ("draining", "1 while the server shuts down, otherwise 0.", "draining"),
    ("uptime_seconds", "Seconds since the server started.", "uptime"),
    ("workers", "Worker processes that should run.", "wanted"),
    ("workers_answered", "Worker processes that are counted in these gauges.", "answered"),
)
# Of a queue, if the server has one: name, help, labels
OF_QUEUE: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("queue_deliveries", "Deliveries that are in the queue.", ("state",)),
    ("queue_oldest_due_seconds", "Seconds for which the oldest waiting delivery has been due.", ()),
)
# Name, help, labels
HISTOGRAMS: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("message_bytes", "Sizes of accepted messages.", ()),
    ("session_seconds", "Durations of sessions.", ()),
    ("hook_seconds", "Durations of hooks, with the wait for a thread.", ("hook",)),
)


def check_metrics(addr: str) -> None:
    """Check that metrics can be served on `addr` (`""` disables them). Raises `ValueError`."""
    if not addr:
        return
    try:
        parse_address(addr)
    except ValueError as error:
        raise ValueError(f"metrics: {error}") from None
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError("metrics needs prometheus-client: pip install 'ehlo[metrics]'")


def text(snapshot: Snapshot) -> bytes:
    """Return a snapshot in the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest  # an extra

    class Source:
        def collect(self) -> Iterator[Metric]:
            yield from _metrics(snapshot)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Source())
    return generate_latest(registry)


def _metrics(snapshot: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    stats = snapshot["stats"]
    for name, help_text, labels, key in COUNTERS:
        counter = CounterMetricFamily(f"ehlo_{name}", help_text, labels=labels)
        for names, count in (stats[key] if labels else {"": stats[key]}).items():
            counter.add_metric(names.split(" ", len(labels) - 1) if labels else [], count)
        yield counter
    gauges = {**snapshot, **snapshot["now"], **snapshot["workers"]}
    for name, help_text, key in GAUGES:
        yield GaugeMetricFamily(f"ehlo_{name}", help_text, value=gauges[key])
    if snapshot["queue"]:
        yield from _of_queue(list(snapshot["queue"].values()))
    for name, help_text, labels in HISTOGRAMS:
        bounds = BYTES if name.endswith("_bytes") else SECONDS
        found = stats[name] if labels else {"": stats[name]}
        yield _histogram(name, help_text, labels, bounds, found)


def _of_queue(levels: Sequence[Mapping[str, float]]) -> Iterator[Metric]:
    """Yield the sum over what holds a queue, and the oldest of all that is due."""
    from prometheus_client.core import GaugeMetricFamily

    (name, text, labels), (oldest, oldest_text, _) = OF_QUEUE
    family = GaugeMetricFamily(f"ehlo_{name}", text, labels=labels)
    whole = queued(levels)
    due = whole.pop("oldest_due")
    for state, count in whole.items():
        family.add_metric([state], count)
    yield family
    yield GaugeMetricFamily(f"ehlo_{oldest}", oldest_text, value=due)


def _histogram(
    name: str,
    help_text: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    found: Mapping[str, Snapshot],
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"ehlo_{name}", help_text, labels=labels)
    uppers = [*map(str, map(float, bounds)), "+Inf"]
    for key, plain in found.items():
        buckets = list(zip(uppers, itertools.accumulate(plain["counts"]), strict=True))
        family.add_metric([key] if labels else [], buckets, plain["sum"])
    return family


# -- HTTP --------------------------------------------------------------------------------------


async def response(
    head: bytes, snapshot: Callable[[], Awaitable[Snapshot]], unready: Callable[[], str]
) -> bytes:
    """Return the response to a request of which `head` is all that counts."""
    method, path = ([*head.split(b"\r\n", 1)[0].split(b" "), b"", b""])[:2]
    if method not in (b"GET", b"HEAD"):
        return _http("405 Method Not Allowed", b"GET and HEAD only\n")
    match path.partition(b"?")[0]:
        case b"/metrics":
            from prometheus_client import CONTENT_TYPE_LATEST

            found = _http("200 OK", text(await snapshot()), CONTENT_TYPE_LATEST)
        case b"/readyz":
            why = unready()
            status = "503 Service Unavailable" if why else "200 OK"
            found = _http(status, f"{why or 'ready'}\n".encode())
        case _:
            found = _http("404 Not Found", b"/metrics or /readyz\n")
    return found if method == b"GET" else found.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _http(status: str, body: bytes, content_type: str = _PLAIN) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
