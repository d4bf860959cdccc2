"""The figures as people read them: tables in the terminal, docs/benchmarks.md and its chart."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chart import draw
from results import Result, Verdict, WorkersResult, quantity, ratio, verdicts
from scenarios import (
    AIOSMTPD,
    ALL,
    DIFFERENCES,
    EHLO_ASYNC,
    EHLO_DEF,
    LABELS,
    SMTP_SINK,
    WORKERS,
)

Rows = list[list[str]]

COMPARED = (
    (SMTP_SINK, AIOSMTPD),
    (EHLO_ASYNC, AIOSMTPD),
    (EHLO_ASYNC, SMTP_SINK),
    (EHLO_DEF, AIOSMTPD),
    (EHLO_DEF, SMTP_SINK),
    (EHLO_DEF, EHLO_ASYNC),
)

OPENING = """\
# Benchmarks

What a message costs: CPU time of the server process, user and system, as the kernel counts it.
`make bench` measures all of it side by side in one run and writes this page. Absolute times move
with the machine; the ratios are what counts. Lower is better, but for messages a second.

- **aiosmtpd**: aiosmtpd on uvloop, with a handler that takes the bytes of the message.
- **smtp-sink**: Postfix's test server, written in C, which throws the message away. It has no TLS.
- **ehlo async**: this library on uvloop, with an `async def` function as its handler.
- **ehlo def**: the same with a `def` function, which runs in a pool of threads.

All limits that ehlo has by default are at work, for the load as for any client.

![CPU time per message of each server](benchmarks.svg)
"""

WORKERS_OPENING = """\
Two workers beside a single process, with every core for the servers and for the load. CPU time is
that of all processes of a server together, and the busier worker's share is one of CPU time.

A connection goes to the worker that accepts first, and stays there. Of the 20 that `smtp-source`
opens at once one worker had 10 to 19 when that was counted in 15 rounds, and at least 15 in 12 of
them; of 2,000 connections one after another it had 50 to 60 %. A worker with few connections serves
these faster, so that kept ones divide the work more evenly than they are divided.
"""

METHOD = """\
- The servers of a scenario are single processes pinned to one core, the load to another. They take
  turns, round after round, forwards and backwards, after a round that is not counted.
- Workers, and the single process beside them, may use every core, and so may the load. On a machine
  with two cores the load takes its share of both: two workers cannot serve twice as much there as
  one process, which has a core almost for itself. CPU time is the sum over all processes, the
  parent included, each by its own clock; messages a second are by wall time, from the start of the
  load to its end. The handler is a class, and the same for both.
- ehlo runs with all limits that it has by default. Clients on the loopback are exempt from what is
  counted for an address unless one says otherwise; here nobody is. Limits that the load would meet
  (connections in all and from one address, at once and in a minute; messages of a session) are set
  so high that it does not, and are counted as ever. The limits by the hour, on messages and
  recipients of an address, are off by default, and here; what they cost is a row of its own.
- CPU time is the process's CPU clock (`clock_gettime` on the id that `clock_getcpuclockid` gives:
  nanoseconds, all threads, ended ones included), read before and after a round, divided by its
  messages. Before each reading a short session is held to its end, so that nothing is left to do.
- A figure is the median of the rounds. A ratio is taken within each round, and the median of these
  is shown, with the lowest and the highest.
- Load without TLS is Postfix's `smtp-source` (20 sessions; 4 for 10 MB), with `-d` for kept
  connections. It says HELO, MAIL, RCPT, DATA and QUIT and awaits each reply: nothing is pipelined.
- Load under TLS is a client of our own that holds the same dialogue in 20 sessions. TLS starts with
  the connection; the certificate is ECDSA P-256, and no session is resumed. Only the server's
  time counts.
- Memory of an idle connection is the growth of the process's anonymous memory (`smaps_rollup`) over
  1,000 connections that got their greeting, 300 under TLS, in fresh processes each round.
- `import ehlo` is the wall time of an interpreter that imports it, less that of one that does not.
- The Python servers tell at the end how many messages they took, and the run fails unless that is
  what was sent.
