"""Accounts: who may use the inbox, from a file of passwords or from the environment."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from ehlo.inbox.desk import Check
from ehlo.passwords.file import PasswordFile


def check_of_file(path: str) -> Check:
    """Return a check against a file of `user:hash` lines, as `ehlo passwd` and htpasswd write it.

    The file may change at any time. Raises `ValueError` that names file and line if it cannot be
    read, or if a hash is not supported.
    """
    passwords = PasswordFile(path)
    passwords.load()
    return passwords.check


def check_of_users(text: str) -> Check:
    """Return a check against `user:password user2:password2`.

    Raises `ValueError`, which quotes no password, if an entry is of another form.

    Example:

        >>> from ehlo.inbox.accounts import check_of_users
        >>> check_of_users("alice:secret bob:hunter2")("bob", "hunter2")
        True
    """
    key = secrets.token_bytes(32)
    users: dict[bytes, bytes] = {}
    for number, entry in enumerate(text.split(), 1):
        name, colon, password = entry.partition(":")
        if not (name and colon and password):
            raise ValueError(f"entry {number} is not of the form user:password")
        users[_digest(key, name)] = _digest(key, password)
    if not users:
        raise ValueError("no user is given; write user:password, with spaces between users")

    def check(name: str, password: str) -> bool:
        """Compare with all users, in a time that tells nothing about them."""
        given, secret = _digest(key, name), _digest(key, password)
        found = [
            hmac.compare_digest(given, each) & hmac.compare_digest(secret, own)
            for each, own in users.items()
        ]
        return any(found)

    return check


def _digest(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(errors="surrogatepass"), hashlib.sha256)
