"""Every option of a server, written once: its type, default, help and place are here.

The keywords of `Server`, the flags and environment variables of the command line and the table in
the documentation all come of this class. `resolve` turns what a user gave into the frozen value
that each connection is served by, and refuses what would leave a door open.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ehlo.handlers.base import Handler
from ehlo.handlers.functions import (
    AuthFunction,
    MessageFunction,
    RcptFunction,
    functions_as_handler,
    is_async,
)
from ehlo.handlers.passwords import PasswordFile
from ehlo.protocol import grammar, offers
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.commands import VERBS
from ehlo.protocol.extensions import Extension, Facts, offered
from ehlo.protocol.reply import hello
from ehlo.protocol.sasl import Mechanism
from ehlo.protocol.settings import Settings
from ehlo.protocol.trace import by_clause
from ehlo.server.listener import parse_address
from ehlo.server.logins import Served, logins_of, way_in
from ehlo.server.networks import Networks
from ehlo.session import Peer

__all__ = ["LineCallback", "Options", "Rules", "as_handler", "check_addresses", "resolve"]

_SMTP_PORT = 25

LineCallback = Callable[[Peer, str, str], None]
"""`(remote_addr, verb, line)`; credentials are masked, bodies are left out."""


def option(default: Any, text: str, *, group: str, flag: bool = True) -> Any:
    """A field with its help; `flag` says whether the command line has it."""
    metadata = {"help": text, "group": group, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(eq=False, repr=False)
class Options:
    """What a `Server` is told. Sizes are octets, times are seconds."""

    handler: Handler | MessageFunction

    _: dataclasses.KW_ONLY

    # Where
    addr: str | Sequence[str] = option(
        ":25",
        "Address to listen on: `host:port`, `:port` for all addresses, `[v6]:port`, "
        "`unix:/path`; port 0 takes a free one. There may be several.",
        group="Where",
    )
    appname: str = option("smtpd", "Name in the greeting and in Received.", group="Where")
    hostname: str = option("", "Our name; by default that of the machine.", group="Where")
    lmtp: bool = option(
        False, "Speak LMTP: a reply for each recipient; not on port 25.", group="Where"
    )

    # Functions beside a function handler
    rcpt_handler: RcptFunction | None = option(
        None,
        "`(remote_addr, mail_from, rcpt_to) -> bool`: whether to take mail for a recipient.",
        group="Functions",
    )
    auth_handler: AuthFunction | None = option(
        None,
        "`(remote_addr, mechanism, username, password, shared) -> bool`: whether a login is good.",
        group="Functions",
    )

    # Login
    auth_file: str | None = option(
        None,
        "File of users and the hashes of their passwords, which `ehlo passwd` writes; read again "
        "when it changes.",
        group="Login",
    )
    auth_mechs: Mapping[str, bool | Mechanism] | None = option(
        None,
        "Mechanisms switched on or off by name, or one of your own. On allows PLAIN and LOGIN "
        "without TLS; XOAUTH2, OAUTHBEARER, EXTERNAL and ANONYMOUS are there only when on.",
        group="Login",
    )
    auth_required: bool = option(False, "Take mail only after a login.", group="Login")

    # TLS
    tls_config: ssl.SSLContext | None = option(
        None, "A context for TLS; see also `configure_tls`.", group="TLS", flag=False
    )
    tls_required: bool = option(False, "Take mail only under TLS.", group="TLS")
    tls_listener: bool = option(
        False, "Begin with a TLS handshake (implicit TLS, port 465).", group="TLS"
    )

    # Proxies
    proxy_networks: Sequence[str] = option(
        (),
        "Take connections from these proxies only, which begin with a PROXY header: `10.0.0.0/8`, "
        "`::1`, or `unix:` for Unix sockets. There may be several.",
        group="Proxies",
    )
    proxy_timeout: float = option(5.0, "Seconds for a PROXY header to come.", group="Proxies")
    xclient_networks: Sequence[str] = option(
        (),
        "Networks (`10.0.0.0/8`, `::1`, `unix:`) that may say by XCLIENT whom they speak for.",
        group="Proxies",
    )
    xforward_networks: Sequence[str] = option(
        (),
        "Networks that may say by XFORWARD where a message came from.",
        group="Proxies",
    )

    # Limits
    max_size: int = option(33_554_432, "Octets of a message; 0 is no limit.", group="Limits")
    max_recipients: int = option(100, "Recipients of a message.", group="Limits")
    max_recipient_domains: int = option(
        0, "Domains of recipients in a session; 0 is no limit.", group="Limits"
    )
    max_messages: int = option(1000, "Messages of a session; 0 is no limit.", group="Limits")
    max_connections: int = option(1000, "Connections at once.", group="Limits")
    max_connections_per_address: int = option(
        50, "Connections at once from one address (IPv6: /64); loopback is exempt.", group="Limits"
    )
    max_memory: int = option(
        0,
        "Octets held at once, in all sessions; 0 is a quarter of the machine's memory, or of the "
        "control group's.",
        group="Limits",
    )
    spool_threshold: int = option(
        1_048_576, "Octets of a message from which on it is held on disk.", group="Limits"
    )
    spool_dir: str = option(
        "", "Directory for that; by default one for temporary files.", group="Limits"
    )
    max_handlers: int = option(256, "Hooks under way at once; more wait.", group="Limits")
    threads: int = option(16, "Threads for `def` hooks.", group="Limits")

    # Times
    timeout: float = option(300.0, "Seconds until an idle client is sent away.", group="Times")
    handler_timeout: float = option(300.0, "Seconds that a hook may take.", group="Times")
    grace: float = option(30.0, "Seconds for transactions to end at shutdown.", group="Times")

    # What is taken
    bare_newlines: Literal["normalise", "reject", "keep"] = option(
        "normalise", "What becomes of a bare CR or LF in a message.", group="What is taken"
    )
    strict_eol: bool = option(
        False, "Refuse commands that end with LF alone.", group="What is taken"
    )
    unknown_params: Literal["reject", "ignore"] = option(
        "reject", "What becomes of parameters that nobody registered.", group="What is taken"
    )

    extensions: Mapping[str, bool | str] | None = option(
        None,
        "Extensions switched on or off by keyword, or on with what EHLO says behind it: "
        "`DSN` on, `DELIVERBY` `240`.",
        group="What is taken",
    )
    own_extensions: Sequence[Extension] = option(
        (), "Extensions of your own, as `ehlo.Extension`.", group="What is taken", flag=False
    )

    # What is seen
    reverse_dns: bool = option(
        False, "Look up clients' names for Received; never waits for one.", group="What is seen"
    )
    debug: bool = option(
        False, "Log each line read and written, as `ehlo.transcript`.", group="What is seen"
    )
    log_read: LineCallback | None = option(
        None, "Called with `(remote_addr, verb, line)` for each line read.", group="What is seen"
    )
    log_write: LineCallback | None = option(
        None, "Called likewise for each line written.", group="What is seen"
    )

    # How it runs
    loop: Literal["auto", "asyncio", "uvloop"] = option(
        "auto",
        "Event loop of the forms that make one; `auto` is uvloop where it is installed.",
        group="How it runs",
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """What a connection is served by, resolved and checked."""

    settings: Settings
    by: str
    """The part of `Received` that tells of us."""
    nonce: Callable[[], str]
    tls: ssl.SSLContext | None
    tls_listener: bool
    xclient: Networks
    xforward: Networks
    proxies: Networks
    """Who must begin with a PROXY header, and nobody else is let in; empty is no such listener."""
    proxy_timeout: float
    passwords: PasswordFile | None
    """The `auth_file`, as it was at the start."""
    timeout: float
    handler_timeout: float
    reverse_dns: bool
    debug: bool
    log_read: LineCallback | None
    log_write: LineCallback | None


def as_handler(options: Options) -> Handler:
    """The handler that was given, or one made of the functions. Raises `TypeError`."""
    handler = _given_handler(options)
    if options.auth_file is not None and any(
        overrides(handler, name) for name in ("on_auth", "on_secret")
    ):
        raise TypeError("auth_file beside auth_handler, on_auth or on_secret: two ways to log in")
    return handler


def _given_handler(options: Options) -> Handler:
    handler = options.handler
    if isinstance(handler, Handler):
        if options.rcpt_handler is not None or options.auth_handler is not None:
            raise TypeError("a Handler has hooks of its own: no rcpt_handler or auth_handler")
        if not overrides(handler, "on_message"):
            raise TypeError(f"{type(handler).__name__} has no on_message: mail would be lost")
        return handler
    if isinstance(handler, type) or not callable(handler):
        raise TypeError(f"a handler is a function or a Handler, not {handler!r}")
    return functions_as_handler(handler, options.rcpt_handler, options.auth_handler)


def overrides(handler: Handler, name: str) -> bool:
    """Whether a hook is the handler's own."""
    return (
        getattr(handler, name).__func__ is not getattr(Handler, name)
        if hasattr(getattr(handler, name), "__func__")
        else True
    )


