"""What the command line says on standard error: the library's log, a line an event."""

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

# What every record has; all else was given as `extra`
_COMMON: Final = vars(logging.makeLogRecord({})).keys() | {"asctime", "message", "taskName"}
_SHOWN_BY_PRINTER: Final = ("ehlo.connection", "ehlo.message")


class _Text(logging.Formatter):
    """A log that a person reads on a terminal: what a client said is not obeyed by it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Terminal(_Text):
    """The same, where somebody may sit before it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        listening = record.name == "ehlo.server" and record.msg.startswith("listening on")
        return f"{text} (Ctrl+C stops it)" if listening else text


class _File(WatchedFileHandler):
    """A file that may be moved away at any time, and is opened anew by the next line, or by SIGHUP.

    One that cannot be opened anew, as when root was given up, leaves the old one in use: a line of
    the log that raised would end a session.
    """

    _is_told = False

    def reopenIfNeeded(self) -> None:  # noqa: N802  as it is called there
        """See there. Raises nothing."""
        if self.stream is None or _is_at(self.baseFilename, self.stream.fileno()):
            return
        try:
            new = open(self.baseFilename, "a", encoding=self.encoding)  # noqa: SIM115, PTH123  it stays open
        except OSError as error:
            self._tell(error)
            return
        old, self.stream = self.stream, new
        with contextlib.suppress(OSError):  # what a full disk has not taken is lost with it
            old.close()
        self._is_told = False

    def _tell(self, error: OSError) -> None:
        """Once, where the next line goes, too."""
        if not self._is_told:
            self._is_told = True
            reload_failed("log", str(error))


def _is_at(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))  # noqa: PTH116  fstat has no Path
    except OSError:
        return False


def make_for(path: str, uid: int, gid: int) -> None:
    """Make the file of a log for the user whom root is going to be, unless there is one.

    It may be in a directory of his, so root does not follow a link that he could have put there.
    Raises `OSError`.
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
    """Raises `OSError` when root has opened what a link leads to that another user has made."""
    status = os.lstat(path)
    planted = stat.S_ISLNK(status.st_mode) and status.st_uid != 0
    if os.geteuid() == 0 and (planted or not _is_at(path, file)):
        raise OSError(errno.ELOOP, "a link that is not root's")


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


def set_up_logging(
    level: str, form: str = "text", file: str | None = None, *, quiet: bool = False
) -> None:
    """Write what is logged to standard error, unless the user's module has set up logging itself.

    `level` is that of `ehlo`'s loggers; others are heard from INFO on, or from `level` if higher.
    `form` is `"text"` or `"json"`. With `file` it is written there, whatever else is set up. With
    `quiet` nothing is said of clients that come and go and of mail that is taken: there is another
    place where that is seen. Raises `OSError` when the file cannot be opened.
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
