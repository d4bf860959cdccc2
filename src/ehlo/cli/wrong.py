"""Errors of the command line: one line that names the option, what is wrong, and what to do.

A second line says where the help is if the command line itself is wrong.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import socket
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

import click
from click.core import ParameterSource

from ehlo.cli.readable import visible
from ehlo.cli.values import WrongValueError, either
from ehlo.net import INHERITED
from ehlo.server.observing.failures import is_users

_EXTRA: Final = re.compile(r"Got unexpected extra arguments? \((.*)\)\.?", re.DOTALL)
_FLAG: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_EXAMPLES: Final = MappingProxyType(
    {
        "ehlo replay FILE": "sessions/20261129T104500-3f9c1a2b000001.smtp",
        "HOST:PORT": "127.0.0.1:2525",
        "MODULE:ATTR": "app:handler",
        "SOCKET": "/run/ehlo.sock",
        "FILE": "users.txt alice",
        "ID": "mail.db 8c26317000000f-1",
        "QUEUE": "mail.db",
        "USER": "users.txt alice",
    }
)
_MOST_PORT: Final = 1023
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ReportedCommand(click.Command):
    """Describes a command whose errors can name their option and their help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, as click does."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def report(error: click.ClickException) -> None:
    """Write an error to standard error."""
    text = visible(" ".join(text_of(error).split()))
    click.echo(f"ehlo: {text}", err=True)
    if isinstance(error, click.UsageError):
        command = "ehlo" if error.ctx is None else error.ctx.command_path
        click.echo(f"Try '{command} --help'.", err=True)


def text_of(error: click.ClickException) -> str:
    """Return the text of an error: the option, what is wrong, what to do."""
    match error:
        case click.NoSuchOption():
            known = [] if error.ctx is None else _options_of(error.ctx.command)
            near = difflib.get_close_matches(error.option_name, known, n=2, cutoff=0.75)
            advice = f"write {either(near)}" if near else "check its spelling"
            return f"{error.option_name}: no such option; {advice}"
        case click.BadOptionUsage():
            return _wrong_form(error)
        case WrongValueError() if error.param is not None:
            return f"{_written(error.param, error.ctx)} {error.message}"
        case click.MissingParameter() if error.param is not None and error.ctx is not None:
            name = error.param.make_metavar(error.ctx)
            command = error.ctx.command_path
            example = _EXAMPLES.get(f"{command} {name}") or _EXAMPLES.get(name, name)
            return f"{name} missing, e.g. {command} {example}"
    text = error.format_message()
    if found := _EXTRA.fullmatch(text):
        return f"{found[1]}: unexpected argument; remove it"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        names = _variables_of(error.ctx)
        return _FLAG.sub(lambda match: names.get(match[0], match[0]), text)
    return text


def _options_of(command: click.Command) -> list[str]:
    return [name for param in command.params for name in (*param.opts, *param.secondary_opts)]


def _wrong_form(error: click.BadOptionUsage) -> str:
    """Return the text for an option with a value too much or too few."""
    name, params = error.option_name, [] if error.ctx is None else error.ctx.command.params
    param = next((each for each in params if name in (*each.opts, *each.secondary_opts)), None)
    if not isinstance(param, click.Option) or error.ctx is None:
        return error.format_message()
    if param.is_flag:
        return f"{name}: takes no value; write {name} alone"
    return f"{name}: value missing; write {name} {param.make_metavar(error.ctx)}"


def _written(param: click.Parameter, ctx: click.Context | None) -> str:
    """Return the name of an option as the user has written it: a flag or a variable."""
    if ctx is not None and param.name is not None:
        if ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
            return _variable_of(param, ctx)
        if isinstance(param, click.Argument):
            return param.make_metavar(ctx)
    return param.opts[0]


def _variables_of(ctx: click.Context) -> dict[str, str]:
    """Return the flags whose values came from the environment, with their variables."""
    found: dict[str, str] = {}
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT:
            variable = _variable_of(param, ctx)
            found |= dict.fromkeys(param.opts, variable)
            found |= dict.fromkeys(param.secondary_opts, f"{variable}=0")
    return found


def _variable_of(param: click.Parameter, ctx: click.Context) -> str:
    """Return the variable that the value of an option came from."""
    own = param.envvar
    if isinstance(own, str) and os.environ.get(own):
        return own
    return f"{ctx.auto_envvar_prefix}_{(param.name or '').upper()}"


def no_such_command(name: str, known: Iterable[str]) -> click.UsageError:
    """Return the error for a command that there is not."""
    if ":" in name or name.endswith(".py"):
        return click.UsageError(f"{name}: no such command; to serve it, write ehlo serve {name}")
    near = difflib.get_close_matches(name, known, n=1)
    return click.UsageError(f"{name}: no such command; write {either(near or sorted(known))}")


def no_output(error: Exception) -> click.ClickException | None:
    """Return the error for standard output on a full disk; `None` for any other failure."""
    if not isinstance(error, OSError) or error.errno not in _FULL or error.filename is not None:
        return None
    if is_users(error):
        return None
    reason = (error.strerror or "").lower()
    return click.ClickException(f"cannot write to standard output: {reason}; free some space")


def no_listening(error: OSError, free: str = "--port 0") -> click.ClickException:
    """Return the error for an address that cannot be listened on; `error` names it.

    `free` is how to ask for a free port.
    """
    where, _, reason = (error.strerror or "").removeprefix("cannot listen on ").rpartition(": ")
    port = where.rpartition(":")[2]
    is_unix = where.startswith("unix:")
    advice = ""
    if error.errno == errno.EADDRINUSE:
        reason = "another process is listening there"
        advice = "stop it, or give another path" if is_unix else f"try {free}"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason, advice = "this machine does not have the address", "try --host 127.0.0.1"
    elif error.errno == errno.EACCES and port.isdigit() and int(port) <= _MOST_PORT:
        reason, advice = "ports below 1024 need root privileges", f"try --port {2500 + int(port)}"
    elif isinstance(error, socket.gaierror) or (error.errno or 0) < 0:
        reason, advice = "the host is unknown", "try --host 127.0.0.1"
    elif where.startswith(INHERITED):
        advice = "pass a listening socket"
    elif is_unix:
        advice = "give a path that this user may write to"
    return click.ClickException(
        f"cannot listen on {where}: {reason[:1].lower()}{reason[1:]}"
        + (f"; {advice}" if advice else "")
    )
