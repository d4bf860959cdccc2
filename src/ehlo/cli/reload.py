"""`--reload`: restarts the server when a Python file changes, for development."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from watchfiles import PythonFilter, watch

from ehlo.server.workers.parent import Parent

__all__ = ["watched"]

_STEP = 200  # milliseconds: to gather changes, and for the thread to notice the end

logger = logging.getLogger("ehlo.server")


def watched(parent: Parent) -> None:
    """Run `parent`, and restart it when a Python file below the current directory changes."""
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
        yield_on_timeout=True,  # the first time means that watching has begun
        stop_event=ended,
        raise_interrupt=False,
    ):
        if not watching:
            watching = True
            logger.info("watching %s for changes of *.py", here)
        if changes:
            names = sorted(path.removeprefix(f"{here}/") for _, path in changes)
            logger.info("%s changed: restarting", ", ".join(names))
            parent.replace_all()
