"""Accepts mail for one domain only; other recipients are rejected with a 550."""

import logging
import sys

import ehlo


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    print(f"mail from {mail_from} for {', '.join(rcpt_tos)}")


def rcpt_handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_to: str) -> bool:
    return rcpt_to.lower().endswith("@example.com")


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.Server(handler, addr=addr, rcpt_handler=rcpt_handler).listen_and_serve()
