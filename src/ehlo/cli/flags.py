"""Flags and arguments: options, each made from a field of a dataclass, and handlers.

Nothing is written a second time here: name, type, default, help and group are the field's. An
option that is not given has no value, so that the user's own `Server` keeps its own.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import click

from ehlo.cli.environment import Secrets
from ehlo.cli.finding import load, read_variables
from ehlo.cli.values import (
    AddressText,
    Choice,
    Directory,
    Number,
    ReadableFile,
    Seconds,
    Size,
    Switch,
    Value,
    YesNo,
)
from ehlo.cli.wrong import ReportedCommand, no_such_command
from ehlo.server.options import target
from ehlo.server.options.config import Options, descriptions, option

Given: TypeAlias = Mapping[str, Any]
"""Values as click has read them, by the names of their options."""

_File: TypeAlias = Annotated[str, ReadableFile()]

# The name of an option in a sentence: with an underscore, or as its first word
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\A[a-z]+\b")

# The end of a description that is of no use on the command line
_IN_PYTHON = re.compile(r" In Python\b.*", re.DOTALL)

# The default of an option, in words; a command may have another one, which is shown
_BY_DEFAULT = re.compile(r" By default\b[^.]*\.")

# Types of values that say more than those of the fields
_SPECIAL: Mapping[str, Value] = types.MappingProxyType(
    {"addr": AddressText(), "auth_file": ReadableFile()}
)

_SIMPLE: Mapping[object, object] = types.MappingProxyType(
    {bool: YesNo(), int: Number(), float: Seconds(), str: str}
)

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
    log_file: str | None = option(None, group="Logging and metrics")
    """File to log to instead of standard error. It may be rotated at any time."""
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", group="Logging and metrics"
    )
    """Minimum level to log."""
    log_format: Literal["text", "logfmt", "json"] | None = option(None, group="Logging and metrics")
    """Log format: `text` for a person (the default if standard error is a terminal), `logfmt` (the
    default otherwise) or `json` for programs."""
    faults: _File | None = option(None, group="Protocol")
    """TOML file of faults: when to reject, delay or drop, to test clients."""
    host: str | None = option(None, group="Listening")
    """Host to listen on, as --addr HOST:PORT does.  [127.0.0.1]"""
    port: Annotated[int, Number(0, 65_535)] | None = option(None, group="Listening")
    """Port to listen on (0 = a free one), as --addr HOST:PORT does."""
    fd: Sequence[Annotated[int, Number(0)]] = option((), group="Listening")
    """Inherited listening socket to serve on, like --addr fd:N. Repeatable."""
    app_dir: Annotated[str, Directory(for_files=False)] | None = option(None, group="Process")
    """Directory to look for MODULE:ATTR in. By default, the current one."""
    env_file: _File | None = option(None, group="Process")
    """File of environment variables, one NAME=VALUE per line. Variables that are already set keep
    their values."""


class GroupedOption(click.Option):
    """Describes an option, and the heading of the help that it belongs to.

    `about` returns the help text once it is shown: reading it is slow.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        group: str,
        about: Callable[[], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(names, **kwargs)
        self.group = group
        self._about = about

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value in the environment, or among the secrets that were there.

        Kubernetes sets EHLO_PORT to `tcp://10.0.0.1:25` next to a service that is called ehlo.
        """
        secrets = ctx.find_object(Secrets)
        if secrets is not None and self.allow_from_autoenv:
            value = secrets.get(f"{ctx.auto_envvar_prefix}_{(self.name or '').upper()}")
            if value:
                return value
        value = super().resolve_envvar_value(ctx)
        is_service = self.name == "port" and value is not None and value.startswith("tcp://")
        return None if is_service else value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the help text."""
        if self._about is not None:
            self.help = self._about()
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return f"--[no-]{self.opts[0].removeprefix('--')}", record[1]


class ServerCommand(ReportedCommand):
    """Describes a command with options of a server; its help shows them group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
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


class PrinterGroup(ServerCommand, click.Group):
    """Describes the same, with commands below it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named first. Raises `click.UsageError` without it."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise no_such_command(args[0], self.commands)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def options_of(
    of: type[Any], *, leave_out: Sequence[str] = (), **defaults: object
) -> list[click.Parameter]:
    """Return an option for each field that has a flag.

    `defaults` are a command's own, shown instead of the field's; the command has to apply them.
    """
    hints = get_type_hints(of, include_extras=True)
    texts = functools.cache(functools.partial(descriptions, of))  # reading the source is slow
    found: list[click.Parameter] = []
    for field in dataclasses.fields(of):
        if not field.metadata.get("flag") or field.name in leave_out:
            continue
        flag, hint = f"--{field.name.replace('_', '-')}", hints[field.name]
        shown = defaults.get(field.name, field.default)
        if _members(hint) == [bool]:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
            shown = "on" if shown else None
        elif isinstance(shown, float):
            shown = f"{shown:g}"
        elif isinstance(shown, tuple):
            shown = ", ".join(shown)
        form = _form(hint, field.metadata["renamed"])
        if field.name in _SPECIAL:
            form["type"] = _SPECIAL[field.name]
        if field.name == "env_file":  # before other options are looked for in the environment
            form |= {"is_eager": True, "callback": _set_variables}
        group, about = field.metadata["group"], _about(texts, field.name, shown)
        found.append(GroupedOption([flag], group=group, about=about, default=None, **form))
    return found


