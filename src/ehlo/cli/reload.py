"""`--reload`: who changes a program is served by the new one. For development only."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from watchfiles import PythonFilter, watch

from ehlo.server.workers.parent import Parent

__all__ = ["watched"]

_STEP = 200  # milliseconds: how long changes are gathered, and how soon the thread sees the end

logger = logging.getLogger("ehlo.server")


def watched(parent: Parent) -> None:
    """Run `parent`, and tell it when a Python file below this directory has changed."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(parent, ended), name="ehlo-reload", daemon=True)
    thread.start()
    try:
        parent.run()
    finally:
        ended.set()
        thread.join()


def _watch(parent: Parent, ended: threading.Event) -> None:
    here = Path.cwd()
    watching = False
    for changes in watch(
        here,
        watch_filter=PythonFilter(),
        debounce=_STEP,
        rust_timeout=_STEP,
        yield_on_timeout=True,  # which tells that it has begun
        stop_event=ended,
        raise_interrupt=False,
    ):
        if not watching:
            watching = True
            logger.info("watching %s: a change of a *.py restarts the server", here)
        if changes:
            names = sorted(path.removeprefix(f"{here}/") for _, path in changes)
            logger.info("%s changed: restarting", ", ".join(names))
            parent.replace_all()
