"""Every option of a server, written once: its type, default, help and place are here.

The keywords of `Server`, the flags and environment variables of the command line and the table in
the documentation all come of this class. What becomes of them is in `rules.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ehlo.functions import (
    AuthFunction,
    MessageFunction,
    RcptFunction,
)
from ehlo.handler import Handler
from ehlo.net import Peer
from ehlo.protocol.auth.mechanism import Mechanism
from ehlo.protocol.extensions import Extension
from ehlo.server.tls.certificates import TLSConfig

__all__ = ["LineCallback", "Listener", "Options", "with_overrides"]

LineCallback = Callable[[Peer, str, str], None]
"""`(remote_addr, verb, line)`; credentials are masked, bodies are left out."""


def option(default: Any, text: str, *, group: str, flag: bool = True) -> Any:
    """A field with its help; `flag` says whether the command line has it."""
    metadata = {"help": text, "group": group, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(eq=False, repr=False)
class Options:
    """What a `Server` is told. Sizes are octets, times are seconds."""

    handler: Handler | MessageFunction | str

    _: dataclasses.KW_ONLY

    # Where
    addr: str | Sequence[str] = option(
        ":25",
        "Address to listen on: `host:port`, `:port` for all addresses, `[v6]:port`, "
        "`unix:/path`; port 0 takes a free one. `fd:3`, `systemd:` and `systemd:name` are sockets "
        "that are open already. There may be several.",
        group="Where",
    )
    unix_mode: str = option(
        "", "Mode of Unix sockets, as `660`; by default the umask's.", group="Where"
    )
    listeners: Sequence[Listener] = option(
        (),
        "In place of `addr`: each an `ehlo.Listener`, with rules of its own.",
        group="Where",
        flag=False,
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
    tls_config: TLSConfig | None = option(
        None,
        "A context for TLS, or a function that makes one, at the start, at each `reload` and every "
        "minute; see also `configure_tls`.",
        group="TLS",
        flag=False,
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
    proxy_timeout: float | None = option(
        None, "Seconds for a PROXY header to come; by default `timeout`, or 5.", group="Proxies"
    )
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
    max_idle_commands: int = option(
        100,
        "Commands that bring no mail nearer (NOOP, RSET, VRFY and the like), from one MAIL to the "
        "next. So many, `max_recipients` and 100 more may be refused, for whatever reason, from "
        "one message that is taken to the next. 0 is no limit for either.",
        group="Limits",
    )
    max_connections: int = option(1000, "Connections at once.", group="Limits")
    max_connections_per_address: int = option(
        50, "Connections at once from one address (IPv6: /64).", group="Limits"
    )
    max_connection_rate: int = option(
        200, "New connections from one address in a minute; 0 is no limit.", group="Limits"
    )
    max_messages_per_hour: int = option(
        0, "Messages from one address in an hour; 0 is no limit.", group="Limits"
    )
    max_recipients_per_hour: int = option(
        0, "Recipients from one address in an hour; 0 is no limit.", group="Limits"
    )
    max_auth_failures: int = option(
        50,
        "Logins from one address that are wrong in ten minutes or being checked; 0 is no limit.",
        group="Limits",
    )
    exempt_networks: Sequence[str] = option(
        ("127.0.0.0/8", "::1", "unix:"),
        "Networks that are exempt from what is counted for an address, and from nothing else; "
        "`none` is none.",
        group="Limits",
    )
    max_memory: int = option(
        0,
        "Octets held at once, in all sessions: bodies, TLS, logins, what clients send ahead or do "
        "not read; 0 is a quarter of the machine's memory, or of the control group's.",
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
    timeout: float | None = option(
        None,
        "Seconds for a client to say what is awaited; by default 300 for a command, 30 for a TLS "
        "handshake, 180 for more of a body, and 5 for a PROXY header.",
        group="Times",
    )
    min_body_rate: int = option(
        500,
        "Octets a second that a body must bring, as a whole, after a minute; 0 is no limit.",
        group="Times",
    )
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
    control: str = option(
        "",
        "Path of a Unix socket, for our own user alone, that `ehlo top` asks.",
        group="What is seen",
    )
    metrics: str = option(
        "",
        "Address (`127.0.0.1:9101`) of `/metrics` for Prometheus, and of `/readyz`; needs the "
        "extra `metrics`.",
        group="What is seen",
    )
    log_read: LineCallback | None = option(
        None, "Called with `(remote_addr, verb, line)` for each line read.", group="What is seen"
    )
    log_write: LineCallback | None = option(
        None, "Called likewise for each line written.", group="What is seen"
    )

    # How it runs
    workers: int = option(
        1,
        "Processes that serve, where the handler is named as `module:attr`. `max_connections` and "
        "`max_memory` are divided between them; addresses are counted in each.",
        group="How it runs",
    )
    factory: bool = option(
        False,
        "The handler is a function without arguments that makes it, once in each process.",
        group="How it runs",
    )
    user: str = option(
        "",
        "Give up root for this user, `name` or `name:group`, once the addresses are bound.",
        group="How it runs",
    )
    loop: Literal["auto", "asyncio", "uvloop"] = option(
        "auto",
        "Event loop of the forms that make one; `auto` is uvloop where it is installed.",
        group="How it runs",
    )


# What a listener may have of its own. All else is one for the whole server.
_OF_LISTENER: Final = frozenset(
    (
        *("unix_mode", "appname", "hostname", "lmtp"),
        *("auth_file", "auth_mechs", "auth_required"),
        *("tls_config", "tls_required", "tls_listener"),
        *("proxy_networks", "proxy_timeout", "xclient_networks", "xforward_networks"),
        *("max_size", "max_recipients", "max_recipient_domains", "max_messages"),
        *("max_idle_commands", "timeout", "min_body_rate", "handler_timeout"),
        *("bare_newlines", "strict_eol", "unknown_params", "extensions", "own_extensions"),
        *("reverse_dns", "debug", "log_read", "log_write"),
    )
)


class Listener:
    """One of a server's addresses (or several) with rules of its own.

    `overrides` are options of `Server`, which hold here in place of the server's. Raises
    `TypeError` for what is no option, `ValueError` for one that the whole server has in common.
    """

    __slots__ = ("addr", "overrides")

    def __init__(self, addr: str | Sequence[str], **overrides: Any) -> None:
        known = {field.name for field in dataclasses.fields(Options)}
        for name in overrides:
            if name not in known:
                raise TypeError(f"Listener has no option {name!r}")
            if name not in _OF_LISTENER:
                raise ValueError(f"{name} is one for the whole server, and not for a Listener")
        self.addr = addr
        self.overrides: Mapping[str, Any] = overrides

    def __repr__(self) -> str:
        return f"Listener({self.addr!r})"


def with_overrides(options: Options, listener: Listener) -> Options:
    """The options as they hold for one listener."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    return Options(**{**given, **listener.overrides, "addr": listener.addr, "listeners": ()})
