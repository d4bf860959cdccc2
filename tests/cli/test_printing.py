"""`ehlo` without a command prints each message."""

import base64
import contextlib
import json
import os
import pty
import re
import signal
import smtplib
import threading
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from ehlo import Peer
from support.certificates import Certificates
from support.client import Client
from support.program import DEADLINE, Program, Start, spawn

LOOPBACK = ("--addr", "127.0.0.1:0")
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def a_mail() -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = "Grüße aus Köln"
    mail["From"] = "Ünal <alice@example.com>"
    mail["To"] = "bob@example.org"
    mail.set_content("Schöne Grüße!\n.dot\n", cte="base64")
    mail.add_attachment(b"x" * 1234, maintype="image", subtype="png", filename="Übersicht.png")
    return mail


def send(program: Program, mail: EmailMessage | bytes) -> str:
    """Send a message and return the reply."""
    data = mail if isinstance(mail, bytes) else mail.as_bytes(policy=SMTP)
    with smtplib.SMTP(*program.listening(), local_hostname="client.example") as client:
        client.ehlo()
        client.mail("alice@example.com")
        client.rcpt("bob@example.org")
        client.rcpt("carol@example.org")
        _, text = client.data(data)
    return text.decode()


def printed(program: Program, mail: EmailMessage | bytes) -> str:
    """Send a message, stop the program, and return what it printed."""
    send(program, mail)
    assert program.stop() == 0
    return program.out.text


def as_json(start: Start, mail: EmailMessage | bytes) -> dict[str, Any]:
    line = printed(start("-m", "ehlo", "--json", *LOOPBACK), mail)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    value: dict[str, Any] = json.loads(line)
    return value


# -- for a person ------------------------------------------------------------------------------


