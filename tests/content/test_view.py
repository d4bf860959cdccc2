"""What a person sees of a message."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content import Attachment, Content, read_content
from ehlo.content.view import MOST_TEXT

HEAD = b"From: a@example.com\r\nSubject: s\r\nMIME-Version: 1.0\r\n"
PLAIN = b"Content-Type: text/plain\r\n\r\n"
HTML = b"Content-Type: text/html\r\n\r\n"
PDF = b"Content-Type: application/pdf; name=x.pdf\r\n\r\n%PDF"
MAIL = Path(__file__).parent.parent / "mail"
WITHOUT_HEADER = {"dots-first.eml", "empty.eml", "one-empty-line.eml"}
WITHOUT_BODY = {"empty.eml", "empty-body.eml", "header-only.eml", "one-empty-line.eml"}


def multipart(kind: bytes, *parts: bytes) -> bytes:
    head = b"Content-Type: multipart/" + kind + b"; boundary=" + kind + b"\r\n\r\n"
    return (
        head
        + b"".join(b"--" + kind + b"\r\n" + part + b"\r\n" for part in parts)
        + (b"--" + kind + b"--\r\n")
    )


def names(content: Content) -> list[str | None]:
    return [attachment.filename for attachment in content.attachments]


def test_a_plain_message_is_its_subject_and_its_text() -> None:
    content = read_content(HEAD + b"\r\none\r\ntwo\r\n")
    assert content.subject == "s"
    assert content.text == "one\ntwo\n"
    assert content.html is None
    assert content.attachments == []
    assert content.omitted == content.omitted_headers == 0
    assert content.headers == [
        ("From", "a@example.com"),
        ("Subject", "s"),
        ("MIME-Version", "1.0"),
    ]


@pytest.mark.parametrize(
    ("message", "text", "html", "attached"),
    [
        (b"Content-Type: text/html\r\n\r\n<p>Only here</p>", "Only here", "<p>Only here</p>", []),
        (
            multipart(b"alternative", PLAIN + b"plain", HTML + b"<p>html</p>"),
            *("plain", "<p>html</p>", []),
        ),
        (
            multipart(b"alternative", PLAIN + b" \r\n", HTML + b"<p>html</p>"),
            *("html", "<p>html</p>", []),
        ),
        (
            multipart(b"mixed", PLAIN + b"one", PDF, PLAIN + b"two"),
            *("one\ntwo", None, ["x.pdf"]),
        ),
        (
            multipart(b"mixed", PLAIN + b"one", PDF, HTML + b"<p>below</p>"),
            *("one\nbelow", "<p>below</p>", ["x.pdf"]),
        ),
        (
            multipart(b"alternative", PLAIN + b"p", multipart(b"related", HTML + b"<p>h</p>", PDF)),
            *("p", "<p>h</p>", ["x.pdf"]),
        ),
        (
            multipart(b"mixed", b"Content-Disposition: attachment; filename=a.txt\r\n\r\nx"),
            *("", None, ["a.txt"]),
        ),
        (multipart(b"mixed", b"Content-Type: text/csv\r\n\r\na,b"), "", None, [None]),
        (b"Content-Type: multipart/mixed\r\n\r\nsome text", "some text", None, []),
        (
            multipart(
                b"report",
                PLAIN + b"It failed",
                b"Content-Type: message/delivery-status\r\n\r\nX: y",
            ),
            *("It failed\nX: y", None, []),
        ),
        (b"Content-Type: application/pdf\r\n\r\nx", "", None, [None]),
    ],
)
def test_text_is_what_is_read_and_attachments_are_the_rest(
    message: bytes, text: str, html: str | None, attached: list[str | None]
) -> None:
    content = read_content(HEAD + message)
    assert content.text == text
    assert content.html == html
    assert names(content) == attached


def test_an_attachment_tells_what_it_is() -> None:
    part = (
        b"Content-Type: IMAGE/Png; name=ignored.png\r\nContent-ID: <logo@x>\r\n"
        b"Content-Disposition: inline; filename*=utf-8''J%C3%B6rg.png\r\n"
        b"Content-Transfer-Encoding: BASE64\r\n\r\n" + b64encode(b"\x89PNG")
    )
    message = HEAD + multipart(b"mixed", PLAIN + b"hi", part)
    (attachment,) = read_content(message).attachments
    assert attachment.filename == "Jörg.png"
    assert attachment.content_type == "image/png"
    assert attachment.disposition == "inline"
    assert attachment.content_id == "logo@x"
    assert attachment.subject is None
    assert attachment.size == 4
    assert attachment.data == b"\x89PNG"
    assert message[attachment.start : attachment.end] == b64encode(b"\x89PNG")
    assert "PNG" not in repr(attachment).replace("image/png", "")


def test_names_and_fields_are_one_line_without_what_a_terminal_obeys() -> None:
    """Encoded words may have anything in them, and programs print or forward what they say."""
    word = b"=?utf-8?q?a=0d=0aBcc:_b=1b[31m=e2=80=a8c=c2=85?="
    content = read_content(
        b"Subject: " + word + b"\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''a%0d%0ab%1b\r\n"
        b"Content-Type: message/rfc822\r\nContent-ID: <" + word + b">\r\n\r\n"
        b"Subject: " + word + b"\r\n\r\n--x--\r\n"
    )
    shown = "a Bcc: b [31m c "
    assert content.subject == shown
    assert content.headers[0] == ("Subject", shown)
    (attachment,) = content.attachments
    assert attachment.filename == "a b "
    assert attachment.subject == shown
    assert attachment.content_id == shown


@pytest.mark.parametrize("encoded", [False, True])
def test_a_forwarded_message_has_a_subject(encoded: bool) -> None:
    forwarded = b"Subject: =?utf-8?q?=C3=BC?=\r\n\r\ninner text"
    head = b"Content-Type: message/rfc822\r\n"
    if encoded:
        head, forwarded = head + b"Content-Transfer-Encoding: base64\r\n", b64encode(forwarded)
    content = read_content(
        HEAD + multipart(b"mixed", PLAIN + b"see below", head + b"\r\n" + forwarded)
    )
    (attachment,) = content.attachments
    assert isinstance(attachment, Attachment)
    assert (attachment.subject, attachment.filename, attachment.size) == ("ü", None, 41)
    assert content.text == "see below"


@pytest.mark.parametrize(
    ("charset", "data"),
    [
        ("gb2312", "朱镕基".encode("gbk")),
        ("iso-8859-1", "“so” …".encode("cp1252")),
        ("utf-16", "wide\r\nlines".encode("utf-16")),
    ],
)
def test_text_is_decoded_by_its_charset(charset: str, data: bytes) -> None:
    message = (
        HEAD + b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + b64encode(data)
    )
    known = {"gb2312": "gbk", "iso-8859-1": "cp1252"}.get(charset, charset)
    assert read_content(message).text == data.decode(known).replace("\r\n", "\n")


def test_a_very_long_text_is_cut_and_says_so() -> None:
    content = read_content(HEAD + b"\r\n" + b"x" * (MOST_TEXT + 1_000))
    assert len(content.text) == MOST_TEXT
    assert content.omitted == 1_000
    parts = read_content(HEAD + multipart(b"mixed", PLAIN + b"x" * MOST_TEXT, PLAIN + b"y" * 9))
    assert "y" not in parts.text
    assert parts.omitted == 9


@pytest.mark.parametrize("path", sorted(MAIL.glob("*.eml")), ids=lambda path: path.name)
def test_real_mail_has_something_to_see(path: Path) -> None:
    content = read_content(path.read_bytes())
    is_seen = bool(content.text.strip() or content.attachments)
    assert is_seen is (path.name not in WITHOUT_BODY)
    assert bool(content.headers) is (path.name not in WITHOUT_HEADER)


PIECES = st.sampled_from(
    [
        *(HEAD, PLAIN, HTML, PDF, b"\r\n", b"--mixed\r\n", b"--mixed--\r\n", b"\xff\xfe", b"<p>"),
        b"Content-Type: multipart/mixed; boundary=mixed\r\n\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Type: text/plain; charset=utf-16\r\n",
        b"Content-Type: message/rfc822\r\n\r\n",
    ]
)


@given(st.binary() | st.lists(PIECES, max_size=20).map(b"".join))
def test_nothing_raises(message: bytes) -> None:
    content = read_content(message)
    assert isinstance(content.text + content.subject + (content.html or ""), str)
    for attachment in content.attachments:
        assert len(attachment.data) >= 0
        assert attachment.size >= 0


@pytest.mark.parametrize(
    ("charset", "data", "text"),
    [
        ("utf-8", b"a\0b", "ab"),
        ("us-ascii", b"h\0e\0l\0l\0o\0", "hello"),  # UTF-16 by a wrong name
        ("utf-16", b"\xff\xfea\0\0\0b\0", "ab"),
        ("utf-7", b"+AAA-a+2AA-b", "a?b"),
        ("utf-16", b"\xff\xfe\x00\xd8", "\ufffd"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_text_has_nothing_that_a_database_or_a_page_cannot_have(
    kind: str, charset: str, data: bytes, text: str
) -> None:
    """PostgreSQL takes no NUL, and half a character cannot be written as UTF-8."""
    head = f"Subject: a =?utf-8?q?=00?= b\nX: \0\nContent-Type: text/{kind}; charset={charset}"
    content = read_content(head.encode() + b"\n\n" + data)
    assert content.text == text
    assert content.html == (text if kind == "html" else None)
    for each in (content.text, content.subject, *map(str, content.headers)):
        assert "\0" not in each
        each.encode()
