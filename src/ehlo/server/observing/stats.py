"""What a running server has counted: plain numbers, which only grow, in the thread of its loop.

Nothing is locked. On the way of a message values are only put on lists, the cheapest thing there
is; `settle` counts them, once a second and when somebody asks. What is there now and goes away
again (sessions, memory) is not counted but looked at, by `snapshot`. Names in it are ours, or those
of the handler's hooks and mechanisms: a client cannot make a new one.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply

if TYPE_CHECKING:
    from ehlo.server.runtime import Runtime

__all__ = [
    *("OCTETS", "SECONDS"),
    *("Histogram", "Stats"),
    *("merge", "most", "reason_of", "snapshot", "total"),
]

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)
OCTETS: Final = tuple(1024 * 4**power for power in range(9))  # 1 KiB to 64 MiB

_MOST_SAID: Final = 20_000  # verbs and codes that wait to be counted

_REASONS: Final = {
    value: name.lower() for name, value in vars(replies).items() if isinstance(value, Reply)
}
# Replies with a name or a keyword in them, by their codes
_BUILT: Final = {(421, "4.4.2"): "timed_out", (555, "5.5.4"): "unknown_parameter"}


def reason_of(reply: Reply) -> str:
    """The name of a refusal in our catalogue; `"other"` where a handler has words of its own."""
    return _REASONS.get(reply) or _BUILT.get((reply.code, reply.enhanced or ""), "other")


class Histogram:
    """How often a value was at most each of some bounds, and the sum of all."""

    __slots__ = ("bounds", "counts", "total", "values")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one is beyond all bounds
        self.total = 0.0
        self.values: list[float] = []  # not counted yet

    def settle(self) -> None:
        """Count the values."""
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
        """How many values there were."""
        return sum(self.counts) + len(self.values)

    def plain(self) -> dict[str, Any]:
        """Numbers alone: how many there were up to each bound and not before, and the sum."""
        self.settle()
        return {"counts": list(self.counts), "sum": self.total}


class Stats:
    """One for a running server."""

    __slots__ = (
        *("commands", "connections", "hook_seconds", "logins", "message_octets"),
        *("logs_connections", "logs_messages"),
        *("received", "refusals", "refused", "replies", "said", "sent", "session_seconds"),
        *("spooled", "tls", "tls_failures", "turned_away"),
    )

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
        self.received = 0  # octets, of sessions that have ended
        self.sent = 0
        self.spooled = 0  # octets written to disk
        self.message_octets = Histogram(OCTETS)  # of those accepted
        self.session_seconds = Histogram(SECONDS)
        self.hook_seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        self.look_at_logging()

    def look_at_logging(self) -> None:
        """Whether the lines that there are most of are wanted."""
        self.logs_connections = logging.getLogger("ehlo.connection").isEnabledFor(logging.INFO)
        self.logs_messages = logging.getLogger("ehlo.message").isEnabledFor(logging.INFO)

    def relieve(self) -> None:
        """Count before the time where one client has said much at once: it must take no memory."""
        if len(self.said) > _MOST_SAID:
            self.settle()

    def settle(self) -> None:
        """Count what has come together, and see what is to be logged from now on."""
        self.look_at_logging()
        for histogram in (self.message_octets, self.session_seconds, *self.hook_seconds.values()):
            histogram.settle()
        for what, count in Counter(self.said).items():
            if isinstance(what, str):
                self.commands[what] += count
            else:
                self.replies[what] += count
        self.said.clear()

    def plain(self) -> dict[str, Any]:
        """All of it as a tree of numbers, with names that JSON can have."""
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
            "messages": {"accepted": self.message_octets.count, "refused": self.refused},
            "octets": {"received": self.received, "sent": self.sent},
            "spooled": self.spooled,
            "message_octets": self.message_octets.plain(),
            "session_seconds": self.session_seconds.plain(),
            "hook_seconds": {name: each.plain() for name, each in self.hook_seconds.items()},
        }


def snapshot(runtime: Runtime) -> dict[str, Any]:
    """What a server has counted, and what is there now; JSON can have it. For the loop's thread."""
    sessions = [found for each in runtime.drivers if (found := each.seen()) is not None]
    stats = runtime.stats.plain()
    for way in ("received", "sent"):
        stats["octets"][way] += sum(session[way] for session in sessions)
    now = {
        "sessions": len(sessions),
        "under_tls": sum(session["tls"] is not None for session in sessions),
        "memory": runtime.memory.held,
        "memory_limit": runtime.memory.limit,
        "on_disk": sum(session["on_disk"] for session in sessions),
    }
    return {
        "pids": [os.getpid()],
        "uptime": runtime.uptime,
        "draining": runtime.draining,
        "workers": {"wanted": 1, "answered": 1},
        "stats": stats,
        "now": now,
        "sessions": sessions,
    }


def merge(snapshots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What there is now in several processes, as in one. What they have counted is not in it.

    Each session says in which process it is.
    """
    nothing = {"sessions": 0, "under_tls": 0, "memory": 0, "memory_limit": 0, "on_disk": 0}
    return {
        "pids": [pid for each in snapshots for pid in each["pids"]],
        "now": total([nothing, *(each["now"] for each in snapshots)]),
        "sessions": [
            {**session, "pid": each["pids"][0]}
            for each in snapshots
            for session in each["sessions"]
        ],
    }


def total(trees: Sequence[Any]) -> Any:
    """The sum of trees of numbers: of one form, but for names that some of them may not have."""
    return _together(sum, trees)


def most(trees: Sequence[Any]) -> Any:
    """The same, and of each number the largest."""
    return _together(max, trees)


def _together(join: Callable[[Sequence[Any]], Any], trees: Sequence[Any]) -> Any:
    first = trees[0]
    if isinstance(first, dict):
        names = dict.fromkeys(name for tree in trees for name in tree)
        return {
            name: _together(join, [tree[name] for tree in trees if name in tree]) for name in names
        }
    if isinstance(first, list):
        return [join(numbers) for numbers in zip(*trees, strict=True)]
    return join(trees)
