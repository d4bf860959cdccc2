"""The fixtures of smtpdfix and pytest-localserver, served by ehlo: change one line in a conftest.

    from ehlo.testing.compat import smtpd           # instead of the plugin smtpdfix
    from ehlo.testing.compat import smtpserver      # instead of the plugin pytest-localserver

The plugin of ehlo does not register them, since the other plugins may be installed, too. This file
is longer than others, since it is all that there is for both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message as EmailMessage
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Generic, Protocol, Self, TypeVar, overload

import pytest

from ehlo.faults import Faults
from ehlo.protocol.auth.credentials import CramMD5Credentials, Credentials, PasswordCredentials
from ehlo.protocol.auth.mechanism import AuthContext, Mechanism, Steps
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.extensions import rows
from ehlo.protocol.settings import Settings
from ehlo.testing.loopback import Commons, Port
from ehlo.testing.offer import DEFAULT, Offer, now
from ehlo.testing.received import ReceivedMail
from ehlo.testing.rulebook import Rulebook

__all__ = ["AuthController", "Config", "SMTPDFix", "Server", "smtpd", "smtpserver"]

T = TypeVar("T")

_TRUE: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE: Final = frozenset({"n", "no", "f", "false", "off", "0"})


def _as_bool(value: object) -> bool:
    """Return what a switch means: any object, or text such as `True`. Raises `ValueError`."""
    if not isinstance(value, str):
        return bool(value)
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError(f"{value!r} is neither true nor false; write True or False")
    return value.lower() in _TRUE


class Setting(Generic[T]):
    """A setting, which may change while the server runs; `read` makes its value of any other."""

    def __init__(self, name: str, read: Callable[[Any], T]) -> None:
        self._name = name
        self._read = read

    @overload
    def __get__(self, config: None, owner: type) -> Self: ...
    @overload
    def __get__(self, config: Config, owner: type) -> T: ...
    def __get__(self, config: Config | None, owner: type) -> Self | T:
        if config is None:
            return self
        value: T = vars(config)[f"_{self._name}"]
        return value

    def __set__(self, config: Config, value: object) -> None:
        vars(config)[f"_{self._name}"] = self._read(value)
        config.changed(self._name)


def _file_names(value: str | tuple[str | None, str | None]) -> tuple[str | None, str | None]:
    """Return the names of the files of a certificate and its key. Raises `FileNotFoundError`."""
    names = (value[0], value[1]) if isinstance(value, tuple) else (value, None)
    for name in names:
        if name is not None and not Path(name).is_file():
            raise FileNotFoundError(2, "No such file or directory", name)
    return names


class Config:
    """The settings of a server as smtpdfix has them; the variables `SMTPD_*` are the defaults.

    A change holds for the next connection. The server keeps running; only for another `host` or
    `port` it starts again.

    Example:

        >>> from ehlo.testing.compat import SMTPDFix
        >>> with SMTPDFix() as smtpd:
        ...     smtpd.config.enforce_auth = "True"
        ...     smtpd.config.enforce_auth
        True
    """

    host: Setting[str] = Setting("host", str)
    port: Setting[int] = Setting("port", int)
    ready_timeout: Setting[float] = Setting("ready_timeout", float)
    login_username: Setting[str] = Setting("login_username", str)
    login_password: Setting[str] = Setting("login_password", str)
    enforce_auth: Setting[bool] = Setting("enforce_auth", _as_bool)
    auth_require_tls: Setting[bool] = Setting("auth_require_tls", _as_bool)
    use_starttls: Setting[bool] = Setting("use_starttls", _as_bool)
    use_ssl: Setting[bool] = Setting("use_ssl", _as_bool)

    def __init__(self) -> None:
        self.changed: Callable[[str], object] = lambda _name: None
        """Called with the name of a setting that has changed."""
        self.make_certificate: Callable[[], str] | None = None
        """Called for the file of a certificate where there is none."""
        get = os.environ.get
        self.host = get("SMTPD_HOST", "localhost")
        self.port = get("SMTPD_PORT", "0")
        self.ready_timeout = get("SMTPD_READY_TIMEOUT", "10")
        self.login_username = get("SMTPD_LOGIN_NAME", "user")
        self.login_password = get("SMTPD_LOGIN_PASSWORD", "password")
        self.enforce_auth = get("SMTPD_ENFORCE_AUTH", "False")
        self.auth_require_tls = get("SMTPD_AUTH_REQUIRE_TLS", "True")
        self.ssl_cert_files = (get("SMTPD_SSL_CERTIFICATE_FILE"), get("SMTPD_SSL_KEY_FILE"))
        self.use_starttls = get("SMTPD_USE_STARTTLS", "False")
        self.use_ssl = _as_bool(get("SMTPD_USE_SSL", "False")) or get("SMTPD_USE_TLS", "False")

    @property
    def ssl_cert_files(self) -> tuple[str | None, str | None]:
        """The files of the certificate and its key (`None` is the same file).

        While a server runs, there is a certificate for this machine unless another one is set.
        """
        if self._ssl_cert_files[0] is None and self.make_certificate is not None:
            return self.make_certificate(), None
        return self._ssl_cert_files

    @ssl_cert_files.setter
    def ssl_cert_files(self, value: str | tuple[str | None, str | None]) -> None:
        self._ssl_cert_files = _file_names(value)
        self.changed("ssl_cert_files")


class Authenticator(Protocol):
    """Checks logins instead of the two settings."""

    def validate(self, username: str, password: str) -> bool:
        """Return whether the password is that of the user."""
        ...

    def get_password(self, username: str) -> str:
        """Return the password of a user, for CRAM-MD5."""
        ...


# -- the server ------------------------------------------------------------------------------------


def _plain(initial: bytes | None, _context: AuthContext) -> Steps:
    """Take name and password behind NULs, as RFC 4616 has it, or with a space in between."""
    response = (yield b"") if initial is None else initial
    *_, username, password = response.split(b"\0") if b"\0" in response else response.split()
    yield PasswordCredentials(username.decode(), password.decode())


_MECHANISMS: Final = {
    "CRAM-MD5": dataclasses.replace(MECHANISMS["CRAM-MD5"], needs_tls=True),
    "LOGIN": MECHANISMS["LOGIN"],
    "PLAIN": Mechanism("PLAIN", _plain),
}


@dataclass(frozen=True)
class ConfiguredOffer(Offer):
    """Holds what smtpdfix offers by its settings: STARTTLS, where offered, is required."""

    auth_require_tls: bool = True
    authenticator: Authenticator | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings of the protocol."""
        return dataclasses.replace(
            DEFAULT.settings,
            # Also without a certificate: a login is then 538, and no unknown command
            tls_available=True,
            tls_required=self.starttls,
            auth_required=self.require_auth,
            mechanisms=_MECHANISMS,
            open_mechanisms=frozenset(() if self.auth_require_tls else _MECHANISMS),
            extensions=rows({"STARTTLS": self.starttls, "SMTPUTF8": False}, (), now),
        )

    def knows(self, credentials: Credentials) -> bool:
        """Return whether a login is right."""
        if isinstance(credentials, PasswordCredentials) and self.authenticator is not None:
            return self.authenticator.validate(credentials.username, credentials.password)
        if isinstance(credentials, CramMD5Credentials):
            return credentials.matches(self._password_of(credentials.username))
        return super().knows(credentials)

    def _password_of(self, username: str) -> str:
        if self.authenticator is not None:
            return self.authenticator.get_password(username)
        assert isinstance(self.auth, dict)  # noqa: S101  `AuthController` makes it
        return "".join(self.auth.values())  # of any user, as smtpdfix does


