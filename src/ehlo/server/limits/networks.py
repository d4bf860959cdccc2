"""Which peers are trusted with something: a set of networks, as a user writes them.

It fails closed: what is not clearly inside is outside.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ehlo.session import Peer

__all__ = ["Networks"]

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 2.5.5.2: IPv4-mapped addresses

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """`peer in networks`; empty is false. An IPv4-mapped IPv6 address is the IPv4 address."""

    networks: tuple[Network, ...] = ()
    unix: bool = False
    """Whether the clients of Unix sockets are in it: they have no address to tell them apart."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """From `"10.0.0.0/8"`, `"::1"`, or `"unix:"` for every client of a Unix socket.

        `"none"` alone is no network, for where an empty list cannot be said. Raises `ValueError`
        that names the text that is none of these; a network must not have bits set beyond its
        prefix, since then nobody knows what was meant.
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
            address = ipaddress.ip_address(peer.host.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if address.version == 6 else None
        return any((mapped or address) in network for network in self.networks)


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"not a network: {text!r} (10.0.0.0/8, ::1, unix:, or none alone)"
        ) from error
    if network.version == 6 and network.subnet_of(_MAPPED):
        mapped = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network
