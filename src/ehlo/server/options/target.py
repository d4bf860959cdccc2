"""`module:attr`: from a name to the object that it stands for, and from that to a handler.

What a module raises while it is imported is its own bug, and comes through.
"""

from __future__ import annotations

import importlib
import inspect
from functools import reduce
from typing import Any

from ehlo.handler import Handler

__all__ = ["NotThereError", "instance_of", "load"]


class NotThereError(ValueError):
    """Raised if a name leads to nothing, or to nothing that can be served."""


def load(text: str) -> Any:
    """Return the object that `module:attr` names. Raises `NotThereError`."""
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        raise NotThereError(f"{text!r} has no attribute part; write module:attr")
    module = _import(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        raise NotThereError(f"module {module_name!r} has no attribute {path!r}") from None


def _import(name: str) -> Any:
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


def instance_of(found: Any, text: str, *, factory: bool) -> Any:
    """Return an instance of a class of handlers, what a factory returns, or else `found`.

    Raises `NotThereError` if that needs arguments.
    """
    if not factory and not (isinstance(found, type) and issubclass(found, Handler)):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise NotThereError(f"{text} needs arguments ({error}); name an instance of it") from None
    return found()
