"""Certificates and keys on the command line: loads them into a server, and says which is wrong."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import click

from ehlo.cli.flags import ProcessOptions
from ehlo.cli.readable import plural, reason_of
from ehlo.server.server import Server
from ehlo.server.tls.certificates import is_encrypted

_LARGEST: Final = 1_048_576  # bytes of a file that are looked at
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_TRUSTED: Final = b"-----BEGIN TRUSTED CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


def configure_tls(server: Server, process: ProcessOptions, passphrase: str | None) -> None:
    """Load the files that are given into the server. Raises `click.UsageError`."""
    certs, keys = process.tls_cert, process.tls_key
    client_ca, client_certs = process.tls_client_ca, process.tls_client_certs
    if keys and not certs:
        raise click.UsageError("--tls-key requires --tls-cert; add --tls-cert FILE")
    if client_ca and not certs:
        raise click.UsageError("--tls-client-ca requires --tls-cert; add --tls-cert FILE")
    if client_certs and not client_ca:
        raise click.UsageError("--tls-client-certs requires --tls-client-ca; add it")
    if keys and len(keys) != len(certs):
        raise click.UsageError(
            f"--tls-key has {plural(len(keys), 'value')}, --tls-cert {len(certs)}; "
            "give one key for each certificate, or none"
        )
    if certs:
        # Otherwise those of the user's Server would come first
        server.configure(tls_config=None, tls_cert=(), tls_key=())
    for cert, key in zip(certs, keys or certs, strict=True):
        try:
            server.configure_tls(cert, key, passphrase, client_ca, client_certs or "optional")
        except ssl.SSLError as error:
            if client_ca in getattr(error, "__notes__", ()):
                wrong = f"--tls-client-ca: {client_ca} contains no certificate: give a PEM file"
            else:
                wrong = _wrong_with(cert, key, passphrase, error)
            raise click.UsageError(wrong) from error
        except OSError as error:
            blamed = f"{error.filename}: " if error.filename else ""
            raise click.UsageError(
                f"--tls-cert: {blamed}{reason_of(error)}; check the path and its owner"
            ) from error
        except ValueError as error:
            raise click.UsageError(f"--tls-cert: {error}") from error


def _wrong_with(cert: str, key: str, passphrase: str | None, error: ssl.SSLError) -> str:
    """Return what is wrong with a certificate and its key."""
    chain, secret = _content(cert), _content(key)
    if _CERTIFICATE not in chain and _TRUSTED not in chain:
        return f"--tls-cert: {cert} contains no certificate: give a PEM file"
    if _KEY not in secret:
        if key == cert:
            return f"--tls-cert: {cert} contains no private key: add --tls-key FILE"
        return f"--tls-key: {key} contains no private key: give the key of {cert}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"--tls-key: {key} does not match {cert}: give the key of that certificate"
    if is_encrypted(secret):
        if passphrase is None:
            return f"--tls-key: {key} is encrypted: set its passphrase in EHLO_TLS_PASSPHRASE"
        return f"EHLO_TLS_PASSPHRASE does not decrypt {key}: set the passphrase of that key"
    reason = (error.reason or "it cannot be read").replace("_", " ").lower()
    return f"--tls-cert: {cert} with {key}: {reason}; give PEM files that OpenSSL can read"


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST)
    except OSError:
        return b""
