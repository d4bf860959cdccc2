"""Logins by a password file: two checks at a time, and the memory of each is counted.

A check that has begun cannot be stopped: its thread and its memory are given back when it has
ended, and not when its client has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ehlo.passwords.file import PasswordFile
from ehlo.passwords.lines import Candidate, prepared
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import Credentials, PasswordCredentials
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.reply import Reply
from ehlo.server.hooks import Hook, Hooks
from ehlo.server.observing.journal import about
from ehlo.server.runtime import Runtime
from ehlo.session import Session

T = TypeVar("T")

logger = logging.getLogger("ehlo.server")


def with_logins(hooks: Hooks, passwords: PasswordFile | None, runtime: Runtime) -> Hooks:
    """Return the hooks of a handler, and those for the logins if there is a password file."""
    if passwords is None:
        return hooks
    logins = Logins(passwords, runtime)
    own: dict[str, Callable[..., object]] = {"on_auth": logins.on_auth}
    if passwords.scram_algorithms:
        own["on_secret"] = logins.on_secret
    # They take no turn: a check may wait for memory of hooks that wait for a turn
    added = {name: Hook(name, call, is_async=True, needs_turn=False) for name, call in own.items()}
    others = {name: hook for name, hook in hooks.items() if name not in {"on_auth", "on_secret"}}
    return others | added


@dataclass(slots=True, eq=False)
class _Check:
    """A password that waits for its check, or is being checked."""

    session_id: str
    candidate: Candidate
    password: str = field(repr=False)
    good: asyncio.Future[bool]
    held: int = 0
    """The bytes of memory that count for it."""


class Logins:
    """Provides the hooks `on_auth` and `on_secret` of a server with an `auth_file`.

    Checks begin in the order in which they came, as soon as a thread is free and there is memory
    for them; one alone needs none to be free, so that no message keeps users from logging in. At
    most `MOST_WAITING` wait.
    """

    AT_ONCE = 2
    MOST_WAITING = 64

    def __init__(self, passwords: PasswordFile, runtime: Runtime) -> None:
        self._passwords = passwords
        self._runtime = runtime
        self._waiting: deque[_Check] = deque()
        self._running = 0

    async def on_auth(self, session: Session, credentials: Credentials) -> str | Reply | None:
        """Return the user if the password is right."""
        if not isinstance(credentials, PasswordCredentials):
            raise TypeError(f"a file of passwords is no use for {type(credentials).__name__}")
        username = prepared(credentials.username)
        if credentials.authzid and prepared(credentials.authzid) != username:
            return None  # no user may act as another (RFC 4616 2)
        log = about(logger, session.id)
        candidate = await self._in_thread(partial(self._passwords.find, username))
        if candidate.memory > self._runtime.max_memory:
            log.warning("max_memory is less than what a check takes")
            return replies.AUTH_TROUBLE
        if len(self._waiting) >= self.MOST_WAITING:
            log.warning("too many logins wait for their check")
            return replies.AUTH_TROUBLE
        return username if await self._check(session, candidate, credentials.password) else None

    async def on_secret(self, _session: Session, username: str) -> tuple[ScramKeys, ...] | None:
        """Return a user's keys for SCRAM; an unknown user gets keys that nothing matches."""
        find = partial(self._passwords.scram_keys_for_all, username)
        return await self._in_thread(find) or None

    async def _in_thread(self, find: Callable[[], T]) -> T:
        """Read the file, in a thread of its own: `def` hooks that hang must not prevent logins."""
        return await self._runtime.in_thread(find, self._runtime.login_threads)

    async def _check(self, session: Session, candidate: Candidate, password: str) -> bool:
        """Return whether the password is right, as soon as it is its turn."""
        check = _Check(session.id, candidate, password, self._runtime.loop.create_future())
        self._waiting.append(check)
        self._begin_some()
        try:
            return await check.good
        finally:
            if check in self._waiting:  # otherwise it has begun
                self._waiting.remove(check)
                self._begin_some()  # others may have waited behind it

    def _begin_some(self) -> None:
        """Begin all that can. None overtakes: one that needs much memory would never be next."""
        memory = self._runtime.memory
        while self._waiting and self._running < self.AT_ONCE:
            check = self._waiting[0]
            if memory.reserve(check.candidate.memory):
                check.held = check.candidate.memory
            elif self._running:
                return
            self._begin(self._waiting.popleft())

    def _begin(self, check: _Check) -> None:
        self._running += 1

        def done(good: bool | None, error: BaseException | None) -> None:
            self._runtime.to_loop(lambda: self._ended(check, good, error))

        run = partial(check.candidate.matches, check.password)
        self._runtime.login_threads.submit(run, done)

    def _ended(self, check: _Check, good: bool | None, error: BaseException | None) -> None:
        self._running -= 1
        self._runtime.memory.release(check.held)
        if check.good.cancelled():  # the client has gone
            log = about(logger, check.session_id)
            log.debug("a check of a password ended after its client had gone")
        elif error is not None:
            check.good.set_exception(error)
        else:
            check.good.set_result(bool(good))
        self._begin_some()
