"""Options of the command line, each made of a field of `ehlo.server.options.config.Options`.

None is written a second time here: name, type, default, help and group are the field's. An option
that was not given has no value, so that a `Server` of the user's keeps its own.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from ehlo.server.options.config import Options

__all__ = [
    "GroupedOption",
    "PrinterGroup",
    "ServerCommand",
    "as_flags",
    "is_function",
    "is_mapping",
    "server_options",
]

# A name of an option in a sentence: with an underscore, or as its first word
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\A[a-z]+\b")

_COLUMN = 26  # where the help of an option begins, so that all groups stand in line


class Switch(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """`NAME=on` or `NAME=off`; with `text`, anything else is what the name is on with."""

    def __init__(self, *, text: bool) -> None:
        self.text = text
        self.name = "NAME=on|off|TEXT" if text else "NAME=on|off"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, bool | str]:
        name, _, state = str(value).partition("=")
        if name and state.lower() in ("on", "off"):
            return name, state.lower() == "on"
        if not name or not state or not self.text:
            more = " or NAME=TEXT" if self.text else ""
            self.fail(f"{value!r} is not NAME=on or NAME=off{more}", param, ctx)
        return name, state


class GroupedOption(click.Option):
    """An option that knows under which heading of the help it stands."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return f"--[no-]{self.opts[0].removeprefix('--')}", record[1]


class _GroupedHelp(click.Command):
    """Writes the options of the help group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                names, text = record
                row = (names.ljust(_COLUMN), text)
                groups.setdefault(getattr(param, "group", "Else"), []).append(row)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=_COLUMN + 2)


class ServerCommand(_GroupedHelp):
    """A command with all of a server's options."""


class PrinterGroup(_GroupedHelp, click.Group):
    """The same, with commands below it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def server_options(*, leave_out: Sequence[str] = (), **defaults: object) -> list[click.Parameter]:
    """One option for each of a server's that can be said on a command line.

    `defaults` are those that a command has in place of the server's own; they are shown, and it is
    for the command to use them.
    """
    hints = get_type_hints(Options)
    return [
        _option(field, hints[field.name], defaults.get(field.name, field.default))
        for field in dataclasses.fields(Options)
        if field.metadata.get("flag") and field.name not in leave_out
    ]


def is_function(name: str) -> bool:
    """Whether the option takes a function: `module:attr` on the command line."""
    return Callable in _kinds(get_type_hints(Options)[name])


def is_mapping(name: str) -> bool:
    """Whether the option takes `NAME=on|off`, repeated."""
    return Mapping in _kinds(get_type_hints(Options)[name])


def as_flags(text: str) -> str:
    """A message of the library's with the names that its options have on the command line."""
    text = text.replace("tls_config or call configure_tls", "--tls-cert")
    names = {field.name for field in dataclasses.fields(Options) if field.metadata.get("flag")}
    return _NAME.sub(
        lambda match: f"--{match[0].replace('_', '-')}" if match[0] in names else match[0], text
    )


def _option(field: dataclasses.Field[Any], hint: object, default: object) -> click.Option:
    flag = field.name.replace("_", "-")
    is_switch = hint is bool
    return GroupedOption(
        [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}"],
        group=field.metadata["group"],
        help=_help(field.metadata["help"], None if is_switch else default),
        default=None,
        **({} if is_switch else _form(_kinds(hint), text=_maps_to_text(hint))),
    )


def _help(text: str, default: object) -> str:
    shown = f"{default:g}" if isinstance(default, float) else default
    if isinstance(default, tuple):
        shown = ", ".join(default)
    return text.replace("`", "") + ("" if shown in (None, "", ()) else f"  [{shown}]")


def _kinds(hint: object) -> list[Any]:
    """The members of a union without `None`; the hint itself if it is none.

    Of a generic type with arguments only its origin is kept.
    """
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [
        member if get_origin(member) is Literal else get_origin(member) or member
        for member in members
        if member is not types.NoneType
    ]


def _maps_to_text(hint: object) -> bool:
    """Whether it is a mapping whose values may be text."""
    return any(
        get_origin(kind) is Mapping and str in get_args(get_args(kind)[1])
        for kind in get_args(hint)
    )


def _form(kinds: list[Any], *, text: bool) -> dict[str, Any]:
    """How values of such a type are given; `text`: those of a mapping may be text."""
    match kinds:
        case [kind] if get_origin(kind) is Literal:
            return {"type": click.Choice(get_args(kind))}
        case [kind] if kind is Mapping:
            return {"type": Switch(text=text), "multiple": True}
        case [kind] if kind is Callable:
            return {"type": str, "metavar": "MODULE:ATTR"}
        case [kind] if kind is Sequence:
            return {"type": str, "multiple": True}
        case [kind, other] if other is Sequence:
            return {"type": kind, "multiple": True}
        case [kind]:
            return {"type": kind}
    raise TypeError(f"the command line has no form for {kinds}")
