"""Rules, which the options of a server resolve to: one frozen value for each listener.

Options that would be unsafe or could not work raise `ValueError` here, before the server listens.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ehlo.functions import mechanisms_of
from ehlo.handler import Callbacks
from ehlo.message import spool_directory
from ehlo.net import Networks, Peer, addresses_of, parse_address
from ehlo.passwords.file import PasswordFile
from ehlo.protocol import grammar
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import rows
from ehlo.protocol.policy import Limits
from ehlo.protocol.settings import Settings
from ehlo.protocol.trace import by_clause
from ehlo.server.observing.metrics import check_metrics
from ehlo.server.options.config import (
    Listener,
    Options,
    bytes_of,
    certificates_of,
    check_values,
    with_overrides,
)
from ehlo.server.options.files import Files
from ehlo.server.options.mechs import Offered, Served, can_log_in, offered_mechanisms
from ehlo.server.options.own_extensions import check_hello, check_verbs, guarded
from ehlo.server.options.target import callbacks_of
from ehlo.server.system import machine, privileges
from ehlo.server.system.listener import parse_mode
from ehlo.server.tls.certificates import Holder

_SMTP_PORT = 25

logger: logging.Logger = logging.getLogger("ehlo.server")

# Default timeouts in seconds, where the option `timeout` is not set
_FIRST_TIMEOUT = 30.0
_COMMAND_TIMEOUT = 300.0
_TLS_TIMEOUT = 30.0
_BODY_TIMEOUT = 180.0
_PROXY_TIMEOUT = 5.0
# By the option `transcripts`: whether secrets are shown, and bodies
_SHOWN = {"off": None, "masked": (False, False), "bodies": (False, True), "full": (True, True)}


@dataclass(frozen=True, slots=True)
class Times:
    """Holds how long a session waits for what, in seconds, and the slowest body."""

    first: float
    """For each command until HELO or EHLO."""
    command: float
    """For a command, and for the client to read a reply."""
    tls: float
    """For a TLS handshake."""
    body: float
    """For each read of a body."""
    handler: float
    """For a hook, a disk, and memory to become free."""
    proxy: float
    """For a PROXY header."""
    min_body_rate: int
    """Minimum bytes per second of a body as a whole; 0 is unlimited."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Holds the options of one listener, and what they resolve to."""

    options: Options
    settings: Settings
    times: Times
    by: str
    """The part of `Received` that names this server."""
    nonce: Callable[[], str]
    tls: Holder | None
    xclient: Networks
    xforward: Networks
    proxies: Networks
    """The proxies, each of which must send a PROXY header. If there are any, no other client is
    accepted."""
    exempt: Networks
    """The clients exempt from per-address limits."""
    passwords: PasswordFile | None
    """The `auth_file`, as read at the start."""
    transcripts: tuple[bool, bool] | None
    """Whether transcripts show secrets, and bodies; `None` without transcripts."""


# -- one listener ------------------------------------------------------------------------------


def resolve(options: Options, callbacks: Callbacks, files: Files | None = None) -> Rules:
    """Check the options of one listener, and return what they resolve to. Raises `ValueError`."""
    check_values(options)
    parse_mode(options.unix_mode)
    if options.user:
        privileges.find(options.user)
    check_metrics(options.metrics)
    files = files or Files()
    holder = files.holder(options.tls_config, certificates_of(options))
    passwords = _passwords(options, files)
    salt_key = files.salt_key if passwords is None else passwords.salt_key
    settings = _settings(options, callbacks, holder, passwords, salt_key)
    check_hello(settings)
    check_verbs(settings, callbacks)
    return Rules(
        options=options,
        settings=settings,
        times=_times(options),
        by=by_clause(settings.hostname, settings.appname),
        nonce=lambda: secrets.token_hex(16),
        tls=holder,
        xclient=_networks(options, "xclient_networks"),
        xforward=_networks(options, "xforward_networks"),
        proxies=_networks(options, "proxy_networks"),
        exempt=_networks(options, "exempt_networks"),
        passwords=passwords,
        transcripts=_SHOWN[options.transcripts],
    )


