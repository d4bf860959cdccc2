"""To parse 100 KB of anything is work linear in its size: counted in machine instructions.

A clock would tell of the machine's other work, and a profiler does not see into regular
expressions; callgrind counts what the processor does.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from interop.peers import peer, run
from robustness import parsing

CHECKOUT = Path(__file__).parents[2]
TWICE = 2.3
"""What twice the input may cost, in terms of the input."""


def instructions(folder: Path) -> list[int]:
    """Of each stretch between two calls of `getsid`, in order; the first is that to the first."""
    files = [folder / f"out.{part}" for part in range(1, len(list(folder.glob("out.*"))) + 1)]
    found = [re.search(r"^summary: (\d+)$", file.read_text(), re.MULTILINE) for file in files]
    return [int(match[1]) for match in found if match is not None]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """The instructions for each input, in each size."""
    folder = tmp_path_factory.mktemp("callgrind")
    done = run(
        [
            peer("valgrind"),
            *("--tool=callgrind", "--dump-before=getsid", f"--callgrind-out-file={folder}/out"),
            *(sys.executable, Path(parsing.__file__), CHECKOUT / "src"),
        ],
        env={"PYTHONHASHSEED": "0"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout.decode()
    measured = instructions(folder)[1::2]  # what lies between is the making of the next input
    sizes = len(parsing.SIZES)
    assert len(measured) == len(parsing.names()) * sizes
    rows = [measured[at : at + sizes] for at in range(0, len(measured), sizes)]
    return dict(zip(parsing.names(), rows, strict=True))


@pytest.mark.parametrize("name", [name for name in parsing.names() if name != parsing.CONTROL])
def test_twice_the_input_is_twice_the_work(name: str, counted: dict[str, list[int]]) -> None:
    for small, large in pairwise(counted[name]):
        assert large < TWICE * small + 20_000, counted[name]


def test_more_than_twice_the_work_would_be_seen(counted: dict[str, list[int]]) -> None:
    for small, large in pairwise(counted[parsing.CONTROL]):
        assert large > 3 * small
