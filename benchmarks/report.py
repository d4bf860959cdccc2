"""The figures as people read them: tables in the terminal, docs/benchmarks.md and its chart."""

from collections.abc import Sequence
from pathlib import Path

from chart import draw
from results import Result, Verdict, verdicts
from scenarios import AIOSMTPD, ALL, EHLO_ASYNC, EHLO_DEF, LABELS, SMTP_SINK

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
with the machine; the ratios are what counts. Lower is better everywhere.

- **aiosmtpd**: aiosmtpd on uvloop, with a handler that takes the bytes of the message.
- **smtp-sink**: Postfix's test server, written in C, which throws the message away. It has no TLS.
- **ehlo async**: this library on uvloop, with an `async def` function as its handler.
- **ehlo def**: the same with a `def` function, which runs in a pool of threads.

![CPU time per message of each server](benchmarks.svg)
"""

METHOD = """\
- The servers of a scenario are single processes pinned to one core, the load to another. They take
  turns, round after round, forwards and backwards, after a round that is not counted.
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


def terminal(results: Sequence[Result], facts: dict[str, str]) -> str:
    """Everything, for someone who watches."""
    found = verdicts(results)
    tables = [cost_rows(results), ratio_rows(results), target_rows(found)]
    shown = [plain(rows) for rows in tables if len(rows) > 1]
    machine = "\n".join(f"{name}: {fact}" for name, fact in facts.items())
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


def page(results: Sequence[Result], facts: dict[str, str], notes: Path) -> str:
    """The whole of docs/benchmarks.md."""
    found = verdicts(results)
    sections = (
        OPENING,
        "## What each costs\n",
        "CPU time per message; memory per connection; wall time of the import.\n",
        markdown(cost_rows(results)) + "\n",
        "## Ratios\n",
        markdown(ratio_rows(results)) + "\n",
        "## Targets\n",
        summary(found) + "\n",
        markdown(target_rows(found)) + "\n",
        "## What was missed and why\n",
        missed_section(found, notes) + "\n",
        "## How it is measured\n",
        METHOD,
        "## The machine\n",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()) + "\n",
    )
    return "\n".join(sections)


def write(docs: Path, results: Sequence[Result], facts: dict[str, str], notes: Path) -> None:
    """Write the page and its chart."""
    (docs / "benchmarks.md").write_text(page(results, facts, notes))
    draw(docs / "benchmarks.svg", results)
