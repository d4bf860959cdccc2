"""Finds what to serve: `module:attr`, a module alone, `file.py:attr`; and reads files of variables.

An exception that a module raises while it is imported is its own bug, and is not caught.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import click

from ehlo.cli.readable import reason_of
from ehlo.server.options import target

# What is served of a module that is named alone. A Server comes first: it has options of its own
_NAMES: Final = ("server", "app", "handler")
_VARIABLE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED: Final = re.compile(r"""(["'])(.*)\1\s*(?:#.*)?""")


def load(text: str, directory: str | None = None) -> object:
    """Return the object that `module:attr` names, as `named` writes it.

    Raises `click.UsageError` if there is none. What the module itself raises comes through.
    """
    module, attribute = named(text, directory)
    try:
        return target.load(f"{module}:{attribute or _attribute_of(module)}")
    except target.NotThereError as error:
        raise click.UsageError(_with_advice(text, str(error))) from None


def named(text: str, directory: str | None = None) -> tuple[str, str]:
    """Return the names of a module and of what to serve of it; the latter may be empty.

    The module is looked for in `directory`, by default the current one, and for `path/file.py` in
    that of the file. Raises `click.UsageError` if there is no such file.
    """
    name, _, attribute = text.partition(":")
    place = Path(directory or os.curdir).absolute()
    if name.endswith(".py") or os.sep in name:
        file = place / name
        if not file.is_file():
            raise click.UsageError(f"{text}: no such file: {name}; check the path")
        place, name = file.resolve().parent, file.stem
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    return name, attribute


def _attribute_of(module: str) -> str:
    """Return the name of what a module has to serve. Raises `click.UsageError` without any."""
    try:
        members = vars(target.imported(module))
    except target.NotThereError:
        wrong = "no module of this name; check the name, --app-dir and the current directory"
        if module.startswith("."):
            wrong = "a relative name; write the full name"
        raise click.UsageError(f"{module}: {wrong}") from None
    found = next((name for name in _NAMES if name in members), None)
    if found is None:
        raise click.UsageError(
            f"{module} has no {', '.join(_NAMES[:-1])} or {_NAMES[-1]}; "
            f"name what to serve: {module}:NAME"
        )
    return found


def read_variables(path: str) -> dict[str, str]:
    """Return the variables in a file of lines `NAME=VALUE`. Raises `click.UsageError`."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise click.UsageError(f"--env-file {path}: {reason_of(error)}; check the path") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"--env-file {path}: not UTF-8; save it as UTF-8") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _VARIABLE.fullmatch(line.strip())
        if match is None:
            raise click.UsageError(
                f"--env-file {path}: line {number} is not a variable; write NAME=VALUE"
            )
        quoted = _QUOTED.fullmatch(match[2])
        found[match[1]] = quoted[2] if quoted else match[2].partition(" #")[0].rstrip()
    return found


def _with_advice(text: str, error: str) -> str:
    return (
        error if ";" in error else f"{error}; check {text!r}, --app-dir and the current directory"
    )
