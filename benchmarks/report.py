"""Writes the figures as tables in the terminal, in docs/benchmarks.md, and as a chart."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chart import draw
from results import Result, Verdict, WorkersResult, quantity, ratio, verdicts
from scenarios import (
    AIOSMTPD,
    DIFFERENCES,
    EHLO_ASYNC,
    EHLO_DEF,
    EHLO_QUEUE,
    EHLO_TUNED,
    FIXTURES,
    INBOXES,
    LABELS,
    QUEUES,
    SMTP_SINK,
    WITH_TUNED,
    WORKERS,
    Caught,
    Kit,
    Puts,
    Queued,
)

Rows = list[list[str]]
OF_OTHER_TABLES = (Caught, Kit, Puts, Queued)

COMPARED = (
    (SMTP_SINK, AIOSMTPD),
    (EHLO_ASYNC, AIOSMTPD),
    (EHLO_ASYNC, SMTP_SINK),
    (EHLO_TUNED, SMTP_SINK),
    (EHLO_DEF, AIOSMTPD),
    (EHLO_DEF, SMTP_SINK),
    (EHLO_DEF, EHLO_ASYNC),
)

OPENING = """\
# Benchmarks

This page shows the CPU time of the server process per message: user and system time, as the kernel
counts it. `make bench` measures all servers side by side in one run and writes this page. Absolute
times depend on the machine; the ratios matter. Lower is better, except for messages per second.

- **aiosmtpd**: aiosmtpd on uvloop, with a handler that receives the bytes of the message.
- **smtp-sink**: Postfix's test server, written in C, which discards the message. It has no TLS.
- **ehlo async**: ehlo on uvloop, with an `async def` function as its handler.
- **ehlo async, malloc tuned**: the same with `listen_and_serve(tune_malloc=True)`, as the command
  line and workers run. The others keep the malloc of their C library, as a program of yours does.
- **ehlo def**: the same with a `def` function, which runs in a pool of threads.

All default limits of ehlo are enabled.

![CPU time per message of each server](benchmarks.svg)
"""

WORKERS_OPENING = """\
Two workers are compared with a single process. Servers and load may use every core. CPU time is the
sum over all processes of a server; the share of the busier worker is its share of the CPU time.

A connection goes to the worker that accepts it first, and stays there. `smtp-source` opens 20
connections at once: in 15 rounds, one worker had 10 to 19 of them, and at least 15 in 12 of the
rounds. Of 2,000 connections one after another, it had 50 to 60 %. A worker with few connections
serves them faster, so the work on kept connections is divided more evenly than the connections.
"""

QUEUE_OPENING = """\
Each message is on disk before its 250, and is delivered afterwards: by `ehlo.Queue` to a handler
that does nothing, and by a Postfix of its own with the `discard` transport. Servers and load may
use every core. Time is that of the load, from its first connection to its last reply, divided by
the number of messages. CPU time is that of all processes until the queue is empty.
"""

INBOX_OPENING = """\
Each message is stored before its 250, with the session that brought it, and is shown in a browser:
by `ehlo.inbox.Catcher`, and by MailDev 3.0.0, where npm has it. **ehlo async, malloc tuned** is the
handler that does nothing. The inbox fills its search index while no mail arrives: **inbox** has the
time for that, with all text of the messages in the index; **inbox, without index** does not.
"""

KIT_OPENING = """\
A test that sends one mail by smtplib and looks at it, with a server of its own for each test. The
figures are CPU time of pytest's process, less that of a test that does nothing. `ehlo_memory` has
no socket; the others have a port.
"""

METHOD = """\
- The servers of a scenario are single processes, pinned to one core; the load is pinned to another.
  They take turns, round after round, forwards and backwards, after a round that is not counted.
- Workers, and the single process that they are compared with, may use every core, and so may the
  load. On a machine with two cores the load uses part of both. Two workers therefore cannot serve
  twice as much as one process, which has a core almost for itself. CPU time is the sum over all
  processes, including the parent, each measured by its own clock. Messages per second are measured
  by wall time, from the start of the load to its end. The handler is the same class for both.
- ehlo runs with all its default limits. By default, clients on the loopback interface are exempt
  from the limits per address; here no client is. Limits that the load would reach (connections in
  total, per address and per minute; messages per session) are set higher, but their counters run.
  The hourly limits on messages and recipients of an address are disabled, as by default; a separate
  row shows their cost.
