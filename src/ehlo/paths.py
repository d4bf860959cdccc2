"""Paths that root may use: through no link, and to no file, that another user could have put there.

Root opens a path directory by directory. It follows a link only if root alone can have made it. For
other users a path is what it is for the kernel. Opening a file never waits, as it would for a FIFO.
Windows has neither root nor open directories: a path is what it is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

IS_POSIX: Final = hasattr(os, "geteuid")
"""Whether this is a POSIX system, with users, signals, and Unix sockets."""


def _flags(*names: str) -> int:
    """Return flags of `os.open`, without those that this system lacks."""
    return sum(getattr(os, name, 0) for name in names)


_LISTED: Final = _flags("O_DIRECTORY", "O_CLOEXEC")
_DIRECTORY: Final = _flags("O_PATH") | _LISTED
_AT_ONCE: Final = _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
_MOST_LINKS: Final = 40  # as many as the kernel follows
_DESCRIPTORS: Final = "/proc/self/fd"


class Entry(NamedTuple):
    """Names an entry of an open directory."""

    directory: int
    """The directory, as an open file."""
    name: str
    guarded: bool
    """Whether no user but the own one, and root, can have made the entry."""


@contextlib.contextmanager
def entry_of(path: str, *, follow: bool) -> Iterator[Entry]:
    """Open the directory of `path` while the block runs; with `follow`, that of what it links to.

    Raises `OSError`, also for a link that root does not follow, and on Windows.
    """
    if not IS_POSIX:
        raise OSError(errno.ENOSYS, "needs a POSIX system", path)
    directory, name, guarded = _found(path, follow=follow)
    try:
        yield Entry(directory, name, guarded)
    finally:
        os.close(directory)


def open_to_read(path: str) -> int:
    """Open a regular file for reading. Raises `OSError`."""
    return _opened(path, os.O_RDONLY)


def open_to_append(path: str, owner: tuple[int, int] | None = None, mode: int = 0o666) -> int:
    """Open a file for appending; a new one belongs to `owner`, a user and a group.

    A terminal or a pipe may be at `path` if no other user can have put it there. Raises `OSError`.
    """
    return _opened(path, os.O_WRONLY | os.O_APPEND, owner, mode, creates=True)


def create(path: str, mode: int = 0o666) -> int:
    """Create a file for writing, and return it; nothing is at `path` before. Raises `OSError`.

    `mode` is its mode, without what the umask takes away.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
    if not IS_POSIX:
        return os.open(path, flags, mode)
    with entry_of(path, follow=False) as entry:
        return os.open(entry.name, flags, mode, dir_fd=entry.directory)


def remove(path: str) -> None:
    """Remove a file; of a link, only itself. Raises `OSError`."""
    if not IS_POSIX:
        Path(path).unlink()
        return
    with entry_of(path, follow=False) as entry:
        os.unlink(entry.name, dir_fd=entry.directory)


def names_in(directory: str) -> list[str]:
    """Return the names of the entries of a directory. Raises `OSError`."""
    if not IS_POSIX:
        return [each.name for each in Path(directory).iterdir()]
    with entry_of(f"{directory}/.", follow=False) as entry:
        file = os.open(os.curdir, os.O_RDONLY | _LISTED, dir_fd=entry.directory)
    try:
        with os.scandir(file) as found:
            return [each.name for each in found]
    finally:
        os.close(file)


