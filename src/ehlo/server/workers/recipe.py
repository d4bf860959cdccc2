"""How a worker makes the server of its parent again, and which share of the totals it has."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import ssl
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from ehlo.server.options import rules
from ehlo.server.options.config import Options
from ehlo.server.tls.certificates import (
    Certificate,
    FileContext,
    file_context,
    set_like,
    settings_of,
)

if TYPE_CHECKING:
    from ehlo.server.server import Server

__all__ = ["Recipe", "StartError", "check", "divide", "recipe"]

Recipe: TypeAlias = "Callable[[], Server]"
"""Makes the server in a worker; it can be pickled."""


class StartError(RuntimeError):
    """Raised when a worker, or all of the first ones, cannot start."""


def divide(options: Options, workers: int) -> None:
    """Leave one worker's share of the totals, rounded up."""
    options.max_connections = -(-options.max_connections // workers)
    options.max_memory = -(-rules.memory_limit(options) // workers)
    options.workers = 1


def check(options: Options) -> None:
    """Whether a worker could serve so. Raises what it would raise."""
    if options.workers < 1:
        raise ValueError("workers must be more than 0")
    rules.check_addresses(options)
    worker = copy.copy(options)
    divide(worker, options.workers)
    rules.make_handler(worker)
    rules.resolve_all(worker, rules.as_callbacks(worker))


def recipe(options: Options) -> Recipe:
    """How a worker makes the same server. Raises `ValueError` for what it cannot be told."""
    if not isinstance(options.handler, str):
        raise ValueError(
            "workers need a handler that each of them can import: name it as 'module:attr'"
        )
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    tls = values.pop("tls_config")
    if not isinstance(tls, FileContext):
        values["tls_config"], tls = tls, None
    overrides = [each.overrides.items() for each in options.listeners]
    for name, value in chain(*overrides, values.items()):
        _check_portable(name, value)
    return partial(_remade, values, None if tls is None else (tls.certificates, settings_of(tls)))


def _check_portable(name: str, value: object) -> None:
    if isinstance(value, ssl.SSLContext):
        raise ValueError(
            f"workers cannot be handed a {name}: call configure_tls, or give a function"
        )
    try:
        octets = pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"workers cannot be handed {name}: {error}") from error
    if b"__main__" in octets:  # which is another module there
        raise ValueError(f"workers cannot import {name} from the program: put it into a module")


def _remade(
    values: dict[str, Any], tls: tuple[tuple[Certificate, ...], dict[str, Any]] | None
) -> Server:
    from ehlo.server.server import Server  # which imports this module

    server = Server(**values)
    if tls is not None:
        certificates, settings = tls
        server.tls_config = set_like(file_context(certificates), settings)
    return server
