"""Giving up root, for good: groups, group and user, and a look whether it could come back."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Account", "UnusableError", "check_readable", "find", "give_up"]

logger = logging.getLogger("ehlo.server")


class UnusableError(ValueError):
    """What the server needs and cannot use, as the user whom it has become."""


class Account(NamedTuple):
    """Who a process becomes."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find(user: str) -> Account:
    """The account that `name` or `name:group` stands for. Raises `ValueError`."""
    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        gid = _group(group) if group else entry.pw_gid
    except KeyError:
        raise ValueError(f"user: no such user or group: {user!r}") from None
    if entry.pw_uid == 0 or gid == 0:
        raise ValueError(f"user: root is not given up by becoming {user!r}")
    groups = os.getgrouplist(entry.pw_name, gid)
    return Account(entry.pw_name, entry.pw_uid, gid, tuple(sorted(set(groups))))


def _group(group: str) -> int:
    return grp.getgrgid(int(group)).gr_gid if group.isdecimal() else grp.getgrnam(group).gr_gid


def give_up(account: Account) -> None:
    """Become `account`, in all threads. What is that already is left alone, but for root's group.

    Raises `PermissionError` when this process may not, `RuntimeError` when it could be undone; it
    must not go on then.
    """
    if os.getresuid() == (account.uid,) * 3:
        if 0 in (*os.getresgid(), *os.getgroups()):
            raise RuntimeError(f"user: {account.name} has the group of root, and cannot give it up")
        return
    try:
        os.setgroups(account.groups)  # first: without root it could not be done any more
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except PermissionError as error:
        reason = f"only root can become user {account.name}"
        raise PermissionError(error.errno, reason) from error
    _check(account)
    logger.info("gave up root: user %s", account.name)


def check_readable(account: Account, files: Iterable[str]) -> None:
    """Whether who we are now can read them again later. Raises `UnusableError`."""
    for file in files:
        try:
            with Path(file).open("rb"):
                pass
        except OSError as error:
            reason = f"user {account.name} cannot read {file}: {error.strerror}"
            raise UnusableError(reason) from error


def _check(account: Account) -> None:
    """As it should be, and root out of reach. A capability that was kept would show here."""
    is_so = (
        os.getresuid() == (account.uid,) * 3
        and os.getresgid() == (account.gid,) * 3
        and set(os.getgroups()) <= {*account.groups, account.gid}
    )
    if not is_so or _comes_back():
        raise RuntimeError(f"user: root is not given up by becoming {account.name}")


def _comes_back() -> bool:
    for attempt in (os.setuid, os.setgid):
        with contextlib.suppress(PermissionError):
            attempt(0)
            return True
    return False
