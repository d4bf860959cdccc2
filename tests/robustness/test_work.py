"""Parsing is linear in the size of the input, counted in machine instructions.

A clock would measure the machine's other work, too, and a profiler does not see into regular
expressions. Cachegrind counts what the processor does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ehlo.protocol import xclient
from ehlo.protocol.auth.mechanisms import MECHANISMS
from interop.peers import peer, run
from robustness import parsing, reading
from support.examples import quick

CHECKOUT = Path(__file__).parents[2]
# A process for each input takes longer than the input. Together they hide only what grows little
AT_ONCE = quick(4, most=1)
GRAMMARS = parsing.groups(parsing.names(), AT_ONCE)
CONTENTS = parsing.groups([*reading.READ, *reading.FOUND], AT_ONCE)
Counts = list[tuple[int, int]]

FOUR_TIMES = 4.6
# What is looked at around a link is bounded, and the smaller message does not reach the bounds
FOUR_TIMES_WITH_BOUNDS = 5.2
"""The work for four times the input, relative to the work for the input."""


def count(program: str | None, groups: int, folder: Path) -> Counts:
    """Return the instructions for each group of inputs of a program in each size."""
    assert program is not None
    done = run(
        [
            peer("valgrind"),
            *("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            f"--log-file={folder}/%p",
            *(sys.executable, "-S", program, CHECKOUT / "src", str(AT_ONCE)),
        ],
        env={"PYTHONHASHSEED": "0"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout.decode()
    found = [instructions(folder / process) for process in done.stdout.decode().split()]
    # The work of the parent from one process to the next is constant
    each = (found[-1] - found[0]) / (len(found) - 1)
    measured = [int(count - found[0] - each * at) for at, count in enumerate(found)][1:-1]
    assert len(measured) == 2 * groups
    return [*zip(measured[::2], measured[1::2], strict=True)]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """Return the instructions for each group of inputs of commands."""
    return count(parsing.__file__, len(GRAMMARS), tmp_path_factory.mktemp("cachegrind"))


@pytest.fixture(scope="module")
def counted_content(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """Return the instructions for each group of messages whose content is read."""
    return count(reading.__file__, len(CONTENTS), tmp_path_factory.mktemp("cachegrind"))


def instructions(log: Path) -> int:
    """Return the instructions of a process, and of its parent before the fork."""
    match = re.search(r"I +refs: +([\d,]+)", log.read_text())
    assert match is not None
    return int(match[1].replace(",", ""))


@pytest.mark.parametrize("group", GRAMMARS[:-1], ids=", ".join)
def test_four_times_the_input_is_four_times_the_work(group: list[str], counted: Counts) -> None:
    small, large = counted[GRAMMARS.index(group)]
    assert large < FOUR_TIMES * small + 40_000 * len(group), (small, large)


@pytest.mark.parametrize("group", CONTENTS, ids=", ".join)
def test_four_times_the_message_is_four_times_the_work(
    group: list[str], counted_content: Counts
) -> None:
    small, large = counted_content[CONTENTS.index(group)]
    assert large < FOUR_TIMES_WITH_BOUNDS * small + 40_000 * len(group), (small, large)


def test_more_than_four_times_the_work_would_be_seen(counted: Counts) -> None:
    assert GRAMMARS[-1] == [parsing.CONTROL]
    small, large = counted[-1]
    assert large > 3 * FOUR_TIMES * small


def test_every_grammar_is_measured() -> None:
    settings = parsing.everything()
    assert keywords(parsing.OF_MAIL) >= settings.mail_params.keys()
    assert keywords(parsing.OF_RCPT) >= settings.rcpt_params.keys()
    for verb, attributes in (("XCLIENT", xclient.XCLIENT), ("XFORWARD", xclient.XFORWARD)):
        assert {f"{verb} {name}" for name in attributes} <= keywords(parsing.LINES)
    # The other kinds of SCRAM differ only in their names
    mechanisms = {name for name in MECHANISMS if not name.startswith("SCRAM-")}
    assert parsing.MESSAGES.keys() == mechanisms | {"SCRAM-SHA-256"}


def keywords(inputs: dict[str, parsing.Input]) -> set[str]:
    return {before.partition("=")[0].strip() for before, _, _ in inputs.values()}
