"""Modules that a test writes: what is imported of them is forgotten afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def forgotten(directory: Path) -> Iterator[None]:
    """Forget the modules below `directory` that are imported while the block runs.

    Otherwise a later test in the same process would get them instead of its own by their names.
    """
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if str(directory) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]
