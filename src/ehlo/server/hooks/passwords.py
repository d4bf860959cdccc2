"""Logins by a file of passwords: two checks at a time, and what each holds is the server's memory.

A check that has begun cannot be ended: its thread and its memory are given back when it is done,
and not when the client whose login it is has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ehlo.passwords.file import Candidate, PasswordFile, prepared
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import Credentials, PasswordCredentials
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.reply import Reply
from ehlo.server.hooks.hooks import Hook, Hooks
from ehlo.server.limits.admission import Claim
from ehlo.server.observing.journal import about
from ehlo.session import Session

if TYPE_CHECKING:
    from ehlo.server.runtime import Runtime

__all__ = ["Logins", "with_logins"]

logger = logging.getLogger("ehlo.server")


def with_logins(hooks: Hooks, passwords: PasswordFile | None, runtime: Runtime) -> Hooks:
    """The hooks of a handler, and those for the logins if there is a file of passwords."""
    if passwords is None:
        return hooks
    logins = Logins(passwords, runtime)
    has_keys = bool(passwords.scram_algorithms)
    return hooks._replace(
        auth=_hook("on_auth", logins.on_auth),
        secret=_hook("on_secret", logins.on_secret) if has_keys else None,
    )


def _hook(name: str, call: Callable[..., Any]) -> Hook:
    """It takes no turn: it waits for memory that others may hold who wait for theirs."""
    return Hook(name, call, is_async=True, needs_turn=False)


class _Check:
    """A password that is to be checked, or is being checked."""

    __slots__ = ("candidate", "good", "password", "session_id")

    def __init__(
        self, session_id: str, candidate: Candidate, password: str, good: asyncio.Future[bool]
    ) -> None:
        self.session_id = session_id
        self.candidate = candidate
        self.password = password
        self.good = good


class Logins:
    """The hooks `on_auth` and `on_secret` of a server with an `auth_file`.

    Checks begin in the order in which they came, when one of the two threads is free and there is
    memory for them. Of those that wait there are not more than `MOST_WAITING`.
    """

    AT_ONCE = 2
    MOST_WAITING = 64

    def __init__(self, passwords: PasswordFile, runtime: Runtime) -> None:
        self._passwords = passwords
        self._runtime = runtime
        self._waiting: deque[_Check] = deque()
        self._running = 0
        self._claim: Claim | None = None  # for the memory of the first that waits

    async def on_auth(self, session: Session, credentials: Credentials) -> str | Reply | None:
        """The user, if the password is his."""
        if not isinstance(credentials, PasswordCredentials):
            raise TypeError(f"a file of passwords is no use for {type(credentials).__name__}")
        username = prepared(credentials.username)
        if credentials.authzid and prepared(credentials.authzid) != username:
            return None  # nobody may act as another (RFC 4616 2)
        log = about(logger, session.id)
        candidate = await self._in_thread(partial(self._passwords.find, username))
        if candidate.memory > self._runtime.memory.limit:
            log.warning("max_memory is less than what a check takes")
            return replies.AUTH_TROUBLE
        if len(self._waiting) >= self.MOST_WAITING:
            log.warning("too many logins wait for their check")
            return replies.AUTH_TROUBLE
        return username if await self._check(session, candidate, credentials.password) else None

    async def on_secret(self, _session: Session, username: str) -> tuple[ScramKeys, ...] | None:
        """The keys of a user for SCRAM, or nobody's, that show a stranger what users are shown."""
        find = partial(self._passwords.scram_keys_for_all, username)
        keys: tuple[ScramKeys, ...] = await self._in_thread(find)
        return keys or None

    async def _in_thread(self, find: Callable[[], Any]) -> Any:
        """What reads the file: `def` hooks that hang must not keep anybody from logging in."""
        return await self._runtime.in_thread(find, self._runtime.login_threads)

    async def _check(self, session: Session, candidate: Candidate, password: str) -> bool:
        """Whether the password is the right one, as soon as it is its turn."""
        check = _Check(session.id, candidate, password, self._runtime.loop.create_future())
        self._waiting.append(check)
        self._begin_some()
        try:
            return await check.good
        finally:
            if check in self._waiting:  # else it has begun
                self._forget(check)

    def _forget(self, check: _Check) -> None:
        """Nobody waits for it any more; it was perhaps the one that the others waited behind."""
        if check is self._waiting[0] and self._claim is not None:
            self._claim.cancel()
            self._claim = None
        self._waiting.remove(check)
        self._begin_some()

    def _begin_some(self) -> None:
        """All that can begin. Nobody overtakes: who needs much memory would never be the next."""
        memory = self._runtime.memory
        while self._waiting and self._running < self.AT_ONCE and self._claim is None:
            octets = self._waiting[0].candidate.memory
            if memory.reserve_due(octets):
                self._begin(self._waiting.popleft())
            else:
                self._claim = memory.claim(octets, self._claim_granted)

    def _claim_granted(self) -> None:
        """The first of those that wait has its memory."""
        self._claim = None
        self._begin(self._waiting.popleft())
        self._begin_some()

    def _begin(self, check: _Check) -> None:
        self._running += 1
        run = partial(check.candidate.matches, check.password)
        self._runtime.login_threads.submit(run, partial(self._ended_in_thread, check))

    def _ended_in_thread(self, check: _Check, good: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell
            self._runtime.loop.call_soon_threadsafe(self._ended, check, good, error)

    def _ended(self, check: _Check, good: Any, error: BaseException | None) -> None:
        self._running -= 1
        self._runtime.memory.release(check.candidate.memory)
        if check.good.cancelled():  # the client has gone
            log = about(logger, check.session_id)
            log.debug("a check of a password ended when nobody waited any more")
        elif error is not None:
            check.good.set_exception(error)
        else:
            check.good.set_result(good)
        self._begin_some()
