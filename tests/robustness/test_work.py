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

CHECKOUT = Path(__file__).parents[2]
FOUR_TIMES = 4.6
# What is looked at around a link is bounded, and the smaller message does not reach the bounds
FOUR_TIMES_WITH_BOUNDS = 5.2
"""The work for four times the input, relative to the work for the input."""


def count(program: str | None, names: list[str], folder: Path) -> dict[str, tuple[int, int]]:
    """Return the instructions for each input of a program in each size."""
    assert program is not None
    done = run(
        [
            peer("valgrind"),
            *("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            f"--log-file={folder}/%p",
            *(sys.executable, "-S", program, CHECKOUT / "src"),
        ],
        env={"PYTHONHASHSEED": "0"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout.decode()
    found = [instructions(folder / process) for process in done.stdout.decode().split()]
    # The work of the parent from one process to the next is constant
    each = (found[-1] - found[0]) / (len(found) - 1)
    measured = [int(count - found[0] - each * at) for at, count in enumerate(found)][1:-1]
    assert len(measured) == 2 * len(names)
    return dict(zip(names, zip(measured[::2], measured[1::2], strict=True), strict=True))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Return the instructions for each input of a command."""
    return count(parsing.__file__, parsing.names(), tmp_path_factory.mktemp("cachegrind"))


@pytest.fixture(scope="module")
def counted_content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Return the instructions for each message whose content is read."""
    return count(
        reading.__file__, [*reading.READ, *reading.FOUND], tmp_path_factory.mktemp("cachegrind")
    )


def instructions(log: Path) -> int:
    """Return the instructions of a process, and of its parent before the fork."""
    match = re.search(r"I +refs: +([\d,]+)", log.read_text())
    assert match is not None
    return int(match[1].replace(",", ""))


@pytest.mark.parametrize("name", [name for name in parsing.names() if name != parsing.CONTROL])
def test_four_times_the_input_is_four_times_the_work(
    name: str, counted: dict[str, tuple[int, int]]
) -> None:
    small, large = counted[name]
    assert large < FOUR_TIMES * small + 40_000, counted[name]


@pytest.mark.parametrize("name", [*reading.READ, *reading.FOUND])
def test_four_times_the_message_is_four_times_the_work(
    name: str, counted_content: dict[str, tuple[int, int]]
) -> None:
    small, large = counted_content[name]
    assert large < FOUR_TIMES_WITH_BOUNDS * small + 40_000, counted_content[name]


def test_more_than_four_times_the_work_would_be_seen(
    counted: dict[str, tuple[int, int]],
) -> None:
    small, large = counted[parsing.CONTROL]
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
