"""Certificates for tests: an authority, a server's files, and a context for either end."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from ehlo.server.tls.binding import first_certificate
from ehlo.server.tls.certificates import Certificate

__all__ = ["Certificates", "Files", "make_certificates"]

PASSPHRASE = "open sesame"


@dataclass(frozen=True)
class Certificates:
    """Holds certificate files for `configure_tls`, and a context for a client that trusts them."""

    cert_file: str
    key_file: str
    encrypted_key_file: str
    """The same key under `PASSPHRASE`."""
    other_key_file: str
    """The key of another certificate."""
    client: ssl.SSLContext
    authority: trustme.CA
    authority_file: str
    """The file of the authority, for `tls_client_ca`."""

    def server(self) -> ssl.SSLContext:
        """Return a new context for a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_named(self, name: str, authority: trustme.CA | None = None) -> ssl.SSLContext:
        """Return a context for a client with a certificate for `name`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        issued = (authority or self.authority).issue_cert(f"{name}@example.com", common_name=name)
        issued.configure_cert(context)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make all certificates, in files below `directory`."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    other = authority.issue_cert("other.example")
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode())
    )
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    authority_file = directory / "authority.pem"
    return Certificates(
        authority_file=_write(authority_file, authority.cert_pem.bytes()),
        cert_file=_write(directory / "server.crt", chain),
        key_file=_write(directory / "server.key", issued.private_key_pem.bytes()),
        encrypted_key_file=_write(directory / "encrypted.key", encrypted),
        other_key_file=_write(directory / "other.key", other.private_key_pem.bytes()),
        client=client,
        authority=authority,
    )


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


class Files:
    """Holds a certificate and its key, which a test replaces."""

    def __init__(self, authority: trustme.CA, folder: Path, name: str = "localhost") -> None:
        self.authority = authority
        self.cert = folder / f"{name.replace('*', 'any')}.crt"
        self.key = folder / f"{name.replace('*', 'any')}.key"
        self.issue(name)

    def issue(self, *names: str) -> bytes:
        """Write a new certificate and key; return the certificate in DER."""
        issued = self.authority.issue_cert(*names)
        self.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return self.der

    @property
    def der(self) -> bytes:
        found = first_certificate(str(self.cert))
        assert found is not None
        return found

    @property
    def certificate(self) -> Certificate:
        return Certificate(str(self.cert), str(self.key))
