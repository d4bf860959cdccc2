"""`ScramKeys`: what a server stores of a password for SCRAM (RFC 5802 3, RFC 7677).

A thief of the keys must guess the password before they can log in. Names and passwords are
prepared by SASLprep (RFC 4013), whose tables are those of stringprep for Unicode 3.2.
"""

from __future__ import annotations

import hashlib
import hmac
import stringprep
from dataclasses import dataclass, field
from typing import Final, Self
from unicodedata import ucd_3_2_0

# RFC 7677 4: at least 4096
ITERATIONS: Final = 4096

_SALT: Final = 16  # bytes

# By the name of the algorithm in a mechanism's name: its name in hashlib
ALGORITHMS: Final = {"SHA-1": "sha1", "SHA-256": "sha256"}


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """Holds the keys that are stored for one user and one algorithm.

    Example:

        >>> import secrets
        >>> keys = ehlo.ScramKeys.derive("correct horse", secrets.token_bytes(16))
        >>> keys.algorithm, keys.iterations
        ('SHA-256', 4096)
    """

    algorithm: str
    """The hash function: `"SHA-1"` or `"SHA-256"`."""
    salt: bytes
    """The random bytes that were hashed with the password."""
    iterations: int
    """The number of times that the password was hashed."""
    stored_key: bytes = field(repr=False)
    """The key that a client's proof is checked against."""
    server_key: bytes = field(repr=False)
    """The key that proves the server's identity to the client."""

    @classmethod
    def derive(
        cls,
        password: str | bytes,
        salt: bytes,
        algorithm: str = "SHA-256",
        iterations: int = ITERATIONS,
    ) -> Self:
        """Return the keys of a password (RFC 5802 3); `salt` is 16 bytes of `secrets.token_bytes`.

        A `str` is prepared by SASLprep (RFC 4013), or encoded unchanged if SASLprep rejects it.
        Raises `ValueError` for an algorithm that is neither SHA-1 nor SHA-256.
        """
        digest = _digest_of(algorithm)
        secret = _encoded(password) if isinstance(password, str) else password
        salted = hashlib.pbkdf2_hmac(digest, secret, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", digest)
        stored_key = hashlib.new(digest, client_key).digest()
        server_key = hmac.digest(salted, b"Server Key", digest)
        return cls(algorithm, salt, iterations, stored_key, server_key)

    @classmethod
    def of_nobody(
        cls,
        username: str,
        key: bytes,
        algorithm: str = "SHA-256",
        iterations: int = ITERATIONS,
    ) -> Self:
        """Return keys that no password proves, for an unknown user (RFC 5802 9).

        Like a user's keys, they are the same each time. `key` is a secret that must not change;
        `iterations` should be the number that your users have. Raises `ValueError` as `derive`
        does.
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


def _encoded(password: str) -> bytes:
    try:
        return saslprep(password).encode()
    except ValueError:
        return password.encode()


# -- SASLprep ------------------------------------------------------------------------------------

# RFC 4013 2.3
_PROHIBITED: Final = (
    *(stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3),
    *(stringprep.in_table_c4, stringprep.in_table_c5, stringprep.in_table_c6),
    *(stringprep.in_table_c7, stringprep.in_table_c8, stringprep.in_table_c9),
)


def saslprep(text: str) -> str:
    """Return `text` after SASLprep, with code points unknown to Unicode 3.2 (RFC 3454 7).

    Raises `ValueError` for text that contains prohibited characters or mixes directions.
    """
    if text.isascii() and text.isprintable():
        return text
    # RFC 4013 2.1: other spaces become a space, and what is commonly mapped to nothing goes
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(character) for character in prepared for prohibits in _PROHIBITED):
        raise ValueError("a character that no name or password has")
    # RFC 3454 6: text that runs from right to left does so from end to end
    if any(map(stringprep.in_table_d1, prepared)):
        ends_so = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not ends_so or any(map(stringprep.in_table_d2, prepared)):
            raise ValueError("text in two directions")
    return prepared