def test_standard_error_has_the_address_and_how_to_stop(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--log-format", "text")
    assert "(Ctrl+C stops it)" in program.err.until("listening on 127.0.0.1:")
    assert program.stop() == 0
    assert program.out.text == ""


def test_a_message_is_printed_with_envelope_headers_and_text(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK)
    queued = send(program, a_mail())
    assert program.stop() == 0
    text = program.out.text
    assert re.match(r"──── \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ─+\n", text)
    envelope = (
        "\nenvelope from  alice@example.com\n"
        "envelope to    bob@example.org\n"
        "               carol@example.org (bcc)\n"
    )
    assert envelope in text
    peer = r"^client         127\.0\.0\.1:\d+, EHLO client\.example$"
    assert re.search(peer, text, re.MULTILINE)
    message_id = queued.rpartition(" ")[2]
    assert re.search(rf"^size           2\.\d KB, id {re.escape(message_id)}$", text, re.MULTILINE)
    assert "\nSubject: Grüße aus Köln\nFrom: Ünal <alice@example.com>\n" in text
    assert "\n\nSchöne Grüße!\n.dot\n\n[Übersicht.png, image/png, 1.2 KB]\n" in text
    assert "Received:" not in text


def test_a_pipe_gets_no_color(start: Start) -> None:
    assert "\x1b" not in printed(start("-m", "ehlo", *LOOPBACK), a_mail())


def test_the_null_sender_is_shown_as_brackets(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK)
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("", ["bob@example.org"], b"Subject: bounce\r\n\r\n")
    assert program.stop() == 0
    assert "\nenvelope from  <>\n" in program.out.text


def test_no_control_character_of_a_message_is_printed(start: Start) -> None:
    mail = (
        b"Subject: raw \x1b[2J \xc2\x9b31m =?utf-8?q?=1B]0;title=07=0D=0Anext?=\r\n"
        b"X-\x1b[31m: name\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        b"\x1b[31mred\x07 \x7f \xc2\x9b31m \xe2\x80\xae kept\ttab\r\n"
        b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"\x1b]8;;x\x07") + b"\r\n"
        b"--b\r\nContent-Type: image/png\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''%1B%5B31m%0Ax\r\n\r\nx\r\n--b--\r\n"
    )
    text = printed(start("-m", "ehlo", *LOOPBACK), mail)
    assert not CONTROLS.search(text.replace("\t", ""))
    assert "\u202e" not in text
    assert r"Subject: raw \x1b[2J \x9b31m \x1b]0;title\x07\x0d\nnext" in text
    assert "\\x1b[31mred\\x07 \\x7f \\x9b31m \\u202e kept\ttab" in text


def test_a_body_that_is_not_a_message_is_printed(start: Start) -> None:
    text = printed(start("-m", "ehlo", *LOOPBACK), b"\xff\xfe just bytes")
    assert "just bytes" in text


def test_every_message_of_the_samples_can_be_printed(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK)
    mails = sorted((Path(__file__).parents[1] / "mail").glob("*.eml"))
    with smtplib.SMTP(*program.listening()) as client:
        for mail in mails:
            assert client.sendmail("a@example.com", ["b@example.org"], mail.read_bytes()) == {}
    assert program.stop() == 0
    assert program.out.text.count("\n──── ") == len(mails) - 1


# -- on a terminal -----------------------------------------------------------------------------


class Terminal:
    """Runs a program whose standard output is a terminal of 80 columns."""

    def __init__(self, **env: str) -> None:
        ours, theirs = pty.openpty()
        self.screen = b""
        clean = {
            name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "EHLO_JSON")
        }
        self._errors, writes = os.pipe()
        self.process = spawn(
            ("-m", "ehlo", *LOOPBACK),
            env={**clean, "EHLO_NO_WEB": "1", "TERM": "xterm-256color", **env},
            files=(0, theirs, writes),
        )
        os.close(theirs)
        os.close(writes)
        self._thread = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._thread.start()

    def _read(self, fd: int) -> None:
        try:
            while data := os.read(fd, 65_536):
                self.screen += data
        except OSError:  # how a terminal reports that its other side is closed
            pass
        finally:
            os.close(fd)

    def send(self) -> str:
        """Send the message, stop the program, and return what is on the screen."""
        with os.fdopen(self._errors, "rb") as stderr:
            port = int(re.findall(rb"127\.0\.0\.1:(\d+)", stderr.readline())[0])
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.send_message(a_mail())
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(DEADLINE) == 0
        self._thread.join(DEADLINE)
        return self.screen.decode()


def test_a_terminal_gets_color() -> None:
    screen = Terminal().send()
    assert "\x1b[36mSubject:\x1b[0m \x1b[1mGrüße aus Köln\x1b[0m" in screen


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_color_can_be_disabled(env: dict[str, str]) -> None:
    screen = Terminal(**env).send()
    assert "Subject: Grüße aus Köln" in screen
    assert "\x1b" not in screen


# -- for a program -----------------------------------------------------------------------------


def test_json_is_one_object_on_one_line(start: Start) -> None:
    mail = a_mail()
    value = as_json(start, mail)
    assert re.fullmatch(r"[0-9a-f]+-1", value["id"])
    assert datetime.fromisoformat(value["time"]).tzinfo is not None
    assert re.fullmatch(r"127\.0\.0\.1:\d+", value["peer"])
    assert value["helo"] == "client.example"
    assert value["tls"] is None
    assert value["user"] is None
    assert value["sender"] == "alice@example.com"
    assert value["recipients"] == ["bob@example.org", "carol@example.org"]
    assert value["headers"][0] == ["Subject", "Grüße aus Köln"]
    assert value["text"] == "Schöne Grüße!\n.dot\n"
    assert value["html"] is None
    assert value["attachments"] == [
        {
            "filename": "Übersicht.png",
            "content_type": "image/png",
            "size": 1234,
            "disposition": "attachment",
            "content_id": None,
            "subject": None,
        }
    ]
    assert value["body_encoding"] == "text"
    assert value["body"].encode() == mail.as_bytes(policy=SMTP)
    assert value["size"] == len(value["body"].encode())


