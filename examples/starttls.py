"""Offers STARTTLS: clients connect in plaintext and may start TLS.

This command creates a certificate for a test:
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.crt
"""

import logging
import sys

import ehlo


def handler(message: ehlo.Message) -> None:
    subject = message.content.subject[:200]
    print(f"mail from {message.sender} for {message.recipients[0]} with subject {subject!r}")


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.listen_and_serve_tls(addr, "server.crt", "server.key", handler, "MyServerApp")
