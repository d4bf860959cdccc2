"""Hashes that are quick to check, and a scrypt that waits until a test lets it continue."""

from __future__ import annotations

import hashlib
import secrets
import threading
from pathlib import Path
from typing import Any

from ehlo.passwords.hashes import ScryptHash

__all__ = ["MEMORY", "Gate", "cheap", "lines_of", "write"]

MEMORY = 128 * 8 * (16 + 2 + 1)  # bytes that one check of such a hash takes
DEADLINE = 60.0


def cheap(password: str) -> str:
    """Return a scrypt hash with the lowest possible cost."""
    template = ScryptHash((4, 8, 1), secrets.token_bytes(16), bytes(32))
    made = ScryptHash((4, 8, 1), template.salt, template.derived(password.encode()))
    assert made.memory == MEMORY
    return made.text


def write(path: Path, **passwords: str) -> Path:
    """Write a password file with these users."""
    path.write_text("".join(f"{user}:{cheap(word)}\n" for user, word in passwords.items()))
    return path


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that `PasswordFile` has changed, without its secret."""
    secret, *lines = path.read_text().splitlines()
    assert secret.startswith("# ehlo-secret: ")
    return lines


class Gate:
    """Replaces `hashlib.scrypt`: counts the calls, and blocks them until `opened` is set."""

    def __init__(self) -> None:
        self._scrypt = hashlib.scrypt
        self._lock = threading.Lock()
        self._inside = 0
        self.most_inside = 0
        self.calls = 0
        self.threads: set[str] = set()
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> bytes:
        with self._lock:
            self._inside += 1
            self.calls += 1
            self.most_inside = max(self.most_inside, self._inside)
            self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.opened.wait(DEADLINE), "the gate was not opened"
        try:
            return self._scrypt(*arguments, **options)
        finally:
            with self._lock:
                self._inside -= 1

    def wait_for(self, count: int) -> None:
        """Wait until `count` more calls have begun."""
        for _ in range(count):
            assert self.entered.acquire(timeout=DEADLINE), "no check began"
