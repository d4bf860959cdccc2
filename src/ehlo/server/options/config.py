"""Every option of a server: its type, default and group, and its description.

The keywords of `Server`, the command line and the table in the documentation are made from
`Options`. The typed dictionaries have the description of each option, as its docstring, and are
what editors and type checkers show of a keyword. `rules.py` checks the values.

This file is longer than others, since all options stand in it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal, Self, TypedDict, TypeVar, Unpack

from ehlo.functions import AuthFunction, MessageFunction, RcptFunction
from ehlo.handler import Handler
from ehlo.net import ListenAddresses, Peer
from ehlo.protocol.auth.mechanism import Mechanism
from ehlo.protocol.extensions import Extension
from ehlo.server.tls.certificates import TLSConfig

__all__ = ["Listener"]

T = TypeVar("T")

AnyHandler = Handler | type[Handler] | MessageFunction | str
"""What a server may have as its handler; text is `module:attr`."""

Size = int | str
"""A number of bytes, or text such as `10MB` (see `bytes_of`)."""

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


class CommonOptions(TypedDict, total=False):
    """Describes the options that each listener may have of its own."""

    unix_mode: str
    """File mode of Unix sockets, such as `660`. By default, the umask applies."""
    lmtp: bool
    """Speak LMTP, with one reply per recipient. Not allowed on port 25."""
    auth_file: str | None
    """File of users and password hashes, as `ehlo passwd` writes it. It is reloaded when it
    changes."""
    auth_mechs: Mapping[str, bool | Mechanism] | None
    """Enable or disable SASL mechanisms by name. Enabling PLAIN or LOGIN allows it without TLS.
    XOAUTH2, OAUTHBEARER, EXTERNAL and ANONYMOUS are disabled by default. In Python, a value may
    also be a `Mechanism` of your own: `{"X-NAME": mechanism}`."""
    auth_required: bool
    """Require authentication before MAIL."""
    tls_cert: str | Sequence[str]
    """Certificate chain in PEM; enables STARTTLS (see also `tls_listener`). Of several
    certificates, clients select one by SNI. Files that change are reloaded."""
    tls_key: str | Sequence[str]
    """Key of the certificate, if in another file; for several certificates, one for each, in the
    same order. See `configure_tls` for keys with a passphrase, and client certificates."""
    tls_config: TLSConfig | None
    """`ssl.SSLContext`, or a function that returns one; it is called at the start, on each reload
    and every minute. See also `configure_tls`."""
    tls_required: bool
    """Require TLS before MAIL."""
    tls_listener: bool
    """Start each connection with a TLS handshake (implicit TLS, port 465)."""
    proxy_networks: Sequence[str]
    """Accept connections only from these networks, and require a PROXY protocol header on each:
    `10.0.0.0/8`, `::1`, or `unix:` for Unix sockets. Repeatable."""
    proxy_timeout: float | None
    """Timeout for a PROXY header in seconds. By default, the value of `timeout`, or 5."""
    xclient_networks: Sequence[str]
    """Networks whose clients may use XCLIENT: `10.0.0.0/8`, `::1`, `unix:`. Repeatable."""
    xforward_networks: Sequence[str]
    """Networks whose clients may use XFORWARD, in the same form. Repeatable."""
    max_size: Size
    """Maximum message size in bytes, or as text such as `10MB` or `10MiB` (0 = unlimited)."""
    max_recipients: int
    """Maximum recipients per message."""
    max_refused_recipients: int | None
    """Maximum recipients that the handler rejects between two accepted messages (0 = unlimited),
    compared when a transaction ends. By default, the value of `max_recipients`."""
    max_recipient_domains: int
    """Maximum recipient domains per session (0 = unlimited)."""
    max_messages: int
    """Maximum messages per session (0 = unlimited)."""
    max_idle_commands: int
    """Maximum commands between messages that do not advance delivery (NOOP, RSET, VRFY);
    0 = unlimited. Rejections between accepted messages are limited to this number plus
    `max_recipients` (or `max_refused_recipients`, if that is more) plus 100."""
    max_errors: int
    """Number of errors between two accepted messages at which the session ends (0 = unlimited):
    unknown commands, bad syntax, commands out of order, failed logins."""
    slow_errors: int
    """Number of errors between two accepted messages at which the server begins to delay each
    reply by a second (0 = never)."""
    timeout: float | None
    """Idle timeout in seconds. By default 300 (command), 180 (body), 30 (TLS handshake, and until
    EHLO), 5 (PROXY header)."""
    min_body_rate: int
    """Minimum bytes per second of a body as a whole, after its first minute (0 = unlimited)."""
    handler_timeout: float
    """Maximum seconds that a hook may run."""
    bare_newlines: Literal["normalize", "reject", "keep"]
    """How to handle a bare CR or LF in a message: `normalize` (to CRLF), `reject` (550) or
    `keep`."""
    strict_eol: bool
    """Reject commands that end with LF alone."""
    lenient_addresses: bool
    """Accept addresses without brackets, without a domain and with stray dots, as devices and old
    programs send them."""
    unknown_params: Literal["reject", "ignore"]
    """How to handle unknown MAIL and RCPT parameters: `reject` (555) or `ignore`."""
    extensions: Mapping[str, bool | str] | None
    """Enable or disable SMTP extensions: `DSN=on`, or with a value, `DELIVERBY=240`. In Python, a
    mapping: `{"DSN": True, "DELIVERBY": "240"}`."""
    own_extensions: Sequence[Extension]
    """Extensions of your own, as `ehlo.Extension`."""
    reverse_dns: bool
    """Resolve client addresses for the Received header, without delaying the session."""
    debug: bool
    """Log each line read and written, to the logger `ehlo.transcript`."""
    transcripts: Literal["off", "masked", "bodies", "full"]
    """Keep a transcript of each session in memory, as `session.transcript`: `off`, `masked`
    (without secrets and messages), `bodies` (without secrets) or `full`. At most 256 KiB of a
    session are kept."""
    log_read: LineCallback | None
    """Function that is called with `(remote_addr, verb, line)` for each line read."""
    log_write: LineCallback | None
    """Function that is called with `(remote_addr, verb, line)` for each line written."""


class NameOptions(TypedDict, total=False):
    """Describes the names of a server, which the functions take by position, too."""

    appname: str
    """Application name in the greeting and in Received headers."""
    hostname: str
    """Host name in the greeting and in Received headers. By default, the name of the machine, or
    `localhost` if that cannot be a host name."""


class ListenerOptions(CommonOptions, NameOptions, total=False):
    """Describes the options of `Listener`."""


class FunctionOptions(CommonOptions, total=False):
    """Describes the options of `listen_and_serve`, in addition to its other arguments."""

    listeners: Sequence[Listener]
    """Several `ehlo.Listener`, each with its own address and options, instead of `addr`."""
    rcpt_handler: RcptFunction | None
    """Function that accepts or rejects a recipient:
    `(remote_addr, mail_from, rcpt_to) -> bool`."""
    auth_handler: AuthFunction | None
    """Function that accepts or rejects a login: `(username, password) -> bool`, for PLAIN and
    LOGIN; or `(remote_addr, mechanism, username, password, shared) -> bool`, for CRAM-MD5 and
    tokens as well."""
    max_connections: int
    """Maximum concurrent connections. When more than 90 % are in use, the sessions that have been
    idle longest, for at least 10 seconds, are closed."""
    max_connections_per_address: int
    """Maximum concurrent connections per address. IPv6: per /64, and twice, 4 and 8 times as many
    per /56, /48 and /32, but at most 1/4, 1/2 and 3/4 of `max_connections`."""
    max_connection_rate: int
    """Maximum new connections per address and minute (0 = unlimited)."""
    max_messages_per_hour: int
    """Maximum messages per address and hour (0 = unlimited)."""
    max_recipients_per_hour: int
    """Maximum recipients per address and hour (0 = unlimited)."""
    max_auth_failures: int
    """Maximum failed logins per address in ten minutes, including those still being checked
    (0 = unlimited)."""
    exempt_networks: Sequence[str]
    """Networks exempt from per-address limits (`none` for an empty list). Repeatable."""
    max_memory: Size
    """Maximum bytes held in all sessions together: bodies, TLS, logins, unread input and replies
    (0 = a quarter of the memory of the machine or control group). An eighth is reserved for
    messages of at most 64 KiB, and one password check does not wait for memory."""
    max_disk: Size
    """Maximum bytes of messages on disk in all sessions together (0 = a quarter of the space that
    is free at the start). An address may use as much as it leaves free."""
    spool_threshold: Size | None
    """Messages larger than this many bytes are buffered on disk. By default 16 MiB while half of
    `max_memory` is free and the handler does not set `streams`, otherwise 1 MiB."""
    spool_dir: str
    """Directory for messages that are buffered on disk. By default, a temporary directory."""
    max_handlers: int
    """Maximum concurrent hooks; further calls wait. One address runs at most half of them."""
    threads: int
    """Number of threads for `def` hooks. One address uses at most half of them."""
    grace: float
    """Seconds that transactions have to end at shutdown."""
    control: str
    """Path of a Unix socket for `ehlo top`, accessible to the server's user only."""
    metrics: str
    """Address for Prometheus metrics (`/metrics`) and readiness (`/readyz`), such as
    `127.0.0.1:9101`. Requires the extra `metrics`."""
    workers: int
    """Number of worker processes (requires a `module:attr` handler). They share `max_connections`,
    `max_memory` and `max_disk`; per-address limits apply in each worker."""
    factory: bool
    """Treat MODULE:ATTR as a function that returns the handler; it is called once per process."""
    user: str
    """After binding, drop root privileges to this user (`name` or `name:group`)."""
    loop: Literal["auto", "asyncio", "uvloop"]
    """Event loop: `auto` uses uvloop if installed. Ignored inside your own loop."""


