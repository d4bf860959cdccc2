"""`openssl s_client`: another driver of TLS than Python's, with SMTP typed by hand."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from .dialogue import stuffed
from .peers import TIMEOUT
from .post import ASCII_USER, PASSWORD, Office, Security

Serve = Callable[..., Office]
Peer = Callable[[str], str]

MAIL = b"Subject: By hand\r\n\r\nRenegotiate? Quit?\r\n.\r\nR\r\nQ\r\n\xc3\xa9\xe9\r\n"


class Terminal:
    """Types into s_client and reads from it, as a person would."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._keys = process.stdin
        self._screen = process.stdout

    def type(self, octets: bytes) -> None:
        self._keys.write(octets)
        self._keys.flush()

    def read(self, code: int) -> list[str]:
        """Read a reply, which must have `code`."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            line = self._screen.readline().decode()
            assert line, f"s_client has ended after {lines}"
            lines.append(line.rstrip())
        assert lines[-1].startswith(f"{code} "), lines
        return lines

    def say(self, line: str, code: int) -> list[str]:
        self.type(line.encode() + b"\r\n")
        return self.read(code)

    def end(self) -> int:
        """Wait until the server closes; return the exit status."""
        assert self._screen.read() == b""
        return self._process.wait(TIMEOUT)


@contextlib.contextmanager
def s_client(program: str, office: Office, *options: str) -> Iterator[Terminal]:
    """Run s_client, which verifies certificate and name."""
    command = [
        *(program, "s_client", "-quiet", "-connect", f"127.0.0.1:{office.port}"),
        *("-servername", "localhost", "-verify_hostname", "localhost"),
        *("-verify_return_error", "-CAfile", str(office.authority)),
        *(["-starttls", "smtp", "-name", "client.example.com"] * (office.security == "starttls")),
        *options,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        deadline = threading.Timer(TIMEOUT, process.kill)
        deadline.start()
        try:
            yield Terminal(process)
        finally:
            deadline.cancel()
            process.kill()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_openssl_delivers_under_both_kinds_of_tls(
    peer: Peer, serve: Serve, security: Security, version: str
) -> None:
    office = serve(security, auth_required=True, tls_required=True)
    secret = base64.b64encode(f"\0{ASCII_USER}\0{PASSWORD}".encode()).decode()
    with s_client(peer("openssl"), office, version) as terminal:
        if security == "tls":
            terminal.read(220)
        offered = terminal.say("EHLO hand.example.com", 250)
        assert "250-STARTTLS" not in offered
        assert any(line.endswith(" CRAM-MD5 LOGIN PLAIN") for line in offered)
        terminal.say("MAIL FROM:<anna@example.com>", 530)
        terminal.say(f"AUTH PLAIN {secret}", 235)
        terminal.say("MAIL FROM:<anna@example.com> BODY=8BITMIME", 250)
        terminal.say("RCPT TO:<bert@example.org>", 250)
        terminal.say("DATA", 354)
        terminal.type(stuffed(MAIL))
        terminal.read(250)
        terminal.say("QUIT", 221)
        assert terminal.end() == 0
    (message,) = office.received
    assert message.body == MAIL
    assert message.user == ASCII_USER
    assert message.tls == {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}[version]
    assert b"Received: from hand.example.com ([127.0.0.1])\r\n" in message.trace
    assert f"(version={message.tls} cipher=".encode() in message.trace


def test_starttls_discards_what_openssl_sent_in_clear_text(peer: Peer, serve: Serve) -> None:
    office = serve("starttls")
    with s_client(peer("openssl"), office) as terminal:
        terminal.say("MAIL FROM:<anna@example.com>", 503)  # RFC 3207 4.2: its EHLO was before TLS
        terminal.say("STARTTLS", 503)
        terminal.say("QUIT", 221)
        assert terminal.end() == 0


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_several_commands_in_one_tls_record_are_answered_in_order(
    peer: Peer, serve: Serve, security: Security
) -> None:
    office = serve(security)
    with s_client(peer("openssl"), office) as terminal:
        if security == "tls":
            terminal.read(220)
        terminal.say("EHLO hand.example.com", 250)
        terminal.type(
            b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.org>\r\nDATA\r\n"
            + stuffed(MAIL)
            + b"NOOP\r\nQUIT\r\n"
        )
        for code in (250, 250, 354, 250, 250, 221):
            terminal.read(code)
        assert terminal.end() == 0
    assert [message.body for message in office.received] == [MAIL]


def test_tls_1_1_is_rejected(peer: Peer, serve: Serve) -> None:
    office = serve("tls")
    with s_client(peer("openssl"), office, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0") as terminal:
        assert terminal.end() != 0
    assert office.received == []
