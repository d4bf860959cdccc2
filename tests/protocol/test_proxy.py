"""PROXY headers, versions 1 and 2: what is read, what is refused, and where a header ends."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.protocol.proxy import (
    LARGEST,
    ProxyEnd,
    ProxyError,
    ProxyHeader,
    ProxyReader,
    ProxySSL,
    crc32c,
)
from support.proxying import (
    LOCAL,
    PROXY,
    SIGNATURE,
    TCP4,
    TCP6,
    UNIX,
    UNSPEC,
    block,
    crc_of,
    ends,
    line,
    ssl_tlv,
    tlv,
    unix_ends,
    with_crc,
)

V4 = ends("192.0.2.1", "198.51.100.2", 40001, 25)
V6 = ends("2001:db8::1", "2001:db8::2", 40001, 25)
LONGEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
TAILS = (b"", b"E", b"EHLO client\r\n", b"PROXY UNKNOWN\r\n", b"\x16\x03\x01" + bytes(5000))


def read(octets: bytes) -> tuple[ProxyHeader, bytes] | None:
    return ProxyReader().feed(octets)


def whole(octets: bytes) -> ProxyHeader:
    """The header that `octets` are, with nothing left; also byte by byte, and with tails."""
    found = read(octets)
    assert found is not None
    header, rest = found
    assert rest == b""
    reader = ProxyReader()
    for index in range(len(octets) - 1):
        assert reader.feed(octets[index : index + 1]) is None
    assert reader.feed(octets[-1:]) == (header, b"")
    for tail in TAILS:
        assert read(octets + tail) == (header, tail)
        reader = ProxyReader()
        assert reader.feed(octets[:9]) is None
        assert reader.feed(octets[9:] + tail) == (header, tail)
    return header


def drip(octets: bytes) -> None:
    """Byte by byte, none of which ends a header."""
    reader = ProxyReader()
    for index in range(len(octets)):
        assert reader.feed(octets[index : index + 1]) is None


def refused(octets: bytes) -> str:
    """Why they are refused; byte by byte and with a tail, too."""
    with pytest.raises(ProxyError) as caught:
        read(octets)
    with pytest.raises(ProxyError):
        read(octets + b"EHLO client\r\n")
    with pytest.raises(ProxyError, match=f"^{caught.value}$"):
        drip(octets)
    return str(caught.value)


# -- version 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "source", "destination"),
    [
        (
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ("192.168.0.1", 56324),
            ("192.168.0.11", 443),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ("255.255.255.255", 65535),
            ("255.255.255.255", 65535),
        ),
        (b"PROXY TCP4 0.0.0.1 10.0.0.1 0 0\r\n", ("0.0.0.1", 0), ("10.0.0.1", 0)),
        (b"PROXY TCP6 2001:DB8::1 ::1 1 25\r\n", ("2001:db8::1", 1), ("::1", 25)),
        (
            f"PROXY TCP6 {LONGEST} {LONGEST} 65535 65535\r\n".encode(),
            (LONGEST, 65535),
            (LONGEST, 65535),
        ),
        # An IPv4 client of an IPv6 address, as HAProxy writes it
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 25\r\n",
            ("192.0.2.1", 1),
            ("2001:db8::2", 25),
        ),
        (b"PROXY TCP6 ::ffff:c000:201 ::2 1 25\r\n", ("192.0.2.1", 1), ("::2", 25)),
    ],
)
def test_line_is_read(octets: bytes, source: tuple[str, int], destination: tuple[str, int]) -> None:
    assert whole(octets) == ProxyHeader(1, "PROXY", ProxyEnd(*source), ProxyEnd(*destination))


@pytest.mark.parametrize(
    "octets",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN \r\n",
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWN anything \xff\0  at all\r\n",
        b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
    ],
)
def test_unknown_keeps_the_real_ends(octets: bytes) -> None:
    assert whole(octets) == ProxyHeader(1, "PROXY")


@pytest.mark.parametrize(
    "text",
    [
        "PROXY",
        "PROXY ",
        "PROXY TCP4",
        "PROXY TCP4 ",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2",
        "PROXY unknown",
        "PROXY UNKNOWNS",
        "PROXY  UNKNOWN",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2",
        "PROXY TCP4 192.0.2.1  192.0.2.2 1 2",
        "PROXY TCP4 192.0.2.1 192.0.2.2  1 2",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1  2",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3",
        "PROXY\tTCP4\t192.0.2.1\t192.0.2.2\t1\t2",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1",
        "PROXY TCP4 192.0.2.1 1 2",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 99999 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 100000 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 00",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1_0 1",
        "PROXY TCP4 192.0.2.1 192.0.2.2 ¹ 1",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2",
        "PROXY TCP4 192.0.2.1. 192.0.2.2 1 2",
        "PROXY TCP4 192.0.2.1 192.0.2.2.3 1 2",
        "PROXY TCP4 3221225985 192.0.2.2 1 2",
        "PROXY TCP4 ::1 ::2 1 2",
        "PROXY TCP4 192.0.2.1 ::2 1 2",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2",
        "PROXY TCP6 ::1 192.0.2.2 1 2",
        "PROXY TCP6 ::1::2 ::2 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7 ::2 1 2",
        "PROXY TCP6 12345::1 ::2 1 2",
        "PROXY TCP6 fe80::1%eth0 ::2 1 2",
        "PROXY TCP6 [::1] ::2 1 2",
        "PROXY TCP6 ::g ::2 1 2",
        "PROXY UNIX /run/a /run/b",
        "PROXY UNKNOWN a\rb",
    ],
)
def test_malformed_line_is_refused(text: str) -> None:
    assert refused(text.encode() + b"\r\n")


@pytest.mark.parametrize("end", [b"\n", b"\n\r\n", b"\n\n"])
@pytest.mark.parametrize("start", [b"PROXY UNKNOWN", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2"])
def test_line_feed_alone_ends_no_line(start: bytes, end: bytes) -> None:
    with pytest.raises(ProxyError, match="CRLF"):
        read(start + end)


def test_carriage_return_alone_ends_no_line() -> None:
    start = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r"
    assert read(start) is None
    assert refused(start + b"EHLO client\r\n") == "a malformed line"


def test_line_that_cannot_end_in_time_is_refused() -> None:
    reader = ProxyReader()
    assert reader.feed(b"PROXY UNKNOWN " + b"x" * 92) is None
    with pytest.raises(ProxyError, match="too long"):
        reader.feed(b"\r")
    assert "too long" in refused(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n")


# -- what is neither -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [b"E", b"\x16", b"\0", b"G", b"p", b" ", b"\n", b"Q", b"\xff", b"\r\r", b"PO", b"PROXYS"],
)
def test_wrong_octet_is_refused_as_soon_as_it_is_seen(octets: bytes) -> None:
    reader = ProxyReader()
    for index in range(len(octets) - 1):
        assert reader.feed(octets[index : index + 1]) is None
    with pytest.raises(ProxyError, match="neither"):
        reader.feed(octets[-1:])


def test_every_wrong_octet_in_the_signature_is_refused_at_once() -> None:
    for place in range(len(SIGNATURE)):
        reader = ProxyReader()
        assert reader.feed(SIGNATURE[:place]) is None
        with pytest.raises(ProxyError, match="neither"):
            reader.feed(bytes([SIGNATURE[place] ^ 1]))


def test_nothing_is_not_enough() -> None:
    assert read(b"") is None


# -- version 2 -----------------------------------------------------------------------------------


def test_block_of_ipv4_is_read() -> None:
    header = whole(block(PROXY, TCP4, V4))
    assert header == ProxyHeader(
        2, "PROXY", ProxyEnd("192.0.2.1", 40001), ProxyEnd("198.51.100.2", 25)
    )


def test_block_of_ipv6_is_read() -> None:
    header = whole(block(PROXY, TCP6, V6))
    assert header.source == ProxyEnd("2001:db8::1", 40001)
    assert header.destination == ProxyEnd("2001:db8::2", 25)


def test_mapped_addresses_are_those_that_were_mapped() -> None:
    header = whole(block(PROXY, TCP6, ends("::ffff:192.0.2.1", "2001:db8::2", 1, 2)))
    assert header.source == ProxyEnd("192.0.2.1", 1)
    assert header.destination == ProxyEnd("2001:db8::2", 2)


@pytest.mark.parametrize(
    ("path", "host"),
    [
        (b"/run/a.sock", "unix:/run/a.sock"),
        (b"", "unix:"),
        (b"\0abstract", "unix:"),
        (b"/run/a\0left over", "unix:/run/a"),
        ("/run/é".encode(), "unix:/run/é"),
        (b"/" + b"x" * 107, "unix:/" + "x" * 107),
    ],
)
def test_block_of_unix_sockets_is_read(path: bytes, host: str) -> None:
    header = whole(block(PROXY, UNIX, unix_ends(path, b"/run/ehlo.sock")))
    assert header.source == ProxyEnd(host, 0)
    assert header.destination == ProxyEnd("unix:/run/ehlo.sock", 0)


@pytest.mark.parametrize("path", [b"/run/a\nb", b"/run/\x1b[2J", b"/run/\xff", "/\u2028".encode()])
def test_path_that_is_no_clean_text_is_refused(path: bytes) -> None:
    assert "text" in refused(block(PROXY, UNIX, unix_ends(path, b"/run/ehlo.sock")))
    assert "text" in refused(block(PROXY, UNIX, unix_ends(b"", path)))


def test_unspec_keeps_the_real_ends_and_the_rest() -> None:
    header = whole(block(PROXY, UNSPEC, tlv(0x05, b"id")))
    assert header == ProxyHeader(2, "PROXY", unique_id=b"id", tlvs={0x05: b"id"})


@pytest.mark.parametrize(
    "octets",
    [
        block(LOCAL, UNSPEC, b""),
        block(LOCAL, TCP4, b""),
        block(LOCAL, TCP4, V4),
        block(LOCAL, TCP6, V6 + tlv(0x05, b"id")),
        block(LOCAL, UNIX, b"x"),
        block(LOCAL, 0xFF, b"whatever"),
        block(LOCAL, 0x12, V4),
        block(LOCAL, UNSPEC, b"\x04"),
        block(LOCAL, UNSPEC, tlv(0x05, bytes(500))),
        with_crc(LOCAL, UNSPEC, b""),
        with_crc(LOCAL, TCP4, V4 + tlv(0x05, b"id")),
    ],
)
def test_local_is_taken_and_what_it_holds_is_thrown_away(octets: bytes) -> None:
    assert whole(octets) == ProxyHeader(2, "LOCAL")


@pytest.mark.parametrize("command", [0x00, 0x01, 0x11, 0x22, 0x2F, 0x31, 0x30, 0xFF])
def test_unknown_version_or_command_is_refused_at_its_octet(command: int) -> None:
    assert "version or command" in refused(SIGNATURE + bytes([command]))


@pytest.mark.parametrize(
    "family", [0x01, 0x02, 0x10, 0x12, 0x13, 0x20, 0x22, 0x30, 0x32, 0x40, 0x41, 0xFF]
)
def test_unknown_family_and_datagrams_are_refused_at_their_octet(family: int) -> None:
    assert "family" in refused(SIGNATURE + bytes([PROXY, family]))


@pytest.mark.parametrize(("family", "size"), [(TCP4, 12), (TCP6, 36), (UNIX, 216)])
def test_block_without_room_for_its_addresses_is_refused_at_its_length(
    family: int, size: int
) -> None:
    for length in (0, size - 1):
        assert "too short" in refused(block(PROXY, family, b"", length=length))
    assert whole(block(PROXY, family, bytes(size))).command == "PROXY"


@pytest.mark.parametrize("command", [LOCAL, PROXY])
def test_block_over_the_limit_is_refused_at_its_length(command: int) -> None:
    for length in (LARGEST - 15, 65_535):
        assert "too long" in refused(block(command, UNSPEC, b"", length=length))


def test_block_at_the_limit_is_read() -> None:
    filler = bytes(LARGEST - 16 - 12 - 3)
    header = whole(block(PROXY, TCP4, V4 + tlv(0x04, filler)))
    assert header.tlvs == {0x04: filler}


# -- TLVs ----------------------------------------------------------------------------------------


def test_what_is_known_of_the_client_is_there() -> None:
    rest = b"".join(
        [
            V4,
            tlv(0x01, b"smtp"),
            tlv(0x02, "mäil.example".encode()),
            tlv(0x05, b"\x00unique\xff"),
            tlv(0x30, b"blue"),
            tlv(0x04, b"\0\0"),
            tlv(0x04, b""),
            tlv(0xEA, b"one"),
            tlv(0xEA, b"two"),
        ]
    )
    header = whole(with_crc(PROXY, TCP4, rest, behind=tlv(0xF0, b"")))
    assert header.alpn == b"smtp"
    assert header.authority == "mäil.example"
    assert header.unique_id == b"\x00unique\xff"
    assert header.ssl is None
    assert header.tlvs[0xEA] == b"one"
    assert header.tlvs[0x30] == b"blue"
    assert header.tlvs[0x04] == b"\0\0"
    assert set(header.tlvs) == {0x01, 0x02, 0x03, 0x04, 0x05, 0x30, 0xEA, 0xF0}
    assert hash(header) == hash(whole(with_crc(PROXY, TCP4, rest, behind=tlv(0xF0, b""))))


def test_what_is_told_of_tls_is_there() -> None:
    told = ssl_tlv(
        7,
        0,
        version=b"TLSv1.3",
        cn="Döt".encode(),
        sig_alg=b"SHA256",
        key_alg=b"RSA2048",
        cipher=b"TLS_AES_128_GCM_SHA256",
    )
    assert whole(block(PROXY, TCP4, V4 + told)).ssl == ProxySSL(
        client=7,
        verified=True,
        version="TLSv1.3",
        cn="Döt",
        sig_alg="SHA256",
        key_alg="RSA2048",
        cipher="TLS_AES_128_GCM_SHA256",
    )


@pytest.mark.parametrize(
    ("client", "verify", "verified"),
    [
        (0, 0, False),
        (1, 0, False),  # HAProxy says 0 without any certificate, too
        (3, 0, True),
        (5, 0, True),
        (3, 1, False),
        (3, 0x1000000, False),
        (7, 0xFFFFFFFF, False),
    ],
)
def test_verified_is_a_certificate_that_was_shown_and_good(
    client: int, verify: int, verified: bool
) -> None:
    told = whole(block(PROXY, TCP4, V4 + ssl_tlv(client, verify))).ssl
    assert told == ProxySSL(client=client, verified=verified)


@pytest.mark.parametrize(
    "rest",
    [
        b"\x04",
        b"\x04\0",
        b"\x04\0\x01",
        b"\x04\xff\xff\0",
        tlv(0x04, b"x") + b"\0",
        tlv(0x04, b"xyz")[:-1],
        tlv(0x20, b"\x01\0\0\0\0\x21\0"),
        tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLS")[:-1]),
    ],
)
@pytest.mark.parametrize("family", [TCP4, UNSPEC])
def test_tlv_that_is_cut_short_is_refused(rest: bytes, family: int) -> None:
    assert "cut short" in refused(block(PROXY, family, (V4 if family == TCP4 else b"") + rest))


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01\0\0\0"])
def test_tlv_on_tls_without_its_fields_is_refused(value: bytes) -> None:
    assert "too short" in refused(block(PROXY, TCP4, V4 + tlv(0x20, value)))


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x05])
def test_tlv_with_a_meaning_is_there_once(kind: int) -> None:
    assert "twice" in refused(block(PROXY, TCP4, V4 + tlv(kind, b"a") + tlv(kind, b"a")))


def test_tlv_within_that_on_tls_is_there_once() -> None:
    value = bytes(5) + tlv(0x22, b"one") + tlv(0x22, b"two")
    assert "twice" in refused(block(PROXY, TCP4, V4 + tlv(0x20, value)))


@pytest.mark.parametrize("length", [0, 1, 128])
def test_unique_id_of_128_octets_is_taken(length: int) -> None:
    assert whole(block(PROXY, TCP4, V4 + tlv(0x05, b"i" * length))).unique_id == b"i" * length


def test_longer_unique_id_is_refused() -> None:
    assert "unique id" in refused(block(PROXY, TCP4, V4 + tlv(0x05, b"i" * 129)))


@pytest.mark.parametrize(
    "text", [b"\r\n", b"a\0", b"\x1b[2J", b"\x7f", "\x85".encode(), "\u2028".encode(), b"\xff"]
)
def test_text_with_a_control_character_and_what_is_not_utf8_is_refused(text: bytes) -> None:
    assert "text" in refused(block(PROXY, TCP4, V4 + tlv(0x02, text)))
    for name in ("version", "cn", "sig_alg", "key_alg", "cipher"):
        assert "text" in refused(block(PROXY, TCP4, V4 + ssl_tlv(1, 0, **{name: text})))


# -- the checksum --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720 B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_crc32c_is_that_of_the_published_examples(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@given(st.binary())
def test_crc32c_is_that_of_the_slow_way(data: bytes) -> None:
    assert crc32c(data) == crc_of(data)


@pytest.mark.parametrize(("family", "rest"), [(TCP4, V4), (TCP6, V6), (UNSPEC, b"")])
def test_one_wrong_bit_anywhere_is_found(family: int, rest: bytes) -> None:
    right = with_crc(PROXY, family, rest, behind=tlv(0x05, b"id"))
    assert whole(right).unique_id == b"id"
    for place in range(16, len(right)):
        if place == 16 + len(rest):  # the type of the checksum itself: then it is none
            continue
        wrong = bytearray(right)
        wrong[place] ^= 1
        with pytest.raises(ProxyError):
            read(bytes(wrong))


@pytest.mark.parametrize("command", [PROXY, LOCAL])
def test_wrong_checksum_is_refused(command: int) -> None:
    assert "wrong checksum" in refused(block(command, TCP4, V4 + tlv(0x03, bytes(4))))
    assert "wrong checksum" in refused(block(command, UNSPEC, tlv(0x03, bytes(4))))


@pytest.mark.parametrize("size", [0, 3, 5])
@pytest.mark.parametrize("command", [PROXY, LOCAL])
def test_checksum_of_another_size_is_refused(command: int, size: int) -> None:
    assert "32 bits" in refused(block(command, TCP4, V4 + tlv(0x03, bytes(size))))


def test_two_checksums_are_refused() -> None:
    assert "twice" in refused(block(PROXY, TCP4, V4 + tlv(0x03, bytes(4)) * 2))


# -- anything ------------------------------------------------------------------------------------

PORTS = st.integers(0, 65_535)
ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
HEADER_STARTS = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN"]) | st.builds(
    block,
    st.sampled_from([LOCAL, PROXY]),
    st.sampled_from([UNSPEC, TCP4, TCP6, UNIX, 0x12]),
    st.binary(max_size=60),
)


def fed_in_pieces(octets: bytes, cuts: list[int]) -> tuple[ProxyHeader, bytes] | str | None:
    """What comes of it when it arrives so; the octets left over are those of the last piece."""
    reader = ProxyReader()
    places = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        try:
            found = reader.feed(octets[begin:end])
        except ProxyError as error:
            return str(error)
        if found is not None:
            header, rest = found
            return header, rest + octets[end:]
    return None


@given(HEADER_STARTS, st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=5))
def test_anything_gives_a_header_or_a_proxy_error_in_whatever_pieces(
    start: bytes, more: bytes, cuts: list[int]
) -> None:
    octets = start + more
    at_once = fed_in_pieces(octets, [])
    assert fed_in_pieces(octets, cuts) == at_once
    if isinstance(at_once, tuple):
        header, rest = at_once
        consumed = octets[: len(octets) - len(rest)]
        assert read(consumed) == (header, b"")
        assert consumed == b"" or read(consumed[:-1]) is None


def unmapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@given(ADDRESSES, PORTS, PORTS, st.binary(max_size=20))
def test_line_says_what_was_written(
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...],
    source_port: int,
    destination_port: int,
    tail: bytes,
) -> None:
    source, destination = addresses
    octets = line(str(source), str(destination), source_port, destination_port)
    assert read(octets + tail) == (
        ProxyHeader(
            1,
            "PROXY",
            ProxyEnd(unmapped(source), source_port),
            ProxyEnd(unmapped(destination), destination_port),
        ),
        tail,
    )


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)


@given(
    ADDRESSES,
    st.tuples(PORTS, PORTS),
    TEXTS,
    st.binary(max_size=128),
    st.tuples(st.integers(0, 7), TEXTS, TEXTS),
    st.lists(st.tuples(st.integers(0x30, 0xFF), st.binary(max_size=20)), max_size=3),
    st.binary(max_size=20),
)
def test_block_says_what_was_written(
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...],
    ports: tuple[int, int],
    authority: str,
    unique_id: bytes,
    tls: tuple[int, str, str],
    others: list[tuple[int, bytes]],
    tail: bytes,
) -> None:
    source, destination = addresses
    flags, version, name = tls
    rest = ends(str(source), str(destination), *ports) + tlv(0x02, authority.encode())
    behind = tlv(0x05, unique_id) + ssl_tlv(flags, 1, version=version.encode(), cn=name.encode())
    behind += b"".join(tlv(kind, value) for kind, value in others)
    found = read(with_crc(PROXY, TCP4 if source.version == 4 else TCP6, rest, behind) + tail)
    assert found is not None
    header, left = found
    assert left == tail
    assert header.source == ProxyEnd(unmapped(source), ports[0])
    assert header.destination == ProxyEnd(unmapped(destination), ports[1])
    assert (header.authority, header.unique_id) == (authority, unique_id)
    assert header.ssl == ProxySSL(client=flags, verified=False, version=version, cn=name)
    for kind, value in reversed(others):
        assert header.tlvs[kind] == next(v for k, v in others if k == kind)
        assert isinstance(value, bytes)
