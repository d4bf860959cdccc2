"""`Handler` and `Callbacks`: which hooks of a handler are called, and which functions are async."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

from ehlo import Handler, Message, Session
from ehlo.handler import Callbacks, callbacks_of_handler, is_async


class Smallest(Handler):
    async def on_message(self, session: Session, message: Message) -> None: ...


class WithRcpt(Smallest):
    def on_rcpt(self, *_: object) -> None: ...


def names_of(handler: Handler) -> set[str]:
    return set(callbacks_of_handler(handler).by_name)


# -- callbacks -----------------------------------------------------------------------------------


def test_callbacks_contain_the_names_of_their_hooks() -> None:
    callbacks = Callbacks({"on_message": print})
    assert "on_message" in callbacks
    assert "on_rcpt" not in callbacks
    assert not callbacks.streams


def test_a_handler_that_overrides_nothing_has_no_callbacks() -> None:
    assert names_of(Handler()) == set()


def test_only_overridden_hooks_are_callbacks() -> None:
    assert names_of(Smallest()) == {"on_message"}


def test_inherited_hooks_are_callbacks() -> None:
    class Derived(WithRcpt):
        def on_data(self, session: Session) -> None: ...

    assert names_of(Derived()) == {"on_message", "on_rcpt", "on_data"}


def test_a_hook_may_be_an_attribute_of_the_instance() -> None:
    def reset(session: Session) -> None: ...

    handler = Smallest()
    handler.on_reset = reset  # type: ignore[method-assign]  # what is tested
    assert callbacks_of_handler(handler).by_name["on_reset"] is reset


def test_a_hook_may_be_a_static_method_a_class_method_or_a_partial() -> None:
    def rcpt(extra: str, *_: object) -> str:
        return extra

    class Mixed(Smallest):
        # Without staticmethod, Python 3.14 binds a partial as it does a function
        on_rcpt = staticmethod(functools.partial(rcpt, "partial"))  # type: ignore[assignment]  # what is tested

        @staticmethod
        def on_data(*arguments: object) -> Any:
            return arguments

        @classmethod
        def on_reset(cls, *arguments: object) -> Any:
            return cls, arguments

    by_name = callbacks_of_handler(Mixed()).by_name
    assert set(by_name) == {"on_message", "on_rcpt", "on_data", "on_reset"}
    assert by_name["on_rcpt"]("session", "recipient", {}) == "partial"
    assert by_name["on_data"]("session") == ("session",)
    assert by_name["on_reset"]("session") == (Mixed, ("session",))


def test_callbacks_are_bound_to_the_handler() -> None:
    class Bound(Smallest):
        def on_reset(self, session: Session) -> Any:
            return self, session

    handler = Bound()
    assert callbacks_of_handler(handler).by_name["on_reset"]("session") == (handler, "session")


def test_other_methods_are_no_callbacks() -> None:
    class Other(Smallest):
        def deliver(self) -> None: ...

        def _on_deliver(self) -> None: ...

    assert names_of(Other()) == {"on_message"}


def test_callbacks_know_whether_the_handler_streams() -> None:
    class Streaming(Smallest):
        streams = True

    assert callbacks_of_handler(Streaming()).streams
    assert not callbacks_of_handler(Smallest()).streams


# -- def or async def ----------------------------------------------------------------------------


def test_a_function_is_async_if_it_is_async_def_or_wraps_one() -> None:
    async def coroutine(*_: object) -> None: ...

    @functools.wraps(coroutine)
    def wrapper(*arguments: object) -> Any:
        return coroutine(*arguments)

    class Callable:
        async def __call__(self, *_: object) -> None: ...

    @functools.wraps(print)
    async def around(*_: object) -> None: ...

    assert is_async(coroutine)
    assert is_async(wrapper)
    assert is_async(around)
    assert is_async(mock.AsyncMock())
    assert not is_async(mock.Mock())
    assert is_async(functools.partial(coroutine, "extra"))
    assert is_async(Callable())
    assert is_async(Smallest().on_message)


def test_any_other_function_is_not_async() -> None:
    class Callable:
        def __call__(self, *_: object) -> None: ...

    assert not is_async(print)
    assert not is_async(lambda: None)
    assert not is_async(functools.partial(print, "extra"))
    assert not is_async(Callable())
    assert not is_async(WithRcpt().on_rcpt)
