"""How a worker makes the server of its parent again, and its share of the totals."""

from __future__ import annotations

import dataclasses
import pickle
import ssl
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TypeAlias

from ehlo import paths
from ehlo.server.options import rules
from ehlo.server.options.config import Options, check_values
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.run import Owner
from ehlo.server.tls.certificates import FileContext

Recipe: TypeAlias = Callable[[], Owner]
"""Makes the server in a worker; it can be pickled."""


class StartError(RuntimeError):
    """Raised when a worker cannot start, or no worker can."""


def share_of(options: Options, workers: int, number: int) -> Options:
    """Return the options with the share of the totals of the worker with this number, from 0 on.

    The shares of connections add up to their total; those of memory are rounded up.
    """
    return dataclasses.replace(
        options,
        max_connections=(options.max_connections + number) // workers,
        max_memory=-(-rules.memory_limit(options) // workers),
        max_disk=-(-rules.disk_limit(options) // workers),
        workers=1,
    )


def check_workers(options: Options) -> None:
    """Raise `ValueError` for workers that this system cannot have."""
    if options.workers > 1 and not paths.IS_POSIX:
        raise ValueError("workers needs a POSIX system; leave it out")


def check(options: Options) -> None:
    """Check that a worker could serve with these options. Raises what it would raise."""
    check_values(options)
    check_workers(options)
    rules.check_addresses(options)
    if options.max_connections < options.workers:
        raise ValueError(
            f"max_connections is {options.max_connections}; it must be at least the number of "
            f"workers, {options.workers}"
        )
    worker = with_handler(share_of(options, options.workers, 0))
    rules.resolve_all(worker, callbacks_of(worker))


def recipe(options: Options, make: Callable[..., Owner]) -> Recipe:
    """Return a recipe for the server that `make` makes of these options.

    Raises `ValueError` for options that no other process can have.
    """
    if not isinstance(options.handler, str):
        raise ValueError("handler must be one that workers can import; name it as 'module:attr'")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    overrides = [each.overrides.items() for each in options.listeners]
    for name, value in chain(*overrides, values.items()):
        _check_portable(name, value)
    return partial(make, **values)


def _check_portable(name: str, value: object) -> None:
    """Raise `ValueError` for a value that another process cannot have."""
    if isinstance(value, ssl.SSLContext) and not isinstance(value, FileContext):
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
