"""Flags and arguments: options, each made from a field of a dataclass, and handlers.

Nothing is written a second time here: name, type, default, help and group are the field's. An
option that is not given has no value, so that the user's own `Server` keeps its own.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import click

from ehlo.server.options import target
from ehlo.server.options.config import Options, descriptions, option

Given: TypeAlias = Mapping[str, Any]
"""Values as click has read them, by the names of their options."""

_File: TypeAlias = Annotated[str, click.Path(exists=True, dir_okay=False, readable=True)]

# The name of an option in a sentence: with an underscore, or as its first word
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\A[a-z]+\b")

_COLUMN = 26  # where the help texts begin, in all groups


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Holds the options of the process; `Server` has none of them."""

    tls_cert: Sequence[_File] = option((), group="TLS")
    """Certificate chain in PEM; enables STARTTLS (see also --tls-listener). Repeatable; clients
    select one by SNI."""
    tls_key: Sequence[_File] = option((), group="TLS")
    """Key of the certificate, if in another file; one per --tls-cert, in the same order.
    EHLO_TLS_PASSPHRASE has the passphrase, and is removed from the environment."""
    tls_client_ca: _File | None = option(None, group="TLS")
    """Certificate authorities for client certificates, in PEM."""
    tls_client_certs: Literal["optional", "required"] | None = option(None, group="TLS")
    """Whether clients must present a certificate.  [optional]"""
    log_file: Annotated[str, click.Path(dir_okay=False)] | None = option(
        None, group="Logging and metrics"
    )
    """File to log to instead of standard error. It may be rotated at any time."""
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", group="Logging and metrics"
    )
    """Minimum level to log."""
    fd: Sequence[Annotated[int, click.IntRange(min=0)]] = option((), group="Listening")
    """Inherited listening socket to serve on, like --addr fd:N. Repeatable."""
    log_format: Literal["text", "json"] = option("text", group="Logging and metrics")
    """Log format: text, or one JSON object per line."""


class Switch(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Converts `NAME=on` and `NAME=off`; with `text`, also `NAME=TEXT`."""

    def __init__(self, *, text: bool) -> None:
        self.text = text
        self.name = "NAME=on|off|TEXT" if text else "NAME=on|off"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
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

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return the choice."""
        return super().convert(self.old.get(str(value), value), param, ctx)


class GroupedOption(click.Option):
    """Describes an option, and the heading of the help that it belongs to."""

    def __init__(self, names: Sequence[str], *, group: str, **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
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
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def options_of(
    of: type[Options | ProcessOptions], *, leave_out: Sequence[str] = (), **defaults: object
) -> list[click.Parameter]:
    """Return an option for each field that has a flag.

    `defaults` are a command's own, shown instead of the field's; the command has to apply them.
    """
    hints, texts = get_type_hints(of, include_extras=True), descriptions(of)
    found: list[click.Parameter] = []
    for field in dataclasses.fields(of):
        if not field.metadata.get("flag") or field.name in leave_out:
            continue
        flag, hint = f"--{field.name.replace('_', '-')}", hints[field.name]
        text, group = texts.get(field.name, "").replace("`", ""), field.metadata["group"]
        if hint is bool:
            both = f"{flag}/--no-{flag.removeprefix('--')}"
            text += "  [on]" if defaults.get(field.name) else ""
            found.append(GroupedOption([both], group=group, help=text, default=None))
            continue
        shown = defaults.get(field.name, field.default)
        if isinstance(shown, float):
            shown = f"{shown:g}"
        elif isinstance(shown, tuple):
            shown = ", ".join(shown)
        text += "" if shown in (None, "") else f"  [{shown}]"
        form = _form(hint, field.metadata["renamed"])
        found.append(GroupedOption([flag], group=group, help=text, default=None, **form))
    return found


def fields_of(of: type[Options | ProcessOptions], given: Given) -> dict[str, Any]:
    """Return the values that were given for the fields of a class."""
    names = [field.name for field in dataclasses.fields(of) if field.name in given]
    return {name: given[name] for name in names if given[name] not in (None, ())}


def value_of(name: str, value: Any) -> object:
    """Return the value of a server's option: the function that was named, a mapping, or as it is.

    Raises `click.UsageError` if there is no such function.
    """
    kind = get_origin(_members(get_type_hints(Options)[name])[-1])
    if kind is Callable:
        return load(value)
    return dict(value) if kind is Mapping else value


def as_flags(text: str) -> str:
    """Return a message of the library with its options as they are on the command line."""
    text = text.replace("tls_cert and tls_key, or tls_config", "tls_cert and tls_key")
    fields = (*dataclasses.fields(Options), *dataclasses.fields(ProcessOptions))
    flags = ProcessOptions.__dataclass_fields__
    names = {field.name for field in fields if field.metadata.get("flag") or field.name in flags}
    return _NAME.sub(
        lambda match: f"--{match[0].replace('_', '-')}" if match[0] in names else match[0], text
    )


def load(text: str) -> object:
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


def handler_of(found: object, text: str, *, factory: bool = False) -> object:
    """Return `found`, or what it makes if it is a class of handlers or a factory.

    Raises `click.UsageError`.
    """
    try:
        return target.instance_of(found, text, factory=factory)
    except target.NotThereError as error:
        raise click.UsageError(str(error)) from None


def _members(hint: object) -> list[object]:
    """Return the members of a union without `None`, or the hint itself."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [member for member in members if member is not types.NoneType]


def _form(hint: object, renamed: Mapping[str, str]) -> dict[str, object]:
    """Return how click reads values of such a type."""
    kind = _members(hint)[-1]  # of text or several texts, it is the latter
    origin, args = get_origin(kind), get_args(kind)
    if origin is Sequence:
        return {**_form(args[0], renamed), "multiple": True}
    if origin is Mapping:
        return {"type": Switch(text=str in _members(args[1])), "multiple": True}
    if origin is Callable:
        return {"type": str, "metavar": "MODULE:ATTR"}
    if origin is Literal:
        return {"type": Renamed(args, renamed)}
    return {"type": args[1] if origin is Annotated else kind}
