"""Messages that are made to be expensive for who reads their content, in any size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustness.parsing import Input

SIZES = (3_000, 12_000)

HTML = "Content-Type: text/html\n\n"
MIXED = "Content-Type: multipart/mixed; boundary=b\n\n"
FORWARDED = "--b\nContent-Type: message/rfc822\n"
GARBAGE = "".join(map(chr, range(256)))
TAGS = (
    *("<p>x</p>", "<", "< ", "</", "<a>", "<a href=http://x>y</a>", "<a href", '<a href="', "<hr>"),
    *("<li>", "<pre>", "<td>x", "<b>x</b>", "<img alt=x>", "<!--", "<!-- x -->", "<!x", "<script>"),
    *(
        "<script>x</script>",
        "<title>",
        "&amp;",
        "&",
        "&#",
        "&#1234;",
        "&a",
        " ",
        "<div>\u00f0\u009f",
    ),
    "<a " + "href " * 40 + ">",
    "<a href=http://xxxx>" + "y<b>" * 100,
)
CHARSETS = (
    *("us-ascii", "latin1", "utf-8", "utf-7", "utf-16", "utf-32", "idna", "punycode", "gb2312"),
    *("big5", "euc-jp", "euc-kr", "hz", "iso-2022-jp", "iso-2022-kr", "shift_jis", "cp037"),
    *("unicode_escape", "zlib", "x-user-defined", "windows-1255", "viscii"),
)
RUNS = {
    "iso-2022-jp": ("\u001b$B", '\u001b$B$"\n', "\u001b$B\u001b(B"),
    "utf-7": ("+AG", "\u00ff"),
    "hz": ("~{", "~{~}"),
    "idna": ("xn--a.", "\u00ff"),
    "punycode": ("a", "-a"),
    "euc-jp": ("\u00a1\u00ff",),
}
"""What is expensive in one charset; in each there are all bytes."""
ENCODED = {
    "base64": ("QUJD", "A=", "=", "QQ==", "\n", GARBAGE),
    "quoted-printable": ("=41", "=", "=\n", "=GG", " \n", GARBAGE),
    "x-uuencode": ("#0V%T\n", "a\n", "M\n", "M", "`\n", " \n", "begin 644 a\n", GARBAGE),
}
FLOWED = "Content-Type: text/plain; format=flowed\n\n"
UTF8 = "Content-Type: text/plain; charset=utf-8\n\n"
FOUND: dict[str, Input] = {
    "codes": ("Subject: code\n\n", "your code is 123456\n", ""),
    "numbers": ("Subject: code\n\n", "123456 ", ""),
    "numbers in lines": ("Subject: code\n\n", "123456\n", ""),
    "digits one by one": ("\n\n", "1 ", ""),
    "digits of another script": (UTF8, "\u00ef\u00bc\u0091", ""),
    "capital letters": ("Subject: code\n\n", "ABCDEF ", ""),
    "letters and digits": ("Subject: code\n\n", "A1B2C3 ", ""),
    "letters and dashes": ("\n\n", "A-", ""),
    "labels": ("\n\n", "code ", ""),
    "beginnings of labels": ("\n\n", "co", ""),
    "schemes": ("\n\n", "http://", ""),
    "ends of schemes": ("\n\n", "://", ""),
    "addresses": ("\n\n", "http://x ", ""),
    "a long address": ("\n\n", "http://x/" + "a" * 740 + " ", ""),
    "brackets behind addresses": ("\n\n", "http://x/" + ")" * 90 + " ", ""),
    "open brackets before addresses": ("\n\n", "<http://x\n", ""),
    "users in addresses": ("\n\n", "http://a@", ""),
    "addresses without a scheme": ("\n\n", " www.x", ""),
    "addresses that are none": ("\n\n", "www.", ""),
    "addresses in Japanese": (UTF8, "http://a.b\u00e3\u0081\u0082", ""),
    "addresses as labels": (HTML, "<a href=http://x>http://y</a>", ""),
    "text before links": (HTML, "x<a href=//>", ""),
    "areas": (HTML, "<area href=http://x/>", ""),
    "forms": (HTML, "<form action=http://x/>", ""),
    "mailboxes": ("To: ", "a@b,", ""),
    "quotes in mailboxes": ("To: ", '"', ""),
    "escapes in mailboxes": ("To: ", '"\\a"', ""),
    "comments in mailboxes": ("To: ", "(", ""),
    "brackets in mailboxes": ("To: ", "<", ""),
    "lines that flow": (FLOWED, "a \n", ""),
    "empty lines that flow": (FLOWED, " \n", ""),
}
"""What is expensive where links and codes are looked for."""
READ: dict[str, Input] = {
    "text": ("Subject: x\n\n", "hello world\r\n", ""),
    "NULs": ("", "\0", ""),
    "line ends": ("", "\n", ""),
    "empty parts": (MIXED, "--b\n\n", ""),
    "parts with a field": (MIXED, "--b\nA:\n\n", ""),
    "parts of a digest": (MIXED.replace("mixed", "digest"), "--b\n\nSubject: x\n\n", ""),
    "parts with a type": (MIXED, "--b\nContent-Type: a/b; name=a\n\n", ""),
    "parts of an encoding": (
        MIXED,
        "--b\nContent-Type: a/b\nContent-Transfer-Encoding: base64\n\nA",
        "",
    ),
    "alternatives": (MIXED.replace("mixed", "alternative"), "--b\n\nx\n--b\n" + HTML, ""),
    "forwarded mail": (MIXED, FORWARDED + "\nSubject: x\n\n", ""),
    "forwarded headers": (MIXED, FORWARDED + "\n" + "A:\n" * 300, ""),
    "forwarded mail in base64": (
        *(MIXED, FORWARDED + "Content-Transfer-Encoding: base64\n\n" + "QTo=" * 200 + "\n", ""),
    ),
    "boundaries that nearly match": (MIXED, "--c\n", ""),
    "boundaries that match less": (MIXED, "--\n", ""),
    "long boundaries that nearly match": (
        MIXED.replace("=b", "=" + "b" * 900),
        "--" + "b" * 899 + "c\n",
        "",
    ),
    "hyphens": (MIXED, "-", ""),
    "a multipart in a multipart": ("", MIXED + "--b\n", ""),
    "semicolons": ("Content-Type: text/plain", ";", ""),
    "parameters": ("Content-Type: text/plain", "; a=b", ""),
    "pairs in quotes": ('Content-Type: text/plain; a="', '\\"', '"'),
    "backslashes in quotes": ('Content-Type: text/plain; a="', "\\\\", '"'),
    "an open quote": ('Content-Type: text/plain; a="', "a", ""),
    "pieces of a parameter": ("Content-Type: text/plain", "; a*1=%41", ""),
    "words in a file name": ('Content-Type: a/b; name="', "=?utf-8?q?a?= ", '"'),
    "encoded words": ("Subject: ", "=?utf-8?b?YQ==?= ", ""),
    "encoded words of two charsets": ("Subject: ", "=?utf-8?q?a?= =?latin1?q?b?= ", ""),
    "encoded words that are open": ("Subject: ", "=?utf-8?q?", ""),
    "beginnings of encoded words": ("Subject: ", "=?", ""),
    "charsets of encoded words": ("Subject: ", "=?" + "x" * 70 + "?q?a?=", ""),
    "a long encoded word": ("Subject: =?utf-8?b?", "QUJD", "?="),
    "a long word in quoted-printable": ("Subject: =?utf-8?q?", "=41", "?="),
    "fields": ("", "A:\n", ""),
    "fields with words": ("", "Subject: =?utf-8?q?=C3=A9?=\n", ""),
    "folded lines": ("Subject: x", "\r\n x", ""),
    "a long name": ("", "x", ":"),
    "blanks behind a name": ("A", " ", ":"),
    "names that are none": ("", "A" + " " * 500 + "x\n A:\n", ""),
    "colons": ("", ":", ""),
    **{f"HTML: {part[:30]!r}": (HTML, part, "") for part in TAGS},
    **{
        f"{charset}: {part[:8]!r}": (f"Content-Type: text/plain; charset={charset}\n\n", part, "")
        for charset in CHARSETS
        for part in (GARBAGE, *RUNS.get(charset, ()))
    },
    **{
        f"{encoding}, {kind}: {part[:14]!r}": (
            f"Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n",
            part,
            "",
        )
        for encoding, parts in ENCODED.items()
        for kind in ("text/plain", "a/b")
        for part in parts
    },
}


def read(message: bytes) -> None:
    """Read all that there is to read."""
    from ehlo.content import read_content

    content = read_content(message)
    _ = content.headers, content.text, content.html
    for attachment in content.attachments:
        _ = attachment.data


def search(message: bytes) -> None:
    """Look for links and codes, as a test or the page of a message does."""
    from ehlo.content import read_content

    content = read_content(message)
    _ = content.links, content.codes


def list_it(message: bytes) -> None:
    """Make a summary, as the inbox does of each message that it takes."""
    from ehlo.content.summary import summarize

    summarize(message)


def find(message: bytes) -> None:
    """Look for links and codes, and make a summary."""
    search(message)
    list_it(message)


def message_of(made: Input, size: int) -> bytes:
    """Return a message of about this many bytes."""
    before, part, after = made
    return b"".join(
        (before.encode("latin-1"), part.encode("latin-1") * (size // len(part)), after.encode())
    )


if __name__ == "__main__":
    sys.path[:0] = [sys.argv[1], str(Path(__file__).parents[1])]
    from robustness.parsing import measure

    measure(
        [
            *((made, lambda text: read(text.encode("latin-1"))) for made in READ.values()),
            *((made, lambda text: find(text.encode("latin-1"))) for made in FOUND.values()),
        ],
        SIZES,
    )
