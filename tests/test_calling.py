"""`call_hook`: calls one hook from another."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ehlo.calling import call_hook
from support.serving import DEADLINE


class Argument:
    """Stands for a message."""


def fail(_argument: Argument) -> None:
    raise RuntimeError


async def fail_async(_argument: Argument) -> None:
    raise RuntimeError


async def failed(hook: Callable[..., Any]) -> weakref.ref[Argument]:
    argument = Argument()
    try:
        await call_hook(hook, (argument,))
    except RuntimeError:  # not by `pytest.raises`, which keeps it
        return weakref.ref(argument)
    raise AssertionError


@pytest.mark.parametrize("hook", [fail, fail_async])
def test_nothing_keeps_the_arguments_of_a_hook_that_has_failed(hook: Callable[..., Any]) -> None:
    """The exception refers to the frames that it came through, and these to the arguments."""
    gc.disable()
    try:
        argument = asyncio.run(failed(hook))
        for thread in threading.enumerate():
            if thread.name == "ehlo-hook":
                thread.join(DEADLINE)
        assert argument() is None
    finally:
        gc.enable()
