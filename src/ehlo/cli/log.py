"""What the command line says on standard error: the library's log, a line an event."""

from __future__ import annotations

import logging

from ehlo.cli.readable import visible

__all__ = ["set_up_logging"]


class _Formatter(logging.Formatter):
    """A log that a person reads on a terminal: what a client said is not obeyed by it."""

    def format(self, record: logging.LogRecord) -> str:
        text = visible(super().format(record))
        listening = record.name == "ehlo.server" and record.msg.startswith("listening on")
        return f"{text} (Ctrl+C stops it)" if listening else text


def set_up_logging(level: str) -> None:
    """Write what is logged to standard error, unless the user's module has set up logging itself.

    `level` is that of `ehlo`'s loggers; others are heard from INFO on, or from `level` if higher.
    """
    logging.getLogger("ehlo").setLevel(level.upper())
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))
