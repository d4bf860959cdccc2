"""Logging of the command line: to standard error or to a file, as text or as JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
from datetime import datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Final

from ehlo.cli.readable import visible
from ehlo.server.observing.journal import reload_failed

__all__ = ["make_for", "set_up_logging"]

# Attributes of every record; the others were given as `extra`
_COMMON: Final = vars(logging.makeLogRecord({})).keys() | {"asctime", "message", "taskName"}
_SHOWN_BY_PRINTER: Final = ("ehlo.connection", "ehlo.message")


class _Text(logging.Formatter):
    """Formats lines for a person; a terminal does not obey text from clients in them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with its control characters escaped."""
        return visible(super().format(record))


class _Terminal(_Text):
    """Formats lines for standard error, where a person may wait for the server to start."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the one that says where the server listens also says how to stop it."""
        text = super().format(record)
        listening = record.name == "ehlo.server" and record.msg.startswith("listening on")
        return f"{text} (Ctrl+C stops it)" if listening else text


class _File(WatchedFileHandler):
    """Writes to a file that may be rotated at any time: the next line or SIGHUP reopens it.

    If that fails, for instance after root was dropped, the old file stays in use: an exception
    from a log line would end a session.
    """

    _failed = False

    def reopenIfNeeded(self) -> None:  # noqa: N802  the name in logging
        """Open the file again if another one is at its path. Raises nothing."""
        if self.stream is None or _is_at(self.baseFilename, self.stream.fileno()):
            return
        try:
            new = open(self.baseFilename, "a", encoding=self.encoding)  # noqa: SIM115, PTH123  it stays open
        except OSError as error:
            self._report(error)
            return
        old, self.stream = self.stream, new
        with contextlib.suppress(OSError):  # a full disk loses what was not written yet
            old.close()
        self._failed = False

    def _report(self, error: OSError) -> None:
        """The failure is logged once, to the old file."""
        if not self._failed:
            self._failed = True
            reload_failed("log", str(error))


def _is_at(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))  # noqa: PTH116  fstat has no Path
    except OSError:
        return False


def make_for(path: str, uid: int, gid: int) -> None:
    """Create the log file for the user that root is going to become, unless it exists.

    The directory may belong to that user, so root follows no link in it. Raises `OSError`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # O_EXCL follows no link
    try:
        file = os.open(path, flags, 0o666)
    except FileExistsError:
        return
    try:
        os.fchown(file, uid, gid)
    finally:
        os.close(file)


def _check_link(path: str, file: int) -> None:
    """Raises `OSError` if root has opened a file through a link of another user."""
    status = os.lstat(path)
    planted = stat.S_ISLNK(status.st_mode) and status.st_uid != 0
    if os.geteuid() == 0 and (planted or not _is_at(path, file)):
        raise OSError(errno.ELOOP, "the link is not owned by root")


class _Json(logging.Formatter):
    """Formats one object per line, in ASCII: `time`, `level`, `logger`, `message`, other fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        extra = {name: value for name, value in vars(record).items() if name not in _COMMON}
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created)
            .astimezone()
            .isoformat("T", "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str).replace("\x7f", "\\u007f")


def set_up_logging(
    level: str, form: str = "text", file: str | None = None, *, quiet: bool = False
) -> None:
    """Set up logging to standard error, unless the user's module has set up logging itself.

    `level` is for the loggers `ehlo.*`; for others it is at least INFO. `form` is `"text"` or
    `"json"`. With `file`, lines go there in any case. `quiet` leaves out connections and accepted
    messages, for a command that prints the messages. Raises `OSError` if `file` cannot be opened.
    """
    logging.getLogger("ehlo").setLevel(level.upper())
    if quiet:
        for name in _SHOWN_BY_PRINTER:
            logging.getLogger(name).setLevel(logging.WARNING)
    root = logging.getLogger()
    handler: logging.Handler
    if file is not None:
        handler, text = _File(file, encoding="utf-8"), _Text
        if handler.stream is not None:
            _check_link(file, handler.stream.fileno())
    elif root.handlers:
        return
    else:
        handler, text = logging.StreamHandler(), _Terminal
    layout = "%(asctime)s %(levelname)-7s %(message)s"
    handler.setFormatter(_Json() if form == "json" else text(layout, "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))
