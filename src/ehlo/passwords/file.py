"""`PasswordFile`: users and their password hashes, one `user:hash` per line.

A file that becomes unreadable locks no user out: the last valid content stays in use. A change is
written to a new file that replaces the old one, so that a reader sees either of them as a whole.
Writers lock out each other; no reader can lock them out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ehlo import paths
from ehlo.passwords import hashes
from ehlo.passwords.hashes import Hash
from ehlo.passwords.lines import (
    Candidate,
    UserTable,
    check_username,
    name_in,
    prepared,
    secret_line,
    with_another,
)
from ehlo.protocol.auth.credentials import as_bytes
from ehlo.protocol.auth.keys import ScramKeys, salt_of

_MOST_WAIT = 15.0  # seconds for another writer, who needs a moment
_LOG_EVERY = 60.0  # seconds between two log lines about the same error
_YOUNG = 2_000_000_000  # nanoseconds; no file system has timestamps coarser than this

logger: logging.Logger = logging.getLogger("ehlo.passwords")


class PasswordFile:
    """Checks passwords against a file of users and hashes, which may change at any time.

    A line is `user:hash`; blank lines and lines that begin with `#` are ignored. The hash is
    `$scrypt$...` or `$argon2id$...` (PHC string format; argon2 needs argon2-cffi), or stored SCRAM
    keys as Dovecot writes them: `{SCRAM-SHA-256}4096,salt,stored,server`. Hashes by bcrypt (which
    needs bcrypt) and SHA-crypt are read, too, as htpasswd writes them. A user has one line, or one
    line per SCRAM algorithm; a password is checked against the first line. User names are compared
    after SASLprep (RFC 4013).

    An unknown user is checked against the hash of a known one, so that timing does not reveal who
    exists. A name gets the same hash until the file changes; each hash gets its share of names.

    The file is examined on each use, and reloaded when it has changed. If that fails, the previous
    content stays in use, and the logger `ehlo.passwords` reports it at most once a minute. All
    methods may be called from any thread.

    Example:

        >>> passwords = ehlo.PasswordFile("users")
        >>> passwords.set("alice", "correct horse")
        False
        >>> passwords.check("alice", "correct horse")
        True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.fspath(path)
        """The path of the file, as it was given."""
        self._lock = threading.Lock()
        self._users: UserTable | None = None
        self._stamp: tuple[int, ...] | None = None  # of the file as read; `None` forces a reload
        self._error = ""  # the last error, while the file cannot be read
        self._logged = 0.0  # when that error was logged

    def load(self) -> None:
        """Read the file now.

        Raises `ValueError`, which names file and line, if it cannot be read or has a bad line.
        """
        with self._lock:
            self._reload()

    def find(self, username: str) -> Candidate:
        """Return the hash to check a password of `username` against.

        `find(username).matches(password)` is `check` in two steps. Raises `ValueError` as `load`
        does, if the file has never been read successfully.
        """
        return self._current().candidate(username)

    def check(self, username: str, password: str | bytes) -> bool:
        """Return whether this is the password of `username`.

        This blocks for about a tenth of a second, for an unknown user too. Raises `ValueError` as
        `find` does.
        """
        return self.find(username).matches(password)

    def scram_keys(self, username: str) -> tuple[ScramKeys, ...]:
        """Return the stored SCRAM keys of `username`. Raises `ValueError` as `find` does."""
        return self._current().scram_keys(username)

    def scram_keys_for_all(self, username: str) -> tuple[ScramKeys, ...]:
        """Return SCRAM keys of `username` for each algorithm that any user has keys for.

        Keys that `username` lacks are made up: no password matches them. Raises `ValueError` as
        `find` does.
        """
        return self._current().scram_keys_for_all(username)

    @property
    def salt_key(self) -> bytes:
        """The key from which the salts for unknown users are derived (RFC 5802 9).

        It is the secret that `set` writes into the file, so that the salts never change. A file
        that was written in another way has none; the key then depends on its first hash, until
        `set` or `remove` writes it down. Raises `ValueError` as `find` does.
        """
        return self._current().key

    @property
    def has_secret(self) -> bool:
        """Whether the file has a secret for salts. Raises `ValueError` as `find` does."""
        return self._current().has_secret

    @property
    def scram_algorithms(self) -> frozenset[str]:
        """The SCRAM algorithms that any user has keys for. Raises `ValueError` as `find` does."""
        return frozenset(self._current().iterations)

    @property
    def most_memory(self) -> int:
        """The memory in bytes that the most expensive check needs. Raises as `find` does."""
        return max(each.memory for each in self._current().checked)

    # -- reading -----------------------------------------------------------------------------------

    def _current(self) -> UserTable:
        """Return the users, from the file as it is now if it can be read."""
        with self._lock:
            users = self._users
            if users is None:
                return self._reload()
            if self._stamp is None or self._stamp != paths.stamp_at(self.path):
                try:
                    return self._reload()
                except ValueError as error:
                    self._log(str(error))
            elif self._error:
                self._log(self._error)
            return users

    def _reload(self) -> UserTable:
        """Read the file. Raises `ValueError`; a file with a bad line is stamped nevertheless."""
        self._stamp = None
        try:
            with os.fdopen(paths.open_to_read(self.path), "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from error
        # A file that changed just now may change again without a trace in its timestamps
        young = 0 <= time.time_ns() - status.st_ctime_ns < _YOUNG
        self._stamp = None if young else paths.stamp_of(status)
        self._users = users = self._parse(data)
        if self._error:
            logger.warning("reloaded what=passwords file=%s", json.dumps(self.path))
        self._error = ""
        return users

    def _parse(self, data: bytes) -> UserTable:
        try:
            return UserTable.parse(data)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _log(self, error: str) -> None:
        """Log `error`, repeatedly while it lasts: a deleted user may still be able to log in."""
        now = time.monotonic()
        if error != self._error or now - self._logged >= _LOG_EVERY:
            reason = json.dumps(error)
            logger.error("reload failed what=passwords reason=%s in_use=previous", reason)
            self._logged = now
        self._error = error

    # -- writing -----------------------------------------------------------------------------------

    def set(self, username: str, password: str | bytes, *schemes: str) -> bool:
        """Set the password of `username`; return whether the user existed before.

        The new lines replace all lines of the user. `schemes` is one of `"scrypt"` (the default),
        `"argon2"`, `"scram-sha-256"` and `"scram-sha-1"`, or both of the latter. A missing file is
        created, readable by its owner only. The salts of a user's SCRAM keys are always the same.

        Raises `ValueError` for an invalid user name or password and for a file with a bad line,
        and `OSError` if the file cannot be written, or another process writes it for 15 seconds;
        the file is then unchanged.
        """
        check_username(username)
        raw = as_bytes(password)
        if not raw:
            raise ValueError("the password is empty")
        if b"\0" in raw:
            raise ValueError("the password contains NUL, which no client can send (RFC 4616 2)")
        makers = [hashes.scheme(name) for name in schemes or ("scrypt",)]
        secret = _secret_of(self._parse(_read(Path(self.path))[0]))
        salts = partial(salt_of, secret, username=prepared(username))
        made: tuple[Hash, ...] = ()
        for make in makers:  # slow, so it comes before the lock
            made = with_another(made, make(raw, salts))
        lines = [f"{username}:{each.text}".encode() for each in made]
        return self._change(username, lines, secret)

    def remove(self, username: str) -> bool:
        """Remove `username`; return whether the user existed. Raises as `set` does."""
        return self._change(username, [])

    def _change(self, username: str, lines: list[bytes], secret: bytes = b"") -> bool:
        """Replace the user's lines in the file as the previous writer has left it."""
        with paths.entry_of(self.path, follow=True):  # for its check of the links, as root
            path = Path(os.path.realpath(self.path))  # change the target of a link, not the link
        if not lines:
            path.stat()  # a file that is not there has no user to remove
        with _locked(path):
            data, old = _read(path)
            table = self._parse(data)
            existed = prepared(username) in table.users
            if existed or lines:
                if not table.has_secret:
                    data = secret_line(secret or _secret_of(table)) + b"\n" + data
                _replace(path, _changed(data, username, lines), old)
        return existed


def _read(path: Path) -> tuple[bytes, os.stat_result | None]:
    """Return the content and the status of a file; nothing, and `None`, of one that is missing."""
    try:
        with os.fdopen(paths.open_to_read(str(path)), "rb") as file:
            return file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return b"", None


def _secret_of(table: UserTable) -> bytes:
    """Return the secret of a file, or the one to write into it: the salts in use stay the same."""
    return table.key if table.has_secret or table.users else secrets.token_bytes(32)


def _changed(data: bytes, username: str, new: list[bytes]) -> bytes:
    """Return `data` with the user's lines replaced by `new` at the place of the first one."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    name = prepared(username)
    own = [number for number, line in enumerate(lines) if name_in(line)[0] == name]
    at = own[0] if own else len(lines)
    kept = [line for number, line in enumerate(lines) if number not in own]
    return b"".join(line + b"\n" for line in (*kept[:at], *new, *kept[at:]))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file at `path` against other writers, by a lock file next to it.

    Everybody who may read a file can lock it, so the lock file is there for its owner only, and for
    no longer than a change takes. Raises `OSError` after `_MOST_WAIT` seconds.
    """
    lock = path.with_name(f".{path.name}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    until = time.monotonic() + _MOST_WAIT
    while True:
        file = os.open(lock, flags, 0o600)
        try:
            # The previous holder has removed the file that it had locked
            if _takes_lock(file) and paths.is_at(lock, file):
                try:
                    yield
                finally:
                    lock.unlink()
                return
        finally:
            os.close(file)
        if time.monotonic() > until:
            raise OSError(errno.EWOULDBLOCK, f"another process has locked {lock.name}", str(lock))
        time.sleep(0.05)


def _takes_lock(file: int) -> bool:
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, data: bytes, old: os.stat_result | None) -> None:
    """Replace the file at `path` by one with `data`, completely or not at all, even in a crash.

    `old` is the status of the file; a new one is for its owner only.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(new, "wb") as file:
            if old is not None:
                _copy_owner_and_mode(old, new)
            file.write(data)
            file.flush()
            os.fsync(new)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    _sync_directory(path.parent)


def _copy_owner_and_mode(old: os.stat_result, new: int) -> None:
    """Copy the owner first: the mode may let the group read, so the group must be right by then."""
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
