"""Stored hashes of passwords, each written as one word: scrypt, argon2id, SCRAM keys, and others.

Parsing rejects hashes that could not be checked or would cost too much, so that no line of a file
exhausts the machine later. No hash and no password appears in a `repr` or in an error.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import ClassVar, Final, Self, TypeAlias

from ehlo.passwords.crypts import BcryptHash, ShaCryptHash, cost_out_of_bounds, malformed
from ehlo.protocol.auth.keys import ALGORITHMS, ITERATIONS, ScramKeys

_SALT_SIZE = 16
_KEY_SIZE = 32

# Limits of what a line may ask for; a check beyond them would be an attack on the server itself
_MOST_MEMORY = 256 * 1024 * 1024
_MOST_SALT = 64
_LEAST_KEY, _MOST_KEY = 16, 64
_MOST_PASSES = 16  # over the memory: p of scrypt, t of argon2
_MOST_LANES = 16
_MOST_ITERATIONS = 5_000_000

SaltFor: TypeAlias = Callable[[str], bytes]
"""Returns the salt of a user's SCRAM keys, by the algorithm."""

_WORD = "[A-Za-z0-9+/]{1,128}"  # base64 without padding, as the PHC string format has it
_PADDED = f"{_WORD}={{0,2}}"


@dataclass(frozen=True, slots=True)
class SaltedHash(ABC):
    """Holds a key that was derived from a password, and how. Its word has the PHC string format."""

    costs: tuple[int, int, int]
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    FORM: ClassVar[re.Pattern[str]]
    WORD: ClassVar[str]
    """The word up to the salt, with the costs to be filled in."""
    DEFAULT: ClassVar[tuple[int, int, int]]
    """The costs of a new hash."""

    def __post_init__(self) -> None:
        _check_sizes(self.salt, self.key)
        self.check_costs()

    @abstractmethod
    def check_costs(self) -> None:
        """Raise `ValueError` for costs out of bounds."""

    @classmethod
    def read(cls, *words: str) -> Self:
        """Build a hash from the groups of `FORM`."""
        first, second, third, salt, key = words
        return cls((int(first), int(second), int(third)), _decoded(salt), _decoded(key))

    @classmethod
    def of(cls, password: bytes, _salt: SaltFor) -> Self:
        """Hash a new password at the `DEFAULT` costs, with a random salt: no client learns it."""
        template = cls(cls.DEFAULT, secrets.token_bytes(_SALT_SIZE), bytes(_KEY_SIZE))
        return replace(template, key=template.derived(password))

    @property
    @abstractmethod
    def memory(self) -> int:
        """The memory in bytes that a check needs."""

    @property
    def cost(self) -> Hashable:
        """A value that is equal for hashes whose checks are the same work."""
        return self.WORD, self.costs

    @property
    def text(self) -> str:
        """The word that `parse` reads."""
        return f"{self.WORD % self.costs}${_encoded(self.salt)}${_encoded(self.key)}"

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password, compared in constant time. Blocks meanwhile."""
        return hmac.compare_digest(self.derived(password), self.key)

    @abstractmethod
    def derived(self, password: bytes) -> bytes:
        """Return the key of `password` with this salt and cost."""


class ScryptHash(SaltedHash):
    """Holds a hash by scrypt (RFC 7914), whose costs are log2 of N, r and p."""

    FORM = re.compile(
        rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,6}}),p=([0-9]{{1,6}})\$({_WORD})\$({_WORD})"
    )
    WORD: ClassVar[str] = "$scrypt$ln=%d,r=%d,p=%d"
    # The strength that OWASP recommends, in 32 MiB of memory
    DEFAULT: ClassVar[tuple[int, int, int]] = (15, 8, 3)

    def check_costs(self) -> None:
        """Raise `ValueError` for costs out of bounds."""
        log2_n, r, p = self.costs
        # RFC 7914 2: N is a power of 2, more than 1 and less than 2^(128 * r / 8)
        in_bounds = 1 <= log2_n < 16 * r and 1 <= p <= _MOST_PASSES
        if not in_bounds or (128 * r) << log2_n > _MOST_MEMORY:
            raise cost_out_of_bounds()

    @property
    def memory(self) -> int:
        """The memory in bytes that a check needs, as OpenSSL counts it."""
        log2_n, r, p = self.costs
        return 128 * r * ((1 << log2_n) + 2 + p)

    def derived(self, password: bytes) -> bytes:
        """Return the key of `password` with this salt and cost."""
        log2_n, r, p = self.costs
        size = len(self.key)
        return hashlib.scrypt(
            password, salt=self.salt, n=1 << log2_n, r=r, p=p, maxmem=self.memory, dklen=size
        )


class Argon2Hash(SaltedHash):
    """Holds a hash by argon2id (RFC 9106), whose costs are KiB of memory, passes and lanes."""

    FORM = re.compile(
        rf"\$argon2id\$v=19\$m=([0-9]{{1,9}}),t=([0-9]{{1,6}}),p=([0-9]{{1,6}})"
        rf"\$({_WORD})\$({_WORD})"
    )
    WORD: ClassVar[str] = "$argon2id$v=19$m=%d,t=%d,p=%d"
    # RFC 9106 4's second choice, but in one lane for one thread
    DEFAULT: ClassVar[tuple[int, int, int]] = (65_536, 3, 1)

    def check_costs(self) -> None:
        """Raise `ValueError` for costs out of bounds, or if argon2-cffi is not installed."""
        kibibytes, passes, lanes = self.costs
        # RFC 9106 3.1: at least 8 bytes of salt, and 8 KiB per lane
        if len(self.salt) < 8 or kibibytes < 8 * lanes:
            raise malformed()
        in_bounds = 1 <= passes <= _MOST_PASSES and 1 <= lanes <= _MOST_LANES
        if not in_bounds or self.memory > _MOST_MEMORY:
            raise cost_out_of_bounds()
        _argon2()

    @property
    def memory(self) -> int:
        """The memory in bytes that a check needs."""
        return self.costs[0] * 1024

    def derived(self, password: bytes) -> bytes:
        """Return the key of `password` with this salt and cost."""
        argon2 = _argon2()
        kibibytes, passes, lanes = self.costs
        key: bytes = argon2.hash_secret_raw(
            password,
            self.salt,
            time_cost=passes,
            memory_cost=kibibytes,
            parallelism=lanes,
            hash_len=len(self.key),
            type=argon2.Type.ID,
            version=19,
        )
        return key


@dataclass(frozen=True, slots=True)
class ScramHash:
    """Holds SCRAM keys in Dovecot's form: `{SCRAM-SHA-256}4096,salt,stored,server`."""

    keys: ScramKeys

    memory: ClassVar[int] = 0
    """The memory in bytes that a check needs: too little to count."""
    FORM = re.compile(
        rf"\{{SCRAM-(SHA-256|SHA-1)\}}([0-9]{{1,9}}),({_PADDED}),({_PADDED}),({_PADDED})"
    )

    def __post_init__(self) -> None:
        keys = self.keys
        size = hashlib.new(ALGORITHMS[keys.algorithm]).digest_size
        if len(keys.stored_key) != size or len(keys.server_key) != size:
            raise malformed()
        _check_sizes(keys.salt, keys.stored_key)
        if keys.iterations < ITERATIONS:
            raise ValueError(f"SCRAM needs at least {ITERATIONS} iterations (RFC 7677 4)")
        if keys.iterations > _MOST_ITERATIONS:
            raise cost_out_of_bounds()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Build a hash from the groups of `FORM`."""
        algorithm, iterations, *padded = words
        salt, stored, server = (_decoded(word.rstrip("=")) for word in padded)
        return cls(ScramKeys(algorithm, salt, int(iterations), stored, server))

    @classmethod
    def of(cls, password: bytes, salt: SaltFor, algorithm: str = "SHA-256") -> Self:
        """Derive keys from a new password."""
        return cls(ScramKeys.derive(_as_text(password), salt(algorithm), algorithm))

    @property
    def cost(self) -> Hashable:
        """A value that is equal for hashes whose checks are the same work."""
        return self.keys.algorithm, self.keys.iterations

    @property
    def text(self) -> str:
        """The word that `parse` reads."""
        keys = self.keys
        parts = (keys.salt, keys.stored_key, keys.server_key)
        words = [binascii.b2a_base64(each, newline=False).decode() for each in parts]
        return f"{{SCRAM-{keys.algorithm}}}{keys.iterations}," + ",".join(words)

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password, compared in constant time. Blocks meanwhile."""
        kept = self.keys
        made = ScramKeys.derive(_as_text(password), kept.salt, kept.algorithm, kept.iterations)
        return hmac.compare_digest(made.stored_key, kept.stored_key)


