"""Opening a server's sockets: bind, drop root privileges, and check what the user then needs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ehlo.message import check_directory
from ehlo.server.options.config import Options
from ehlo.server.options.rules import check_addresses, per_listener
from ehlo.server.system import listener, privileges
from ehlo.server.tls.certificates import FileContext

__all__ = ["check_spool", "open_sockets"]


def open_sockets(
    options: Options, sock: socket.socket | None, bind_views: Callable[[], None]
) -> tuple[list[list[socket.socket]], list[str]]:
    """Bind, then drop root privileges.

    Returns the sockets by listener, and the paths to remove at the end. With `sock`, that is the
    only one. Raises `ValueError` for addresses that would be unsafe, `OSError` for those that
    cannot be bound, and `UnusableError` for what the user could not use afterwards.
    """
    check_addresses(options, None if sock is None else [listener.bound_address(sock)])
    account = privileges.find(options.user) if options.user else None
    listeners = per_listener(options)
    if sock is not None:
        groups, paths = [[sock]], []
    else:
        groups = listener.bind_all(
            (each.addr, listener.parse_mode(each.unix_mode)) for each in listeners
        )
        paths = [path for each in listeners for path in listener.unix_paths(each.addr)]
    try:
        for each, group in zip(listeners, groups, strict=True):
            check_addresses(each, map(listener.bound_address, group))
        bind_views()
        if account is not None:
            privileges.give_up(account)
            privileges.check_readable(account, _files(listeners))
        check_spool(options)
    except BaseException:
        listener.give_back(chain.from_iterable(groups), paths)
        raise
    return groups, paths


def check_spool(options: Options) -> None:
    """Check that `spool_dir` can hold a body. Raises `UnusableError`."""
    if not options.spool_dir:
        return
    try:
        check_directory(options.spool_dir)
    except OSError as error:
        reason = f"spool_dir: cannot write to {options.spool_dir}: {error.strerror}"
        raise privileges.UnusableError(reason) from error


def _files(listeners: Sequence[Options]) -> Iterator[str]:
    """Yield the files that a running server reads again."""
    for each in listeners:
        if each.auth_file is not None:
            yield each.auth_file
        if isinstance(each.tls_config, FileContext):
            for certificate in each.tls_config.certificates:
                yield from certificate.files
