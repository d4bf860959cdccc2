"""How much is tested: a part of the examples and products in `make test`, all in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import settings

__all__ = ["examples", "turns"]

_ALL = os.environ.get("EHLO_SOAK") == "1"


def examples(count: int) -> settings:
    """Return the settings of a property that `count` examples test in `make soak`."""
    return settings(max_examples=count if _ALL else count // 3)


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
