"""What is kept of a password, each form of it as one word: scrypt, argon2id, or keys for SCRAM.

Whether a form can be read, and what it costs to check, is known when it is read: a strange line of
a file cannot eat the machine later. No hash and no password is in a `repr` or in an error.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Final, Protocol, Self

from ehlo.protocol.auth.keys import ALGORITHMS, ITERATIONS, ScramKeys

__all__ = ["SCHEMES", "Hash", "ScramHash", "parse", "scheme"]

_SALT_OCTETS = 16
_KEY_OCTETS = 32

# What a line may ask for; beyond it a check would be an attack on ourselves
_MOST_MEMORY = 256 * 1024 * 1024
_MOST_SALT = 64
_LEAST_KEY, _MOST_KEY = 16, 64
_MOST_PASSES = 16  # p of scrypt, t of argon2: how often that memory is gone through
_MOST_LANES = 16
_MOST_ITERATIONS = 5_000_000

_WORD = "[A-Za-z0-9+/]{1,128}"  # base64 without padding, as the PHC string format has it
_PADDED = f"{_WORD}={{0,2}}"


class Hash(Protocol):
    """Something to check a password against."""

    @property
    def memory(self) -> int:
        """Octets that a check needs."""

    @property
    def cost(self) -> Hashable:
        """The same for hashes whose checks are the same work."""

    @property
    def text(self) -> str:
        """The word that `parse` reads."""

    def matches(self, password: bytes) -> bool:
        """Whether this is the password, compared in constant time. Blocks for that time."""


@dataclass(frozen=True, slots=True)
class ScryptHash:
    """RFC 7914, in the PHC string format: `$scrypt$ln=15,r=8,p=3$salt$key`."""

    log2_n: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    FORM = re.compile(
        rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,6}}),p=([0-9]{{1,6}})\$({_WORD})\$({_WORD})"
    )

    def __post_init__(self) -> None:
        _check_octets(self.salt, self.key)
        # RFC 7914 2: N is a power of 2, more than 1 and less than 2^(128 * r / 8)
        if not 1 <= self.log2_n < 16 * self.r or not 1 <= self.p <= _MOST_PASSES:
            raise _too_costly()
        if (128 * self.r) << self.log2_n > _MOST_MEMORY:
            raise _too_costly()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Of the pieces of `FORM`."""
        log2_n, r, p, salt, key = words
        return cls(int(log2_n), int(r), int(p), _octets(salt), _octets(key))

    @classmethod
    def of(cls, password: bytes) -> Self:
        """Of a new password, by the strength that OWASP asks for, in 32 MiB of memory."""
        salt = secrets.token_bytes(_SALT_OCTETS)
        template = cls(15, 8, 3, salt, bytes(_KEY_OCTETS))
        return cls(15, 8, 3, salt, template.derived(password))

    @property
    def memory(self) -> int:
        return 128 * self.r * ((1 << self.log2_n) + 2 + self.p)  # what OpenSSL compares to maxmem

    @property
    def cost(self) -> Hashable:
        return "scrypt", self.log2_n, self.r, self.p

    @property
    def text(self) -> str:
        costs = f"ln={self.log2_n},r={self.r},p={self.p}"
        return f"$scrypt${costs}${_word(self.salt)}${_word(self.key)}"

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self.derived(password), self.key)

    def derived(self, password: bytes) -> bytes:
        """The key that a password has under this salt."""
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.log2_n,
            r=self.r,
            p=self.p,
            maxmem=self.memory,
            dklen=len(self.key),
        )


@dataclass(frozen=True, slots=True)
class Argon2Hash:
    """RFC 9106, as argon2-cffi writes it: `$argon2id$v=19$m=65536,t=3,p=1$salt$key`."""

    kibibytes: int
    passes: int
    lanes: int
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    FORM = re.compile(
        rf"\$argon2id\$v=19\$m=([0-9]{{1,9}}),t=([0-9]{{1,6}}),p=([0-9]{{1,6}})"
        rf"\$({_WORD})\$({_WORD})"
    )

    def __post_init__(self) -> None:
        _check_octets(self.salt, self.key)
        # RFC 9106 3.1: at least 8 octets of salt, and 8 KiB a lane
        if len(self.salt) < 8 or self.kibibytes < 8 * self.lanes:
            raise _malformed()
        if not 1 <= self.passes <= _MOST_PASSES or not 1 <= self.lanes <= _MOST_LANES:
            raise _too_costly()
        if self.memory > _MOST_MEMORY:
            raise _too_costly()
        _argon2()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Of the pieces of `FORM`."""
        kibibytes, passes, lanes, salt, key = words
        return cls(int(kibibytes), int(passes), int(lanes), _octets(salt), _octets(key))

    @classmethod
    def of(cls, password: bytes) -> Self:
        """Of a new password: RFC 9106 4's second choice, in one lane: a check has one thread."""
        salt = secrets.token_bytes(_SALT_OCTETS)
        template = cls(65_536, 3, 1, salt, bytes(_KEY_OCTETS))
        return cls(65_536, 3, 1, salt, template.derived(password))

    @property
    def memory(self) -> int:
        return self.kibibytes * 1024

    @property
    def cost(self) -> Hashable:
        return "argon2", self.kibibytes, self.passes, self.lanes

    @property
    def text(self) -> str:
        costs = f"m={self.kibibytes},t={self.passes},p={self.lanes}"
        return f"$argon2id$v=19${costs}${_word(self.salt)}${_word(self.key)}"

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self.derived(password), self.key)

    def derived(self, password: bytes) -> bytes:
        """The key that a password has under this salt."""
        argon2 = _argon2()
        key: bytes = argon2.hash_secret_raw(
            password,
            self.salt,
            time_cost=self.passes,
            memory_cost=self.kibibytes,
            parallelism=self.lanes,
            hash_len=len(self.key),
            type=argon2.Type.ID,
            version=19,
        )
        return key


