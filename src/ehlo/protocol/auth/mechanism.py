"""SASL (RFC 4422): what a mechanism is, and its exchange in RFC 4954's lines.

A mechanism is a generator that knows nothing of SMTP or base64. It yields what it wants, and is
sent what came of it:

    bytes           a challenge; it is sent the client's response
    SecretWanted    what the server keeps of a user; it is sent that, `None` for nobody
    Credentials     the login, to be decided on; it is sent `True` or `False`

After `True` it ends. After `False` it may yield one more challenge, which says why; the response
to it is dropped. One that ends before it has yielded credentials has refused the login. A response
that cannot be read raises `ValueError`, whose text nobody outside sees.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.grammar import BASE64

__all__ = [
    "AuthContext",
    "Mechanism",
    "MechanismError",
    "Secret",
    "SecretWanted",
    "Steps",
    "checked_secret",
    "decoded",
    "unescaped",
]

Secret = str | bytes | ScramKeys | Sequence[ScramKeys] | None
"""What a server may keep of a user: the password, or keys for SCRAM, of one or more algorithms."""


class MechanismError(Exception):
    """Raised when a mechanism failed: a local error, not the client's mistake."""


@dataclass(frozen=True, slots=True)
class SecretWanted:
    """Yielded by a mechanism that needs the secret of a user."""

    username: str


@dataclass(frozen=True, slots=True)
class AuthContext:
    """What a mechanism may know about the connection and the server."""

    nonce: Callable[[], str]
    """Return unpredictable text of letters and digits, a different one at each call."""
    hostname: str
    bindings: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The channel bindings of this TLS connection (RFC 5929) by the name of their type."""
    certificate: Mapping[str, Any] | None = None
    """The client's certificate, if TLS has verified it."""
    offered: Sequence[str] = ()
    """The mechanisms that the client may use."""
    salt_key: bytes = field(default=b"", repr=False)
    """The key of salts that stay the same for a user who has none stored."""


Steps = Generator[bytes | SecretWanted | Credentials, Any, None]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A way to log in: how it is run and when it may be used.

    `run(initial, context)` gives the generator; `initial` is the client's initial response, or
    `None` where it sent none. `name` is 1 to 20 upper-case letters, digits, `-`, `_` (RFC 4422
    3.1).
    """

    name: str
    run: Callable[[bytes | None, AuthContext], Steps]
    needs_tls: bool = True
    """Whether it shows a secret to anyone who reads the line."""
    client_first: bool = True
    """Whether it takes an initial response."""
    needs_binding: bool = False
    """Whether it needs a TLS connection with a channel binding."""
    needs_certificate: bool = False
    """Whether it needs a client certificate that TLS has verified."""

    def usable(self, *, tls: bool, binding: bool, certificate: bool) -> bool:
        """Return whether a connection with these properties may use it."""
        return (
            (tls or not self.needs_tls)
            and (binding or not self.needs_binding)
            and (certificate or not self.needs_certificate)
        )


def decoded(text: str) -> bytes | None:
    """Decode padded base64 (RFC 4648 4); return `None` if `text` is none."""
    if BASE64.fullmatch(text) is None:
        return None
    return binascii.a2b_base64(text)


def unescaped(saslname: str) -> str:
    """Decode a `saslname` (RFC 5802 5.1), which escapes the comma and the `=`."""
    return saslname.replace("=2C", ",").replace("=3D", "=")


_SECRETS: Final = (str, bytes, ScramKeys)


def checked_secret(secret: object) -> Secret:
    """Return `secret`, or `None` for an empty one, which nobody logs in with.

    Raises `TypeError` for any other type, and `ValueError` for text that is not UTF-8.
    """
    if isinstance(secret, str):
        secret.encode()
    elif isinstance(secret, list | tuple):
        for keys in secret:
            if not isinstance(keys, ScramKeys):
                raise _no_secret(keys)
    elif secret is not None and not isinstance(secret, _SECRETS):
        raise _no_secret(secret)
    return secret or None


def _no_secret(given: object) -> TypeError:
    return TypeError(f"on_secret returns a secret, keys or None, not {type(given).__name__}")
