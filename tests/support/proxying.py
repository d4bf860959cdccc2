"""PROXY headers as a proxy writes them, right or wrong (HAProxy's proxy-protocol.txt)."""

from __future__ import annotations

import ipaddress

__all__ = ["LOCAL", "PROXY", "SIGNATURE", "TCP4", "TCP6", "UNIX", "UNSPEC", "block", "crc_of"]
__all__ += ["ends", "line", "ssl_tlv", "tlv", "unix_ends", "with_crc"]

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31


def line(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Return a header of version 1, of the address family of `source`."""
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def block(command: int, family: int, rest: bytes, *, length: int | None = None) -> bytes:
    """Return a header of version 2; `rest` is addresses and TLVs, and `length` may be wrong."""
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2) + rest


def ends(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Return the addresses of a header of version 2."""
    hosts = b"".join(ipaddress.ip_address(host).packed for host in (source, destination))
    return hosts + source_port.to_bytes(2) + destination_port.to_bytes(2)


def unix_ends(source: bytes, destination: bytes) -> bytes:
    """Return the same for Unix sockets."""
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def ssl_tlv(client: int, verify: int, **texts: bytes) -> bytes:
    """Return PP2_TYPE_SSL with its own TLVs by name."""
    kinds = {"version": 0x21, "cn": 0x22, "cipher": 0x23, "sig_alg": 0x24, "key_alg": 0x25}
    inner = b"".join(tlv(kinds[name], value) for name, value in texts.items())
    return tlv(0x20, bytes([client]) + verify.to_bytes(4) + inner)


def crc_of(data: bytes) -> int:
    """Return the CRC-32C bit by bit: slow, and plainly RFC 4960 appendix B."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def with_crc(command: int, family: int, rest: bytes, behind: bytes = b"") -> bytes:
    """Return a header of version 2 with its checksum between `rest` and `behind`."""
    whole = block(command, family, rest + tlv(0x03, bytes(4)) + behind)
    begin = 16 + len(rest) + 3
    return whole[:begin] + crc_of(whole).to_bytes(4) + whole[begin + 4 :]
