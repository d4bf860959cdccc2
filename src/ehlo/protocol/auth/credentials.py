"""Credentials: one immutable value for each way to log in; no `repr` shows a secret.

None of the classes has slots: a subclass of a frozen dataclass with slots cannot set an attribute.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

PeerCertificate: TypeAlias = Mapping[str, Any]
"""A client certificate, as `ssl.SSLObject.getpeercert` returns it."""


class Credentials:
    """Is the base class of the credentials that `on_auth` gets.

    A mechanism of your own may define a subclass for the facts that it learns: a plain class with
    its own `__init__`, or a dataclass. Keep a secret out of its `repr`, which may be logged. If it
    has a `username`, tries by several mechanisms for this name count as one login.

    Example:

        class CodeCredentials(ehlo.Credentials):
            def __init__(self, username, code):
                self.username = username
                self.code = code

        async def on_auth(self, session, credentials):
            match credentials:
                case ehlo.PasswordCredentials():
                    return await self.check_password(credentials)
                case CodeCredentials():
                    return await self.check_code(credentials)
    """


@dataclass(frozen=True)
class PasswordCredentials(Credentials):
    """Holds a user name and a password, sent by PLAIN (RFC 4616) or LOGIN.

    Bytes that are not UTF-8 are kept as surrogate escapes.

    Example:

        >>> ehlo.PasswordCredentials("alice", "correct horse")
        PasswordCredentials(username='alice', authzid='', mechanism='PLAIN')
    """

    username: str
    """The name of the user whose password it is."""
    password: str = field(repr=False)
    """The password."""
    authzid: str = ""
    """The identity that the client wants to act as; `""` for that of the user."""
    mechanism: str = "PLAIN"
    """The mechanism that the client chose: `"PLAIN"` or `"LOGIN"`."""


@dataclass(frozen=True)
class CramMD5Credentials(Credentials):
    """Holds a user name and the proof of CRAM-MD5 (RFC 2195) that the client knows the password.

    Example:

        async def on_auth(self, session, credentials):
            secret = await self.secret_of(credentials.username)
            return credentials.username if credentials.matches(secret) else None
    """

    username: str
    """The name of the user."""
    digest: bytes = field(repr=False)
    """The client's proof: 32 hex digits."""
    challenge: bytes = field(repr=False)
    """The server's challenge, from which the client computed `digest`."""

    def matches(self, secret: str | bytes) -> bool:
        """Return whether the client knows `secret`, in constant time."""
        return cram_md5_matches(secret, self.challenge, self.digest)


@dataclass(frozen=True)
class TokenCredentials(Credentials):
    """Holds a bearer token (RFC 6750), sent by XOAUTH2 or OAUTHBEARER (RFC 7628).

    Only the token proves an identity. Your hook must check that it was issued for `username`.

    Example:

        async def on_auth(self, session, credentials):
            user = await self.provider.user_of(credentials.token)
            return user if user == credentials.username else None
    """

    username: str
    """The user name; in OAUTHBEARER it is optional, and the same as `authzid`."""
    token: str = field(repr=False)
    """The token, without the word `Bearer`."""
    authzid: str = ""
    """The identity that the client wants to act as; `""` in XOAUTH2, or if not given."""
    mechanism: str = "XOAUTH2"
    """The mechanism that the client chose: `"XOAUTH2"` or `"OAUTHBEARER"`."""
    host: str = ""
    """The server's host name as the client knows it; `""` if not given."""
    port: int = 0
    """The server's port as the client knows it; 0 if not given."""


@dataclass(frozen=True)
class CertificateCredentials(Credentials):
    """Holds a client certificate that TLS has verified, for EXTERNAL (RFC 4422 appendix A).

    Example:

        def on_auth(self, session, credentials):
            names = [value for kind, value in credentials.certificate["subjectAltName"]]
            return credentials.authzid if credentials.authzid in names else None
    """

    certificate: PeerCertificate
    """The certificate, as `ssl.SSLObject.getpeercert` returns it."""
    authzid: str = ""
    """The identity that the client wants to act as; `""` for that of the certificate."""
    mechanism: str = "EXTERNAL"
    """The mechanism that the client chose."""


@dataclass(frozen=True)
class AnonymousCredentials(Credentials):
    """Holds the client's trace of an anonymous login (RFC 4505), which proves no identity.

    Example:

        def on_auth(self, session, credentials):
            return "anonymous" if credentials.trace else None
    """

    trace: str = ""
    """A description that the client gave of itself, such as an email address."""


@dataclass(frozen=True)
class ProvedCredentials(Credentials):
    """Holds the result of a check that the core has done, so that it calls no hook."""

    username: str
    proved: bool
    mechanism: str


def claimed_name(credentials: Credentials) -> str | None:
    """Return the name that a client claims to have; `None` if the credentials have none."""
    name = getattr(credentials, "username", None)
    return name if isinstance(name, str) else None


def as_bytes(text: str | bytes) -> bytes:
    """Return the bytes that the client sent; surrogate escapes stand for bytes beyond UTF-8."""
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def cram_md5_matches(secret: str | bytes, shared: bytes, digest: bytes) -> bool:
    """Return whether `digest` (hex) proves knowledge of `secret` in CRAM-MD5 (RFC 2195).

    The digest must be the HMAC-MD5 of the challenge `shared`. A `str` secret is encoded as UTF-8.
    The comparison takes constant time.

    Example:

        >>> challenge = b"<1896.697170952@postoffice.reston.mci.net>"
        >>> digest = b"b913a602c7eda7a495b4e6e7334d3890"
        >>> ehlo.cram_md5_matches("tanstaaftanstaaf", challenge, digest)
        True
    """
    key = secret.encode() if isinstance(secret, str) else secret
    expected = hmac.new(key, shared, hashlib.md5).hexdigest().encode()
    return hmac.compare_digest(expected, digest.lower())
