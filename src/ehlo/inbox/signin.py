"""`SignIn`: HTTP Basic logins (RFC 7617), checked in threads, remembered, and bounded in number.

Password hashes are slow on purpose, and a browser sends the login with each request. So a login
that was right is accepted for a minute without another check. Only a keyed digest is remembered.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ehlo.inbox.desk import Check
from ehlo.net import address_key
from ehlo.server.limits import Attempts, MemoryCounter

_FRESH: Final = 60.0  # seconds for which a login needs no other check
_TRUSTED: Final = 3_600.0  # seconds for which a login is checked although others have failed
_MOST_KNOWN: Final = 256
_AT_ONCE: Final = 2  # checks, since each may take 64 MiB
_MOST_WAITING: Final = 64
_MOST_FAILURES: Final = 10  # of an address, in the window
_WINDOW: Final = 60.0
_LONGEST: Final = 4_096  # bytes of a login

_logger = logging.getLogger("ehlo.inbox")


class TooManyLoginsError(Exception):
    """Too many logins of an address have failed, or too many wait."""


class SignIn:
    """Checks the logins of HTTP requests."""

    def __init__(self, check: Check, clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()  # when it was found to be right
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._failures = Attempts(MemoryCounter(clock), _MOST_FAILURES, _WINDOW)

    async def user_of(self, authorization: bytes, host: str) -> str | None:
        """Return the user of a field `Authorization`; `None` if it is missing or wrong.

        `host` is the address of the client. Raises `TooManyLoginsError`.
        """
        login = _login(authorization)
        if login is None:
            return None
        name, password = login
        digest = hmac.digest(self._key, authorization, hashlib.sha256)
        age = self._clock() - self._known.get(digest, -_TRUSTED)
        if age < _FRESH:
            self._known.move_to_end(digest)
            return name
        key = None if age < _TRUSTED else address_key(host)
        task = self._running.get(digest)
        if task is None:
            is_crowded = len(self._running) >= _MOST_WAITING
            if key is not None and (is_crowded or not self._failures.may_begin(key)):
                raise TooManyLoginsError
            task = asyncio.ensure_future(self._examine(digest, key, name, password))
            self._running[digest] = task
        # The check goes on when this client leaves: others may wait for it
        return name if await asyncio.shield(task) else None

    async def _examine(self, digest: bytes, key: str | None, name: str, password: str) -> bool:
        is_right = False
        self._failures.begin(key)
        try:
            async with self._turns:
                is_right = await asyncio.to_thread(self._check, name, password)
        except Exception:
            _logger.exception("a login could not be checked")
        finally:
            self._failures.end(key, failed=not is_right)
            del self._running[digest]
        self._known.pop(digest, None)
        if is_right:
            self._known[digest] = self._clock()
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return is_right


def _login(authorization: bytes) -> tuple[str, str] | None:
    """Return user name and password (RFC 7617 2); `None` if there are none."""
    scheme, _, word = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(word) > _LONGEST:
        return None
    try:
        text = binascii.a2b_base64(word.strip(), strict_mode=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None
