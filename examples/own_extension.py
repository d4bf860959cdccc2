"""Adds an extension: EHLO offers XFOO, RCPT accepts XFOO=number, and XFOO is a command."""

import logging
import sys

import ehlo


def number(text: str | None) -> int:
    return int(text or "")  # a ValueError is answered with 501


XFOO = ehlo.Extension("XFOO", 0, rcpt={"XFOO": number}, verbs=("XFOO",), octets=16)


class Foo(ehlo.Handler):
    def on_command(self, session: ehlo.Session, verb: str, argument: str) -> ehlo.Reply:
        # A command may be longer than a line of a reply
        return ehlo.Reply(250, "2.0.0", f"{argument[:100] or 'nothing'} to you, too")

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        print("foo is", [recipient.params.get("XFOO") for recipient in message.recipients])


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.Server(Foo(), addr=addr, own_extensions=[XFOO]).listen_and_serve()