"""


def cost_rows(results: Sequence[Result]) -> Rows:
    """What each server costs in each scenario."""
    head = ["median of the rounds", *(LABELS[server] for server in ALL)]
    return [head] + [
        [result.scenario.title, *(result.shown(server) for server in ALL)] for result in results
    ]


def ratio_rows(results: Sequence[Result]) -> Rows:
    """Each server's cost as a multiple of another's, where both were measured."""
    compared = [result for result in results if len(result.figures) > 1]
    pairs = [pair for pair in COMPARED if any(result.against(*pair) for result in compared)]
    head = ["median ratio", *(f"{LABELS[this]} / {LABELS[that]}" for this, that in pairs)]
    return [head] + [
        [result.scenario.title, *(result.shown_ratio(this, that) for this, that in pairs)]
        for result in compared
    ]


def target_rows(found: Sequence[Verdict]) -> Rows:
    """Each target, what was measured for it, and whether it is met."""
    head = ["target", "of", "at most", "measured", "lowest - highest", "verdict"]
    return [head] + [
        [
            verdict.scenario.title,
            verdict.subject,
            verdict.shown(verdict.target.at_most),
            verdict.shown(verdict.median),
            f"{verdict.shown(min(verdict.measured))} - {verdict.shown(max(verdict.measured))}",
            verdict.word,
        ]
        for verdict in found
    ]


@dataclass(frozen=True, slots=True)
class Figures:
    """All that a run has measured, and where."""

    results: Sequence[Result]
    workers: Sequence[WorkersResult]
    facts: dict[str, str]


def spread(values: Sequence[float], shown: Callable[[float], str]) -> list[str]:
    """The middle one, then the lowest and the highest; dashes where there is none."""
    if not values:
        return ["-", "-"]
    return [shown(statistics.median(values)), f"{shown(min(values))} - {shown(max(values))}"]


def difference_rows(results: Sequence[Result]) -> Rows:
    """What one server costs more than another."""
    head = ["what it costs more", "of", "median", "lowest - highest"]
    by_name = {result.scenario.name: result for result in results}
    return [head] + [
        [
            f"{by_name[name].scenario.title}: {title}",
            f"{LABELS[this]} - {LABELS[that]}",
            *spread(measured, partial(quantity, by_name[name].scenario)),
        ]
        for title, this, that, names in DIFFERENCES
        for name in names
        if name in by_name and (measured := by_name[name].beyond(this, that))
    ]


def worker_rows(results: Sequence[WorkersResult]) -> Rows:
    """Two workers beside a single process."""
    head = ["median of the rounds", *(LABELS[name] for name in WORKERS), "ratio"]
    return [[*head, "lowest - highest"]] + [row for result in results for row in _rows_of(result)]


def _rows_of(result: WorkersResult) -> Rows:
    title, in_time = result.scenario.title, partial(quantity, result.scenario)
    share, extremes = spread(result.busiest, "{:.0%}".format)
    return [
        [f"{title}: CPU time", *_each(result.cpu, in_time), *spread(result.cpu_ratio(), ratio)],
        [
            f"{title}: messages a second",
            *_each(result.rate, "{:,.0f}".format),
            *spread(result.rate_ratio(), ratio),
        ],
        [f"{title}: the busier one's share", "-", share, "-", extremes],
    ]


def _each(figures: dict[str, list[float]], shown: Callable[[float], str]) -> list[str]:
    """The middle figure of the single process, and of the workers."""
    return [spread(figures.get(name, []), shown)[0] for name in WORKERS]


def plain(rows: Rows) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Rows) -> str:
    """The same table for a page."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---" + "|---:" * (len(rows[0]) - 1) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def summary(found: Sequence[Verdict]) -> str:
    """One line on the targets."""
    missed = sum(not verdict.is_met for verdict in found)
    return f"{len(found) - missed} of {len(found)} targets met, {missed} missed."


def terminal(figures: Figures) -> str:
    """Everything, for someone who watches."""
    results = figures.results
    found = verdicts(results)
    tables = [
        cost_rows(results),
        ratio_rows(results),
        difference_rows(results),
        worker_rows(figures.workers),
        target_rows(found),
    ]
    shown = [plain(rows) for rows in tables if len(rows) > 1]
    machine = "\n".join(f"{name}: {fact}" for name, fact in figures.facts.items())
    return "\n\n".join(["", *shown, *([summary(found)] if found else []), machine])


def missed_section(found: Sequence[Verdict], notes: Path) -> str:
    """The misses by name, then what was written about them by hand, word for word."""
    missed = [
        f"- {verdict.scenario.title}, {verdict.subject}: {verdict.shown(verdict.median)} where "
        f"{verdict.shown(verdict.target.at_most)} was the target."
        for verdict in found
        if not verdict.is_met
    ]
    told = notes.read_text().strip() if notes.exists() else ""
    return "\n\n".join(filter(None, ["\n".join(missed) or "In this run nothing was missed.", told]))


def page(figures: Figures, notes: Path) -> str:
    """The whole of docs/benchmarks.md."""
    results = figures.results
    found = verdicts(results)
    sections = (
        OPENING,
        "## What each costs\n",
        "CPU time per message; memory per connection; wall time of the import.\n",
        markdown(cost_rows(results)) + "\n",
        "## Ratios\n",
        markdown(ratio_rows(results)) + "\n",
        "## Differences\n",
        "CPU time per message, taken within each round.\n",
        markdown(difference_rows(results)) + "\n",
        "## Workers\n",
        WORKERS_OPENING,
        markdown(worker_rows(figures.workers)) + "\n",
        "## Targets\n",
        summary(found) + "\n",
        markdown(target_rows(found)) + "\n",
        "## What was missed and why\n",
        missed_section(found, notes) + "\n",
        "## How it is measured\n",
        METHOD,
        "## The machine\n",
        "\n".join(f"- {name}: {fact}" for name, fact in figures.facts.items()) + "\n",
    )
    return "\n".join(sections)


def write(docs: Path, figures: Figures, notes: Path) -> None:
    """Write the page and its chart."""
    (docs / "benchmarks.md").write_text(page(figures, notes))
    draw(docs / "benchmarks.svg", figures.results)
