"""`ehlo serve --faults FILE`: puts the faults of a file in front of the hooks of a server."""

from __future__ import annotations

import logging

import click

from ehlo.cli.running import checked
from ehlo.faults import Faults
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server

logger: logging.Logger = logging.getLogger("ehlo.server")


def faults_for(server: Server, path: str | None) -> Faults | None:
    """Return the faults of a file, if one is given. Raises `click.UsageError`."""
    if path is None:
        return None
    try:
        faults = Faults.load(path)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--faults {path}: {error}") from None
    options = server.options
    if options.workers > 1:
        raise click.UsageError("--faults cannot be combined with --workers; leave one out")
    if options.auth_file is not None and any(fault.stage == "auth" for fault in faults):
        raise click.UsageError(
            f"--faults {path}: a fault at auth cannot be combined with --auth-file; use on_auth"
        )
    return faults


def add_faults(server: Server, faults: Faults | None) -> None:
    """Put faults, if there are any, in front of the hooks of a server.

    The options that name functions stay: they say which logins are offered.
    """
    if faults is not None:
        callbacks = checked(lambda: callbacks_of(with_handler(server.options)))
        server.configure(handler=faults.around_hooks(callbacks), factory=False)


def log_faults(faults: Faults | None) -> None:
    """Log which faults there are, and the seed that makes them again."""
    if faults is not None:
        logger.warning("failing on purpose: faults=%d seed=%d", len(faults), faults.seed)
