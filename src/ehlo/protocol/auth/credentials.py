"""Credentials: one immutable value for each way to log in; no `repr` shows a secret."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AnonymousCredentials",
    "CertificateCredentials",
    "CramMD5Credentials",
    "Credentials",
    "PasswordCredentials",
    "ProvedCredentials",
    "TokenCredentials",
    "cram_md5_matches",
]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Base of the credentials that `on_auth` gets.

    A mechanism of your own may have a class of its own for what it learns.
    """


@dataclass(frozen=True, slots=True)
class PasswordCredentials(Credentials):
    """A name and a password, by PLAIN (RFC 4616) or LOGIN.

    Octets that are not UTF-8 are kept as surrogate escapes. `authzid` is the identity that the
    client wants to act as; `""` when it did not say one.
    """

    username: str
    password: str = field(repr=False)
    authzid: str = ""
    mechanism: str = "PLAIN"


@dataclass(frozen=True, slots=True)
class CramMD5Credentials(Credentials):
    """A name and the proof by CRAM-MD5 (RFC 2195): see `cram_md5_matches`."""

    username: str
    digest: bytes = field(repr=False)
    """The client's 32 hex digits."""
    challenge: bytes = field(repr=False)
    """Our challenge, which the digest is over."""

    def matches(self, secret: str | bytes) -> bool:
        """Whether the client knows `secret`, in constant time."""
        return cram_md5_matches(secret, self.challenge, self.digest)


@dataclass(frozen=True, slots=True)
class TokenCredentials(Credentials):
    """A name and a bearer token (RFC 6750), by XOAUTH2 or OAUTHBEARER (RFC 7628).

    The token alone proves something: whether it is for `username` is the hook's to find out.
    OAUTHBEARER's name is optional and an authorisation identity; it is in both fields then. `host`
    and `port` are where that client believes to be, `""` and 0 when it did not say.
    """

    username: str
    token: str = field(repr=False)
    authzid: str = ""
    mechanism: str = "XOAUTH2"
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class CertificateCredentials(Credentials):
    """A client certificate that TLS has verified, by EXTERNAL (RFC 4422 appendix A).

    `certificate` is as `ssl.SSLObject.getpeercert` gives it. `authzid` is the identity that the
    client wants to act as; `""` asks for the one that the certificate stands for.
    """

    certificate: Mapping[str, Any]
    authzid: str = ""
    mechanism: str = "EXTERNAL"


@dataclass(frozen=True, slots=True)
class AnonymousCredentials(Credentials):
    """Nothing at all, by ANONYMOUS (RFC 4505). `trace` is what the client says of itself."""

    trace: str = ""


@dataclass(frozen=True, slots=True)
class ProvedCredentials(Credentials):
    """What the core has checked by itself, so that no hook is asked: it was proved, or not."""

    username: str
    proved: bool
    mechanism: str


def cram_md5_matches(secret: str | bytes, shared: bytes, digest: bytes) -> bool:
    """Whether `digest` (hex) is the HMAC-MD5 of the challenge `shared` under `secret` (RFC 2195).

    Compares in constant time. A `str` secret is taken as UTF-8.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    expected = hmac.new(key, shared, hashlib.md5).hexdigest().encode()
    return hmac.compare_digest(expected, digest.lower())
