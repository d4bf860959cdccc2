"""Real mail from `tests/mail`: it arrives unchanged and can be read."""

from __future__ import annotations

import email.policy
import re
import smtplib
from collections.abc import Callable
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path

import pytest

from .dialogue import Dialogue, ended
from .post import Certificates, Office

Serve = Callable[..., Office]

MAILS = sorted((Path(__file__).parents[1] / "mail").glob("*.eml"))
each_mail = pytest.mark.parametrize("file", MAILS, ids=[file.stem for file in MAILS])


def normal(mail: bytes) -> bytes:
    """Return `mail` with CRLF line ends, by other means than the server's."""
    return b"\r\n".join(re.split(rb"\r*+\n|\r", mail))


def as_smtplib_says_it(mail: bytes) -> bytes:
    """Return what a server must read from `sendmail`, which doubles dots after a bare LF, too.

    The server takes dots away after CRLF alone, so those stay; and smtplib ends what is empty.
    """
    return re.sub(rb"(?<!\r)\n\.", b"\n..", mail if mail.endswith(b"\r\n") else mail + b"\r\n")


def only_body(office: Office) -> bytes:
    (message,) = office.received
    assert message.data == message.trace + message.body
    return message.body


def test_mail_is_stored_byte_for_byte() -> None:
    mails = {file.stem: file.read_bytes() for file in MAILS}
    assert len(mails) >= 20
    assert mails["empty"] == b""
    assert b"\r" not in mails["lf-line-ends"], "git has changed the line ends"
    assert b"\r\n.\r\n" in mails["dots"], "git has changed the line ends"
    assert b"\0" in mails["nul"]
    assert not mails["no-final-newline"].endswith(b"\n")
    assert max(map(len, mails["long-lines"].split(b"\r\n"))) > 65_536
    assert mails["fifty-hops"].count(b"\nReceived: ") == 50


@each_mail
def test_mail_arrives_with_crlf_line_ends(serve: Serve, file: Path) -> None:
    office = serve("plain")
    mail = file.read_bytes()
    with Dialogue(office) as dialogue:
        dialogue.say("EHLO client.example.com", 250)
        dialogue.deliver(mail)
        dialogue.say("QUIT", 221)
    assert only_body(office) == normal(ended(mail))


@each_mail
def test_mail_arrives_unchanged_if_bare_newlines_are_kept(serve: Serve, file: Path) -> None:
    office = serve("plain", bare_newlines="keep")
    mail = file.read_bytes()
    with Dialogue(office) as dialogue:
        dialogue.say("EHLO client.example.com", 250)
        dialogue.deliver(mail)
        dialogue.say("QUIT", 221)
    assert only_body(office) == ended(mail)


@each_mail
def test_mail_arrives_from_smtplib(serve: Serve, certificates: Certificates, file: Path) -> None:
    office = serve("starttls", tls_required=True)
    mail = file.read_bytes()
    with smtplib.SMTP(office.host, office.port, timeout=60) as smtp:
        smtp.starttls(context=certificates.client_context())
        smtp.sendmail("sender@example.com", ["anna@example.com"], mail, ["SMTPUTF8"])
    assert only_body(office) == normal(as_smtplib_says_it(mail))


def test_all_mail_arrives_over_one_connection_under_tls(
    serve: Serve, certificates: Certificates
) -> None:
    office = serve("tls")
    mails = [file.read_bytes() for file in MAILS]
    with Dialogue(office, certificates.client_context()) as dialogue:
        dialogue.say("EHLO client.example.com", 250)
        for mail in mails:
            dialogue.deliver(mail)
        dialogue.say("QUIT", 221)
    assert [message.body for message in office.received] == [normal(ended(mail)) for mail in mails]


@each_mail
def test_mail_can_be_parsed_as_an_email(serve: Serve, file: Path) -> None:
    office = serve("plain")
    mail = normal(ended(file.read_bytes()))
    with Dialogue(office) as dialogue:
        dialogue.say("EHLO client.example.com", 250)
        dialogue.deliver(mail)
        dialogue.say("QUIT", 221)
    (message,) = office.received
    expected = message_from_bytes(mail, policy=email.policy.default)
    assert message.email.get_all("received", [])[1:] == expected.get_all("received", [])
    assert [str(value) for value in message.email.get_all("subject", [])] == [
        str(value) for value in expected.get_all("subject", [])
    ]
    if mail and not mail.startswith((b"\r\n", b".")):  # those have no header for Received
        assert parts_of(message.email) == parts_of(with_lf(expected))


def with_lf(message: EmailMessage) -> EmailMessage:
    """Return the message with LF line ends in the text that is not encoded."""
    for part in message.walk():
        payload = part.get_payload()
        if isinstance(payload, str) and part.get_content_maintype() == "text":
            encoding = str(part.get("content-transfer-encoding", "")).lower()
            if encoding != "base64":
                decoded = part.get_payload(decode=True)
                assert isinstance(decoded, bytes)
                text = decoded.replace(b"\r\n", b"\n").decode("ascii", "surrogateescape")
                part.set_payload(text)
                del part["content-transfer-encoding"]
    return message


def parts_of(message: EmailMessage) -> list[tuple[str, str | None, object]]:
    return [
        (part.get_content_type(), part.get_filename(), part.get_payload(decode=True))
        for part in message.walk()
    ]


def read(serve: Serve, name: str) -> EmailMessage:
    """Send a sample message; return it parsed."""
    office = serve("plain")
    (file,) = [file for file in MAILS if file.stem == name]
    with Dialogue(office) as dialogue:
        dialogue.say("EHLO client.example.com", 250)
        dialogue.deliver(file.read_bytes())
    return office.received[0].email


def test_attachments_can_be_extracted(serve: Serve) -> None:
    message = read(serve, "attachments")
    names = [part.get_filename() for part in message.walk() if part.get_filename()]
    assert names == ["dot.png", "Büro.bin"]
    (binary,) = [part for part in message.walk() if part.get_filename() == "Büro.bin"]
    assert len(binary.get_content()) == 6400
    plain = message.get_body(("plain",))
    assert plain is not None
    lines = plain.get_content().splitlines()
    assert lines[0].startswith("Grüße! A line that is so long that it was folded softly, which")
    assert lines[1:4] == [".", ". a dot that was encoded", ". a dot that was not"]


def test_texts_in_utf8_and_latin1_can_be_read(serve: Serve) -> None:
    assert "γειά σου Κόσμε" in read(serve, "utf8-body").get_content()
    assert "L'été à Besançon" in read(serve, "latin1-body").get_content()
    assert read(serve, "utf8-header")["subject"] == "Grüße ohne Kodierung — 件名"


def test_a_message_built_by_python_arrives_unchanged(serve: Serve) -> None:
    office = serve("plain")
    built = message_from_bytes(
        next(file for file in MAILS if file.stem == "lf-line-ends").read_bytes(),
        policy=email.policy.default,
    )
    with smtplib.SMTP(office.host, office.port, timeout=60) as smtp:
        smtp.send_message(built)
    assert only_body(office) == built.as_bytes(policy=email.policy.SMTP)
