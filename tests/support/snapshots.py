"""What a running server shows of itself on its control socket."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehlo.server.observing.views import ask
from support.serving import DEADLINE

__all__ = ["snapshot_of"]


def _always(_found: dict[str, Any]) -> bool:
    return True


def snapshot_of(
    control: Path,
    when: Callable[[dict[str, Any]], bool] = _always,
    deadline: float = DEADLINE,
) -> dict[str, Any]:
    """Return the first snapshot for which `when` is true.

    On a busy machine a server may close the connection before it answers, and leaves workers out
    that do not answer it in time.
    """
    until, found = time.monotonic() + deadline, None
    while True:
        with contextlib.suppress(TimeoutError, ValueError):
            found = ask(str(control))
            if when(found):
                return found
        assert time.monotonic() < until, found
