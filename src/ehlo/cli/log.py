"""Logging of the command line: to standard error or to a file, as text, logfmt or JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from datetime import datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from time import monotonic
from typing import Final, TextIO

import click

from ehlo import paths
from ehlo.cli.loglines import fields_of, for_person, hint_of, logfmt, traceback_in
from ehlo.cli.readable import wants_color
from ehlo.server.observing.journal import reload_failed

_TELL_EVERY: Final = 60.0  # seconds between two reports about a log that cannot be written
_SHOWN_BY_PRINTER: Final = ("ehlo.connection", "ehlo.message")


class _Text(logging.Formatter):
    """Formats lines for a person who waits at a terminal, or reads a file."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is what the lines go to, if it may be a terminal."""
        super().__init__()
        self._on_terminal = stream is not None and stream.isatty()
        self._color = stream is not None and wants_color(stream)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the one that says where the server listens also says how to stop it."""
        width = shutil.get_terminal_size().columns if self._on_terminal else 0
        return for_person(record, width=width, color=self._color) + hint_of(record, width=width)


class _Logfmt(logging.Formatter):
    """Formats lines for programs, which a person can read, too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return logfmt(record)


class _Stream(logging.StreamHandler[TextIO]):
    """Writes lines, and counts those that cannot be written, for instance on a full disk.

    The first of them is reported on standard error, and their number in the log, once it works.
    """

    _lost = 0
    _told = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        lost = self._lost
        super().emit(record)
        if lost and lost == self._lost:
            self._lost = 0
            super().emit(_record_of("up to %d lines could not be logged", lost))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name in logging
        """Count a line that could not be written; logging prints a traceback for each."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._lost += 1
        if monotonic() - self._told >= _TELL_EVERY:
            self._told = monotonic()
            if self.stream is not sys.stderr:
                click.echo(f"ehlo: cannot write to the log: {error.strerror}", err=True)


def _record_of(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("ehlo.server", logging.WARNING, __file__, 0, text, args, None)


class _File(_Stream, WatchedFileHandler):
    """Writes to a file that may be rotated at any time: the next line or SIGHUP reopens it.

    If that fails, for instance after root was dropped, the old file stays in use: an exception
    from a log line would end a session.
    """

    _failed = False

    def __init__(self, path: str, owner: tuple[int, int] | None) -> None:
        """Open the file; a new one belongs to `owner`. Raises `OSError`."""
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.stream = self._opened(owner)

    def _opened(self, owner: tuple[int, int] | None = None) -> TextIOWrapper:
        file = paths.open_to_append(self.baseFilename, owner)
        return TextIOWrapper(os.fdopen(file, "ab"), self.encoding, self.errors)

    def reopenIfNeeded(self) -> None:  # noqa: N802  the name in logging
        """Open the file again if another one is at its path. Raises nothing."""
        if self.stream is None or _is_at(self.baseFilename, self.stream.fileno()):
            return
        try:
            new = self._opened()
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


class _Json(logging.Formatter):
    """Formats one object per line, in ASCII: `time`, `level`, `logger`, `message`, other fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created)
            .astimezone()
            .isoformat("T", "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        trace = traceback_in(record)
        if trace:
            fields["exception"] = trace
        return json.dumps(fields, default=str).replace("\x7f", "\\u007f")


def set_up_logging(
    level: str,
    form: str | None = None,
    file: str | None = None,
    *,
    owner: tuple[int, int] | None = None,
    quiet: bool = False,
) -> None:
    """Set up logging to standard error, unless the user's module has set up logging itself.

    `level` is for the loggers `ehlo.*`; for others it is at least INFO. `form` is `"text"`,
    `"logfmt"` or `"json"`; by default, text on a terminal and logfmt elsewhere. With `file`, lines
    go there in any case; a new one belongs to `owner`, a user and a group. `quiet` leaves out
    connections and accepted messages, for a command that prints the messages. Raises `OSError` if
    `file` cannot be opened.
    """
    logging.getLogger("ehlo").setLevel(level.upper())
    if quiet:
        for name in _SHOWN_BY_PRINTER:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and end are part of ours
    root = logging.getLogger()
    handler: logging.Handler
    if file is not None:
        handler, stream = _File(file, owner), None
    elif root.handlers:
        return
    else:
        handler, stream = _Stream(), sys.stderr
    handler.setFormatter(_formatter(form, stream))
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))


def _formatter(form: str | None, stream: TextIO | None) -> logging.Formatter:
    if form is None:
        form = "text" if stream is not None and stream.isatty() else "logfmt"
    if form == "text":
        return _Text(stream)
    return _Json() if form == "json" else _Logfmt()