- CPU time is the process's CPU clock (`clock_gettime` with the id that `clock_getcpuclockid`
  returns: nanoseconds, all threads, including ended ones). It is read before and after a round and
  divided by the number of messages. A short session runs to its end before each reading, so that no
  work is left.
- A figure is the median of the rounds. A ratio is computed within each round; the table shows the
  median, the lowest and the highest ratio.
- Load without TLS is Postfix's `smtp-source` (20 sessions; 4 for 10 MB), with `-d` for kept
  connections. It sends HELO, MAIL, RCPT, DATA and QUIT and waits for each reply: it does not
  pipeline.
- Load under TLS is a Python client with the same dialogue in 20 sessions. Connections start with
  TLS; the certificate is ECDSA P-256, and no session is resumed. Only the server's time counts.
- Postfix runs with its default configuration, apart from its directories and 300 processes instead
  of 100. Flushes are those of the disk, by the kernel's count, so nothing else may write to it. The
  longest wait is that of any of 40 sessions for the reply to its message.
- The memory of an idle connection is the growth of the process's anonymous memory (`smaps_rollup`),
  divided by the number of connections: 1,000 that received their greeting, or 300 under TLS. Each
  round uses new processes.
- A test with one mail is measured in pytest, without other plugins: the CPU time of its process,
  with all threads, from the end of the first of 400 tests to the end of the last one. The time of
  tests that do nothing, in the same round, is subtracted. smtpdfix and pytest-localserver are
  those that pip installs.
- `import ehlo` is the wall time of an interpreter that imports ehlo, minus that of one that does
  not.
- The Python servers report how many messages they received; the run fails unless the number is
  right.
