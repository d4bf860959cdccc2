"""`module:attr`: from a name to the object that is meant, and from that to a handler.

What a module raises as it is imported is its own bug, and comes through.
"""

from __future__ import annotations

import importlib
import inspect
from functools import reduce
from typing import Any

from ehlo.handler import Handler

__all__ = ["NotThereError", "instance_of", "load"]


class NotThereError(ValueError):
    """What was named is not there, or is not what it should be; no error of the module's own."""


def load(text: str) -> Any:
    """The object that `module:attr` names. Raises `NotThereError` for what is not there."""
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        raise NotThereError(f"{text!r} is not of the form module:attr")
    module = _import(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        raise NotThereError(f"module {module_name!r} has no attribute {path!r}") from None


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # not the one that is meant, but one that it imports
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise NotThereError(f"no module named {name!r}") from None
    except TypeError:
        if not name.startswith("."):
            raise
        raise NotThereError(f"{name!r} is a relative name: give the whole of it") from None


def instance_of(found: Any, text: str, *, factory: bool) -> Any:
    """What is served: an instance of a class of handlers, what a factory makes, or `found`.

    Raises `NotThereError` when that would need arguments.
    """
    if not factory and not (isinstance(found, type) and issubclass(found, Handler)):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        reason = f"{text} cannot be made without arguments ({error}): name an instance of it"
        raise NotThereError(reason) from None
    return found()
