"""Prints the subject of each message."""

import logging
import sys

import ehlo


class Subjects(ehlo.Handler):
    """Reads the subject in time proportional to the message, whatever a client sends."""

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        subject = message.content.subject[:200]
        print(f"mail from {message.sender} for {message.recipients[0]} with subject {subject!r}")


logging.basicConfig(level=logging.INFO)
ehlo.listen_and_serve(sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525", Subjects(), "MyServerApp")
