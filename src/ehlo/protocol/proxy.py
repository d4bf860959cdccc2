"""The PROXY protocol: a proxy's facts about a client, sent before the client's own bytes.

Versions 1 and 2 of HAProxy's specification, "The PROXY protocol" (proxy-protocol.txt, 2020/03/05);
section numbers in this module are its own. A header is read as a whole or rejected: any deviation
raises `ProxyError` as soon as it is known, and at most `LARGEST` bytes are held.

Text in a header may come from the client (a server name, a certificate's subject). It must be UTF-8
without control characters, so that it can be logged; otherwise the header is rejected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ehlo.net import unmapped
from ehlo.protocol import grammar

__all__ = ["LARGEST", "ProxyEnd", "ProxyError", "ProxyHeader", "ProxyReader", "ProxySSL", "crc32c"]

LARGEST: Final = 4096
"""Maximum size of a version 2 header in bytes; the specification asks for at least 536."""

_LONGEST_LINE: Final = 107  # 2.1, with its CRLF
_LONGEST_ID: Final = 128  # 2.2.5

# 2.1. A dotted quad may end an IPv6 address, since that is how systems print a mapped one.
_PORT = r"(0|[1-9][0-9]{0,4})"
_V4, _V6 = r"([0-9.]++)", r"([0-9A-Fa-f:.]++)"
_LINE: Final = re.compile(rf"PROXY (?:TCP4 {_V4} {_V4}|TCP6 {_V6} {_V6}) {_PORT} {_PORT}")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*+)?")

# 2.2
_LINE_START: Final = b"PROXY "
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES: Final = MappingProxyType({_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216})

_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x01, 0x02, 0x03, 0x05, 0x20
_VERSION, _CN, _CIPHER, _SIG_ALG, _KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25
_ONCE: Final = frozenset(
    {_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL, _VERSION, _CN, _CIPHER, _SIG_ALG, _KEY_ALG}
)


class ProxyError(ValueError):
    """Raised for bytes that are not a PROXY header. Its text never quotes them."""


class ProxyEnd(NamedTuple):
    """Describes one end of the connection between client and proxy."""

    host: str
    """An IP address (an IPv4-mapped one as IPv4), or `unix:` and a path."""
    port: int
    """0 for a Unix socket."""


class ProxySSL(NamedTuple):
    """Holds a proxy's facts about TLS between the client and itself (2.2.6).

    Example:

        def on_connect(self, session):
            if session.proxy.ssl is not None and session.proxy.ssl.verified:
                print(session.proxy.ssl.cn)
    """

    client: int
    """Flags: 1 TLS was used, 2 a certificate in this connection, 4 one in its TLS session."""
    verified: bool
    """Whether the client presented a certificate that the proxy has verified."""
    version: str = ""
    """The version of TLS, such as `"TLSv1.3"`; `""` if not given."""
    cn: str = ""
    """The common name in the client's certificate; `""` if not given."""
    sig_alg: str = ""
    """The algorithm that signed the proxy's certificate, such as `"SHA256"`."""
    key_alg: str = ""
    """The algorithm of the key in the proxy's certificate, such as `"RSA2048"`."""
    cipher: str = ""
    """The name of the cipher suite; `""` if not given."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Holds one header.

    `source` and `destination` are `None` if the real ends of the connection count: for LOCAL (the
    proxy connects for itself), UNKNOWN and UNSPEC.
    """

    version: Literal[1, 2]
    command: Literal["LOCAL", "PROXY"]
    source: ProxyEnd | None = None
    destination: ProxyEnd | None = None
    authority: str = ""
    """The host name that the client asked the proxy for (SNI)."""
    unique_id: bytes = b""
    ssl: ProxySSL | None = None
    alpn: bytes = b""
    tlvs: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """All values by type; of repeated values of a type unknown here, the first."""