class _Ledger(Rulebook):
    """The rules of a server whose offer is read at each connection."""

    def __init__(self, read: Callable[[], Offer], add: Callable[[ReceivedMail], object]) -> None:
        self._read = read
        self._add = add
        super().__init__(DEFAULT, Faults())
        self.closed = False

    @property
    def offer(self) -> Offer:
        return self._read()

    @offer.setter
    def offer(self, _offer: Offer) -> None:
        """Do nothing: the settings decide."""

    def add(self, mail: ReceivedMail) -> None:
        self._add(mail)


class _Files(Commons):
    """The thread of one server, whose certificate is in files."""

    def __init__(
        self,
        names: Callable[[], tuple[str | None, str | None]],
        context: ssl.SSLContext | None,
    ) -> None:
        """`names` returns the files, which are not read if there is a `context`."""
        super().__init__()
        self._names = names
        self._context = context
        self._making = threading.Lock()

    @property
    def server_context(self) -> ssl.SSLContext:
        if self._context is not None:
            return self._context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = self._names()
        context.load_cert_chain(certificate or "", key)
        return context

    def certificate_in(self, directory: str) -> str:
        """Return the path of a key, its certificate and the authority, which a client may trust."""
        path = Path(directory, "cert.pem")
        with self._making:
            if not path.exists():
                issued = self.authority.issue_cert("localhost", "127.0.0.1", "::1")
                parts = (issued.private_key_and_cert_chain_pem, self.authority.cert_pem)
                path.write_bytes(b"".join(part.bytes() for part in parts))
        return str(path)


