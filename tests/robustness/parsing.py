"""Parses inputs that are made to be expensive; `test_work.py` counts its instructions.

`parsing.py SOURCE COUNT` parses each input in two sizes, `COUNT` inputs of a size in a process of
their own, and prints the ids of these. The counter tells the steps of a process together with those
of its parent before it was made; a process that parses nothing is the first and the last of them.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ehlo.protocol.settings import Settings

SIZES = (5_000, 20_000)
BASE = 40  # what an input has around its repeated part, about

Item = TypeVar("Item")
Input = tuple[str, str, str]
"""The text before the repeated part, the repeated part, and the text after it."""

PATHS: dict[str, Input] = {
    "atoms and dots": ("<", "a.", "a@x>"),
    "a long atom": ("<", "a", "@x>"),
    "dots": ("<", ".", "@x>"),
    "commas": ("<", ",", "@x>"),
    "backslashes": ("<", "\\", "@x>"),
    "pairs in quotes": ('<"', "\\a", '"@x>'),
    "backslashes in quotes": ('<"', "\\", '"@x>'),
    "quotes": ("<", '"', "@x>"),
    "empty quotes": ("<", '""', "@x>"),
    "an open quote": ('<"', "a", "@x>"),
    "labels": ("<a@", "x.", "x>"),
    "hyphens": ("<a@", "-", "x>"),
    "labels and hyphens": ("<a@", "x-", "x>"),
    "a source route": ("<", "@x,", "@x:a@x>"),
    "a source route that has no end": ("<@x", ",@x", "a@x>"),
    "at signs": ("<", "@", "x>"),
    "a literal": ("<a@[", "1", "]>"),
    "colons in a literal": ("<a@[IPv6:", ":", "]>"),
    "dots in a literal": ("<a@[", "1.", "]>"),
    "open brackets": ("", "<", ""),
    "brackets": ("", "<>", ""),
    "blanks": ("<a@x>", " ", ""),
    "beyond ASCII": ("<", "ü", "@x>"),
}
OF_MAIL: dict[str, Input] = {
    "many": ("", " SIZE=1", ""),
    "many that are unknown": ("", " X=1", ""),
    "signs of equality": (" X", "=", ""),
    "a long keyword": (" ", "X", ""),
    "hyphens in a keyword": (" X", "-", ""),
    "SIZE": (" SIZE=", "1", ""),
    "BODY": (" BODY=", "8", ""),
    "SMTPUTF8": (" SMTPUTF8=", "8", ""),
    "RET": (" RET=", "F", ""),
    "ENVID": (" ENVID=", "+2B", ""),
    "ENVID without an end": (" ENVID=", "+2B", "+"),
    "AUTH": (" AUTH=", "+2B", "@x"),
    "BY": (" BY=", "1", ";R"),
    "modes of BY": (" BY=1;", "R", ""),
    "HOLDFOR": (" HOLDFOR=", "1", ""),
    "HOLDUNTIL": (" HOLDUNTIL=2030-01-01T00:00:00.", "1", "Z"),
    "dates in HOLDUNTIL": (" HOLDUNTIL=", "2030-01-01T", "Z"),
    "MT-PRIORITY": (" MT-PRIORITY=", "-", "1"),
    "REQUIRETLS": (" REQUIRETLS=", "1", ""),
}
OF_RCPT: dict[str, Input] = {
    "NOTIFY": (" NOTIFY=NEVER", ",DELAY", ""),
    "commas in NOTIFY": (" NOTIFY=", ",", ""),
    "ORCPT": (" ORCPT=rfc822;", "+2B", ""),
    "the type in ORCPT": (" ORCPT=", "a", ";a"),
    "semicolons in ORCPT": (" ORCPT=a", ";", ""),
    "code points in ORCPT": (" ORCPT=utf-8;", "\\x{10FFFF}", ""),
    "beyond ASCII in ORCPT": (" ORCPT=utf-8;", "ü", ""),
    "backslashes in ORCPT": (" ORCPT=utf-8;", "\\", ""),
    "half a code point in ORCPT": (" ORCPT=utf-8;", "\\x{10", ""),
    "RRVS": (" RRVS=2030-01-01T00:00:00.", "1", "Z;C"),
    "semicolons in RRVS": (" RRVS=2030-01-01T00:00:00Z", ";", ""),
}
LINES: dict[str, Input] = {
    "blanks behind VRFY": ("VRFY a", " ", "SMTPUTF8"),
    "words behind VRFY": ("VRFY a", " a", " SMTPUTF8"),
    "blanks behind NOOP": ("NOOP", " ", ""),
    "tabs and blanks behind NOOP": ("NOOP", "\t ", "x"),
    "words behind EHLO": ("EHLO a", " a", ""),
    "a long name behind EHLO": ("EHLO ", "a-", ""),
    "digits behind BDAT": ("BDAT ", "1", " LAST"),
    "blanks behind BDAT": ("BDAT 1", " ", "LAST"),
    "words behind BDAT": ("BDAT 1", " LAST", ""),
    "a mechanism": ("AUTH ", "A", " ="),
    "blanks behind AUTH": ("AUTH ", " ", "PLAIN"),
    "base64 behind AUTH": ("AUTH PLAIN ", "AAAA", ""),
    "base64 that is none behind AUTH": ("AUTH PLAIN ", "A=", ""),
    "attributes that are unknown": ("XCLIENT", " X=1", ""),
    "signs of equality in XCLIENT": ("XCLIENT NAME", "=", ""),
    "blanks behind XCLIENT": ("XCLIENT ", " ", "NAME=a"),
    **{
        f"{name} of {verb}": (f"{verb} {name}=", part, after)
        for verb, attributes in {
            "XCLIENT": {
                "NAME": ("a.", ""),
                "ADDR": ("IPV6::", ""),
                "PORT": ("1", ""),
                "PROTO": ("ESMTP", ""),
                "HELO": ("+2B", ""),
                "LOGIN": ("+C3+BC", "+"),
                "DESTADDR": ("1.", "1"),
                "DESTPORT": ("0", "1"),
            },
            "XFORWARD": {
                "NAME": ("\u00fc", ""),
                "ADDR": ("1.", "1"),
                "PORT": ("1", ""),
                "PROTO": ("+", ""),
                "HELO": ("a-", ""),
                "IDENT": ("+2B", "+2"),
                "SOURCE": ("LOCAL", ""),
            },
        }.items()
        for name, (part, after) in attributes.items()
    },
}
MESSAGES: dict[str, dict[str, Input]] = {
    "PLAIN": {"NULs": ("", "\0", ""), "a name": ("\0", "a", "\0a")},
    "LOGIN": {"a name": ("", "\u00fc", "")},
    "CRAM-MD5": {"blanks": ("a", " ", "0" * 32), "digits": ("a ", "0", "")},
    "XOAUTH2": {
        "a name": ("user=", "a", "\1auth=Bearer x\1\1"),
        "blanks before a token": ("user=a\1auth=Bearer", " ", "x\1\1"),
        "a token": ("user=a\1auth=Bearer ", "x", "\1"),
    },
    "OAUTHBEARER": {
        "a name": ("n,a=", "=2C", ",\1auth=Bearer x\1\1"),
        "pairs": ("n,,\1", "a=b\1", "\1"),
        "pairs without an end": ("n,,\1", "a=\1", "x"),
        "a host": ("n,,\1host=", "a=", "\1auth=Bearer x\1\1"),
        "a port": ("n,,\1port=", "1", "\1auth=Bearer x\1\1"),
    },
    "EXTERNAL": {"an identity": ("", "a", "\0")},
    "ANONYMOUS": {"a trace": ("", "\u00fc", "")},
    "SCRAM-SHA-256": {
        "a name": ("n,,n=", "=2C", ",r=abc"),
        "a name to prepare": ("n,,n=", "u\u0308", ",r=abc"),
        "an identity": ("n,a=", "=3D", ",n=a,r=abc"),
        "a nonce": ("n,,n=a,r=", "!", ",x"),
        "extensions": ("n,,n=a,r=abc", ",a=b", ",m="),
        "a binding": ("p=", "a-", ",,n=a,r=abc"),
    },
}
"""The client's messages of each mechanism, decoded."""
FINALS: dict[str, Input] = {
    "a binding": ("c=", "AAAA", ",r=abc,p=AAAA"),
    "a nonce": ("c=biws,r=", "!", ",p=AAAA"),
    "extensions": ("c=biws,r=abc", ",a=b", ",p="),
    "a proof": ("c=biws,r=abc,p=", "A=", ""),
}
"""The second message of SCRAM."""
HEADERS: dict[str, Input] = {
    "an address": ("PROXY TCP4 ", "1.", " 1.1.1.1 1 1\r\n"),
    "an address of version 6": ("PROXY TCP6 ", ":", " ::1 1 1\r\n"),
    "a port": ("PROXY TCP4 1.1.1.1 1.1.1.1 ", "1", " 1\r\n"),
    "anything behind UNKNOWN": ("PROXY UNKNOWN ", "x", "\r\n"),
    "blanks": ("PROXY", " ", "\r\n"),
    "a block": ("\r\n\r\n\0\r\nQUIT\n!\x11\x0f\xf0", "\x04\0\0", ""),
    "a block that is too long": ("\r\n\r\n\0\r\nQUIT\n!\x11\xff\xff", "\x04", ""),
}
"""PROXY headers, a character for each byte."""
OPENED = ("EHLO a", "MAIL FROM:<a@x>", "RCPT TO:<a@x>")
BODIES: dict[str, Input] = {
    "CRs": ("", "\r", "\n"),
    "CRs and LFs": ("", "\r\n", ""),
    "LFs": ("", "\n", ""),
    "dots": ("", ".", ""),
    "what is nearly an end": ("", "\r\n.\r", ""),
}
"""Bodies of which each read brings one byte."""


