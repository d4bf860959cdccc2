"""Calls a function for each message: the smallest server."""

import logging
import sys

import ehlo


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes")


logging.basicConfig(level=logging.INFO)  # shows the address
ehlo.listen_and_serve(sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525", handler, "MyServerApp")
