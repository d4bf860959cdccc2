"""`--web`, `--store` and the other options of the inbox, for `ehlo` and for `ehlo serve`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, cast

import click

from ehlo.cli.catching import Silent
from ehlo.cli.finding import load
from ehlo.cli.flags import Given, GroupedOption, fields_of, options_of
from ehlo.cli.printer import Printer
from ehlo.cli.running import checked
from ehlo.cli.values import AddressText, Age, Number, ReadableFile
from ehlo.cli.wrong import no_listening
from ehlo.faults import Faults
from ehlo.handler import Composed
from ehlo.server.options.config import option
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server
from ehlo.server.system import listener

if TYPE_CHECKING:  # starlette, uvicorn and sqlite3 come with the commands that need them
    from ehlo.inbox.catcher import Catcher
    from ehlo.inbox.desk import Check
    from ehlo.inbox.serving import WebCertificate
    from ehlo.inbox.sorting import Rule

_GROUP: Final = "Inbox"
_USUAL: Final = "127.0.0.1:8025"
_LOGINS: Final = "EHLO_WEB_AUTH"
_NO_EXTRA: Final = "pip install 'ehlo[inbox]'"
_METAVARS: Final = MappingProxyType(
    {
        "store": "FILE",
        "inbox_by": "[user|domain|listener|MODULE:ATTR]",
        "label": "NAME",
        "web_hosts": "NAME",
        "web_root": "PATH",
        "cors": "ORIGIN",
        "relay": "URL",
    }
)
_NEEDED: Final = ("jinja2", "starlette", "uvicorn", "websockets")

# Options that have no effect without pages, and those that have none without a store
_OF_PAGES: Final = ("label", "web_auth", "web_cert", "web_hosts", "web_root", "cors", "relay")
_OF_STORE: Final = ("keep", "keep_age", "inbox_by")

logger: logging.Logger = logging.getLogger("ehlo.server")


@dataclass(frozen=True, kw_only=True, repr=False)  # --relay may have a password
class InboxOptions:
    """Holds the options of the inbox."""

    web: Annotated[str, AddressText(8025)] | None = option(None, group=_GROUP)
    """Address to show mail on, in a browser and through an API."""
    store: str | None = option(None, group=_GROUP)
    """File to keep mail in. By default, a temporary one."""
    keep: Annotated[int, Number(0)] | None = option(None, group=_GROUP)
    """Maximum messages that each inbox keeps (0 = unlimited).  [500]"""
    keep_age: Annotated[float, Age()] | None = option(None, group=_GROUP)
    """Maximum age of kept messages: seconds, or 30d, 12h, 10m (0 = unlimited).  [unlimited]"""
    inbox_by: str | None = option(None, group=_GROUP)
    """How to sort mail into inboxes: by login, domain of the first recipient or port, or by a
    function that takes the delivery and returns a name.  [one inbox]"""
    label: str | None = option(None, group=_GROUP)
    """Name of the inbox, shown on the pages."""
    web_auth: Annotated[str, ReadableFile()] | None = option(None, group=_GROUP)
    """File of users and password hashes (htpasswd) for the pages and the API. EHLO_WEB_AUTH can
    have user:password instead; it is removed from the environment."""
    web_cert: Annotated[str, ReadableFile()] | None = option(None, group=_GROUP)
    """Certificate chain in PEM; enables HTTPS."""
    web_key: Annotated[str, ReadableFile()] | None = option(None, group=_GROUP)
    """Key of the certificate, if in another file."""
    web_hosts: Sequence[str] = option((), group=_GROUP)
    """Host name that requests may use, in addition to loopback addresses. Repeatable."""
    web_root: str | None = option(None, group=_GROUP)
    """URL path of the pages, e.g. /mail."""
    cors: Sequence[str] = option((), group=_GROUP)
    """Foreign origin that may use the API, e.g. app.example.com:3000; * for all. Repeatable."""
    relay: str | None = option(None, group=_GROUP)
    """Server to release messages to, e.g. smtp://relay.example.com:25. EHLO_RELAY can have one
    with a password; it is removed from the environment. Needs aiosmtplib: pip install
    'ehlo[relay]'."""


def inbox_options(*, usual: str = "") -> list[click.Parameter]:
    """Return the options of the inbox; `usual` is the address without --web, if there is one."""
    rows = options_of(InboxOptions, web=usual or None)
    for row in rows:
        row.metavar = _METAVARS.get(row.name or "", row.metavar)
        if isinstance(row, click.Option) and row.name == "web_auth":
            row.allow_from_autoenv = False  # EHLO_WEB_AUTH has logins, and no file
    if usual:
        rows.insert(
            1,
            GroupedOption(
                ["--no-web"], group=_GROUP, is_flag=True, help="Show mail on the terminal only."
            ),
        )
    return rows


class Mailroom:
    """Holds the inbox of a server, which is shown from the start on."""

    def __init__(self, catcher: Catcher | None, address: str, *, chosen: bool, note: str) -> None:
        """`chosen` says that the user named the address; `note` is logged at the start."""
        self.catcher = catcher
        self._address = address
        self._chosen = chosen
        self._note = note

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Bind the address for the block, which is entered once logging is set up.

        Raises `click.ClickException`.
        """
        if self._note:
            logger.info("%s", self._note)
        with contextlib.ExitStack() as stack:
            if self.catcher is not None and self._address:
                self.catcher.web = [stack.enter_context(sock) for sock in self._bound()]
            yield

    def _bound(self) -> list[socket.socket]:
        try:
            return listener.bind(self._address)
        except OSError as error:
            failure = no_listening(error, free="--web 127.0.0.1:0")
            if self._chosen:
                raise failure from error
        host = self._address.rpartition(":")[0]
        logger.warning("%s; taking a free port", failure.message.partition(";")[0])
        try:
            return listener.bind(f"{host}:0")
        except OSError as error:  # mail is caught all the same
            logger.error("no inbox: error=%s", error.strerror)
            return []


