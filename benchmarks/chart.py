"""Draws the chart of docs/benchmarks.md: CPU time per message, a group of bars per scenario."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import Result, quantity
from scenarios import AIOSMTPD, ALL, EHLO_ASYNC, EHLO_DEF, LABELS, SMTP_SINK, Messages

COLOURS = {
    AIOSMTPD: "#b8b8b8",
    SMTP_SINK: "#6b7280",
    EHLO_ASYNC: "#0f766e",
    EHLO_DEF: "#5eb5ad",
}
THICK = 0.2  # of a bar; the distance between two scenarios is 1
LEFTMOST = 1e-5  # seconds, where the log scale begins


def _tick(seconds: float, position: object) -> str:
    del position
    unit, size = ("us", 1e-6) if seconds < 1e-3 else ("ms", 1e-3)
    return f"{seconds / size:.0f} {unit}"


def _bars(axes: Any, results: Sequence[Result], server: str) -> None:
    """Draw the bars of one server, each with its figure at its end."""
    offset = (ALL.index(server) - (len(ALL) - 1) / 2) * THICK
    points = [
        (row + offset, statistics.median(result.figures[server]), result)
        for row, result in enumerate(results)
        if result.figures.get(server)
    ]
    bars = axes.barh(
        [place for place, _, _ in points],
        [seconds for _, seconds, _ in points],
        height=THICK * 0.9,
        color=COLOURS[server],
        label=LABELS[server],
    )
    labels = [quantity(result.scenario, seconds) for _, seconds, result in points]
    axes.bar_label(bars, labels, padding=3, fontsize=8)


def draw(path: Path, results: Sequence[Result]) -> None:
    """Draw the scenarios that count messages. matplotlib is imported here, because it is slow."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [result for result in results if isinstance(result.scenario, Messages)]
    with mpl.rc_context({"svg.hashsalt": "ehlo"}):
        figure = Figure(figsize=(9, 1 + 1.05 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for server in ALL:
            _bars(axes, shown, server)
        axes.set_yticks(range(len(shown)), [result.scenario.title for result in shown])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.set_xlim(left=LEFTMOST)
        axes.xaxis.set_major_formatter(_tick)
        axes.set_xlabel("CPU time of the server per message, log scale (less is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(ALL), frameon=False)
        figure.savefig(path, metadata={"Date": None})