CONTROL = "what takes four times the work for twice the input"


def names() -> list[str]:
    """Return the names of the measurements, in their order."""
    return [
        *(f"MAIL: {name}" for name in (*PATHS, *OF_MAIL)),
        *(f"RCPT: {name}" for name in (*PATHS, *OF_RCPT)),
        *LINES,
        *(f"{mechanism}: {name}" for mechanism, said in MESSAGES.items() for name in said),
        *(f"SCRAM's end: {name}" for name in FINALS),
        *(f"PROXY: {name}" for name in HEADERS),
        *(f"DATA: {name}" for name in BODIES),
        *(f"BDAT: {name}" for name in BODIES),
        CONTROL,
    ]


def groups(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Return the items in groups of `count`, and the last item, the control, in one of its own."""
    *others, last = items
    return [*(others[at : at + count] for at in range(0, len(others), count)), [last]]


def said(made: Input, size: int) -> str:
    """Return an input of about this many bytes."""
    before, part, after = made
    return before + part * (size // len(part.encode())) + after


def measurements() -> list[tuple[Input, Callable[[str], object]]]:
    """What to say, and what takes it; in the order of `names`."""
    from ehlo.protocol.auth import scram
    from ehlo.protocol.auth.mechanism import AuthContext, Exchange
    from ehlo.protocol.auth.mechanisms import MECHANISMS
    from ehlo.protocol.connection import Connection
    from ehlo.protocol.proxy import ProxyError, ProxyReader
    from ehlo.protocol.verbs import VERBS, command_of
    from ehlo.protocol.verbs.mail import forward_path, reverse_path

    settings = everything()
    conversation = Connection(settings, lambda: "nonce", tls=True).conversation
    context = AuthContext(lambda: "nonce", "mx.example.com", certificate={}, salt_key=b"key")

    def mail(text: str) -> object:
        return reverse_path(conversation, f"FROM:{text}")

    def rcpt(text: str) -> object:
        return forward_path(conversation, f"TO:{text}", smtputf8=True)

    def command(text: str) -> object:
        words = command_of(f"{text}\r\n".encode(), settings)
        if not isinstance(words, tuple):
            return words
        found = VERBS[words[0]].parse(conversation, words[1])
        return found.start() if isinstance(found, Exchange) else found

    def answering(name: str) -> Callable[[str], object]:
        def answer(text: str) -> object:
            mechanism, message = MECHANISMS[name], text.encode()
            initial = message if mechanism.client_first else None
            exchange = Exchange(mechanism, initial, context, lambda _error: None)
            step = exchange.start()
            while isinstance(step, bytes):  # a challenge
                step = exchange.respond(base64.b64encode(message).decode())
            return step

        return answer

    def final(text: str) -> None:
        with contextlib.suppress(ValueError):
            scram._parsed(scram._FINAL, text.encode())  # noqa: SLF001  what comes before it takes its time

    def proxy(text: str) -> None:
        with contextlib.suppress(ProxyError):
            ProxyReader().feed(text.encode("latin-1"))

    def quadratic(text: str) -> object:
        return re.search("a*b", text[: len(text) // 10])

    return [
        *((made, mail) for made in (*PATHS.values(), *behind_path(OF_MAIL))),
        *((made, rcpt) for made in (*PATHS.values(), *behind_path(OF_RCPT))),
        *((made, command) for made in LINES.values()),
        *((made, answering(name)) for name, said in MESSAGES.items() for made in said.values()),
        *((made, final) for made in FINALS.values()),
        *((made, proxy) for made in HEADERS.values()),
        *((made, dripping("DATA")) for made in BODIES.values()),
        *((made, dripping("BDAT 1000000")) for made in BODIES.values()),
        (("", "a", ""), quadratic),
    ]


def dripping(*commands: str) -> Callable[[str], None]:
    """Return a function that sends a body after `commands`, one byte a read."""
    from ehlo.protocol.connection import Connection
    from ehlo.protocol.events import Waiting
    from ehlo.protocol.settings import Settings

    def drip(text: str) -> None:
        connection = Connection(Settings(), lambda: "nonce", asks=frozenset())
        begun = "".join(f"{line}\r\n" for line in (*OPENED, *commands))
        for read in (begun, *text[: len(text) // 16]):
            connection.receive_data(read.encode())
            while not isinstance(connection.next_event(), Waiting):
                pass
            connection.data_to_send()

    return drip


def everything() -> Settings:
    """What has all parameters and all mechanisms."""
    from ehlo.protocol.auth.mechanisms import MECHANISMS
    from ehlo.protocol.body import BareNewlines
    from ehlo.protocol.extensions import TABLE, rows
    from ehlo.protocol.settings import Settings

    optional = [row.keyword for row in TABLE if row.default != "on"]
    wanted = dict.fromkeys(optional, True) | {"FUTURERELEASE": "604800"}
    return Settings(
        extensions=rows(wanted, (), lambda: datetime(2029, 12, 31, tzinfo=UTC)),
        bare_newlines=BareNewlines.KEEP,  # for BINARYMIME
        ignore_unknown_params=True,
        lenient_addresses=True,
        mechanisms=MECHANISMS,
    )


def behind_path(parameters: dict[str, Input]) -> list[Input]:
    """Return parameters with the path before them."""
    return [(f"<a@x>{before}", part, after) for before, part, after in parameters.values()]


def counted(run: Callable[[], object]) -> int:
    """Run `run` in a process of its own; return its id."""
    child = os.fork()
    if not child:
        run()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process that parses has failed")
    return child


def parse_all(inputs: list[tuple[str, Callable[[str], object]]]) -> None:
    """Parse inputs, one after the other."""
    for text, parse in inputs:
        parse(text)


def measure(
    todo: list[tuple[Input, Callable[[str], object]]],
    sizes: tuple[int, int] = SIZES,
) -> None:
    """Parse each input in both sizes, after a small one that imports and compiles."""
    for made, parse in todo:
        parse(said(made, BASE))
    inputs = [
        [(said(made, size), parse) for made, parse in group]
        for group in groups(todo, int(sys.argv[2]))
        for size in sizes
    ]
    runs = [partial(parse_all, each) for each in ([], *inputs, [])]
    gc.disable()
    print(*map(counted, runs))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    measure(measurements())