def add_inbox(
    server: Server, given: Given, logins: str | None, faults: Faults | None, *, usual: str = ""
) -> Mailroom:
    """Put an inbox around the hooks of a server, if one is wanted.

    `logins` is the text of EHLO_WEB_AUTH. `usual` is the address without --web; `ehlo` has one, and
    its inbox takes the mail itself. The inbox of `ehlo serve` shows what the handler receives.
    Raises `click.UsageError`.
    """
    own = InboxOptions(**fields_of(InboxOptions, given))
    address = "" if given.get("no_web") else own.web or usual
    _check_use(own, given, address)
    asked = "--web" if own.web is not None else "--store" if own.store is not None else ""
    if not address and not asked:
        return Mailroom(None, "", chosen=False, note="")
    options = with_handler(server.options)
    if options.workers > 1:
        raise click.UsageError(
            f"{asked} cannot be combined with --workers: the inbox is one process; leave one out"
        )
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    for name in ("web", "store", *_OF_PAGES, *_OF_STORE) if missing else ():
        if getattr(own, name) not in (None, ()):
            raise click.UsageError(f"{_flag(name)} needs {', '.join(missing)}: {_NO_EXTRA}")
    if missing:
        note = f"mail is printed only; to see it in a browser: {_NO_EXTRA}"
        return Mailroom(None, "", chosen=False, note=note)
    hooks = dict((callbacks := checked(lambda: callbacks_of(options))).by_name)
    is_own = isinstance(options.handler, Printer | Silent)
    if is_own:
        del hooks["on_message"]
    catcher = _catcher_of(own, given, Composed(replace(callbacks, by_name=hooks)), faults, logins)
    shown = options.handler if isinstance(options.handler, Printer) else None
    handler = catcher if shown is None else shown.behind(catcher.callbacks)
    server.configure(handler=handler, factory=False)
    if options.transcripts == "off":
        server.configure(transcripts="masked")
    return Mailroom(catcher, address, chosen=own.web is not None, note="")


def _check_use(own: InboxOptions, given: Given, address: str) -> None:
    """Raise `click.UsageError` for options that would have no effect."""
    if own.web is not None and given.get("no_web"):
        raise click.UsageError("--web cannot be combined with --no-web; leave one out")
    needless = () if address else _OF_PAGES if own.store is not None else (*_OF_PAGES, *_OF_STORE)
    for name in needless:
        if getattr(own, name):
            raise click.UsageError(f"{_flag(name)} needs --web; write --web {_USUAL}")
    if own.web_key is not None and own.web_cert is None:
        raise click.UsageError("--web-key needs --web-cert; add it")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _rule_of(name: str, directory: str | None) -> str | Rule:
    from ehlo.inbox.sorting import rule_of

    try:
        if ":" not in name:
            return rule_of(name)
        rule = load(name, directory)
    except ValueError:
        raise click.UsageError(
            f"--inbox-by {name}: write user, domain, listener or MODULE:ATTR"
        ) from None
    except click.UsageError as error:
        raise click.UsageError(f"--inbox-by: {error.message}") from None
    if not callable(rule):
        raise click.UsageError(f"--inbox-by {name}: not a function; name one")
    return cast("Rule", rule)


def _check_relay(url: str) -> None:
    from ehlo.inbox.relay import Relay

    if importlib.util.find_spec("aiosmtplib") is None:
        raise click.UsageError("--relay needs aiosmtplib: pip install 'ehlo[relay]'")
    try:
        Relay.of(url)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None


def _check_of(file: str | None, logins: str | None) -> Check | None:
    from ehlo.inbox import accounts

    if file is not None and logins:
        raise click.UsageError(f"--web-auth cannot be combined with {_LOGINS}; leave one out")
    try:
        if logins:
            return accounts.check_of_users(logins)
        return None if file is None else accounts.check_of_file(file)
    except (OSError, ValueError) as error:
        name = _LOGINS if logins else f"--web-auth {file}"
        raise click.UsageError(f"{name}: {error}") from None


def _check_certificate(files: WebCertificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key or None, password=lambda: "")
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise click.UsageError(
            f"--web-cert {files.cert}: cannot be used ({reason}); give a PEM file with the "
            "certificate, and its key there or as --web-key, without a passphrase"
        ) from None


def _catcher_of(
    own: InboxOptions, given: Given, inner: Composed, faults: Faults | None, logins: str | None
) -> Catcher:
    from ehlo.inbox.catcher import Catcher
    from ehlo.inbox.desk import WebOptions
    from ehlo.inbox.serving import WebCertificate

    root = (own.web_root or "").rstrip("/")
    if root and not root.startswith("/"):
        raise click.UsageError(f"--web-root {root}: write a path that begins with /, e.g. /{root}")
    if own.relay:
        _check_relay(own.relay)
    certificate = WebCertificate(own.web_cert, own.web_key or "") if own.web_cert else None
    if certificate is not None:
        _check_certificate(certificate)
    options = WebOptions(
        label=own.label or "",
        root=root,
        hosts=tuple(own.web_hosts),
        origins=tuple(own.cors),
        relay=own.relay or "",
        check=_check_of(own.web_auth, logins),
    )
    return checked(
        lambda: Catcher(
            inner,
            store=own.store or "",
            keep=500 if own.keep is None else own.keep,
            keep_age=own.keep_age or 0,
            inbox_by=_rule_of(own.inbox_by or "", given.get("app_dir")),
            faults=faults,
            certificate=certificate,
            options=options,
        )
    )
