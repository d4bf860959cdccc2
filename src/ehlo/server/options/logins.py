"""Which mechanisms a server offers: what the handler can serve, and what its user has said.

Whatever could not work, or would leave a door open, is a `ValueError` at the start.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.mechanism import AuthContext, Mechanism, MechanismError, SecretWanted, Steps
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.auth.scram import SCRAM
from ehlo.server.tls.channel import can_bind

__all__ = ["Logins", "Served", "logins_of", "way_in"]

logger = logging.getLogger("ehlo.handler")

# RFC 4422 3.1: sasl-mech = 1*20mech-char
_NAME: Final = re.compile(r"[A-Z0-9_\-]{1,20}")
_LINE: Final = 480  # octets of names that fit into one line of the reply to EHLO

_BY_SECRET: Final = frozenset(row.name for row in SCRAM)
_BY_NAME: Final = frozenset({"EXTERNAL", "OAUTHBEARER", "XOAUTH2", "ANONYMOUS"})
_NOT_FOR_FUNCTIONS: Final = frozenset({"EXTERNAL", "ANONYMOUS"})
_MAY_BE_OPENED: Final = frozenset({"LOGIN", "PLAIN"})


class Served(NamedTuple):
    """What the handler can serve."""

    auth: bool
    """Whether it decides on logins."""
    secret: bool
    """Whether it gives secrets."""
    function: bool
    """Whether it is a function that decides."""
    keys: frozenset[str] | None = None
    """The algorithms of the keys in a file of passwords, where there is such a file."""


class Logins(NamedTuple):
    """The mechanisms of a server, by name in the order of the offer."""

    mechanisms: dict[str, Mechanism]
    opened: frozenset[str]
    """Names of those that may be used without TLS although they show the password."""


def logins_of(
    given: Mapping[str, bool | Mechanism] | None, served: Served, tls: ssl.SSLContext | None
) -> Logins:
    """What `auth_mechs` comes to. Raises `ValueError`."""
    wanted = {name.upper(): value for name, value in (given or {}).items()}
    own = {name: value for name, value in wanted.items() if isinstance(value, Mechanism)}
    switched = {name: bool(value) for name, value in wanted.items() if name not in own}
    unknown = switched.keys() - MECHANISMS.keys()
    if unknown:
        raise ValueError(f"auth_mechs: no such mechanism: {', '.join(sorted(unknown))}")
    for name in sorted(_BY_NAME & {name for name, on in switched.items() if on}):
        _check_switched_on(name, served, tls)
    rows = {
        name: row
        for name, row in MECHANISMS.items()
        if name not in own and _is_on(name, switched.get(name), served)
    } | _checked(own, served)
    if len(" ".join(rows)) > _LINE:
        raise ValueError("auth_mechs: more names than a line has room for")
    return Logins(
        {name: guarded(row) for name, row in rows.items()},
        frozenset(name for name in _MAY_BE_OPENED if switched.get(name)),
    )


def _is_on(name: str, switch: bool | None, served: Served) -> bool:
    if name in _BY_NAME:
        return switch is True
    if name in _BY_SECRET:
        algorithm = name.removeprefix("SCRAM-").removesuffix("-PLUS")
        can = served.secret if served.keys is None else algorithm in served.keys
    elif name == "CRAM-MD5":
        can = served.secret or served.function
    else:
        can = served.auth
    return can and switch is not False


def _check_switched_on(name: str, served: Served, tls: ssl.SSLContext | None) -> None:
    if not served.auth or served.keys is not None:
        raise ValueError(f"auth_mechs: {name} needs on_auth, which decides on it")
    if served.function and name in _NOT_FOR_FUNCTIONS:
        raise ValueError(f"auth_mechs: {name} is not for a function: it needs a Handler's on_auth")
    if name == "EXTERNAL" and (tls is None or tls.verify_mode is ssl.CERT_NONE):
        raise ValueError(
            "auth_mechs: EXTERNAL needs client certificates: see client_ca of configure_tls"
        )


def _checked(own: Mapping[str, Mechanism], served: Served) -> dict[str, Mechanism]:
    """The user's own, under the names that they are given."""
    for name, mechanism in own.items():
        if _NAME.fullmatch(name) is None or mechanism.name != name:
            raise ValueError(f"auth_mechs: not the name of that mechanism: {name}")
        if not (served.auth or served.secret):
            raise ValueError(f"auth_mechs: {name} needs on_auth or on_secret")
    return dict(own)


def way_in(logins: Logins, tls: ssl.SSLContext | None) -> bool:
    """Whether a client could log in at all."""
    return any(
        row.usable(
            tls=tls is not None or name in logins.opened,
            binding=can_bind(tls),
            certificate=tls is not None and tls.verify_mode is not ssl.CERT_NONE,
        )
        for name, row in logins.mechanisms.items()
    )


def guarded(mechanism: Mechanism) -> Mechanism:
    """The mechanism, with what it does wrong turned into a `MechanismError`."""

    def run(initial: bytes | None, context: AuthContext) -> Steps:
        try:
            yield from _only_steps(mechanism.run(initial, context))
        except ValueError:
            raise
        except Exception as error:
            raise MechanismError(f"mechanism {mechanism.name} failed") from error

    return dataclasses.replace(mechanism, run=run)


def _only_steps(steps: Steps) -> Steps:
    """Raises `TypeError` when the mechanism yields what is no step."""
    sent: Any = None
    while True:
        try:
            step = steps.send(sent)
        except StopIteration:
            return
        if not isinstance(step, bytes | SecretWanted | Credentials):
            raise TypeError(f"a mechanism does not yield {type(step).__name__}")
        sent = yield step
