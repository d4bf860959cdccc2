"""Stored keys for SCRAM, against the example exchanges of the RFCs."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from ehlo.protocol.auth.keys import ScramKeys

# RFC 5802 5 and RFC 7677 3: user "user", password "pencil"
EXAMPLES = {
    "SHA-1": (
        "QSXCR+Q6sek8bf92",
        (
            b"n=user,r=fyko+d2lbbFgONRv9qkxdawL,"
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096,"
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j"
        ),
        "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SHA-256": (
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        (
            b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        ),
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


@pytest.mark.parametrize("algorithm", EXAMPLES)
@pytest.mark.parametrize("password", ["pencil", b"pencil"])
def test_derived_keys_check_the_proof_in_the_rfc(algorithm: str, password: str | bytes) -> None:
    salt, exchange, proof, signature = EXAMPLES[algorithm]
    keys = ScramKeys.derive(password, base64.b64decode(salt), algorithm)
    digest = algorithm.replace("-", "").lower()
    client_signature = hmac.digest(keys.stored_key, exchange, digest)
    pairs = zip(client_signature, base64.b64decode(proof), strict=True)
    client_key = bytes(ours ^ theirs for ours, theirs in pairs)
    assert hashlib.new(digest, client_key).digest() == keys.stored_key
    assert hmac.digest(keys.server_key, exchange, digest) == base64.b64decode(signature)


def test_the_repr_of_keys_does_not_show_them() -> None:
    keys = ScramKeys.derive("pencil", b"salt")
    assert repr(keys) == "ScramKeys(algorithm='SHA-256', salt=b'salt', iterations=4096)"


def test_another_algorithm_raises_value_error() -> None:
    with pytest.raises(ValueError, match="no SCRAM with MD5"):
        ScramKeys.derive("pencil", b"salt", "MD5")
    with pytest.raises(ValueError, match="no SCRAM with MD5"):
        ScramKeys.of_nobody("user", b"key", "MD5")


def test_the_keys_of_an_unknown_user_are_constant_and_differ_by_name_key_and_algorithm() -> None:
    keys = ScramKeys.of_nobody("user", b"key", "SHA-1", 15_000)
    assert keys == ScramKeys.of_nobody("user", b"key", "SHA-1", 15_000)
    assert (keys.algorithm, keys.iterations) == ("SHA-1", 15_000)
    assert (len(keys.salt), len(keys.stored_key), len(keys.server_key)) == (16, 20, 20)
    for other in (
        ScramKeys.of_nobody("User", b"key", "SHA-1"),
        ScramKeys.of_nobody("user", b"another", "SHA-1"),
        ScramKeys.of_nobody("user", b"key", "SHA-256"),
        ScramKeys.of_nobody("\udcff", b"key", "SHA-1"),
    ):
        assert other.salt != keys.salt
        assert other.stored_key != keys.stored_key
