"""From an address as a user writes it to listening sockets."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from ehlo.session import Peer

__all__ = ["bind", "bind_all", "bound_address", "parse_address"]

_BACKLOG = 1024
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_TRIES = 16  # for a free port that is free in both families


def parse_address(addr: str) -> Peer:
    """`host:port`, `:port`, `[v6]:port` or `unix:/path`; empty is `:25`. Raises `ValueError`."""
    if addr.startswith("unix:"):
        if len(addr) == len("unix:"):
            raise ValueError("unix: without a path")
        return Peer(addr, 0)
    match = _HOST_PORT.fullmatch(addr or ":25")
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"not an address: {addr!r} (host:port, :port, [v6]:port or unix:/path)")
    return Peer(match["v6"] or match["host"] or "", int(match["port"]))


def bind(addrs: str | Sequence[str]) -> list[socket.socket]:
    """Listening sockets for the addresses. Raises `OSError` that names the one that failed."""
    sockets: list[socket.socket] = []
    try:
        for addr in [addrs] if isinstance(addrs, str) else addrs:
            sockets += _bind_one(parse_address(addr))
    except BaseException:
        _give_back(sockets)
        raise
    return sockets


def bind_all(groups: Iterable[str | Sequence[str]]) -> list[list[socket.socket]]:
    """The same for several, all of them or none."""
    bound: list[list[socket.socket]] = []
    try:
        for addrs in groups:
            bound.append(bind(addrs))  # noqa: PERF401  what is bound must be known when one fails
    except BaseException:
        for sockets in bound:
            _give_back(sockets)
        raise
    return bound


def _give_back(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        address = bound_address(sock)
        sock.close()
        if address.is_unix:
            Path(address.host.removeprefix("unix:")).unlink(missing_ok=True)


def bound_address(sock: socket.socket) -> Peer:
    """Where a listening socket really is."""
    if sock.family == socket.AF_UNIX:
        return Peer(f"unix:{sock.getsockname()}", 0)
    host, port = sock.getsockname()[:2]
    return Peer(host, port)


def _bind_one(address: Peer) -> list[socket.socket]:
    try:
        if address.is_unix:
            return [_bind_unix(address.host.removeprefix("unix:"))]
        if address.host:
            return [_bind_host(address.host, address.port)]
        return _bind_all(address.port)
    except OSError as error:
        where = str(address) if address.host else f":{address.port}"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error


def _bind_host(host: str, port: int) -> socket.socket:
    family, _, _, _, sockaddr = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _listening(family, sockaddr)


def _bind_all(port: int) -> list[socket.socket]:
    """IPv4 and IPv6, on the same port; IPv4 alone where the machine has no IPv6."""
    for _ in range(_TRIES if port == 0 else 1):
        v4 = _listening(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104  asked for by `:port`
        try:
            v6 = _listening(socket.AF_INET6, ("::", v4.getsockname()[1]))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return [v4]
            v4.close()
            if port != 0 or error.errno != errno.EADDRINUSE:
                raise
        else:
            return [v4, v6]
    raise OSError(errno.EADDRINUSE, "no port is free for both IPv4 and IPv6")


def _listening(family: int, sockaddr: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(sockaddr)  # type: ignore[arg-type]  # of getaddrinfo, whatever the family
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    """A socket that nobody listens on any more is replaced; nothing else is."""
    try:
        stale = stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path)  # noqa: PTH116  str is what bind takes
    except FileNotFoundError:
        stale = False
    if stale:
        Path(path).unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