def _as_text(password: bytes) -> str | bytes:
    """Decode `password` if it is UTF-8: SCRAM applies SASLprep to text only (RFC 5802 2.2)."""
    try:
        return password.decode()
    except UnicodeDecodeError:
        return password


Hash: TypeAlias = ScryptHash | Argon2Hash | ScramHash | BcryptHash | ShaCryptHash
"""A stored hash."""

# By the beginning of a word: the class that reads it
_KINDS: Final[Mapping[str, type[Hash]]] = {
    "$scrypt$": ScryptHash,
    "$argon2id$": Argon2Hash,
    "{SCRAM-SHA-256}": ScramHash,
    "{SCRAM-SHA-1}": ScramHash,
    **dict.fromkeys(("$2y$", "$2b$", "$2a$"), BcryptHash),
    **dict.fromkeys(("$6$", "$5$"), ShaCryptHash),
}
# What htpasswd writes, too: one guess takes next to no time
_WEAK: Final = ("$apr1$", "$1$", "{SHA}", "{SSHA}")

Scheme: TypeAlias = Callable[[bytes, SaltFor], Hash]
"""Hashes a new password; SCRAM takes the salt that the function returns."""

SCHEMES: Final[Mapping[str, Scheme]] = {
    "scrypt": ScryptHash.of,
    "argon2": Argon2Hash.of,
    "scram-sha-256": ScramHash.of,
    "scram-sha-1": lambda password, salt: ScramHash.of(password, salt, "SHA-1"),
}
"""Functions that hash a new password, by the name of the scheme."""


