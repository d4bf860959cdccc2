"""What `ehlo top` shows, as lines of text for a screen of any size.

Numbers are never cut. Where room is scarce, what matters less is left out; addresses that do not
fit are shortened where most of them can still be told apart. What clients have said is written so
that a terminal does not obey it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ehlo.cli.readable import one_line

__all__ = ["COLUMNS", "age", "plain", "screen", "size"]

COLUMNS: Final = ("SESSION", "ADDRESS", "STATE", "AGE", "IN", "OUT", "MAILS", "TLS", "USER")
_NUMBERS: Final = frozenset({"PID", "AGE", "IN", "OUT", "BYTES", "MAILS"})
_IDLE: Final = ("HELLO", "READY")
_MOST_REFUSALS: Final = 3
_WIDE: Final = 60  # columns from which on words are written out

# The columns are the first of these that fit. An address is whole, or short, without its port, or
# brief, as are states and ages then. What may be shortened has at least so many columns, and grows
# by steps where there is room.
_NAMED: Final = ("ADDRESS", "STATE", "AGE", "IN", "OUT", "TLS", "USER")
_LAYOUTS: Final = (
    ("whole", ("PID", *COLUMNS)),
    ("whole", COLUMNS),
    ("whole", (*_NAMED[:5], "MAILS", *_NAMED[5:])),
    ("whole", _NAMED),
    ("short", _NAMED),
    ("brief", _NAMED),
    ("brief", ("ADDRESS", "STATE", "AGE", "BYTES", "TLS", "USER")),
    ("brief", ("ADDRESS", "STATE", "AGE", "BYTES", "USER")),
    ("brief", ("ADDRESS", "STATE", "AGE", "BYTES")),
    ("brief", ("ADDRESS", "STATE", "AGE")),
    ("brief", ("ADDRESS", "STATE")),
)
_LEAST: Final = {"whole": {"USER": 24}, "short": {"ADDRESS": 15, "USER": 12}}
_LEAST_OF_ALL: Final = {"ADDRESS": 12, "USER": 8}
_GROWTH: Final = (("ADDRESS", 21), ("USER", 16), ("ADDRESS", 999), ("USER", 999))


class _Part(NamedTuple):
    """Some words of the heading, in full and in short; of a higher rank they are dropped sooner."""

    rank: int
    long: str
    short: str


def plain(now: Mapping[str, Any]) -> Iterator[str]:
    """All of it, however wide."""
    for parts in _summary(now, None):
        yield "   ".join(part.long for part in parts)
    rows = [_cells(session, "whole") for session in _in_order(now)]
    names = ("PID", *COLUMNS) if _several(now) else COLUMNS
    yield from _lines(rows, {name: _widest(name, rows) for name in names}, "  ")


def screen(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, width: int, height: int
) -> Iterator[str]:
    """As much as has room; rates are those since `before`."""
    yield from (_cut(line, width, 0) for line in _drawn(now, before, width, height))


def _drawn(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, width: int, height: int
) -> Iterator[str]:
    head = _heading(_summary(now, before), width, max(4, height * 5 // 12))
    yield from head
    room = height - len(head) - 1
    if height >= 16:
        room -= 1
        yield ""
    yield from _table(now, width, max(2, room))


# -- the heading -------------------------------------------------------------------------------


def _heading(groups: Iterable[Sequence[_Part]], width: int, most: int) -> list[str]:
    """Each group on a line of its own, or on more; what is missed least gives way."""
    groups = list(groups)
    while True:
        lines = [line for parts in groups for line in _wrapped(parts, width)]
        last = max(part.rank for parts in groups for part in parts)
        if len(lines) <= most or last == 0:
            return lines
        groups = [[part for part in parts if part.rank < last] for parts in groups]


def _wrapped(parts: Sequence[_Part], width: int) -> Iterator[str]:
    """A line is never broken within a part."""
    between = "   " if width >= _WIDE else "  "
    line = ""
    for part in parts:
        text = part.long if width >= _WIDE and len(part.long) <= width else part.short
        gap = " " if line.endswith(",") else between
        if line and len(line + gap + text) > width:
            yield line
            line = ""
        line += gap + text if line else text
    if line:
        yield line.removesuffix(",")


def _summary(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[Sequence[_Part]]:
    """The lines above the sessions, in parts."""
    stats, here = now["stats"], now["now"]
    yield [_server(now), *_logins(stats)]
    count, tls = here["sessions"], here["under_tls"]
    memory, limit, disk = here["memory"], here["memory_limit"], here["on_disk"]
    yield [
        _Part(1, f"sessions {count} ({tls} under TLS)", f"sessions {count} ({tls} TLS)"),
        _Part(7, f"memory {size(memory)} of {size(limit)}", f"memory {size(memory)}"),
        _Part(9, f"disk {size(disk)}", f"disk {size(disk)}"),
    ]
    yield _rates(now, before)
    yield _refusals(stats)


def _server(now: Mapping[str, Any]) -> _Part:
    workers, state = now["workers"], "draining" if now["draining"] else "up"
    up = now["uptime"]
    if workers["wanted"] == 1:
        pid = " ".join(map(str, now["pids"]))
        return _Part(0, f"ehlo, pid {pid}: {state} {age(up)}", f"pid {pid}: {state} {_brief(up)}")
    count = f"{workers['answered']} of {workers['wanted']} workers"
    return _Part(0, f"ehlo, {count}: {state} {age(up)}", f"{count}: {state} {_brief(up)}")


def _logins(stats: Mapping[str, Any]) -> Sequence[_Part]:
    good = sum(count for name, count in stats["logins"].items() if name.endswith(" accepted"))
    bad = sum(stats["logins"].values()) - good
    text = f"logins {good}, refused {bad}"
    return [_Part(6, text, text)] if good or bad else []


def _rates(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> Sequence[_Part]:
    """What was done in all; since `before` for each second, unless another server has begun."""
    counts = _counts(now)
    if before is None or before["uptime"] > now["uptime"]:
        connections, messages, received, sent = counts
        per_second, octets = ("", ""), (size(received), size(sent))
    else:
        seconds = max(now["uptime"] - before["uptime"], 0.001)
        then = _counts(before)
        rates = [(new - old) / seconds for new, old in zip(counts, then, strict=True)]
        connections, messages = counts[:2]
        per_second = f" ({rates[0]:.0f}/s)", f" ({rates[1]:.0f}/s)"
        octets = f"{size(rates[2])}/s", f"{size(rates[3])}/s"
    into, out = f"in {octets[0]}", f"out {octets[1]}"
    return [
        _Part(4, f"connections {connections}{per_second[0]}", f"conn {connections}{per_second[0]}"),
        _Part(3, f"messages {messages}{per_second[1]}", f"mail {messages}{per_second[1]}"),
        _Part(5, into, into),
        _Part(5, out, out),
    ]


def _counts(snapshot: Mapping[str, Any]) -> tuple[int, int, int, int]:
    stats = snapshot["stats"]
    octets = stats["bytes"]
    accepted = stats["messages"]["accepted"]
    return stats["connections"], accepted, octets["received"], octets["sent"]


def _refusals(stats: Mapping[str, Any]) -> Sequence[_Part]:
    """The most frequent ones."""
    by_count = sorted(stats["refusals"].items(), key=lambda row: -row[1])[:_MOST_REFUSALS]
    said = [(f"{count} {name}", f"{count} {_code(name)}") for name, count in by_count]
    away = sum(stats["turned_away"].values())
    if away:
        said.append((f"{away} connections", f"{away} conn"))
    if not said:
        said.append(("nothing", "nothing"))
    last = len(said) - 1
    return [
        _Part(
            2 if number == 0 else 8,
            f"{'refused ' if number == 0 else ''}{long}{',' if number < last else ''}",
            f"{'refused ' if number == 0 else ''}{short}{',' if number < last else ''}",
        )
        for number, (long, short) in enumerate(said)
    ]


def _code(name: str) -> str:
    """`RCPT 550 mailbox_unavailable` without what it means."""
    return " ".join(name.split()[:2])


# -- the sessions ------------------------------------------------------------------------------


def _several(now: Mapping[str, Any]) -> bool:
    return bool(now["workers"]["wanted"] > 1)


def _in_order(now: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that do something, then the others, by age."""
    return sorted(now["sessions"], key=lambda session: (_idle(session), -session["seconds"]))


