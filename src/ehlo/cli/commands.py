"""The commands `ehlo` and `ehlo serve`: from their options to a running server, and its end.

Exit codes: 0 after a signal; 2 for wrong usage; 1 for an address that cannot be bound, and for an
exception of the user's module. An error is one line, except such an exception: it has a traceback.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ehlo.cli.flags import (
    GroupedOption,
    PrinterGroup,
    ServerCommand,
    as_flags,
    handler_of,
    is_function,
    is_mapping,
    load,
    server_options,
)
from ehlo.cli.log import make_for, set_up_logging
from ehlo.cli.passwd import passwd
from ehlo.cli.printer import Printer, as_json, as_text, wants_color
from ehlo.cli.readable import visible
from ehlo.cli.top import top
from ehlo.functions import AuthFunction, RcptFunction, callbacks_of_functions
from ehlo.server.options.config import Options
from ehlo.server.server import Server
from ehlo.server.system import loops, machine, privileges
from ehlo.server.workers.recipe import Recipe, StartError, check

__all__ = ["cli", "main"]

T = TypeVar("T")

_ADDR = "127.0.0.1:1025"
_ENVIRONMENT = "Each option can be set in the environment: --max-size as EHLO_MAX_SIZE."
_SERVE_ONLY = ("workers", "factory")
_SETTINGS: dict[str, Any] = {
    "auto_envvar_prefix": "EHLO",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 80,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Raises what the user's module raises."""
    try:
        code = cli.main(args, prog_name="ehlo", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        click.echo(f"ehlo: {visible(' '.join(error.format_message().split()))}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _process_options() -> list[click.Parameter]:
    """The options of the process, which are none of the server's."""
    readable_file = click.Path(exists=True, dir_okay=False, readable=True)
    return [
        GroupedOption(
            ["--tls-cert"],
            group="TLS",
            type=readable_file,
            multiple=True,
            help="Certificate chain in PEM; enables STARTTLS (see also --tls-listener). "
            "Repeatable; clients choose by SNI.",
        ),
        GroupedOption(
            ["--tls-key"],
            group="TLS",
            type=readable_file,
            multiple=True,
            help="Key of the certificate, if in another file; one per --tls-cert, in the same "
            "order. EHLO_TLS_PASSPHRASE has the passphrase.",
        ),
        GroupedOption(
            ["--tls-client-ca"],
            group="TLS",
            type=readable_file,
            help="Certificate authorities for client certificates, in PEM.",
        ),
        GroupedOption(
            ["--tls-client-certs"],
            group="TLS",
            type=click.Choice(["optional", "required"]),
            help="Whether clients must present a certificate.  [optional]",
        ),
        GroupedOption(
            ["--log-file"],
            group="Logging and metrics",
            type=click.Path(dir_okay=False),
            help="File to log to instead of standard error. It may be rotated at any time.",
        ),
        GroupedOption(
            ["--log-level"],
            group="Logging and metrics",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            help="Minimum level to log.  [info]",
        ),
        GroupedOption(
            ["--fd"],
            group="Listening",
            type=click.IntRange(min=0),
            multiple=True,
            help="Inherited listening socket to serve on, like --addr fd:N. Repeatable.",
        ),
        GroupedOption(
            ["--log-format"],
            group="Logging and metrics",
            type=click.Choice(["text", "json"]),
            default="text",
            help="Log format: text, or one JSON object per line.  [text]",
        ),
    ]


def _reload_option() -> click.Parameter:
    return GroupedOption(
        ["--reload"],
        group="Process",
        is_flag=True,
        help="Restart when a *.py below this directory changes, for development.",
    )


@click.group(
    cls=PrinterGroup,
    context_settings=_SETTINGS,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    params=[
        GroupedOption(
            ["--json"], group="Output", is_flag=True, help="Print one JSON object per line."
        ),
        *server_options(leave_out=_SERVE_ONLY, addr=_ADDR),
        *_process_options(),
    ],
    epilog=_ENVIRONMENT,
)
@click.version_option(package_name="ehlo", message="%(prog)s %(version)s", allow_from_autoenv=False)
@click.pass_context
def cli(ctx: click.Context, /, **given: Any) -> None:
    """Accept mail, and print each message that arrives."""
    if ctx.invoked_subcommand is not None:
        _reject_options_before_command(ctx)
        return
    values = {"addr": _ADDR, **_server_values(given)}
    printer = _printer(
        given["json"], values.pop("rcpt_handler", None), values.pop("auth_handler", None)
    )
    quiet = ctx.get_parameter_source("log_level") is ParameterSource.DEFAULT
    _run(_new_server(printer, values), given, None, quiet=quiet)
    if printer.failure is not None:
        raise click.ClickException(f"cannot write to standard output: {printer.failure.strerror}")


@cli.command(
    cls=ServerCommand,
    context_settings=_SETTINGS,
    params=[
        click.Argument(["target"], metavar="MODULE:ATTR"),
        *server_options(),
        *_process_options(),
        _reload_option(),
    ],
    epilog=_ENVIRONMENT,
)
def serve(target: str, **given: Any) -> None:
    """Serve MODULE:ATTR, which is a function, a Handler (class or instance) or a Server.

    If MODULE:ATTR is a Server, options given here override its own.
    """
    _run(_named_server(target, given), given, partial(_worker_server, target, given))


cli.add_command(passwd)
cli.add_command(top)


def _reject_options_before_command(ctx: click.Context) -> None:
    """Options before a command would be those of `ehlo` itself, and have no effect."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]}: options go after {ctx.invoked_subcommand}")


# -- from options to a server ------------------------------------------------------------------


def _named_server(target: str, given: Mapping[str, Any]) -> Server:
    """The server that `target` names, or a new one for the handler that it names."""
    values = _server_values(given)
    found = handler_of(load(target), target, factory=values.pop("factory", False))
    return _changed(found, values) if isinstance(found, Server) else _new_server(found, values)


def _worker_server(target: str, given: Mapping[str, Any]) -> Server:
    """The server of a worker, which is a new process and gets the options of its parent.

    Raises `StartError` if they are wrong by now, for instance because a file has gone.
    """
    try:
        server = _named_server(target, given)
        _configure_tls(server, given)
    except click.ClickException as error:
        raise StartError(error.format_message()) from error
    finally:  # a failure is logged, too
        set_up_logging(given["log_level"], given["log_format"], given["log_file"])
    return server


def _server_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the server that were given, as keywords of `Server`."""
    names = [field.name for field in dataclasses.fields(Options) if field.name in given]
    values = {name: given[name] for name in names if given[name] not in (None, ())}
    if given["fd"]:
        values["addr"] = [*values.get("addr", ()), *(f"fd:{number}" for number in given["fd"])]
    return {name: _value(name, value) for name, value in values.items()}


def _value(name: str, value: Any) -> Any:
    if is_function(name):
        return load(value)
    return dict(value) if is_mapping(name) else value


def _new_server(handler: Any, values: Mapping[str, Any]) -> Server:
    return _checked(lambda: Server(handler, **values))


def _checked(make: Callable[[], T]) -> T:
    """The result of `make`; its errors name flags, and are wrong usage."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise click.UsageError(as_flags(str(error))) from error


def _changed(server: Server, values: Mapping[str, Any]) -> Server:
    """The user's own server with the given options."""
    server.configure(**values)
    return server


def _printer(json: bool, rcpt: RcptFunction | None, auth: AuthFunction | None) -> Printer:
    """A `Printer`, with the user's functions as hooks if they are given."""
    encoding = sys.stdout.encoding
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    form = as_json if json else as_text(color=wants_color(sys.stdout), encoding=encoding)
    printer = Printer(sys.stdout, form)
    hooks = callbacks_of_functions(lambda *_: None, rcpt, auth).by_name
    for name in hooks.keys() - {"on_message"}:
        setattr(printer, name, hooks[name])
    return printer


def _configure_tls(server: Server, given: Mapping[str, Any]) -> None:
    certs, keys = given["tls_cert"], given["tls_key"]
    client_ca, client_certs = given["tls_client_ca"], given["tls_client_certs"]
    if keys and not certs:
        raise click.UsageError("--tls-key requires --tls-cert")
    if client_ca and not certs:
        raise click.UsageError("--tls-client-ca requires --tls-cert")
    if client_certs and not client_ca:
        raise click.UsageError("--tls-client-certs requires --tls-client-ca")
    if keys and len(keys) != len(certs):
        raise click.UsageError("--tls-key: give one for each --tls-cert, or none")
    if certs:
        server.configure(tls_config=None)  # otherwise those of the user's Server would come first
    passphrase = os.environ.get("EHLO_TLS_PASSPHRASE")
    for cert, key in zip(certs, keys or certs, strict=True):
        try:
            server.configure_tls(cert, key, passphrase, client_ca, client_certs or "optional")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            unclear = "not a certificate and its key in PEM, or EHLO_TLS_PASSPHRASE does not match"
            blamed = f"--tls-cert {cert}"
            if client_ca in getattr(error, "__notes__", ()):
                blamed, unclear = f"--tls-client-ca {client_ca}", "not certificates in PEM"
            raise click.UsageError(f"{blamed}: {_tls_reason(error, unclear)}") from error


def _tls_reason(error: OSError | ValueError, unclear: str) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason.replace("_", " ").lower() if error.reason else unclear
    return str(error)


# -- running it --------------------------------------------------------------------------------


def _run(
    server: Server, given: Mapping[str, Any], recipe: Recipe | None, *, quiet: bool = False
) -> None:
    """The server runs until a signal. Wrong options are found before anything else begins.

    `recipe` makes the server again in each worker.
    """
    _configure_tls(server, given)
    _checked(lambda: check(server.options))
    _checked(lambda: loops.loop_factory(server.options.loop))
    run: Callable[[], None] = partial(server.listen_and_serve, tune_malloc=True)
    if recipe is not None and (server.options.workers > 1 or given["reload"]):
        run = _parent(server, recipe, reload=given["reload"])
    _open_log(server, given, quiet=quiet)
    machine.raise_descriptors()
    try:
        run()
    except StartError as error:
        raise click.ClickException(str(error)) from error
    except privileges.UnusableError as error:
        raise click.ClickException(as_flags(str(error))) from error
    except OSError as error:
        reason = error.strerror or ""
        if not reason.startswith(("cannot listen on", "only root can become")):
            raise  # it comes from a hook
        if error.errno == errno.EACCES and "unix:" not in reason:
            reason += " (ports below 1024 need privileges)"
        raise click.ClickException(reason) from error


def _open_log(server: Server, given: Mapping[str, Any], *, quiet: bool) -> None:
    """A new log file belongs to the user that root becomes, who has to reopen it later."""
    file = given["log_file"]
    try:
        if file is not None and server.options.user and os.getuid() == 0:
            account = privileges.find(server.options.user)
            make_for(file, account.uid, account.gid)
        set_up_logging(given["log_level"], given["log_format"], file, quiet=quiet)
    except OSError as error:
        raise click.UsageError(f"--log-file {file}: {error.strerror}") from error


def _parent(server: Server, recipe: Recipe, *, reload: bool) -> Callable[[], None]:
    """The function that runs the parent of workers."""
    from ehlo.server.workers.parent import Parent  # most servers never need it

    parent = Parent(server.options, recipe, reload=reload)
    if not reload:
        return parent.run
    if server.options.workers > 1:
        raise click.UsageError("--reload cannot be combined with --workers")
    try:
        from ehlo.cli.reload import watched
    except ImportError as error:
        raise click.UsageError("--reload needs watchfiles: pip install 'ehlo[standard]'") from error
    return partial(watched, parent)
