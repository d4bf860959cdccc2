"""Ends of a connection: `Peer`, addresses as a user writes them, networks, keys for counting.

An IPv4-mapped IPv6 address is unmapped in one way, here. Membership in networks fails closed: what
is not clearly inside is outside.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

__all__ = ["INHERITED", "Networks", "Peer", "address_key", "parse_address", "unmapped"]

INHERITED: Final = ("fd:", "systemd:")
"""How the addresses of sockets begin that are open when the server starts."""

_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 2.5.5.2


class Peer(NamedTuple):
    """One end of a connection. Prints as `host:port`, `[v6]:port`, or the path of a Unix socket."""

    host: str
    """An IP address, or `unix:` and a path."""
    port: int
    """The TCP port; 0 for a Unix socket."""

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether this is an end of a Unix socket."""
        return self.host.startswith("unix:")


def unmapped(host: str) -> str:
    """Return the IPv4 address that an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) stands for.

    Any other `host` is returned as it is.
    """
    if not host.lower().startswith("::ffff:"):
        return host
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def address_key(host: str) -> str:
    """Return what `host` is counted as: its IPv4 address, or the /64 of its IPv6 address."""
    host = unmapped(host)
    if ":" not in host or host.startswith("unix:"):
        return host
    address = host.partition("%")[0]
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)


def parse_address(addr: str) -> Peer:
    """Parse an address to listen on.

    `addr` is `host:port`, `:port`, `[v6]:port`, `unix:/path`, or a socket that is open already
    (`fd:3`, `systemd:`, `systemd:name`); empty means `:25`. Raises `ValueError`.
    """
    if addr.startswith(INHERITED):
        if addr.startswith("fd:") and not addr[len("fd:") :].isdecimal():
            raise ValueError(f"not the number of an open file: {addr!r}")
        return Peer(addr, 0)
    if addr.startswith("unix:"):
        if len(addr) == len("unix:"):
            raise ValueError("unix: without a path")
        return Peer(addr, 0)
    match = _HOST_PORT.fullmatch(addr or ":25")
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"not an address: {addr!r} (host:port, :port, [v6]:port or unix:/path)")
    return Peer(match["v6"] or match["host"] or "", int(match["port"]))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """A set of networks, for `peer in networks`; an empty one is false."""

    networks: tuple[Network, ...] = ()
    """The networks, with IPv4-mapped ones as IPv4."""
    unix: bool = False
    """Whether clients of Unix sockets are inside; they have no address to tell them apart."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Parse `"10.0.0.0/8"`, `"::1"`, or `"unix:"` for every client of a Unix socket.

        `"none"` alone is an empty set. A network must not have bits set beyond its prefix. Raises
        `ValueError` that names the text.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if given == ["none"]:
            return cls()
        return cls(tuple(_network(text) for text in given if text != "unix:"), "unix:" in given)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix

    def __contains__(self, peer: Peer) -> bool:
        if peer.is_unix:
            return self.unix
        try:
            address = ipaddress.ip_address(unmapped(peer.host.partition("%")[0]))
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"not a network: {text!r} (10.0.0.0/8, ::1, unix:, or none alone)"
        ) from error
    if network.version == 6 and network.subnet_of(_MAPPED):
        base = unmapped(str(network.network_address))
        return ipaddress.IPv4Network(f"{base}/{network.prefixlen - 96}")
    return network