def _settings(
    options: Options,
    callbacks: Callbacks,
    holder: Holder | None,
    passwords: PasswordFile | None,
    salt_key: bytes,
) -> Settings:
    """Return what the protocol needs of the options. Raises `ValueError`."""
    off = {name.upper() for name, choice in (options.extensions or {}).items() if choice is False}
    _check_tls(options, off, holder)
    offered = _offered_mechanisms(options, off, callbacks, holder, passwords)
    return Settings(
        hostname=_name(options.hostname or machine_name()[0], "hostname"),
        appname=_name(options.appname or "smtpd", "appname"),
        max_size=bytes_of(options.max_size),
        max_recipients=options.max_recipients,
        max_recipient_domains=options.max_recipient_domains,
        max_messages=options.max_messages,
        limits=Limits(
            slow_errors=options.slow_errors,
            errors=options.max_errors,
            refused_recipients=options.max_refused_recipients,
            idle_commands=options.max_idle_commands,
        ),
        tls_available=holder is not None and "STARTTLS" not in off,
        tls_required=options.tls_required,
        auth_required=options.auth_required,
        mechanisms={} if "AUTH" in off else offered.mechanisms,
        open_mechanisms=offered.opened,
        salt_key=salt_key,
        bare_newlines=BareNewlines(options.bare_newlines),
        strict_eol=options.strict_eol,
        lenient_addresses=options.lenient_addresses,
        ignore_unknown_params=options.unknown_params == "ignore",
        lmtp=options.lmtp,
        extensions=rows(
            options.extensions or {},
            [guarded(row) for row in options.own_extensions],
            lambda: datetime.now(UTC),
        ),
    )


def _check_tls(options: Options, off: set[str], holder: Holder | None) -> None:
    """Raise `ValueError` for TLS or client certificates that are required in vain."""
    if holder is None and (options.tls_required or options.tls_listener):
        name = "tls_required" if options.tls_required else "tls_listener"
        raise ValueError(f"{name} needs a certificate; set tls_cert and tls_key, or tls_config")
    if "STARTTLS" in off and options.tls_required and not options.tls_listener:
        raise ValueError("tls_required needs STARTTLS; do not disable it in extensions")
    secure = options.tls_required or options.tls_listener
    if holder is not None and holder.current.verify_mode is ssl.CERT_REQUIRED and not secure:
        raise ValueError(
            "client certificates are required, but mail is accepted without TLS; set tls_required "
            "or tls_listener"
        )


def _offered_mechanisms(
    options: Options,
    off: set[str],
    callbacks: Callbacks,
    holder: Holder | None,
    passwords: PasswordFile | None,
) -> Offered:
    reachable = holder is not None and (options.tls_listener or "STARTTLS" not in off)
    tls = holder.current if holder is not None and reachable else None
    auth = options.auth_handler
    if passwords is not None:
        source = "auth_file"
        served = Served(auth=True, secret=False, keys=passwords.scram_algorithms)
    else:
        source = "on_auth" if auth is None else "auth_handler"
        served = Served(
            auth="on_auth" in callbacks,
            secret="on_secret" in callbacks,
            function=None if auth is None else mechanisms_of(auth),
        )
    offered = offered_mechanisms(options.auth_mechs, served, tls)
    if "AUTH" in off or not can_log_in(offered, tls):
        _reject_logins(options, source if served.auth and tls is None else "", off)
    return offered


def _reject_logins(options: Options, source: str, off: set[str]) -> None:
    """Warn that no client can log in, since what `source` serves needs TLS, which there is not.

    Raises `ValueError` if a login is required.
    """
    reason = (
        f"{source} has no mechanism without TLS; set tls_cert or auth_mechs={{'PLAIN': True}}"
        if source and "AUTH" not in off
        else "set auth_handler or auth_file, and check auth_mechs, extensions and TLS"
    )
    if options.auth_required:
        raise ValueError(f"auth_required, but no client could log in; {reason}")
    if source and "AUTH" not in off:
        logger.warning("%s", reason)


