"""The commands `ehlo` and `ehlo serve`: from their options to a running server.

Exit codes: 0 after a signal; 2 for wrong usage; 1 for an address that cannot be bound, and for an
exception of the user's module. An error is one line, except such an exception: it has a traceback.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from ehlo import paths
from ehlo.cli import catching, wrong
from ehlo.cli.check import check
from ehlo.cli.environment import Secrets
from ehlo.cli.faulty import add_faults, faults_for, log_faults
from ehlo.cli.finding import load
from ehlo.cli.flags import (
    Given,
    GroupedOption,
    PrinterGroup,
    ProcessOptions,
    ServerCommand,
    fields_of,
    handler_of,
    options_of,
    value_of,
)
from ehlo.cli.keypairs import configure_tls
from ehlo.cli.log import set_up_logging
from ehlo.cli.mailroom import add_inbox, inbox_options
from ehlo.cli.passwd import passwd
from ehlo.cli.printer import Printer
from ehlo.cli.queueing import add_queue, queue_group, queue_options
from ehlo.cli.recorder import RecordOptions, add_recorder
from ehlo.cli.replay import replay
from ehlo.cli.running import checked, run, run_parent
from ehlo.cli.sendmail import sendmail
from ehlo.cli.top import top
from ehlo.net import INHERITED, ListenAddresses, Peer, addresses_of, parse_address
from ehlo.server.observing.failures import keep_users_frames, traceback_of
from ehlo.server.options.config import Options
from ehlo.server.server import Server
from ehlo.server.system import machine
from ehlo.server.workers.recipe import StartError

_ENVIRONMENT = "Each option can be set in the environment: --max-size as EHLO_MAX_SIZE."
_SERVE_ONLY = ("workers", "factory")
_WORK_OPTIONS = ("grace", "loop", "user", "metrics", "control", "factory")
_WORK_PROCESS = ("log_file", "log_level", "log_format", "app_dir", "env_file")
_SERVE_ADDR = "127.0.0.1:2525"
_INBOX_ADDR = "127.0.0.1:8025"
# A name or an IPv4 address, an IPv6 address with or without brackets, or nothing for all
_HOST = re.compile(
    r"[\w.-]{0,253}|\[?[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%\w+)?\]?", re.ASCII
)
_SETTINGS: dict[str, object] = {
    "auto_envvar_prefix": "EHLO",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 80,
}

_with_secrets = click.make_pass_decorator(Secrets)

logger: logging.Logger = logging.getLogger("ehlo.server")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; 1 after an exception of the user's module.

    Its traceback, which is printed, begins in the user's code.
    """
    secrets = Secrets()
    secrets.take(os.environ)
    machine.open_standard_files()
    if sys.stdin is None:
        sys.stdin = open(0)  # noqa: SIM115  as long as the process lives
    try:
        code = cli.main(args, prog_name="ehlo", standalone_mode=False, obj=secrets)
        machine.flush_output()
    except click.Abort:
        return 130
    except click.ClickException as error:
        wrong.report(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the user's, whatever it is
        failure = wrong.no_output(error)
        if failure is not None:
            wrong.report(failure)
            machine.drop_output()
            return failure.exit_code
        keep_users_frames(error)
        click.echo(traceback_of(error), err=True)
        return 1
    return code if isinstance(code, int) else 0


def _others(of: type[Any], kept: Sequence[str]) -> list[str]:
    """Return the names of the fields of a class without those that a command has."""
    return [field.name for field in dataclasses.fields(of) if field.name not in kept]


@click.group(
    cls=PrinterGroup,
    context_settings=_SETTINGS,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    params=[
        *inbox_options(usual=_INBOX_ADDR),
        *options_of(catching.CatcherOptions),
        *options_of(Options, leave_out=_SERVE_ONLY, **catching.DEFAULTS),
        *options_of(ProcessOptions, port=1025),
    ],
    epilog=_ENVIRONMENT,
)
@click.version_option(package_name="ehlo", message="%(prog)s %(version)s", allow_from_autoenv=False)
@_with_secrets
@click.pass_context
def cli(ctx: click.Context, secrets: Secrets, /, **given: object) -> None:
    """Accept mail, print each message that arrives, and show all of them in a browser."""
    if ctx.invoked_subcommand is not None:
        _reject_options_before_command(ctx)
        return
    own = catching.CatcherOptions(**fields_of(catching.CatcherOptions, given))
    values = _server_values(given, catching.DEFAULTS["addr"])
    most = values.get("max_connections", Options.max_connections)
    values = {**catching.DEFAULTS, "max_connections_per_address": most, **values}
    if own.tls and given["tls_cert"]:
        raise click.UsageError("--tls cannot be combined with --tls-cert; leave one out")
    handler = checked(lambda: catching.handler_of_catcher(own, values))
    prints = isinstance(handler, Printer)
    quiet = prints and ctx.get_parameter_source("log_level") is ParameterSource.DEFAULT
    server, process = _new_server(handler, values), _process(given)
    found = faults_for(server, process.faults)
    logins = secrets.get("EHLO_WEB_AUTH")
    room = add_inbox(server, given, logins, found, usual=_INBOX_ADDR)
    if room.catcher is None:
        if not prints:
            raise click.UsageError("--no-print needs --web or --store; leave it out")
        add_faults(server, found)
    context = catching.self_signed(own)
    if context is not None:
        server.configure(tls_config=context)
    configure_tls(server, process, secrets.get("EHLO_TLS_PASSPHRASE"))

    def serve_mail() -> None:
        log_faults(found)
        with room.open():
            server.listen_and_serve(tune_malloc=True)

    run(server, process, serve_mail, quiet=quiet)
    if isinstance(handler, Printer) and handler.failure is not None:
        raise click.ClickException(f"cannot write to standard output: {handler.failure.strerror}")


@cli.command(
    cls=ServerCommand,
    context_settings=_SETTINGS,
    params=[
        click.Argument(["target"], metavar="MODULE:ATTR"),
        *options_of(Options, addr=_SERVE_ADDR),
        *options_of(ProcessOptions, port=2525),
        *options_of(RecordOptions),
        GroupedOption(
            ["--reload"],
            group="Process",
            is_flag=True,
            help="Restart when a *.py below this directory changes, for development.",
        ),
        *queue_options(),
        *inbox_options(),
    ],
    epilog=_ENVIRONMENT,
)
@_with_secrets
def serve(secrets: Secrets, /, target: str, *, reload: bool, **given: object) -> None:
    """Serve MODULE:ATTR, which is a function, a Handler (class or instance) or a Server.

    MODULE alone serves its server, app or handler. FILE.py and FILE.py:ATTR are served, too. If
    MODULE:ATTR is a Server, options given here override its own.
    """
    if reload and not paths.IS_POSIX:
        raise click.UsageError("--reload needs a POSIX system; leave it out")
    try:
        if reload:
            importlib.import_module("watchfiles")
    except ImportError as error:
        raise click.UsageError("--reload needs watchfiles: pip install 'ehlo[standard]'") from error
    server, process = _named_server(target, given), _process(given)
    add_queue(server, given)
    found = faults_for(server, process.faults)
    room = add_inbox(server, given, secrets.get("EHLO_WEB_AUTH"), found)
    if room.catcher is None:
        add_faults(server, found)
    elif reload:
        raise click.UsageError("--reload cannot be combined with --web or --store; leave one out")
    add_recorder(server, given)
    if reload and server.options.workers > 1:
        raise click.UsageError("--reload cannot be combined with --workers; leave one out")
    passphrase = secrets.get("EHLO_TLS_PASSPHRASE")
    configure_tls(server, process, passphrase)

    def serve_mail() -> None:
        log_faults(found)
        if reload or server.options.workers > 1:
            run_parent(server, partial(_worker_server, target, given, passphrase), reload=reload)
        else:
            with room.open():
                server.listen_and_serve(tune_malloc=True)

    run(server, process, serve_mail)


@cli.command(
    cls=ServerCommand,
    context_settings=_SETTINGS,
    params=[
        click.Argument(["target"], metavar="MODULE:ATTR"),
        *queue_options(accepts=False),
        *options_of(Options, leave_out=_others(Options, _WORK_OPTIONS)),
        *options_of(ProcessOptions, leave_out=_others(ProcessOptions, _WORK_PROCESS)),
    ],
    epilog=_ENVIRONMENT,
)
def work(target: str, **given: object) -> None:
    """Deliver mail from a queue to MODULE:ATTR, without accepting any.

    One process at a time delivers from each SQLite file, and any number from PostgreSQL. After
    SIGTERM, deliveries under way have --grace seconds to end.
    """
    given |= dict.fromkeys(("host", "port")) | {"fd": ()}
    server, process = _named_server(target, given), _process(given)
    queue = add_queue(server, given)
    if queue is None:
        raise click.UsageError(f"--queue missing, and {target} has no queue; write --queue mail.db")
    queue.only_deliver()
    server.configure(addr=(), listeners=(), workers=1)
    run(server, process, server.listen_and_serve)


cli.add_command(check)
cli.add_command(passwd)
cli.add_command(queue_group)
cli.add_command(replay)
cli.add_command(sendmail)
cli.add_command(top)


def _reject_options_before_command(ctx: click.Context) -> None:
    """Raise `click.UsageError` for options before a command, which would have no effect."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            command = ctx.invoked_subcommand
            raise click.UsageError(
                f"{param.opts[0]}: options go after the command; write ehlo {command} "
                f"{param.opts[0]}"
            )


# -- from options to a server ------------------------------------------------------------------


def _named_server(target: str, given: Given) -> Server:
    """Return the server that `target` names, or a new one for the handler that it names."""
    factory = bool(given.get("factory"))
    found = handler_of(load(target, given["app_dir"]), target, factory=factory)
    if isinstance(found, Server):
        values = _server_values(given, found.options.addr)
        checked(lambda: found.configure(**values))
        return found
    values = {"addr": _SERVE_ADDR} | _server_values(given, _SERVE_ADDR)
    try:
        return _new_server(found, values)
    except click.UsageError as error:
        if not error.message.startswith(("handler ", "--handler ")):
            raise
        raise click.UsageError(f"{target}: {error.message}") from error


def _worker_server(target: str, given: Given, passphrase: str | None) -> Server:
    """Return the server of a worker, which is a new process and gets the options of its parent.

    Raises `StartError` if they are wrong by now, for instance because a file has gone.
    """
    process = _process(given)
    try:
        server = _named_server(target, given)
        add_queue(server, given)
        add_faults(server, faults_for(server, process.faults))
        add_recorder(server, given)
        configure_tls(server, process, passphrase)
    except click.ClickException as error:
        raise StartError(error.format_message()) from error
    finally:  # a failure is logged, too
        set_up_logging(process.log_level, process.log_format, process.log_file)
    return server


def _process(given: Given) -> ProcessOptions:
    return ProcessOptions(**fields_of(ProcessOptions, given))


def _server_values(given: Given, default: ListenAddresses) -> dict[str, Any]:
    """Return the options of the server that were given, as keywords of `Server`.

    `default` is the address of which --host and --port replace one half.
    """
    values = fields_of(Options, given)
    for name in ("factory", "tls_cert", "tls_key"):  # which others use: see `configure_tls`
        values.pop(name, None)
    host, port = given["host"], given["port"]
    if host is not None or port is not None:
        flag = "--host" if port is None else "--port"
        if "addr" in values:
            raise click.UsageError(f"--addr cannot be combined with {flag}; leave one out")
        values["addr"] = [_address(host, port, default)]
    if given["fd"]:
        values["addr"] = [*values.get("addr", ()), *(f"fd:{number}" for number in given["fd"])]
    directory = given["app_dir"]
    return {name: value_of(name, value, directory) for name, value in values.items()}


def _address(host: str | None, port: int | None, default: ListenAddresses) -> str:
    """Return the address that --host and --port make together, or with one of `default`."""
    usual = parse_address(next(iter(addresses_of(default)), ""))
    if host is None:
        is_path = usual.host.startswith(("unix:", *INHERITED))
        host = "127.0.0.1" if is_path else usual.host
    if _HOST.fullmatch(host) is None:
        raise click.UsageError(
            f"--host {host}: not a host; write a name or an IP address, e.g. 127.0.0.1"
        )
    return str(Peer(host.strip("[]"), usual.port if port is None else port))


def _new_server(handler: object, values: Given) -> Server:
    return checked(lambda: Server(**{**values, "handler": handler}))