def test_json_has_a_binary_body_in_base64(start: Start) -> None:
    mail = b"Subject: x\r\n\r\n\xff\x00\xfe\r\n"
    value = as_json(start, mail)
    assert value["body_encoding"] == "base64"
    assert base64.b64decode(value["body"]) == mail


def test_json_has_no_control_character_except_its_line_end(start: Start) -> None:
    program = start("-m", "ehlo", "--json", *LOOPBACK)
    line = printed(program, b"Subject: \x1b[2J\x7f\xc2\x9b\r\n\r\n\x1b\x7f\xc2\x9b\r\n")
    assert not CONTROLS.search(line)
    assert line.isascii()
    assert json.loads(line)["headers"] == [["Subject", "\x1b[2J\x7f\x9b"]]


def test_json_has_tls_and_the_user(start: Start, here: Path, certificates: Certificates) -> None:
    program = start(
        *("-m", "ehlo", "--json", *LOOPBACK, "--auth-handler", "app:login"),
        *("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file),
        cwd=here,
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
        client.login("alice", "secret")
        client.send_message(a_mail())
    assert program.stop() == 0
    value = json.loads(program.out.text)
    assert value["user"] == "alice"
    assert value["tls"]["version"].startswith("TLSv1.")
    assert value["tls"]["cipher"]


# -- the same server ---------------------------------------------------------------------------


def test_server_options_apply(start: Start, here: Path) -> None:
    program = start(
        *("-m", "ehlo", *LOOPBACK, "--max-size", "500", "--rcpt-handler", "app:only_bob"),
        *("--hostname", "mx.example", "--appname", "Box"),
        cwd=here,
    )
    with smtplib.SMTP(*program.listening()) as client:
        _, greeting = client.ehlo()
        assert greeting.startswith(b"mx.example")
        assert client.esmtp_features["size"] == "500"
        client.mail("a@example.com")
        assert client.rcpt("carol@example.org")[0] == 550
        assert client.rcpt("bob@example.org")[0] == 250


def test_a_closed_output_ends_the_program_without_a_250(start: Start) -> None:
    program = start(
        "-c",
        "import os, sys; from ehlo.cli import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
        f"sys.exit(main({list(LOOPBACK)}))",
    )
    with pytest.raises(smtplib.SMTPException), smtplib.SMTP(*program.listening()) as client:
        client.sendmail("a@example.com", ["b@example.org"], b"Subject: lost\r\n\r\n")
    assert program.wait() == 1
    assert program.err.text.splitlines()[-1].startswith("ehlo: cannot write to standard output")
    assert "Traceback" not in program.err.text


# -- as much as a test sends ---------------------------------------------------------------------


def test_no_session_and_no_address_is_limited(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--exempt-networks", "none")
    address = Peer(*program.listening())
    with Client(address) as client:
        assert "SIZE 104857600" in client.hello()
        for _ in range(300):
            assert client.say("NOOP").startswith("250 ")
            assert client.say("NONSENSE").startswith("500 ")
        assert client.say("MAIL FROM:root").startswith("250 ")
        client.say("RSET")
        for _ in range(1001):  # one more than another server accepts
            client.begin_message()
            assert client.replies(4)[-1].startswith("250 ")
    for _ in range(201):
        with Client(address) as client:
            assert client.reply().startswith("220 ")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(60)]
        assert {client.reply()[:4] for client in clients} == {"220 "}


def test_a_limit_that_is_given_holds(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--max-messages", "1", "--max-size", "1000")
    with Client(Peer(*program.listening())) as client:
        assert "SIZE 1000" in client.hello()
        client.mail()
        assert client.say("MAIL FROM:<a@example.com>").startswith("4")


def test_addresses_can_be_strict(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--no-lenient-addresses")
    with Client(Peer(*program.listening())) as client:
        assert client.begin("MAIL FROM:root")[0].startswith("501 ")
