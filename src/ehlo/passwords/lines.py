"""What a file of passwords says: users by name, and whom those are taken for who are not in it.

A line is told by its number when it is bad, and never by its words.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, TypeVar

from ehlo.passwords import hashes
from ehlo.passwords.hashes import Hash, ScramHash
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.auth.saslprep import saslprep

__all__ = [
    "Candidate",
    "Content",
    "check_username",
    "name_in",
    "octets_of",
    "prepared",
    "with_another",
]

_LONGEST_NAME = 255  # RFC 4616 2: authcid = 1*SAFE ; MUST accept up to 255 octets

_T = TypeVar("_T")


class Candidate(NamedTuple):
    """What a password of somebody's is checked against, be he there or not."""

    hash: Hash
    known: bool
    """For an unknown user the hash is another's, so that he costs the same time as that one."""

    @property
    def memory(self) -> int:
        """Octets that the check needs."""
        return self.hash.memory

    def matches(self, password: str | bytes) -> bool:
        """Whether this is his password. It blocks, in most cases for a tenth of a second or two."""
        return self.hash.matches(octets_of(password)) and self.known


class Content(NamedTuple):
    """What a file says."""

    users: Mapping[str, tuple[Hash, ...]]
    """By their names, prepared."""
    key: bytes
    """Chooses what an unknown user is taken for."""
    checked: Sequence[Hash]
    """What passwords are checked against, by cost; in a file without users one that is nobody's."""
    iterations: Mapping[str, Sequence[int]]
    """Those of all keys for SCRAM, by algorithm, the fewest first."""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises `ValueError` with the number of a bad line."""
        users: dict[str, tuple[Hash, ...]] = {}
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                name, word = name_in(line)
                if name:
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
            key=hashlib.sha256(b"ehlo salt " + first.encode()).digest(),
            checked=sorted(checked, key=lambda each: repr(each.cost)) or [hashes.parse(_NOBODY)],
            iterations={algorithm: sorted(counts) for algorithm, counts in iterations.items()},
        )

    def candidate(self, username: str) -> Candidate:
        """What a password of his is checked against."""
        name = prepared(username)
        found = self.users.get(name)
        if found is None:
            return Candidate(self._one_of(self.checked, name), known=False)
        return Candidate(found[0], known=True)

    def scram_keys(self, username: str) -> tuple[ScramKeys, ...]:
        """Those that he has."""
        return _scram_keys(self.users.get(prepared(username), ()))

    def scram_keys_for_all(self, username: str) -> tuple[ScramKeys, ...]:
        """Those that he has, and nobody's for the other algorithms."""
        name = prepared(username)
        kept = {keys.algorithm: keys for keys in self.scram_keys(name)}
        return tuple(
            kept.get(algorithm)
            or ScramKeys.of_nobody(name, self.key, algorithm, self._one_of(counts, name))
            for algorithm, counts in self.iterations.items()
        )

    def _one_of(self, these: Sequence[_T], name: str) -> _T:
        """One of them for a name, at its place: if few of them change, few names get another."""
        digest = hmac.digest(self.key, name.encode(errors="backslashreplace"), "sha256")
        return these[int.from_bytes(digest[:8]) * len(these) >> 64]


def check_username(username: str) -> None:
    """Raises `ValueError` for a name that cannot stand in a file of passwords."""
    if not username or username != username.strip() or not username.isprintable():
        raise ValueError("a user name has no control characters and no blank at either end")
    if ":" in username or username.startswith("#"):
        raise ValueError("a user name has no colon and does not begin with #")
    if len(username.encode()) > _LONGEST_NAME:
        raise ValueError(f"a user name has at most {_LONGEST_NAME} octets")


def prepared(username: str) -> str:
    """The one form of a name, by SASLprep (RFC 4013); a name that has none stays as it is."""
    if len(username) > _LONGEST_NAME:
        return username
    try:
        return saslprep(username) or username
    except ValueError:
        return username


def name_in(line: bytes) -> tuple[str, str]:
    """A line's user, prepared, and hash; `""` where there is none. Raises `ValueError`."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None  # its own words would quote the line
    if not text or text.startswith("#"):
        return "", ""
    name, colon, word = text.partition(":")
    if not colon:
        raise ValueError("not of the form user:hash")
    check_username(name)
    return prepared(name), word


def with_another(found: tuple[Hash, ...], another: Hash) -> tuple[Hash, ...]:
    """What a user has, and one more; hashes of any two kinds could be of two passwords."""
    both = (*found, another)
    algorithms = {each.keys.algorithm for each in both if isinstance(each, ScramHash)}
    if found and len(algorithms) < len(both):
        raise ValueError("a second line of the same user, which only another kind of SCRAM may be")
    return both


def _scram_keys(found: tuple[Hash, ...]) -> tuple[ScramKeys, ...]:
    return tuple(each.keys for each in found if isinstance(each, ScramHash))


# Whose password nobody has, for a file without users: what `set` makes, with a key of noughts
_NOBODY = f"$scrypt$ln=15,r=8,p=3${'A' * 22}${'A' * 43}"


def octets_of(password: str | bytes) -> bytes:
    """As they came: what was not UTF-8 is in surrogate escapes."""
    if isinstance(password, bytes):
        return password
    return password.encode(errors="surrogateescape")