def _about(texts: Callable[[], Mapping[str, str]], name: str, default: object) -> Callable[[], str]:
    """Return a function that returns the help text for a field, with its default if it has one."""

    def about() -> str:
        text = _IN_PYTHON.sub("", as_flags(texts().get(name, "").replace("`", "")))
        return text if default in (None, "") else f"{_BY_DEFAULT.sub('', text)}  [{default}]"

    return about


def _set_variables(ctx: click.Context, _param: click.Parameter, path: str | None) -> str | None:
    variables = {} if path is None else read_variables(path)
    ctx.ensure_object(Secrets).take(variables)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    return path


def fields_of(of: type[Any], given: Given) -> dict[str, Any]:
    """Return the values that were given for the fields of a class."""
    names = [field.name for field in dataclasses.fields(of) if field.name in given]
    return {name: given[name] for name in names if given[name] not in (None, ())}


def value_of(name: str, value: Any, directory: str | None = None) -> object:
    """Return the value of a server's option: the function that was named, a mapping, or as it is.

    Modules are looked for in `directory`, by default the current one.

    Raises `click.UsageError` if there is no such function.
    """
    kind = get_origin(_members(get_type_hints(Options)[name])[-1])
    if kind is Callable:
        try:
            if ":" not in value:
                raise click.UsageError(f"function missing; write {value}:NAME")
            return load(value, directory)
        except click.UsageError as error:
            raise click.UsageError(f"--{name.replace('_', '-')}: {error.message}") from None
    return dict(value) if kind is Mapping else value


def as_flags(text: str) -> str:
    """Return a message of the library with its options as they are on the command line."""
    text = text.replace("tls_cert and tls_key, or tls_config", "tls_cert and tls_key")
    text = text.replace("set addr to", "set --addr to")
    fields = (*dataclasses.fields(Options), *dataclasses.fields(ProcessOptions))
    flags = ProcessOptions.__dataclass_fields__
    names = {field.name for field in fields if field.metadata.get("flag") or field.name in flags}
    return _NAME.sub(
        lambda match: f"--{match[0].replace('_', '-')}" if match[0] in names else match[0], text
    )


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
    members = _members(hint)
    if members == [int, str]:
        return {"type": Size()}
    kind = members[-1]  # of text or several texts, it is the latter
    origin, args = get_origin(kind), get_args(kind)
    if origin is Sequence:
        return {**_form(args[0], renamed), "multiple": True}
    if origin is Mapping:
        type_ = Switch(text=str in _members(args[1]))
        return {"type": type_, "metavar": type_.name, "multiple": True}
    if origin is Callable:
        return {"type": str, "metavar": "MODULE:ATTR"}
    if origin is Literal:
        return {"type": Choice(args, renamed), "metavar": f"[{'|'.join(args)}]"}
    if origin is Annotated:
        return {"type": args[1]}
    return {"type": _SIMPLE[kind]}
