"""Channel binding (RFC 5929 4) and DNS names of a certificate.

`tls-server-end-point` is the hash of the server's certificate, by the hash function of its
signature. The standard library reveals neither that function nor the names of an own certificate,
so this module reads the certificate as far as it has to.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# OpenSSL sends the first certificate of a file. One with trust settings has more bytes in the file
# than on the wire, and is ignored
_PEM: Final = re.compile(
    r"-----BEGIN (?:(?:X509 )?CERTIFICATE|(?P<trusted>TRUSTED CERTIFICATE))-----\r?\n"
    r"(?P<text>[A-Za-z0-9+/=\s]++)-----END "
)

# The hash function of a signature algorithm, by the bytes of its identifier. RFC 5929 4.1: SHA-256
# replaces MD5 and SHA-1. RSASSA-PSS and Ed25519 have no row, since none is defined for them.
_PKCS1: Final = bytes.fromhex("2a864886f70d0101")  # 1.2.840.113549.1.1
_ECDSA: Final = bytes.fromhex("2a8648ce3d04")  # 1.2.840.10045.4
_DSA: Final = bytes.fromhex("6086480165030403")  # 2.16.840.1.101.3.4.3
_HASHES: Final = {
    _PKCS1 + b"\x04": "sha256",  # MD5
    _PKCS1 + b"\x05": "sha256",  # SHA-1
    _PKCS1 + b"\x0b": "sha256",
    _PKCS1 + b"\x0c": "sha384",
    _PKCS1 + b"\x0d": "sha512",
    _PKCS1 + b"\x0e": "sha224",
    _ECDSA + b"\x01": "sha256",  # SHA-1
    _ECDSA + b"\x03\x01": "sha224",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
    _DSA + b"\x01": "sha224",
    _DSA + b"\x02": "sha256",
}

_SEQUENCE: Final = 0x30
_OBJECT_IDENTIFIER: Final = 0x06
_EXTENSIONS: Final = 0xA3  # [3] of TBSCertificate
_DNS_NAME: Final = 0x82  # [2] of GeneralName
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")  # 2.5.29.17


def first_certificate(cert_file: str) -> bytes | None:
    """Return the first certificate of a PEM file, in DER; `None` if it is unknown.

    Raises `OSError` if the file cannot be read.
    """
    found = _PEM.search(Path(cert_file).read_text(encoding="latin-1"))
    if found is None or found["trusted"]:
        return None
    pem = f"-----BEGIN CERTIFICATE-----\n{found['text'].strip()}\n-----END CERTIFICATE-----\n"
    try:
        return ssl.PEM_cert_to_DER_cert(pem)
    except ValueError:
        return None


def end_point_binding(certificate: bytes) -> bytes | None:
    """Return `tls-server-end-point` of a certificate in DER; `None` if it is not defined."""
    try:
        algorithm = _HASHES.get(_signature_algorithm(certificate))
    except (IndexError, ValueError):
        return None
    return hashlib.new(algorithm, certificate).digest() if algorithm is not None else None


def dns_names(certificate: bytes) -> tuple[str, ...]:
    """Return the DNS names in the subjectAltName of a certificate in DER, in lower case.

    The common name does not count (RFC 9525 2). Bytes that are no certificate have no names.
    """
    try:
        return tuple(_dns_names(certificate))
    except (IndexError, ValueError):
        return ()


def _dns_names(der: bytes) -> Iterator[str]:
    """RFC 5280 4.1, 4.2.1.6: SubjectAltName ::= SEQUENCE OF GeneralName."""
    start, _ = _value(der, 0, _SEQUENCE)
    for tag, inside, _ in _elements(der, *_value(der, start, _SEQUENCE)):
        if tag == _EXTENSIONS:
            for _, first, last in _elements(der, *_value(der, inside, _SEQUENCE)):
                yield from _names_of(der, first, last)


def _names_of(der: bytes, start: int, end: int) -> Iterator[str]:
    """Extension ::= SEQUENCE { extnID, critical DEFAULT FALSE, extnValue }."""
    identifier = slice(*_value(der, start, _OBJECT_IDENTIFIER))
    if der[identifier] == _SUBJECT_ALT_NAME:
        *_, (_, value, _) = _elements(der, identifier.stop, end)
        for tag, first, last in _elements(der, *_value(der, value, _SEQUENCE)):
            if tag == _DNS_NAME:
                yield der[first:last].decode("ascii").lower()


def _elements(der: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the tag of each element between two positions, and where its value begins and ends."""
    while at < end:
        start, after = _value(der, at, der[at])
        yield der[at], start, after
        at = after


def _signature_algorithm(certificate: bytes) -> bytes:
    """RFC 5280 4.1: Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signature }."""
    start, _ = _value(certificate, 0, _SEQUENCE)
    _, after = _value(certificate, start, _SEQUENCE)
    start, _ = _value(certificate, after, _SEQUENCE)
    start, end = _value(certificate, start, _OBJECT_IDENTIFIER)
    return certificate[start:end]


def _value(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the value of the element at `at` begins and ends (X.690 8.1).

    Raises `ValueError`.
    """
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        size = length - 0x80
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if der[at] != tag or start + length > len(der):
        raise ValueError("no certificate")
    return start, start + length
