"""Hashes as `htpasswd` and crypt(3) write them: bcrypt, and SHA-256 and SHA-512 in many rounds.

They are read only: `ehlo passwd` makes better ones.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar, Final, Self

_MOST_COST: Final = 15  # of bcrypt, as log2: about 3 seconds
_ROUNDS: Final = 5_000  # where a hash names none
_LEAST_ROUNDS, _MOST_ROUNDS = 1_000, 200_000
_LONGEST: Final = 256  # bytes of a password for SHA-crypt, whose time grows with their square
_DIGITS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class BcryptHash:
    """Holds a hash by bcrypt: `$2y$05$…`."""

    costs: int
    """The cost, as log2 of the rounds."""
    text: str = field(repr=False)
    """The word that was read."""

    memory: ClassVar[int] = 0
    """The memory in bytes that a check needs: too little to count."""
    FORM: ClassVar[re.Pattern[str]] = re.compile(r"(\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53})")

    def __post_init__(self) -> None:
        if not 4 <= self.costs <= _MOST_COST:
            raise cost_out_of_bounds()
        _bcrypt()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Build a hash from the groups of `FORM`."""
        text, costs = words
        return cls(int(costs), text)

    @property
    def cost(self) -> Hashable:
        """A value that is equal for hashes whose checks are the same work."""
        return "bcrypt", self.costs

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password, of which 72 bytes count. Blocks meanwhile."""
        whole = password.partition(b"\0")[0][:72]  # what follows, bcrypt does not see
        right: bool = _bcrypt().checkpw(whole, self.text.encode())
        return right and b"\0" not in password


@dataclass(frozen=True, slots=True)
class ShaCryptHash:
    """Holds a hash by SHA-256 (`$5$…`) or SHA-512 (`$6$…`), as glibc's crypt(3) makes it."""

    algorithm: str
    rounds: int
    salt: str = field(repr=False)
    key: str = field(repr=False)
    """The end of the word."""
    text: str = field(repr=False)
    """The word that was read."""

    memory: ClassVar[int] = 0
    """The memory in bytes that a check needs: too little to count."""
    FORM: ClassVar[re.Pattern[str]] = re.compile(
        r"(\$([56])\$(?:rounds=([0-9]{1,9})\$)?([./A-Za-z0-9]{1,16})\$"
        r"([./A-Za-z0-9]{43}|[./A-Za-z0-9]{86}))"
    )

    def __post_init__(self) -> None:
        if len(self.key) != (43 if self.algorithm == "sha256" else 86):
            raise malformed()
        if not _LEAST_ROUNDS <= self.rounds <= _MOST_ROUNDS:
            raise cost_out_of_bounds()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Build a hash from the groups of `FORM`."""
        text, kind, rounds, salt, key = words
        algorithm = "sha256" if kind == "5" else "sha512"
        return cls(algorithm, int(rounds or _ROUNDS), salt, key, text)

    @property
    def cost(self) -> Hashable:
        """A value that is equal for hashes whose checks are the same work."""
        return self.algorithm, self.rounds

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password, of at most 256 bytes. Blocks meanwhile."""
        short = password[:_LONGEST]
        made = sha_crypt(self.algorithm, short, self.salt.encode(), self.rounds)
        return hmac.compare_digest(made, self.key) and short == password


def sha_crypt(algorithm: str, password: bytes, salt: bytes, rounds: int) -> str:
    """Return the end of a hash (Drepper, "Unix crypt using SHA-256 and SHA-512", 2007)."""

    def digest(data: bytes) -> bytes:
        return hashlib.new(algorithm, data).digest()

    def repeated(block: bytes, size: int) -> bytes:
        return (block * (size // len(block) + 1))[:size]

    size = len(password)
    second = digest(password + salt + password)
    bits = bin(size)[:1:-1] if size else ""
    mixed = b"".join(second if bit == "1" else password for bit in bits)
    made = digest(password + salt + repeated(second, size) + mixed)
    words = repeated(digest(password * size), size)
    grains = repeated(digest(salt * (16 + made[0])), len(salt))
    for number in range(rounds):
        odd = number % 2
        made = digest(
            (words if odd else made)
            + (grains if number % 3 else b"")
            + (words if number % 7 else b"")
            + (made if odd else words)
        )
    return _encoded(made)


def _encoded(made: bytes) -> str:
    """Return the bytes in the order and in the base 64 of crypt(3)."""
    is_long = len(made) == 64
    third = len(made) // 3
    first, second, last = 0, third, 2 * third
    text = ""
    for _ in range(third):
        text += _digits(made[first] << 16 | made[second] << 8 | made[last], 4)
        if is_long:
            first, second, last = second + 1, last + 1, first + 1
        else:
            first, second, last = last + 1, first + 1, second + 1
    return text + (_digits(made[63], 2) if is_long else _digits(made[31] << 8 | made[30], 3))


def _digits(number: int, count: int) -> str:
    return "".join(_DIGITS[number >> 6 * place & 63] for place in range(count))


def malformed() -> ValueError:
    """Return the error for a hash that nothing can check."""
    return ValueError("malformed hash; make a new one with `ehlo passwd`")


def cost_out_of_bounds() -> ValueError:
    """Return the error for a hash whose check would cost too much, or too little."""
    return ValueError("hash cost out of bounds; make a new one with `ehlo passwd`")


def _bcrypt() -> ModuleType:
    """Import bcrypt, which is optional. Raises `ValueError` if it is not installed."""
    try:
        import bcrypt
    except ImportError:
        raise ValueError("$2y$ needs bcrypt: pip install 'ehlo[bcrypt]'") from None
    return bcrypt
