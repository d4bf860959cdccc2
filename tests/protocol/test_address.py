"""Addresses as values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from ehlo.protocol.address import NULL_PATH, Address, is_address_literal


def test_an_address_prints_without_brackets() -> None:
    assert str(Address("a", "example.com")) == "a@example.com"
    assert str(Address("a.b", "[192.0.2.1]")) == "a.b@[192.0.2.1]"
    assert str(Address("Postmaster", "")) == "Postmaster"
    assert repr(Address("a", "example.com")) == "Address('a@example.com')"


@pytest.mark.parametrize(
    ("local", "printed"),
    [
        ("a b", '"a b"@x'),
        ('a"b', '"a\\"b"@x'),
        ("a\\b", '"a\\\\b"@x'),
        (".a", '".a"@x'),
        ("a..b", '"a..b"@x'),
        ("", '""@x'),
        ("jürgen", "jürgen@x"),
        ("a>b", '"a>b"@x'),
    ],
)
def test_a_local_part_is_quoted_where_it_has_to_be(local: str, printed: str) -> None:
    assert str(Address(local, "x")) == printed
    assert str(Address(local, "x")) == printed


def test_the_null_path_is_empty() -> None:
    assert str(NULL_PATH) == ""
    assert NULL_PATH.is_null
    assert not Address("a", "x").is_null
    assert not Address("Postmaster", "").is_null


def test_addresses_are_equal_letter_for_letter() -> None:
    assert Address("a", "x") == Address("a", "x", {"SIZE": 1})
    assert hash(Address("a", "x")) == hash(Address("a", "x"))
    assert Address("a", "x") != Address("A", "x")
    assert Address("a", "x") != Address("a", "X")
    assert Address("a", "x") != ("a", "x")


def test_addresses_are_ordered_as_their_texts() -> None:
    bob, al = Address("bob", "x"), Address("al", "x")
    assert sorted([bob, al]) == [al, bob]
    mixed: list[Any] = [bob, "b@x", al]
    assert sorted(mixed) == ["al@x", "b@x", "bob@x"]
    assert ", ".join(map(str, sorted({bob, al}))) == "al@x, bob@x"
    assert al < bob
    assert al <= "al@x"
    assert bob < "c@x"
    unlike: Any = 5
    with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
        assert al < unlike


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("a", "x"), "a@x"),
        (Address("a b", "x", {"SIZE": 1}), '"a b"@x'),
        (Address("Postmaster", ""), "Postmaster"),
        (NULL_PATH, ""),
    ],
)
def test_an_address_equals_its_text(address: Address, text: str) -> None:
    assert address == text
    assert text == address
    assert hash(address) == hash(text)
    assert address in {text, "other@example.com"}
    assert {address: 1}[text] == 1  # type: ignore[index]  # what is tested
    assert address in [text, "other@example.com"]
    assert address != text + "x"
    assert address != text.encode()


def test_case_differs_in_the_text_of_an_address_too() -> None:
    assert Address("a", "x") != "a@X"
    assert Address("a", "x") != "A@x"


@pytest.mark.parametrize(
    "text",
    ["[192.0.2.1]", "[IPv6:::1]", "[ipv6:2001:db8::192.0.2.1]", "[tag:content]", "[a-b:%1]"],
)
def test_address_literals(text: str) -> None:
    assert is_address_literal(text)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "[192.0.2]", "[192.0.2.256]", "[192.0.2.01]", "[IPv6:]", "[IPv6:1]", "[１.2.3.4]"),
        *("[IPv6:fe80::1%lo]", "[-:x]", "[tag-:x]", "[tag:]", "[a_b:x]"),
    ],
)
def test_what_is_no_address_literal(text: str) -> None:
    assert not is_address_literal(text)


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301  our own
)
@pytest.mark.parametrize("params", [{}, {"SIZE": 5}])
def test_an_address_can_be_copied_and_pickled_with_its_parameters(
    again: Callable[[Address], Address], params: dict[str, Any]
) -> None:
    address = Address("john doe", "example.com", MappingProxyType(params))
    other = again(address)
    assert other == address
    assert (other.local, other.domain, other.params) == ("john doe", "example.com", params)
    assert isinstance(other.params, MappingProxyType)


def test_an_address_can_be_aligned_as_its_text() -> None:
    assert f"{Address('a', 'x.com'):>8}|" == " a@x.com|"
