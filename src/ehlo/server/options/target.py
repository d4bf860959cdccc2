"""Handlers: from a name `module:attr` to its object, from that to a handler, and to its hooks.

An exception that a module raises while it is imported is its own bug, and is not caught.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from contextvars import ContextVar
from dataclasses import replace
from functools import reduce
from types import ModuleType
from typing import Any, Final, TypeGuard

from ehlo.functions import callbacks_of_functions
from ehlo.handler import Callbacks, Composed, Handler, callbacks_of_handler, name_of
from ehlo.message import Message
from ehlo.server.options.config import Options

being_imported: Final[ContextVar[str]] = ContextVar("ehlo_being_imported", default="")
"""The name of the module of the user that is being imported; `""` without one."""


class NotThereError(ValueError):
    """Raised if a name leads to nothing, or to nothing that can be served."""


def load(text: str) -> object:
    """Return the object that `module:attr` names. Raises `NotThereError`."""
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        part = "attribute" if module_name else "module"
        raise NotThereError(f"{text!r} has no {part} part; write module:attr")
    module = imported(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        raise NotThereError(f"module {module_name!r} has no attribute {path!r}") from None


def imported(name: str) -> ModuleType:
    """Return a module of the user, which must not serve meanwhile.

    Raises `NotThereError` if there is none, and what it raises.
    """
    token = being_imported.set(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # it may be another module that is missing, which this one imports
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise NotThereError(f"no module named {name!r}") from None
    except TypeError:
        if not name.startswith("."):
            raise
        raise NotThereError(f"{name!r} is a relative name; write the full name") from None
    finally:
        being_imported.reset(token)


def check_not_importing() -> None:
    """Raise `RuntimeError` if a module of the user that is to be served is being imported.

    It would serve, and when it has ended, the command that imports it would serve again.
    """
    if name := being_imported.get():
        raise RuntimeError(
            f"module {name} serves while it is imported; serve under if __name__ == '__main__':"
        )


def instance_of(found: Any, text: str, *, factory: bool) -> Any:
    """Return an instance of a class of handlers, what a factory returns, or else `found`.

    Raises `NotThereError` if that needs arguments.
    """
    if not factory and not is_class(found):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise NotThereError(f"{text} needs arguments ({error}); pass an instance of it") from None
    made = found()
    if inspect.iscoroutine(made):
        made.close()
        raise NotThereError(f"{text} is async def; a factory must be def")
    return made


def is_class(handler: object) -> TypeGuard[type[Handler]]:
    """Return whether it is a class of handlers, and no instance."""
    return isinstance(handler, type) and issubclass(handler, Handler)


def with_handler(options: Options) -> Options:
    """Return the options with the handler that a name, class or factory stands for in its place.

    Raises `ValueError` if there is none, and whatever the module raises.
    """
    if isinstance(options.handler, str):
        name, found = options.handler, load(options.handler)
    elif options.factory or is_class(options.handler):
        name, found = name_of(options.handler), options.handler
    else:
        return options
    handler = instance_of(found, name, factory=options.factory)
    return dataclasses.replace(options, handler=handler, factory=False)


def callbacks_of(options: Options) -> Callbacks:
    """Return the hooks of the handler, or those of the functions. Raises `TypeError`."""
    callbacks = _given_callbacks(options)
    if options.auth_file is not None and ("on_auth" in callbacks or "on_secret" in callbacks):
        raise TypeError(
            "auth_file cannot be combined with auth_handler, on_auth or on_secret; leave one out, "
            "or check an ehlo.PasswordFile in on_auth"
        )
    return callbacks


def _given_callbacks(options: Options) -> Callbacks:
    handler = options.handler
    if isinstance(handler, Composed):
        return _with_functions(handler.callbacks, options)
    if isinstance(handler, Handler):
        if options.rcpt_handler is not None or options.auth_handler is not None:
            raise TypeError(
                "rcpt_handler and auth_handler cannot be combined with a Handler; "
                "override on_rcpt and on_auth instead"
            )
        callbacks = callbacks_of_handler(handler)
        if "on_message" not in callbacks:
            raise TypeError(f"{type(handler).__name__} has no on_message; define it to accept mail")
        return callbacks
    if isinstance(handler, type) or not callable(handler):
        advice = _advice_for(handler)
        raise TypeError(f"handler must be a function or an ehlo.Handler, not {handler!r}{advice}")
    return callbacks_of_functions(handler, options.rcpt_handler, options.auth_handler)


def _with_functions(callbacks: Callbacks, options: Options) -> Callbacks:
    """Return the hooks of a handler around functions, with those of the options.

    Raises `TypeError` if there is another hook in the place of one.
    """
    hooks, origins = dict(callbacks.by_name), dict(callbacks.origins)
    functions = {"on_rcpt": options.rcpt_handler, "on_auth": options.auth_handler}
    for name, function in functions.items():
        known = origins.get(name)
        if function is None or (known is not None and known.function is function):
            continue
        option = "rcpt_handler" if name == "on_rcpt" else "auth_handler"
        if name in hooks:
            raise TypeError(f"{option} cannot be combined with {name}; leave one out")
        made = callbacks_of_functions(_unused, options.rcpt_handler, options.auth_handler)
        hooks[name], origins[name] = made.by_name[name], made.origins[name]
    return replace(callbacks, by_name=hooks, origins=origins)


def _unused(_message: Message) -> None:
    """Stands for the handler where only the functions next to it are wanted."""


def _advice_for(wrong: object) -> str:
    """Return what to write instead of a handler that is none."""
    if isinstance(wrong, str):
        return "; write module:attr"
    if isinstance(wrong, type):
        return "; pass an instance of it, or derive it from ehlo.Handler"
    if hasattr(wrong, "append"):
        return "; pass its method append to collect messages"
    if hasattr(wrong, "on_message"):
        return f"; derive {type(wrong).__name__} from ehlo.Handler"
    return ""
