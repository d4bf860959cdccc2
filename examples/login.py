"""Requires a login before mail.

PLAIN and LOGIN are offered under TLS, which needs server.crt and server.key in this directory.
CRAM-MD5 is also offered without TLS; it requires the plaintext password on the server.
"""

import hmac
import logging
import sys

import ehlo

PASSWORDS = {b"alice": b"wonderland"}


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    print(f"mail from {mail_from} for {', '.join(rcpt_tos)}")


def auth_handler(
    remote_addr: ehlo.Peer, mechanism: str, username: bytes, password: bytes, shared: bytes
) -> bool:
    secret = PASSWORDS.get(username)
    if secret is None:
        return False
    if mechanism == "CRAM-MD5":
        return ehlo.cram_md5_matches(secret, shared, password)
    return hmac.compare_digest(secret, password)


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
server = ehlo.Server(handler, addr=addr, auth_handler=auth_handler, auth_required=True)
server.configure_tls("server.crt", "server.key")
server.listen_and_serve()
