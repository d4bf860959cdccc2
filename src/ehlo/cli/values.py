"""Values on the command line: each type says what is wrong with a value, and what to write."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ehlo import paths
from ehlo.cli.readable import reason_of
from ehlo.net import parse_address
from ehlo.server.options.config import bytes_of

if TYPE_CHECKING:
    _Type = click.ParamType[object]  # generic in the newest click only
else:
    _Type = click.ParamType

_SQLITE: Final = b"SQLite format 3\0"  # the first bytes of its files
_LONGEST: Final = 200  # characters of a value that are shown


class WrongValueError(click.BadParameter):
    """Raised for a value that an option cannot have; the message begins with the value."""


def wrong_value(
    value: object, what: str, param: click.Parameter | None, ctx: click.Context | None
) -> WrongValueError:
    """Return the error for a value; `what` is what is wrong, and what to do."""
    text = str(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return WrongValueError(f"{shown or repr('')}: {what}", ctx, param)


class Value(_Type):
    """Converts the text of an option's value by `read`. Derive from it."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return the value; one that is no text was converted before."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            raise wrong_value(value, str(error), param, ctx) from None

    def read(self, text: str) -> object:
        """Return what a text means.

        Raises `ValueError`, which says what is wrong, and what to write instead.
        """
        raise NotImplementedError


class AddressText(Value):
    """Checks an address to listen on."""

    name = "ADDRESS"

    def __init__(self, port: int = 1025) -> None:
        """`port` is the one of examples."""
        self.port = port

    def read(self, text: str) -> str:
        """Return the text of the address."""
        try:
            parse_address(text)
        except ValueError:
            raise ValueError(_advice_on(text).replace("1025", str(self.port))) from None
        return text


def _advice_on(text: str) -> str:
    if text.startswith("fd:"):
        return "not a file descriptor; write fd:3"
    if text.startswith("unix:"):
        return "path missing, e.g. unix:/run/ehlo.sock"
    if text.isdigit():
        return f"host missing, e.g. 127.0.0.1:{text} (or --port {text})"
    host, colon, port = text.rpartition(":")
    if text.count(":") > 1 and not host.endswith("]"):
        return "an IPv6 address needs brackets, e.g. [::1]:1025"
    if not colon:
        return f"port missing, e.g. {text if _is_host(text) else '127.0.0.1'}:1025"
    if not port:
        return f"port missing, e.g. {text}1025"
    if not (port.isdigit() and int(port) <= 65_535):
        return "the port must be a number from 0 to 65535, e.g. 127.0.0.1:1025"
    return "not an address; write host:port, :port, [v6]:port or unix:/path"


def _is_host(text: str) -> bool:
    return re.fullmatch(r"[\w.-]{1,253}", text, re.ASCII) is not None


class Number(Value):
    """Converts a whole number."""

    name = "NUMBER"

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        self.least = least
        self.most = most

    def read(self, text: str) -> int:
        """Return the number."""
        digits = text.strip()
        if re.fullmatch(r"[+-]?\d+", digits, re.ASCII) is None or len(digits) > 20:
            raise ValueError("not a whole number; write digits only")
        number = int(digits)
        low, high = self.least, self.most
        if (low is not None and number < low) or (high is not None and number > high):
            bound = f"from {low} to {high}" if high is not None else f"that is {low} or more"
            raise ValueError(f"out of range; write a number {bound}")
        return number


class Size(Value):
    """Converts a number of bytes: `1000000`, `10M`, `64 KiB`."""

    name = "SIZE"

    def read(self, text: str) -> int:
        """Return the number of bytes."""
        try:
            return bytes_of(text)
        except ValueError:
            what = "not a size; write bytes, or a number with k, M or G, e.g. 10M"
            raise ValueError(what) from None


class Seconds(Value):
    """Converts a number of seconds."""

    name = "SECONDS"

    def read(self, text: str) -> float:
        """Return the number."""
        try:
            return float(text)
        except ValueError:
            raise ValueError("not a number of seconds; write one, e.g. 30 or 0.5") from None


