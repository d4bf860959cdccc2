"""`ScramKeys`: what a server stores of a password for SCRAM (RFC 5802 3, RFC 7677).

A thief of the keys must guess the password before they can log in. Names and passwords are
prepared by SASLprep (RFC 4013), whose tables are those of stringprep for Unicode 3.2.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final, Self
from unicodedata import ucd_3_2_0

# RFC 7677 4: at least 4096
ITERATIONS: Final = 4096

_SALT: Final = 16  # bytes

# Characters of a password that SASLprep is applied to. To normalize combining characters takes
# quadratic time: 1,024 of them 2 ms, and 4,600, which fit into a line, 40.
_MOST_PREPARED: Final = 1024

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

        A `str` is prepared by SASLprep (RFC 4013), or encoded unchanged if SASLprep rejects it or
        if it has more than 1,024 characters. This takes about a millisecond.
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
        return (saslprep(password) if len(password) <= _MOST_PREPARED else password).encode()
    except ValueError:
        return password.encode()


# -- SASLprep ------------------------------------------------------------------------------------

# The tables of RFC 3454, which the standard library has as a function for one character each. A
# pattern is 50 times as fast, and a name is prepared in the loop.

# RFC 4013 2.1: other spaces become a space (C.1.2), and B.1 is commonly mapped to nothing
_MAPPED: Final[dict[int, str | None]] = {
    **dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys((0xAD, 0x34F, 0x1806, *range(0x180B, 0x180E), *range(0x200B, 0x200E))),
    **dict.fromkeys((0x2060, *range(0xFE00, 0xFE10), 0xFEFF)),
}

# RFC 4013 2.3: C.1.2, C.2.1, C.2.2, C.3 to C.9. Each plane ends with two that are no characters.
_PROHIBITED: Final = re.compile(
    r"[\x00-\x1f\x7f-\xa0\u0340\u0341\u06dd\u070f\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2063"
    r"\u206a-\u206f\u2ff0-\u2ffb\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff9-\uffff"
    r"\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f\U000f0000-\U0010ffff"
    + "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(1, 0xF))
    + "]"
)
_FROM_RIGHT: Final = frozenset({"R", "AL"})


def saslprep(text: str) -> str:
    """Return `text` after SASLprep, with code points unknown to Unicode 3.2 (RFC 3454 7).

    Raises `ValueError` for text that contains prohibited characters or mixes directions. The time
    is quadratic in the number of combining characters; bound the size of `text`.
    """
    if text.isascii() and text.isprintable():
        return text
    prepared = ucd_3_2_0.normalize("NFKC", text.translate(_MAPPED))
    if _PROHIBITED.search(prepared):
        raise ValueError("a character that no name or password has")
    # RFC 3454 6: text that runs from right to left (D.1) does so from end to end, without D.2
    directions = set(map(ucd_3_2_0.bidirectional, set(prepared)))
    if not _FROM_RIGHT.isdisjoint(directions):
        ends = map(ucd_3_2_0.bidirectional, (prepared[0], prepared[-1]))
        if "L" in directions or not _FROM_RIGHT.issuperset(ends):
            raise ValueError("text in two directions")
    return prepared
