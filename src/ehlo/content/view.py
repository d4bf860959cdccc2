"""`Content`: what a person sees of a message, and each `Attachment`.

Any bytes at all can be read: nothing here raises, and what it costs is in proportion to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final, NamedTuple

from ehlo.content.breather import Rest, no_rest
from ehlo.content.charsets import decode_text, is_ascii_compatible
from ehlo.content.codes import Code, find_codes
from ehlo.content.fields import first_field, one_line, read_header
from ehlo.content.links import Link, find_links, most_links
from ehlo.content.markup import Anchor, read_html, text_of_html
from ehlo.content.mime import Part, parse_message
from ehlo.content.transfer import decode_transfer, decoded_size

MOST_TEXT: Final = 1_048_576
"""Bytes of text, still encoded, that are decoded of one message; as many of its HTML."""
# What is read by a person although it is called something else than text
_READABLE: Final = frozenset(
    ("message/delivery-status", "message/disposition-notification", "text/rfc822-headers")
)
_LONGEST_HEAD: Final = 65_536
_MOST_FIELDS_OF_ANOTHER: Final = 200  # among which the subject of a forwarded message is


@dataclass(frozen=True, slots=True)
class Attachment:
    r"""A part of a message that is not its text: a file, an image, a forwarded message.

    Example:

        >>> from ehlo.content import read_content
        >>> mail = b"Content-Type: text/csv; name=a.csv\r\n\r\n1,2\r\n"
        >>> for attachment in read_content(mail).attachments:
        ...     print(attachment.filename, attachment.content_type, attachment.data)
        a.csv text/csv b'1,2\r\n'
    """

    filename: str | None
    """The name that the sender gave it, or `None`. It is a claim: never use it as a path."""
    content_type: str
    """The media type, in lower case, as in `application/pdf`."""
    disposition: str
    """`"attachment"`, `"inline"`, or `""` when the sender did not say."""
    content_id: str | None
    """The Content-ID without its brackets, by which HTML refers to it (RFC 2392)."""
    subject: str | None
    """The subject of a forwarded message; `None` for anything else."""
    size: int
    """The size in bytes, decoded."""
    start: int
    """Where its bytes begin in the message, still encoded."""
    end: int
    """Where they end."""
    _message: bytes = field(repr=False)
    _encoding: str = field(repr=False)

    @property
    def data(self) -> bytes:
        """The bytes, decoded."""
        return decode_transfer(self._message[self.start : self.end], self._encoding)


class Content:
    r"""Holds the content of a message that a person sees.

    A handler has it as `message.content`.

    Example:

        >>> from ehlo.content import read_content
        >>> content = read_content(b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nAt noon?\r\n")
        >>> content.subject, content.text, content.attachments
        ('Grüße', 'At noon?\n', [])
    """

    def __init__(self, message: bytes, rest: Rest = no_rest) -> None:
        self._message = message
        self._rest = rest
        self.root: Part = parse_message(message, rest=rest)
        """The parts of the message, with their offsets."""
        self._readings, others = _read_parts(self.root)
        self.attachments: Sequence[Attachment] = [
            _attachment(message, part, rest) for part in others
        ]
        """What is neither the text nor its HTML form, in the order of the message."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields of the message, in their order, decoded, each in one line."""
        return [(each.decoded_name, one_line(each.text)) for each in self.root.fields]

    @property
    def omitted_headers(self) -> int:
        """About how many fields are missing from `headers`, of which a message has too many."""
        return self.root.more_fields

    @property
    def subject(self) -> str:
        """The decoded Subject in one line, without control characters; empty without one."""
        return one_line(self.root.first("subject"))

    @property
    def text(self) -> str:
        """The readable text, with LF line ends and without NUL; empty when there is none.

        It is made from the HTML where there is no plain text. `omitted` says how much of a very
        long text is missing.
        """
        return self._read_text[0]

    @property
    def omitted(self) -> int:
        """How many bytes are missing from `text`, of which at most a mebibyte is decoded."""
        return self._read_text[1]

    @property
    def html(self) -> str | None:
        """The HTML of the message, without NUL; `None` when it has none. It may be hostile.

        It is decoded each time.
        """
        parts = [part for reading in self._readings for part in reading.html]
        return _Decoder(self._message).join(parts) if parts else None

    @property
    def links(self) -> list[Link]:
        """The links in the text and in the HTML, the best first.

        `ehlo.content.links` has the rules.
        """
        return self._found[0]

    @property
    def codes(self) -> list[Code]:
        """The one-time codes in the subject, the text and the HTML, the best first.

        `ehlo.content.codes` has the rules.
        """
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[list[Link], list[Code]]:
        decoder = _Decoder(self._message)
        texts: list[str] = []
        anchors: list[Anchor] = []
        for reading in self._readings:
            texts += map(decoder.paragraphs, reading.plain)
            if reading.html:
                most = partial(_most_anchors, known=len(anchors))
                text, more = read_html(decoder.join(reading.html), most, self._rest)
                texts.append(text)
                anchors += more
        return find_links(texts, anchors), find_codes(self.subject, texts)

    @cached_property
    def _read_text(self) -> tuple[str, int]:
        decoder = _Decoder(self._message)
        texts = []
        for reading in self._readings:
            text = decoder.join(reading.plain)
            if reading.html and not text.strip():
                text = text_of_html(decoder.join(reading.html), self._rest)
            texts.append(text)
        return "\n".join(texts), decoder.omitted


def _most_anchors(size: int, known: int) -> int:
    return most_links(size) - known


class _Reading(NamedTuple):
    """Parts that say the same: a person reads the plain ones, or else those in HTML."""

    plain: list[Part]
    html: list[Part]


def _read_parts(part: Part) -> tuple[list[_Reading], list[Part]]:
    """Return what is read of `part`, in its order, and the parts that are attached to it."""
    if not part.children:
        return _read_leaf(part)
    readings: list[_Reading] = []
    others: list[Part] = []
    for child in part.children:
        more_readings, more_others = _read_parts(child)
        readings += more_readings
        others += more_others
    if part.content_type == "multipart/alternative":
        plain = [each for reading in readings for each in reading.plain]
        in_html = [each for reading in readings for each in reading.html]
        readings = [_Reading(plain, in_html)] if readings else []
    return readings, others


def _read_leaf(part: Part) -> tuple[list[_Reading], list[Part]]:
    kind = part.content_type
    if part.disposition.value == "attachment":
        return [], [part]
    if kind == "text/html":
        return [_Reading([], [part])], []
    # A multipart without parts has lost its boundary: its text is all that there is
    if kind == "text/plain" or kind in _READABLE or kind.startswith("multipart/"):
        return [_Reading([part], [])], []
    return [], [part]


class _Decoder:
    """Decodes parts of one message, as long as they are not too much."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._left = MOST_TEXT
        self.omitted = 0

    def join(self, parts: list[Part]) -> str:
        """Return the text of the parts, one below the other."""
        return "\n".join(map(self._decoded, parts))

    def paragraphs(self, part: Part) -> str:
        """Return the text of a part; if it is flowed, each paragraph is one line (RFC 3676)."""
        parameters = part.parameters.parameters
        text = self._decoded(part)
        if parameters.get("format", "").lower() != "flowed":
            return text
        return _unwrapped(text, "" if parameters.get("delsp", "").lower() == "yes" else " ")

    def _decoded(self, part: Part) -> str:
        end = min(part.end, part.start + self._left)
        self._left -= end - part.start
        self.omitted += part.end - end
        data = decode_transfer(self._message[part.start : end], part.transfer_encoding)
        charset = part.parameters.parameters.get("charset", "")
        if is_ascii_compatible(charset):  # on bytes, since text may take four times as much
            data = data.replace(b"\r\n", b"\n")
            return decode_text(data, charset).replace("\0", "")
        return decode_text(data, charset).replace("\r\n", "\n").replace("\0", "")


def _unwrapped(text: str, joint: str) -> str:
    """Join the lines that end in a blank, which `joint` replaces (RFC 3676 4.1)."""
    lines: list[str] = []
    joins = False
    for line in text.split("\n"):
        line = line.removeprefix(" ")  # space-stuffed (RFC 3676 4.4)
        if joins:
            lines[-1:] = (lines[-1][:-1], joint)
            lines.append(line)
        else:
            lines += ("\n", line)
        joins = line.endswith(" ") and line != "-- "
    return "".join(lines[1:])


def _attachment(message: bytes, part: Part, rest: Rest) -> Attachment:
    rest()
    encoding = part.transfer_encoding
    name = part.disposition.parameters.get("filename") or part.parameters.parameters.get("name")
    subject = None
    if part.content_type == "message/rfc822":
        end = min(part.end, part.start + _LONGEST_HEAD)
        head = decode_transfer(message[part.start : end], encoding)
        header = read_header(head, 0, lambda _begin, _end: False, _MOST_FIELDS_OF_ANOTHER)
        subject = one_line(first_field(header.fields, "subject"))
    return Attachment(
        filename=one_line(name or "") or None,
        content_type=part.content_type,
        disposition=part.disposition.value,
        content_id=one_line(part.first("content-id")).strip().strip("<>") or None,
        subject=subject,
        size=decoded_size(memoryview(message)[part.start : part.end], encoding, rest),
        start=part.start,
        end=part.end,
        _message=message,
        _encoding=encoding,
    )


def read_content(message: bytes, rest: Rest = no_rest) -> Content:
    r"""Return what a person sees of `message`, which may be any bytes.

    `rest` is called now and then, so that a thread can leave others their turns; see `Breather`.

    Example:

        >>> from ehlo.content import read_content
        >>> read_content(b"Subject: Lunch\r\n\r\nAt noon?\r\n").subject
        'Lunch'
    """
    return Content(message, rest)