class Age(Value):
    """Converts a duration to seconds: `90`, `10m`, `12h`, `30d`."""

    name = "DURATION"

    def read(self, text: str) -> float:
        """Return the number of seconds."""
        from ehlo.queue.timing import seconds_in  # few commands have one

        try:
            return seconds_in("", text)
        except ValueError:
            raise ValueError("not a duration; write seconds, or 30d, 12h, 10m") from None


class YesNo(click.types.BoolParamType):
    """Converts the value of a switch, which only the environment has."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Return whether it is on."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            what = "neither yes nor no; write 1 or 0"
            raise wrong_value(value, what, param, ctx) from None


class Choice(Value):
    """Converts one of the choices, or the old name of one."""

    name = "choice"

    def __init__(self, choices: Sequence[str], old: Mapping[str, str]) -> None:
        self.choices = choices
        self.old = old

    def read(self, text: str) -> str:
        """Return the choice."""
        chosen = self.old.get(text, text)
        if chosen not in self.choices:
            raise ValueError(f"not a choice; write {either(self.choices)}")
        return chosen


class Switch(Value):
    """Converts `NAME=on` and `NAME=off`; with `text`, also `NAME=TEXT`."""

    def __init__(self, *, text: bool) -> None:
        self.text = text
        self.name = "NAME=on|off|TEXT" if text else "NAME=on|off"

    def read(self, text: str) -> tuple[str, bool | str]:
        """Return the name and the state."""
        name, _, state = text.partition("=")
        if name and state.lower() in ("on", "off"):
            return name, state.lower() == "on"
        if not name or not state or not self.text:
            shown = name or "NAME"
            more = f" or {shown}=TEXT" if self.text else ""
            raise ValueError(f"neither on nor off; write {shown}=on or {shown}=off{more}")
        return name, state


class ReadableFile(Value):
    """Checks that a file can be read."""

    name = "FILE"

    def read(self, text: str) -> str:
        """Return the path."""
        try:
            is_directory = stat.S_ISDIR(os.stat(text).st_mode)  # noqa: PTH116  a path of any form
        except (OSError, ValueError) as error:
            raise ValueError(f"{reason_of(error)}; check the path") from None
        if is_directory:
            raise ValueError("a directory; give a file")
        if not os.access(text, os.R_OK):
            raise ValueError("permission denied; make it readable for this user")
        return text


class QueueText(Value):
    """Checks that the place of a queue is no file of another kind, such as the module to serve.

    It opens the file, so it is for a process that has not opened it with SQLite: to close it would
    release the locks there. Values are read before a module of the user's is imported.
    """

    name = "QUEUE"

    def read(self, text: str) -> str:
        """Return the text."""
        try:
            file = paths.open_to_read(text)
        except (OSError, ValueError):  # there is no such file, or its queue says what is wrong
            return text
        with open(file, "rb") as opened:  # noqa: PTH123  a descriptor
            head = opened.read(len(_SQLITE))
        if head not in (b"", _SQLITE):
            raise ValueError("not an SQLite file; name another, such as mail.db")
        return text


class Directory(Value):
    """Checks that there is a directory, and with `for_files` that files can be made in it."""

    name = "DIR"

    def __init__(self, *, for_files: bool) -> None:
        self.for_files = for_files

    def read(self, text: str) -> str:
        """Return the path."""
        if not os.path.exists(text):  # noqa: PTH110  a path of any form
            what = f"make it: mkdir {text}" if self.for_files else "check the path"
            raise ValueError(f"no such directory; {what}")
        if not os.path.isdir(text):  # noqa: PTH112  as above
            raise ValueError("not a directory; give one")
        if self.for_files and not os.access(text, os.W_OK | os.X_OK):
            raise ValueError(
                "no files can be made in it; give a directory that this user may write to"
            )
        return text


def either(choices: Sequence[str]) -> str:
    """Return the choices as part of a sentence: `a`, `a or b`, `a, b or c`."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
