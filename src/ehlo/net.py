"""Ends of a connection: `Peer`, addresses as users write them, networks, keys for counting.

IPv4-mapped IPv6 addresses are unmapped here and nowhere else. A peer is in a set of networks only
if its address is valid and clearly inside.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, cast

INHERITED: Final = ("fd:", "systemd:")
"""The beginnings of addresses that name a socket which is open when the server starts."""

ListenAddress = int | tuple[str, int] | str
"""An address to listen on: text (see `parse_address`), a port, or `(host, port)`."""
ListenAddresses = ListenAddress | Sequence[ListenAddress]
"""One address to listen on, or several."""

_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 2.5.5.2


class Peer(NamedTuple):
    """Names one end of a connection: host and port, or a Unix socket.

    Example:

        >>> print(ehlo.Peer("192.0.2.1", 25), ehlo.Peer("2001:db8::1", 25))
        192.0.2.1:25 [2001:db8::1]:25
        >>> print(ehlo.Peer("unix:/run/smtp", 0))
        unix:/run/smtp
    """

    host: str
    """An IP address, or `unix:` followed by a path; `""` for all addresses of a machine."""
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
    """Return an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) as IPv4, any other host unchanged."""
    if not host.lower().startswith("::ffff:"):
        return host
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can connect to a host.

    That is a loopback address, also an IPv4-mapped one, `localhost`, and `unix:` with a path. Any
    other name is none.
    """
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def address_key(host: str) -> str:
    """Return the key for limits per address: the IPv4 address, or the /64 of the IPv6 address.

    Any other `host` is its own key.
    """
    host = unmapped(host)
    if ":" not in host or host.startswith("unix:"):
        return host
    address = host.partition("%")[0]
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)


def packed(key: str) -> bytes | None:
    """Return the bytes of an IPv6 address; `None` for anything else."""
    try:
        return socket.inet_pton(socket.AF_INET6, key)
    except OSError:
        return None


def addresses_of(addrs: ListenAddresses) -> list[ListenAddress]:
    """Return each of the addresses. A pair of a text and a number is one.

    So is anything that is no collection of addresses: `parse_address` rejects it.
    """
    if isinstance(addrs, str | bytes | Mapping) or not isinstance(addrs, Collection):
        return [cast("ListenAddress", addrs)]
    match addrs:
        case (str(host), int(port)) if isinstance(addrs, tuple):
            return [(host, port)]
        case _:
            return list(addrs)


def parse_address(addr: ListenAddress) -> Peer:
    """Parse an address to listen on.

    `addr` is `host:port`, `:port`, `[v6]:port`, `unix:/path`, or a socket that is already open:
    `fd:3`, `systemd:` or `systemd:name`. An empty `addr` means `:25`. An open socket has port 0.
    A number is a port of all addresses, and a tuple has host and port.

    Raises `ValueError`, which names `addr` and the valid forms.
    """
    text = _text_of(addr)
    if isinstance(addr, tuple) and text == "?":
        raise ValueError(f"not an address: {addr!r}; write (host, port), the port as an int")
    if text.startswith(INHERITED):
        if text.startswith("fd:") and not text[len("fd:") :].isdecimal():
            raise ValueError(f"not a file descriptor: {text!r}; write fd:3")
        return Peer(text, 0)
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError(f"path missing: {text!r}; write unix:/path")
        return Peer(text, 0)
    match = _HOST_PORT.fullmatch(text or ":25")
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(
            f"not an address: {addr!r}; write host:port, :port, [v6]:port or unix:/path"
        )
    return Peer(match["v6"] or match["host"] or "", int(match["port"]))


def _text_of(addr: ListenAddress) -> str:
    """Return an address as text; what is none becomes text that is none."""
    match addr:
        case str():
            return addr
        case int() if not isinstance(addr, bool):
            return f":{addr}"
        case (str(host), int(port)):
            return str(Peer(host, port))
        case _:
            return "?"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """Answers `peer in networks`. An empty set of networks is false.

    Example:

        networks = Networks.of(["10.0.0.0/8", "::1", "unix:"])
        assert Peer("10.1.2.3", 25) in networks
    """

    networks: tuple[Network, ...] = ()
    """The networks; IPv4-mapped ones are stored as IPv4."""
    unix: bool = False
    """Whether all clients of Unix sockets are inside."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Parse networks: `"10.0.0.0/8"`, `"::1"`, or `"unix:"` for all clients of Unix sockets.

        `"none"` alone is the empty set. Raises `ValueError`, which names the text, for anything
        else; a network with bits beyond its prefix (`10.0.0.1/8`) is not accepted.
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


def _network(text: object) -> Network:
    try:
        network = ipaddress.ip_network(str(text))  # a number itself would be an address
    except ValueError as error:
        raise ValueError(
            f"not a network: {text!r}; write 10.0.0.0/8, ::1, unix:, or none alone"
        ) from error
    if network.version == 6 and network.subnet_of(_MAPPED):
        base = unmapped(str(network.network_address))
        return ipaddress.IPv4Network(f"{base}/{network.prefixlen - 96}")
    return network
