"""Log lines: for a person in a terminal, and as logfmt; neither has anything that a terminal obeys.

A line for a person is at most as wide as the terminal: texts and addresses are shortened, then the
client address and the id are left out. Warnings, errors and lines about the server itself are never
shortened.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click

from ehlo.cli.readable import cut, cut_inside, one_line, size_of, visible, width_of
from ehlo.server.observing.failures import traceback_of
from ehlo.server.observing.journal import shown

# Attributes of every record; the others were given as `extra`
_COMMON: Final = vars(logging.makeLogRecord({})).keys() | {"asctime", "message", "taskName"}
_LED_BY: Final = frozenset(("event", "session", "peer"))  # what a line need not repeat
_ARROW: Final = " -> "
# A quoted local part may have anything in it, even what separates two paths
_FIRST_PATH: Final = re.compile(r'<(?:"(?:[^"\\]|\\.)*"|[^">])*>')
_HINT: Final = " (Ctrl+C stops it)"
# What is shortened, in this order, and to how many columns; 0 leaves it out
_SHORTER: Final = (
    ("text", 24),
    ("route", 32),
    ("peer", 0),
    ("id", 0),
    ("route", 17),
    ("text", 8),
    ("route", 9),
)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that were given with a record."""
    return {name: value for name, value in vars(record).items() if name not in _COMMON}


def traceback_in(record: logging.LogRecord) -> str:
    """Return the traceback that a record has, or `""`; its text forges no line."""
    if record.exc_text:
        return record.exc_text
    error = record.exc_info[1] if record.exc_info else None
    return "" if error is None else traceback_of(error)


# -- for a program -----------------------------------------------------------------------------


def as_json(record: logging.LogRecord) -> str:
    """Return a record as one JSON object in ASCII; a traceback is its member `exception`."""
    members: dict[str, object] = {
        "time": _time_of(record),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **fields_of(record),
    }
    trace = traceback_in(record)
    if trace:
        members["exception"] = trace
    return json.dumps(members, default=str).replace("\x7f", "\\u007f")


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat("T", "milliseconds")


