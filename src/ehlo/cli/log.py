"""What the command line says on standard error: the library's log, a line an event."""

from __future__ import annotations

import logging
from logging.handlers import WatchedFileHandler

from ehlo.cli.readable import visible

__all__ = ["set_up_logging"]


class _Formatter(logging.Formatter):
    """A log that a person reads on a terminal: what a client said is not obeyed by it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Terminal(_Formatter):
    """The same, where somebody may sit before it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        listening = record.name == "ehlo.server" and record.msg.startswith("listening on")
        return f"{text} (Ctrl+C stops it)" if listening else text


def set_up_logging(level: str, file: str | None = None) -> None:
    """Write what is logged to standard error, unless the user's module has set up logging itself.

    With `file` it is written there, whatever else is set up; a file that was moved away or deleted
    is opened anew by the next line, which SIGHUP is the cause of. `level` is that of `ehlo`'s
    loggers; others are heard from INFO on, or from `level` if higher. Raises `OSError`.
    """
    logging.getLogger("ehlo").setLevel(level.upper())
    root = logging.getLogger()
    handler: logging.Handler
    if file is not None:
        handler, formatter = WatchedFileHandler(file, encoding="utf-8"), _Formatter
    elif root.handlers:
        return
    else:
        handler, formatter = logging.StreamHandler(), _Terminal
    handler.setFormatter(formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))
