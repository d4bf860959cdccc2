"""`PasswordFile`: users and the hashes of their passwords, one `user:hash` a line.

What was read last stays in force until something better can be read: a file that is gone, or broken
in one line, locks nobody out. It is written whole beside itself and put in place of the old one, so
that whoever reads it, at whatever moment, reads the old one or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ehlo.passwords import hashes
from ehlo.passwords.hashes import Hash
from ehlo.passwords.lines import (
    Candidate,
    Content,
    check_username,
    name_in,
    octets_of,
    prepared,
    with_another,
)
from ehlo.protocol.auth.keys import ScramKeys

__all__ = ["Candidate", "PasswordFile", "check_username", "prepared"]

_TOLD_EVERY = 60.0  # seconds from one line about the same trouble to the next
_YOUNG = 2_000_000_000  # nanoseconds: no file system's clock is coarser

logger = logging.getLogger("ehlo.passwords")


class PasswordFile:
    """Users and the hashes of their passwords, in a file that may change at any time.

    A line is `user:hash`; blank lines and those that begin with `#` are left alone. The hash is
    `$scrypt$...` or `$argon2id$...` (PHC string format; argon2 needs argon2-cffi), or stored keys
    for SCRAM as Dovecot writes them: `{SCRAM-SHA-256}4096,salt,stored,server`. A user has one line,
    or one for each kind of SCRAM, of which the first is what a password is checked against. Names
    are compared as `prepared` makes them.

    Who does not exist is taken for somebody who does, always for one of the same kind: so many
    names are for a kind of hash, or for a count of SCRAM's iterations, as users are.

    The file is looked at on each use, and read again when it has changed; if that fails, what was
    read before stays in force, and the log (`ehlo.passwords`) says so, at most once a minute. All
    methods may be called from any thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._content: Content | None = None
        self._stamp: tuple[int, ...] | None = None  # of what was read; `None` reads it again
        self._trouble = ""  # what the log was told last
        self._told = 0.0  # when that was

    def load(self) -> None:
        """Read the file now.

        Raises `ValueError`, which names file and line, when it cannot be read or has a bad line.
        """
        with self._lock:
            self._renew()

    def find(self, username: str) -> Candidate:
        """What to check a password of `username` against: `find(...).matches(password)`.

        Raises `ValueError` as `load` does, as long as the file has never been read.
        """
        return self._current().candidate(username)

    def check(self, username: str, password: str | bytes) -> bool:
        """Whether this is the password of `username`, in the same time for an unknown user.

        It blocks for that time. Raises `ValueError` as `find` does.
        """
        return self.find(username).matches(password)

    def scram_keys(self, username: str) -> tuple[ScramKeys, ...]:
        """The stored keys for SCRAM that `username` has. Raises `ValueError` as `find` does."""
        return self._current().scram_keys(username)

    def scram_keys_for_all(self, username: str) -> tuple[ScramKeys, ...]:
        """Keys for each algorithm that somebody has keys for: nobody's where `username` has none.

        Raises `ValueError` as `find` does.
        """
        return self._current().scram_keys_for_all(username)

    @property
    def salt_key(self) -> bytes:
        """What the salts are made of that users who do not exist are shown (RFC 5802).

        It comes of the file, so that it is the same after a restart and in each process, until
        the password of the first user changes. Raises `ValueError` as `find` does.
        """
        return self._current().key

    @property
    def scram_algorithms(self) -> frozenset[str]:
        """The algorithms of SCRAM that somebody has keys for. Raises `ValueError` as `find`."""
        return frozenset(self._current().iterations)

    @property
    def most_memory(self) -> int:
        """Octets that the most expensive check needs. Raises `ValueError` as `find` does."""
        return max(each.memory for each in self._current().checked)

    # -- reading it --------------------------------------------------------------------------------

    def _current(self) -> Content:
        with self._lock:
            content = self._content
            if content is None:
                return self._renew()
            stamp = self._stamp
            if stamp is None or stamp != self._stamp_now():
                content = self._renew_if_possible(content)
            elif self._trouble:
                self._tell(self._trouble)
            return content

    def _stamp_now(self) -> tuple[int, ...] | None:
        try:
            return _stamp_of(Path(self.path).stat())
        except OSError:
            return None

    def _renew(self) -> Content:
        """Read it. Raises `ValueError`; what could be read and not be understood has a stamp."""
        self._stamp = None
        try:
            with Path(self.path).open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from error
        # The next change of a file that was changed just now may leave no trace in its times
        young = 0 <= time.time_ns() - status.st_ctime_ns < _YOUNG
        self._stamp = None if young else _stamp_of(status)
        self._content = content = self._read(data)
        if self._trouble:
            logger.warning("%s: can be read again", self.path)
        self._trouble = ""
        return content

    def _read(self, data: bytes) -> Content:
        try:
            return Content.read(data)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _renew_if_possible(self, content: Content) -> Content:
        try:
            return self._renew()
        except ValueError as error:
            self._tell(str(error))
            return content

    def _tell(self, trouble: str) -> None:
        """Again and again, as long as it lasts: a user who was deleted may log in still."""
        now = time.monotonic()
        if trouble != self._trouble or now - self._told >= _TOLD_EVERY:
            logger.error("%s; what was read before stays in force", trouble)
            self._told = now
        self._trouble = trouble

    # -- changing it -------------------------------------------------------------------------------

    def set(self, username: str, password: str | bytes, *schemes: str) -> bool:
        """Give `username` this password: a new user, or in place of all lines that he has.

        `schemes` are one of `"scrypt"` (the default), `"argon2"`, `"scram-sha-256"` and
        `"scram-sha-1"`, or both of the latter. A file that is not there is made, for its owner
        alone. Returns whether the user was there before. Raises `ValueError` for a name or a
        password that cannot be kept and for a file with a bad line, `OSError` when the file cannot
        be written; nothing has changed then.
        """
        check_username(username)
        words = _hashed(_checked_password(password), schemes or ("scrypt",))
        return self._change(username, [f"{username}:{word}".encode() for word in words])

    def remove(self, username: str) -> bool:
        """Remove `username`; whether he was there. Raises as `set` does."""
        return self._change(username, [])

    def _change(self, username: str, lines: list[bytes]) -> bool:
        """One process at a time, each with what the others have left."""
        path = Path(os.path.realpath(self.path))  # what a link leads to is changed, not the link
        with _locked(path, create=bool(lines)) as file:
            data = path.read_bytes()
            was_there = prepared(username) in self._read(data).users
            if was_there or lines:
                _replace(path, _changed(data, username, lines), os.fstat(file))
        return was_there