def resolve(options: Options, handler: Handler) -> Rules:
    """Check the options and freeze them. Raises `ValueError` for what would not be safe or sane."""
    _check_numbers(options)
    tls = options.tls_config
    if tls is None and (options.tls_required or options.tls_listener):
        name = "tls_required" if options.tls_required else "tls_listener"
        raise ValueError(f"{name} without TLS: give tls_config or call configure_tls")
    off = {name.upper() for name, choice in (options.extensions or {}).items() if choice is False}
    if "STARTTLS" in off and options.tls_required and not options.tls_listener:
        raise ValueError("tls_required with STARTTLS switched off: nobody could send mail")
    passwords = _passwords(options)
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
        tls_available=tls is not None and "STARTTLS" not in off,
        tls_required=options.tls_required,
        auth_required=options.auth_required,
        mechanisms={} if "AUTH" in off else logins.mechanisms,
        open_mechanisms=logins.opened,
        salt_key=secrets.token_bytes(32),
        bare_newlines=BareNewlines(options.bare_newlines),
        strict_eol=options.strict_eol,
        ignore_unknown_params=_choice(options.unknown_params, "ignore", "reject") == "ignore",
        lmtp=options.lmtp,
        extensions=offers.rows(
            options.extensions or {}, options.own_extensions, lambda: datetime.now(UTC)
        ),
    )
    _check_hello(settings)
    _check_verbs(settings, handler)
    return Rules(
        settings=settings,
        by=by_clause(settings.hostname, settings.appname),
        nonce=lambda: secrets.token_hex(16),
        tls=tls,
        tls_listener=options.tls_listener,
        xclient=_networks(options, "xclient_networks"),
        xforward=_networks(options, "xforward_networks"),
        proxies=_networks(options, "proxy_networks"),
        proxy_timeout=options.proxy_timeout,
        passwords=passwords,
        timeout=options.timeout,
        handler_timeout=options.handler_timeout,
        reverse_dns=options.reverse_dns,
        debug=options.debug,
        log_read=options.log_read,
        log_write=options.log_write,
    )


