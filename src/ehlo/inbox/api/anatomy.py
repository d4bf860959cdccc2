"""`Anatomy`: the parts of a message by the numbers that Mailpit gives them, and what each is.

The message itself is 0, its parts are 1, 2 and so on, and the parts of 1 are 1.1, 1.2. Each part
without parts is exactly one of these: the text or a piece of it, the HTML, an attachment, something
inline, or another part. A file that is inline and plain text is in the text, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ehlo.content.breather import Breather, Rest, no_rest
from ehlo.content.charsets import decode_text
from ehlo.content.fields import one_line
from ehlo.content.markup import text_of_html
from ehlo.content.mime import Part, parse_message
from ehlo.content.transfer import TransferDecoder, decode_transfer, decoded_pieces, decoder_of

MOST_SHOWN: Final = 4_194_304
"""Bytes of the text, still encoded, that are decoded of one message; as many of its HTML."""
LARGE: Final = 65_536
"""Bytes from which on work is done in a thread, since it takes more than a millisecond."""
_MOST_LAID_OUT: Final = 1_048_576  # characters of HTML of which a text is made
_SLICE: Final = 262_144  # bytes that are copied at once
_MOST_KNOWN: Final = 2_000  # parts that are remembered
_JOINT: Final = "\n--\n"
_UTF_8: Final = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))


class Piece(NamedTuple):
    """A part without parts, and its number."""

    number: str
    part: Part

    @property
    def depth(self) -> int:
        """How many multiparts it is in."""
        return self.number.count(".")

    @property
    def is_file(self) -> bool:
        """Whether it is declared as an attachment, or is bytes of no known type."""
        kind = self.part.content_type
        return self.part.disposition.value == "attachment" or kind == "application/octet-stream"

    @property
    def is_plain(self) -> bool:
        """Whether it is plain text; a multipart without parts has lost its boundary, and is."""
        kind = self.part.content_type
        return kind == "text/plain" or kind.startswith("multipart/")

    @property
    def name(self) -> str:
        """The name of the file, which may be its Content-ID; empty without both."""
        part = self.part
        given = part.disposition.parameters.get("filename") or part.parameters.parameters.get(
            "name"
        )
        return one_line(given or "").strip() or self.content_id

    @property
    def content_id(self) -> str:
        """The Content-ID without its brackets; empty without one."""
        return one_line(self.part.first("content-id")).strip().strip("<>")

    @property
    def charset(self) -> str:
        """The charset, in lower case; empty if it is not declared."""
        return self.part.parameters.parameters.get("charset", "").strip().lower()

    def content(self, message: bytes, rest: Rest = no_rest) -> list[bytes]:
        """Return the decoded bytes in pieces; those of a text in UTF-8."""
        return self.decoded(memoryview(message)[self.part.start : self.part.end], rest)

    def decoded(self, body: bytes | memoryview, rest: Rest = no_rest) -> list[bytes]:
        """Return the same of the bytes of this part alone."""
        pieces = decoded_pieces(body, self.part.transfer_encoding, rest)
        found = list(pieces if pieces is not None else _slices(body, rest))
        if self._is_bytes:
            return found
        return [decode_text(b"".join(found), self.charset).encode("utf-8", "replace")]

    @property
    def size(self) -> int:
        """The bytes that it takes in the message, still encoded."""
        return self.part.end - self.part.start

    def decoder(self) -> TransferDecoder | None:
        """Return what undoes its encoding piece by piece; `None` if it has none."""
        return decoder_of(self.part.transfer_encoding, rest_for(self.size))

    @property
    def _is_bytes(self) -> bool:
        """Whether its charset may stay as it is."""
        return not self.part.content_type.startswith("text/") or self.charset in _UTF_8


class Anatomy:
    """The parts of a message, each with what it is."""

    def __init__(self, message: bytes, rest: Rest | None = None) -> None:
        self._message = message
        self._rest = rest or rest_for(len(message))
        root = parse_message(message, rest=self._rest)
        self.root: Part = root
        """The message itself."""
        pieces = list(_pieces_of(root))
        by_depth = sorted(pieces, key=lambda piece: piece.depth)
        self._texts: list[Piece] = []
        self._html: Piece | None = None
        self.attachments: list[Piece] = []
        """The files with a name."""
        self.inline: list[Piece] = []
        """What has a name, and is inline or does not say what it is."""
        if not root.children and not pieces[0].is_plain and root.content_type != "text/html":
            self.attachments = pieces
        else:
            self._find_bodies(pieces, by_depth)
            named = [piece for piece in by_depth if piece.name and piece is not self._html]
            self.attachments = [piece for piece in named if piece.is_file]
            others = [piece for piece in named if not piece.is_file]
            declared = [piece for piece in others if piece.part.disposition.value == "inline"]
            self.inline = declared + [
                piece for piece in others if not _is_body(piece) and piece not in declared
            ]
        shown = {piece.number for piece in (*self._texts, *self.attachments, *self.inline)}
        self.others: list[Piece] = [
            piece for piece in pieces if piece.number not in shown and piece is not self._html
        ]
        """Parts that have no name, or are a second text or HTML."""

    def _find_bodies(self, pieces: list[Piece], by_depth: list[Piece]) -> None:
        if self.root.content_type == "multipart/alternative":
            plain = [piece for piece in by_depth if piece.is_plain and not piece.is_file]
            self._texts = plain[:1]
        else:
            self._texts = [piece for piece in pieces if piece.is_plain and not piece.is_file]
        html = (each for each in pieces if each.part.content_type == "text/html")
        self._html = next((piece for piece in html if not piece.is_file), None)

    @property
    def text(self) -> str:
        """The plain text, as it came; empty without one."""
        left = MOST_SHOWN
        texts = []
        for piece in self._texts:
            texts.append(self._decoded(piece, left))
            left = max(0, left - (piece.part.end - piece.part.start))
        return _JOINT.join(texts)

    @property
    def readable(self) -> str:
        """The plain text, or else the text of the HTML."""
        text = self.text
        return text or text_of_html(self.html[:_MOST_LAID_OUT], self._rest)

    @property
    def html(self) -> str:
        """The HTML, as it came; empty without any."""
        return self._decoded(self._html, MOST_SHOWN) if self._html is not None else ""

    def _decoded(self, piece: Piece, most: int) -> str:
        part = piece.part
        data = self._message[part.start : min(part.end, part.start + most)]
        data = decode_transfer(data, part.transfer_encoding, self._rest)
        return decode_text(data, piece.charset)

    def find(self, number: str) -> Piece | None:
        """Return the part with a number; `None` for the text and the HTML of the message."""
        known = (*self.attachments, *self.inline, *self.others)
        return next((piece for piece in known if piece.number == number), None)


class Outlines:
    """Remembers where the parts of a few large messages are, so that one part is read alone."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Mapping[str, Piece]] = OrderedDict()

    def get(self, mail_id: str) -> Mapping[str, Piece] | None:
        """Return the parts of a message by their numbers; `None` if they are not known."""
        if mail_id in self._known:
            self._known.move_to_end(mail_id)
        return self._known.get(mail_id)

    def add(self, mail_id: str, anatomy: Anatomy) -> None:
        """Remember the parts of a message."""
        pieces = (*anatomy.attachments, *anatomy.inline, *anatomy.others)
        self._known[mail_id] = {piece.number: piece for piece in pieces}
        self._known.move_to_end(mail_id)
        while sum(map(len, self._known.values())) > _MOST_KNOWN and len(self._known) > 1:
            self._known.popitem(last=False)


def rest_for(size: int) -> Rest:
    """Return what work on so many bytes calls now and then; see `ehlo.content.breather`."""
    return Breather().rest if size > LARGE else no_rest


def _slices(body: bytes | memoryview, rest: Rest) -> Iterator[bytes]:
    for start in range(0, len(body), _SLICE):
        yield bytes(body[start : start + _SLICE])
        rest()


def _is_body(piece: Piece) -> bool:
    return piece.is_plain or piece.part.content_type == "text/html"


def _pieces_of(root: Part) -> Iterator[Piece]:
    """Yield the parts without parts, in their order."""
    if not root.children:
        yield Piece("0", root)
        return
    waiting = [Piece(str(number), part) for number, part in _numbered(root)]
    while waiting:
        piece = waiting.pop()
        if piece.part.children:
            inner = _numbered(piece.part)
            waiting += [Piece(f"{piece.number}.{number}", part) for number, part in inner]
        else:
            yield piece


def _numbered(part: Part) -> list[tuple[int, Part]]:
    """Return the parts of a part with their numbers, the last one first."""
    return list(enumerate(part.children, 1))[::-1]
