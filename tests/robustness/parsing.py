"""Parses inputs that are made to be expensive; `test_work.py` runs this under a counter of steps.

`parsing.py SOURCE` parses each input in three sizes, each twice the one before, and calls `getsid`
before and after each: a function of the C library that nothing else calls here, so that the
counter knows where a measurement begins and ends.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime

SIZES = (25_000, 50_000, 100_000)
BASE = 40  # what an input has around its repeated part, about

Input = tuple[str, str, str]
"""What is said before the part that is repeated, the part, and what is said after it."""

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
    "many that nobody knows": ("", " X=1", ""),
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
TRAILS: dict[str, Input] = {
    "blanks behind VRFY": ("VRFY a", " ", "SMTPUTF8"),
    "words behind VRFY": ("VRFY a", " a", " SMTPUTF8"),
    "blanks behind NOOP": ("NOOP", " ", ""),
    "tabs and blanks behind NOOP": ("NOOP", "\t ", "x"),
}


CONTROL = "what takes four times the work for twice the input"


def names() -> list[str]:
    """What is measured, in this order; each in all sizes."""
    return [
        *(f"MAIL: {name}" for name in (*PATHS, *OF_MAIL)),
        *(f"RCPT: {name}" for name in (*PATHS, *OF_RCPT)),
        *TRAILS,
        CONTROL,
    ]


def said(made: Input, size: int) -> str:
    """An input of this many octets, about."""
    before, part, after = made
    return before + part * (size // len(part.encode())) + after


def measurements() -> list[tuple[Input, Callable[[str], object]]]:
    """What to say, and what takes it; in the order of `names`."""
    from ehlo.protocol import commands, offers, path
    from ehlo.protocol.connection import Connection
    from ehlo.protocol.settings import Settings

    wanted = dict.fromkeys(offers.OPTIONAL, True) | {"FUTURERELEASE": "604800"}
    extensions = offers.rows(wanted, (), lambda: datetime(2029, 12, 31, tzinfo=UTC))
    settings = Settings(extensions=extensions, ignore_unknown_params=True)
    connection = Connection(settings, lambda: "nonce", tls=True)

    def mail(text: str) -> object:
        return path.reverse_path(f"FROM:{text}", connection)

    def rcpt(text: str) -> object:
        return path.forward_path(f"TO:{text}", connection, smtputf8=True)

    def command(text: str) -> object:
        words = commands.split(f"{text}\r\n".encode(), strict_eol=True)
        return commands.VERBS[words[0]](connection, words[1]) if isinstance(words, tuple) else None

    def quadratic(text: str) -> object:
        return re.search("a*b", text[: len(text) // 50])

    return [
        *((made, mail) for made in (*PATHS.values(), *behind_path(OF_MAIL))),
        *((made, rcpt) for made in (*PATHS.values(), *behind_path(OF_RCPT))),
        *((made, command) for made in TRAILS.values()),
        (("", "a", ""), quadratic),
    ]


def behind_path(parameters: dict[str, Input]) -> list[Input]:
    """Parameters with what stands before them."""
    return [(f"<a@x>{before}", part, after) for before, part, after in parameters.values()]


def main() -> None:
    """Parse each in all sizes, after once in a small one, which imports and compiles."""
    todo = measurements()
    for made, parse in todo:
        parse(said(made, BASE))
    gc.disable()
    for made, parse in todo:
        for size in SIZES:
            text = said(made, size)
            os.getsid(0)
            parse(text)
            os.getsid(0)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
