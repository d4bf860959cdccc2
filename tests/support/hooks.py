"""Handlers for tests: `def` or `async def` hooks that record their calls and return an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ehlo import Handler, current_session

__all__ = ["KINDS", "Noted", "handler_of"]

KINDS = ("def", "async def")

# The number of arguments of each hook, without the handler itself
HOOKS = {
    "on_startup": 1,
    "on_shutdown": 1,
    "on_connect": 1,
    "on_hello": 2,
    "on_starttls": 1,
    "on_tls": 1,
    "on_auth": 2,
    "on_secret": 2,
    "on_mail": 3,
    "on_rcpt": 3,
    "on_data": 1,
    "on_message": 2,
    "on_replied": 3,
    "on_vrfy": 2,
    "on_reset": 1,
    "on_disconnect": 1,
}


class Noted:
    """Records the calls of hooks in order, with arguments, thread and current session."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.threads: list[str] = []
        self.contexts: list[Any] = []
        self._lock = threading.Lock()

    def note(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Record the call of a hook."""
        with self._lock:
            self.calls.append((name, arguments))
            self.threads.append(threading.current_thread().name)
            self.contexts.append(current_session.get())

    @property
    def names(self) -> list[str]:
        """The names of the hooks that were called, in order."""
        return [name for name, _ in self.calls]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each call of one hook."""
        return [arguments for called, arguments in self.calls if called == name]


def handler_of(kind: str, noted: Noted | None = None, /, **answers: Any) -> Handler:
    """Return a handler with these hooks and `on_message`, all of `kind`.

    An answer is what the hook returns; raised, where it is an exception; called with the hook's
    arguments, where it can be called.
    """
    noted = noted or Noted()
    hooks = {
        name: _hook(kind, name, noted, answer)
        for name, answer in ({"on_message": None} | answers).items()
    }
    made: type[Handler] = type("Made", (Handler,), hooks)
    return made()


def _hook(kind: str, name: str, noted: Noted, answer: Any) -> Callable[..., Any]:
    def act(_handler: Handler, *arguments: Any) -> Any:
        assert len(arguments) == HOOKS[name]
        noted.note(name, arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    async def act_async(handler: Handler, *arguments: Any) -> Any:
        return act(handler, *arguments)

    return act_async if kind == "async def" else act
