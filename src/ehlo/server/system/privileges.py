"""Dropping root privileges for good: groups, group and user, and a check that they are gone."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable
from typing import NamedTuple

from ehlo import paths

logger: logging.Logger = logging.getLogger("ehlo.server")


class UnusableError(ValueError):
    """Raised for a file that the server needs later and that its new user cannot read."""


class SystemUser(NamedTuple):
    """The user and the groups that a process switches to."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find(user: str) -> SystemUser:
    """Look up the account of `name` or `name:group`. Raises `ValueError`."""
    if not paths.IS_POSIX:
        raise ValueError("user needs a POSIX system; leave it out")
    import pwd  # not on Windows, as `grp` below

    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        gid = _group(group) if group else entry.pw_gid
    except KeyError:
        raise ValueError(
            f"user: no such user or group: {user!r}; name one of this machine"
        ) from None
    if entry.pw_uid == 0 or gid == 0:
        raise ValueError(f"user: {user!r} has the user or group of root; name another account")
    groups = os.getgrouplist(entry.pw_name, gid)
    return SystemUser(entry.pw_name, entry.pw_uid, gid, tuple(sorted(set(groups))))


def owner_for(user: str) -> tuple[int, int] | None:
    """Return the user and group of what root makes for the account that it becomes.

    `None` stands for those of this process. Raises `ValueError` as `find` does.
    """
    if not user or os.getuid() != 0:
        return None
    account = find(user)
    return account.uid, account.gid


def _group(group: str) -> int:
    import grp

    return grp.getgrgid(int(group)).gr_gid if group.isdecimal() else grp.getgrnam(group).gr_gid


def drop(account: SystemUser) -> None:
    """Switch all threads to `account`. A process that runs as it already stays as it is.

    Raises `PermissionError` if this process may not do that, and `RuntimeError` if it could switch
    back, or is in root's group; the process must not go on then.
    """
    if os.getresuid() == (account.uid,) * 3:
        if 0 in (*os.getresgid(), *os.getgroups()):
            raise RuntimeError(f"user: {account.name} is in root's group, and cannot leave it")
        return
    try:
        os.setgroups(account.groups)  # first: without root it could not be done any more
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except PermissionError as error:
        reason = f"only root can become user {account.name}"
        raise PermissionError(error.errno, reason) from error
    _check(account)
    logger.info("dropped root privileges user=%s", account.name)


def check_readable(account: SystemUser, files: Iterable[str]) -> None:
    """Check that the user of this process can read the files later. Raises `UnusableError`."""
    for file in files:
        try:
            os.close(paths.open_to_read(file))
        except OSError as error:
            reason = f"user {account.name} cannot read {file}: {error.strerror}"
            raise UnusableError(f"{reason}; let this user read it") from error


def check_imports(account: SystemUser, handler: object) -> None:
    """Check that the user of this process can import from Python and ehlo later.

    Raises `UnusableError`. If only the module of `handler` cannot be read, logs a warning.
    """
    for name in (os.__name__, __name__):
        if file := _unreadable_file(name):
            advice = "install Python and ehlo where this user can read them, such as /opt"
            raise UnusableError(f"user {account.name} cannot read {file}; {advice}")
    named = handler.partition(":")[0] if isinstance(handler, str) else _module_of(handler)
    if file := _unreadable_file(named):
        logger.warning("user %s cannot read %s; later imports may fail", account.name, file)


def _module_of(handler: object) -> str:
    return str(getattr(handler, "__module__", ""))  # of its class, if it has none of its own


def _unreadable_file(module: str) -> str | None:
    """Return the file of an imported module if its path is closed to this user."""
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        if file is not None:
            os.close(os.open(file, os.O_RDONLY))
    except PermissionError:
        return str(file)
    except OSError:  # a module in an archive, or one that has been moved since
        return None
    return None


def _check(account: SystemUser) -> None:
    """Check the switch, and that there is no way back; a kept capability would show here.

    Raises `RuntimeError`.
    """
    is_so = (
        os.getresuid() == (account.uid,) * 3
        and os.getresgid() == (account.gid,) * 3
        and set(os.getgroups()) <= {*account.groups, account.gid}
    )
    if not is_so or _comes_back():
        raise RuntimeError(f"user: root privileges remain after switching to {account.name}")


def _comes_back() -> bool:
    for attempt in (os.setuid, os.setgid):
        with contextlib.suppress(PermissionError):
            attempt(0)
            return True
    return False
