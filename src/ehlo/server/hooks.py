"""Hooks: the ones that a handler has, and one call of a hook.

No hook of a session is called anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import types
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from ehlo.handler import Callbacks, Origin, is_async, name_of
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import Journal, about
from ehlo.server.observing.steps import Named, Steps
from ehlo.server.results import ASKED, MEANINGS, Meaning
from ehlo.server.runtime import Runtime
from ehlo.server.system.threads import Job
from ehlo.server.waits import Wait

T = TypeVar("T")

Ended = tuple[object, BaseException | None]
"""The result of a hook, or its exception."""

logger: logging.Logger = logging.getLogger("ehlo.server")
handler_logger: logging.Logger = logging.getLogger("ehlo.handler")


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook that the handler has."""

    name: str
    call: Callable[..., Any]
    is_async: bool
    needs_turn: bool = True
    """Whether it counts for `max_handlers`."""
    origin: Origin | None = None
    """The function that an option names, if it is not a method of a `Handler`."""
    is_silent: Callable[[], bool] | None = None
    """Returns whether the hook has nothing to say now, and is not called."""
    meaning: Meaning = field(init=False)

    def __post_init__(self) -> None:
        name = self.name if self.origin is None else self.origin.option
        object.__setattr__(self, "meaning", MEANINGS.get(name, MEANINGS.get(self.name, ASKED)))

    @property
    def trouble(self) -> Reply:
        """The reply for a hook that has failed."""
        return self.meaning.trouble

    def __str__(self) -> str:
        """Return the name of the hook, or of the option, and that of the user's function."""
        option, function = (self.name, self.call) if self.origin is None else self.origin
        return f"{option} ({name_of(function)})"


Hooks = Mapping[str, Hook]
"""The hooks of a handler by name; one that it does not override is not there, and costs nothing."""


def hooks_of(callbacks: Callbacks) -> Hooks:
    """Return the hooks that an application has."""
    origins, silent = callbacks.origins, callbacks.silent
    return {
        name: Hook(name, call, is_async(call), origin=origins.get(name), is_silent=silent.get(name))
        for name, call in callbacks.by_name.items()
    }


# -- one call ------------------------------------------------------------------------------------


class Call(Wait[Ended]):
    """Calls a hook once, in a task or in a thread; awaiting it gives the result or the exception.

    It ends once, even if nothing awaits it any more. Then it releases `size` bytes of memory.
    """

    __slots__ = (
        *("_has_thread", "_has_turn", "_journal", "_key", "_runtime", "_work"),
        *("asked", "began", "hook", "size"),
    )

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal,
        hook: Hook,
        key: str | None = None,
    ) -> None:
        """`key` is that of the client's address; `None` is exempt."""
        self.resume: Callable[[Ended], object] | None = None
        self.hook = hook
        self.asked: float = monotonic()
        self.began: float | None = None
        """When the hook was called, by `monotonic`; `None` while it waits for its turn."""
        self.size: int = 0
        self._runtime = runtime
        self._journal = journal
        self._key = key
        self._has_thread = self._has_turn = False  # its place among those that need one
        self._work: asyncio.Task[None] | Job[object] | None = None  # until it is its turn

    def start(self, arguments: tuple[object, ...], context: Context) -> None:
        """Begin, or wait for a turn. Nothing of the hook has run when this returns.

        A hook for a thread waits for one first: those that wait there take no turn from others.
        """
        hook, runtime, key = self.hook, self._runtime, self._key
        if not hook.is_async and not self._has_thread:
            threads = runtime.thread_turns
            if not threads.take(key):
                threads.wait(key, self, partial(self._start_in_thread, arguments, context))
                return
            self._has_thread = True
        if hook.needs_turn and not self._has_turn:
            turns = runtime.turns
            if key is None and turns.free > 0:  # as `take` does; most hooks that are counted
                turns.free -= 1
            elif not turns.take(key):
                turns.wait(key, self, partial(self._start_in_turn, arguments, context))
                return
            self._has_turn = True
        if hook.is_async:
            # Not by the loop's factory, which might begin at once (eager tasks of Python 3.12)
            self.began = monotonic()
            work = self._run(arguments)
            self._work = asyncio.Task(work, loop=runtime.loop, name="ehlo hook", context=context)
        else:
            # A copy: the loop, or the thread of a hook that is late, may be in the context still
            run = partial(context.copy().run, self._call, *arguments)
            self._work = runtime.threads.submit(run, self._ended_in_thread)

    def _start_in_thread(self, arguments: tuple[object, ...], context: Context) -> None:
        """Begin, or wait for a turn, since there is a thread."""
        self._has_thread = True
        self.start(arguments, context)

    def _start_in_turn(self, arguments: tuple[object, ...], context: Context) -> None:
        """Begin, since it is this hook's turn."""
        self._has_turn = True
        self.start(arguments, context)

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
        except BaseException as problem:  # answered and logged, `SystemExit` too
            if isinstance(problem, KeyboardInterrupt) and _in_main_thread():
                raise  # a signal's; in any other thread it is the hook's own
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
            log.warning("%s ended after the server", self.hook)
            self._runtime.memory.forget(self.size)

    def _ended(self, result: object, error: BaseException | None) -> None:
        if self._has_turn:
            turns = self._runtime.turns
            if self._key is None and not turns.are_awaited:  # as `give_back` does
                turns.free += 1
            else:
                turns.give_back(self._key)
        if self._has_thread:
            self._runtime.thread_turns.give_back(self._key)
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
                self.hook,
                "it returned" if error is None else "it failed",
            )

    def note_wrong(self, described: str) -> None:
        """Log that the hook has returned what it must not return."""
        log = about(handler_logger, self._journal.session_id)
        hook = self.hook
        log.error("%s returned %s; return %s", hook, described, hook.meaning.returns)

    def cancel(self) -> None:
        """Cancel the hook. A task ends; a thread that has begun goes on."""
        work = self._work
        # What has not begun would not say that it has ended. This may be called twice
        if isinstance(work, asyncio.Task):
            if not work.cancelling():
                work.add_done_callback(self._cancelled)
            work.cancel()
        elif self._stop_waiting() if work is None else work.cancel():
            self._runtime.loop.call_soon(self._ended, None, asyncio.CancelledError())

    def _stop_waiting(self) -> bool:
        """Wait for a turn no more; return whether it has waited."""
        runtime = self._runtime
        needs_thread = not self.hook.is_async and not self._has_thread
        turns = runtime.thread_turns if needs_thread else runtime.turns
        return turns.forget(self._key, self)

    def _cancelled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # otherwise it has begun, and has said that it ended
            self._ended(None, asyncio.CancelledError())


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
            sent = None  # an exception that was thrown refers to this frame, and to the message
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


def failure_of(error: BaseException, hook: Hook, session_id: str) -> Reply | Disconnect:
    """Return the answer for a hook's exception: a `Reject` has one, a `Disconnect` is one.

    For any other it is `trouble`, and the exception is logged.
    """
    if isinstance(error, Reject):
        error.__traceback__ = None  # of one that is raised again and again, it would grow
        return error.reply
    if isinstance(error, Disconnect):
        return error.with_traceback(None)  # which refers to the arguments of the hook
    log_failure(about(handler_logger, session_id), error, "%s failed", hook, users=True)
    error.__traceback__ = None  # which refers to the arguments, and their frames to the exception
    return hook.trouble
