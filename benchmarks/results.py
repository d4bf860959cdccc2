"""What was measured and how it stands against the targets: figures, ratios, verdicts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scenarios import EHLO_ONE, EHLO_TWO, LABELS, TARGETS, Idle, Scenario, Target, Workers


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one scenario: for each server one a round, in seconds or octets."""

    scenario: Scenario
    figures: dict[str, list[float]]

    def against(self, server: str, other: str | None) -> list[float]:
        """A server's figures or, with `other`, round by round their ratios to its own.

        In a round the two were measured one after the other: what disturbs it weighs on both.
        """
        figures = self.figures.get(server, [])
        if other is None:
            return figures
        others = self.figures.get(other, [])
        # memory may not have grown at all in a quick run: nothing can be said as a multiple of that
        return [this / that for this, that in zip(figures, others, strict=False) if that > 0]

    def beyond(self, server: str, other: str) -> list[float]:
        """Round by round, by how much a server's figure is more than that of `other`."""
        figures, others = self.figures.get(server, []), self.figures.get(other, [])
        return [this - that for this, that in zip(figures, others, strict=False)]

    def shown(self, server: str) -> str:
        """The middle figure in its unit, or a dash for a server that took no part."""
        figures = self.figures.get(server)
        return quantity(self.scenario, statistics.median(figures)) if figures else "-"

    def shown_ratio(self, server: str, other: str) -> str:
        """The middle ratio, or a dash."""
        found = self.against(server, other)
        return ratio(statistics.median(found)) if found else "-"


@dataclass(frozen=True, slots=True)
class WorkersResult:
    """Workers and a single process side by side, by server one figure a round."""

    scenario: Workers
    cpu: dict[str, list[float]]
    """Seconds per message, of all processes of a server together."""
    rate: dict[str, list[float]]
    """Messages per second of wall time."""
    busiest: list[float]
    """Of the CPU time of all workers, the share of the one with the most."""

    def cpu_ratio(self) -> list[float]:
        """Round by round, the workers' CPU time as a multiple of the single process's."""
        return Result(self.scenario, self.cpu).against(EHLO_TWO, EHLO_ONE)

    def rate_ratio(self) -> list[float]:
        """Round by round, likewise of the messages per second."""
        return Result(self.scenario, self.rate).against(EHLO_TWO, EHLO_ONE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target with what was measured for it, round by round."""

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
        """The two that are compared, or the one that has a bound of its own."""
        server, against = self.target.server, self.target.against
        if against is None:
            return LABELS[server]
        return f"{LABELS[server]} {'-' if self.target.more else '/'} {LABELS[against]}"

    @property
    def word(self) -> str:
        """Met or missed, and by how much of the target."""
        off = self.median / self.target.at_most - 1
        return f"met, {-off:.0%} below" if self.is_met else f"MISSED by {off:.0%}"

    def shown(self, value: float) -> str:
        """A value as this target counts it."""
        is_ratio = self.target.against is not None and not self.target.more
        return ratio(value) if is_ratio else quantity(self.scenario, value)


def ratio(value: float) -> str:
    """A ratio with the digits that mean something."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def quantity(scenario: Scenario, value: float) -> str:
    """A figure in the unit that suits it."""
    if isinstance(scenario, Idle):
        return f"{value / 1024:.1f} KiB"
    return f"{value * 1e6:.0f} us" if value < 1e-3 else f"{value * 1e3:.1f} ms"


def _measured(target: Target, result: Result) -> list[float]:
    if target.more and target.against is not None:
        return result.beyond(target.server, target.against)
    return result.against(target.server, target.against)


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Each target that there are figures for."""
    by_name = {result.scenario.name: result for result in results}
    found = [
        Verdict(
            target,
            by_name[target.scenario].scenario,
            _measured(target, by_name[target.scenario]),
        )
        for target in TARGETS
        if target.scenario in by_name
    ]
    return [verdict for verdict in found if verdict.measured]
