"""Event loops for the forms that make one: blocking, or in a thread next to synchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TypeAlias, TypeVar, cast

from ehlo.server.system import machine
from ehlo.server.system.signals import Interrupted

T = TypeVar("T")

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(name: str) -> LoopFactory | None:
    """Return what makes a loop of that name; `None` for asyncio's own. Raises `ValueError`.

    `auto` is uvloop if it is installed.
    """
    if name not in ("auto", "asyncio", "uvloop"):
        raise ValueError(f"loop is {name!r}; it must be one of auto, asyncio, uvloop")
    if name == "asyncio" or (name == "auto" and importlib.util.find_spec("uvloop") is None):
        return None
    try:
        import uvloop  # an extra, and slow to import
    except ImportError as error:
        raise ValueError(
            "loop is 'uvloop', which is not installed; run pip install 'ehlo[standard]'"
        ) from error
    return uvloop.new_event_loop


def check_none_runs(what: str) -> None:
    """Raise `RuntimeError` if this thread runs an event loop, which `what` would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{what} cannot be called in a running event loop; write `async with server:` there, "
        "or `with server.in_thread():`"
    )


def run(
    work: Callable[[], Coroutine[object, object, None]],
    loop: str,
    abandon: Callable[[], None],
    *,
    tune_malloc: bool = False,
) -> None:
    """Run what `work` returns in a new loop, to its end.

    If the loop is interrupted (see `signals`), `abandon` is called while the loop does not run, and
    all tasks are cancelled. `tune_malloc` is for a process that only serves.
    """
    with (
        contextlib.suppress(Interrupted),
        asyncio.Runner(loop_factory=loop_factory(loop)) as runner,
    ):
        made = runner.get_loop()
        try:
            with contextlib.ExitStack() as stack:
                if tune_malloc:
                    stack.enter_context(machine.tended_malloc(made))
                    stack.enter_context(machine.frozen())
                runner.run(work())
        except Interrupted:
            # The interrupted task keeps that as its result, which is never retrieved
            made.set_exception_handler(lambda _loop, _context: None)
            abandon()
            raise


class LoopThread:
    """Runs a loop in a thread of its own until it is stopped.

    A process that was forked meanwhile has no such thread: `call` fails there, `stop` does nothing.
    """

    def __init__(self, loop: str, name: str) -> None:
        made: Future[asyncio.AbstractEventLoop] = Future()
        arguments = loop_factory(loop), made
        self._thread = threading.Thread(target=self._run, args=arguments, name=name, daemon=True)
        self._thread.start()
        self._loop = made.result()

    def _run(self, factory: LoopFactory | None, made: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                loop = runner.get_loop()
                loop.call_soon(made.set_result, loop)
                loop.run_forever()
        except BaseException as failure:
            if made.done():
                raise
            made.set_exception(failure)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, in this process."""
        return self._thread.is_alive()

    def call(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        """Run what `work` returns in the loop, and wait for its result.

        A `SystemExit` is raised here only: out of a task, it would end the loop.
        """
        exits: list[SystemExit] = []

        async def outcome() -> T | None:
            try:
                return await work()
            except SystemExit as error:
                exits.append(error)
                return None

        result = asyncio.run_coroutine_threadsafe(outcome(), self._loop).result()
        if exits:
            raise exits[0]
        return cast("T", result)

    def stop(self) -> None:
        """End the loop and wait for its thread."""
        if self.is_alive:
            self._loop.call_soon_threadsafe(self._loop.stop)  # it outlives each `Runtime`
        self._thread.join()
