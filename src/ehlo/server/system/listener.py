"""Listening sockets: from addresses as a user writes them, bound or inherited."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from ehlo import paths
from ehlo.net import INHERITED, ListenAddresses, Peer, addresses_of, parse_address
from ehlo.paths import Entry
from ehlo.server.system import systemd

logger: logging.Logger = logging.getLogger("ehlo.server")

UNIX: Final = getattr(socket, "AF_UNIX", None)
"""The family of Unix sockets; `None` on Windows."""
BACKLOG = 1024
"""How many connections may wait to be accepted."""
_TRIES = 16  # to find a port that is free in both families

_Endpoint: TypeAlias = tuple[int, tuple[Any, ...]]
"""A family, and an address in it as `getaddrinfo` returns it: host and port first."""


class _Access(NamedTuple):
    """Says who may use a Unix socket: its mode, and its owner as a user and a group."""

    mode: int | None = None
    owner: tuple[int, int] | None = None


def parse_mode(text: str) -> int | None:
    """Return the file mode that octal digits stand for, `None` for none. Raises `ValueError`."""
    if not text:
        return None
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise ValueError(f"unix_mode is {text!r}; it must be three octal digits, such as 660")
    return int(text, 8)


def unix_paths(addrs: ListenAddresses) -> list[str]:
    """Return the paths of the Unix sockets that `bind` makes, which its caller removes."""
    parsed = map(parse_address, addresses_of(addrs))
    return [each.host.removeprefix("unix:") for each in parsed if each.is_unix]


def remove(made: Sequence[str]) -> None:
    """Remove Unix sockets; the next start replaces those that cannot be removed now."""
    for path in made:
        try:
            with paths.entry_of(path, follow=False) as entry:
                _remove_socket(entry)
        except FileNotFoundError:
            pass
        except OSError as error:  # a directory in its place must not prevent the end, either
            logger.info("cannot remove %s: %s", path, error.strerror)


def _remove_socket(entry: Entry) -> None:
    status = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.ENOTSOCK, "it is no longer a socket")
    os.unlink(entry.name, dir_fd=entry.directory)


def bind(addrs: ListenAddresses, unix_mode: int | None = None) -> list[socket.socket]:
    """Return listening sockets for the addresses. Raises `OSError` that names the bad one."""
    return bind_all([(addrs, unix_mode)])[0]


def bind_all(
    listeners: Iterable[tuple[ListenAddresses, int | None]],
) -> list[list[socket.socket]]:
    """Bind for several listeners, each with its addresses and its mode: all of them or none."""
    groups: list[list[socket.socket]] = []
    made: list[str] = []
    try:
        for addrs, unix_mode in listeners:
            groups.append([])
            for addr in addresses_of(addrs):
                groups[-1] += _bind_one(parse_address(addr), _Access(unix_mode))
                made += unix_paths(addr)
    except BaseException:
        give_back(chain(*groups), made)
        raise
    return groups


def give_back(sockets: Iterable[socket.socket], made: Sequence[str]) -> None:
    """Close the sockets that `bind` made, and remove their paths."""
    for sock in sockets:
        sock.close()
    remove(made)


@contextlib.contextmanager
def kept(sock: socket.socket) -> Iterator[socket.socket]:
    """Close the socket if the block raises."""
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def bind_private(path: str, owner: tuple[int, int] | None = None) -> socket.socket:
    """Return a listening Unix socket that only one user can open, by default the own one.

    `owner` is a user and a group. Raises as `bind` does.
    """
    return _bind_one(Peer(f"unix:{path}", 0), _Access(0o600, owner))[0]


def bound_address(sock: socket.socket) -> Peer:
    """Return the address of a listening socket, with its real port."""
    if sock.family == UNIX:
        return Peer(f"unix:{sock.getsockname()}", 0)
    host, port = sock.getsockname()[:2]
    return Peer(host, port)


def _bind_one(address: Peer, access: _Access) -> list[socket.socket]:
    try:
        if address.is_unix:
            return [_bind_unix(address.host.removeprefix("unix:"), access)]
        if address.host.startswith(INHERITED):
            return _inherited(address.host)
        return _bind_each(_endpoints(address), address.port)
    except OSError as error:
        where = _written(address)
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error


def _written(address: Peer) -> str:
    if address.host.startswith(INHERITED):
        return address.host
    return str(address) if address.host else f":{address.port}"


def _inherited(addr: str) -> list[socket.socket]:
    """Adopt the listening sockets that `addr` names."""
    kind, _, name = addr.partition(":")
    numbers = [int(name)] if kind == "fd" else systemd.listening_fds(name)
    with contextlib.ExitStack() as adopted:
        return [adopted.enter_context(kept(_adopted(number))) for number in numbers]


def _adopted(number: int) -> socket.socket:
    with kept(socket.socket(fileno=number)) as sock:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or sock.type != socket.SOCK_STREAM:
            reason = f"file descriptor {number} is not a listening stream socket"
            raise OSError(errno.EINVAL, reason)
        sock.setblocking(False)
        sock.set_inheritable(False)  # by the programs that a handler starts
        return sock


def _endpoints(address: Peer) -> list[_Endpoint]:
    """Return the addresses that a host has, such as both of `localhost`; `""` is all of them."""
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET6, ("::", 0))]  # noqa: S104  see above
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _bind_each(endpoints: Sequence[_Endpoint], port: int) -> list[socket.socket]:
    """Bind all endpoints to one port, without those that the machine lacks, such as IPv6."""
    for _ in range(_TRIES if port == 0 and len(endpoints) > 1 else 1):
        try:
            return _bind_once(endpoints, port)
        except OSError as error:
            if port != 0 or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free for both IPv4 and IPv6")


def _bind_once(endpoints: Sequence[_Endpoint], port: int) -> list[socket.socket]:
    lacking: OSError | None = None
    with contextlib.ExitStack() as bound:
        sockets: list[socket.socket] = []
        for family, (host, _, *scope) in endpoints:
            wanted = sockets[0].getsockname()[1] if sockets else port
            try:
                sock = _listening(family, (host, wanted, *scope))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                lacking = error
            else:
                sockets.append(bound.enter_context(kept(sock)))
        if lacking is not None and not sockets:
            raise lacking
        return sockets


def _listening(family: int, sockaddr: object) -> socket.socket:
    with kept(socket.socket(family, socket.SOCK_STREAM)) as sock:
        if paths.IS_POSIX:  # on Windows, another process could bind the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(sockaddr)  # type: ignore[arg-type]  # from getaddrinfo, for any family
        sock.listen(BACKLOG)
        return sock


def _bind_unix(path: str, access: _Access) -> socket.socket:
    """Bind a path; replaces a socket without a listener, and nothing else."""
    if UNIX is None:
        raise OSError(errno.EAFNOSUPPORT, "Unix sockets need a POSIX system")
    with paths.entry_of(path, follow=False) as entry:
        _remove_stale(entry, path)
        with kept(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
            sock.setblocking(False)
            sock.bind(path)
            _set_access(entry, path, access)  # before anybody can connect
            sock.listen(BACKLOG)
            return sock


def _remove_stale(entry: Entry, path: str) -> None:
    with contextlib.suppress(FileNotFoundError), _held_socket(entry, path) as name:
        if name is not None and not _answers(name):
            _remove_socket(entry)


def _set_access(entry: Entry, path: str, access: _Access) -> None:
    """Check that the socket is where it should be, and set its mode and owner."""
    with _held_socket(entry, path) as name:
        if name is None or Path(name).stat().st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "the socket was replaced while it was made")
        if access.mode is not None:
            Path(name).chmod(access.mode)
        if access.owner is not None:
            os.chown(name, *access.owner)


@contextlib.contextmanager
def _held_socket(entry: Entry, path: str) -> Iterator[str | None]:
    """Hold the socket at an entry, and yield a name that stays its own; `None` if it is none."""
    status = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)
    if not stat.S_ISSOCK(status.st_mode):
        yield None
        return
    if not hasattr(os, "O_PATH"):
        yield path  # there is no other name than on Linux
        return
    file = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.directory)
    try:
        is_own = stat.S_ISSOCK(os.fstat(file).st_mode)
        yield (paths.name_of(file) or path) if is_own else None
    finally:
        os.close(file)


def _answers(path: str) -> bool:
    """Return whether a process listens at `path`, even if it denies access or is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)
