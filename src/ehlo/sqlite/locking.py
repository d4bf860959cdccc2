"""Locks between processes: which of them has a file, until it lets go of it or ends."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import Final

from ehlo.paths import is_at, open_to_append
from ehlo.sqlite.errors import ADVICE, StoreError


class Lock:
    """Holds a lock of a file, for one `purpose`: a file next to it, that is locked."""

    def __init__(self, name: Path, file: int) -> None:
        self._name = name
        self._file = file

    @classmethod
    def taken(cls, path: Path, purpose: str) -> Lock | None:
        """Return the lock, or `None` if another process, or this one, has it.

        Raises `StoreError` if it cannot be made.
        """
        name = path.with_name(f"{path.name}-{purpose}")
        try:
            file = open_to_append(str(name), mode=0o600)
            try:
                is_free = _lock(file)
                is_there = is_at(name, file)
            except BaseException:
                os.close(file)
                raise
        except FileNotFoundError as error:
            wrong = f"{path.parent}: no such directory; make it: mkdir {path.parent}"
            raise StoreError(wrong) from error
        except OSError as error:
            raise StoreError(f"{name}: {error.strerror}; {ADVICE}") from error
        if is_free and is_there:
            lock = cls(name, file)
            _held.add(lock)
            return lock
        os.close(file)
        if is_there:
            return None
        return cls.taken(path, purpose)  # the process that had it has removed it just now

    def release(self, *, remove: bool = False) -> None:
        """Let go of it, and remove its file. Nothing happens the second time."""
        if self._file >= 0:
            if remove:
                with contextlib.suppress(OSError):  # Windows, where an open file stays
                    self._name.unlink()
            os.close(self._file)
            self._file = -1
            _held.discard(self)


# It belongs to the module, since what is called after a fork is registered for the whole process,
# and for ever
_held: Final[weakref.WeakSet[Lock]] = weakref.WeakSet()


def _let_go() -> None:
    """Let go of all locks in a child that was forked, and would hold them after its parent."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:

    def _lock(file: int) -> bool:
        try:
            import fcntl
        except ImportError:  # WebAssembly, where there is no other process
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
