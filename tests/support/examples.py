"""How many examples a property is tested with: a third in `make test`, all in `make soak`."""

import os

from hypothesis import settings

__all__ = ["examples"]

_ALL = os.environ.get("EHLO_SOAK") == "1"


def examples(count: int) -> settings:
    """Return the settings of a property that `count` examples test in `make soak`."""
    return settings(max_examples=count if _ALL else count // 3)