class AuthController:
    """A server with the settings of a `Config`, which may change while it runs.

    Example:

        >>> from ehlo.testing.compat import AuthController
        >>> server = AuthController(hostname="localhost")
        >>> server.start()
        >>> server.messages
        []
        >>> server.stop()
    """

    def __init__(
        self,
        loop: object = None,
        hostname: str | None = None,
        port: int | None = None,
        ready_timeout: float | None = None,
        ssl_context: ssl.SSLContext | None = None,
        config: Config | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        """`loop` is accepted, and not used: the server has its own, in a thread."""
        del loop
        self.config: Config = config or Config()
        """The settings."""
        if hostname is not None:
            self.config.host = hostname
        if port is not None:
            self.config.port = port
        if ready_timeout is not None:
            self.config.ready_timeout = ready_timeout
        self._authenticator = authenticator
        self._context = ssl_context
        self._messages: list[EmailMessage] = []
        self._running: contextlib.ExitStack | None = None
        self.config.changed = self._changed

    @property
    def hostname(self) -> str:
        """The host to connect to."""
        return str(self.config.host)

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self.config.port)

    @property
    def messages(self) -> list[EmailMessage]:
        """A copy of the list of messages, with `X-Peer`, `X-MailFrom` and `X-RcptTo`."""
        return list(self._messages)

    def start(self) -> None:
        """Listen. Raises `OSError` for a port that cannot be bound."""
        if self._running is not None:
            raise RuntimeError("the server is already running; stop it first")
        config = self.config
        with contextlib.ExitStack() as stack:
            commons = stack.enter_context(_Files(lambda: config.ssl_cert_files, self._context))
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ehlo-"))
            config.make_certificate = partial(commons.certificate_in, directory)
            port = Port(commons, _Ledger(self._offer, self._receive))
            stack.callback(port.close)
            config.changed = lambda _name: None
            config.port = port.open(_bindable(self.hostname), self.port).port
            config.changed = self._changed
            self._running = stack.pop_all()

    def stop(self) -> None:
        """Disconnect all clients, and close the port."""
        running, self._running = self._running, None
        if running is not None:
            self.config.make_certificate = None
            running.close()

    def reset(self, persist_messages: bool = True) -> None:
        """Start again on the same port, with the messages or without them."""
        if not persist_messages:
            self._messages.clear()
        if self._running is not None:
            self.stop()
            self.start()

    def _changed(self, name: str) -> None:
        if name in ("host", "port"):
            self.reset()

    def _offer(self) -> ConfiguredOffer:
        config = self.config
        starttls = config.use_starttls
        return ConfiguredOffer(
            starttls=starttls,
            implicit_tls=config.use_ssl and not starttls,
            auth={config.login_username: config.login_password},
            require_auth=config.enforce_auth,
            auth_require_tls=config.auth_require_tls,
            authenticator=self._authenticator,
        )

    def _receive(self, mail: ReceivedMail) -> None:
        message = email.message_from_bytes(mail.raw)
        message["X-Peer"] = str(tuple(mail.peer))
        message["X-MailFrom"] = mail.mail_from
        message["X-RcptTo"] = ", ".join(mail.rcpt_tos)
        self._messages.append(message)


