"""What the command line says on standard error: the library's log, a line an event."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any, Final

from ehlo.cli.readable import visible

__all__ = ["set_up_logging"]

# What every record has; all else was given as `extra`
_COMMON: Final = vars(logging.makeLogRecord({})).keys() | {"asctime", "message", "taskName"}
_SHOWN_BY_PRINTER: Final = ("ehlo.connection", "ehlo.message")


class _Text(logging.Formatter):
    """A log that a person reads on a terminal: what a client said is not obeyed by it."""

    def format(self, record: logging.LogRecord) -> str:
        text = visible(super().format(record))
        listening = record.name == "ehlo.server" and record.msg.startswith("listening on")
        return f"{text} (Ctrl+C stops it)" if listening else text


class _Json(logging.Formatter):
    """One object on one line, in ASCII: `time`, `level`, `logger`, `message`, and what is extra."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _COMMON}
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created)
            .astimezone()
            .isoformat("T", "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str).replace("\x7f", "\\u007f")


def set_up_logging(level: str, form: str = "text", *, quiet: bool = False) -> None:
    """Write what is logged to standard error, unless the user's module has set up logging itself.

    `level` is that of `ehlo`'s loggers; others are heard from INFO on, or from `level` if higher.
    `form` is `"text"` or `"json"`. With `quiet` nothing is said of clients that come and go and of
    mail that is taken: there is another place where that is seen.
    """
    logging.getLogger("ehlo").setLevel(level.upper())
    if quiet:
        for name in _SHOWN_BY_PRINTER:
            logging.getLogger(name).setLevel(logging.WARNING)
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Json()
        if form == "json"
        else _Text("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))