def _idle(session: Mapping[str, Any]) -> bool:
    return session["hook"] is None and session["state"] in _IDLE


def _cells(session: Mapping[str, Any], form: str) -> dict[str, str]:
    """What there is to show of one, by column."""
    received, sent, seconds = session["received"], session["sent"], session["seconds"]
    peer, state = one_line(session["peer"]), session["hook"] or session["state"]
    return {
        "PID": str(session.get("pid", "")),
        "SESSION": session["id"],
        "ADDRESS": peer if form == "whole" else _host(peer),
        "STATE": state.removeprefix("on_") if form == "brief" else state,
        "AGE": _brief(seconds) if form == "brief" else age(seconds),
        "IN": size(received),
        "OUT": size(sent),
        "BYTES": size(received + sent),
        "MAILS": str(session["messages"]),
        "TLS": (session["tls"] or "-").removeprefix("TLSv"),
        "USER": one_line(session["user"] or "-"),
    }


def _host(peer: str) -> str:
    """Without the port."""
    return peer if peer.startswith("unix:") else peer.rpartition(":")[0].strip("[]")


def _table(now: Mapping[str, Any], width: int, room: int) -> Iterator[str]:
    """Headings, and below them sessions in so many lines."""
    sessions = _in_order(now)
    shown = sessions if len(sessions) <= room else sessions[: room - 1]
    layouts = _LAYOUTS if _several(now) else _LAYOUTS[1:]
    for form, names in layouts:
        rows = [_cells(session, form) for session in shown]
        wanted = {name: _widest(name, rows) for name in names}
        least = _LEAST.get(form, _LEAST_OF_ALL)
        widths = {name: min(wanted[name], least.get(name, 999)) for name in names}
        if sum(widths.values()) + len(names) - 1 <= width:
            break
    _grow(widths, wanted, width)
    _shorten(rows, widths)
    yield from _lines(rows, widths, " ")
    if len(shown) < len(sessions):
        yield f"and {len(sessions) - len(shown)} more"