class ServerOptions(FunctionOptions, NameOptions, total=False):
    """Describes the options of `Server`, in addition to its handler."""

    addr: ListenAddresses
    """Address to listen on: `host:port`, `:port` for all addresses, `[v6]:port` or `unix:/path`;
    port 0 binds a free port, and a host name binds all of its addresses. `fd:3`, `systemd:` and
    `systemd:name` are inherited sockets. Repeatable. In Python also `2525`, `("127.0.0.1", 2525)`,
    a list of addresses, or `()` to listen nowhere."""


class AllOptions(ServerOptions, total=False):
    """Describes the options of `Server.configure`."""

    handler: AnyHandler
    """Function or `Handler` (an instance, or the class) that is called for each message, or its
    name `module:attr`."""


@dataclass(frozen=True, eq=False, repr=False)
class Options:
    """Holds the options of a server; frozen. Sizes are in bytes, times in seconds.

    `dataclasses.replace(options, max_size=1000)` makes another value.
    """

    handler: AnyHandler

    _: dataclasses.KW_ONLY

    addr: ListenAddresses = option(":25", group="Listening")
    unix_mode: str = option("", group="Listening")
    listeners: Sequence[Listener] = option((), group="Listening", flag=False)
    appname: str = option("smtpd", group="Listening")
    hostname: str = option("", group="Listening")
    lmtp: bool = option(False, group="Listening")
    rcpt_handler: RcptFunction | None = option(None, group="Functions")
    auth_handler: AuthFunction | None = option(None, group="Functions")
    auth_file: str | None = option(None, group="Authentication")
    auth_mechs: Mapping[str, bool | Mechanism] | None = option(None, group="Authentication")
    auth_required: bool = option(False, group="Authentication")
    tls_cert: str | Sequence[str] = option((), group="TLS", flag=False)
    tls_key: str | Sequence[str] = option((), group="TLS", flag=False)
    tls_config: TLSConfig | None = option(None, group="TLS", flag=False)
    tls_required: bool = option(False, group="TLS")
    tls_listener: bool = option(False, group="TLS")
    proxy_networks: Sequence[str] = option((), group="Proxies")
    proxy_timeout: float | None = option(None, group="Proxies", bound="> 0")
    xclient_networks: Sequence[str] = option((), group="Proxies")
    xforward_networks: Sequence[str] = option((), group="Proxies")
    max_size: Size = option(33_554_432, group="Limits", bound=">= 0")
    max_recipients: int = option(100, group="Limits", bound="> 0")
    max_refused_recipients: int | None = option(None, group="Limits", bound=">= 0")
    max_recipient_domains: int = option(0, group="Limits", bound=">= 0")
    max_messages: int = option(1000, group="Limits", bound=">= 0")
    max_idle_commands: int = option(100, group="Limits", bound=">= 0")
    max_errors: int = option(20, group="Limits", bound=">= 0")
    slow_errors: int = option(10, group="Limits", bound=">= 0")
    max_connections: int = option(1000, group="Limits", bound="> 0")
    max_connections_per_address: int = option(50, group="Limits", bound="> 0")
    max_connection_rate: int = option(200, group="Limits", bound=">= 0")
    max_messages_per_hour: int = option(0, group="Limits", bound=">= 0")
    max_recipients_per_hour: int = option(0, group="Limits", bound=">= 0")
    max_auth_failures: int = option(50, group="Limits", bound=">= 0")
    exempt_networks: Sequence[str] = option(("127.0.0.0/8", "::1", "unix:"), group="Limits")
    max_memory: Size = option(0, group="Limits", bound=">= 0")
    max_disk: Size = option(0, group="Limits", bound=">= 0")
    spool_threshold: Size | None = option(None, group="Limits", bound=">= 0")
    spool_dir: str = option("", group="Limits")
    max_handlers: int = option(256, group="Limits", bound="> 0")
    threads: int = option(16, group="Limits", bound="> 0")
    timeout: float | None = option(None, group="Timeouts", bound="> 0")
    min_body_rate: int = option(500, group="Timeouts", bound=">= 0")
    handler_timeout: float = option(300.0, group="Timeouts", bound="> 0")
    grace: float = option(30.0, group="Timeouts", bound=">= 0")
    bare_newlines: Literal["normalize", "reject", "keep"] = option(
        "normalize", group="Protocol", renamed={"normalise": "normalize"}
    )
    strict_eol: bool = option(False, group="Protocol")
    lenient_addresses: bool = option(False, group="Protocol")
    unknown_params: Literal["reject", "ignore"] = option("reject", group="Protocol")
    extensions: Mapping[str, bool | str] | None = option(None, group="Protocol")
    own_extensions: Sequence[Extension] = option((), group="Protocol", flag=False)
    reverse_dns: bool = option(False, group="Logging and metrics")
    debug: bool = option(False, group="Logging and metrics")
    transcripts: Literal["off", "masked", "bodies", "full"] = option(
        "off", group="Logging and metrics"
    )
    control: str = option("", group="Logging and metrics")
    metrics: str = option("", group="Logging and metrics")
    log_read: LineCallback | None = option(None, group="Logging and metrics")
    log_write: LineCallback | None = option(None, group="Logging and metrics")
    workers: int = option(1, group="Process", bound="> 0")
    factory: bool = option(False, group="Process")
    user: str = option("", group="Process")
    loop: Literal["auto", "asyncio", "uvloop"] = option("auto", group="Process")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            path = getattr(self, field.name)
            if "str" in str(field.type) and isinstance(path, os.PathLike):
                object.__setattr__(self, field.name, os.fspath(path))
            for old, new in field.metadata.get("renamed", {}).items():
                if getattr(self, field.name) == old:
                    object.__setattr__(self, field.name, new)


