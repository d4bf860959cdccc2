"""Runs a server until its end: its certificates, its log, its workers, and errors in one line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from ehlo.cli.flags import ProcessOptions, as_flags
from ehlo.cli.log import set_up_logging
from ehlo.cli.readable import reason_of
from ehlo.cli.wrong import no_listening
from ehlo.server.server import Server
from ehlo.server.system import loops, machine, privileges
from ehlo.server.workers.recipe import Recipe, StartError, check

T = TypeVar("T")

_STEP = 200  # milliseconds: to gather changes, and for the thread to notice the end

logger: logging.Logger = logging.getLogger("ehlo.server")


def checked(make: Callable[[], T]) -> T:
    """Return the result of `make`; its errors name flags, and are wrong usage."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise click.UsageError(as_flags(str(error))) from error


def run(
    server: Server,
    process: ProcessOptions,
    serve: Callable[[], None],
    *,
    quiet: bool = False,
) -> None:
    """Call `serve`, which runs the server until a signal. Wrong options are reported before.

    `quiet` is as in `set_up_logging`.
    """
    checked(lambda: check(server.options))
    checked(lambda: loops.loop_factory(server.options.loop))
    _open_log(server, process, quiet=quiet)
    machine.raise_descriptors()
    try:
        serve()
    except StartError as error:
        raise click.ClickException(str(error)) from error
    except privileges.UnusableError as error:
        raise click.ClickException(as_flags(str(error))) from error
    except OSError as error:
        reason = error.strerror or ""
        if reason.startswith("cannot listen on"):
            raise no_listening(error) from error
        if not reason.startswith("only root can become"):
            raise  # it comes from a hook
        raise click.ClickException(f"--user: {reason}; start ehlo as root") from error


def _open_log(server: Server, process: ProcessOptions, *, quiet: bool) -> None:
    """Set up logging. A new file belongs to the user that root becomes, who reopens it later."""
    file = process.log_file
    try:
        owner = None if file is None else privileges.owner_for(server.options.user)
        set_up_logging(process.log_level, process.log_format, file, owner=owner, quiet=quiet)
    except OSError as error:
        raise click.UsageError(
            f"--log-file {file}: {reason_of(error)}; give a file that this user may write to"
        ) from error


def run_parent(server: Server, recipe: Recipe, *, reload: bool) -> None:
    """Run the workers until a signal; with `reload`, replace them when a Python file changes."""
    from ehlo.server.workers.parent import Parent  # most servers never need it

    parent = Parent(server.options, recipe, reload=reload)
    if not reload:
        parent.run()
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(parent.replace_all, ended), daemon=True)
    thread.start()
    try:
        parent.run()
    finally:
        ended.set()
        thread.join()


def _watch(restart: Callable[[], None], ended: threading.Event) -> None:
    """Call `restart` when a Python file below the current directory has changed."""
    from watchfiles import PythonFilter, watch  # an extra

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
            restart()
