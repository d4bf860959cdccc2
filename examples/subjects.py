"""Prints the subject of each message."""

import logging
import sys
from email import message_from_bytes, policy

import ehlo


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    mail = message_from_bytes(data, policy=policy.default)
    print(f"mail from {mail_from} for {rcpt_tos[0]} with subject {mail['Subject']!r}")


logging.basicConfig(level=logging.INFO)
ehlo.listen_and_serve(sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525", handler, "MyServerApp")
