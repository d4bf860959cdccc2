"""Logging of the command line: to standard error or to a file, as text, logfmt or JSON."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from time import monotonic
from typing import Final, TextIO

import click

from ehlo import paths
from ehlo.cli.loglines import as_json, for_person, hint_of, logfmt
from ehlo.cli.readable import wants_color
from ehlo.server.observing.journal import reload_failed

_TELL_EVERY: Final = 60.0  # seconds between two reports about a log that cannot be written
_SHOWN_BY_PRINTER: Final = ("ehlo.connection", "ehlo.message")


class _Formatter(logging.Formatter):
    """Formats records by a function."""

    def __init__(self, form: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return self._form(record)


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
        if self.stream is None or paths.is_at(Path(self.baseFilename), self.stream.fileno()):
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
        """Log the failure once, to the old file."""
        if not self._failed:
            self._failed = True
            reload_failed("log", str(error))


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
    handler.setFormatter(_Formatter(_form_of(form, stream)))
    root.addHandler(handler)
    root.setLevel(max(logging.INFO, logging.getLogger("ehlo").level))


def _form_of(form: str | None, stream: TextIO | None) -> Callable[[logging.LogRecord], str]:
    """Return how lines are written to `stream`, or to a file."""
    on_terminal = stream is not None and stream.isatty()
    color = stream is not None and wants_color(stream)

    def text(record: logging.LogRecord) -> str:
        width = shutil.get_terminal_size().columns if on_terminal else 0
        return for_person(record, width=width, color=color) + hint_of(record, width=width)

    by_name = {"text": text, "logfmt": logfmt, "json": as_json}
    return by_name[form or ("text" if on_terminal else "logfmt")]
