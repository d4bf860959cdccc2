"""What becomes of the options: a frozen value that each connection is served by.

Whatever would leave a door open, or could not work, is refused here, at the start.
"""

from __future__ import annotations

import dataclasses
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ehlo.functions import callbacks_of_functions
from ehlo.handler import Callbacks, Handler, callbacks_of_handler
from ehlo.net import Networks, Peer, parse_address
from ehlo.passwords.file import PasswordFile
from ehlo.protocol import grammar
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import Extension, offered, rows
from ehlo.protocol.parameters import Facts, ParserError, ParseValue
from ehlo.protocol.reply import hello
from ehlo.protocol.settings import Limits, Settings
from ehlo.protocol.trace import by_clause
from ehlo.protocol.verbs import VERBS
from ehlo.server.observing.metrics import check_metrics
from ehlo.server.options import target
from ehlo.server.options.config import LineCallback, Listener, Options, with_overrides
from ehlo.server.options.logins import Served, logins_of, way_in
from ehlo.server.options.shared import Shared
from ehlo.server.system import machine, privileges
from ehlo.server.system.listener import parse_mode
from ehlo.server.tls.certificates import Holder

__all__ = [
    "Rules",
    "as_callbacks",
    "check_addresses",
    "make_handler",
    "memory_limit",
    "per_listener",
    "resolve",
    "resolve_all",
]

_SMTP_PORT = 25

