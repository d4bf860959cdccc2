"""Calls one hook from another: a `def` hook runs in a thread of its own, not on the loop."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ehlo.handler import is_async

if TYPE_CHECKING:
    from asyncio import Future


async def call_hook(hook: Callable[..., Any], arguments: tuple[Any, ...]) -> object:
    """Return the result of a hook; one that is `def` runs in a thread of its own."""
    if is_async(hook):
        return await hook(*arguments)
    result, error = await _in_thread(hook, arguments)
    try:
        if error is not None:
            raise error
        return result
    finally:
        del error  # its traceback refers to this frame, and the frame to the message


async def _in_thread(
    hook: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[object, BaseException | None]:
    """Return the result of a `def` hook, or the exception that it raised."""
    import asyncio  # a program that only writes down faults has not imported it

    loop = asyncio.get_running_loop()
    ended: Future[list[tuple[object, BaseException | None]]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: object, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result([(result, error)])

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(hook, *arguments)
        except BaseException as problem:  # noqa: BLE001  raised in the task that awaits it
            error = problem
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)
        del error  # its traceback refers to this frame

    # A daemon: the interpreter does not wait for a hook that blocks
    threading.Thread(target=run, name="ehlo-hook", daemon=True).start()
    return (await ended).pop()  # or the future, which the traceback refers to, would have the error
