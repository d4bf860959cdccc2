"""The catalog of all cases: dialogues in `cases/*.smtp`, and those that count replies.

A file of `cases` is read as `ehlo.testing.dialogue` reads dialogues, but a line `S:` expects a
whole reply by its code (see `Heard.fits`), and each scenario has settings:

    = must RFC 5321 4.1.1.9     the level, and the section that demands it
    = after rcpt                the state of the session: connect, greeting, ehlo (by default), ...
    = needs CHUNKING            keywords that the server must offer
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, cast

from ehlo.conformance import counting
from ehlo.conformance.probe import CLOSED, CaseFailedError, Probe
from ehlo.conformance.trial import STAGES, Case, Level, Stage, Trial
from ehlo.testing.dialogue import Scenario, Step, load

_FOLDER: Final = Path(__file__).parent / "cases"


def cases_of(path: Path) -> Iterator[Case]:
    """Yield the cases of a file. Raises `ValueError` if one is wrong."""
    for scenario in load(path):
        settings = dict(each.split(" ", 1) for each in scenario.given)
        level = "must" if "must" in settings else "should"
        section = settings.pop(level, "")
        stage = cast("Stage", settings.pop("after", "ehlo"))
        needs = settings.pop("needs", "")
        if settings or not section.startswith("RFC ") or stage not in STAGES:
            raise ValueError(f"{scenario}: wrong settings: {scenario.given}")
        play = partial(_play, scenario, stage)
        yield Case(
            scenario.title, cast("Level", level), section, path.stem, play, tuple(needs.split())
        )


def _play(scenario: Scenario, stage: Stage, trial: Trial) -> None:
    with trial.session(stage) as probe:
        for kind, row in itertools.groupby(scenario.steps, key=lambda step: step.kind):
            if kind == "client":
                steps = [step._replace(text=trial.filled(step.text)) for step in row]
                probe.expect_silence()
                probe.send(b"".join(step.data() for step in steps))
            elif not all(_act(probe, step) for step in row):
                return  # it has closed, which is one of the right answers


def _act(probe: Probe, step: Step) -> bool:
    """Do a step; return whether the session goes on."""
    if step.kind == "tls":
        if not probe.secure():
            raise CaseFailedError(b"(the TLS handshake)", "TLS", [])
        return True
    return probe.expect("closed" if step.kind == "closed" else step.text).code != CLOSED


CASES: Final[tuple[Case, ...]] = (
    *(case for path in sorted(_FOLDER.glob("*.smtp")) for case in cases_of(path)),
    *counting.CASES,
)
"""All cases, by group."""
