"""`ehlo` alone catches what tests send: any login, any address, TLS if it is wanted."""

from __future__ import annotations

import base64
import json
import os
import re
import smtplib
import ssl
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography import x509

from ehlo import Address, Message, Peer, Server, Session
from ehlo.cli.catching import DEFAULTS, CatcherOptions, handler_of_catcher, self_signed
from ehlo.cli.printer import AsText, as_json
from support.client import Client
from support.program import Start

LOOPBACK = ("--addr", "127.0.0.1:0")


def serve(addr: str = "127.0.0.1:0", own: CatcherOptions | None = None, **given: Any) -> Server:
    """Return a server for the catcher, which is not started."""
    values = {**DEFAULTS, "addr": addr, **given}
    return Server(handler_of_catcher(own or CatcherOptions(json=True), values), **values)


def offered(server: Server) -> list[str]:
    """Return the mechanisms that a client is offered without TLS."""
    with server.in_thread(), smtplib.SMTP(*server.addresses[0]) as client:
        client.ehlo()
        return client.esmtp_features.get("auth", "").split()


# -- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["cram_md5", "plain", "login"])
def test_any_login_is_accepted_without_tls(
    capsys: pytest.CaptureFixture[str], mechanism: str
) -> None:
    server = serve()
    with server.in_thread(), smtplib.SMTP(*server.addresses[0]) as client:
        client.ehlo()
        client.user, client.password = "alice", "any"
        method = mechanism.upper().replace("_", "-")
        assert client.auth(method, getattr(client, f"auth_{mechanism}"))[0] == 235
        client.sendmail("a@x.example", ["b@x.example"], b"Subject: x\n\n")
    assert json.loads(capsys.readouterr().out)["user"] == "alice"


@pytest.mark.parametrize(
    ("mechanism", "token"),
    [
        ("XOAUTH2", b"user=alice\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,,\x01auth=Bearer t\x01\x01"),  # without a name
    ],
)
def test_any_token_is_accepted(mechanism: str, token: bytes) -> None:
    server = serve()
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.hello()
        encoded = base64.b64encode(token).decode()
        assert client.say(f"AUTH {mechanism} {encoded}").startswith("235 ")


@pytest.mark.parametrize(
    ("addr", "given", "has"),
    [
        ("127.0.0.1:0", {}, True),
        ("127.8.9.1:0", {}, True),
        ("[::1]:0", {}, True),
        ("localhost:0", {}, True),
        (["127.0.0.1:0", "[::1]:0"], {}, True),
        (["127.0.0.1:0", ":0"], {}, False),
        (":0", {}, False),
        (":0", {"auth_any": True}, True),
        ("127.0.0.1:0", {"auth_any": False}, False),
    ],
)
def test_any_login_is_for_loopback_addresses_unless_the_user_says_so(
    addr: Any, given: dict[str, Any], has: bool
) -> None:
    mechanisms = offered(serve(addr, CatcherOptions(json=True, **given)))
    wanted = ["CRAM-MD5", "LOGIN", "OAUTHBEARER", "PLAIN", "XOAUTH2"]
    assert sorted(mechanisms) == (wanted if has else [])


def test_a_mechanism_can_be_disabled() -> None:
    mechanisms = offered(serve(auth_mechs={"cram-md5": False, "PLAIN": True}))
    assert sorted(mechanisms) == ["LOGIN", "OAUTHBEARER", "PLAIN", "XOAUTH2"]


