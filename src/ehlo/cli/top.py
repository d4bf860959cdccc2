"""`ehlo top SOCKET`: what a running server does, as a table that is drawn anew each second.

It asks the server's control socket, and changes nothing there. What clients have said is written so
that a terminal does not obey it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ehlo.cli.readable import one_line
from ehlo.server.observing.control import ask

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, RenderableType

__all__ = ["top"]

_EVERY: Final = 1.0  # seconds
_COLUMNS: Final = ("SESSION", "ADDRESS", "STATE", "AGE", "IN", "OUT", "MAILS", "TLS", "USER")
_NUMBERS: Final = frozenset({"PID", "AGE", "IN", "OUT", "MAILS"})
_IDLE: Final = ("HELLO", "READY")
_WIDE: Final = 100  # columns of a screen that has room for ports and process ids
_HEAD_LINES: Final = 6  # above the sessions, their heading included
_MOST_REFUSALS: Final = 3


@click.command()
@click.argument("path", metavar="SOCKET", envvar="EHLO_CONTROL")
@click.option("--once", is_flag=True, allow_from_autoenv=False, help="Print it once, and end.")
@click.option(
    "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="All of it once, as JSON."
)
def top(path: str, once: bool, as_json: bool) -> None:
    """Watch the server whose --control is SOCKET.

    Sessions, what they do, rates and refusals, each second until Ctrl+C.
    """
    path = path.removeprefix("unix:")
    snapshot = _asked(path)
    if as_json:
        click.echo(json.dumps(snapshot))
    elif once:
        click.echo("\n".join(_plain(snapshot)))
    else:
        _watch(path, snapshot)


def _asked(path: str) -> dict[str, Any]:
    try:
        return ask(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise click.ClickException(f"{path}: {reason}") from error


def _watch(path: str, before: Mapping[str, Any]) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise click.UsageError("top needs rich: pip install 'ehlo[top]' (or --once)") from error
    console = Console()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(_drawn(before, None, console.size), refresh=True)
            while True:
                time.sleep(_EVERY)
                now = _asked(path)
                live.update(_drawn(now, before, console.size), refresh=True)
                before = now
    except KeyboardInterrupt:
        pass


# -- what is shown -----------------------------------------------------------------------------


def _summary(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[str]:
    """The lines above the sessions."""
    stats, here = now["stats"], now["now"]
    state = "draining" if now["draining"] else "up"
    yield f"ehlo, {_processes(now)}: {state} {_age(now['uptime'])}" + _logins(stats)
    yield (
        f"sessions {here['sessions']} ({here['under_tls']} under TLS)   "
        f"memory {_size(here['memory'])} of {_size(here['memory_limit'])}   "
        f"disk {_size(here['on_disk'])}"
    )
    connections, accepted = stats["connections"], stats["messages"]["accepted"]
    received, sent = stats["octets"]["received"], stats["octets"]["sent"]
    if before is None:
        yield (
            f"connections {connections}   messages {accepted}   "
            f"in {_size(received)}   out {_size(sent)}"
        )
    else:
        seconds = max(now["uptime"] - before["uptime"], 0.001)
        then = before["stats"]
        yield (
            f"connections {connections} ({(connections - then['connections']) / seconds:.0f}/s)   "
            f"messages {accepted} ({(accepted - then['messages']['accepted']) / seconds:.0f}/s)   "
            f"in {_size((received - then['octets']['received']) / seconds)}/s   "
            f"out {_size((sent - then['octets']['sent']) / seconds)}/s"
        )
    yield "refused " + _refusals(stats)


def _processes(now: Mapping[str, Any]) -> str:
    workers = now["workers"]
    if workers["wanted"] == 1:
        return "pid " + " ".join(map(str, now["pids"]))
    return f"{workers['answered']} of {workers['wanted']} workers"


def _logins(stats: Mapping[str, Any]) -> str:
    good = sum(count for name, count in stats["logins"].items() if name.endswith(" accepted"))
    bad = sum(stats["logins"].values()) - good
    return f"   logins {good}, refused {bad}" if good or bad else ""


def _refusals(stats: Mapping[str, Any]) -> str:
    """The most frequent ones."""
    by_count = sorted(stats["refusals"].items(), key=lambda row: -row[1])
    said = [f"{count} {name}" for name, count in by_count[:_MOST_REFUSALS]]
    away = sum(stats["turned_away"].values())
    return ", ".join([*said, *([f"{away} connections"] if away else [])]) or "nothing"


def _table(now: Mapping[str, Any], *, wide: bool = True) -> tuple[Sequence[str], list[list[str]]]:
    """Headings, and a row for each session: those that do something, then the others, by age."""
    several = wide and now["workers"]["wanted"] > 1
    sessions = sorted(now["sessions"], key=lambda session: (_idle(session), -session["seconds"]))
    rows = [
        [
            *([str(session["pid"])] if several else []),
            session["id"],
            _address(one_line(session["peer"]), wide=wide),
            session["hook"] or session["state"],
            _age(session["seconds"]),
            _size(session["received"]),
            _size(session["sent"]),
            str(session["messages"]),
            (session["tls"] or "-").removeprefix("TLSv"),
            one_line(session["user"] or "-"),
        ]
        for session in sessions
    ]
    return ("PID", *_COLUMNS) if several else _COLUMNS, rows


def _idle(session: Mapping[str, Any]) -> bool:
    return session["hook"] is None and session["state"] in _IDLE


def _address(peer: str, *, wide: bool) -> str:
    """Where room is scarce, without the port."""
    return peer if wide or peer.startswith("unix:") else peer.rpartition(":")[0]


def _plain(now: Mapping[str, Any]) -> Iterator[str]:
    yield from _summary(now, None)
    names, rows = _table(now)
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        yield "  ".join(_aligned(names, row, widths)).rstrip()


def _aligned(names: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for name, text, width in zip(names, row, widths, strict=True):
        yield text.rjust(width) if name in _NUMBERS else text.ljust(width)


def _drawn(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, size: ConsoleDimensions
) -> RenderableType:
    """As much as has room on a screen of that size."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def text(line: str) -> Text:
        return Text(line, no_wrap=True, overflow="ellipsis")

    names, rows = _table(now, wide=size.width >= _WIDE)
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True)
    for name in names:
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=name != "ADDRESS",  # whose column is the first to be cut, when there is no room
            min_width=len(name),
            ratio=1 if name == "USER" else None,
        )
    room = max(1, size.height - _HEAD_LINES)
    for row in rows if len(rows) <= room else rows[: room - 1]:
        table.add_row(*map(text, row))
    lines = list(map(text, _summary(now, before)))
    lines[0].stylize("bold")
    more = [] if len(rows) <= room else [text(f"and {len(rows) - room + 1} more")]
    return Group(*lines, Text(""), table, *more)


def _age(seconds: float) -> str:
    whole = int(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 6000:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole // 60 % 60:02}m"


def _size(octets: float) -> str:
    for unit in ("", "K", "M"):
        if octets < 10_000:
            return f"{octets:.0f}{unit}"
        octets /= 1024
    return f"{octets:.0f}G"
