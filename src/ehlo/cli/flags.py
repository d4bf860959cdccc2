"""Flags and arguments: the server's options, each made from a field of `Options`, and handlers.

Nothing is written a second time here: name, type, default, help and group are the field's. An
option that is not given has no value, so that the user's own `Server` keeps its own.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from ehlo.server.options import target
from ehlo.server.options.config import Options, descriptions

__all__ = [
    "GroupedOption",
    "PrinterGroup",
    "ServerCommand",
    "as_flags",
    "handler_of",
    "is_function",
    "is_mapping",
    "load",
    "server_options",
]

# The name of an option in a sentence: with an underscore, or as its first word
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\A[a-z]+\b")

_COLUMN = 26  # where the help texts begin, in all groups


class Switch(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Converts `NAME=on` and `NAME=off`; with `text`, also `NAME=TEXT`."""

    def __init__(self, *, text: bool) -> None:
        self.text = text
        self.name = "NAME=on|off|TEXT" if text else "NAME=on|off"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, bool | str]:
        """Return the name and the state."""
        name, _, state = str(value).partition("=")
        if name and state.lower() in ("on", "off"):
            return name, state.lower() == "on"
        if not name or not state or not self.text:
            more = " or NAME=TEXT" if self.text else ""
            self.fail(f"{value!r}: write NAME=on or NAME=off{more}", param, ctx)
        return name, state


class Renamed(click.Choice):  # type: ignore[type-arg]  # generic in the newest click only
    """Converts one of the choices, or the old name of one."""

    def __init__(self, choices: Sequence[str], old: Mapping[str, str]) -> None:
        super().__init__(choices)
        self.old = old

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the choice."""
        return super().convert(self.old.get(value, value), param, ctx)


class GroupedOption(click.Option):
    """Describes an option, and the heading of the help that it belongs to."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the help text."""
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return f"--[no-]{self.opts[0].removeprefix('--')}", record[1]


class _GroupedHelp(click.Command):
    """Writes the help of its options group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                names, text = record
                row = (names.ljust(_COLUMN), text)
                groups.setdefault(getattr(param, "group", "Other"), []).append(row)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=_COLUMN + 2)


class ServerCommand(_GroupedHelp):
    """Describes a command with all options of a server."""


class PrinterGroup(_GroupedHelp, click.Group):
    """Describes the same, with commands below it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def server_options(*, leave_out: Sequence[str] = (), **defaults: object) -> list[click.Parameter]:
    """Return an option for each of a server's that has a flag.

    `defaults` are a command's own, shown instead of the server's; the command has to apply them.
    """
    hints, texts = get_type_hints(Options), descriptions()
    return [
        _option(
            field,
            hints[field.name],
            texts.get(field.name, ""),
            defaults.get(field.name, field.default),
        )
        for field in dataclasses.fields(Options)
        if field.metadata.get("flag") and field.name not in leave_out
    ]


def is_function(name: str) -> bool:
    """Return whether the value is a function, which is `module:attr` on the command line."""
    return Callable in _kinds(get_type_hints(Options)[name])


def is_mapping(name: str) -> bool:
    """Return whether the value is a mapping, which is `NAME=on|off`, repeated."""
    return Mapping in _kinds(get_type_hints(Options)[name])


def as_flags(text: str) -> str:
    """Return a message of the library with its options as they are on the command line."""
    text = text.replace("tls_config or call configure_tls", "--tls-cert")
    names = {field.name for field in dataclasses.fields(Options) if field.metadata.get("flag")}
    return _NAME.sub(
        lambda match: f"--{match[0].replace('_', '-')}" if match[0] in names else match[0], text
    )


def load(text: str) -> Any:
    """Return the object that `module:attr` names, also from a module in this directory.

    Raises `click.UsageError` if there is none. What the module itself raises comes through.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return target.load(text)
    except target.NotThereError as error:
        raise click.UsageError(str(error)) from None


def handler_of(found: Any, text: str, *, factory: bool = False) -> Any:
    """Return `found`, or what it makes if it is a class of handlers or a factory.

    Raises `click.UsageError`.
    """
    try:
        return target.instance_of(found, text, factory=factory)
    except target.NotThereError as error:
        raise click.UsageError(str(error)) from None


def _option(
    field: dataclasses.Field[Any], hint: object, text: str, default: object
) -> click.Option:
    flag = field.name.replace("_", "-")
    is_switch = hint is bool
    return GroupedOption(
        [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}"],
        group=field.metadata["group"],
        help=_help(text, None if is_switch else default),
        default=None,
        **({} if is_switch else _form(_kinds(hint), field.metadata, text=_maps_to_text(hint))),
    )


def _help(text: str, default: object) -> str:
    shown = f"{default:g}" if isinstance(default, float) else default
    if isinstance(default, tuple):
        shown = ", ".join(default)
    return text.replace("`", "") + ("" if shown in (None, "", ()) else f"  [{shown}]")


def _kinds(hint: object) -> list[Any]:
    """Return the members of a union without `None`, or the hint itself.

    A generic type with arguments is replaced by its origin.
    """
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [
        member if get_origin(member) is Literal else get_origin(member) or member
        for member in members
        if member is not types.NoneType
    ]


def _maps_to_text(hint: object) -> bool:
    """Return whether `hint` is a mapping whose values may be text."""
    return any(
        get_origin(kind) is Mapping and str in get_args(get_args(kind)[1])
        for kind in get_args(hint)
    )


def _form(kinds: list[Any], metadata: Mapping[str, Any], *, text: bool) -> dict[str, Any]:
    """Return how click reads values of such a type; `text` is whether a mapping may have text."""
    match kinds:
        case [kind] if get_origin(kind) is Literal:
            return {"type": Renamed(get_args(kind), metadata["renamed"])}
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