class Listener:
    """Describes one address of a server (or several) with its own options.

    `overrides` are options of `Server` that replace the server's on these addresses. Raises
    `TypeError` for an unknown option, `ValueError` for one that applies to the whole server.

    Example::

        ehlo.Server(handler, tls_cert="server.pem", auth_handler=check, listeners=[
            ehlo.Listener(":25"),
            ehlo.Listener.submission(":587"),
            ehlo.Listener.submissions(":465", max_size="50MB"),
        ])
    """

    __slots__ = ("addr", "overrides")

    def __init__(self, addr: ListenAddresses, **overrides: Unpack[ListenerOptions]) -> None:
        check_names("Listener", overrides, ListenerOptions.__optional_keys__)
        self.addr: ListenAddresses = addr
        """The address, or several, as in the option `addr`."""
        self.overrides: ListenerOptions = overrides
        """The options that differ from the server's."""

    @classmethod
    def submission(
        cls, addr: ListenAddresses = ":587", **overrides: Unpack[ListenerOptions]
    ) -> Self:
        """Return a listener for mail from users' programs, which begin in plaintext (RFC 6409).

        It sets `tls_required`, so that STARTTLS comes before a login and before mail (RFC 8314
        4.1), and `auth_required` (RFC 6409 4.3). The server needs a certificate and a way to log
        in. `overrides` are as in `Listener`.
        """
        return cls(addr, **ListenerOptions(tls_required=True, auth_required=True) | overrides)

    @classmethod
    def submissions(
        cls, addr: ListenAddresses = ":465", **overrides: Unpack[ListenerOptions]
    ) -> Self:
        """Return a listener for mail from users' programs over implicit TLS (RFC 8314 3.3).

        It sets `tls_listener` and `auth_required` (RFC 6409 4.3). The server needs a certificate
        and a way to log in. `overrides` are as in `Listener`.
        """
        return cls(addr, **ListenerOptions(tls_listener=True, auth_required=True) | overrides)

    def __repr__(self) -> str:
        return f"Listener({self.addr!r})"


