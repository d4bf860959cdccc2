"""`Peer`, addresses to listen on, networks, the key of an address, IPv4-mapped addresses."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo import Peer
from ehlo.net import Networks, address_key, addresses_of, is_loopback, parse_address, unmapped


@pytest.mark.parametrize(
    ("peer", "text", "is_unix"),
    [
        (Peer("192.0.2.1", 25), "192.0.2.1:25", False),
        (Peer("2001:db8::1", 25), "[2001:db8::1]:25", False),
        (Peer("fe80::1%eth0", 25), "[fe80::1%eth0]:25", False),
        (Peer("unix:/run/smtp", 0), "unix:/run/smtp", True),
        (Peer("", 25), ":25", False),
    ],
)
def test_a_peer_prints_as_a_user_writes_its_address(peer: Peer, text: str, is_unix: bool) -> None:
    assert str(peer) == f"{peer}" == text
    assert peer.is_unix is is_unix
    host, port = peer
    assert (host, port) == (peer.host, peer.port) == peer


# -- addresses to listen on ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("", ("", 25)),
        (":2525", ("", 2525)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("mx.example:25", ("mx.example", 25)),
        ("[::1]:2525", ("::1", 2525)),
        ("unix:/run/ehlo.sock", ("unix:/run/ehlo.sock", 0)),
        ("fd:3", ("fd:3", 0)),
        ("systemd:", ("systemd:", 0)),
        ("systemd:smtp", ("systemd:smtp", 0)),
    ],
)
def test_an_address_is_parsed(text: str, peer: tuple[str, int]) -> None:
    assert parse_address(text) == peer


@pytest.mark.parametrize(
    ("addr", "peer"),
    [
        (2525, ("", 2525)),
        (0, ("", 0)),
        (("127.0.0.1", 2525), ("127.0.0.1", 2525)),
        (("::1", 2525), ("::1", 2525)),
        (("", 25), ("", 25)),
        (Peer("unix:/run/ehlo.sock", 0), ("unix:/run/ehlo.sock", 0)),
    ],
)
def test_a_number_is_a_port_and_a_tuple_is_host_and_port(
    addr: int | tuple[str, int], peer: tuple[str, int]
) -> None:
    assert parse_address(addr) == peer


@pytest.mark.parametrize(
    "addr", [-1, 70000, True, 25.0, None, ("127.0.0.1", 70000), ("h", -1), ("h", True), ("::1",)]
)
def test_what_is_no_address_is_a_value_error(addr: Any) -> None:
    with pytest.raises(ValueError, match="not an address: ") as caught:
        parse_address(addr)
    assert repr(addr) in str(caught.value)


@pytest.mark.parametrize(
    ("addrs", "each"),
    [
        (":25", [":25"]),
        (2525, [2525]),
        (("127.0.0.1", 2525), [("127.0.0.1", 2525)]),
        (Peer("::1", 25), [("::1", 25)]),
        ((":25", ":587"), [":25", ":587"]),
        ((25, 587), [25, 587]),
        ([":25", 587, ("::1", 465)], [":25", 587, ("::1", 465)]),
        (["127.0.0.1", 25], ["127.0.0.1", 25]),  # a pair is a tuple
        ((), []),
        (None, [None]),
        (b":25", [b":25"]),  # whose items are numbers
        ({":25": 1}, [{":25": 1}]),
    ],
)
def test_one_address_or_several(addrs: Any, each: list[object]) -> None:
    assert addresses_of(addrs) == each


def test_addresses_that_can_be_read_only_once_are_no_addresses() -> None:
    (addr,) = addresses_of(iter([":25"]))  # type: ignore[arg-type]  # they would be gone at the start
    with pytest.raises(ValueError, match="not an address: <list_iterator"):
        parse_address(addr)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("127.0.0.1", "write host:port"),
        ("127.0.0.1:", "write host:port"),
        ("127.0.0.1:x", "write host:port"),
        ("127.0.0.1:70000", "write host:port"),
        ("::1:25", "write host:port"),
        ("unix:", "write unix:/path"),
        ("fd:", "write fd:3"),
        ("fd:x", "write fd:3"),
    ],
)
def test_a_bad_address_raises_value_error_that_names_it_and_the_form(
    text: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


# -- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "host"),
    [
        (["127.0.0.0/8"], "127.1.2.3"),
        (["192.0.2.7"], "192.0.2.7"),
        (["::1"], "::1"),
        (["2001:db8::/32"], "2001:db8::9"),
        (["fe80::/10"], "fe80::1%eth0"),
        (["10.0.0.0/8"], "::ffff:10.1.2.3"),
        (["::ffff:10.0.0.0/104"], "10.1.2.3"),
        (["::ffff:10.0.0.0/104"], "::ffff:10.1.2.3"),
        (["0.0.0.0/0"], "::ffff:192.0.2.1"),
        (["192.0.2.1", "::1", "unix:"], "::1"),
        (["192.0.2.1", "unix:"], "unix:/run/a.sock"),
        (["unix:"], "unix:"),
    ],
)
def test_a_peer_inside_is_in_the_networks(texts: list[str], host: str) -> None:
    assert Peer(host, 25) in Networks.of(texts)


@pytest.mark.parametrize(
    ("texts", "host"),
    [
        ([], "127.0.0.1"),
        ([], "unix:"),
        (["127.0.0.0/8"], "128.0.0.1"),
        (["127.0.0.0/8"], "::1"),
        (["127.0.0.0/8"], "unix:/run/a.sock"),
        (["unix:"], "127.0.0.1"),
        (["::1"], "127.0.0.1"),
        (["::/0"], "10.0.0.1"),
        (["::/0"], "::ffff:10.0.0.1"),
        (["0.0.0.0/0"], "no address"),
        (["0.0.0.0/0", "::/0"], ""),
    ],
)
def test_a_peer_outside_is_not_in_the_networks(texts: list[str], host: str) -> None:
    assert Peer(host, 25) not in Networks.of(texts)


def test_an_empty_set_of_networks_is_false() -> None:
    assert not Networks.of([])
    assert not Networks()
    assert Networks.of(["none"]) == Networks.of("none") == Networks()
    assert Networks.of(["unix:"])
    assert Networks.of(["::1"])


def test_a_single_text_counts_as_a_list_of_one() -> None:
    assert Networks.of("10.0.0.0/8") == Networks.of(["10.0.0.0/8"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0",
        "unix:/run/a",
        "UNIX:",
        "::1/129",
        "none",
        "1 ",
        5,  # which would be 0.0.0.5
        b"\x7f\x00\x00\x01",
    ],
)
def test_a_bad_network_raises_value_error_that_names_it(text: Any) -> None:
    with pytest.raises(ValueError, match="not a network") as caught:
        Networks.of(["127.0.0.1", text])
    assert repr(text) in str(caught.value)


# -- the key of an address -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8::ffff:1", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("", ""),
    ],
)
def test_the_key_is_the_ipv4_address_or_the_64_of_the_ipv6_address(host: str, key: str) -> None:
    assert address_key(host) == key


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("::ffff:0:102:304", "::ffff:0:102:304"),  # IPv4-translated (RFC 2765), which differs
        ("::1.2.3.4", "::1.2.3.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("1.2.3.4", "1.2.3.4"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_only_ipv4_mapped_addresses_are_unmapped(host: str, shown: str) -> None:
    assert unmapped(host) == shown


def test_a_port_as_text_in_a_tuple_is_an_error_that_says_so() -> None:
    addr: Any = ("127.0.0.1", "25")
    with pytest.raises(ValueError, match=r"; write \(host, port\), the port as an int$"):
        parse_address(addr)


# -- loopback ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.255.0.9", "::1", "::1%lo", "localhost", "unix:/run/smtp"),
        *("::ffff:127.0.0.1", "::FFFF:7f00:1", "0:0:0:0:0:ffff:127.0.0.1"),
    ],
)
def test_only_this_machine_reaches_a_loopback_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "::", "192.0.2.1", "::ffff:192.0.2.1", "::ffff:0.0.0.0", "2001:db8::1"),
        *("127.1", "127.0.0.1.evil.test", "[::1]", "localhost.evil.test", "fd:3", "systemd:smtp"),
    ],
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