def _passwords(options: Options, files: Files) -> PasswordFile | None:
    """Read the `auth_file`. Raises `ValueError`, also if memory does not suffice for a check."""
    if options.auth_file is None:
        return None
    passwords = files.password_file(options.auth_file)
    if passwords.most_memory > memory_limit(options):
        raise ValueError(
            f"max_memory is {memory_limit(options)}; a check of a password in {options.auth_file} "
            f"needs {passwords.most_memory} bytes"
        )
    return passwords


def _times(options: Options) -> Times:
    timeout = options.timeout
    return Times(
        first=timeout or _FIRST_TIMEOUT,
        command=timeout or _COMMAND_TIMEOUT,
        tls=timeout or _TLS_TIMEOUT,
        body=timeout or _BODY_TIMEOUT,
        handler=options.handler_timeout,
        proxy=options.proxy_timeout or timeout or _PROXY_TIMEOUT,
        min_body_rate=options.min_body_rate,
    )


def _networks(options: Options, name: str) -> Networks:
    try:
        return Networks.of(getattr(options, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def machine_name() -> tuple[str, str]:
    """Return the host name of the machine, and why it is another than the machine's own, or `""`.

    Any text can be a machine's name; what cannot stand in a greeting becomes `localhost`.
    """
    own = socket.gethostname()
    try:
        return _name(own, "hostname"), ""
    except ValueError:
        return "localhost", (
            f"the machine's name is {own!a}, which cannot be a host name; using localhost "
            "(set hostname)"
        )


def _name(text: str, option: str) -> str:
    """Return a name that goes into replies and headers, where it must not end a line or a word."""
    if grammar.CONTROL.search(text) or not text.isascii() or len(text) > 255:
        raise ValueError(f"{option} is {text!r}; it must be printable ASCII, at most 255 bytes")
    if option == "hostname" and not grammar.HELLO_NAME.fullmatch(text):
        raise ValueError(f"hostname is {text!r}; it must not contain a space")
    return text


# -- all listeners -----------------------------------------------------------------------------


def resolve_all(options: Options, callbacks: Callbacks, files: Files | None = None) -> list[Rules]:
    """Return the rules of each of `listeners`, or those of `addr` alone.

    Raises as `resolve` and `callbacks_of` do.
    """
    check_values(options)
    files = files or Files()
    found = []
    for each in per_listener(options):
        callbacks_of(each)  # for its TypeErrors
        found.append(resolve(each, callbacks, files))
    return found


def per_listener(options: Options) -> list[Options]:
    """Return the options as they apply to each of `listeners`, or the options themselves."""
    if not options.listeners:
        return [options]
    if options.addr != Options.addr:
        raise ValueError("addr cannot be combined with listeners; give each Listener its address")
    for each in options.listeners:
        if not isinstance(each, Listener):
            raise TypeError(f"listeners must contain ehlo.Listener, not {each!r}")
    return [with_overrides(options, each) for each in options.listeners]


def check_addresses(options: Options, addresses: Iterable[Peer] | None = None) -> None:
    """Check where the server is going to listen, or listens at `addresses`. Raises `ValueError`."""
    if addresses is not None and options.listeners:
        raise ValueError("Pass either listeners or a socket, not both")
    if options.listeners:
        for each in per_listener(options):
            check_addresses(each)
        return
    if addresses is None:
        addresses = map(parse_address, addresses_of(options.addr))
    ports = [address.port for address in addresses]
    if options.lmtp and _SMTP_PORT in ports:
        # RFC 2033 5
        raise ValueError("lmtp cannot use port 25, which is SMTP's; set addr to another port")


def disk_limit(options: Options) -> int:
    """Return the bytes that bodies may have on disk at once; 0 if there is no directory."""
    directory = spool_directory(options.spool_dir)
    return (bytes_of(options.max_disk) or machine.free_disk(directory) // 4) if directory else 0


def memory_limit(options: Options) -> int:
    """Return the bytes that may be held at once: bodies, TLS sessions and password checks."""
    return bytes_of(options.max_memory) or machine.memory() // 4