def test_a_login_is_logged_and_shown(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--auth-required")
    with smtplib.SMTP(*program.listening()) as client:
        client.login("alice", "secret")
        client.sendmail("a@x.example", ["b@x.example"], b"Subject: x\n\n")
    assert 'event="login accepted"' in program.err.until("user=alice")
    assert program.stop() == 0
    assert ", logged in as alice\n" in program.out.text
    assert "secret" not in program.out.text + program.err.text


def test_a_function_checks_logins_if_there_is_one(here: Path, start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--auth-handler", "app:login", cwd=here)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features or "PLAIN" not in client.esmtp_features["auth"]


# -- clients that leave --------------------------------------------------------------------------


def test_a_client_that_leaves_after_ehlo_is_named(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK)
    address = Peer(*program.listening())
    with Client(address) as client:
        client.hello()
        peer = Peer(*client.sock.getsockname())
    line = program.err.until("left after EHLO")
    assert " level=info " in line
    assert 'event="left after EHLO; it may have wanted STARTTLS" session=' in line
    assert f" peer={peer} helo=c" in line
    with smtplib.SMTP(*address) as sender:
        sender.sendmail("a@x.example", ["b@x.example"], b"Subject: x\n\n")
    with smtplib.SMTP(*address) as sender:
        sender.login("alice", "x")
    with Client(address) as client:
        client.reply()
        client.say("HELO c")
    assert program.stop() == 0
    assert program.err.text.count("left after EHLO") == 1


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--no-auth-any"], "STARTTLS or AUTH"),
        (["--no-auth-any", "--tls", "self-signed"], "AUTH"),
        (["--tls", "self-signed"], ""),
    ],
)
def test_what_it_may_have_wanted_is_what_was_not_offered(
    start: Start, args: list[str], wanted: str
) -> None:
    program = start("-m", "ehlo", *LOOPBACK, *args)
    with Client(Peer(*program.listening())) as client:
        client.hello()
        client.say("QUIT")
        client.rest()
    assert program.stop() == 0
    said = f'event="left after EHLO; it may have wanted {wanted}" '
    assert program.err.text.count("left after EHLO") == bool(wanted)
    assert not wanted or said in program.err.text


# -- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ([], ["localhost", "127.0.0.1", "::1"]),
        (["--tls-name", "mail.test", "--tls-name", "192.0.2.1"], ["mail.test", "192.0.2.1"]),
    ],
)
def test_a_self_signed_certificate_has_the_names(
    start: Start, args: list[str], names: list[str]
) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--tls", "self-signed", *args)
    lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=lenient)
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = x509.load_der_x509_certificate(client.sock.getpeercert(True) or b"")
        client.login("alice", "x")
        client.sendmail("a@x.example", ["b@x.example"], b"Subject: x\n\n")
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(each.value) for each in found.value] == names
    assert program.stop() == 0
    assert ", TLSv1.3, logged in as alice\n" in program.out.text


def test_implicit_tls_can_have_it_too() -> None:
    context = self_signed(CatcherOptions(tls="self-signed"))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    server = serve(tls_config=context, tls_listener=True)
    lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
    host, port = "127.0.0.1", 0
    with server.in_thread():
        host, port = server.addresses[0]
        with smtplib.SMTP_SSL(host, port, context=lenient) as client:
            assert client.noop()[0] == 250


def test_without_a_temporary_file_there_is_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(click.ClickException) as raised:
        self_signed(CatcherOptions(tls="self-signed"))
    assert raised.value.message == (
        "--tls self-signed: no temporary file can be written (no such file or directory); free "
        "some space, or set TMPDIR"
    )


def test_without_trustme_the_command_that_installs_it_is_named(start: Start) -> None:
    code = "import sys; sys.modules['trustme'] = None; from ehlo.cli import main; sys.exit(main())"
    program = start("-c", code, *LOOPBACK, "--tls", "self-signed")
    assert program.wait() == 2
    assert program.err.text == (
        "ehlo: --tls self-signed needs trustme: pip install 'ehlo[tls]'\nTry 'ehlo --help'.\n"
    )


# -- addresses and limits ------------------------------------------------------------------------


def test_addresses_of_devices_and_old_programs_are_accepted() -> None:
    server = serve()
    with server.in_thread(), Client(server.addresses[0]) as client:
        client.hello()
        for sender in ("a@b", "<root>", "<a..b@c>", "<.a@c>", "<a.@c>", "MAILER-DAEMON"):
            assert client.say(f"MAIL FROM:{sender}").startswith("250 "), sender
            for recipient in ("<root>", "root", "bob@example.org", "<a..b@c>"):
                assert client.say(f"RCPT TO:{recipient}").startswith("250 "), recipient
            client.say("RSET")


