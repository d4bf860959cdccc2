"""SASL mechanisms as generators: challenges out, responses in, credentials at the end.

A mechanism knows nothing of SMTP or base64; `Exchange` wraps one in RFC 4954's lines. A
response that cannot be read raises `ValueError`, whose text nobody outside sees.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ehlo.protocol import reply as replies
from ehlo.protocol.grammar import BASE64
from ehlo.protocol.reply import Reply

__all__ = [
    "MECHANISMS",
    "CramMD5Credentials",
    "Credentials",
    "Exchange",
    "Mechanism",
    "PasswordCredentials",
    "cram_md5_matches",
]

_HEX_DIGEST = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PasswordCredentials:
    """A name and a password, by PLAIN (RFC 4616) or LOGIN.

    Octets that are not UTF-8 are kept as surrogate escapes. `authzid` is the identity that the
    client wants to act as; `""` when it did not say one.
    """

    username: str
    password: str = field(repr=False)
    authzid: str = ""
    mechanism: str = "PLAIN"


@dataclass(frozen=True, slots=True)
class CramMD5Credentials:
    """A name and the proof by CRAM-MD5 (RFC 2195): see `cram_md5_matches`."""

    username: str
    digest: bytes = field(repr=False)
    """The client's 32 hex digits."""
    challenge: bytes = field(repr=False)
    """Our challenge, which the digest is over."""

    def matches(self, secret: str | bytes) -> bool:
        """Whether the client knows `secret`, in constant time."""
        return cram_md5_matches(secret, self.challenge, self.digest)


Credentials = PasswordCredentials | CramMD5Credentials

Steps = Generator[bytes, bytes, Credentials]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A row: how a mechanism is run and when it may be used."""

    name: str
    run: Callable[[bytes | None, bytes], Steps]
    """`(initial response or None, challenge)` to the steps."""
    needs_tls: bool
    """Whether it shows the password to whoever reads the line."""
    client_first: bool
    """Whether it takes an initial response."""


def cram_md5_matches(secret: str | bytes, shared: bytes, digest: bytes) -> bool:
    """Whether `digest` (hex) is the HMAC-MD5 of the challenge `shared` under `secret` (RFC 2195).

    Compares in constant time. A `str` secret is taken as UTF-8.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    expected = hmac.new(key, shared, hashlib.md5).hexdigest().encode()
    return hmac.compare_digest(expected, digest.lower())


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _plain(initial: bytes | None, _challenge: bytes) -> Steps:
    response = (yield b"") if initial is None else initial
    # RFC 4616 2: message = [authzid] UTF8NUL authcid UTF8NUL passwd
    authzid, username, password = response.split(b"\0")
    if not username:
        raise ValueError("no authentication identity")
    return PasswordCredentials(_text(username), _text(password), _text(authzid))


def _login(initial: bytes | None, _challenge: bytes) -> Steps:
    username = (yield b"Username:") if initial is None else initial
    password = yield b"Password:"
    if not username or b"\0" in username + password:
        raise ValueError("no user name")
    return PasswordCredentials(_text(username), _text(password), mechanism="LOGIN")


def _cram_md5(_initial: bytes | None, challenge: bytes) -> Steps:
    response = yield challenge
    # RFC 2195 2: user name, a space, and the digest; the name may have spaces of its own
    username, _, digest = response.rpartition(b" ")
    if not username or _HEX_DIGEST.fullmatch(digest.lower()) is None:
        raise ValueError("not a name and a digest")
    return CramMD5Credentials(_text(username), digest, challenge)


# In the order in which they are offered
MECHANISMS: Final = MappingProxyType(
    {
        mechanism.name: mechanism
        for mechanism in (
            Mechanism("CRAM-MD5", _cram_md5, needs_tls=False, client_first=False),
            Mechanism("LOGIN", _login, needs_tls=True, client_first=True),
            Mechanism("PLAIN", _plain, needs_tls=True, client_first=True),
        )
    }
)


class Exchange:
    """One authentication exchange in RFC 4954's lines."""

    __slots__ = ("_challenge", "_initial", "_steps", "mechanism")

    def __init__(self, mechanism: Mechanism, initial: bytes | None, challenge: bytes) -> None:
        self.mechanism = mechanism
        self._initial = initial
        self._challenge = challenge
        self._steps: Steps | None = None

    def start(self) -> bytes | Credentials | Reply:
        """The first challenge, encoded; or the end of it: credentials, or why not."""
        self._steps = self.mechanism.run(self._initial, self._challenge)
        return self._advance(None)

    def respond(self, line: str) -> bytes | Credentials | Reply:
        """What follows on the client's line, as `start` gives it."""
        if line == "*":
            return replies.AUTH_CANCELLED
        response = decoded(line)
        return replies.BAD_BASE64 if response is None else self._advance(response)

    def _advance(self, response: bytes | None) -> bytes | Credentials | Reply:
        assert self._steps is not None  # noqa: S101  start came first
        try:
            challenge = next(self._steps) if response is None else self._steps.send(response)
        except StopIteration as stop:
            credentials: Credentials = stop.value
            return credentials
        except ValueError:
            return replies.BAD_RESPONSE
        return replies.challenge(binascii.b2a_base64(challenge, newline=False).decode())


def decoded(text: str) -> bytes | None:
    """The octets that `text` is the base64 of (RFC 4648 4, padded); `None` when it is not."""
    if BASE64.fullmatch(text) is None:
        return None
    return binascii.a2b_base64(text)
