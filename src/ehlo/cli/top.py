"""`ehlo top SOCKET`: shows what a running server does, in a table that is drawn every second.

It asks the server's control socket, and changes nothing there. Numbers are never cut: in a narrow
terminal the less important columns are left out, and addresses and user names are shortened.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from ehlo.cli.readable import one_line, reason_of
from ehlo.cli.wrong import ReportedCommand
from ehlo.server.observing.stats import queued
from ehlo.server.observing.views import ask

if TYPE_CHECKING:
    from rich.console import Console
    from rich.layout import Layout
    from rich.table import Table

    from ehlo.server.observing.stats import SessionView, Snapshot

_EVERY: Final = 1.0  # seconds
_WIDE: Final = 80  # columns of what is printed once, at least
_UNLIMITED: Final = 10_000  # columns
_MOST_REJECTIONS: Final = 3
_STATES: Final = ("waiting", "running", "held", "failed", "dead")  # of deliveries
_IDLE: Final = ("HELLO", "READY")

COLUMNS: Final = ("SESSION", "ADDRESS", "STATE", "AGE", "IN", "OUT", "MAILS", "TLS", "USER")
_NUMBERS: Final = frozenset({"PID", "AGE", "IN", "OUT", "BYTES", "MAILS"})
_NAMED: Final = ("STATE", "AGE", "IN", "OUT", "TLS", "USER")

# The first of these that fits is shown. HOST is an address without its port. What may be shortened
# has its least width, and grows if there is room.
_LAYOUTS: Final[Sequence[tuple[Sequence[str], Mapping[str, int]]]] = (
    (("PID", *COLUMNS), {"USER": 24}),
    (COLUMNS, {"USER": 24}),
    (COLUMNS[1:], {"USER": 24}),
    (("ADDRESS", *_NAMED), {"USER": 24}),
    (("HOST", *_NAMED), {"HOST": 15, "USER": 12}),
    (("HOST", "STATE", "AGE", "BYTES", "TLS", "USER"), {"HOST": 12, "USER": 6}),
    (("HOST", "STATE", "AGE", "BYTES"), {"HOST": 9}),
    (("HOST", "STATE"), {"HOST": 6}),
)


@click.command(cls=ReportedCommand)
@click.argument("path", metavar="SOCKET", envvar="EHLO_CONTROL")
@click.option("--once", is_flag=True, allow_from_autoenv=False, help="Print the table once.")
@click.option(
    "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="Print the snapshot as JSON."
)
def top(path: str, once: bool, as_json: bool) -> None:
    """Watch the server whose --control is SOCKET.

    Shows sessions, rates and rejections, every second until q or Ctrl+C is pressed. Prints the
    table once if standard output is not a terminal.
    """
    path = path.removeprefix("unix:")
    try:
        snapshot = ask(path)
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"{path}: {reason_of(error)}; give the --control of a running server"
        ) from error
    if as_json:
        click.echo(json.dumps(snapshot))
        return
    try:
        from rich.console import Console  # an extra, and slow to import
    except ImportError as error:
        message = "top needs rich: pip install 'ehlo[top]', or use --json"
        raise click.UsageError(message) from error
    console = Console()
    if once or not sys.stdout.isatty() or console.is_dumb_terminal:
        click.echo(_printed(snapshot))
    else:
        _watch(console, path, snapshot)


# -- the terminal --------------------------------------------------------------------------------


def _watch(console: Console, path: str, now: Snapshot) -> None:
    """The table is drawn until the user leaves; a server that has stopped may start again."""
    from rich.live import Live

    before: Snapshot | None = None
    trouble = ""
    live = Live(console=console, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _keys(), live:
        while True:
            live.update(draw(now, before, trouble, *console.size), refresh=True)
            if _left():
                return
            try:
                before, now = None if trouble else now, ask(path)
                trouble = ""
            except (OSError, ValueError):
                since = time.strftime("%H:%M:%S")
                trouble = trouble or f"no server since {since}, trying again: {path}"


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys arrive without Enter while the block runs, and SIGTERM ends it as an exit does."""
    import termios  # only what draws on a terminal needs them
    import tty

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    attributes = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if attributes is not None:
            tty.setcbreak(sys.stdin)
        yield
    finally:
        if attributes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, attributes)
        signal.signal(signal.SIGTERM, previous)


