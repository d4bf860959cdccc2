"""What a list shows of a message."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.summary import Mailbox, Summary, read_mailboxes, summarize

MAIL = Path(__file__).parent.parent / "mail"
HEAD = b"From: a@x.test\r\nTo: b@y.test\r\nSubject: s\r\nMIME-Version: 1.0\r\n"
MIXED = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
PIECES = (
    *(b"a@b", b"<c@d>", b"Jo <j@x>", b'"q, q" <q@x>', b"word", b'"quoted"', b"=?utf-8?q?=C3=A9?="),
    *(b",", b", ", b" ", b";", b":", b"(", b")", b'"', b"<", b">", b"@", b"[::1]", b"\\", b"\xc3"),
)


def snippet(message: bytes) -> str:
    return summarize(message).snippet


def test_a_summary_has_what_a_list_shows() -> None:
    message = (
        b"From: =?utf-8?q?J=C3=B6rg?= <a@x.test>\r\n"
        b'To: "Bee, B" <b@y.test>, c@y.test\r\nCc: D <d@y.test>\r\nReply-To: r@x.test\r\n'
        b"Subject: =?utf-8?q?H=C3=A9llo?= plain\r\nMessage-ID: <m1@x.test>\r\n\r\n"
        b"Hi there,\r\n  see below\r\n"
    )
    assert summarize(
        message, ["b@y.test", "hidden@z.test", "C@Y.test", "hidden@z.test"]
    ) == Summary(
        message_id="m1@x.test",
        sender=Mailbox("Jörg", "a@x.test"),
        to=[Mailbox("Bee, B", "b@y.test"), Mailbox("", "c@y.test")],
        cc=[Mailbox("D", "d@y.test")],
        bcc=[Mailbox("", "hidden@z.test")],
        reply_to=[Mailbox("", "r@x.test")],
        subject="Héllo plain",
        snippet="Hi there, see below",
        size=len(message),
        attachments=0,
        inlines=0,
    )


def test_a_field_bcc_loses_no_recipient() -> None:
    message = b"Bcc: x@y.test\r\n\r\n"
    bcc = summarize(message, ["x@y.test", "z@y.test"]).bcc
    assert [each.address for each in bcc] == ["x@y.test", "z@y.test"]


def test_a_message_without_a_header_has_a_summary() -> None:
    summary = summarize(b"", ["b@y.test"])
    assert summary.sender == Mailbox("", "")
    assert summary.bcc == [Mailbox("", "b@y.test")]
    assert (summary.subject, summary.message_id, summary.snippet) == ("", "", "")


@pytest.mark.parametrize(
    ("value", "mailboxes"),
    [
        (b"a@b.c", [("", "a@b.c")]),
        (b" <a@b.c> ", [("", "a@b.c")]),
        (b'"Bee, B" <b@y>', [("Bee, B", "b@y")]),
        (b'"a \\"q\\" b" <b@y>', [('a "q" b', "b@y")]),
        (b"Jo (x (y)) <j@x>, k@z (Kay)", [("Jo", "j@x"), ("Kay", "k@z")]),
        (b"(Jo) <j@x>", [("Jo", "j@x")]),
        (b"undisclosed-recipients:;", []),
        (b"G: a@b, Q <c@d>; e@f", [("", "a@b"), ("Q", "c@d"), ("", "e@f")]),
        (b"a@[IPv6:::1]", [("", "a@[IPv6:::1]")]),
        (b'"a b"@x.test', [("", '"a b"@x.test')]),
        (b"<@a,@b:c@d>", [("", "c@d")]),
        (
            b"=?utf-8?q?a=2Cb?= <x@y>, =?utf-8?b?w6Q=?=\r\n =?utf-8?b?w7Y=?= <z@y>",
            [("a,b", "x@y"), ("äö", "z@y")],
        ),
        ("Jörg <j@x>".encode(), [("Jörg", "j@x")]),
        (b"not an address", [("not an address", "")]),
        (b"a@b,, ;, c@d", [("", "a@b"), ("", "c@d")]),
        (b'"open <a@b>', [("open <a@b>", "")]),
        (b"", []),
    ],
)
def test_mailboxes_are_read(value: bytes, mailboxes: list[tuple[str, str]]) -> None:
    assert [tuple(each) for each in read_mailboxes(value)] == mailboxes


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_a_mailbox_is_read_in_one_way(value: bytes) -> None:
    """Members of a group are read in the general way, and these may all be usual ones."""
    assert read_mailboxes(b"G:" + value) == read_mailboxes(value)


def test_many_mailboxes_are_cut() -> None:
    assert len(read_mailboxes(b"a@b," * 10_000)) == 1_000


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (HEAD + b"\r\none\r\n\r\n  two\t3", "one two 3"),
        (HEAD + b"\r\n" + b"word " * 100, ("word " * 40) + "..."),
        (HEAD + b"\r\n" + "ä".encode() * 150, "ä" * 100 + "..."),
        (
            HEAD + b"Content-Type: text/html\r\n\r\n<head><title>T</title><style>p{}</style></head>"
            b"<h1>Head</h1><p>Para <a href=x>link</a></p><script>x</script><img src=x alt=pic>",
            "Head Para",
        ),
        (
            HEAD + b"Content-Type: text/html\r\n\r\n<style>" + b"p{}" * 10_000 + b"</style>shown",
            "shown",
        ),
        (MIXED + b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>html</p>", "html"),
        (MIXED + b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<img>", "plain"),
        (MIXED + b"--b\r\nContent-Disposition: attachment\r\n\r\nfile\r\n--b\r\n\r\nbody", "body"),
        (
            HEAD + b"Content-Type: text/plain; charset=iso-8859-1\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n" + b64encode(b"\xe9t\xe9 " * 2_000),
            "été " * 33 + "é...",
        ),
        (HEAD + b"Content-Type: text/html\r\n\r\n" + b"<p>x</p>" * 200, "x " * 100 + "..."),
        (HEAD + b"\r\na\0b\x1b[31m", "a b [31m"),
        (HEAD + b"\r\n" + b" " * 3_000 + b"far " * 9, "far " * 8 + "far"),
        (HEAD + b"\r\n" + b"a  " * 400, "a " * 100 + "..."),
        (HEAD + b"Content-Type: application/pdf\r\n\r\n%PDF", ""),
    ],
)
def test_a_snippet_is_the_beginning_of_the_text(message: bytes, shown: str) -> None:
    assert snippet(message) == shown


def test_attachments_are_counted() -> None:
    def part(head: bytes) -> bytes:
        return b"--b\r\n" + head + b"\r\n\r\nx\r\n"

    message = MIXED + b"".join(
        (
            part(b"Content-Type: text/plain"),
            part(b"Content-Type: text/plain; name=a\r\nContent-Disposition: attachment"),
            part(b"Content-Type:application/octet-stream"),
            part(b"Content-Type: image/png\r\nContent-Disposition: inline; filename=x.png"),
            part(b"Content-Type: image/png\r\nContent-ID: <x>"),
        )
    )
    summary = summarize(message)
    assert (summary.attachments, summary.inlines) == (2, 1)
    assert summarize(HEAD + b"Content-Type: application/pdf\r\n\r\n%PDF").attachments == 1


@pytest.mark.parametrize("path", sorted(MAIL.glob("*.eml")), ids=lambda path: path.name)
def test_real_mail_has_a_summary(path: Path) -> None:
    summary = summarize(path.read_bytes(), ["b@y.test"])
    assert summary.size == path.stat().st_size
    assert len(summary.snippet.encode()) <= 203


@given(st.binary() | st.text(alphabet='<>"\\(),:;@[] =?ab').map(str.encode))
def test_nothing_raises(value: bytes) -> None:
    for each in read_mailboxes(value):
        assert (each.name + each.address).isprintable() or not (each.name + each.address).isascii()
    assert isinstance(summarize(b"From: " + value + b"\r\n\r\n" + value).subject, str)
