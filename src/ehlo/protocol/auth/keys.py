"""`ScramKeys`: what a server stores of a password for SCRAM (RFC 5802 3, RFC 7677).

A thief of the keys cannot log in with them without guessing the password.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, Self

from ehlo.protocol.auth.saslprep import saslprep

__all__ = ["ALGORITHMS", "ITERATIONS", "ScramKeys", "salt_of"]

# RFC 7677 4: at least 4096
ITERATIONS: Final = 4096

_SALT: Final = 16  # octets

# By the name that a mechanism has it in, with the name that hashlib has for it
ALGORITHMS: Final = {"SHA-1": "sha1", "SHA-256": "sha256"}


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """The stored keys of one user. `derive` makes them from a password.

    `algorithm` is `"SHA-1"` or `"SHA-256"`; `salt`, `stored_key` and `server_key` are octets.
    """

    algorithm: str
    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def derive(
        cls,
        password: str | bytes,
        salt: bytes,
        algorithm: str = "SHA-256",
        iterations: int = ITERATIONS,
    ) -> Self:
        """Return the keys of a password (RFC 5802 3); `salt` is 16 bytes of `secrets.token_bytes`.

        A `str` is prepared by SASLprep (RFC 4013); one that cannot be is taken as it is. Octets
        are, too.
        Raises `ValueError` for an algorithm that is neither SHA-1 nor SHA-256.
        """
        digest = _digest_of(algorithm)
        secret = _octets(password) if isinstance(password, str) else password
        salted = hashlib.pbkdf2_hmac(digest, secret, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", digest)
        stored_key = hashlib.new(digest, client_key).digest()
        return cls(
            algorithm, salt, iterations, stored_key, hmac.digest(salted, b"Server Key", digest)
        )

    @classmethod
    def of_nobody(
        cls,
        username: str,
        key: bytes,
        algorithm: str = "SHA-256",
        iterations: int = ITERATIONS,
    ) -> Self:
        """Return keys that no password proves, for an unknown user (RFC 5802 9).

        They are the same each time, as those of a user are; `key` is a secret that stays, and
        `iterations` as many as users have. Raises `ValueError` as `derive` does.
        """
        digest = _digest_of(algorithm)
        salt = salt_of(key, algorithm, username)
        unproved = hmac.digest(key, salt, digest)
        return cls(algorithm, salt, iterations, unproved, unproved)


def salt_of(key: bytes, algorithm: str, username: str) -> bytes:
    """Return the constant salt of a user who has none stored, or does not exist."""
    name = f"{algorithm}\0{username}".encode(errors="backslashreplace")
    return hmac.digest(key, name, "sha256")[:_SALT]


def _digest_of(algorithm: str) -> str:
    digest = ALGORITHMS.get(algorithm)
    if digest is None:
        raise ValueError(f"no SCRAM with {algorithm}")
    return digest


def _octets(password: str) -> bytes:
    try:
        return saslprep(password).encode()
    except ValueError:
        return password.encode()