class ProxyReader:
    """Reads one header: `feed` it until it gives something."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> tuple[ProxyHeader, bytes] | None:
        """Return the header and the bytes after it, or `None` if more bytes are needed.

        Raises `ProxyError`; do not feed more bytes after that.
        """
        self._data += data
        held = self._data
        is_line = held[:6] == _LINE_START[: len(held)]
        if not is_line and held[:12] != _SIGNATURE[: len(held)]:
            raise ProxyError("neither PROXY nor the signature of version 2")
        end = _line_end(held) if is_line else _block_end(held)
        if end is None or len(held) < end:
            return None
        header = bytes(held[:end])
        return (_read_line if is_line else _read_block)(header), bytes(held[end:])


# -- version 1 -----------------------------------------------------------------------------------


def _line_end(held: bytearray) -> int | None:
    end = held.find(b"\n", 0, _LONGEST_LINE) + 1
    if end == 0 and len(held) >= _LONGEST_LINE:
        raise ProxyError("a line that is too long")
    return end or None


def _read_line(line: bytes) -> ProxyHeader:
    """2.1: `PROXY SP ("TCP4" / "TCP6") SP address SP address SP port SP port CRLF`."""
    text = line[:-2]
    if line[-2:] != b"\r\n":
        raise ProxyError("a line that does not end with CRLF")
    if _UNKNOWN.fullmatch(text):
        return ProxyHeader(1, "PROXY")
    match = _LINE.fullmatch(text.decode("latin-1"))
    if match is None:
        raise ProxyError("a malformed line")
    *addresses, source_port, destination_port = filter(None, match.groups())
    family = ipaddress.IPv4Address if match[1] else ipaddress.IPv6Address
    try:
        source, destination = (_host(family(address)) for address in addresses)
    except ValueError:
        raise ProxyError("a malformed address") from None
    return ProxyHeader(
        1, "PROXY", _endpoint(source, source_port), _endpoint(destination, destination_port)
    )


def _endpoint(host: str, port: str) -> ProxyEnd:
    if int(port) > 65_535:
        raise ProxyError("a port beyond 65535")
    return ProxyEnd(host, int(port))


def _host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Proxies map an IPv4 end when the other one is IPv6: what it was before is the truth."""
    return unmapped(str(address))


# -- version 2 -----------------------------------------------------------------------------------


def _block_end(held: bytearray) -> int | None:
    """Where the header ends, once that is known; what cannot become one is refused at once."""
    if len(held) > 12 and held[12] not in (_LOCAL, _PROXY):
        raise ProxyError("an unknown version or command")
    if len(held) > 13 and held[12] == _PROXY and held[13] not in _ADDRESSES:
        raise ProxyError("an address family or protocol that is not taken")
    if len(held) < _FIXED:
        return None
    length = int.from_bytes(held[14:16])
    if _FIXED + length > LARGEST:
        raise ProxyError("a header that is too long")
    if held[12] == _PROXY and length < _ADDRESSES[held[13]]:
        raise ProxyError("a header that is too short for its addresses")
    return _FIXED + length


def _read_block(block: bytes) -> ProxyHeader:
    if block[12] == _LOCAL:
        _check_local(block)
        return ProxyHeader(2, "LOCAL")
    start = _FIXED + _ADDRESSES[block[13]]
    source, destination = _addresses(block[13], block[_FIXED:start])
    tlvs = _tlvs(block, start)
    _check_crc(block, start, tlvs)
    unique_id = tlvs.get(_UNIQUE_ID, b"")
    if len(unique_id) > _LONGEST_ID:
        raise ProxyError("a unique id that is too long")
    return ProxyHeader(
        2,
        "PROXY",
        source,
        destination,
        authority=_text(tlvs.get(_AUTHORITY, b"")),
        unique_id=unique_id,
        ssl=_ssl(tlvs[_SSL]) if _SSL in tlvs else None,
        alpn=tlvs.get(_ALPN, b""),
        tlvs=MappingProxyType(tlvs),
    )


