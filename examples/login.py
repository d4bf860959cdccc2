"""Requires a login before mail, and checks it in a function that keeps only hashes of passwords.

PLAIN and LOGIN are offered under TLS, which needs server.crt and server.key in this directory.
"""

import hashlib
import hmac
import logging
import sys

import ehlo


def hashed(password: str) -> bytes:
    return hashlib.scrypt(password.encode(), salt=b"sixteen bytes...", n=16384, r=8, p=1)


HASHES = {"alice": hashed("wonderland")}  # a real server reads them from a database


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    print(f"mail from {mail_from} for {', '.join(rcpt_tos)}")


def auth_handler(username: str, password: str) -> bool:
    return hmac.compare_digest(hashed(password), HASHES.get(username, b""))


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.Server(
    handler,
    listeners=[ehlo.Listener.submission(addr)],  # STARTTLS, then a login, then mail
    tls_cert="server.crt",
    tls_key="server.key",
    auth_handler=auth_handler,
).listen_and_serve()