def _widest(name: str, rows: Sequence[Mapping[str, str]]) -> int:
    return max(len(name), *(_width(row[name]) for row in rows), 0)


def _grow(widths: dict[str, int], wanted: Mapping[str, int], width: int) -> None:
    """Give what is left to the columns that are not whole."""
    left = width - sum(widths.values()) - len(widths) + 1
    for name, most in _GROWTH:
        if name in widths:
            more = max(0, min(left, min(most, wanted[name]) - widths[name]))
            widths[name] += more
            left -= more


def _shorten(rows: Sequence[dict[str, str]], widths: Mapping[str, int]) -> None:
    """Of an address both ends are shown, of a user the beginning, unless too many look the same."""
    for name in ("ADDRESS", "USER"):
        if name in widths:
            width = widths[name]
            middle = (width - 1) // 2 if name == "ADDRESS" else 0
            tails = sorted(range(width - 1), key=lambda tail: abs(tail - middle))
            texts = [row[name] for row in rows]
            if max(map(_width, texts), default=0) > width:
                _tell_apart(name, rows, width, tails)


def _tell_apart(
    name: str, rows: Sequence[dict[str, str]], width: int, tails: Sequence[int]
) -> None:
    """Cut where most differ still, by the first of `tails` that does it best."""
    found = [[_cut(row[name], width, tail) for row in rows] for tail in tails]
    for row, text in zip(rows, max(found, key=lambda texts: len(set(texts))), strict=True):
        row[name] = text


def _cut(text: str, width: int, tail: int) -> str:
    """The beginning, and `tail` characters of the end."""
    if _width(text) <= width:
        return text
    head, end = text[:width], text[len(text) - tail :]
    while _width(head) + 1 + _width(end) > width:
        head, end = (head[:-1], end) if head else ("", end[1:])
    return f"{head}…{end}"


def _lines(rows: Sequence[Mapping[str, str]], widths: Mapping[str, int], gap: str) -> Iterator[str]:
    for row in ({name: name for name in widths}, *rows):
        yield gap.join(_aligned(name, row[name], widths[name]) for name in widths).rstrip()


def _aligned(name: str, text: str, width: int) -> str:
    space = " " * (width - _width(text))
    return space + text if name in _NUMBERS else text + space


def _width(text: str) -> int:
    """Columns of a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


# -- numbers -----------------------------------------------------------------------------------


def age(seconds: float) -> str:
    """In at most two units."""
    whole = int(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 6000:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole // 60 % 60:02}m"


def _brief(seconds: float) -> str:
    """In one unit."""
    for unit, length, most in (("s", 1, 100), ("m", 60, 100), ("h", 3600, 100)):
        if seconds < most * length:
            return f"{int(seconds) // length}{unit}"
    return f"{int(seconds) // 86_400}d"


def size(octets: float) -> str:
    """In at most four digits, and a unit."""
    for unit in ("", "K", "M"):
        if octets < 10_000:
            return f"{octets:.0f}{unit}"
        octets /= 1024
    return f"{octets:.0f}G"
