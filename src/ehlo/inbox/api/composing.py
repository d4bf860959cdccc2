"""Composing: the message that `POST send` describes, as bytes.

The fields of its header are written here. The standard library makes the parts.
"""

from __future__ import annotations

import binascii
import mimetypes
import re
import string
from collections.abc import Iterator, Sequence
from email.header import Header as EncodedHeader
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from email.utils import formatdate
from typing import Final

from ehlo.content.fields import one_line
from ehlo.inbox.api.shapes import SendAddress, SendAttachment, SendRequest

_ADDRESS: Final = re.compile(
    r'(?:"(?:[^"\\\x00-\x1f]|\\[ -~])*"|[^\s<>()\[\]",;:@\\]+)@[^\s<>()",;@\\]+'
)
_LONGEST_ADDRESS: Final = 998
_LONGEST_NAME: Final = 255  # characters of a file name, which take 100 us each
_LONGEST_VALUE: Final = 16_384  # characters of a field, which are longer when encoded
_MOST_PARTS: Final = 1_000  # attachments, which take 2 ms each
_MOST_MAILBOXES: Final = 10_000
_TAKEN: Final = frozenset(
    (
        *("to", "from", "cc", "bcc", "reply-to", "date", "subject", "content-type"),
        "mime-version",
    )
)
# What the parts bring with them, and so must not occur twice
_OWN: Final = frozenset(("content-transfer-encoding", "content-disposition", "content-id"))
_NAME: Final = re.compile(r"[!-9;-~]{1,200}")
_TYPE: Final = re.compile(r"([A-Za-z0-9!#$&^_.+-]+)/([A-Za-z0-9!#$&^_.+-]+)")
_BASE64: Final = frozenset(string.ascii_letters + string.digits + "+/=")
_SPECIALS: Final = re.compile(r'[()<>@,:;".\[\]\\]')
_LINE: Final = 998  # bytes, RFC 5322 2.1.1
_PLAIN: Final = re.compile(r"[\t -~]{0,900}")
_TYPES: Final = mimetypes.MimeTypes()


class ComposeError(ValueError):
    """Raised for a message that cannot be sent; the text is as Mailpit has it."""


def compose(wanted: SendRequest) -> bytes:
    """Return the message; its Bcc is in the envelope only. Raises `ComposeError`."""
    _check(wanted)
    files = [_decoded(each) for each in wanted["Attachments"]]
    if not wanted["From"]["Email"].strip():
        raise ComposeError("error building message: from not set")
    if not recipients_of(wanted):
        raise ComposeError("error building message: no recipients (to, cc, bcc) set")
    body = _body(wanted, files)
    return b"".join(_fields(wanted)) + body.as_bytes(policy=SMTP)


def recipients_of(wanted: SendRequest) -> list[str]:
    """Return the recipients of the envelope."""
    named = [each["Email"] for name in ("To", "Cc") for each in _mailboxes(wanted, name)]
    return list(dict.fromkeys(each.strip() for each in [*named, *wanted["Bcc"]]))


def _mailboxes(wanted: SendRequest, name: str) -> Sequence[SendAddress]:
    return {"To": wanted["To"], "Cc": wanted["Cc"], "Reply-To": wanted["ReplyTo"]}[name]


def is_address(text: str) -> bool:
    """Return whether `text` is a mail address without a name."""
    return len(text) <= _LONGEST_ADDRESS and _ADDRESS.fullmatch(text.strip()) is not None


def _check(wanted: SendRequest) -> None:
    for name, count, most in (
        ("attachments", len(wanted["Attachments"]), _MOST_PARTS),
        ("headers", len(wanted["Headers"]), _MOST_PARTS),
        ("recipients", len(wanted["To"]) + len(wanted["Cc"]) + len(wanted["Bcc"]), _MOST_MAILBOXES),
    ):
        if count > most:
            raise ComposeError(f"more than {most} {name}")
    for name in ("To", "Cc"):
        _check_addresses(name, [each["Email"] for each in _mailboxes(wanted, name)])
    _check_addresses("Bcc", wanted["Bcc"])
    _check_addresses("ReplyTo", [each["Email"] for each in wanted["ReplyTo"]])
    taken = _TAKEN | {"x-tags"} if wanted["Tags"] else _TAKEN
    for name in wanted["Headers"]:
        if name.strip().lower() in taken:
            raise ComposeError(f'cannot overwrite header: "{name}"')
        if not _NAME.fullmatch(name) or name.lower() in _OWN:
            raise ComposeError(f'invalid header name: "{name}"')


