"""Networks, and what an address is counted as."""

from __future__ import annotations

import pytest

from ehlo import Peer
from ehlo.net import Networks, address_key


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
def test_peers_inside_are_inside(texts: list[str], host: str) -> None:
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
def test_peers_outside_are_outside(texts: list[str], host: str) -> None:
    assert Peer(host, 25) not in Networks.of(texts)


def test_no_networks_are_false() -> None:
    assert not Networks.of([])
    assert not Networks()
    assert Networks.of(["none"]) == Networks.of("none") == Networks()
    assert Networks.of(["unix:"])
    assert Networks.of(["::1"])


def test_one_text_is_a_list_of_one() -> None:
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
    ],
)
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="not a network") as caught:
        Networks.of(["127.0.0.1", text])
    assert repr(text) in str(caught.value)


def test_one_address_is_an_ipv4_address_or_the_64_of_an_ipv6_one() -> None:
    assert address_key("192.0.2.1") == "192.0.2.1"
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:1") == "2001:db8::"
    assert address_key("2001:db8:0:1::1") != address_key("2001:db8:0:2::1")
    assert address_key("fe80::1%eth0") == "fe80::"
    assert address_key("::ffff:192.0.2.1") == "192.0.2.1"
