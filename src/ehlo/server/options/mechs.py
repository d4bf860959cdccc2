"""The SASL mechanisms that a server offers: what its handler serves, and `auth_mechs` enables.

Mechanisms that could not work or would be unsafe raise `ValueError` at the start.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Mechanism,
    MechanismError,
    SecretWanted,
    StepAwaited,
    Steps,
    steps_of,
)
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.auth.scram import SCRAM
from ehlo.server.tls.channel import can_bind

# RFC 4422 3.1: sasl-mech = 1*20mech-char
_NAME: Final = re.compile(r"[A-Z0-9_\-]{1,20}")
_LINE: Final = 480  # bytes of names that fit into one line of the reply to EHLO

_BY_SECRET: Final = frozenset(row.name for row in SCRAM)
_BY_NAME: Final = frozenset({"EXTERNAL", "OAUTHBEARER", "XOAUTH2", "ANONYMOUS"})
_FOR_FUNCTIONS: Final = frozenset({"OAUTHBEARER", "XOAUTH2"})  # of five parameters
_MAY_BE_OPENED: Final = frozenset({"LOGIN", "PLAIN"})


class Served(NamedTuple):
    """Describes which logins the handler can serve."""

    auth: bool
    """Whether it has `on_auth`, or an `auth_handler`."""
    secret: bool
    """Whether it has `on_secret`."""
    function: frozenset[str] | None = None
    """The mechanisms that the `auth_handler` can serve; `None` without one."""
    keys: frozenset[str] | None = None
    """The algorithms of the SCRAM keys in the `auth_file`; `None` without one."""


class Offered(NamedTuple):
    """Holds the mechanisms of a server, by name in the order in which they are offered."""

    mechanisms: dict[str, Mechanism]
    opened: frozenset[str]
    """Names of those that are allowed without TLS although they reveal the password."""


def offered_mechanisms(
    auth_mechs: Mapping[str, bool | Mechanism] | None, served: Served, tls: ssl.SSLContext | None
) -> Offered:
    """Return the mechanisms to offer. Raises `ValueError` and `TypeError`."""
    wanted = {name.upper(): value for name, value in (auth_mechs or {}).items()}
    if len(wanted) < len(auth_mechs or {}):
        raise ValueError("auth_mechs: a name occurs twice, in different case; remove one")
    own = {name: value for name, value in wanted.items() if isinstance(value, Mechanism)}
    switched = {name: value for name, value in wanted.items() if isinstance(value, bool)}
    for name in wanted.keys() - own.keys() - switched.keys():  # "off" is true
        raise ValueError(
            f"auth_mechs: {name} is {wanted[name]!r}; it must be True, False or an ehlo.Mechanism"
        )
    unknown = switched.keys() - MECHANISMS.keys()
    if unknown:
        raise ValueError(
            f"auth_mechs: unknown mechanism: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(MECHANISMS)}"
        )
    for name in sorted(name for name, on in switched.items() if on):
        _check_switched_on(name, served, tls)
    _check_own(own, served)
    rows = {
        name: row
        for name, row in MECHANISMS.items()
        if name not in own and _is_on(name, switched.get(name), served)
    } | own
    if len(" ".join(rows)) > _LINE:
        raise ValueError("auth_mechs: the names do not fit into one line; disable some")
    return Offered(
        {name: _guarded(row) for name, row in rows.items()},
        frozenset(name for name in _MAY_BE_OPENED if switched.get(name)),
    )


def _is_on(name: str, switch: bool | None, served: Served) -> bool:
    if name in _BY_NAME:
        return switch is True
    return switch is not False and _can_serve(name, served)


def _can_serve(name: str, served: Served) -> bool:
    if name in _BY_SECRET:
        algorithm = name.removeprefix("SCRAM-").removesuffix("-PLUS")
        return served.secret if served.keys is None else algorithm in served.keys
    if name == "CRAM-MD5":
        return served.secret or (served.function is not None and name in served.function)
    if name in _BY_NAME:
        return served.auth and served.keys is None
    return served.auth


def _check_switched_on(name: str, served: Served, tls: ssl.SSLContext | None) -> None:
    if name not in _BY_NAME and not (served.auth or served.secret):
        return  # one of several listeners, and without logins
    if not _can_serve(name, served):
        raise ValueError(f"auth_mechs: {name} needs {_need(name, served)}")
    if name in _BY_NAME and served.function is not None and name not in served.function:
        other = "an auth_handler of five parameters, or " if name in _FOR_FUNCTIONS else ""
        raise ValueError(f"auth_mechs: {name} needs {other}a Handler with on_auth")
    if name == "EXTERNAL" and (tls is None or tls.verify_mode is ssl.CERT_NONE):
        raise ValueError(
            "auth_mechs: EXTERNAL needs client certificates; pass client_ca to configure_tls"
        )


def _need(name: str, served: Served) -> str:
    if name == "CRAM-MD5":
        return "on_secret, or an auth_handler of five parameters, and no auth_file"
    if name in _BY_SECRET:
        return "on_secret; define it" if served.keys is None else "SCRAM keys in the auth_file"
    return "on_auth; define it"


def _check_own(own: Mapping[str, Mechanism], served: Served) -> None:
    for name, mechanism in own.items():
        if _NAME.fullmatch(name) is None or mechanism.name != name:
            raise ValueError(f"auth_mechs: {name} must be a valid name, and that of its mechanism")
        if not (served.auth or served.secret):
            raise ValueError(f"auth_mechs: {name} needs on_auth or on_secret; define one")


def can_log_in(offered: Offered, tls: ssl.SSLContext | None) -> bool:
    """Return whether a client could log in at all."""
    return any(
        row.usable(
            tls=tls is not None or name in offered.opened,
            binding=can_bind(tls),
            certificate=tls is not None and tls.verify_mode is not ssl.CERT_NONE,
        )
        for name, row in offered.mechanisms.items()
    )


def _guarded(mechanism: Mechanism) -> Mechanism:
    """Return the mechanism, which raises `MechanismError` where it has a bug."""

    def run(initial: bytes | None, context: AuthContext) -> Steps:
        try:
            yield from _only_steps(steps_of(mechanism.run(initial, context)))
        except ValueError:
            raise
        except (Exception, SystemExit) as error:
            raise MechanismError(f"mechanism {mechanism.name} failed") from error

    return dataclasses.replace(mechanism, run=run)


def _only_steps(steps: Steps) -> Steps:
    """Yield the mechanism's steps. Raises `TypeError` for anything else that it yields."""
    sent: object = None
    while True:
        try:
            step = steps.send(sent)
        except StopIteration:
            return
        if not isinstance(step, bytes | SecretWanted | StepAwaited | Credentials):
            raise TypeError(f"a mechanism cannot yield {type(step).__name__}; see ehlo.Mechanism")
        sent = yield step
