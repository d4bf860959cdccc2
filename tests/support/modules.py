"""Modules that a test writes: what is imported of them is forgotten when the test ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

__all__ = ["modules_forgotten", "modules_kept"]


@pytest.fixture(scope="session")
def modules_kept() -> set[str]:
    """The names of modules that no test has written."""
    return set()


@pytest.fixture(autouse=True)
def modules_forgotten(
    tmp_path_factory: pytest.TempPathFactory, modules_kept: set[str]
) -> Iterator[None]:
    """Forget the modules of temporary directories, or the next test may get them by their names."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - modules_kept:
        if str(getattr(sys.modules[name], "__dict__", {}).get("__file__")).startswith(base):
            del sys.modules[name]
        else:
            modules_kept.add(name)
