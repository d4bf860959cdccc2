"""Domains as A-labels, and their comparison."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo import same_domain, to_ascii


@pytest.mark.parametrize(
    ("domain", "ascii_form"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("_dmarc.a--b.example", "_dmarc.a--b.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("_mail.bücher.example", "_mail.xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("ｅxample。com", "example.com"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_a_domain_is_converted_to_lower_case_a_labels(domain: str, ascii_form: str) -> None:
    assert to_ascii(domain) == ascii_form


@pytest.mark.parametrize(
    "domain",
    [
        *("", ".", "a..b", ".a", "-a.example", "a-.example", "a b", "a@b", "a\n", "a" * 256),
        *("ü..b", "-ü.example", "ü b.example", "ü" * 64, "ü" * 300, "☃\u200d.example", "ü\n"),
        *("[", "[]", "[192.0.2.1", "[192.0.2]", "[a b]", "[IPv6:1]", "[192.0.2.1]x"),
    ],
)
def test_anything_but_a_domain_raises_value_error(domain: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  idna has its own messages
        to_ascii(domain)


def test_domains_are_compared_in_any_spelling() -> None:
    assert same_domain("Bücher.example", "xn--bcher-kva.EXAMPLE")
    assert same_domain("[IPv6:2001:db8::1]", "[ipv6:2001:DB8::1]")
    assert not same_domain("bücher.example", "bucher.example")
    with pytest.raises(ValueError, match="not a domain"):
        same_domain("a", "")


@given(st.text(max_size=40))
def test_any_text_is_converted_once_or_raises_value_error(text: str) -> None:
    try:
        found = to_ascii(text)
    except ValueError:
        return
    assert found.isascii()
    assert to_ascii(found) == found


def test_idna_is_imported_only_for_a_domain_that_is_not_ascii() -> None:
    program = (
        "import sys; from ehlo import to_ascii; to_ascii('EXAMPLE.com'); "
        "assert 'idna' not in sys.modules; to_ascii('ü.example'); assert 'idna' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