def _check_local(block: bytes) -> None:
    """Check the block of LOCAL, which is otherwise discarded: a checksum must be right (2.2).

    The address family is ignored, so TLVs may begin anywhere; a block that does not read as TLVs is
    accepted.
    """
    start = _FIXED + _ADDRESSES.get(block[13], len(block))
    try:
        tlvs = _tlvs(block, start)
    except ProxyError:
        return
    _check_crc(block, start, tlvs)


def _addresses(family: int, octets: bytes) -> tuple[ProxyEnd | None, ProxyEnd | None]:
    if family == _UNSPEC:
        return None, None
    if family == _UNIX:
        return ProxyEnd(_unix(octets[:108]), 0), ProxyEnd(_unix(octets[108:]), 0)
    kind, size = (ipaddress.IPv4Address, 4) if family == _TCP4 else (ipaddress.IPv6Address, 16)
    ports = octets[2 * size :]
    return (
        ProxyEnd(_host(kind(octets[:size])), int.from_bytes(ports[:2])),
        ProxyEnd(_host(kind(octets[size : 2 * size])), int.from_bytes(ports[2:])),
    )


def _unix(octets: bytes) -> str:
    """The path up to its first NUL; a client of a Unix socket seldom has one."""
    return "unix:" + _text(octets.partition(b"\0")[0])


def _tlvs(block: bytes, start: int) -> dict[int, bytes]:
    """Return the values by type; each has one byte of type, two of length, and its value."""
    found: dict[int, bytes] = {}
    for kind, begin, end in _spans(block, start):
        if kind in found and kind in _ONCE:
            raise ProxyError("a TLV that is there twice")
        found.setdefault(kind, block[begin:end])
    return found


def _spans(block: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Of each TLV its type, and where its value begins and ends."""
    while start < len(block):
        begin = start + 3
        end = begin + int.from_bytes(block[start + 1 : begin])
        if begin > len(block) or end > len(block):
            raise ProxyError("a TLV that is cut short")
        yield block[start], begin, end
        start = end


def _check_crc(block: bytes, start: int, tlvs: Mapping[int, bytes]) -> None:
    """2.2.3: the checksum is that of the whole header, with zeros in its own place."""
    if _CRC32C not in tlvs:
        return
    begin, end = next((begin, end) for kind, begin, end in _spans(block, start) if kind == _CRC32C)
    if end - begin != 4:
        raise ProxyError("a checksum that is not of 32 bits")
    if crc32c(block[:begin] + bytes(4) + block[end:]) != int.from_bytes(tlvs[_CRC32C]):
        raise ProxyError("a wrong checksum")


def _ssl(value: bytes) -> ProxySSL:
    """Parse 2.2.6: client flags (one byte), verify (four), then TLVs of its own."""
    if len(value) < 5:
        raise ProxyError("a TLV on TLS that is too short")
    tlvs = _tlvs(value, 5)
    shown = value[0] & 0b110  # a certificate; verify is 0 without one, too
    return ProxySSL(
        client=value[0],
        verified=bool(shown) and not any(value[1:5]),
        version=_text(tlvs.get(_VERSION, b"")),
        cn=_text(tlvs.get(_CN, b"")),
        sig_alg=_text(tlvs.get(_SIG_ALG, b"")),
        key_alg=_text(tlvs.get(_KEY_ALG, b"")),
        cipher=_text(tlvs.get(_CIPHER, b"")),
    )


def _text(octets: bytes) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise ProxyError("text that is not UTF-8") from None
    if grammar.CONTROL.search(text):
        raise ProxyError("text with a control character")
    return text


# -- checksum ------------------------------------------------------------------------------------


def _crc_of(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F6_3B78 if octet & 1 else 0)
    return octet


# RFC 4960 appendix B: the polynomial 0x1EDC6F41, its bits reflected
_CRC: Final = tuple(map(_crc_of, range(256)))


def crc32c(data: bytes) -> int:
    """Compute the CRC-32C (Castagnoli) of `data` (RFC 4960 appendix B)."""
    crc = 0xFFFF_FFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFF_FFFF
