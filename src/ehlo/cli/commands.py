"""The commands `ehlo` and `ehlo serve`: from their options to a running server, and its end.

Exit codes: 0 after a signal; 2 for wrong usage; 1 for an address that cannot be bound, and for an
exception of the user's module. An error is one line, except such an exception: it has a traceback.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ehlo import paths
from ehlo.cli.flags import (
    Given,
    GroupedOption,
    PrinterGroup,
    ProcessOptions,
    ServerCommand,
    as_flags,
    fields_of,
    handler_of,
    load,
    options_of,
    value_of,
)
from ehlo.cli.log import set_up_logging
from ehlo.cli.passwd import passwd
from ehlo.cli.printer import Printer, as_json, as_text, wants_color
from ehlo.cli.readable import visible
from ehlo.cli.top import top
from ehlo.functions import AuthFunction, RcptFunction, callbacks_of_functions
from ehlo.server.options.config import Options
from ehlo.server.server import Server
from ehlo.server.system import loops, machine, privileges
from ehlo.server.workers.recipe import Recipe, StartError, check

T = TypeVar("T")

# What `ehlo` without a command has instead of the defaults: a test may send what it likes
_PRINTER_DEFAULTS: dict[str, Any] = {
    "addr": "127.0.0.1:1025",
    "max_size": 104_857_600,
    "max_messages": 0,
    "max_idle_commands": 0,
    "max_refused_recipients": 0,
    "max_errors": 0,
    "slow_errors": 0,
    "max_connections_per_address": Options.max_connections,
    "max_connection_rate": 0,
    "max_auth_failures": 0,
    "lenient_addresses": True,
}
_ENVIRONMENT = "Each option can be set in the environment: --max-size as EHLO_MAX_SIZE."
_SERVE_ONLY = ("workers", "factory")
_STEP = 200  # milliseconds: to gather changes, and for the thread to notice the end
_SETTINGS: dict[str, object] = {
    "auto_envvar_prefix": "EHLO",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 80,
}

logger = logging.getLogger("ehlo.server")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Raises what the user's module raises."""
    machine.open_standard_files()
    if sys.stdin is None:
        sys.stdin = open(0)  # noqa: SIM115  as long as the process lives
    try:
        code = cli.main(args, prog_name="ehlo", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        click.echo(f"ehlo: {visible(' '.join(error.format_message().split()))}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0


@click.group(
    cls=PrinterGroup,
    context_settings=_SETTINGS,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    params=[
        GroupedOption(
            ["--json"], group="Output", is_flag=True, help="Print one JSON object per line."
        ),
        *options_of(Options, leave_out=_SERVE_ONLY, **_PRINTER_DEFAULTS),
        *options_of(ProcessOptions),
    ],
    epilog=_ENVIRONMENT,
)
@click.version_option(package_name="ehlo", message="%(prog)s %(version)s", allow_from_autoenv=False)
@click.pass_context
def cli(ctx: click.Context, /, *, json: bool, **given: object) -> None:
    """Accept mail, and print each message that arrives."""
    if ctx.invoked_subcommand is not None:
        _reject_options_before_command(ctx)
        return
    passphrase = _passphrase()
    own = _server_values(given)
    most = own.get("max_connections", Options.max_connections)
    values = _PRINTER_DEFAULTS | {"max_connections_per_address": most} | own
    printer = _printer(json, values.pop("rcpt_handler", None), values.pop("auth_handler", None))
    quiet = ctx.get_parameter_source("log_level") is ParameterSource.DEFAULT
    server, process = _new_server(printer, values), _process(given)
    serve_mail = partial(server.listen_and_serve, tune_malloc=True)
    _run(server, process, passphrase, serve_mail, quiet=quiet)
    if printer.failure is not None:
        raise click.ClickException(f"cannot write to standard output: {printer.failure.strerror}")


@cli.command(
    cls=ServerCommand,
    context_settings=_SETTINGS,
    params=[
        click.Argument(["target"], metavar="MODULE:ATTR"),
        *options_of(Options),
        *options_of(ProcessOptions),
        GroupedOption(
            ["--reload"],
            group="Process",
            is_flag=True,
            help="Restart when a *.py below this directory changes, for development.",
        ),
    ],
    epilog=_ENVIRONMENT,
)
def serve(target: str, *, reload: bool, **given: object) -> None:
    """Serve MODULE:ATTR, which is a function, a Handler (class or instance) or a Server.

    If MODULE:ATTR is a Server, options given here override its own.
    """
    passphrase = _passphrase()
    server, process = _named_server(target, given), _process(given)

    def run() -> None:
        if reload or server.options.workers > 1:
            recipe = partial(_worker_server, target, given, passphrase)
            _run_parent(server, recipe, reload=reload)
        else:
            server.listen_and_serve(tune_malloc=True)

    if reload and not paths.IS_POSIX:
        raise click.UsageError("--reload needs a POSIX system; leave it out")
    if reload and server.options.workers > 1:
        raise click.UsageError("--reload cannot be combined with --workers")
    try:
        if reload:
            importlib.import_module("watchfiles")
    except ImportError as error:
        raise click.UsageError("--reload needs watchfiles: pip install 'ehlo[standard]'") from error
    _run(server, process, passphrase, run)


cli.add_command(passwd)
cli.add_command(top)


def _reject_options_before_command(ctx: click.Context) -> None:
    """Options before a command would be those of `ehlo` itself, and have no effect."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]}: options go after {ctx.invoked_subcommand}")


# -- from options to a server ------------------------------------------------------------------


def _named_server(target: str, given: Given) -> Server:
    """The server that `target` names, or a new one for the handler that it names."""
    values = _server_values(given)
    found = handler_of(load(target), target, factory=values.pop("factory", False))
    if isinstance(found, Server):
        found.configure(**values)
        return found
    return _new_server(found, values)


def _worker_server(target: str, given: Given, passphrase: str | None) -> Server:
    """The server of a worker, which is a new process and gets the options of its parent.

    Raises `StartError` if they are wrong by now, for instance because a file has gone.
    """
    process = _process(given)
    try:
        server = _named_server(target, given)
        _configure_tls(server, process, passphrase)
    except click.ClickException as error:
        raise StartError(error.format_message()) from error
    finally:  # a failure is logged, too
        set_up_logging(process.log_level, process.log_format, process.log_file)
    return server


def _process(given: Given) -> ProcessOptions:
    return ProcessOptions(**fields_of(ProcessOptions, given))


def _server_values(given: Given) -> dict[str, Any]:
    """The options of the server that were given, as keywords of `Server`."""
    values = fields_of(Options, given)
    if given["fd"]:
        values["addr"] = [*values.get("addr", ()), *(f"fd:{number}" for number in given["fd"])]
    return {name: value_of(name, value) for name, value in values.items()}


def _new_server(handler: object, values: Given) -> Server:
    return _checked(lambda: Server(**{**values, "handler": handler}))


def _checked(make: Callable[[], T]) -> T:
    """The result of `make`; its errors name flags, and are wrong usage."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise click.UsageError(as_flags(str(error))) from error


def _printer(json: bool, rcpt: RcptFunction | None, auth: AuthFunction | None) -> Printer:
    """A `Printer`, with the user's functions as hooks if they are given."""
    if sys.stdout is None:
        raise click.UsageError("standard output is closed; ehlo prints messages there")
    encoding = sys.stdout.encoding
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    form = as_json if json else as_text(color=wants_color(sys.stdout), encoding=encoding)
    printer = Printer(sys.stdout, form)
    hooks = callbacks_of_functions(lambda *_: None, rcpt, auth).by_name
    for name in hooks.keys() - {"on_message"}:
        setattr(printer, name, hooks[name])
    return printer


def _passphrase() -> str | None:
    """The passphrase of the keys, which programs that handlers start then do not inherit."""
    return os.environ.pop("EHLO_TLS_PASSPHRASE", None)


def _configure_tls(server: Server, process: ProcessOptions, passphrase: str | None) -> None:
    certs, keys = process.tls_cert, process.tls_key
    client_ca, client_certs = process.tls_client_ca, process.tls_client_certs
    if keys and not certs:
        raise click.UsageError("--tls-key requires --tls-cert")
    if client_ca and not certs:
        raise click.UsageError("--tls-client-ca requires --tls-cert")
    if client_certs and not client_ca:
        raise click.UsageError("--tls-client-certs requires --tls-client-ca")
    if keys and len(keys) != len(certs):
        raise click.UsageError("--tls-key: give one for each --tls-cert, or none")
    if certs:
        # Otherwise those of the user's Server would come first
        server.configure(tls_config=None, tls_cert=(), tls_key=())
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
    server: Server,
    process: ProcessOptions,
    passphrase: str | None,
    run: Callable[[], None],
    *,
    quiet: bool = False,
) -> None:
    """The server runs until a signal. Wrong options are found before anything else begins."""
    _configure_tls(server, process, passphrase)
    _checked(lambda: check(server.options))
    _checked(lambda: loops.loop_factory(server.options.loop))
    _open_log(server, process, quiet=quiet)
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


def _open_log(server: Server, process: ProcessOptions, *, quiet: bool) -> None:
    """A new log file belongs to the user that root becomes, who has to reopen it later."""
    file, owner = process.log_file, None
    try:
        if file is not None and server.options.user and os.getuid() == 0:
            account = privileges.find(server.options.user)
            owner = account.uid, account.gid
        set_up_logging(process.log_level, process.log_format, file, owner=owner, quiet=quiet)
    except OSError as error:
        raise click.UsageError(f"--log-file {file}: {error.strerror}") from error


def _run_parent(server: Server, recipe: Recipe, *, reload: bool) -> None:
    """The workers run until a signal; with `reload`, again when a Python file changes."""
    from ehlo.server.workers.parent import Parent  # most servers never need it

    parent = Parent(server.options, recipe, reload=reload)
    if not reload:
        parent.run()
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(parent.replace_all, ended), daemon=True)
    thread.start()
    try:
        parent.run()
    finally:
        ended.set()
        thread.join()


def _watch(restart: Callable[[], None], ended: threading.Event) -> None:
    """Calls `restart` when a Python file below the current directory has changed."""
    from watchfiles import PythonFilter, watch  # an extra

    here = Path.cwd()
    watching = False
    for changes in watch(
        here,
        watch_filter=PythonFilter(),
        debounce=_STEP,
        rust_timeout=_STEP,
        yield_on_timeout=True,  # the first time means that watching has begun
        stop_event=ended,
        raise_interrupt=False,
    ):
        if not watching:
            watching = True
            logger.info("watching %s for changes of *.py", here)
        if changes:
            names = sorted(path.removeprefix(f"{here}/") for _, path in changes)
            logger.info("%s changed: restarting", ", ".join(names))
            restart()
