"""The catcher, which is `ehlo` without a command: its defaults, its logins, its certificate."""

from __future__ import annotations

import dataclasses
import io
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import click

from ehlo.cli.printer import AsText, Printer, as_json
from ehlo.cli.readable import reason_of
from ehlo.cli.values import Directory, Number
from ehlo.functions import callbacks_of_functions
from ehlo.handler import Handler
from ehlo.message import Message
from ehlo.net import addresses_of, is_loopback, parse_address
from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.mechanism import Mechanism
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.server.options.config import Options, option
from ehlo.session import Session

# What `ehlo` without a command has instead of the defaults: a test may send what it likes
DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "addr": "127.0.0.1:1025",
        "max_size": 104_857_600,
        "max_recipients": 1_000,
        "max_messages": 0,
        "max_idle_commands": 0,
        "max_refused_recipients": 0,
        "max_errors": 0,
        "slow_errors": 0,
        "max_connections_per_address": Options.max_connections,
        "max_connection_rate": 0,
        "max_auth_failures": 0,
        "lenient_addresses": True,
        "transcripts": "masked",
    }
)
# Those that a program may try, and that need no secret of the user on our side
_ANY_LOGIN: Final = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class CatcherOptions:
    """Holds the options that only the catcher has."""

    print: bool | None = option(None, group="Output")
    """Print each message on standard output.  [on]"""
    json: bool = option(False, group="Output")
    """Print one JSON object per line."""
    max_lines: Annotated[int, Number(0)] | None = option(None, group="Output")
    """Maximum lines of text to print of each message (0 = all). By default 200 on a terminal, 1000
    otherwise."""
    save: Annotated[str, Directory(for_files=True)] | None = option(None, group="Output")
    """Directory to save each message in, as an .eml file."""
    auth_any: bool | None = option(None, group="Authentication")
    """Accept any login, with and without TLS. This is the default if all addresses to listen on are
    loopback addresses and nothing else checks logins."""
    tls: Literal["self-signed"] | None = option(None, group="TLS")
    """Offer STARTTLS with a certificate that is made at the start. Needs trustme: pip install
    'ehlo[tls]'."""
    tls_name: Sequence[str] = option((), group="TLS")
    """Host name or IP address in the self-signed certificate. Repeatable.  [localhost, 127.0.0.1,
    ::1]"""


class Silent(Handler):
    """Accepts each message, and does nothing with it."""

    async def on_message(self, session: Session, message: Message) -> None:
        """Called when a message is complete."""


def handler_of_catcher(own: CatcherOptions, values: dict[str, Any]) -> Printer | Silent:
    """Return the handler; takes from `values` what is a hook of it, and adds what it needs."""
    handler = Silent() if own.print is False else _printer_of(own)
    rcpt, auth = values.pop("rcpt_handler", None), values.pop("auth_handler", None)
    hooks = callbacks_of_functions(lambda *_: None, rcpt, auth).by_name
    for name in hooks.keys() - {"on_message"}:
        setattr(handler, name, hooks[name])
    checks = "auth_handler" if auth else "auth_file" if values.get("auth_file") else ""
    if checks and own.auth_any:
        flag = checks.replace("_", "-")
        raise click.UsageError(f"--auth-any cannot be combined with --{flag}; leave one out")
    any_login = own.auth_any
    if any_login is None:
        any_login = not checks and all(
            is_loopback(parse_address(addr).host) for addr in addresses_of(values["addr"])
        )
    if any_login:
        setattr(handler, "on_auth", _accept)  # noqa: B010  mypy: it is a method of the class
        values["auth_mechs"] = _mechanisms(values.get("auth_mechs") or {})
    return handler


def _printer_of(own: CatcherOptions) -> Printer:
    if sys.stdout is None:
        raise click.UsageError(
            "standard output is closed; ehlo prints messages there: redirect it to a file, or "
            "write --no-print"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    form = as_json if own.json else AsText(sys.stdout, own.max_lines)
    return Printer(sys.stdout, form, own.save)


async def _accept(_session: Session, credentials: Credentials) -> str:
    """Accept any login."""
    return getattr(credentials, "username", "") or "unknown"


def _mechanisms(given: Mapping[str, bool | Mechanism]) -> dict[str, bool | Mechanism]:
    """Return the mechanisms for any login, except those that the user has disabled."""
    chosen = {name.upper(): value for name, value in given.items()}
    for name in _ANY_LOGIN:
        if chosen.setdefault(name, True) is True:
            row = MECHANISMS[name]
            chosen[name] = dataclasses.replace(row, needs_tls=False)
    return chosen


def self_signed(own: CatcherOptions) -> ssl.SSLContext | None:
    """Return a context with a new certificate, or `None` if none is wanted.

    Raises `click.ClickException`.
    """
    if own.tls is None:
        if own.tls_name:
            raise click.UsageError("--tls-name requires --tls self-signed; add it")
        return None
    try:
        import trustme  # an extra
    except ImportError as error:
        raise click.UsageError(
            "--tls self-signed needs trustme: pip install 'ehlo[tls]'"
        ) from error
    try:
        certificate = trustme.CA().issue_cert(*(own.tls_name or _NAMES))
    except ValueError as error:
        names = ", ".join(own.tls_name)
        raise click.UsageError(
            f"--tls-name {names}: not a host name or IP address ({error}); write one, e.g. "
            "localhost"
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        certificate.configure_cert(context)  # ssl reads it from a file
    except OSError as error:
        raise click.ClickException(
            f"--tls self-signed: no temporary file can be written ({reason_of(error)}); free some "
            "space, or set TMPDIR"
        ) from error
    return context
