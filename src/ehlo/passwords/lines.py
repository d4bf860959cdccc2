"""The content of a password file: users by name, and the hashes that stand in for unknown users.

One comment means something: `# ehlo-secret: ...` is the secret from which all salts for SCRAM are
made, for users and for unknown names. Since it never changes, no salt ever reveals who exists.

An error about a line gives its number and never quotes it.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, TypeVar

from ehlo.passwords import hashes
from ehlo.passwords.hashes import Hash, ScramHash
from ehlo.protocol.auth.credentials import as_bytes
from ehlo.protocol.auth.keys import ScramKeys, saslprep

_LONGEST_NAME = 255  # bytes; RFC 4616 2: authcid = 1*SAFE ; up to 255 bytes

_T = TypeVar("_T")

_SECRET = b"# ehlo-secret: "
_SECRET_LINE = re.compile(re.escape(_SECRET) + rb"([A-Za-z0-9+/]{43}=)\s*")


class Candidate(NamedTuple):
    """Holds the hash that a password is checked against, and whether its user exists."""

    hash: Hash
    """The hash of the user; for an unknown user the hash of another one, for the same work."""
    known: bool
    """Whether the user exists."""

    @property
    def memory(self) -> int:
        """The memory in bytes that the check needs."""
        return self.hash.memory

    def matches(self, password: str | bytes) -> bool:
        """Return whether this is the user's password. This blocks for about a tenth of a second."""
        return self.hash.matches(as_bytes(password)) and self.known


class UserTable(NamedTuple):
    """Holds the content of a password file."""

    users: Mapping[str, tuple[Hash, ...]]
    """The hashes by prepared user name."""
    key: bytes
    """The key that chooses a hash for an unknown user, and derives all salts for SCRAM."""
    has_secret: bool
    """Whether `key` is the secret in the file; otherwise it is made of the first hash."""
    checked: Sequence[Hash]
    """The hashes that passwords are checked against, by cost; never empty."""
    iterations: Mapping[str, Sequence[int]]
    """The iteration counts of all SCRAM keys by algorithm, in ascending order."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a file. Raises `ValueError` with the number of a bad line."""
        users: dict[str, tuple[Hash, ...]] = {}
        secret: bytes | None = None
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                name, word = name_in(line)
                if line.startswith(_SECRET):
                    secret = secret or _secret_in(line)
                elif name:
                    users[name] = with_another(users.get(name, ()), hashes.parse(word))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        checked = [found[0] for found in users.values()]
        first = checked[0].text if checked else ""
        iterations: dict[str, list[int]] = {}
        for keys in (keys for found in users.values() for keys in _scram_keys(found)):
            iterations.setdefault(keys.algorithm, []).append(keys.iterations)
        return cls(
            users,
            key=secret or hashlib.sha256(b"ehlo salt " + first.encode()).digest(),
            has_secret=secret is not None,
            checked=sorted(checked, key=lambda each: repr(each.cost)) or [hashes.parse(_NO_USERS)],
            iterations={algorithm: sorted(counts) for algorithm, counts in iterations.items()},
        )

    def candidate(self, username: str) -> Candidate:
        """Return the hash to check a password of `username` against."""
        name = prepared(username)
        found = self.users.get(name)
        if found is None:
            return Candidate(self._chosen(self.checked, name), known=False)
        return Candidate(found[0], known=True)

    def scram_keys(self, username: str) -> tuple[ScramKeys, ...]:
        """Return the stored SCRAM keys of `username`."""
        return _scram_keys(self.users.get(prepared(username), ()))

    def scram_keys_for_all(self, username: str) -> tuple[ScramKeys, ...]:
        """Return SCRAM keys of `username` for each algorithm in the file, made up if missing."""
        name = prepared(username)
        kept = {keys.algorithm: keys for keys in self.scram_keys(name)}
        return tuple(
            kept.get(algorithm)
            or ScramKeys.of_nobody(name, self.key, algorithm, self._chosen(counts, name))
            for algorithm, counts in self.iterations.items()
        )

    def _chosen(self, choices: Sequence[_T], name: str) -> _T:
        """Choose by position for `name`: a few changed choices change few names' choices."""
        digest = hmac.digest(self.key, name.encode(errors="backslashreplace"), "sha256")
        return choices[int.from_bytes(digest[:8]) * len(choices) >> 64]


def check_username(username: str) -> None:
    """Raise `ValueError` for a user name that cannot be in a password file."""
    if not username or username != username.strip() or not username.isprintable():
        raise ValueError(
            "a user name must not be empty, contain unprintable characters, "
            "or begin or end with a space"
        )
    if ":" in username or username.startswith("#"):
        raise ValueError("a user name must not contain a colon or begin with #")
    if len(username.encode()) > _LONGEST_NAME:
        raise ValueError(f"a user name must have at most {_LONGEST_NAME} bytes of UTF-8")


def prepared(username: str) -> str:
    """Return `username` after SASLprep (RFC 4013), or unchanged if SASLprep rejects it."""
    if len(username) > _LONGEST_NAME or len(as_bytes(username)) > _LONGEST_NAME:
        return username
    try:
        return saslprep(username) or username
    except ValueError:
        return username


def name_in(line: bytes) -> tuple[str, str]:
    """Return the prepared user name and the hash in a line; `""` for a blank line or a comment.

    Raises `ValueError`, which does not quote the line.
    """
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None  # the original error quotes the line
    if not text or text.startswith("#"):
        return "", ""
    name, colon, word = text.partition(":")
    if not colon:
        raise ValueError("not of the form user:hash")
    check_username(name)
    return prepared(name), word


def secret_line(key: bytes) -> bytes:
    """Return the line that makes `key` the secret of a file."""
    return _SECRET + binascii.b2a_base64(key, newline=False)


def _secret_in(line: bytes) -> bytes:
    found = _SECRET_LINE.fullmatch(line)
    if found is None:
        raise ValueError("malformed secret; restore the line, or delete it")
    return binascii.a2b_base64(found[1])


def with_another(found: tuple[Hash, ...], another: Hash) -> tuple[Hash, ...]:
    """Append a hash to those of a user. Raises `ValueError` unless all are SCRAM and differ.

    Hashes of other kinds could be of two passwords.
    """
    both = (*found, another)
    algorithms = {each.keys.algorithm for each in both if isinstance(each, ScramHash)}
    if found and len(algorithms) < len(both):
        raise ValueError(
            "second hash for the same user; only SCRAM-SHA-256 and SCRAM-SHA-1 can be combined"
        )
    return both


def _scram_keys(found: tuple[Hash, ...]) -> tuple[ScramKeys, ...]:
    return tuple(each.keys for each in found if isinstance(each, ScramHash))


# Stands in when a file has no users: costs what `set` makes, and its key of zeros matches nothing
_NO_USERS = f"$scrypt$ln=15,r=8,p=3${'A' * 22}${'A' * 43}"