@dataclass(frozen=True, slots=True)
class ScramHash:
    """Stored keys for SCRAM, in Dovecot's form: `{SCRAM-SHA-256}4096,salt,stored,server`."""

    keys: ScramKeys

    FORM = re.compile(
        rf"\{{SCRAM-(SHA-256|SHA-1)\}}([0-9]{{1,9}}),({_PADDED}),({_PADDED}),({_PADDED})"
    )

    def __post_init__(self) -> None:
        keys = self.keys
        size = hashlib.new(ALGORITHMS[keys.algorithm]).digest_size
        if len(keys.stored_key) != size or len(keys.server_key) != size:
            raise _malformed()
        _check_octets(keys.salt, keys.stored_key)
        if keys.iterations < ITERATIONS:
            raise ValueError(f"SCRAM with fewer than {ITERATIONS} iterations (RFC 7677 4)")
        if keys.iterations > _MOST_ITERATIONS:
            raise _too_costly()

    @classmethod
    def read(cls, *words: str) -> Self:
        """Of the pieces of `FORM`."""
        algorithm, iterations, salt, stored, server = words
        octets = (_octets(word.rstrip("=")) for word in (salt, stored, server))
        return cls(ScramKeys(algorithm, next(octets), int(iterations), *octets))

    @classmethod
    def of(cls, password: bytes, algorithm: str = "SHA-256") -> Self:
        """Of a new password."""
        salt = secrets.token_bytes(_SALT_OCTETS)
        return cls(ScramKeys.derive(_as_text(password), salt, algorithm))

    @property
    def memory(self) -> int:
        return 0  # none that would be worth counting

    @property
    def cost(self) -> Hashable:
        return self.keys.algorithm, self.keys.iterations

    @property
    def text(self) -> str:
        keys = self.keys
        octets = (keys.salt, keys.stored_key, keys.server_key)
        words = (binascii.b2a_base64(each, newline=False).decode() for each in octets)
        return f"{{SCRAM-{keys.algorithm}}}{keys.iterations}," + ",".join(words)

    def matches(self, password: bytes) -> bool:
        kept = self.keys
        secret = _as_text(password)
        made = ScramKeys.derive(secret, kept.salt, kept.algorithm, kept.iterations)
        return hmac.compare_digest(made.stored_key, kept.stored_key)


def _as_text(password: bytes) -> str | bytes:
    """RFC 5802 2.2: SCRAM's passwords are prepared, which only text can be."""
    try:
        return password.decode()
    except UnicodeDecodeError:
        return password


# What each kind of line begins with
_FORMS: Final[Mapping[str, type[ScryptHash | Argon2Hash | ScramHash]]] = MappingProxyType(
    {
        "$scrypt$": ScryptHash,
        "$argon2id$": Argon2Hash,
        "{SCRAM-SHA-256}": ScramHash,
        "{SCRAM-SHA-1}": ScramHash,
    }
)

SCHEMES: Final[Mapping[str, Callable[[bytes], Hash]]] = MappingProxyType(
    {
        "scrypt": ScryptHash.of,
        "argon2": Argon2Hash.of,
        "scram-sha-256": ScramHash.of,
        "scram-sha-1": lambda password: ScramHash.of(password, "SHA-1"),
    }
)
"""What makes a hash of a new password, by the name that it has for a user."""


def parse(text: str) -> Hash:
    """The hash that was written as `text`.

    Raises `ValueError`, without a word of the hash, for what is none, for one that would cost too
    much, and for argon2 where argon2-cffi is not installed.
    """
    for beginning, kind in _FORMS.items():
        if text.startswith(beginning):
            match = kind.FORM.fullmatch(text)
            if match is None:
                raise _malformed()
            return kind.read(*match.groups())
    raise ValueError(f"no hash of a known kind ({', '.join(_FORMS)})")


def scheme(name: str) -> Callable[[bytes], Hash]:
    """What makes a hash by that scheme. Raises `ValueError` where it is not to be had."""
    if name not in SCHEMES:
        raise ValueError(f"{name!r} is none of {', '.join(SCHEMES)}")
    if name == "argon2":
        _argon2()
    return SCHEMES[name]


def _argon2() -> ModuleType:
    """Of an extra: only who has such hashes needs it."""
    try:
        from argon2 import low_level
    except ImportError:
        raise ValueError("argon2 needs argon2-cffi: pip install 'ehlo[argon2]'") from None
    return low_level


def _octets(word: str) -> bytes:
    """Base64 without its padding."""
    try:
        return binascii.a2b_base64(word + "=" * (-len(word) % 4), strict_mode=True)
    except binascii.Error:
        raise _malformed() from None


def _word(octets: bytes) -> str:
    return binascii.b2a_base64(octets, newline=False).decode().rstrip("=")


def _check_octets(salt: bytes, key: bytes) -> None:
    """A key of nothing would match everything."""
    if len(salt) > _MOST_SALT or not _LEAST_KEY <= len(key) <= _MOST_KEY:
        raise _malformed()


def _malformed() -> ValueError:
    return ValueError("a hash that is malformed")


def _too_costly() -> ValueError:
    return ValueError("a hash whose costs are out of bounds")