# Seconds for what is awaited, where `timeout` does not say it for all of them
_COMMAND_TIMEOUT = 300.0
_TLS_TIMEOUT = 30.0
_BODY_TIMEOUT = 180.0
_PROXY_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What a connection is served by, resolved and checked."""

    settings: Settings
    by: str
    """The part of `Received` that tells of us."""
    nonce: Callable[[], str]
    tls: Holder | None
    tls_listener: bool
    xclient: Networks
    xforward: Networks
    proxies: Networks
    """Who must begin with a PROXY header, and nobody else is let in; empty is no such listener."""
    proxy_timeout: float
    passwords: PasswordFile | None
    """The `auth_file`, as it was at the start."""
    exempt: Networks
    """Who is exempt from what is counted for an address."""
    command_timeout: float
    tls_timeout: float
    body_timeout: float
    """For each read."""
    min_body_rate: int
    handler_timeout: float
    reverse_dns: bool
    debug: bool
    log_read: LineCallback | None
    log_write: LineCallback | None


def make_handler(options: Options) -> None:
    """Put what the handler's name or its factory stands for into its place, once.

    Raises `ValueError` for what is not there, and whatever the module raises.
    """
    if isinstance(options.handler, str):
        name, found = options.handler, target.load(options.handler)
    elif options.factory:
        name, found = repr(options.handler), options.handler
    else:
        return
    options.handler = target.instance_of(found, name, factory=options.factory)
    options.factory = False


def as_callbacks(options: Options) -> Callbacks:
    """Return the hooks of the handler, or those of the functions. Raises `TypeError`."""
    callbacks = _given_callbacks(options)
    if options.auth_file is not None and ("on_auth" in callbacks or "on_secret" in callbacks):
        raise TypeError("auth_file beside auth_handler, on_auth or on_secret: two ways to log in")
    return callbacks


def _given_callbacks(options: Options) -> Callbacks:
    handler = options.handler
    if isinstance(handler, Handler):
        if options.rcpt_handler is not None or options.auth_handler is not None:
            raise TypeError("a Handler has hooks of its own: no rcpt_handler or auth_handler")
        callbacks = callbacks_of_handler(handler)
        if "on_message" not in callbacks:
            raise TypeError(f"{type(handler).__name__} has no on_message: mail would be lost")
        return callbacks
    if isinstance(handler, type) or not callable(handler):
        raise TypeError(f"a handler is a function or a Handler, not {handler!r}")
    return callbacks_of_functions(handler, options.rcpt_handler, options.auth_handler)


def resolve(options: Options, handler: Callbacks, shared: Shared | None = None) -> Rules:
    """Check the options and freeze them. Raises `ValueError` for what would not be safe or sane."""
    _check_numbers(options)
    _check_process(options)
    check_metrics(options.metrics)
    shared = shared or Shared()
    holder = shared.holder(options.tls_config)
    tls = holder.current if holder is not None else None
    if tls is None and (options.tls_required or options.tls_listener):
        name = "tls_required" if options.tls_required else "tls_listener"
        raise ValueError(f"{name} without TLS: give tls_config or call configure_tls")
    off = {name.upper() for name, choice in (options.extensions or {}).items() if choice is False}
    if "STARTTLS" in off and options.tls_required and not options.tls_listener:
        raise ValueError("tls_required with STARTTLS switched off: nobody could send mail")
    passwords = _passwords(options, shared)
    logins = logins_of(options.auth_mechs, _served(options, handler, passwords), tls)
    if options.auth_required and ("AUTH" in off or not way_in(logins, tls)):
        raise ValueError(
            "auth_required, and no way to log in: see auth_handler, auth_file, auth_mechs and TLS"
        )
    settings = Settings(
        hostname=_name(options.hostname or socket.gethostname(), "hostname"),
        appname=_name(options.appname or "smtpd", "appname"),
        max_size=options.max_size,
        max_recipients=options.max_recipients,
        max_recipient_domains=options.max_recipient_domains,
        max_messages=options.max_messages,
        limits=Limits(idle_commands=options.max_idle_commands),
        tls_available=tls is not None and "STARTTLS" not in off,
        tls_required=options.tls_required,
        auth_required=options.auth_required,
        mechanisms={} if "AUTH" in off else logins.mechanisms,
        open_mechanisms=logins.opened,
        salt_key=secrets.token_bytes(32) if passwords is None else passwords.salt_key,
        bare_newlines=BareNewlines(options.bare_newlines),
        strict_eol=options.strict_eol,
        ignore_unknown_params=_choice(options.unknown_params, "ignore", "reject") == "ignore",
        lmtp=options.lmtp,
        extensions=rows(
            options.extensions or {},
            [_guarded(row) for row in options.own_extensions],
            lambda: datetime.now(UTC),
        ),
    )
    _check_hello(settings)
    _check_verbs(settings, handler)
    return Rules(
        settings=settings,
        by=by_clause(settings.hostname, settings.appname),
        nonce=lambda: secrets.token_hex(16),
        tls=holder,
        tls_listener=options.tls_listener,
        xclient=_networks(options, "xclient_networks"),
        xforward=_networks(options, "xforward_networks"),
        proxies=_networks(options, "proxy_networks"),
        proxy_timeout=_time(options.proxy_timeout or options.timeout, _PROXY_TIMEOUT),
        exempt=_networks(options, "exempt_networks"),
        passwords=passwords,
        command_timeout=_time(options.timeout, _COMMAND_TIMEOUT),
        tls_timeout=_time(options.timeout, _TLS_TIMEOUT),
        body_timeout=_time(options.timeout, _BODY_TIMEOUT),
        min_body_rate=options.min_body_rate,
        handler_timeout=options.handler_timeout,
        reverse_dns=options.reverse_dns,
        debug=options.debug,
        log_read=options.log_read,
        log_write=options.log_write,
    )


def _time(given: float | None, by_default: float) -> float:
    return by_default if given is None else given


def resolve_all(options: Options, handler: Callbacks, shared: Shared | None = None) -> list[Rules]:
    """One for each of `listeners`, or one alone. Raises as `resolve` and `as_callbacks` do."""
    shared = shared or Shared()
    found = []
    for each in per_listener(options):
        as_callbacks(each)  # for its TypeErrors
        found.append(resolve(each, handler, shared))
    return found


def per_listener(options: Options) -> list[Options]:
    """The options as they hold for each of `listeners`; without any, as they are."""
    if not options.listeners:
        return [options]
    if options.addr != Options.addr:
        raise ValueError("addr beside listeners: say there where to listen")
    for each in options.listeners:
        if not isinstance(each, Listener):
            raise TypeError(f"listeners are of ehlo.Listener, and not {each!r}")
    return [with_overrides(options, each) for each in options.listeners]


def _check_numbers(options: Options) -> None:
    for name in (
        *("max_size", "max_memory", "spool_threshold", "max_messages", "max_recipient_domains"),
        *("max_idle_commands", "max_connection_rate", "max_messages_per_hour"),
        *("max_recipients_per_hour", "max_auth_failures", "min_body_rate"),
    ):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must not be negative")
    for name in (
        *("max_recipients", "max_connections", "max_connections_per_address", "threads"),
        "max_handlers",
        *("timeout", "handler_timeout", "proxy_timeout", "workers"),
    ):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be more than 0")
    if not options.grace >= 0:
        raise ValueError("grace must not be negative")


def _guarded(row: Extension) -> Extension:
    """A user's row, with what its parsers do wrong turned into a `ParserError`."""
    return dataclasses.replace(
        row,
        mail={keyword: _guarded_parser(keyword, parse) for keyword, parse in row.mail.items()},
        rcpt={keyword: _guarded_parser(keyword, parse) for keyword, parse in row.rcpt.items()},
    )


