"""Counts what a running server does: plain numbers that only grow, in the thread of its loop.

Nothing is locked. While a message passes, values are only appended to lists, which costs least;
`settle` counts them, once a second and for each snapshot. Sessions and memory come and go:
`snapshot` looks at them, and nothing counts them. The names are those of the server, or of the
handler's hooks and mechanisms: a client cannot add one.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NotRequired, TypeAlias, TypedDict

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply

SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300),
)
BYTES: Final = tuple(1024 * 4**power for power in range(9))  # 1 KiB to 64 MiB

_MOST_SAID: Final = 20_000  # verbs and codes that wait to be counted

Snapshot: TypeAlias = dict[str, Any]
"""A tree of plain values that JSON can hold."""


class SessionView(TypedDict):
    """Holds what a snapshot shows of one session."""

    id: str
    peer: str
    state: str
    hook: str | None
    """The name of the hook under way."""
    seconds: float
    """The age of the session."""
    received: int
    sent: int
    messages: int
    """How many messages were accepted."""
    on_disk: int
    """Bytes of the body on disk."""
    tls: str | None
    user: str | None
    helo: str
    pid: NotRequired[int]
    """The process, if there are several."""


_REASONS: Final = {
    value: name.lower() for name, value in vars(replies).items() if isinstance(value, Reply)
}
# Replies with a name or a keyword in them, by their codes
_BUILT: Final = {(421, "4.4.2"): "timed_out", (555, "5.5.4"): "unknown_parameter"}


def reason_of(reply: Reply) -> str:
    """Return the name of a rejection in the catalogue; `"other"` for a handler's own words."""
    return _REASONS.get(reply) or _BUILT.get((reply.code, reply.enhanced or ""), "other")


class Histogram:
    """Counts how often a value was at most each of some bounds, and sums up all values."""

    __slots__ = ("bounds", "counts", "total", "values")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Sequence[float] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)  # the last is for values beyond all bounds
        self.total: float = 0.0
        self.values: list[float] = []  # not counted yet

    def settle(self) -> None:
        """Count the values that wait."""
        values = self.values
        if not values:
            return
        values.sort()
        below = 0
        for index, bound in enumerate(self.bounds):
            upto = bisect_right(values, bound, below)
            self.counts[index] += upto - below
            below = upto
        self.counts[-1] += len(values) - below
        self.total += sum(values)
        values.clear()

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts) + len(self.values)

    def plain(self) -> Snapshot:
        """Return numbers: how many values fell between each bound and the one before, the sum."""
        self.settle()
        return {"counts": list(self.counts), "sum": self.total}


class Stats:
    """Holds the counts of one running server."""

    def __init__(self) -> None:
        self.said: list[str | int] = []  # verbs and codes, not counted yet
        self.commands: Counter[str] = Counter()
        self.replies: Counter[int] = Counter()
        self.connections = 0  # that became sessions
        self.turned_away: Counter[str] = Counter()  # the others, by reason
        self.tls: Counter[str] = Counter()  # handshakes, by version
        self.tls_failures = 0
        self.logins: Counter[str] = Counter()  # "PLAIN accepted"
        self.refusals: Counter[str] = Counter()  # "RCPT 550 mailbox_unavailable"
        self.refused = 0  # messages, at their end
        self.received = 0  # bytes, of sessions that have ended
        self.sent = 0
        self.spooled = 0  # bytes written to disk
        self.deliveries: Mapping[str, int] = {}  # by outcome; a queue in the handler counts them
        self.message_bytes: Histogram = Histogram(BYTES)  # accepted
        self.session_seconds: Histogram = Histogram(SECONDS)
        self.hook_seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        self.look_at_logging()

    def look_at_logging(self) -> None:
        """Check whether the most frequent lines are wanted."""
        self.logs_connections: bool = logging.getLogger("ehlo.connection").isEnabledFor(
            logging.INFO
        )
        self.logs_messages: bool = logging.getLogger("ehlo.message").isEnabledFor(logging.INFO)

    def relieve(self) -> None:
        """Count early if one client has sent very many commands: they must not fill memory."""
        if len(self.said) > _MOST_SAID:
            self.settle()

    def settle(self) -> None:
        """Count all values that wait, and look at the log's levels again."""
        self.look_at_logging()
        for histogram in (self.message_bytes, self.session_seconds, *self.hook_seconds.values()):
            histogram.settle()
        for what, count in Counter(self.said).items():
            if isinstance(what, str):
                self.commands[what] += count
            else:
                self.replies[what] += count
        self.said.clear()

    def plain(self) -> Snapshot:
        """Return all counts as a tree of numbers, with names that JSON can hold."""
        self.settle()
        return {
            "connections": self.connections,
            "turned_away": dict(self.turned_away),
            "tls": dict(self.tls),
            "tls_failures": self.tls_failures,
            "commands": dict(self.commands),
            "replies": {str(code): count for code, count in self.replies.items()},
            "refusals": dict(self.refusals),
            "logins": dict(self.logins),
            "messages": {"accepted": self.message_bytes.count, "refused": self.refused},
            "bytes": {"received": self.received, "sent": self.sent},
            "spooled": self.spooled,
            "deliveries": dict(self.deliveries),
            "message_bytes": self.message_bytes.plain(),
            "session_seconds": self.session_seconds.plain(),
            "hook_seconds": {name: each.plain() for name, each in self.hook_seconds.items()},
        }