def logfmt(record: logging.LogRecord) -> str:
    """Return a record as `key=value` pairs; a traceback follows in lines that are indented."""
    fields, trace = fields_of(record), traceback_in(record)
    pairs = {
        "time": _time_of(record),
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    if "event" not in fields:
        pairs["message"] = record.getMessage()
    pairs |= fields
    if trace:
        pairs["error"] = trace.rpartition("\n")[2]
    line = " ".join(f"{name}={shown(value)}" for name, value in pairs.items())
    return visible("\n".join([line, trace] if trace else [line])).replace("\n", "\n  ")


# -- for a person ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Piece:
    """One part of a line, with its color."""

    name: str
    text: str
    style: Mapping[str, Any]
    whole: str = ""
    """The text before it was shortened."""

    def fit(self, columns: int) -> None:
        """Shorten the text to the columns, or less than before."""
        self.whole = self.whole or self.text
        self.text = (_cut_route if self.name == "route" else cut)(self.whole, columns)

    @property
    def painted(self) -> str:
        """The text in its color."""
        return click.style(self.text, **self.style) if self.style else self.text


def for_person(record: logging.LogRecord, *, width: int, color: bool) -> str:
    """Return a record as one line of at most `width` columns (0: any); a traceback follows."""
    fields, trace = fields_of(record), traceback_in(record)
    when = datetime.fromtimestamp(record.created)  # noqa: DTZ006  as the clock of the reader
    pieces = [_Piece("time", f"{when:%H:%M:%S}", {"dim": True})]
    if record.levelno >= logging.WARNING:
        is_error = record.levelno >= logging.ERROR
        word = record.levelname.lower() + ":"
        pieces.append(_Piece("level", word, {"fg": "red" if is_error else "magenta", "bold": True}))
    is_event = "event" in fields
    pieces += _of_event(fields) if is_event else [_Piece("text", record.getMessage(), {})]
    for each in pieces:
        each.text = one_line(each.text)
    if width and is_event and record.levelno < logging.WARNING:
        _shorten(pieces, width)
    line = " ".join(each.painted if color else each.text for each in pieces)
    return line + "".join(f"\n  {each}" for each in visible(trace).split("\n") if trace)


def _of_event(fields: Mapping[str, Any]) -> list[_Piece]:
    pieces = []
    if "peer" in fields:
        pieces.append(_Piece("peer", str(fields["peer"]), {"dim": True}))
    event = fields["event"]
    if event == "message accepted":
        return pieces + _accepted(fields)
    if event == "rejected":
        return pieces + _rejected(fields)
    rest = [f"{name}={shown(value)}" for name, value in fields.items() if name not in _LED_BY]
    pieces.append(_Piece("event", event, {}))
    return [*pieces, _Piece("text", " ".join(rest), {"dim": True})] if rest else pieces


def _accepted(fields: Mapping[str, Any]) -> list[_Piece]:
    pieces = [
        _Piece("route", _route(fields), {}),
        _Piece("size", size_of(fields["size"]), {}),
        _Piece("code", "250", {"fg": "green"}),
    ]
    if "queue_id" in fields:
        pieces.append(_Piece("id", str(fields["queue_id"]), {}))
    return [*pieces, _Piece("ms", f"{fields['ms']:.0f} ms", {"dim": True})]


def _rejected(fields: Mapping[str, Any]) -> list[_Piece]:
    pieces = []
    if "from" in fields:
        pieces.append(_Piece("route", _route(fields), {}))
    elif fields["verb"] != "-":
        pieces.append(_Piece("verb", fields["verb"], {}))
    code = f"{fields['code']} {fields.get('enhanced') or ''}".rstrip()
    return [*pieces, _Piece("code", code, {"fg": "red"}), _Piece("text", fields["text"], {})]


def _route(fields: Mapping[str, Any]) -> str:
    """Return the sender and the first recipient, with the number of the others."""
    sender = _bare(fields["from"]) or "<>"
    if "recipient" in fields:
        return f"{sender}{_ARROW}{_bare(fields['recipient'])}"
    if "to" not in fields:
        return sender
    first, more = _FIRST_PATH.match(fields["to"]), fields.get("recipients", 1) - 1
    others = f" +{more}" if more else ""
    return f"{sender}{_ARROW}{_bare(first[0] if first else fields['to'])}{others}"


def _bare(address: str) -> str:
    return address.removeprefix("<").removesuffix(">")


def hint_of(record: logging.LogRecord, *, width: int) -> str:
    """Return how to stop the server, to stand behind where it listens, if there is room for it."""
    if record.name != "ehlo.server" or not record.msg.startswith(("listening on", "started")):
        return ""
    room = width - width_of(for_person(record, width=width, color=False))
    return _HINT if not width or len(_HINT) <= room else ""


def _shorten(pieces: list[_Piece], width: int) -> None:
    """Shorten pieces, or leave them out, until the line fits."""
    for name, least in _SHORTER:
        over = -_room(pieces, width)
        if over <= 0:
            break
        for each in [piece for piece in pieces if piece.name == name]:
            if least == 0:
                pieces.remove(each)
            else:
                each.fit(max(least, width_of(each.text) - over))
    for each in pieces:  # what was left out may have made room
        if each.name == "route":
            each.fit(max(width_of(each.text), width_of(each.text) + _room(pieces, width)))
    at = 0
    for each in list(pieces):
        each.text = cut(each.text, max(0, width - at))
        at += width_of(each.text) + 1
        if at > width + 1 or not each.text:
            pieces.remove(each)


def _room(pieces: list[_Piece], width: int) -> int:
    """Return how many columns are left; negative if the line is too long."""
    return width + 1 - sum(width_of(each.text) + 1 for each in pieces)


def _cut_route(text: str, columns: int) -> str:
    """Return sender and recipient, each without its middle if it needs more than its half."""
    if width_of(text) <= columns:
        return text
    sender, arrow, to = text.partition(_ARROW)
    if not arrow:
        return cut_inside(text, columns)
    room = columns - len(arrow)
    left = max(room // 2, room - width_of(to))
    right = room - min(left, width_of(sender))
    return f"{cut_inside(sender, left)}{arrow}{cut_inside(to, right)}"
