"""Hooks: the ones that a handler has, one call of a hook, and the meaning of its result.

No hook of a session is called anywhere else.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from ehlo.handler import Callbacks, is_async
from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Reject, Reply
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import Journal, about
from ehlo.server.observing.steps import Named, Steps
from ehlo.server.runtime import Runtime
from ehlo.server.system.threads import Job
from ehlo.server.waits import Wait

T = TypeVar("T")

Answer = Reply | list[Reply | None] | None
"""The answer to an event; a list has one reply per recipient, in LMTP."""

Outcome = Callable[[object], Answer]
"""Turns a hook's result into the answer; an exception counts as the hook's own failure."""

Ended = tuple[object, BaseException | None]
"""The result of a hook, or its exception."""

logger = logging.getLogger("ehlo.server")
handler_logger = logging.getLogger("ehlo.handler")


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook that the handler has."""

    name: str
    call: Callable[..., Any]
    is_async: bool
    needs_turn: bool = True
    """Whether it counts for `max_handlers`."""

    @property
    def trouble(self) -> Reply:
        """The reply for a hook that has failed."""
        return _TROUBLE.get(self.name, replies.TROUBLE)


_TROUBLE = {
    "on_connect": replies.CONNECT_TROUBLE,
    "on_tls": replies.CONNECT_TROUBLE,
    "on_auth": replies.AUTH_TROUBLE,
    "on_secret": replies.AUTH_TROUBLE,
}


Hooks = Mapping[str, Hook]
"""The hooks of a handler by name; one that it does not override is not there, and costs nothing."""


def hooks_of(callbacks: Callbacks) -> Hooks:
    """Return the hooks that an application has."""
    return {name: Hook(name, call, is_async(call)) for name, call in callbacks.by_name.items()}


# -- one call ------------------------------------------------------------------------------------


class Call(Wait[Ended]):
    """Calls a hook once, in a task or in a thread; awaiting it gives the result or the exception.

    It ends once, even if nothing awaits it any more. Then it releases `size` bytes of memory.
    """

    __slots__ = ("_at_end", "_journal", "_runtime", "_work", "asked", "began", "hook", "size")

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal,
        hook: Hook,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        """`at_end` is called when the hook has ended, whether anything awaits it or not."""
        self.resume = None
        self.hook = hook
        self.asked = monotonic()
        self.began: float | None = None
        """When the hook was called, by `monotonic`; `None` while it waits for its turn."""
        self.size = 0
        self._runtime = runtime
        self._journal = journal
        self._at_end = at_end
        self._work: asyncio.Task[None] | Job[object] | None = None  # until it is its turn

    def start(self, arguments: tuple[object, ...], context: Context) -> None:
        """Begin, or wait for a turn. Nothing of the hook has run when this returns."""
        runtime, hook = self._runtime, self.hook
        if hook.needs_turn:
            turns = runtime.turns
            if not turns.free:
                turns.wait(self, partial(self.start, arguments, context))
                return
            turns.free -= 1
        if hook.is_async:
            # Not by the loop's factory, which might begin at once (eager tasks of Python 3.12)
            self.began = monotonic()
            work = self._run(arguments)
            self._work = asyncio.Task(work, loop=runtime.loop, context=context)
        else:
            # A copy: the loop, or the thread of a hook that is late, may be in the context still
            run = partial(context.copy().run, self._call, *arguments)
            self._work = runtime.threads.submit(run, self._ended_in_thread)

    def _call(self, *arguments: object) -> object:
        """Call the hook in a thread."""
        self.began = monotonic()
        return self.hook.call(*arguments)

    async def _run(self, arguments: tuple[object, ...]) -> None:
        """Await the hook in a task, and resume the session."""
        result: object = None
        error: BaseException | None = None
        try:
            result = await timed(self.hook.call(*arguments), self, self._runtime.steps)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # noqa: BLE001  answered and logged, `SystemExit` too
            error = problem
        try:
            self._ended(result, error)
        finally:  # its traceback refers to this frame, and the frame to the whole message
            del result, error, arguments

    @property
    def names(self) -> tuple[str, str]:
        """The names of the hook and of the session."""
        return self.hook.name, self._journal.session_id

    @property
    def spent(self) -> float:
        """Seconds since the hook was called; 0 while it waits for its turn."""
        return 0.0 if self.began is None else monotonic() - self.began

    def _ended_in_thread(self, result: object, error: BaseException | None) -> None:
        outcome = [(result, error)]
        del result, error  # which may hold a whole message: the loop takes them out

        def end() -> None:
            self._ended(*outcome.pop())

        if not self._runtime.to_loop(end):
            log = about(logger, self._journal.session_id)
            log.warning("%s ended after the server", self.hook.name)
            self._runtime.memory.forget(self.size)

    def _ended(self, result: object, error: BaseException | None) -> None:
        if self.hook.needs_turn and self._work is not None:
            turns = self._runtime.turns
            turns.free += 1
            if turns.are_awaited:
                turns.next()
        if self._at_end is not None:
            self._at_end()
        self._journal.hook_ended(self.hook.name, self.asked)
        resume, self.resume = self.resume, None
        if resume is not None:
            resume((result, error))
            return
        self._runtime.memory.release(self.size)
        self.size = 0
        if not isinstance(error, asyncio.CancelledError):
            about(logger, self._journal.session_id).warning(
                "%s ended too late; its result is dropped (%s)",
                self.hook.name,
                "it returned" if error is None else "it failed",
            )

    def cancel(self) -> None:
        """Cancel the hook. A task ends; a thread that has begun goes on."""
        work = self._work
        # What has not begun would not say that it has ended. This may be called twice
        if isinstance(work, asyncio.Task):
            if not work.cancelling():
                work.add_done_callback(self._cancelled)
            work.cancel()
        elif self._runtime.turns.forget(self) if work is None else work.cancel():
            self._runtime.loop.call_soon(self._ended, None, asyncio.CancelledError())

    def _cancelled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # otherwise it has begun, and has said that it ended
            self._ended(None, asyncio.CancelledError())


