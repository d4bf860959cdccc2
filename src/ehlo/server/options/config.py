"""Every option of a server, written once: type, default, group and description.

The keywords of `Server`, the command line and the table in the documentation are made from
`Options`, and each description is the docstring below its option. `rules.py` checks the values.

This file is longer than others, since all options stand in it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypedDict, TypeVar, Unpack

from ehlo.functions import AuthFunction, MessageFunction, RcptFunction
from ehlo.handler import Handler
from ehlo.net import Peer
from ehlo.protocol.auth.mechanism import Mechanism
from ehlo.protocol.extensions import Extension
from ehlo.server.tls.certificates import TLSConfig

__all__ = ["Listener"]

T = TypeVar("T")

LineCallback = Callable[[Peer, str, str], None]
"""`(remote_addr, verb, line)`. Credentials are masked, and bodies are left out."""


def option(
    default: T,
    *,
    group: str,
    flag: bool = True,
    bound: Literal["", ">= 0", "> 0"] = "",
    renamed: Mapping[str, str] | None = None,
) -> T:
    """Return a field of `Options`, typed as its default so that type checkers compare the two.

    `flag` is whether the command line has the option, `bound` what a number must keep, and
    `renamed` has the old values that stay accepted, with their new ones.
    """
    metadata = {"group": group, "flag": flag, "bound": bound, "renamed": renamed or {}}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


@dataclass(frozen=True, eq=False, repr=False)
class Options:
    """Holds the options of a server; frozen. Sizes are in bytes, times in seconds.

    `dataclasses.replace(options, max_size=1000)` makes another value.
    """

    handler: Handler | MessageFunction | str
    """Function or `Handler` that is called for each message, or its name `module:attr`."""

    _: dataclasses.KW_ONLY

    addr: str | Sequence[str] = option(":25", group="Listening")
    """Address to listen on: `host:port`, `:port` for all addresses, `[v6]:port` or `unix:/path`;
    port 0 binds a free port, and a host all of its addresses. `fd:3`, `systemd:` and
    `systemd:name` are inherited sockets. Repeatable."""
    unix_mode: str = option("", group="Listening")
    """File mode of Unix sockets, such as `660`. By default, the umask applies."""
    listeners: Sequence[Listener] = option((), group="Listening", flag=False)
    """Several `ehlo.Listener`, each with an address and options of its own, instead of `addr`."""
    appname: str = option("smtpd", group="Listening")
    """Application name in the greeting and in Received headers."""
    hostname: str = option("", group="Listening")
    """Host name in the greeting and in Received headers. By default, the name of the machine, or
    `localhost` if that cannot be a host name."""
    lmtp: bool = option(False, group="Listening")
    """Speak LMTP, with one reply per recipient. Not allowed on port 25."""

    rcpt_handler: RcptFunction | None = option(None, group="Functions")
    """Function that accepts or rejects a recipient:
    `(remote_addr, mail_from, rcpt_to) -> bool`."""
    auth_handler: AuthFunction | None = option(None, group="Functions")
    """Function that accepts or rejects a login: `(username, password) -> bool`, for PLAIN and
    LOGIN; or `(remote_addr, mechanism, username, password, shared) -> bool`, for CRAM-MD5 and
    tokens as well."""

    auth_file: str | None = option(None, group="Authentication")
    """File of users and password hashes, as `ehlo passwd` writes it. It is reloaded when it
    changes."""
    auth_mechs: Mapping[str, bool | Mechanism] | None = option(None, group="Authentication")
    """Enable or disable SASL mechanisms by name, or add your own. Enabling PLAIN or LOGIN allows
    it without TLS. XOAUTH2, OAUTHBEARER, EXTERNAL and ANONYMOUS are disabled by default."""
    auth_required: bool = option(False, group="Authentication")
    """Require authentication before MAIL."""

    tls_config: TLSConfig | None = option(None, group="TLS", flag=False)
    """`ssl.SSLContext`, or a function that returns one; it is called at the start, on each reload
    and every minute. See also `configure_tls`."""
    tls_required: bool = option(False, group="TLS")
    """Require TLS before MAIL."""
    tls_listener: bool = option(False, group="TLS")
    """Start each connection with a TLS handshake (implicit TLS, port 465)."""

    proxy_networks: Sequence[str] = option((), group="Proxies")
    """Accept connections only from these networks, and require a PROXY protocol header on each:
    `10.0.0.0/8`, `::1`, or `unix:` for Unix sockets. Repeatable."""
    proxy_timeout: float | None = option(None, group="Proxies", bound="> 0")
    """Timeout for a PROXY header in seconds. By default, the value of `timeout`, or 5."""
    xclient_networks: Sequence[str] = option((), group="Proxies")
    """Networks whose clients may use XCLIENT: `10.0.0.0/8`, `::1`, `unix:`. Repeatable."""
    xforward_networks: Sequence[str] = option((), group="Proxies")
    """Networks whose clients may use XFORWARD, in the same form. Repeatable."""

    max_size: int = option(33_554_432, group="Limits", bound=">= 0")
    """Maximum message size in bytes (0 = unlimited)."""
    max_recipients: int = option(100, group="Limits", bound="> 0")
    """Maximum recipients per message."""
    max_refused_recipients: int | None = option(None, group="Limits", bound=">= 0")
    """Maximum recipients that the handler rejects between two accepted messages (0 = unlimited),
    compared when a transaction ends. By default, the value of `max_recipients`."""
    max_recipient_domains: int = option(0, group="Limits", bound=">= 0")
    """Maximum recipient domains per session (0 = unlimited)."""
    max_messages: int = option(1000, group="Limits", bound=">= 0")
    """Maximum messages per session (0 = unlimited)."""
    max_idle_commands: int = option(100, group="Limits", bound=">= 0")
    """Maximum commands between messages that do not advance delivery (NOOP, RSET, VRFY);
    0 = unlimited. Rejections between accepted messages are limited to this number plus
    `max_recipients` (or `max_refused_recipients`, if that is more) plus 100."""
    max_errors: int = option(20, group="Limits", bound=">= 0")
    """Errors between two accepted messages at which the session ends (0 = unlimited): unknown
    commands, bad syntax, commands out of order, failed logins."""
    slow_errors: int = option(10, group="Limits", bound=">= 0")
    """Errors between two accepted messages from which on each reply is delayed by a second
    (0 = never)."""
    max_connections: int = option(1000, group="Limits", bound="> 0")
    """Maximum concurrent connections. When more than 90 % are in use, the sessions that have been
    idle longest are closed, after 10 seconds or more."""
    max_connections_per_address: int = option(50, group="Limits", bound="> 0")
    """Maximum concurrent connections per address. IPv6: per /64, and twice, 4 and 8 times as many
    per /56, /48 and /32, but at most 1/4, 1/2 and 3/4 of `max_connections`."""
    max_connection_rate: int = option(200, group="Limits", bound=">= 0")
    """Maximum new connections per address and minute (0 = unlimited)."""
    max_messages_per_hour: int = option(0, group="Limits", bound=">= 0")
    """Maximum messages per address and hour (0 = unlimited)."""
    max_recipients_per_hour: int = option(0, group="Limits", bound=">= 0")
    """Maximum recipients per address and hour (0 = unlimited)."""
    max_auth_failures: int = option(50, group="Limits", bound=">= 0")
    """Maximum failed logins per address in ten minutes, those being checked included
    (0 = unlimited)."""
    exempt_networks: Sequence[str] = option(("127.0.0.0/8", "::1", "unix:"), group="Limits")
    """Networks exempt from per-address limits (`none` for an empty list). Repeatable."""
    max_memory: int = option(0, group="Limits", bound=">= 0")
    """Maximum bytes held in all sessions together: bodies, TLS, logins, unread input and replies
    (0 = a quarter of the memory of the machine or control group). An eighth is for messages of at
    most 64 KiB alone, and one check of a password does not wait for memory."""
    max_disk: int = option(0, group="Limits", bound=">= 0")
    """Maximum bytes of messages on disk in all sessions together (0 = a quarter of what is free at
    the start). An address may use as much as it leaves free."""
    spool_threshold: int = option(1_048_576, group="Limits", bound=">= 0")
    """Messages larger than this many bytes are buffered on disk."""
    spool_dir: str = option("", group="Limits")
    """Directory for messages that are buffered on disk. By default, a temporary directory."""
    max_handlers: int = option(256, group="Limits", bound="> 0")
    """Maximum hooks running concurrently; more of them wait. One address runs at most half of
    them."""
    threads: int = option(16, group="Limits", bound="> 0")
    """Number of threads for `def` hooks. One address uses at most half of them."""

    timeout: float | None = option(None, group="Timeouts", bound="> 0")
    """Idle timeout in seconds. By default 300 (command), 180 (body), 30 (TLS handshake, and until
    EHLO), 5 (PROXY header)."""
    min_body_rate: int = option(500, group="Timeouts", bound=">= 0")
    """Minimum bytes per second of a body as a whole, after its first minute (0 = unlimited)."""
    handler_timeout: float = option(300.0, group="Timeouts", bound="> 0")
    """Maximum seconds that a hook may run."""
    grace: float = option(30.0, group="Timeouts", bound=">= 0")
    """Seconds that transactions have to end at shutdown."""

    bare_newlines: Literal["normalize", "reject", "keep"] = option(
        "normalize", group="Protocol", renamed={"normalise": "normalize"}
    )
    """How to handle a bare CR or LF in a message: `normalize` (to CRLF), `reject` (550) or
    `keep`."""
    strict_eol: bool = option(False, group="Protocol")
    """Reject commands that end with LF alone."""
    lenient_addresses: bool = option(False, group="Protocol")
    """Accept addresses without brackets, without a domain and with stray dots, as devices and old
    programs send them."""
    unknown_params: Literal["reject", "ignore"] = option("reject", group="Protocol")
    """How to handle unknown MAIL and RCPT parameters: `reject` (555) or `ignore`."""
    extensions: Mapping[str, bool | str] | None = option(None, group="Protocol")
    """Enable or disable SMTP extensions: `DSN=on`, or with a value, `DELIVERBY=240`. In Python, a
    mapping: `{"DSN": True, "DELIVERBY": "240"}`."""
    own_extensions: Sequence[Extension] = option((), group="Protocol", flag=False)
    """Extensions of your own, as `ehlo.Extension`."""

    reverse_dns: bool = option(False, group="Logging and metrics")
    """Resolve client addresses for the Received header, without delaying the session."""
    debug: bool = option(False, group="Logging and metrics")
    """Log each line read and written, to the logger `ehlo.transcript`."""
    control: str = option("", group="Logging and metrics")
    """Path of a Unix socket for `ehlo top`, accessible to the server's user only."""
    metrics: str = option("", group="Logging and metrics")
    """Address for Prometheus metrics (`/metrics`) and readiness (`/readyz`), such as
    `127.0.0.1:9101`. Requires the extra `metrics`."""
    log_read: LineCallback | None = option(None, group="Logging and metrics")
    """Function that is called with `(remote_addr, verb, line)` for each line read."""
    log_write: LineCallback | None = option(None, group="Logging and metrics")
    """Function that is called with `(remote_addr, verb, line)` for each line written."""

    workers: int = option(1, group="Process", bound="> 0")
    """Number of worker processes (requires a `module:attr` handler). They share `max_connections`,
    `max_memory` and `max_disk`; per-address limits apply in each worker."""
    factory: bool = option(False, group="Process")
    """Treat MODULE:ATTR as a function that returns the handler; it is called once per process."""
    user: str = option("", group="Process")
    """After binding, drop root privileges to this user (`name` or `name:group`)."""
    loop: Literal["auto", "asyncio", "uvloop"] = option("auto", group="Process")
    """Event loop: `auto` uses uvloop if installed. Ignored inside your own loop."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            for old, new in field.metadata.get("renamed", {}).items():
                if getattr(self, field.name) == old:
                    object.__setattr__(self, field.name, new)


class ListenerOptions(TypedDict, total=False):
    """The options that a listener may have of its own, with the types that they have above."""

    unix_mode: str
    appname: str
    hostname: str
    lmtp: bool
    auth_file: str | None
    auth_mechs: Mapping[str, bool | Mechanism] | None
    auth_required: bool
    tls_config: TLSConfig | None
    tls_required: bool
    tls_listener: bool
    proxy_networks: Sequence[str]
    proxy_timeout: float | None
    xclient_networks: Sequence[str]
    xforward_networks: Sequence[str]
    max_size: int
    max_recipients: int
    max_refused_recipients: int | None
    max_recipient_domains: int
    max_messages: int
    max_idle_commands: int
    max_errors: int
    slow_errors: int
    timeout: float | None
    min_body_rate: int
    handler_timeout: float
    bare_newlines: Literal["normalize", "reject", "keep"]
    strict_eol: bool
    lenient_addresses: bool
    unknown_params: Literal["reject", "ignore"]
    extensions: Mapping[str, bool | str] | None
    own_extensions: Sequence[Extension]
    reverse_dns: bool
    debug: bool
    log_read: LineCallback | None
    log_write: LineCallback | None


class Listener:
    """Describes one address of a server (or several) with options of its own.

    `overrides` are options of `Server` that replace the server's on these addresses. Raises
    `TypeError` for an unknown option, `ValueError` for one that applies to the whole server.

    Example::

        ehlo.Server(handler, listeners=[
            ehlo.Listener(":25"),
            ehlo.Listener(":587", auth_required=True, tls_required=True),
        ])
    """

    __slots__ = ("addr", "overrides")

    def __init__(self, addr: str | Sequence[str], **overrides: Unpack[ListenerOptions]) -> None:
        for name in overrides.keys() - ListenerOptions.__annotations__.keys():
            if name in Options.__dataclass_fields__:
                raise ValueError(f"{name} applies to the whole server; pass it to Server")
            raise TypeError(f"Listener has no option {name!r}; see the options of Server")
        self.addr = addr
        """The address, or several, as in the option `addr`."""
        self.overrides = overrides
        """The options that differ from the server's."""

    def __repr__(self) -> str:
        return f"Listener({self.addr!r})"


def with_overrides(options: Options, listener: Listener) -> Options:
    """Return the options as they apply to one listener."""
    return dataclasses.replace(options, **listener.overrides, addr=listener.addr, listeners=())


def check_bounds(options: Options) -> None:
    """Raise `ValueError` for a number outside the bound of its option, and for no `bool` as one."""
    for field in dataclasses.fields(options):
        value, bound = getattr(options, field.name), field.metadata.get("bound")
        if isinstance(field.default, bool) and not isinstance(value, bool):
            # `os.environ.get("TLS_REQUIRED")` may be None, and "no" is true
            raise ValueError(f"{field.name} is {value!r}; it must be True or False")
        if value is None or not bound:
            continue
        if not (value >= 0 if bound == ">= 0" else value > 0):
            wanted = "0 or more" if bound == ">= 0" else "more than 0"
            raise ValueError(f"{field.name} is {value}; it must be {wanted}")


def descriptions(options: type = Options) -> dict[str, str]:
    """Return the description of each option by its name: the docstrings above, from the source.

    Empty where there is no source.
    """
    try:
        tree = ast.parse(inspect.getsource(options))
    except OSError:
        return {}
    (node,) = tree.body
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(node.body if isinstance(node, ast.ClassDef) else [])
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