def check_file(path: str) -> None:
    """Raise `OSError` if root may not write to the file at `path`, or none is there.

    It is for a file that another library opens. It is not opened here: to close it would release
    the locks that this process has on it.
    """
    if not IS_POSIX:
        return
    try:
        with entry_of(path, follow=True) as entry:
            follow = os.geteuid() != 0 or _is_in_proc(os.fstat(entry.directory))
            status = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=follow)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            _check(status, entry, None, appends=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def held(path: str) -> Iterator[str]:
    """Open a regular file, and yield another name for it, which is of this file in any case."""
    file = open_to_read(path)
    try:
        yield name_of(file) or path
    finally:
        os.close(file)


def name_of(file: int) -> str | None:
    """Return a path that leads to an open file, whatever its own path is; `None` without /proc."""
    name = f"{_DESCRIPTORS}/{file}"
    return name if Path(name).exists() else None


def is_at(path: Path, file: int) -> bool:
    """Return whether an open file is the one at `path`, and not one that was there before."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return a value that changes when the file does.

    Its first part is the time of the change, in nanoseconds.
    """
    times = (status.st_ctime_ns, status.st_mtime_ns)
    return (*times, status.st_size, status.st_ino, status.st_dev)


def stamp_at(path: str) -> tuple[int, ...] | None:
    """Return the stamp of the file at `path`, behind any links; `None` if there is none."""
    try:
        return stamp_of(Path(path).stat())
    except OSError:
        return None


def _found(path: str, *, follow: bool) -> Entry:
    if os.geteuid() != 0:
        directory, name = os.path.split(path)
        return Entry(os.open(directory or os.curdir, _DIRECTORY), name or os.curdir, guarded=True)
    return _walked(path, follow=follow)


def _walked(path: str, *, follow: bool) -> Entry:
    """Open one directory after the other, without a link that another user could have made."""
    parts, links = deque(path.split("/")), 0
    name = os.curdir
    directory = os.open("/" if path.startswith("/") else os.curdir, _DIRECTORY)
    try:
        while parts:
            name = parts.popleft() or os.curdir
            if not parts and not follow:
                break
            link = _link_at(directory, name, path, last=not parts)
            if link is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                parts.extendleft(reversed(link.split("/")))
                if link.startswith("/"):
                    directory = _replaced(directory, os.open("/", _DIRECTORY))
            elif parts:
                further = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                directory = _replaced(directory, further)
        return Entry(directory, name, _is_guarded(os.fstat(directory)))
    except BaseException:
        os.close(directory)
        raise


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _link_at(directory: int, name: str, path: str, *, last: bool) -> str | None:
    """Return what an entry links to, and `None` if it is no link. Raises `OSError` as above.

    The last entry may be missing. A link of /proc to an open file is that file.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        if last:
            return None
        raise
    if not stat.S_ISLNK(status.st_mode):
        return None
    around = os.fstat(directory)
    sticky = bool(around.st_mode & stat.S_ISVTX) and around.st_uid == 0
    if status.st_uid != 0 or not (sticky or _is_guarded(around)):
        reason = f"root does not follow the link {name}, which another user could have made"
        raise OSError(errno.ELOOP, reason, path)
    target = os.readlink(name, dir_fd=directory)
    return None if last and _is_in_proc(around) else target


def _is_guarded(directory: os.stat_result) -> bool:
    """Return whether only root can change the entries of a directory."""
    return directory.st_uid == 0 and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_in_proc(directory: os.stat_result) -> bool:
    try:
        return directory.st_dev == Path("/proc/self").stat().st_dev
    except OSError:
        return False


def _opened(
    path: str,
    flags: int,
    owner: tuple[int, int] | None = None,
    mode: int = 0o666,
    *,
    creates: bool = False,
) -> int:
    """Open a file, and check that it is one to use. Raises `OSError` with the whole path."""
    if not IS_POSIX:
        return os.open(path, flags | _AT_ONCE | (os.O_CREAT if creates else 0), mode)
    try:
        with entry_of(path, follow=True) as entry:
            file = _open_at(entry, flags | _AT_ONCE, owner, mode, creates=creates)
            try:
                _check(os.fstat(file), entry, owner, appends=creates)
            except BaseException:
                os.close(file)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    os.set_blocking(file, True)
    return file


def _open_at(
    entry: Entry, flags: int, owner: tuple[int, int] | None, mode: int, *, creates: bool
) -> int:
    """Open, or create, an entry. A link in /proc is the only one that is left to follow as root."""
    if creates and owner is not None:
        with contextlib.suppress(FileExistsError):
            new = flags | os.O_CREAT | os.O_EXCL
            file = os.open(entry.name, new, mode, dir_fd=entry.directory)
            os.fchown(file, *owner)
            return file
    elif creates:
        flags |= os.O_CREAT
    if os.geteuid() == 0 and not _is_in_proc(os.fstat(entry.directory)):
        flags |= os.O_NOFOLLOW
    return os.open(entry.name, flags, mode, dir_fd=entry.directory)


def _check(
    status: os.stat_result, entry: Entry, owner: tuple[int, int] | None, *, appends: bool
) -> None:
    """Raise `OSError` if a file is none to read, or one that another user has put there."""
    if not stat.S_ISREG(status.st_mode):
        if not appends or not entry.guarded:
            raise OSError(errno.EINVAL, "not a regular file")
    elif appends and not entry.guarded:
        users = {0, os.fstat(entry.directory).st_uid, *((owner[0],) if owner else ())}
        if status.st_uid not in users or status.st_nlink > 1:
            reason = "root does not write to a file that another user could have linked there"
            raise OSError(errno.EPERM, reason)
