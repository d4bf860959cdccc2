"""`Summary`: what a list of messages shows of one, read in one pass over its bytes.

It costs little, because it is made of each message that is received: the parts are found, a dozen
fields are decoded, and of the text only the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from ehlo.content.breather import Rest, no_rest
from ehlo.content.charsets import decode_text
from ehlo.content.fields import LONGEST_VALUE, Field, decode_header, one_line
from ehlo.content.markup import beginning_of_html
from ehlo.content.mime import Part, parse_message
from ehlo.content.transfer import decode_transfer

LONGEST_SNIPPET: Final = 200
"""Bytes of a snippet, in UTF-8."""
MOST_MAILBOXES: Final = 1_000
"""Mailboxes of one field that are read."""
_BEGINNING: Final = 4_096  # bytes of a text, still encoded, of which a snippet is made
_USUAL_TEXT: Final = 600  # characters that usually give a snippet; 4,096 took 6 us more
_LAID_OUT: Final = 3 * LONGEST_SNIPPET // 2 + 3  # bytes of the text of HTML, with empty lines
_MARKUP: Final = (8_192, 65_536)  # the same of HTML, which may begin with a long style sheet

_LISTS: Final = (b"from", b"to", b"cc", b"bcc", b"reply-to")


class Mailbox(NamedTuple):
    """A mailbox in a field (RFC 5322 3.4), decoded.

    Example:

        >>> from ehlo.content import summarize
        >>> summarize(b'From: "Bee, B" <b@x.test>').sender
        Mailbox(name='Bee, B', address='b@x.test')
    """

    name: str
    """The display name; all of a text that is no mailbox."""
    address: str
    """The address; empty without one."""


class Summary(NamedTuple):
    r"""Summarizes a message for a list.

    Example:

        >>> from ehlo.content import summarize
        >>> summary = summarize(b"Subject: hi\n\nHow are you?", ["b@x.test"])
        >>> summary.subject, summary.snippet
        ('hi', 'How are you?')
        >>> summary.bcc
        [Mailbox(name='', address='b@x.test')]
    """

    message_id: str
    """The Message-ID without its brackets; empty without one."""
    sender: Mailbox
    """The first mailbox of From; empty strings without one."""
    to: list[Mailbox]
    cc: list[Mailbox]
    bcc: list[Mailbox]
    """The mailboxes of Bcc, and the envelope recipients that no field names."""
    reply_to: list[Mailbox]
    subject: str
    snippet: str
    """The beginning of the text in one line: of the HTML, or else of the plain text."""
    size: int
    """The size in bytes, as the message came."""
    attachments: int
    """The number of parts that are declared as attachments, or are bytes of no known type."""
    inlines: int
    """The number of parts that are declared as inline."""


def summarize(message: bytes, recipients: Iterable[str] = (), rest: Rest = no_rest) -> Summary:
    """Return the summary of `message`, which may be no proper message at all.

    `recipients` are those of the envelope. For `rest` see `ehlo.content.breather`.

    Example:

        >>> from ehlo.content import summarize
        >>> summarize(b"From: Ann <a@x.test>").sender.name
        'Ann'
    """
    root = parse_message(message, rest=rest)
    sender, to, cc, bcc, reply_to = read_people(root, recipients)
    attachments = inlines = 0
    shown: list[Part] = []
    for part in root.leaves():
        disposition = part.disposition.value
        if disposition == "attachment" or part.content_type == "application/octet-stream":
            attachments += 1
        else:
            shown.append(part)
        inlines += disposition == "inline"
    return Summary(
        message_id=read_message_id(root),
        sender=sender,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        subject=one_line(root.first("subject")),
        snippet=_snippet(message, shown, rest),
        size=len(message),
        attachments=attachments or int(_is_file(root)),
        inlines=inlines,
    )


People = tuple[Mailbox, list[Mailbox], list[Mailbox], list[Mailbox], list[Mailbox]]
"""Sender, To, Cc, Bcc and Reply-To, as `Summary` has them."""


def read_people(root: Part, recipients: Iterable[str]) -> People:
    """Return the sender and the recipients of a message; see `Summary`."""
    senders, to, cc, copied, reply_to = map(_mailboxes, map(root.named.get, _LISTS))
    sender = senders[0] if senders else Mailbox("", "")
    return sender, to, cc, _with_unnamed(recipients, to, cc, copied), reply_to


def read_message_id(root: Part) -> str:
    """Return the Message-ID of a message without its brackets; empty without one."""
    return one_line(root.first("message-id")).strip().removeprefix("<").removesuffix(">")


def _mailboxes(field: Field | None) -> list[Mailbox]:
    return [] if field is None else read_mailboxes(field.value)


def _with_unnamed(recipients: Iterable[str], *lists: list[Mailbox]) -> list[Mailbox]:
    """Return the last list, and the recipients that are in none of the lists."""
    named = {each.address.lower() for mailboxes in lists for each in mailboxes}
    unnamed = dict.fromkeys([each for each in recipients if each.lower() not in named])
    return [*lists[-1], *(Mailbox("", each) for each in unnamed)]


# -- parts -----------------------------------------------------------------------------------------


def _is_file(root: Part) -> bool:
    """Return whether the whole message is one file."""
    kind = root.content_type
    shown = kind in ("text/plain", "text/html") or kind.startswith("multipart/")
    return not root.children and not shown


def _snippet(message: bytes, shown: list[Part], rest: Rest) -> str:
    """Return the beginning of the parts that are no attachments."""
    html = next((part for part in shown if part.content_type == "text/html"), None)
    if html is not None:
        for most in _MARKUP:
            text = beginning_of_html(_beginning(message, html, most), _LAID_OUT, rest)
            if len(text) > LONGEST_SNIPPET or html.end - html.start <= most:
                break
        if snippet := _cut(text):
            return snippet
    plain = [part for part in shown if part.content_type.startswith(("text/plain", "multipart/"))]
    return _cut("\n".join([_beginning(message, part, _BEGINNING) for part in plain[:3]]))


def _beginning(message: bytes, part: Part, most: int) -> str:
    data = message[part.start : min(part.end, part.start + most)]
    if encoding := part.transfer_encoding:
        data = decode_transfer(data, encoding)
    return decode_text(data, part.parameters.parameters.get("charset", ""))


def _in_one_line(text: str) -> str:
    return one_line(" ".join(text.split(None, LONGEST_SNIPPET)[:LONGEST_SNIPPET]))


def _cut(text: str) -> str:
    """Return the beginning of `text` in one line."""
    line = _in_one_line(text[:_USUAL_TEXT])
    if len(line) <= LONGEST_SNIPPET and len(text) > _USUAL_TEXT:
        line = _in_one_line(text)
    data = line[: LONGEST_SNIPPET + 1].encode("utf-8", "replace")
    if len(data) <= LONGEST_SNIPPET:
        return line
    return data[:LONGEST_SNIPPET].decode("utf-8", "ignore") + "..."


# -- mailboxes (RFC 5322 3.4) ----------------------------------------------------------------------

_PIECE: Final = re.compile(
    rb"""(?P<quoted>"[^"\\]*+(?:\\.[^"\\]*+)*+"?)|(?P<angle><[^<>]*+>?)|(?P<mark>[,;:()])
    |(?P<atom>(?:[^",;:<>()\[]|\[[^\]]*+\]?)++|>)""",
    re.DOTALL | re.VERBOSE,
)


# One mailbox, as most fields have it, and the comma behind it: this way took 6 instead of 17 us.
# Or else all that is left
_USUAL: Final = re.compile(
    r"""\s*+(?:(?:"([^"\\]*+)"\s*+|([^",;:<>()\[\\]*+))<([^@\s",;:<>()\[\\]++@[^@\s",;:<>()\[\\]++)>
    |([^@\s",;:<>()\[\\]++@[^@\s",;:<>()\[\\]++))\s*+(?:,|\Z)|(?s:.++)""",
    re.ASCII | re.VERBOSE,
)
_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)  # split by it, a text has its second bytes
_MOST_PIECES: Final = 8 * MOST_MAILBOXES


def read_mailboxes(value: bytes) -> list[Mailbox]:
    """Return the mailboxes of a field; groups are left out, their members are not."""
    value = value[:LONGEST_VALUE]
    text = value.decode("latin-1")
    plain = text.isascii() and text.isprintable() and "=?" not in text  # as most are
    decoded = str.strip if plain else _decoded_latin
    found: list[Mailbox] = []
    for usual in islice(_USUAL.finditer(text), MOST_MAILBOXES):
        quoted, name, address, bare = usual.groups("")
        if shown := address or bare:
            found.append(Mailbox(decoded(quoted or name), decoded(shown)))
        else:
            found += _read_any(value[usual.start() :])
    return found[:MOST_MAILBOXES]


def _read_any(value: bytes) -> list[Mailbox]:
    found: list[Mailbox] = []
    words: list[bytes] = []
    address: bytes | None = None
    comment = b""
    depth = 0
    for piece in islice(_PIECE.finditer(value), _MOST_PIECES):
        kind, text = piece.lastgroup, piece[0]
        if depth or kind == "mark":
            if text == b"(":
                depth += 1
            elif depth:
                depth -= text == b")"
                comment += text if depth else b""
            elif text == b")":
                words.append(text)
            elif text == b":":  # the name of a group is before it
                words = []
            else:
                if words or address:
                    found.append(_mailbox(words, address, comment))
                words, address, comment = [], None, b""
                if len(found) >= MOST_MAILBOXES:
                    break
        elif kind == "angle":
            address = text.strip(b"<> \t\r\n")
        elif not text.isspace():
            words.append(text)
    if words or address:
        found.append(_mailbox(words, address, comment))
    return found[:MOST_MAILBOXES]


def _mailbox(words: list[bytes], address: bytes | None, comment: bytes) -> Mailbox:
    text = b"".join(words).strip()
    if address is None and b"@" in text and (b'"@' in text or len(text.split()) == 1):
        return Mailbox(_decoded(comment), _decoded(text))
    if b"\\" in text or b"[" in text:
        name = b"".join(map(_unquoted, words)).strip()
    else:  # each quote is a delimiter
        name = text.replace(b'"', b"").strip()
    if address is not None and address.startswith(b"@"):  # a source route
        address = address.rpartition(b":")[2]
    return Mailbox(_decoded(name or comment), _decoded(address))


def _unquoted(word: bytes) -> bytes:
    if word[:1] != b'"':
        return word
    inner = word[1:].removesuffix(b'"')
    return b"".join(_PAIR.split(inner)) if b"\\" in inner else inner


def _decoded_latin(text: str) -> str:
    return _decoded(text.encode("latin-1"))


def _decoded(value: bytes | None) -> str:
    if not value:
        return ""
    if value.isascii() and b"=?" not in value and b"\n" not in value:  # as most are
        return one_line(value.decode()).strip()
    return one_line(decode_header(value)).strip()
