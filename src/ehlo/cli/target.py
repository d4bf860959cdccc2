"""`module:attr` on the command line: what is not there is wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ehlo.server.options import target

__all__ = ["handler_of", "load"]


def load(text: str) -> Any:
    """The object that `module:attr` names; modules are looked for in this directory, too.

    Raises `click.UsageError` for what is not there. What the module itself raises is its own bug,
    and comes through.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return target.load(text)
    except target.NotThereError as error:
        raise click.UsageError(str(error)) from None


def handler_of(found: Any, text: str, *, factory: bool = False) -> Any:
    """`found`, or what it makes when it is a class of handlers or a factory.

    Raises `click.UsageError`.
    """
    try:
        return target.instance_of(found, text, factory=factory)
    except target.NotThereError as error:
        raise click.UsageError(str(error)) from None
