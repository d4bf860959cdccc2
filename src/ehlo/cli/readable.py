"""Makes a message readable for a person, without anything that a terminal would obey.

The input may be any bytes. What cannot be parsed or decoded is shown as well as possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message as Part
from typing import NamedTuple

__all__ = ["Content", "bytes_of", "content_of", "one_line", "visible"]

# C0 without tab and line feed, DEL, C1; line and paragraph separators; marks that change the
# direction of the text; surrogates, which are no characters
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# RFC 2047 2: encoded-word; the space between two of them is dropped (6.2)
_ENCODED_WORD = r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?="
_ENCODED_WORDS = re.compile(rf"{_ENCODED_WORD}(?:\s+{_ENCODED_WORD})*")
_LONGEST_DECODED = 16_384  # characters of a header; the email package needs quadratic time
_FOLD = re.compile(r"\r?\n(?=[ \t])|[\r\n]+\Z")


class Content(NamedTuple):
    """Holds what a person sees of a message."""

    headers: list[tuple[str, str]]
    """Names and values in their order, unfolded and decoded."""
    text: str | None
    """The readable text, decoded; `None` if there is none."""
    attachments: list[str]
    """Descriptions of the other parts."""


def visible(text: str) -> str:
    r"""Return `text` with an escape such as `\x1b` for all that a terminal might obey."""
    return _HARMFUL.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def bytes_of(count: int) -> str:
    """Return a size for a person, such as `1,234 bytes`."""
    return "1 byte" if count == 1 else f"{count:,} bytes"


def content_of(body: bytes) -> Content:
    """Parse `body`, which may be no proper message. Raises nothing."""
    try:
        message = message_from_bytes(body)
        return Content(_headers(message), *_parts(message))
    except Exception:  # noqa: BLE001  broken messages are shown, too
        return Content([], _decoded(body, None), [])


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _headers(message: Part) -> list[tuple[str, str]]:
    return [(_from_bytes(name), _header(_from_bytes(value))) for name, value in message.raw_items()]


def _from_bytes(text: object) -> str:
    """The email package keeps bytes beyond ASCII as surrogates; they are UTF-8 (RFC 6532)."""
    return str(text).encode(errors="surrogateescape").decode(errors="replace")


def _header(value: str) -> str:
    unfolded = _FOLD.sub("", value).strip()
    if len(unfolded) > _LONGEST_DECODED:
        return unfolded
    return _ENCODED_WORDS.sub(_words, unfolded)


def _words(match: re.Match[str]) -> str:
    try:
        return str(make_header(decode_header(match[0])))
    except (HeaderParseError, LookupError, ValueError):
        return match[0]


def _parts(message: Part) -> tuple[str | None, list[str]]:
    """The text, and the other parts described; plain text is preferred to other text."""
    leaves = list(_leaves(message))
    inline = [part for part in leaves if _is_text(part)]
    read = [part for part in inline if part.get_content_subtype() == "plain"] or inline
    texts = [_text(part) for part in read]
    return (
        "\n".join(texts) if texts else None,
        [_described(part) for part in leaves if part not in read],
    )


def _leaves(part: Part) -> Iterator[Part]:
    payload = part.get_payload()
    if part.get_content_maintype() == "multipart" and isinstance(payload, list):
        for child in payload:
            if isinstance(child, Part):
                yield from _leaves(child)
    else:
        yield part


def _is_text(part: Part) -> bool:
    attached = part.get_content_disposition() == "attachment"
    return part.get_content_maintype() == "text" and not attached


def _text(part: Part) -> str:
    return _decoded(_payload(part), part.get_content_charset())


def _payload(part: Part) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _decoded(data: bytes, charset: str | None) -> str:
    """The text of `data` in its declared charset, or in UTF-8."""
    try:
        text = data.decode(charset or "utf-8")
    except (LookupError, ValueError):
        text = data.decode(errors="replace")
    return text.replace("\r\n", "\n")


def _described(part: Part) -> str:
    name = part.get_filename()
    facts = [_header(_from_bytes(name))] if name else []
    facts.append(part.get_content_type())
    if not part.is_multipart():
        facts.append(bytes_of(len(_payload(part))))
    return ", ".join(facts)