def test_a_message_may_have_a_thousand_recipients() -> None:
    server = serve()
    with server.in_thread(), smtplib.SMTP(*server.addresses[0]) as client:
        names = [f"b{number}@x.example" for number in range(1_001)]
        refused = client.sendmail("a@x.example", names, b"Subject: x\r\n\r\nx\r\n")
        assert refused == {"b1000@x.example": (452, b"4.5.3 Too many recipients")}


def test_serve_is_strict(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:function", *LOOPBACK, cwd=here)
    with Client(Peer(*program.listening())) as client:
        client.hello()
        assert client.say("MAIL FROM:<root>").startswith("501 ")


# -- saving --------------------------------------------------------------------------------------


def test_each_message_is_saved_as_it_came(start: Start, tmp_path: Path) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--save", "mails", cwd=mails(tmp_path).parent)
    with smtplib.SMTP(*program.listening()) as client:
        for number in range(3):
            client.sendmail(
                "a@x.example", ["b@x.example"], b"Subject: %d\r\n\r\n..x\xff\r\n" % number
            )
    assert program.stop() == 0
    files = sorted((tmp_path / "mails").iterdir())
    assert len(files) == 3
    for number, file in enumerate(files):
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]+-\d\.eml", file.name)
        received, _, rest = file.read_bytes().partition(b"Subject: ")
        assert received.startswith(b"Received: from ")
        assert rest == b"%d\r\n\r\n..x\xff\r\n" % number


def mails(place: Path) -> Path:
    directory = place / "mails"
    directory.mkdir()
    return directory


