"""Failures as lines of a log: an exception may quote a client, and its text cannot forge a line.

A traceback keeps its lines, and the text of an exception stays in its own. Its control characters
are escaped, and its length is bounded. Of a failure in the user's code, only the user's frames are
shown.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final

_MOST: Final = 4096  # characters of an exception's text, or of a frame
_MOST_IN_ALL: Final = 65_536
# Packages that call the user's code; the code itself, or a library's, is below their frames
_CALLING: Final = frozenset(
    {
        *("_frozen_importlib", "_frozen_importlib_external", "asyncio", "click", "concurrent"),
        *("contextlib", "ehlo", "importlib", "threading", "uvloop"),
    }
)
_MARGIN: Final = re.compile(r"[ |]*")  # of frames, and of exceptions in a group
_BETWEEN: Final = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


def keep_users_frames(error: BaseException) -> None:
    """Leave only frames of the user's code, and of libraries, in the tracebacks of an exception.

    The frames that led to the user's code are left out, and those of ehlo below it. An exception
    that no code of the user's has a part in keeps its traceback: the failure is ehlo's. The causes
    of an exception, and the exceptions of a group, are treated alike.
    """
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        ahead += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            ahead += each.exceptions
        kept = _users_frames(each)
        if kept is not None or isinstance(each, SyntaxError):  # which names a file of the user's
            each.__traceback__ = kept


def is_users(error: BaseException) -> bool:
    """Return whether code of the user's, or of a library, has a part in an exception."""
    return _users_frames(error) is not None


def _users_frames(error: BaseException) -> TracebackType | None:
    frames: list[TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        package = str(entry.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _CALLING or (frames and package != "ehlo"):
            frames.append(entry)
        entry = entry.tb_next
    found: TracebackType | None = None
    for each in reversed(frames):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an exception, without a line end at its end.

    No line of it begins with text that is the exception's own.
    """
    summary = traceback.TracebackException.from_exception(error, compact=True)
    for each in _all_of(summary):
        notes = getattr(each, "__notes__", None)
        if notes is not None:
            each.__notes__ = [escaped(str(note)) for note in notes]
    text = "".join(map(_tamed, summary.format()))
    return text[:_MOST_IN_ALL].removesuffix("\n")


def log_failure(
    log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    error: BaseException,
    text: str,
    *args: object,
    users: bool = False,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Log `text % args` as an error, with the traceback, which any formatter then takes as it is.

    `users` says that the user's code has failed (see `keep_users_frames`). `extra` has fields of
    the record.
    """
    if not log.isEnabledFor(logging.ERROR):
        return
    if isinstance(log, logging.LoggerAdapter):
        text, added = log.process(text, {})
        log, extra = log.logger, added["extra"]
    file, line, function, _ = log.findCaller(stacklevel=2)
    if users:
        keep_users_frames(error)
    failure = (type(error), error, error.__traceback__)
    record = log.makeRecord(
        log.name, logging.ERROR, file, line, text, args, failure, function, extra
    )
    record.exc_text = traceback_of(error)
    log.handle(record)


def _all_of(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Yield an exception, its causes, and the exceptions of a group."""
    ahead = [summary]
    while ahead:
        each = ahead.pop()
        yield each
        others = (each.__cause__, each.__context__, *(each.exceptions or ()))
        ahead += [other for other in others if other is not None]


def _tamed(piece: str) -> str:
    """Return a piece of a traceback: the lines of a frame, a sentence in between, or one line."""
    if piece.strip(" |\n") in _BETWEEN:
        return piece
    margin = _MARGIN.match(piece)[0]  # type: ignore[index]  # it matches any text
    lines = piece.removesuffix("\n").split("\n")
    if piece.startswith('File "', len(margin)):
        rest = [line if line.startswith(margin) else f"{margin}  {line}" for line in lines[1:]]
        return "\n".join(map(escaped, (lines[0], *rest))) + "\n"
    rest = [line.removeprefix(margin) for line in lines[1:]]
    return escaped("\n".join([lines[0], *rest])) + "\n"


def escaped(text: str) -> str:
    """Return a text without control and direction characters, cut to the room of a line."""
    kept = text[:_MOST]
    if not kept.isprintable():
        kept = "".join(each if each.isprintable() else _escape(each) for each in kept)
    more = len(text) - _MOST
    return f"{kept}… ({more:,} more characters)" if more > 0 else kept


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