def _guarded_parser(keyword: str, parse: ParseValue) -> ParseValue:
    def guarded(value: str | None) -> Any:
        try:
            return parse(value)
        except ValueError:
            raise
        except Exception as error:
            raise ParserError(f"the parser of {keyword} failed") from error

    return guarded


def _check_verbs(settings: Settings, handler: Callbacks) -> None:
    """Commands of a user's own must not take the place of SMTP's, nor be such as are never met."""
    for verb in settings.own_verbs:
        if verb in VERBS or grammar.OWN_VERB.fullmatch(verb) is None:
            raise ValueError(f"own_extensions: no command of your own, in upper case: {verb!r}")
    if settings.own_verbs and "on_command" not in handler:
        raise ValueError("own_extensions: commands, and no on_command to answer them")


def check_addresses(options: Options, addresses: Iterable[Peer] | None = None) -> None:
    """Whether the server may be where it is told to be, or on `addresses`. Raises `ValueError`."""
    if addresses is not None and options.listeners:
        raise ValueError("listeners beside a socket: which of their rules would be those for it?")
    if options.listeners:
        for each in per_listener(options):
            check_addresses(each)
        return
    if addresses is None:
        addrs = [options.addr] if isinstance(options.addr, str) else options.addr
        addresses = [parse_address(addr) for addr in addrs]
    if options.lmtp and any(address.port == _SMTP_PORT for address in addresses):
        # RFC 2033 5
        raise ValueError("lmtp needs an addr of its own: port 25 is that of SMTP")


def _check_process(options: Options) -> None:
    """Whether a process can be as it is told to be. Raises `ValueError`."""
    parse_mode(options.unix_mode)
    if options.user:
        privileges.find(options.user)


def _networks(options: Options, name: str) -> Networks:
    try:
        return Networks.of(getattr(options, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_hello(settings: Settings) -> None:
    """What a user's own extension says at EHLO could be nothing that can be sent."""
    for tls in (False, True):
        facts = Facts(settings, tls, settings.usable_mechanisms(tls=tls))
        hello(settings.hostname, "", offered(settings.ehlo_lines, facts))


def _choice(value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return value


def _name(text: str, what: str) -> str:
    """A name that goes into replies and headers: nothing in it may end a line or a word."""
    if grammar.CONTROL.search(text) or not text.isascii() or len(text) > 255:
        raise ValueError(f"{what} must be printable ASCII, at most 255 octets: {text!r}")
    if what == "hostname" and not grammar.HELLO_NAME.fullmatch(text):
        raise ValueError(f"hostname has a space in it: {text!r}")
    return text


def _served(options: Options, handler: Callbacks, passwords: PasswordFile | None) -> Served:
    """What the handler, or a file of passwords, can serve of logins."""
    if passwords is not None:
        return Served(auth=True, secret=False, function=False, keys=passwords.scram_algorithms)
    return Served(
        auth="on_auth" in handler,
        secret="on_secret" in handler,
        function=not isinstance(options.handler, Handler) and options.auth_handler is not None,
    )


def _passwords(options: Options, shared: Shared) -> PasswordFile | None:
    """The file of passwords, read. Raises `ValueError`, also when no check of it could ever be."""
    if options.auth_file is None:
        return None
    passwords = shared.password_file(options.auth_file)
    if passwords.most_memory > memory_limit(options):
        raise ValueError(
            f"max_memory is less than the {passwords.most_memory} octets that a check of a "
            f"password in {options.auth_file} takes"
        )
    return passwords


def memory_limit(options: Options) -> int:
    """Octets that may be held at once, in bodies, TLS sessions and checks of passwords."""
    if options.max_memory:
        return options.max_memory
    return machine.memory() // 4