class Still(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Still:
        return cls(2026, 11, 28, 14, 3, 44, tzinfo=UTC)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Send a message to a catcher that saves it at a time that is known, and return the reply."""
    monkeypatch.setattr("ehlo.cli.printer.datetime", Still)
    monkeypatch.setattr("ehlo.server.runtime.Runtime.new_id", lambda _: "id")
    server = serve(own=CatcherOptions(json=True, save=str(mails(tmp_path))))
    with server.in_thread():

        def send() -> str:
            with Client(server.addresses[0]) as client:
                client.hello()
                return client.mail()

        yield send


def name_in(place: Path) -> Path:
    stamp = f"{Still.now().astimezone():%Y%m%d-%H%M%S}"
    return place / "mails" / f"{stamp}-id-1.eml"


def test_no_file_is_overwritten(saved: Callable[[], str], tmp_path: Path) -> None:
    name_in(tmp_path).write_text("other")
    assert saved().startswith("452 4.3.1 ")
    assert name_in(tmp_path).read_text() == "other"


def test_no_link_is_followed(saved: Callable[[], str], tmp_path: Path) -> None:
    name_in(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert saved().startswith("452 4.3.1 ")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root does not follow links of others")
def test_root_follows_no_link_of_another_user_to_the_directory(
    saved: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "mails").rename(tmp_path / "real")
    (tmp_path / "mails").symlink_to(tmp_path / "real")
    os.lchown(tmp_path / "mails", 12_345, 12_345)
    assert saved().startswith("452 4.3.1 ")
    assert list((tmp_path / "real").iterdir()) == []


def test_what_cannot_be_saved_is_not_acknowledged(
    saved: Callable[[], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mails").rename(tmp_path / "gone")
    assert saved().startswith("452 4.3.1 ")
    (record,) = [each for each in caplog.records if each.getMessage().startswith("message not")]
    assert "No such file" in record.getMessage()
    assert record.levelname == "ERROR"


# -- what is printed -----------------------------------------------------------------------------


class Out(TextIOWrapper):
    """A terminal, or none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(BytesIO(), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(
    body: bytes,
    recipients: tuple[str, ...] = ("bob@example.org",),
    *,
    columns: int = 0,
    max_lines: int | None = None,
) -> str:
    """Return what is printed of a message, on a terminal of so many columns or on none."""
    form = AsText(Out(terminal=columns > 0), max_lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns or 80))
        return "".join(form(*a_message(body, recipients), Still.now(), "id-1"))


def a_message(body: bytes, recipients: tuple[str, ...]) -> tuple[Session, Message]:
    session: Any = type("S", (), {"tls": None, "user": None, "esmtp": True, "helo": "c"})()
    session.peer = Peer("192.0.2.1", 25)
    to = [each.rpartition("@") for each in recipients]
    addresses = [Address(local or domain, domain if local else "") for local, _, domain in to]
    return session, Message("id-1", Address("a", "b.example"), addresses, b"", [body])


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_mail_in_html_alone_is_readable() -> None:
    text = shown(
        b"Subject: x\r\nContent-Type: text/html\r\n\r\n"
        b"<style>p{}</style><h1>Sale</h1><p>Buy <a href='https://x.test/'>now</a></p>"
    )
    assert text.endswith("\n\nSale\n\nBuy now (https://x.test/)\n\n")


def test_the_html_form_is_no_attachment_and_forwarded_mail_has_subject_and_size() -> None:
    mail = EmailMessage()
    mail.set_content("Plain\n")
    mail.add_alternative("<p>HTML</p>", subtype="html")
    inner = EmailMessage()
    inner["Subject"] = "The inner one"
    inner.set_content("x" * 1200)
    mail.add_attachment(inner)
    text = shown(mail.as_bytes())
    assert text.count("[") == 1
    assert "HTML" not in text
    assert "\n\nPlain\n\n[The inner one, message/rfc822, 1.3 KB]\n\n" in text


@pytest.mark.parametrize(
    ("header", "recipient", "hidden"),
    [
        ("To: Bob <BOB@example.org>", "bob@example.org", False),
        ("Cc: x@y.example,bob@example.org", "bob@example.org", False),
        ("Bcc: bob@example.org", "bob@example.org", False),
        ("Resent-To: bob@example.org", "bob@example.org", False),
        ("To: notbob@example.org", "bob@example.org", True),
        ("To: bob@example.org.uk", "bob@example.org", True),
        ("Subject: bob@example.org", "bob@example.org", True),
        ('To: "john doe"@example.org', "john doe@example.org", False),
        ("To: =?utf-8?q?B=C3=B6b?= <bob@example.org>", "bob@example.org", False),
        ("To: root", "root", False),
        ("X: y", "root", True),
    ],
)
def test_a_recipient_in_no_header_field_is_marked(
    header: str, recipient: str, hidden: bool
) -> None:
    text = shown(f"{header}\r\n\r\n".encode(), (recipient,))
    line = next(line for line in text.splitlines() if line.startswith("envelope to"))
    assert line.endswith(" (bcc)") is hidden


@pytest.mark.parametrize(
    ("columns", "max_lines", "lines"),
    [(80, None, 200), (0, None, 1000), (80, 5, 5), (0, 5, 5), (0, 0, 3000)],
)
def test_a_long_text_is_cut(columns: int, max_lines: int | None, lines: int) -> None:
    text = shown(b"\r\n" + b"line\r\n" * 3000, columns=columns, max_lines=max_lines)
    assert text.count("line\n") == lines
    assert (f"… {3000 - lines:,} more lines\n" in text) is (lines < 3000)


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_a_monster_does_not_flood_a_terminal(columns: int) -> None:
    header = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 100_000) for number in range(20))
    parts = b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n" * 900
    body = (
        header
        + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
        + b"z" * 1_000_000
        + b"\r\n"
        + parts
    )
    text = shown(body, columns=columns)
    rows = sum(1 + len(line) // columns for line in text.splitlines())
    assert rows < 20 * 5 + 201 + 200 + 20
    assert "… 700 more attachments\n" in text


def test_json_has_attachments_as_objects_and_html_as_well_as_text() -> None:
    mail = EmailMessage()
    mail.set_content("Plain \x7f\n")
    mail.add_alternative("<p>H\u202eTML</p>", subtype="html")
    mail.add_attachment(
        b"x" * 1234, maintype="image", subtype="png", filename="ü.png", cid="<logo@x>"
    )
    line = "".join(as_json(*a_message(mail.as_bytes(), ("b@x.example",)), Still.now(), "id-1"))
    assert line.isascii()
    assert line.count("\n") == 1
    value = json.loads(line)
    assert (value["text"], value["html"]) == ("Plain \x7f\n", "<p>H\u202eTML</p>\n")
    assert value["attachments"] == [
        {
            "filename": "ü.png",
            "content_type": "image/png",
            "size": 1234,
            "disposition": "attachment",
            "content_id": "logo@x",
            "subject": None,
        }
    ]