def _left() -> bool:
    """Whether the user leaves before the table is to be drawn again."""
    keyboard = [sys.stdin] if sys.stdin.isatty() else []
    until = time.monotonic() + _EVERY
    while (rest := until - time.monotonic()) > 0:
        if select.select(keyboard, [], [], rest)[0]:
            typed = os.read(sys.stdin.fileno(), 1024)
            if not typed or b"q" in typed.lower():
                return True
    return False


# -- what is drawn -------------------------------------------------------------------------------


def draw(now: Snapshot, before: Snapshot | None, trouble: str, width: int, height: int) -> Layout:
    """Return as much of a snapshot as a terminal has room for; rates are those since `before`.

    `trouble` is shown above the rest, which is dim then.
    """
    from rich.layout import Layout
    from rich.styled import Styled
    from rich.text import Text

    facts = _facts(now, before)
    while len(lines := _heading(now, facts, width)) > max(4, height * 5 // 12) and facts:
        facts.pop()
    room = max(2, height - len(lines) - 3)
    sessions = _in_order(now)
    shown = sessions[:room]
    hidden = len(sessions) - len(shown)
    table = _table(shown, width, several=_several(now))
    footer = f"{hidden} more   q: quit" if hidden else "q: quit"
    title = Text(one_line(trouble) or lines[0], "bold red" if trouble else "bold")
    title.truncate(width, overflow="ellipsis")
    parts = (
        (title, 1),
        (Text("\n".join(lines[1:])), len(lines)),
        (table, None),
        (Text(footer, "dim"), 1),
    )
    layout = Layout()
    layout.split_column(
        *(Layout(Styled(part, "dim" if trouble else ""), size=size) for part, size in parts)
    )
    return layout


def _printed(now: Snapshot) -> str:
    """All of it, however wide."""
    from rich.console import Console

    table = _table(_in_order(now), _UNLIMITED, several=_several(now))
    console = Console(file=io.StringIO(), width=_UNLIMITED)
    width = max(_WIDE, console.measure(table).maximum)
    with console.capture() as captured:
        console.print(*_heading(now, _facts(now, None), width), table, sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _several(now: Snapshot) -> bool:
    return bool(now["workers"]["wanted"] > 1)


def _in_order(now: Snapshot) -> list[SessionView]:
    """The sessions that do something, then the others, the oldest first."""
    return sorted(now["sessions"], key=lambda session: (_idle(session), -session["seconds"]))


def _idle(session: SessionView) -> bool:
    return session["hook"] is None and session["state"] in _IDLE


def _heading(now: Snapshot, facts: Sequence[str], width: int) -> list[str]:
    """The lines above the sessions: the server, the facts, and the most frequent rejections."""
    workers, stats = now["workers"], now["stats"]
    server = f"pid {now['pids'][0]}"
    if _several(now):
        server = f"{workers['answered']} of {workers['wanted']} workers"
    state = "draining" if now["draining"] else "up"
    by_count = sorted(stats["refusals"].items(), key=lambda row: -row[1])[:_MOST_REJECTIONS]
    rejected = [f"{count} {name}" for name, count in by_count]
    if away := sum(stats["turned_away"].values()):
        rejected.append(f"{away} connections")
    return [
        f"ehlo, {server}: {state} {age(now['uptime'])}",
        *_wrapped(facts, "   ", width),
        *_wrapped(["rejected " + (rejected or ["nothing"])[0], *rejected[1:]], ", ", width),
    ]


def _wrapped(parts: Sequence[str], between: str, width: int) -> list[str]:
    """The parts in lines of at most `width`; no line ends within a part."""
    text = between.join(part.replace(" ", "\xa0") for part in parts)  # textwrap breaks no \xa0
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _facts(now: Snapshot, before: Snapshot | None) -> list[str]:
    """Totals, and rates since `before` if the server is the same; the important ones first."""
    here, stats = now["now"], now["stats"]
    counts = _counts(now)
    messages, connections, received, sent = f"{counts[0]}", f"{counts[1]}", *map(size, counts[2:])
    if before is not None and (seconds := now["uptime"] - before["uptime"]) > 0:
        rates = [(new - old) / seconds for new, old in zip(counts, _counts(before), strict=True)]
        messages += f" ({rates[0]:.0f}/s)"
        connections += f" ({rates[1]:.0f}/s)"
        received, sent = (f"{size(rate)}/s" for rate in rates[2:])
    logins = stats["logins"]
    good = sum(count for name, count in logins.items() if name.endswith(" accepted"))
    queue = _queue(now, before) if now.get("queue") else []
    return [
        f"sessions {here['sessions']} ({here['under_tls']} TLS)",
        f"messages {messages}",
        *queue,
        f"connections {connections}",
        f"in {received}",
        f"out {sent}",
        *([f"logins {good} ({sum(logins.values()) - good} rejected)"] if logins else []),
        f"memory {size(here['memory'])} of {size(here['memory_limit'])}",
        f"disk {size(here['on_disk'])}",
    ]


def _queue(now: Snapshot, before: Snapshot | None) -> list[str]:
    """Deliveries of a queue by their states, and the rate of those that are done."""
    levels = queued(list(now["queue"].values()))
    done = now["stats"]["deliveries"]["delivered"]
    text = f"delivered {done}"
    if before is not None and (seconds := now["uptime"] - before["uptime"]) > 0:
        text += f" ({(done - before['stats']['deliveries'].get('delivered', 0)) / seconds:.0f}/s)"
    held = [f"{levels[state]:.0f} {state}" for state in _STATES if levels[state]] or ["empty"]
    if levels["oldest_due"] >= 1:
        held[0] += f" ({age(levels['oldest_due'])} late)"
    return [f"queue {held[0]}", *held[1:], text]


def _counts(snapshot: Snapshot) -> tuple[int, int, int, int]:
    stats = snapshot["stats"]
    messages, sizes = stats["messages"], stats["bytes"]
    return messages["accepted"], stats["connections"], sizes["received"], sizes["sent"]


def _table(sessions: Sequence[SessionView], width: int, *, several: bool) -> Table:
    """The sessions, with the columns that fit."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    rows = [_cells(session) for session in sessions]
    for names, least in _LAYOUTS if several else _LAYOUTS[1:]:
        widest = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in names}
        widths = {name: min(widest[name], least.get(name, widest[name])) for name in names}
        left = width - sum(widths.values()) - len(widths) + 1
        if left >= 0:
            break
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in names:
        if name in least:
            more = min(left, widest[name] - widths[name])
            left -= more
            widths[name] += more
        table.add_column(
            name.replace("HOST", "ADDRESS"),
            justify="right" if name in _NUMBERS else "left",
            width=widths[name],
            no_wrap=True,
            overflow="ellipsis",
        )
    for row, session in zip(rows, sessions, strict=True):
        if "HOST" in widths:
            row["HOST"] = _cut(row["HOST"], widths["HOST"])
        table.add_row(*(Text(row[name]) for name in names), style="" if _idle(session) else "bold")
    return table


def _cut(address: str, width: int) -> str:
    """Both ends of an address: networks differ at the beginning, their hosts at the end."""
    tail = (width - 1) // 2
    fits = len(address) <= width
    return address if fits else f"{address[: width - 1 - tail]}…{address[len(address) - tail :]}"


def _cells(session: SessionView) -> dict[str, str]:
    """The text of each column for a session, in a form that a terminal does not obey."""
    received, sent = session["received"], session["sent"]
    peer = one_line(session["peer"])
    return {
        "PID": str(session.get("pid", "")),
        "SESSION": session["id"],
        "ADDRESS": peer,
        "HOST": peer if peer.startswith("unix:") else peer.rpartition(":")[0].strip("[]"),
        "STATE": session["hook"] or session["state"],
        "AGE": age(session["seconds"]),
        "IN": size(received),
        "OUT": size(sent),
        "BYTES": size(received + sent),
        "MAILS": str(session["messages"]),
        "TLS": (session["tls"] or "-").removeprefix("TLSv"),
        "USER": one_line(session["user"] or "-"),
    }


# -- numbers -------------------------------------------------------------------------------------


def age(seconds: float) -> str:
    """Return a duration in one unit and at most two digits, up to 99 days."""
    for unit, length in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{int(seconds) // length}{unit}"
    return f"{int(seconds) // 86_400}d"


def size(count: float) -> str:
    """Return a number of bytes in at most four digits and a unit."""
    for unit in ("", "K", "M"):
        if count < 10_000:
            return f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.0f}G"
