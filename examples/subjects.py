"""Prints the subject of each message, in time proportional to its size."""

import logging
import sys

import ehlo


def handler(message: ehlo.Message) -> None:
    subject = message.content.subject[:200]
    print(f"mail from {message.sender} for {message.recipients[0]} with subject {subject!r}")


logging.basicConfig(level=logging.INFO)
ehlo.listen_and_serve(sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525", handler, "MyServerApp")
