"""`module:attr`: from what is written on the command line to the object that is meant."""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import click

from ehlo.handlers.base import Handler

__all__ = ["handler_of", "load"]


def load(text: str) -> Any:
    """The object that `module:attr` names; modules are looked for in this directory, too.

    Raises `click.UsageError` for what is not there. What the module itself raises is its own bug,
    and comes through.
    """
    module_name, _, path = text.partition(":")
    if not module_name or not path:
        raise click.UsageError(f"{text!r} is not of the form module:attr")
    module = _import(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        raise click.UsageError(f"module {module_name!r} has no attribute {path!r}") from None


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # not the one that is meant, but one that it imports
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(f"no module named {name!r}") from None
    except TypeError:
        if not name.startswith("."):
            raise
        raise click.UsageError(f"{name!r} is a relative name: give the whole of it") from None


def handler_of(target: Any, text: str) -> Any:
    """`target`, or an instance of it when it is a class of handlers. Raises `click.UsageError`."""
    if not (isinstance(target, type) and issubclass(target, Handler)):
        return target
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        reason = f"{text} cannot be made without arguments ({error}): name an instance of it"
        raise click.UsageError(reason) from None
    return target()
