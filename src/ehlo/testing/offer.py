"""`Offer`: what the server of an inbox offers, and the settings of the protocol that follow."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal, TypedDict

from ehlo.faults.fault import is_count
from ehlo.protocol.auth.credentials import Credentials, PasswordCredentials
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.extensions import rows
from ehlo.protocol.policy import Limits
from ehlo.protocol.settings import Settings

Users = Mapping[str, str] | Literal["any"]
"""Passwords by user name, or `"any"` to accept every login."""

_LOGINS: Final = ("PLAIN", "LOGIN")
_LARGEST: Final = 104_857_600  # bytes of a mail unless a size is offered
_MOST_RECIPIENTS: Final = 10_000
# A test may send what it likes: nothing here slows a client down, or counts its errors
_LIMITS: Final = Limits(slow_errors=0, errors=0, refused_recipients=0, idle_commands=0)


class OfferOptions(TypedDict, total=False):
    """Describes the keywords of `Inbox` and of `Inbox.offer`."""

    starttls: bool
    """Offer STARTTLS (never by default: some clients then insist on a certificate they trust)."""
    implicit_tls: bool
    """Begin each connection with a TLS handshake, as on port 465."""
    auth: Users | None
    """Offer logins: passwords by user name, or `"any"`. Without TLS on offer, they need none."""
    require_auth: bool
    """Reject MAIL before a login (530)."""
    size: int | None
    """Maximum message size in bytes, announced by SIZE. By default 100 MiB."""
    smtputf8: bool
    """Offer SMTPUTF8."""
    chunking: bool
    """Offer CHUNKING, and so BDAT."""
    pipelining: bool
    """Offer PIPELINING."""


@dataclass(frozen=True)
class Offer:
    """Holds what the server offers. Raises `ValueError` for options that exclude each other."""

    starttls: bool = False
    implicit_tls: bool = False
    auth: Users | None = None
    require_auth: bool = False
    size: int | None = None
    smtputf8: bool = True
    chunking: bool = True
    pipelining: bool = True

    def __post_init__(self) -> None:
        users = self.auth
        if isinstance(users, Mapping):
            if not all(isinstance(each, str) for pair in users.items() for each in pair):
                raise TypeError("auth has a value that is not text; write {'user': 'password'}")
        elif users is not None and users != "any":
            raise TypeError(f"auth is {users!r}; write {{'user': 'password'}} or 'any'")
        if self.starttls and self.implicit_tls:
            raise ValueError("starttls cannot be combined with implicit_tls; leave one out")
        if self.require_auth and self.auth is None:
            raise ValueError("require_auth needs auth; write auth={'user': 'password'}")
        if self.size is not None and not is_count(self.size, 1):
            raise ValueError(f"size is {self.size!r}; it must be a number of bytes over 0, or None")

    @cached_property
    def settings(self) -> Settings:
        """The settings of the protocol."""
        secure = self.starttls or self.implicit_tls
        names = () if self.auth is None else _LOGINS
        wanted = {
            "SMTPUTF8": self.smtputf8,
            "CHUNKING": self.chunking,
            "PIPELINING": self.pipelining,
        }
        return Settings(
            hostname="localhost",
            appname="ehlo",
            max_size=self.size or _LARGEST,
            max_recipients=_MOST_RECIPIENTS,
            max_messages=0,
            tls_available=self.starttls,
            auth_required=self.require_auth,
            mechanisms={name: MECHANISMS[name] for name in names},
            open_mechanisms=frozenset() if secure else frozenset(names),
            lenient_addresses=True,
            limits=_LIMITS,
            extensions=rows(wanted, (), now),
        )

    def knows(self, credentials: Credentials) -> bool:
        """Return whether a login is right."""
        if not isinstance(credentials, PasswordCredentials) or self.auth is None:
            return False
        if self.auth == "any":
            return True
        password = self.auth.get(credentials.username)
        given = credentials.password.encode()
        same = hmac.compare_digest(given, (password or "").encode())
        return same and password is not None

    @property
    def first_login(self) -> tuple[str, str] | None:
        """A user name and its password, for the settings of a client; `None` without logins."""
        if self.auth is None:
            return None
        return ("user", "password") if self.auth == "any" else next(iter(self.auth.items()), None)


def now() -> datetime:
    """Return the time, for extensions that compare it."""
    return datetime.now(UTC)


def check_keywords(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise `TypeError` for a keyword that `what` does not have."""
    for name in sorted(set(given) - set(known)):
        raise TypeError(f"{what} has no keyword {name}; it has {', '.join(sorted(known))}")


DEFAULT: Final = Offer()
"""What is offered unless a test says more; its settings are made once."""


def offer_of(options: OfferOptions) -> Offer:
    """Return what keywords say. Raises `ValueError` and `TypeError`."""
    check_keywords("offer", options, OfferOptions.__optional_keys__)
    return Offer(**options) if options else DEFAULT