"""


def cost_rows(results: Sequence[Result]) -> Rows:
    """Return a table of the cost of each server in each scenario."""
    head = ["median of the rounds", *(LABELS[server] for server in WITH_TUNED)]
    return [head] + [
        [result.scenario.title, *(result.shown(server) for server in WITH_TUNED)]
        for result in results
        if not isinstance(result.scenario, OF_OTHER_TABLES)
    ]


def ratio_rows(results: Sequence[Result]) -> Rows:
    """Return a table of ratios, for the servers of which both were measured."""
    compared = [
        result
        for result in results
        if len(result.figures) > 1 and not isinstance(result.scenario, OF_OTHER_TABLES)
    ]
    pairs = [pair for pair in COMPARED if any(result.against(*pair) for result in compared)]
    head = ["median ratio", *(f"{LABELS[this]} / {LABELS[that]}" for this, that in pairs)]
    return [head] + [
        [result.scenario.title, *(result.shown_ratio(this, that) for this, that in pairs)]
        for result in compared
    ]


def target_rows(found: Sequence[Verdict]) -> Rows:
    """Return a table of the targets, the figures for them, and the verdicts."""
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
    """The results of a run, and the facts about its machine."""

    results: Sequence[Result]
    workers: Sequence[WorkersResult]
    facts: dict[str, str]


def kit_rows(results: Sequence[Result]) -> Rows:
    """Return a table of what a test with one mail costs with each fixture."""
    head = ["fixture", "median", "lowest - highest"]
    return [head] + [
        [LABELS[name], *spread(result.figures[name], partial(quantity, result.scenario))]
        for result in results
        if isinstance(result.scenario, Kit)
        for name in FIXTURES
        if name in result.figures
    ]


def spread(values: Sequence[float], shown: Callable[[float], str]) -> list[str]:
    """Return the median, and the lowest and the highest value; dashes if there are none."""
    if not values:
        return ["-", "-"]
    return [shown(statistics.median(values)), f"{shown(min(values))} - {shown(max(values))}"]


def difference_rows(results: Sequence[Result]) -> Rows:
    """Return a table of what one server costs more than another."""
    head = ["additional cost", "of", "median", "lowest - highest"]
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


def queue_rows(results: Sequence[Result]) -> Rows:
    """Return a table of what a message costs that is on disk before its 250."""
    head = ["per message, median of the rounds", *(LABELS[name] for name in QUEUES), "ratio"]
    rows = [[*head, "lowest - highest"]]
    for result in results:
        if isinstance(result.scenario, Queued):
            compared = spread(result.against(*QUEUES), ratio)
            rows.append(
                [result.scenario.title, *(result.shown(name) for name in QUEUES), *compared]
            )
        elif isinstance(result.scenario, Puts):
            figures = spread(result.figures[EHLO_QUEUE], partial(quantity, result.scenario))
            rows.append([result.scenario.title, figures[0], "-", "-", figures[1]])
    return rows


def inbox_rows(results: Sequence[Result]) -> Rows:
    """Return a table of what a message costs that is caught for a browser."""
    head = ["per message, median of the rounds", *(LABELS[name] for name in INBOXES)]
    rows = [head]
    for result in results:
        if isinstance(result.scenario, Caught):
            title = result.scenario.title
            rows.append([title, *(result.shown(name) for name in INBOXES)])
            ratios = (result.shown_ratio(name, EHLO_TUNED) for name in INBOXES)
            rows.append([f"{title}: ratio", *ratios])
    return rows


def worker_rows(results: Sequence[WorkersResult]) -> Rows:
    """Return a table that compares workers with a single process."""
    head = ["median of the rounds", *(LABELS[name] for name in WORKERS), "ratio"]
    return [[*head, "lowest - highest"]] + [row for result in results for row in _rows_of(result)]


def _rows_of(result: WorkersResult) -> Rows:
    title, in_time = result.scenario.title, partial(quantity, result.scenario)
    share, extremes = spread(result.busiest, "{:.0%}".format)
    return [
        [f"{title}: CPU time", *_each(result.cpu, in_time), *spread(result.cpu_ratio(), ratio)],
        [
            f"{title}: messages per second",
            *_each(result.rate, "{:,.0f}".format),
            *spread(result.rate_ratio(), ratio),
        ],
        [f"{title}: share of the busier worker", "-", share, "-", extremes],
    ]


def _each(figures: dict[str, list[float]], shown: Callable[[float], str]) -> list[str]:
    """Return the medians of the single process and of the workers."""
    return [spread(figures.get(name, []), shown)[0] for name in WORKERS]


def plain(rows: Rows) -> str:
    """Return a table for the terminal; all columns but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Rows) -> str:
    """Return the table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---" + "|---:" * (len(rows[0]) - 1) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def summary(found: Sequence[Verdict]) -> str:
    """Return one line about the targets."""
    missed = sum(not verdict.is_met for verdict in found)
    return f"{len(found) - missed} of {len(found)} targets met, {missed} missed."


def terminal(figures: Figures) -> str:
    """Return everything for the terminal."""
    results = figures.results
    found = verdicts(results)
    tables = [
        cost_rows(results),
        ratio_rows(results),
        difference_rows(results),
        worker_rows(figures.workers),
        queue_rows(results),
        inbox_rows(results),
        kit_rows(results),
        target_rows(found),
    ]
    shown = [plain(rows) for rows in tables if len(rows) > 1]
    machine = "\n".join(f"{name}: {fact}" for name, fact in figures.facts.items())
    return "\n\n".join(["", *shown, *([summary(found)] if found else []), machine])


def missed_section(found: Sequence[Verdict], notes: Path) -> str:
    """Return a list of the missed targets, then the notes about them."""
    missed = [
        f"- {verdict.scenario.title}, {verdict.subject}: {verdict.shown(verdict.median)}; "
        f"the target was {verdict.shown(verdict.target.at_most)}."
        for verdict in found
        if not verdict.is_met
    ]
    text = notes.read_text().strip() if notes.exists() else ""
    return "\n\n".join(filter(None, ["\n".join(missed) or "This run missed no target.", text]))


def page(figures: Figures, notes: Path) -> str:
    """Return the text of docs/benchmarks.md."""
    results = figures.results
    found = verdicts(results)
    sections = (
        OPENING,
        "## Cost of each server\n",
        "CPU time per message; memory per connection; wall time of the import.\n",
        markdown(cost_rows(results)) + "\n",
        "## Ratios\n",
        markdown(ratio_rows(results)) + "\n",
        "## Differences\n",
        "CPU time per message, compared within each round.\n",
        markdown(difference_rows(results)) + "\n",
        "## Workers\n",
        WORKERS_OPENING,
        markdown(worker_rows(figures.workers)) + "\n",
        "## Queue\n",
        QUEUE_OPENING,
        markdown(queue_rows(results)) + "\n",
        "## Inbox\n",
        INBOX_OPENING,
        markdown(inbox_rows(results)) + "\n",
        "## Tests\n",
        KIT_OPENING,
        markdown(kit_rows(results)) + "\n",
        "## Targets\n",
        summary(found) + "\n",
        markdown(target_rows(found)) + "\n",
        "## Missed targets\n",
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