@types.coroutine
def timed(work: Awaitable[T], run: Named, steps: Steps) -> Generator[Any, Any, T]:
    """Await a hook, and time each step in which it blocks the loop."""
    awaiting = work.__await__()
    step: Callable[[Any], object] = awaiting.send
    sent: object = None
    while True:
        steps.begun = begun = monotonic()
        steps.run = run
        try:
            awaited = step(sent)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.run = None
            seconds = monotonic() - begun
            if seconds > steps.BLOCKED:
                steps.note_blocked(run, seconds)
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001  a cancellation: it is the hook's to hear of
            step, sent = awaiting.throw, error
        else:
            step = awaiting.send


# -- what a result means -------------------------------------------------------------------------


def answer_of(result: object) -> Reply | None:
    """Return the answer for a hook's result. Raises `TypeError` if it is no answer."""
    if result is None or isinstance(result, Reply):
        return result
    raise _no_answer("a hook returns None or a Reply", result)


def queue_answer_of(result: object) -> Reply | None:
    """Return the answer for the result of `on_message`: a `str` is a queue id.

    Raises `TypeError` or `ValueError` if it is no answer.
    """
    if result is None:
        return None
    return replies.queued_as(result) if isinstance(result, str) else answer_of(result)


def answers_of(message: Message, recipients: Sequence[Address], result: object) -> Answer:
    """Return the answer for the result of `on_message` in LMTP: one reply, or one per recipient.

    Raises as `queue_answer_of` does, and `ValueError` if a key is no recipient.
    """
    given: dict[str, Reply | None] = {}
    for_all: Reply | None = None
    if isinstance(result, Mapping):
        given = {str(recipient): queue_answer_of(answer) for recipient, answer in result.items()}
    else:
        for_all = queue_answer_of(result)
    strangers = given.keys() - set(map(str, recipients))
    if strangers:
        raise ValueError(f"on_message answers for {len(strangers)} that are no recipients")
    given.update(message.refusals)
    if not given or (for_all is not None and for_all.refuses):
        return for_all
    return [given.get(str(recipient), for_all) for recipient in recipients]


def identity_of(result: object) -> str | Reply:
    """Return the identity from the result of `on_auth`, or the rejection.

    Raises `TypeError` if it is neither.
    """
    if result is None or result is False:
        return replies.BAD_CREDENTIALS
    if isinstance(result, str) and result:
        return result
    if isinstance(result, Reply) and result.refuses:
        return result
    raise _no_answer("on_auth returns an identity or None", result)


def _no_answer(what: str, result: object) -> TypeError:
    if inspect.iscoroutine(result):
        result.close()  # of a `def` that should be an `async def`: nothing awaits it
    return TypeError(f"{what}, not {type(result).__name__}")


def failure_of(error: BaseException, hook: Hook, session_id: str) -> Reply:
    """Return the reply for a hook's exception: that of a `Reject`, otherwise `trouble`, logged."""
    if isinstance(error, Reject):
        return error.reply
    log_failure(about(handler_logger, session_id), error, "%s failed", hook.name)
    return hook.trouble
