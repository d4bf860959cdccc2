"""Modules that a test writes: what is imported of them is forgotten when the test ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

__all__ = ["modules_forgotten"]


@pytest.fixture(autouse=True)
def modules_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules of temporary directories, or the next test may get them by their names."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__dict__", {}).get("__file__")).startswith(base):
            del sys.modules[name]
