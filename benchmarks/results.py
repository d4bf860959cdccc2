"""Compares the measured figures with each other and with the targets: ratios, verdicts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scenarios import EHLO_ONE, EHLO_TWO, LABELS, TARGETS, Idle, Queued, Scenario, Target, Workers


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one scenario: for each server one per round, in seconds or bytes."""

    scenario: Scenario
    figures: dict[str, list[float]]

    def against(self, server: str, other: str | None) -> list[float]:
        """Return a server's figures or, with `other`, their ratio to the other's in each round.

        In a round both were measured one after the other, so a disturbance affects both.
        """
        figures = self.figures.get(server, [])
        if other is None:
            return figures
        others = self.figures.get(other, [])
        # in a quick run memory may not have grown at all; there is no ratio to zero
        return [this / that for this, that in zip(figures, others, strict=False) if that > 0]

    def beyond(self, server: str, other: str) -> list[float]:
        """Return for each round how much greater a server's figure is than that of `other`."""
        figures, others = self.figures.get(server, []), self.figures.get(other, [])
        return [this - that for this, that in zip(figures, others, strict=False)]

    def shown(self, server: str) -> str:
        """Return the median with its unit, or a dash for a server that was not measured."""
        figures = self.figures.get(server)
        return quantity(self.scenario, statistics.median(figures)) if figures else "-"

    def shown_ratio(self, server: str, other: str) -> str:
        """Return the median ratio, or a dash."""
        found = self.against(server, other)
        return ratio(statistics.median(found)) if found else "-"


@dataclass(frozen=True, slots=True)
class WorkersResult:
    """The figures of workers and of a single process: for each server one per round."""

    scenario: Workers
    cpu: dict[str, list[float]]
    """Seconds per message, the sum over all processes of a server."""
    rate: dict[str, list[float]]
    """Messages per second of wall time."""
    busiest: list[float]
    """The busiest worker's share of the CPU time of all workers."""

    def cpu_ratio(self) -> list[float]:
        """Return for each round the workers' CPU time divided by the single process's."""
        return Result(self.scenario, self.cpu).against(EHLO_TWO, EHLO_ONE)

    def rate_ratio(self) -> list[float]:
        """Return for each round the workers' messages per second divided by the process's."""
        return Result(self.scenario, self.rate).against(EHLO_TWO, EHLO_ONE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, and the figures for it, one per round."""

    target: Target
    scenario: Scenario
    measured: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.measured)

    @property
    def is_met(self) -> bool:
        return self.median <= self.target.at_most

    @property
    def subject(self) -> str:
        """The servers that are compared, or the server that has an absolute limit."""
        server, against = self.target.server, self.target.against
        if against is None:
            return LABELS[server]
        return f"{LABELS[server]} / {LABELS[against]}"

    @property
    def word(self) -> str:
        """Met or missed, and by how many percent of the target."""
        off = self.median / self.target.at_most - 1
        return f"met, {-off:.0%} below" if self.is_met else f"MISSED by {off:.0%}"

    def shown(self, value: float) -> str:
        """Return a value in the unit of this target."""
        is_ratio = self.target.against is not None
        return ratio(value) if is_ratio else quantity(self.scenario, value)


def ratio(value: float) -> str:
    """Return a ratio with its significant digits."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def quantity(scenario: Scenario, value: float) -> str:
    """Return a figure with a suitable unit."""
    if isinstance(scenario, Queued) and scenario.what == "flushes":
        return f"{value:.3f}"
    if isinstance(scenario, Idle):
        return f"{value / 1024:.1f} KiB"
    return f"{value * 1e6:.0f} us" if abs(value) < 1e-3 else f"{value * 1e3:.1f} ms"


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Return each target for which there are figures."""
    by_name = {result.scenario.name: result for result in results}
    found = [
        Verdict(
            target,
            by_name[target.scenario].scenario,
            by_name[target.scenario].against(target.server, target.against),
        )
        for target in TARGETS
        if target.scenario in by_name
    ]
    return [verdict for verdict in found if verdict.measured]
