"""Stored hashes: the forms that other programs write and read, and the limits of cost."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import sys
from typing import Any

import argon2
import pytest

from ehlo.passwords import hashes
from ehlo.passwords.hashes import SCHEMES, ScryptHash, parse
from ehlo.protocol.auth.keys import ScramKeys
from support.passwords import cheap

SALT = "c2FsdHNhbHQ"
KEY = "A" * 43  # 32 bytes
SHA256 = base64.b64encode(bytes(32)).decode()
SHA1 = base64.b64encode(bytes(20)).decode()

# RFC 7914 12: password, salt, log2 of N, r, p; and the two halves of each key
SCRYPT_VECTORS = [
    ("", "", 4, 1, 1),
    ("password", "NaCl", 10, 8, 16),
    ("pleaseletmein", "SodiumChloride", 14, 8, 1),
]
SCRYPT_KEYS = [
    "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442",
    "fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
    "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162",
    "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
    "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2",
    "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
]


@pytest.mark.parametrize("number", range(3))
def test_scrypt_matches_the_test_vectors_of_the_rfc(number: int) -> None:
    password, salt, log2_n, r, p = SCRYPT_VECTORS[number]
    key = bytes.fromhex("".join(SCRYPT_KEYS[2 * number : 2 * number + 2]))
    made = ScryptHash((log2_n, r, p), salt.encode(), key)
    assert made.matches(password.encode())
    assert not made.matches(b"another")


def test_a_scrypt_hash_by_passlib_is_read() -> None:
    # from the documentation of passlib.hash.scrypt; the password is "password"
    text = (
        "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"
    )
    found = parse(text)
    assert found.matches(b"password")
    assert not found.matches(b"Password")
    assert found.text == text


def test_an_argon2_hash_by_argon2_cffi_is_read() -> None:
    text = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("wonder")
    found = parse(text)
    assert found.matches(b"wonder")
    assert not found.matches(b"Wonder")
    assert found.text == text
    assert found.memory == 64 * 1024


def salt(algorithm: str) -> bytes:
    """Return a random salt for SCRAM keys."""
    return secrets.token_bytes(16)


def test_argon2_cffi_reads_our_argon2_hash() -> None:
    assert argon2.PasswordHasher().verify(SCHEMES["argon2"](b"wonder", salt).text, "wonder")


@pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256"])
def test_scram_keys_by_dovecot_are_read(algorithm: str) -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    keys = ScramKeys.derive("pencil", salt, algorithm)
    stored, server = (base64.b64encode(key).decode() for key in (keys.stored_key, keys.server_key))
    text = f"{{SCRAM-{algorithm}}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}"
    found = parse(text)
    assert isinstance(found, hashes.ScramHash)
    assert found.keys == keys
    assert found.text == text
    assert found.matches(b"pencil")
    assert not found.matches(b"pen")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_new_hash_matches_only_its_password_and_has_its_own_salt(name: str) -> None:
    first, second = SCHEMES[name](b"wonder", salt), SCHEMES[name](b"wonder", salt)
    assert first.text != second.text
    assert first.cost == second.cost
    again = parse(first.text)
    assert again == first
    assert again.matches(b"wonder")
    assert not again.matches(b"wonde")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_repr_shows_no_key(name: str) -> None:
    made = SCHEMES[name](b"wonder", salt)
    for word in re.split(r"[$,]", made.text)[-2:]:
        raw = base64.b64decode(word + "==")
        assert word not in repr(made)
        assert repr(raw)[2:-1] not in repr(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wonder",
        "$2x$12$abcdefghijklmnopqrstuv",
        "$argon2i$v=19$m=64,t=1,p=1$" + SALT + "$" + KEY,
        "{PLAIN}wonder",
        "{scram-sha-256}4096," + ",".join([SHA256] * 3),
        "{SCRAM-SHA-512}4096," + ",".join([SHA256] * 3),
    ],
)
def test_an_unknown_kind_of_hash_raises_value_error_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"begin with one of \$scrypt\$, "):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "$scrypt$",
        f"$scrypt$ln=14,r=8,p=1${SALT}",
        f"$scrypt$ln=14,r=8,p=1${SALT}${KEY} ",
        f"$scrypt$ln=14,r=8,p=1${SALT}${KEY}$",
        f"$scrypt$ln=14,p=1,r=8${SALT}${KEY}",
        f"$scrypt$ln=-14,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=١٤,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=14,r=8,p=1${SALT}=${KEY}",
        f"$scrypt$ln=14,r=8,p=1$A${KEY}",  # one digit of base64 is less than a byte
        f"$scrypt$ln=14,r=8,p=1${SALT}$AAAA",  # a key that a short search finds
        f"$scrypt$ln=14,r=8,p=1${SALT}${'A' * 120}",
        f"$scrypt$ln=14,r=8,p=1${'A' * 120}${KEY}",
        f"$argon2id$m=64,t=1,p=1${SALT}${KEY}",
        f"$argon2id$v=16$m=64,t=1,p=1${SALT}${KEY}",
        f"$argon2id$v=19$m=64,t=1,p=1$AAAA${KEY}",  # salt below 8 bytes
        f"$argon2id$v=19$m=15,t=1,p=2${SALT}${KEY}",  # memory below 8 KiB per lane
        "{SCRAM-SHA-256}4096",
        f"{{SCRAM-SHA-256}}4096,{SHA256},{SHA256},{SHA1}",
        f"{{SCRAM-SHA-1}}4096,{SHA256},{SHA256},{SHA256}",
        f"{{SCRAM-SHA-256}}many,{SHA256},{SHA256},{SHA256}",
    ],
)
def test_a_malformed_hash_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^malformed hash; make a new one with `ehlo passwd`$"):
        parse(text)


@pytest.mark.parametrize(
    "costs",
    [
        *("$scrypt$ln=20,r=8,p=1", "$scrypt$ln=18,r=9,p=1", "$scrypt$ln=99,r=999999,p=1"),
        *("$scrypt$ln=14,r=8,p=17", "$scrypt$ln=14,r=8,p=0", "$scrypt$ln=0,r=8,p=1"),
        *("$scrypt$ln=16,r=1,p=1", "$scrypt$ln=14,r=0,p=1"),
        *("$argon2id$v=19$m=262145,t=1,p=1", "$argon2id$v=19$m=999999999,t=1,p=1"),
        *("$argon2id$v=19$m=64,t=17,p=1", "$argon2id$v=19$m=64,t=0,p=1"),
        *("$argon2id$v=19$m=65536,t=1,p=17", "$argon2id$v=19$m=64,t=1,p=0"),
    ],
)
def test_costs_out_of_bounds_raise_value_error_when_parsed(costs: str) -> None:
    with pytest.raises(
        ValueError, match=r"^hash cost out of bounds; make a new one with `ehlo passwd`$"
    ):
        parse(f"{costs}${SALT}${KEY}")


@pytest.mark.parametrize(
    ("iterations", "reason"),
    [(1, "at least 4096"), (5_000_001, "out of bounds"), (999_999_999, "out of bounds")],
)
def test_scram_iterations_have_both_limits(iterations: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(f"{{SCRAM-SHA-256}}{iterations},{SHA256},{SHA256},{SHA256}")


def test_the_memory_of_a_scrypt_hash_is_exactly_what_openssl_needs() -> None:
    made = parse(cheap("wonder"))
    costs: dict[str, Any] = {"salt": b"salt", "n": 16, "r": 8, "p": 1}
    hashlib.scrypt(b"wonder", **costs, maxmem=made.memory)
    with pytest.raises(ValueError, match="memory limit exceeded"):
        hashlib.scrypt(b"wonder", **costs, maxmem=made.memory - 1)


def test_argon2_without_argon2_cffi_raises_value_error_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    for attempt in (
        lambda: parse(f"$argon2id$v=19$m=64,t=1,p=1${SALT}${KEY}"),
        lambda: hashes.scheme("argon2"),
    ):
        with pytest.raises(ValueError, match=re.escape("pip install 'ehlo[argon2]'")):
            attempt()
    assert parse(cheap("wonder")).matches(b"wonder")


def test_an_unknown_scheme_raises_value_error_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use one of scrypt, argon2, scram-sha-256, "):
        hashes.scheme("md5")