def _check_addresses(name: str, addresses: list[str]) -> None:
    for address in addresses:
        if not is_address(address):
            raise ComposeError(f"invalid {name} address: {address}")


def _decoded(attachment: SendAttachment) -> bytes:
    content = attachment["Content"]
    if content.startswith("data:"):
        content = content.partition(",")[2]
    content = content.replace("\r", "").replace("\n", "")
    try:
        return binascii.a2b_base64(content, strict_mode=True)
    except ValueError:  # not ASCII, or not base64
        wrong = (at for at, letter in enumerate(content) if letter not in _BASE64)
        name, place = attachment["Filename"], next(wrong, len(content))
        raise ComposeError(
            f'error decoding base64 attachment "{name}": illegal base64 data at input byte {place}'
        ) from None


# -- the header ------------------------------------------------------------------------------------


def _fields(wanted: SendRequest) -> Iterator[bytes]:
    yield _field("Date", formatdate())
    yield _address_field("From", [wanted["From"]])
    for name in ("To", "Cc", "Reply-To"):
        if mailboxes := _mailboxes(wanted, name):
            yield _address_field(name, mailboxes)
    yield _field("Subject", wanted["Subject"])
    if wanted["Tags"]:
        yield _field("X-Tags", ", ".join(wanted["Tags"]))
    for name, value in wanted["Headers"].items():
        yield _field(name, value)


def _field(name: str, value: str) -> bytes:
    """Return a field in lines that are not too long, with encoded-words where they are needed."""
    text = one_line(value[:_LONGEST_VALUE]).strip()
    if text.isascii() and len(name) + len(text) + 2 <= _LINE:
        return f"{name}: {text}\r\n".encode()
    encoded = EncodedHeader(text, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {encoded}\r\n".encode("utf-8", "replace")


def _address_field(name: str, mailboxes: Sequence[SendAddress]) -> bytes:
    return f"{name}: ".encode() + b",\r\n ".join(map(_mailbox, mailboxes)) + b"\r\n"


def _mailbox(mailbox: SendAddress) -> bytes:
    """Return a mailbox as in a field; an address with other letters stays in UTF-8 (RFC 6532)."""
    address = one_line(mailbox["Email"]).strip().encode("utf-8", "replace")
    name = one_line(mailbox["Name"][:_LONGEST_NAME]).strip()
    if not name:
        return address
    if not name.isascii():
        shown = EncodedHeader(name, "utf-8").encode(linesep="\r\n")
    elif _SPECIALS.search(name):
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        shown = f'"{escaped}"'
    else:
        shown = name
    return shown.encode("utf-8", "replace") + b" <" + address + b">"


# -- the parts -------------------------------------------------------------------------------------


def _body(wanted: SendRequest, files: list[bytes]) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    pairs = list(zip(wanted["Attachments"], files, strict=True))
    if wanted["Text"] or not wanted["HTML"]:
        _set_text(message, wanted["Text"], "plain")
    page: MIMEPart = message
    if wanted["HTML"]:
        if wanted["Text"]:
            message.add_alternative("", subtype="html")
            page = list(message.iter_parts())[-1]
        _set_text(page, wanted["HTML"], "html")
    for attachment, data in pairs:
        if attachment["ContentID"]:
            main, sub = _type_of(attachment)
            page.add_related(
                data,
                maintype=main,
                subtype=sub,
                filename=_short(attachment["Filename"]),
                disposition="inline",
                cid=f"<{_short(attachment['ContentID']).strip('<> ')}>",
            )
    for attachment, data in pairs:
        if not attachment["ContentID"]:
            main, sub = _type_of(attachment)
            filename = _short(attachment["Filename"])
            message.add_attachment(data, maintype=main, subtype=sub, filename=filename)
    return message


def _set_text(part: MIMEPart, text: str, subtype: str) -> None:
    """Set the text of a part: it is read as it was given, its line ends included."""
    part.set_content("", subtype=subtype)
    if not _PLAIN.fullmatch(text):
        part.replace_header("Content-Transfer-Encoding", "quoted-printable")
        text = binascii.b2a_qp(text.encode("utf-8", "replace"), istext=False).decode()
    part.set_payload(text)


def _short(name: str) -> str:
    return one_line(name[:_LONGEST_NAME])


def _type_of(attachment: SendAttachment) -> tuple[str, str]:
    """Return the media type of a file, in two parts."""
    given = attachment["ContentType"].partition(";")[0].strip()
    match = _TYPE.fullmatch(given or _TYPES.guess_type(attachment["Filename"])[0] or "")
    if match is None or match[1].lower() in ("multipart", "message"):
        return "application", "octet-stream"
    return match[1], match[2]
