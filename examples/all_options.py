"""Sets the common options: mail for one domain, under TLS, after a login, within limits."""

import hmac
import logging
import ssl
import sys

import ehlo


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes")


def check(
    remote_addr: ehlo.Peer, mechanism: str, username: bytes, password: bytes, shared: bytes
) -> bool:
    return username == b"alice" and hmac.compare_digest(password, b"wonderland")


ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
ssl_context.load_cert_chain("server.crt", "server.key")

server = ehlo.Server(
    handler,
    # Listening
    addr=sys.argv[1:] or ["127.0.0.1:2525", "[::1]:2525"],
    appname="MyServerApp",
    hostname="mx.example.com",
    # Functions
    rcpt_handler=lambda remote_addr, mail_from, rcpt_to: rcpt_to.endswith("@example.com"),
    auth_handler=check,
    # Authentication
    auth_mechs={"CRAM-MD5": False},
    auth_required=True,
    # TLS
    tls_config=ssl_context,
    tls_required=True,
    tls_listener=False,
    # Limits
    max_size=10_000_000,
    max_recipients=50,
    max_connections=200,
    max_connections_per_address=20,
    max_memory=500_000_000,
    threads=8,
    # Timeouts
    timeout=60,
    handler_timeout=30,
    grace=10,
    # Protocol
    bare_newlines="reject",
    strict_eol=True,
    unknown_params="reject",
    # Logging and metrics
    reverse_dns=False,
    debug=True,
    log_read=lambda remote_addr, verb, line: print(f"C: {line!r}"),
    log_write=lambda remote_addr, verb, line: print(f"S: {line!r}"),
    # Process
    loop="auto",
)
logging.basicConfig(level=logging.INFO)
server.listen_and_serve()
