"""The lines of a session: for the log `ehlo.transcript` and for a user's callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ehlo.net import Peer
from ehlo.protocol.output import Observer
from ehlo.server.observing.journal import about

__all__ = ["observer_of"]

_LineCallback = Callable[[Peer, str, str], None]

logger = logging.getLogger("ehlo.transcript")


def observer_of(
    session_id: str,
    peer: Peer,
    *,
    debug: bool,
    log_read: _LineCallback | None,
    log_write: _LineCallback | None,
) -> Observer | None:
    """Return what is called for each line; `None` when nothing wants them, which costs nothing.

    With `debug` lines are logged at level INFO, otherwise at DEBUG, if that logger is enabled.
    """
    level = logging.INFO if debug else logging.DEBUG
    logged = logger.isEnabledFor(level)
    if not logged and log_read is None and log_write is None:
        return None
    fields = {"session": session_id, "peer": str(peer)}
    callbacks = {"read": log_read, "write": log_write}

    def observe(direction: str, verb: str, line: str) -> None:
        if logged:
            arrow = "<-" if direction == "read" else "->"
            logger.log(level, "%s %s %s %s", session_id, peer, arrow, line, extra=fields)
        callback = callbacks[direction]
        if callback is not None:
            try:
                callback(peer, verb, line)
            except Exception:  # which must not end the session
                log = about(logger, session_id)
                log.exception("log_%s failed", direction)

    return observe