def parse(text: str) -> Hash:
    """Parse a hash.

    Raises `ValueError`, which does not quote `text`, if it is malformed, would cost too much, or
    needs argon2-cffi, which is not installed.
    """
    for beginning, kind in _KINDS.items():
        if text.startswith(beginning):
            match = kind.FORM.fullmatch(text)
            if match is None:
                raise malformed()
            return kind.read(*match.groups())
    for beginning in _WEAK:
        if text.startswith(beginning):
            better = "make the line with `htpasswd -B` or `ehlo passwd`"
            raise ValueError(f"{beginning} is too weak a hash; {better}")
    raise ValueError(f"unknown kind of hash; it must begin with one of {', '.join(_KINDS)}")


def scheme(name: str) -> Scheme:
    """Return the function that hashes by this scheme. Raises `ValueError` if there is none."""
    if name not in SCHEMES:
        raise ValueError(f"unknown scheme {name!r}; use one of {', '.join(SCHEMES)}")
    if name == "argon2":
        _argon2()
    return SCHEMES[name]


def _argon2() -> ModuleType:
    """Import argon2-cffi, which is optional. Raises `ValueError` if it is not installed."""
    try:
        from argon2 import low_level
    except ImportError:
        raise ValueError("argon2 needs argon2-cffi: pip install 'ehlo[argon2]'") from None
    return low_level


def _decoded(word: str) -> bytes:
    """Decode base64 without padding. Raises `ValueError`."""
    try:
        return binascii.a2b_base64(word + "=" * (-len(word) % 4), strict_mode=True)
    except binascii.Error:
        raise malformed() from None


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode().rstrip("=")


def _check_sizes(salt: bytes, key: bytes) -> None:
    """Raise `ValueError` for sizes out of bounds; an empty key would match every password."""
    if len(salt) > _MOST_SALT or not _LEAST_KEY <= len(key) <= _MOST_KEY:
        raise malformed()
