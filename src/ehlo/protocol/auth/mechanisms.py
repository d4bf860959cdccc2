"""The built-in mechanisms: a generator for each (see `mechanism`), and the table of them."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from ehlo.protocol.auth.credentials import (
    AnonymousCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    PasswordCredentials,
    ProvedCredentials,
    TokenCredentials,
)
from ehlo.protocol.auth.mechanism import AuthContext, Mechanism, Steps, unescaped
from ehlo.protocol.auth.scram import SCRAM
from ehlo.protocol.grammar import CONTROL

_HEX_DIGEST: Final = re.compile(rb"[0-9a-f]{32}")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


# -- passwords -----------------------------------------------------------------------------------


def _plain(initial: bytes | None, _context: AuthContext) -> Steps:
    response = (yield b"") if initial is None else initial
    # RFC 4616 2: message = [authzid] UTF8NUL authcid UTF8NUL passwd
    authzid, username, password = response.split(b"\0")
    if not username:
        raise ValueError("no authentication identity")
    yield PasswordCredentials(_text(username), _text(password), _text(authzid))


def _login(initial: bytes | None, _context: AuthContext) -> Steps:
    username = (yield b"Username:") if initial is None else initial
    password = yield b"Password:"
    if not username or b"\0" in username + password:
        raise ValueError("no user name")
    yield PasswordCredentials(_text(username), _text(password), mechanism="LOGIN")


def _cram_md5(_initial: bytes | None, context: AuthContext) -> Steps:
    challenge = f"<{context.nonce()}@{context.hostname}>".encode()
    response = yield challenge
    # RFC 2195 2: user name, a space, and the digest; the name may have spaces of its own
    username, _, digest = response.rpartition(b" ")
    if not username or _HEX_DIGEST.fullmatch(digest.lower()) is None:
        raise ValueError("not a name and a digest")
    yield CramMD5Credentials(_text(username), digest, challenge)


# -- tokens --------------------------------------------------------------------------------------

# RFC 6750 2.1 lists the characters of a token; real tokens have other printable ones, too
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]++)")

# The form that Google has published is "user=" name ^A "auth=Bearer " token ^A ^A
_XOAUTH2: Final = re.compile(r"user=(?P<user>[^\0-\x1f\x7f]++)\x01auth=(?P<auth>[^\x01]++)\x01\x01")

# RFC 7628 3.1: client-resp = gs2-header kvsep *kvpair kvsep; kvpair = key "=" value kvsep
#   key = 1*(ALPHA); value = *(VCHAR / SP / HTAB / CR / LF). No channel binding is defined for it.
_OAUTHBEARER: Final = re.compile(
    r"[ny],(?:a=(?P<authzid>(?:[^\0-\x1f\x7f,=]|=2C|=3D)++))?,"
    r"\x01(?P<pairs>(?:[A-Za-z]++=[\t\n\r -~]*+\x01)*+)\x01"
)

_PORT: Final = re.compile("[0-9]{1,5}")

# RFC 7628 3.2.2; Google's form has HTTP's number for a status
_TOKEN_ERROR: Final = b'{"status":"invalid_token","schemes":"bearer"}'
_XOAUTH2_ERROR: Final = b'{"status":"401","schemes":"bearer"}'


def _bearer(auth: str) -> str:
    found = _BEARER.fullmatch(auth)
    if found is None:
        raise ValueError("no bearer token")
    return found[1]


def _xoauth2(initial: bytes | None, _context: AuthContext) -> Steps:
    response: bytes = (yield b"") if initial is None else initial
    found = _XOAUTH2.fullmatch(response.decode())
    if found is None:
        raise ValueError("no name and token")
    if not (yield TokenCredentials(found["user"], _bearer(found["auth"]))):
        yield _XOAUTH2_ERROR


def _oauthbearer(initial: bytes | None, _context: AuthContext) -> Steps:
    response: bytes = (yield b"") if initial is None else initial
    found = _OAUTHBEARER.fullmatch(response.decode())
    if found is None:
        raise ValueError("no client response")
    pairs = [pair.partition("=") for pair in found["pairs"].split("\x01")[:-1]]
    values = {key: value for key, _, value in pairs}
    if len(values) < len(pairs):
        raise ValueError("a key comes twice")
    if not (yield _token_of(unescaped(found["authzid"] or ""), values)):
        yield _TOKEN_ERROR


def _token_of(user: str, values: dict[str, str]) -> TokenCredentials | ProvedCredentials:
    """RFC 7628 4.3: a client without a token asks for the error text; no hook is called."""
    port = values.get("port", "0")
    if _PORT.fullmatch(port) is None or int(port) > 65_535:
        raise ValueError("no port")
    auth = values.get("auth", "")
    if not auth:
        return ProvedCredentials(user, proved=False, mechanism="OAUTHBEARER")
    token, host = _bearer(auth), values.get("host", "")
    return TokenCredentials(user, token, user, "OAUTHBEARER", host, int(port))


# -- neither -------------------------------------------------------------------------------------


def _external(initial: bytes | None, context: AuthContext) -> Steps:
    """RFC 4422 A: the authorization identity, or nothing."""
    response: bytes = (yield b"") if initial is None else initial
    authzid = response.decode()
    if "\0" in authzid or context.certificate is None:
        raise ValueError("no identity")
    yield CertificateCredentials(context.certificate, authzid)


def _anonymous(initial: bytes | None, _context: AuthContext) -> Steps:
    """RFC 4505 2: message = [ email / token ], a token of at most 255 characters."""
    response: bytes = (yield b"") if initial is None else initial
    trace = response.decode()
    if len(trace) > 255 or CONTROL.search(trace):
        raise ValueError("no trace information")
    yield AnonymousCredentials(trace)


# In the order in which EHLO offers them: the strongest first
MECHANISMS: Final = MappingProxyType(
    {
        mechanism.name: mechanism
        for mechanism in (
            *SCRAM[:2],
            Mechanism("EXTERNAL", _external, needs_certificate=True),
            *SCRAM[2:],
            Mechanism("OAUTHBEARER", _oauthbearer),
            Mechanism("XOAUTH2", _xoauth2),
            Mechanism("CRAM-MD5", _cram_md5, needs_tls=False, client_first=False),
            Mechanism("LOGIN", _login),
            Mechanism("PLAIN", _plain),
            Mechanism("ANONYMOUS", _anonymous, needs_tls=False),
        )
    }
)
