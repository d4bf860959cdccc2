"""What was measured and how it stands against the targets: figures, ratios, verdicts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scenarios import LABELS, TARGETS, Idle, Scenario, Target


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

    def shown(self, server: str) -> str:
        """The middle figure in its unit, or a dash for a server that took no part."""
        figures = self.figures.get(server)
        return quantity(self.scenario, statistics.median(figures)) if figures else "-"

    def shown_ratio(self, server: str, other: str) -> str:
        """The middle ratio, or a dash."""
        found = self.against(server, other)
        return ratio(statistics.median(found)) if found else "-"


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
        return LABELS[server] if against is None else f"{LABELS[server]} / {LABELS[against]}"

    @property
    def word(self) -> str:
        """Met or missed, and by how much of the target."""
        off = self.median / self.target.at_most - 1
        return f"met, {-off:.0%} below" if self.is_met else f"MISSED by {off:.0%}"

    def shown(self, value: float) -> str:
        """A value as this target counts it."""
        return quantity(self.scenario, value) if self.target.against is None else ratio(value)


def ratio(value: float) -> str:
    """A ratio with the digits that mean something."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def quantity(scenario: Scenario, value: float) -> str:
    """A figure in the unit that suits it."""
    if isinstance(scenario, Idle):
        return f"{value / 1024:.1f} KiB"
    return f"{value * 1e6:.0f} us" if value < 1e-3 else f"{value * 1e3:.1f} ms"


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Each target that there are figures for."""
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