def check_names(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise an error for an option that `owner` does not have: `ValueError` if the server does."""
    for name in sorted(set(given).difference(known)):
        if name in Options.__dataclass_fields__:
            raise ValueError(f"{name} applies to the whole server; pass it to Server")
        if name in ("host", "port"):
            raise TypeError(f"{owner} has no option {name}; write addr='127.0.0.1:2525'")
        near = _nearest(name, known)
        advice = f"did you mean {near}?" if near else f"it has {', '.join(sorted(known))}"
        raise TypeError(f"{owner} has no option {name}; {advice}")


def check_attribute(name: str, *, is_own: bool) -> None:
    """Raise `AttributeError` for an attribute of a server that is an option, or that nothing reads.

    `is_own` says that the class has it, or may have it.
    """
    if name in Options.__dataclass_fields__:
        raise AttributeError(f"{name} is an option; set it by configure({name}=...)")
    if is_own or name.startswith("_"):
        return
    near = _nearest(name, Options.__dataclass_fields__)
    if near:
        raise AttributeError(f"Server has no option {name}; did you mean configure({near}=...)?")
    advice = "keep values of your own in the handler, or in a subclass"
    raise AttributeError(f"Server has no attribute {name}; {advice}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that `name` may have been meant to be, and `""` without one."""
    import difflib  # for errors alone

    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def with_overrides(options: Options, listener: Listener) -> Options:
    """Return the options as they apply to one listener; its certificate replaces the server's."""
    overrides = listener.overrides
    if overrides.keys() & {"tls_cert", "tls_config"}:
        overrides = ListenerOptions(tls_cert=(), tls_key=(), tls_config=None) | overrides
    return dataclasses.replace(options, **overrides, addr=listener.addr, listeners=())


# 10M, 10 MB, 64KiB
_SIZE: Final = re.compile(r"\s*([0-9]{1,18})\s*(?:([kMGT])(i?))?B?\s*", re.IGNORECASE)
_POWERS: Final = "kmgt"
_SPOOL_THRESHOLD: Final = 1_048_576  # bytes, by default


def spool_threshold(options: Options) -> int:
    """Return the bytes beyond which a message is buffered on disk while memory is not plentiful."""
    wanted = options.spool_threshold
    return _SPOOL_THRESHOLD if wanted is None else bytes_of(wanted)


def bytes_of(size: Size) -> int:
    """Return the number of bytes. `10M` and `10MB` are 10,000,000, and `10MiB` is 10,485,760.

    Raises `ValueError` for other text.
    """
    if not isinstance(size, str):
        return size
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError("it must be a number of bytes, or text such as '10MB' or '10MiB'")
    power = 0 if match[2] is None else _POWERS.index(match[2].lower()) + 1
    factor: int = (1024 if match[3] else 1000) ** power
    return int(match[1]) * factor


def certificates_of(options: Options) -> list[tuple[str, str]]:
    """Return the files of `tls_cert`, each with that of its key. Raises `ValueError`."""
    certs, keys = _several(options.tls_cert), _several(options.tls_key)
    if keys and not certs:
        raise ValueError("tls_key needs tls_cert; set both")
    if keys and len(keys) != len(certs):
        raise ValueError("tls_key: give one for each tls_cert, in the same order, or none")
    if certs and options.tls_config is not None:
        raise ValueError("tls_cert cannot be combined with tls_config; set one of them")
    return list(zip(certs, keys or certs, strict=True))


def _several(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


# What a value of an option must be, by the type of the option without its `None`
_SIMPLE: Final[Mapping[str, tuple[tuple[type, ...], str]]] = MappingProxyType(
    {
        "bool": ((bool,), "True or False"),
        "int": ((int,), "a whole number"),
        "float": ((int, float), "a number"),
        "Size": ((int, str), "a number of bytes, or text such as '10MB' or '10MiB'"),
        "str": ((str,), "text"),
    }
)


def check_values(options: Options) -> None:
    """Raise `ValueError` for a value of another type than its option's, or outside its bound.

    `os.environ.get("TLS_REQUIRED")` may be `None`, and `"no"` is true.
    """
    if callable(options.addr):
        raise ValueError(
            "addr is a function; listen_and_serve takes the address first, and then the handler"
        )
    for field in dataclasses.fields(options):
        value, bound = getattr(options, field.name), field.metadata.get("bound")
        wanted = _wanted(str(field.type), value)
        if wanted:
            raise ValueError(f"{field.name} is {value!r}; it must be {wanted}")
        if value is None or not bound:
            continue
        try:
            number = bytes_of(value)
        except ValueError as error:
            raise ValueError(f"{field.name} is {value!r}; {error}") from None
        if not (number >= 0 if bound == ">= 0" else number > 0):
            wanted = "0 or more" if bound == ">= 0" else "more than 0"
            raise ValueError(f"{field.name} is {value}; it must be {wanted}")


def _wanted(written: str, value: object) -> str:
    """Return what a value must be, by its type as it is written above; `""` if it is that."""
    name = written.removesuffix(" | None")
    if value is None and name != written:
        return ""
    if name.startswith("Literal["):
        choices = ast.literal_eval(name.removeprefix("Literal"))
        fits, wanted = value in choices, f"one of {', '.join(choices)}"
    elif name in _SIMPLE:
        types, wanted = _SIMPLE[name]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    elif name.startswith("Mapping["):
        fits, wanted = isinstance(value, Mapping) and _are(str, value), "a mapping with text keys"
    elif name in ("Sequence[str]", "str | Sequence[str]"):
        fits, wanted = isinstance(value, str) or _are(str, value), "text, or a list of texts"
    elif name == "Sequence[Extension]":
        fits, wanted = _are(Extension, value), "a list of ehlo.Extension"
    elif name == "Sequence[Listener]":
        fits, wanted = _are(object, value), "a list of ehlo.Listener"
    elif name == "LineCallback":
        fits, wanted = callable(value), "a function"
    else:
        fits = name != "TLSConfig" or isinstance(value, ssl.SSLContext) or callable(value)
        wanted = "an ssl.SSLContext, or a function that returns one"
    return "" if fits else wanted


def _are(kind: type, values: object) -> bool:
    """Return whether these are several of a kind, which can be read more than once."""
    return isinstance(values, Collection) and all(isinstance(each, kind) for each in values)


_DESCRIBING: Final = CommonOptions, NameOptions, FunctionOptions, ServerOptions, AllOptions


def descriptions(options: type = Options) -> dict[str, str]:
    """Return the description of each option by its name: the docstrings above, from the source.

    Empty where there is no source.
    """
    try:
        of = _DESCRIBING if options is Options else (options,)
        sources = [inspect.getsource(each) for each in of]
    except OSError:
        return {}
    return {name: text for source in sources for name, text in _described(source)}


def _described(source: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of each attribute of a class."""
    (node,) = ast.parse(source).body
    for field, text in pairwise(node.body if isinstance(node, ast.ClassDef) else []):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            yield ast.unparse(field.target), " ".join(ast.literal_eval(text.value).split())
