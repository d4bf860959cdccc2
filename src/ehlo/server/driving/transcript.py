"""What is said, line by line: for the log `ehlo.transcript` and for a user's callbacks."""

from __future__ import annotations

import logging

from ehlo.net import Peer
from ehlo.protocol.output import Observer
from ehlo.server.observing.journal import about
from ehlo.server.options.rules import Rules

__all__ = ["observer_of"]

logger = logging.getLogger("ehlo.transcript")


def observer_of(rules: Rules, session_id: str, peer: Peer) -> Observer | None:
    """Who is to be told of each line; `None` when nobody asked, which costs nothing then.

    With `debug` lines are logged at level INFO; without it at DEBUG, where that logger has it.
    """
    level = logging.INFO if rules.options.debug else logging.DEBUG
    logged = logger.isEnabledFor(level)
    if not logged and rules.options.log_read is None and rules.options.log_write is None:
        return None
    fields = {"session": session_id, "peer": str(peer)}
    callbacks = {"read": rules.options.log_read, "write": rules.options.log_write}

    def observe(direction: str, verb: str, line: str) -> None:
        if logged:
            arrow = "<-" if direction == "read" else "->"
            logger.log(level, "%s %s %s %s", session_id, peer, arrow, line, extra=fields)
        callback = callbacks[direction]
        if callback is not None:
            try:
                callback(peer, verb, line)
            except Exception:  # no reason to lose the client
                log = about(logger, session_id)
                log.exception("log_%s failed", direction)

    return observe
