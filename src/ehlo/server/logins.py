"""Logins: their slow steps run in threads, two at a time, and addresses take turns.

A check that has begun cannot be stopped: its thread and its memory are given back when it has
ended, and not when its client has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ehlo.passwords.file import PasswordFile
from ehlo.passwords.lines import prepared
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import Credentials, PasswordCredentials
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.reply import Reject, Reply
from ehlo.server.hooks import Hook, Hooks
from ehlo.server.observing.journal import about
from ehlo.server.runtime import Runtime
from ehlo.session import Session

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("ehlo.server")


@dataclass(slots=True, eq=False)
class _Check:
    """A call that waits for a thread, or runs in one."""

    session_id: str
    key: str | None
    memory: int
    run: Callable[[], object] = field(repr=False)  # it holds a password
    ended: asyncio.Future[Any]
    held: int = 0
    """The bytes of memory that count for it."""


class Checks:
    """Runs what takes time in a login: two calls at a time, each with its memory.

    One alone needs no memory to be free, so that no message keeps users from logging in.

    Addresses take turns, so that one with many logins delays another one by a single check. At most
    `MOST_WAITING` wait. When there are more, the latest of the address with the most of them is
    rejected. The addresses that are exempt from limits are one here.
    """

    AT_ONCE = 2
    MOST_WAITING = 64

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: OrderedDict[str | None, deque[_Check]] = OrderedDict()  # the next one first
        self._running = 0

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return sum(map(len, self._waiting.values()))

    async def call(self, run: Callable[[], T], session: Session, memory: int = 0) -> T:
        """Return what `run` returns, called in a thread as soon as it is its turn.

        Raises what it raises, and `Reject` (454) if too many wait.
        """
        runtime = self._runtime
        key, ended = runtime.exempt.key(session.peer), runtime.loop.create_future()
        check = _Check(session.id, key, memory, run, ended)
        self._waiting.setdefault(key, deque()).append(check)
        if self.waiting > self.MOST_WAITING:
            self._reject_one()
        self._begin_some()
        try:
            result: T = await ended
            return result
        finally:
            if check in self._waiting.get(key, ()):  # otherwise it has begun
                self._forget(check)
                self._begin_some()

    async def derive(self, session: Session, run: Callable[[], T]) -> T:
        """Return what `run` makes of a user's secret, as `call` does."""
        return await self.call(run, session)

    def _reject_one(self) -> None:
        """Reject the latest call of the address with the most of them; of several, the latest."""
        check = max(reversed(self._waiting.values()), key=len)[-1]
        self._forget(check)
        about(logger, check.session_id).warning("too many logins wait for their check")
        if not check.ended.done():
            check.ended.set_exception(Reject.of(replies.AUTH_TROUBLE))

    def _forget(self, check: _Check) -> None:
        """Remove a call that waits."""
        waiting = self._waiting[check.key]
        waiting.remove(check)
        if not waiting:
            del self._waiting[check.key]

    def _begin_some(self) -> None:
        """Begin all that can. None overtakes: one that needs much memory would never be next."""
        memory = self._runtime.memory
        while self._waiting and self._running < self.AT_ONCE:
            check = next(iter(self._waiting.values()))[0]
            if memory.reserve(check.memory):
                check.held = check.memory
            elif self._running:
                return
            self._begin(check)

    def _begin(self, check: _Check) -> None:
        self._forget(check)
        if check.key in self._waiting:  # the others of this address wait for their next turn
            self._waiting.move_to_end(check.key)
        self._running += 1

        def done(result: object, error: BaseException | None) -> None:
            self._runtime.to_loop(lambda: self._ended(check, result, error))

        self._runtime.login_threads.submit(check.run, done)

    def _ended(self, check: _Check, result: object, error: BaseException | None) -> None:
        self._running -= 1
        self._runtime.memory.release(check.held)
        if check.ended.cancelled():  # the client has gone
            about(logger, check.session_id).debug("a check ended after its client had gone")
        elif error is not None:
            check.ended.set_exception(error)
        else:
            check.ended.set_result(result)
        self._begin_some()


# -- password files ------------------------------------------------------------------------------


def with_logins(
    hooks: Hooks, passwords: PasswordFile | None, runtime: Runtime, checks: Checks
) -> Hooks:
    """Return the hooks of a handler, and those for the logins if there is a password file.

    "derive" is what follows on `on_secret`, and "step" awaits that of a mechanism.
    """
    own = {"derive": _hook("on_secret", checks.derive), "step": _hook("mechanism", _step)}
    if passwords is not None:
        logins = Logins(passwords, runtime, checks)
        own["on_auth"] = _hook("on_auth", logins.on_auth)
        if passwords.scram_algorithms:
            own["on_secret"] = _hook("on_secret", logins.on_secret)
        hooks = {name: hooks[name] for name in hooks.keys() - {"on_auth", "on_secret"}}
    return {**hooks, **own}


def _hook(name: str, call: Callable[..., object]) -> Hook:
    """Return a hook that takes no turn: it may wait for memory of hooks that wait for a turn."""
    return Hook(name, call, is_async=True, needs_turn=False)


async def _step(proceed: Callable[[], Awaitable[object]]) -> object:
    return await proceed()


class Logins:
    """Provides the hooks `on_auth` and `on_secret` of a server with an `auth_file`."""

    def __init__(self, passwords: PasswordFile, runtime: Runtime, checks: Checks) -> None:
        self._passwords = passwords
        self._runtime = runtime
        self._checks = checks

    async def on_auth(self, session: Session, credentials: Credentials) -> str | Reply | None:
        """Return the user if the password is right."""
        if not isinstance(credentials, PasswordCredentials):
            raise TypeError(f"a password file cannot check {type(credentials).__name__}")
        username = prepared(credentials.username)
        if credentials.authzid and prepared(credentials.authzid) != username:
            return None  # no user may act as another (RFC 4616 2)
        candidate = await self._in_thread(partial(self._passwords.find, username))
        if candidate.memory > self._runtime.max_memory:
            about(logger, session.id).warning("max_memory is less than what a check takes")
            return replies.AUTH_TROUBLE
        matches = partial(candidate.matches, credentials.password)
        return username if await self._checks.call(matches, session, candidate.memory) else None

    async def on_secret(self, _session: Session, username: str) -> tuple[ScramKeys, ...] | None:
        """Return a user's keys for SCRAM; an unknown user gets keys that nothing matches."""
        find = partial(self._passwords.scram_keys_for_all, username)
        return await self._in_thread(find) or None

    async def _in_thread(self, find: Callable[[], T]) -> T:
        """Read the file, in a thread of its own: `def` hooks that hang must not prevent logins."""
        return await self._runtime.in_thread(find, self._runtime.login_threads)
