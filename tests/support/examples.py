"""How much is tested: a part in `make test`, more by pytest alone and in CI, all in `make soak`.

`make test` sets `EHLO_QUICK=1`. Of forms that run the same code it takes some, so that each value
occurs: a test that runs with both event loops runs with one of them, half of the tests with each.
CI runs it with both, and so does pytest without `make`. `make soak` sets `EHLO_SOAK=1`, for all
examples of a property, and for the whole products of forms.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings

__all__ = ["each_with", "examples", "one_in_turn", "quick", "turns"]

_ALL = os.environ.get("EHLO_SOAK") == "1"
_QUICK = os.environ.get("EHLO_QUICK") == "1" and not _ALL

Forms = TypeVar("Forms")


def examples(count: int) -> settings:
    """Return the settings of a property that `count` examples test in `make soak`."""
    return settings(max_examples=count if _ALL else count // 3)


def quick(few: Forms, *, most: Forms) -> Forms:
    """Return `few` in `make test`, and `most` in CI, which is all of it."""
    return few if _QUICK else most


def turns(
    items: Sequence[Any], ways: Sequence[tuple[Any, ...]], count: int
) -> list[tuple[Any, ...]]:
    """Return each item with all ways in `make soak`, else with the next `count` ways in turn."""
    many = len(ways) if _ALL else count
    return [
        (item, *ways[(place * many + turn) % len(ways)])
        for place, item in enumerate(items)
        for turn in range(many)
    ]


def each_with(items: Iterable[tuple[Any, ...]], values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return each item with all values; in `make test` with one of them, in turn."""
    return [
        (*item, value)
        for at, item in enumerate(items)
        for value in quick([values[(at + at // len(values)) % len(values)]], most=values)
    ]


def one_in_turn(metafunc: pytest.Metafunc, fixture: str, values: Sequence[str]) -> None:
    """Give a test one of the values of a fixture in `make test`: the same one in each run."""
    definition = metafunc.definition
    named = [str(mark.args[0]) for mark in definition.iter_markers("parametrize")]
    if _QUICK and fixture in metafunc.fixturenames and not any(fixture in each for each in named):
        value = values[zlib.crc32(definition.nodeid.encode()) % len(values)]
        definition.add_marker(pytest.mark.parametrize(fixture, [value], indirect=True))