def _bindable(host: str) -> str:
    """Return the one address to bind: with a free port, the two of `localhost` would differ."""
    return "127.0.0.1" if host == "localhost" else host


class SMTPDFix:
    r"""A context manager that starts an `AuthController` and stops it.

    Example:

        >>> import smtplib
        >>> from ehlo.testing.compat import SMTPDFix
        >>> with SMTPDFix() as smtpd, smtplib.SMTP(smtpd.hostname, smtpd.port) as client:
        ...     refused = client.sendmail("a@example.com", "b@example.com", "Subject: Hi\n\n")
        ...     smtpd.messages[0]["X-RcptTo"]
        'b@example.com'
    """

    def __init__(
        self, hostname: str | None = None, port: int | None = None, config: Config | None = None
    ) -> None:
        self.controller: AuthController = AuthController(None, hostname, port, config=config)
        """The server."""

    @property
    def config(self) -> Config:
        """The settings of the server."""
        return self.controller.config

    def __enter__(self) -> AuthController:
        self.controller.start()
        return self.controller

    def __exit__(self, *_: object) -> None:
        self.controller.stop()


@pytest.fixture
def smtpd() -> Iterator[AuthController]:
    """Serve as the fixture of smtpdfix does: `smtpd.hostname`, `.port`, `.messages`, `.config`.

    Example (in conftest.py):

        >>> from ehlo.testing.compat import smtpd
    """
    with SMTPDFix() as controller:
        yield controller


# -- pytest-localserver ----------------------------------------------------------------------------


class MailServer:
    r"""A server as pytest-localserver has it; `Server` is its name there.

    Example:

        >>> import smtplib
        >>> from ehlo.testing.compat import Server
        >>> server = Server()
        >>> server.start()
        >>> with smtplib.SMTP(*server.addr) as client:
        ...     refused = client.sendmail("a@example.com", "b@example.com", "Subject: Hi\n\n")
        >>> server.outbox[0].details.rcpttos
        ['b@example.com']
        >>> server.stop()
    """

    def __init__(self, host: str = "localhost", port: int = 0) -> None:
        self.addr: tuple[str, int] = (host, port)
        """Host and port."""
        self.outbox: list[Any] = []
        """The messages so far, each an `email.message.Message` with `details`."""
        self._running: contextlib.ExitStack | None = None

    @property
    def port(self) -> int:
        """The port."""
        return self.addr[1]

    def start(self) -> None:
        """Listen. Raises `OSError` for a port that cannot be bound."""
        if self._running is not None:
            raise RuntimeError("the server is already running; stop it first")
        with contextlib.ExitStack() as stack:
            port = Port(stack.enter_context(Commons()), _Ledger(lambda: DEFAULT, self._receive))
            stack.callback(port.close)
            address = port.open(_bindable(self.addr[0]), self.port)
            self.addr = (address.host, address.port)
            self._running = stack.pop_all()

    def stop(self, timeout: float | None = None) -> None:
        """Stop; a second call does nothing. `timeout` is accepted, and has no effect."""
        del timeout
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._running is not None

    @property
    def accepting(self) -> bool:
        """Whether clients can connect."""
        return self.is_alive()

    def _receive(self, mail: ReceivedMail) -> None:
        message: Any = email.message_from_bytes(mail.raw)
        message.details = SimpleNamespace(
            peer=tuple(mail.peer), mailfrom=mail.mail_from, rcpttos=mail.rcpt_tos
        )
        self.outbox.append(message)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<smtp.Server {self.addr[0]}:{self.addr[1]}>"


Server = MailServer
"""The name of `MailServer` in pytest-localserver."""


@pytest.fixture
def smtpserver() -> Iterator[MailServer]:
    """Serve as the fixture of pytest-localserver does: `smtpserver.addr`, `smtpserver.outbox`.

    Example (in conftest.py):

        >>> from ehlo.testing.compat import smtpserver
    """
    with MailServer() as server:
        yield server