# -- how it is written -----------------------------------------------------------------------------


def _checked_password(password: str | bytes) -> bytes:
    octets = octets_of(password)
    if not octets:
        raise ValueError("the password is empty")
    if b"\0" in octets:
        raise ValueError("a password cannot have NUL in it: no client could send it (RFC 4616 2)")
    return octets


def _hashed(password: bytes, schemes: tuple[str, ...]) -> list[str]:
    """Made before the file is locked: it takes its time. Raises `ValueError`."""
    makers = [hashes.scheme(name) for name in schemes]
    made: tuple[Hash, ...] = ()
    for make in makers:
        made = with_another(made, make(password))
    return [each.text for each in made]


def _changed(data: bytes, username: str, new: list[bytes]) -> bytes:
    """The file with the user's lines replaced, where the first of them was; all else as it was."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    name = prepared(username)
    own = [number for number, line in enumerate(lines) if name_in(line)[0] == name]
    at = own[0] if own else len(lines)
    kept = [line for number, line in enumerate(lines) if number not in own]
    return b"".join(line + b"\n" for line in (*kept[:at], *new, *kept[at:]))


@contextlib.contextmanager
def _locked(path: Path, *, create: bool) -> Iterator[int]:
    """The file that is at `path` while nobody else may change it; its descriptor.

    The lock is on the file itself, which only those can open who may read the hashes. Who has held
    it has put another file in its place: that one is locked then.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield file
                return
        finally:
            os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _replace(path: Path, data: bytes, old: os.stat_result) -> None:
    """Put a file with `data` in place of the `old` one: all of it or none, even when we crash."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    new = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(new, "wb") as file:
            _give_to_owner_of(old, new)
            file.write(data)
            file.flush()
            os.fsync(new)
        beside.replace(path)
    except BaseException:
        beside.unlink()
        raise
    _sync_directory(path.parent)


def _give_to_owner_of(old: os.stat_result, new: int) -> None:
    """Owner first: the mode may let a group read, and it must be the right one."""
    made = os.fstat(new)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(new, old.st_uid, old.st_gid)
    os.fchmod(new, stat.S_IMODE(old.st_mode))


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Changes when the file does."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (*times, status.st_size, status.st_ino, status.st_dev)
