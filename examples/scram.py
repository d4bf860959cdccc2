"""Accepts logins without storing passwords: SCRAM with stored keys, and tokens under TLS.

It needs server.crt and server.key in this directory.
"""

import hmac
import logging
import secrets
import sys
from collections.abc import Sequence

import ehlo


def keys_of(password: str) -> list[ehlo.ScramKeys]:
    """Return the keys to store when a user sets a password. The password is not stored."""
    return [
        ehlo.ScramKeys.derive(password, secrets.token_bytes(16), algorithm)
        for algorithm in ("SHA-1", "SHA-256")
    ]


KEYS = {"alice": keys_of("wonderland")}
TOKENS = {"alice": "mF_9.B5f-4.1JqM"}


class Logins(ehlo.Handler):
    async def on_secret(
        self, session: ehlo.Session, username: str
    ) -> Sequence[ehlo.ScramKeys] | None:
        """Return the keys of a user; ehlo checks the login. `None` does not reveal who exists."""
        return KEYS.get(username)

    async def on_auth(self, session: ehlo.Session, credentials: ehlo.Credentials) -> str | None:
        """Check a token. A real server would ask the service that issued it."""
        if not isinstance(credentials, ehlo.TokenCredentials):
            return None
        token = TOKENS.get(credentials.username, "")
        good = hmac.compare_digest(token, credentials.token)
        return credentials.username if token and good else None

    async def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        print(f"mail from {session.user}: {message.size} bytes")


logging.basicConfig(level=logging.INFO)
ehlo.Server(
    Logins(),
    addr=sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525",
    auth_required=True,
    auth_mechs={
        "XOAUTH2": True,
        "OAUTHBEARER": True,
        "CRAM-MD5": False,
        "LOGIN": False,
        "PLAIN": False,
    },
    tls_cert="server.crt",
    tls_key="server.key",
).listen_and_serve()
