"""How a worker makes the server of its parent again, and its share of the totals."""

from __future__ import annotations

import dataclasses
import pickle
import ssl
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

from ehlo.server.options import rules
from ehlo.server.options.config import Options
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.run import Owner
from ehlo.server.tls.certificates import (
    Certificate,
    FileContext,
    file_context,
    set_like,
    settings_of,
)

Recipe: TypeAlias = Callable[[], Owner]
"""Makes the server in a worker; it can be pickled."""


class StartError(RuntimeError):
    """Raised when a worker cannot start, or no worker can."""


def share_of(options: Options, workers: int) -> Options:
    """Return the options with one worker's share of the totals, rounded up."""
    return dataclasses.replace(
        options,
        max_connections=-(-options.max_connections // workers),
        max_memory=-(-rules.memory_limit(options) // workers),
        workers=1,
    )


def check(options: Options) -> None:
    """Check that a worker could serve with these options. Raises what it would raise."""
    if options.workers < 1:
        raise ValueError(f"workers is {options.workers}; it must be more than 0")
    rules.check_addresses(options)
    worker = with_handler(share_of(options, options.workers))
    rules.resolve_all(worker, callbacks_of(worker))


def recipe(options: Options, make: Callable[..., Owner]) -> Recipe:
    """Return a recipe for the server that `make` makes of these options.

    Raises `ValueError` for options that no other process can have.
    """
    if not isinstance(options.handler, str):
        raise ValueError("handler must be one that workers can import; name it as 'module:attr'")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    tls = values.pop("tls_config")
    if not isinstance(tls, FileContext):
        values["tls_config"], tls = tls, None
    overrides = [each.overrides.items() for each in options.listeners]
    for name, value in chain(*overrides, values.items()):
        _check_portable(name, value)
    files = None if tls is None else (tls.certificates, settings_of(tls))
    return partial(_make_again, make, values, files)


def _check_portable(name: str, value: object) -> None:
    """Raise `ValueError` for a value that another process cannot have."""
    if isinstance(value, ssl.SSLContext):
        raise ValueError(
            f"{name} cannot be passed to workers; call configure_tls, or set a function"
        )
    try:
        pickled = pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"{name} cannot be passed to workers: {error}") from error
    if b"__main__" in pickled:  # which is another module in a worker
        raise ValueError(
            f"{name} is in the program, where workers cannot import it; move it to a module"
        )


def _make_again(
    make: Callable[..., Owner],
    values: dict[str, Any],
    files: tuple[tuple[Certificate, ...], dict[str, Any]] | None,
) -> Owner:
    if files is not None:
        certificates, settings = files
        values = {**values, "tls_config": set_like(file_context(certificates), settings)}
    return make(**values)