def snapshot(
    stats: Stats,
    sessions: list[SessionView],
    queue: Mapping[str, Mapping[str, float]],
    *,
    memory: tuple[int, int],
    disk: tuple[int, int],
    uptime: float,
    draining: bool,
) -> Snapshot:
    """Return what a server has counted and what is there now; call it in the loop's thread.

    `queue` is what the handler's queue holds, see `Measures`. `memory` and `disk` are the bytes
    that are held, and the limit. `uptime` is in seconds.
    """
    counts = stats.plain()
    counts["bytes"]["received"] += sum(session["received"] for session in sessions)
    counts["bytes"]["sent"] += sum(session["sent"] for session in sessions)
    now = {
        "sessions": len(sessions),
        "under_tls": sum(session["tls"] is not None for session in sessions),
        "memory": memory[0],
        "memory_limit": memory[1],
        "on_disk": disk[0],
        "disk_limit": disk[1],
    }
    return {
        "pids": [os.getpid()],
        "uptime": uptime,
        "draining": draining,
        "workers": {"wanted": 1, "answered": 1},
        "stats": counts,
        "now": now,
        "queue": {name: dict(levels) for name, levels in queue.items()},
        "sessions": sessions,
    }


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return what is there now in several processes as if in one, without their counts.

    Each session has the id of its process.
    """
    names = ("sessions", "under_tls", "memory", "memory_limit", "on_disk", "disk_limit")
    nothing = dict.fromkeys(names, 0)
    return {
        "pids": [pid for each in snapshots for pid in each["pids"]],
        "now": total([nothing, *(each["now"] for each in snapshots)]),
        "queue": most([each["queue"] for each in snapshots]),  # several may see the same file
        "sessions": [
            {**session, "pid": each["pids"][0]}
            for each in snapshots
            for session in each["sessions"]
        ],
    }


def total(trees: Sequence[Snapshot]) -> Snapshot:
    """Return the sum of trees of numbers; a name that is missing in some of them counts as 0."""
    return _joined(sum, trees)


def most(trees: Sequence[Snapshot]) -> Snapshot:
    """Return a tree that has the largest of each number in the trees."""
    return _joined(max, trees)


def queued(levels: Sequence[Mapping[str, float]]) -> Snapshot:
    """Return the sum of what several files hold of a queue, and the age of the oldest of all."""
    oldest = max((each["oldest_due"] for each in levels), default=0.0)
    return {**total([dict(each) for each in levels]), "oldest_due": oldest}


def _joined(join: Callable[[Sequence[float]], float], trees: Sequence[Snapshot]) -> Snapshot:
    joined: Snapshot = {}
    for name in dict.fromkeys(name for tree in trees for name in tree):
        values = [tree[name] for tree in trees if name in tree]
        if isinstance(values[0], dict):
            joined[name] = _joined(join, values)
        elif isinstance(values[0], list):
            joined[name] = [join(numbers) for numbers in zip(*values, strict=True)]
        else:
            joined[name] = join(values)
    return joined
