"""From the options to listening sockets, with root's rights given up behind them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ehlo.message import check_directory
from ehlo.server.options import rules
from ehlo.server.options.config import Options
from ehlo.server.system import listener, privileges
from ehlo.server.tls.certificates import FileContext

__all__ = ["check_spool", "open_sockets"]


def open_sockets(
    options: Options, sock: socket.socket | None, bind_views: Callable[[], None]
) -> tuple[list[list[socket.socket]], list[str]]:
    """Bind, then give up root; the sockets by listener, and the paths to be removed in the end.

    Raises `UnusableError` for what could not be used after that.
    """
    account = privileges.find(options.user) if options.user else None
    listeners = rules.per_listener(options)
    if sock is not None:
        rules.check_addresses(options, [listener.bound_address(sock)])
        groups, paths = [[sock]], []
    else:
        groups = listener.bind_all(
            (each.addr, listener.parse_mode(each.unix_mode)) for each in listeners
        )
        paths = [path for each in listeners for path in listener.unix_paths(each.addr)]
    try:
        for each, group in zip(listeners, groups, strict=True):
            rules.check_addresses(each, map(listener.bound_address, group))
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
    """Whether the directory that was named can hold a body. Raises `UnusableError`."""
    if not options.spool_dir:
        return
    try:
        check_directory(options.spool_dir)
    except OSError as error:
        reason = f"spool_dir: cannot write to {options.spool_dir}: {error.strerror}"
        raise privileges.UnusableError(reason) from error


def _files(listeners: Sequence[Options]) -> Iterator[str]:
    """What a running server reads again."""
    for each in listeners:
        if each.auth_file is not None:
            yield each.auth_file
        if isinstance(each.tls_config, FileContext):
            for certificate in each.tls_config.certificates:
                yield from certificate.files
