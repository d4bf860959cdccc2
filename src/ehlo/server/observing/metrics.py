"""A snapshot as Prometheus reads it, over a little HTTP: `/metrics`, and `/readyz` for a balancer.

`prometheus_client` writes the text, and is an extra; nothing is registered with it, and nothing of
it is imported before somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ehlo.net import parse_address
from ehlo.server.observing.stats import OCTETS, SECONDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from ehlo.server.observing.views import Seen

__all__ = ["Endpoint", "check_metrics", "text"]

_PATIENCE: Final = 5.0  # seconds, for the question to come and the answer to leave
_PLAIN: Final = "text/plain; charset=utf-8"

# Name, help, labels, and where it is in the snapshot; several labels stand in one key with spaces
_COUNTERS: Final[Sequence[tuple[str, str, Sequence[str], str]]] = (
    ("connections", "Connections that became sessions.", (), "connections"),
    ("turned_away", "Connections that did not.", ("reason",), "turned_away"),
    ("tls_handshakes", "TLS handshakes done.", ("version",), "tls"),
    ("tls_failures", "TLS handshakes and connections that failed.", (), "tls_failures"),
    ("commands", "Commands.", ("verb",), "commands"),
    ("replies", "Replies.", ("code",), "replies"),
    ("refusals", "Replies 4xx and 5xx.", ("verb", "code", "reason"), "refusals"),
    ("logins", "Logins decided on.", ("mechanism", "outcome"), "logins"),
    ("messages", "Messages, by what came of them.", ("outcome",), "messages"),
    ("octets", "Octets on the network.", ("direction",), "octets"),
    ("spooled_octets", "Octets written to disk.", (), "spooled"),
)
_GAUGES: Final = (
    ("sessions", "Sessions now.", "sessions"),
    ("tls_sessions", "Sessions under TLS now.", "under_tls"),
    ("memory_octets", "Octets held in memory now.", "memory"),
    ("memory_limit_octets", "Octets that may be held in memory.", "memory_limit"),
    ("disk_octets", "Octets of bodies on disk now.", "on_disk"),
)


def check_metrics(addr: str) -> None:
    """Whether metrics could be served on `addr`; `""` is nowhere. Raises `ValueError`."""
    if not addr:
        return
    try:
        parse_address(addr)
    except ValueError as error:
        raise ValueError(f"metrics: {error}") from None
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError("metrics needs prometheus-client: pip install 'ehlo[metrics]'")


def text(snapshot: dict[str, Any]) -> bytes:
    """In the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest  # an extra

    class Source:
        def collect(self) -> Iterator[Metric]:
            yield from _metrics(snapshot)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Source())
    return generate_latest(registry)


def _metrics(snapshot: dict[str, Any]) -> Iterator[Metric]:
    stats, now = snapshot["stats"], snapshot["now"]
    yield from _counters(stats)
    more = {"draining": int(snapshot["draining"]), "up": snapshot["uptime"]}
    yield from _gauges({**now, **more, **snapshot["workers"]})
    octets, seconds = {"": stats["message_octets"]}, {"": stats["session_seconds"]}
    yield _histogram("message_octets", "Size of messages accepted.", (), OCTETS, octets)
    yield _histogram("session_seconds", "How long sessions were.", (), SECONDS, seconds)
    text, hooks = "How long hooks took, waiting for a thread included.", stats["hook_seconds"]
    yield _histogram("hook_seconds", text, ("hook",), SECONDS, hooks)


def _counters(stats: dict[str, Any]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    for name, help_text, labels, key in _COUNTERS:
        family = CounterMetricFamily(f"ehlo_{name}", help_text, labels=labels)
        counts = stats[key] if labels else {"": stats[key]}
        for names, count in counts.items():
            several = names.split(" ", len(labels) - 1) if len(labels) > 1 else [names]
            family.add_metric(several, count)
        yield family


def _gauges(now: dict[str, Any]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    more = (
        ("draining", "Whether the server shuts down.", "draining"),
        ("uptime_seconds", "Since the server started.", "up"),
        ("workers", "Processes that there should be to serve.", "wanted"),
        ("workers_answered", "Those that have told of themselves for this.", "answered"),
    )
    for name, help_text, key in (*_GAUGES, *more):
        yield GaugeMetricFamily(f"ehlo_{name}", help_text, value=now[key])


def _histogram(
    name: str,
    help_text: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    found: dict[str, dict[str, Any]],
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"ehlo_{name}", help_text, labels=labels)
    for key, plain in found.items():
        names = [*map(str, map(float, bounds)), "+Inf"]
        buckets = list(zip(names, itertools.accumulate(plain["counts"]), strict=True))
        family.add_metric([key] if labels else [], buckets, plain["sum"])
    return family


# -- HTTP --------------------------------------------------------------------------------------


class Endpoint:
    """Who answers. It serves a few at once: descriptors and time are those of mail."""

    MOST = 32

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request, and close."""
        if self._count >= self.MOST:
            writer.transport.abort()
            return
        self._count += 1
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await _response(self._seen, head))
                    writer.close()
                    await writer.wait_closed()
        except asyncio.LimitOverrunError:  # a head without an end
            pass
        finally:
            self._count -= 1
            writer.transport.abort()  # nothing is left for who has read all


async def _response(seen: Seen, head: bytes) -> bytes:
    method, path = ([*head.split(b"\r\n", 1)[0].split(b" "), b"", b""])[:2]
    if method not in (b"GET", b"HEAD"):
        return _http("405 Method Not Allowed", b"GET and HEAD only\n")
    match path.partition(b"?")[0]:
        case b"/metrics":
            from prometheus_client import CONTENT_TYPE_LATEST

            said = _http("200 OK", text(await seen.snapshot()), CONTENT_TYPE_LATEST)
        case b"/readyz":
            why = seen.unready()
            status = "503 Service Unavailable" if why else "200 OK"
            said = _http(status, f"{why or 'ready'}\n".encode())
        case _:
            said = _http("404 Not Found", b"/metrics or /readyz\n")
    return said if method == b"GET" else said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _http(status: str, body: bytes, content_type: str = _PLAIN) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