def _check_numbers(options: Options) -> None:
    for name in (
        *("max_size", "max_memory", "spool_threshold", "max_messages", "max_recipient_domains"),
    ):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must not be negative")
    for name in (
        *("max_recipients", "max_connections", "max_connections_per_address", "threads"),
        "max_handlers",
        *("timeout", "handler_timeout", "proxy_timeout"),
    ):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name} must be more than 0")
    if not options.grace >= 0:
        raise ValueError("grace must not be negative")


def _check_verbs(settings: Settings, handler: Handler) -> None:
    """Commands of a user's own must not take the place of SMTP's, nor be such as are never met."""
    for verb in settings.own_verbs:
        if verb in VERBS or grammar.OWN_VERB.fullmatch(verb) is None:
            raise ValueError(f"own_extensions: no command of your own, in upper case: {verb!r}")
    if settings.own_verbs and not overrides(handler, "on_command"):
        raise ValueError("own_extensions: commands, and no on_command to answer them")


def check_addresses(options: Options, addresses: Iterable[Peer] | None = None) -> None:
    """Whether the server may be where it is told to be, or on `addresses`. Raises `ValueError`."""
    if addresses is None:
        addrs = [options.addr] if isinstance(options.addr, str) else options.addr
        addresses = [parse_address(addr) for addr in addrs]
    if options.lmtp and any(address.port == _SMTP_PORT for address in addresses):
        # RFC 2033 5
        raise ValueError("lmtp needs an addr of its own: port 25 is that of SMTP")


def _networks(options: Options, name: str) -> Networks:
    try:
        return Networks.of(getattr(options, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_hello(settings: Settings) -> None:
    """What a user's own extension says at EHLO could be nothing that can be sent."""
    for tls in (False, True):
        facts = Facts(settings, tls, settings.usable_mechanisms(tls=tls))
        hello(settings.hostname, "", offered(facts))


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


def _served(options: Options, handler: Handler, passwords: PasswordFile | None) -> Served:
    """What the handler, or a file of passwords, can serve of logins."""
    if passwords is not None:
        return Served(auth=True, secret=False, function=False, keys=passwords.scram_algorithms)
    return Served(
        auth=overrides(handler, "on_auth"),
        secret=overrides(handler, "on_secret"),
        function=not isinstance(options.handler, Handler) and options.auth_handler is not None,
    )


def _passwords(options: Options) -> PasswordFile | None:
    """The file of passwords, read. Raises `ValueError`, also when no check of it could ever be."""
    if options.auth_file is None:
        return None
    passwords = PasswordFile(options.auth_file)
    passwords.load()
    if passwords.most_memory > memory_limit(options):
        raise ValueError(
            f"max_memory is less than the {passwords.most_memory} octets that a check of a "
            f"password in {options.auth_file} takes"
        )
    return passwords


def memory_limit(options: Options) -> int:
    """Octets that may be held at once, in bodies and in checks of passwords."""
    if options.max_memory:
        return options.max_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


__all__ += ["is_async", "memory_limit", "overrides"]
