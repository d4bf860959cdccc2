"""Offers STARTTLS: clients connect in plaintext and may start TLS.

This command creates a certificate for a test:
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.crt
"""

import logging
import sys
from email import message_from_bytes, policy

import ehlo


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    mail = message_from_bytes(data, policy=policy.default)
    print(f"mail from {mail_from} for {rcpt_tos[0]} with subject {mail['Subject']!r}")


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.listen_and_serve_tls(addr, "server.crt", "server.key", handler, "MyServerApp")
