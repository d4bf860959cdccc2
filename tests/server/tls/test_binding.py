"""`tls-server-end-point` of certificates, compared with `cryptography`."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ehlo.server.tls.binding import end_point_binding, first_certificate
from support.certificates import Certificates

RSA = rsa.generate_private_key(65_537, 2048)
ECDSA = ec.generate_private_key(ec.SECP256R1())


def certificate(key: Any, algorithm: Any, **options: Any) -> bytes:
    """Return a certificate that `key` has signed itself, in DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=1))
    )
    return builder.sign(key, algorithm, **options).public_bytes(Encoding.DER)


@pytest.mark.parametrize("key", [RSA, ECDSA], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("algorithm", [hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512])
def test_the_hash_function_is_that_of_the_signature(key: Any, algorithm: Any) -> None:
    der = certificate(key, algorithm())
    assert end_point_binding(der) == hashlib.new(algorithm.name, der).digest()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("2a864886f70d01010b", "2a864886f70d010105"),  # RSA with SHA-1
        ("2a864886f70d01010b", "2a864886f70d010104"),  # RSA with MD5
    ],
)
def test_sha_256_replaces_broken_hashes(ours: str, theirs: str) -> None:
    der = certificate(RSA, hashes.SHA256()).replace(bytes.fromhex(ours), bytes.fromhex(theirs))
    assert end_point_binding(der) == hashlib.sha256(der).digest()


def test_without_a_defined_hash_there_is_no_binding() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    assert end_point_binding(certificate(key, None)) is None
    assert end_point_binding(certificate(RSA, hashes.SHA256(), rsa_padding=pss)) is None


DER = certificate(ECDSA, hashes.SHA256())


@given(st.one_of(st.binary(max_size=30), st.integers(0, len(DER)).map(lambda end: DER[:end])))
def test_bytes_that_are_no_certificate_have_no_binding(data: bytes) -> None:
    assert (end_point_binding(data) is None) is (data != DER)


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_no_changed_byte_of_a_certificate_makes_it_raise(at: int, byte: int) -> None:
    end_point_binding(DER[:at] + bytes([byte]) + DER[at + 1 :])


def test_the_first_certificate_of_a_file_counts(certificates: Certificates) -> None:
    pem = Path(certificates.cert_file).read_bytes()
    wanted = x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER)
    assert first_certificate(certificates.cert_file) == wanted


def test_a_key_before_the_certificate_is_ignored(
    certificates: Certificates, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    key, chain = Path(certificates.key_file).read_bytes(), Path(certificates.cert_file).read_bytes()
    both.write_bytes(key + chain)
    assert first_certificate(str(both)) == first_certificate(certificates.cert_file)
    both.write_bytes(chain.replace(b"BEGIN CERT", b"BEGIN X509 CERT").replace(b"\n", b"\r\n"))
    assert first_certificate(str(both)) == first_certificate(certificates.cert_file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
    ],
)
def test_an_unknown_certificate_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "server.pem"
    path.write_text(text)
    assert first_certificate(str(path)) is None
