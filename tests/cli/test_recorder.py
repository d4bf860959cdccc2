"""`ehlo serve --record DIR` and `ehlo replay`: a session as a file, played again."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ehlo import Peer, paths
from ehlo.cli import main
from ehlo.testing import dialogue
from support.certificates import Certificates
from support.client import Client
from support.logins import plain
from support.program import Program, Start

RECORDED = """
import ehlo

class Handler(ehlo.Handler):
    async def on_rcpt(self, session, recipient, params):
        if recipient.local == "eve":
            raise ehlo.Reject(550, "5.1.1", "No such user here")

    async def on_auth(self, session, credentials):
        return "ada" if credentials.password == "tanstaaftanstaaf" else None

    async def on_message(self, session, message):
        return "4bXyZ1"

class Noting(Handler):
    def on_disconnect(self, session):
        print("noted", session.transcript[0].text, flush=True)

class NotingLater(Handler):
    async def on_disconnect(self, session):
        print("noted", session.transcript[0].text, flush=True)

def function(message):
    return "4bXyZ1"
"""


@pytest.fixture
def records(here: Path) -> Path:
    (here / "recorded.py").write_text(RECORDED)
    path = here / "records"
    path.mkdir()
    return path


def serve(start: Start, records: Path, *options: str, target: str = "Handler") -> Program:
    return start(
        *("-m", "ehlo", "serve", f"recorded:{target}", "--addr", "127.0.0.1:0"),
        *("--hostname", "mx.example.com", "--record", str(records), *options),
        cwd=records.parent,
    )


def mail(address: Peer) -> None:
    with Client(address) as client:
        client.begin("MAIL FROM:<ada@corp.com>", "RCPT TO:<eve@corp.com>")
        client.say("RCPT TO:<bob@corp.com>")
        client.say("DATA")
        client.send(b"Subject: hello\r\n\r\n..a secret plan\r\n.\r\n")
        client.reply()
        client.say("QUIT")
        client.rest()


def text_of(records: Path) -> str:
    """Return the only recording."""
    (path,) = records.iterdir()
    return path.read_text()


def replayed(records: Path, *more: str) -> int:
    (path,) = records.iterdir()
    return main(["replay", str(path), *more])


def test_a_session_is_recorded_and_plays_again(
    start: Start, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = serve(start, records, "--max-errors", "5")
    address = Peer(*program.listening())
    mail(address)
    assert program.stop() == 0
    text = text_of(records)
    lines = [re.sub(r"@\d+\.\d{3}", "", line) for line in text.splitlines()]
    assert re.fullmatch(r"== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d 127\.0\.0\.1:\d+ \w+", lines[0])
    assert lines[1:5] == [
        "= max_errors 5",
        "= auth LOGIN PLAIN",
        "S: 220 mx.example.com smtpd ESMTP Service ready",
        "C: EHLO client.example",
    ]
    assert lines[-10:] == [
        "S: 550 5.1.1 No such user here",
        "C: RCPT TO:<bob@corp.com>",
        "S: 250 2.1.5 Ok",
        "C: DATA",
        "S: 354 Start mail input; end with <CRLF>.<CRLF>",
        r"C<: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n.\r\n",
        "S: 250 2.0.0 Ok: queued as ...",
        "C: QUIT",
        "S: 221 2.0.0 mx.example.com smtpd ESMTP Service closing transmission channel",
        "X:",
    ]
    assert replayed(records) == 0
    assert capsys.readouterr().out == "1 session played, no differences\n"


def test_a_recording_plays_against_a_server_and_shows_the_first_difference(
    start: Start, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = serve(start, records)
    mail(Peer(*program.listening()))
    program.stop()
    again = start(
        *("-m", "ehlo", "serve", "recorded:Handler", "--addr", "127.0.0.1:0"),
        *("--hostname", "mx.example.com"),
        cwd=records.parent,
    )
    assert replayed(records, str(Peer(*again.listening()))) == 0
    assert capsys.readouterr().out == "1 session played, no differences\n"
    other = start(
        *("-m", "ehlo", "serve", "recorded:function", "--addr", "127.0.0.1:0"),
        *("--hostname", "mx.example.com"),
        cwd=records.parent,
    )
    assert replayed(records, str(Peer(*other.listening()))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.sub(r"@[\d.]+", "", lines[-4]) == "- S: 550 5.1.1 No such user here"
    assert lines[-3:] == ["+ S: 250 2.1.5 Ok", "", "1 session played, 1 difference"]


def test_bodies_are_recorded_where_transcripts_have_them(start: Start, records: Path) -> None:
    program = serve(start, records, "--transcripts", "bodies")
    mail(Peer(*program.listening()))
    program.stop()
    text = re.sub(r"@\d+\.\d{3}", "", text_of(records))
    assert "C: Subject: hello\nC:\nC: ..a secret plan\nC: .\n" in text
    assert replayed(records) == 0


def test_personal_addresses_are_replaced_on_request(start: Start, records: Path) -> None:
    program = serve(start, records, "--transcripts", "bodies", "--record-addresses", "replace")
    mail(Peer(*program.listening()))
    program.stop()
    text = text_of(records)
    assert "MAIL FROM:<user1@domain1.example>" in text
    assert "RCPT TO:<user3@domain1.example>" in text
    _, _, dialogue = text.partition("\n")  # the id before it may have any letters from a to f
    for personal in ("corp.com", "ada", "bob", "client.example", "127.0.0.1"):
        assert personal not in dialogue
    assert replayed(records) == 0


def test_secrets_are_left_out_unless_they_are_asked_for(
    start: Start, records: Path, certificates: Certificates
) -> None:
    for shown, number in (("masked", 1), ("full", 2)):
        program = serve(
            *(start, records, "--transcripts", shown, "--auth-mechs", "PLAIN=on"),
            *("--tls-cert", certificates.cert_file, "--tls-key", certificates.key_file),
        )
        with Client(Peer(*program.listening())) as client:
            client.hello()
            client.say("STARTTLS")
            client.wrap(certificates.client)
            client.say("EHLO client.example")
            assert client.say(plain("ada", "tanstaaftanstaaf")).startswith("235 ")
        program.stop()
        paths = sorted(records.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert len(paths) == number
        text = paths[-1].read_text()
        login = plain("ada", "tanstaaftanstaaf")
        assert (login in text) == (shown == "full")
        assert (r"AUTH PLAIN {b64 \0user\0secret}" in text) == (shown == "masked")
        assert "\nT:\n" in text
        assert main(["replay", str(paths[-1])]) == 0


@pytest.mark.parametrize("target", ["Noting", "NotingLater", "function"])
def test_a_hook_for_the_end_of_sessions_is_still_called(
    start: Start, records: Path, target: str
) -> None:
    program = serve(start, records, target=target)
    mail(Peer(*program.listening()))
    if target != "function":
        assert program.out.until("noted").startswith("noted 220 mx.example.com ")
    program.stop()
    assert "C@" in text_of(records)


def test_a_session_that_a_shutdown_ends_plays_on_the_core(start: Start, records: Path) -> None:
    program = serve(start, records)
    with Client(Peer(*program.listening())) as client:
        client.hello()
        program.process.send_signal(signal.SIGTERM)
        assert client.reply() == "421 4.3.2 Service shutting down"
        client.rest()
    program.wait()
    assert "\n!: drain\n" in text_of(records)
    assert replayed(records) == 0


@pytest.mark.skipif(os.name != "posix", reason="there are no modes of files")
def test_a_recording_is_for_its_owner_alone(start: Start, records: Path) -> None:
    program = serve(start, records)
    mail(Peer(*program.listening()))
    program.stop()
    (path,) = records.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_workers_record_too(start: Start, records: Path) -> None:
    program = serve(start, records, "--workers", "2")
    mail(Peer(*program.listening()))
    program.stop()
    assert "MAIL FROM" in text_of(records)


def test_no_file_or_link_that_is_there_is_written_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    for path in (target, link):
        with pytest.raises(FileExistsError):
            paths.create(str(path), 0o600)
    assert target.read_text() == "mine"


# -- wrong uses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--record", "nowhere"), "no such directory"),
        (
            ("--record", ".", "--record-addresses", "replace", "--transcripts", "full"),
            "--record-addresses replace cannot be combined",
        ),
    ],
)
def test_a_wrong_use_is_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert main(["serve", "app:function", "--app-dir", str(here), *options]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "arguments", "code", "said"),
    [
        ("", (), 2, "there is no session in it"),
        ("hello", (), 2, "ehlo: x.smtp:1: 'hello': not a line of a dialogue"),
        ("\udcff", (), 2, "ehlo: x.smtp: not UTF-8 (byte 0)"),
        ("S: 220 x", ("somewhere",), 2, "not an address"),
        ("S: 220 x", ("127.0.0.1:1",), 2, "cannot connect to 127.0.0.1:1"),
        ("S: 220 x", ("--timeout", "0"), 2, "--timeout 0: out of range; write a number over 0"),
        ("S: 220 x", ("--timeout", "soon"), 2, "--timeout soon: not a number of seconds"),
        ("= max_size many\nS: 220 x", (), 2, "x.smtp: = max_size many: write a number"),
        ("S: 220...\nC: NOOP\nS: 221 Bye", (), 1, "+ S: 250 2.0.0 Ok"),
    ],
)
def test_replay_says_what_is_wrong(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    text: str,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    path = tmp_path / "x.smtp"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert main(["replay", str(path), *arguments]) == code
    captured = capfd.readouterr()
    assert said in captured.out + captured.err


def test_all_sessions_of_a_file_are_played(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = "== good\nS: 220...\nC: NOOP\nS: 250 2.0.0 Ok\n"
    bad = "== bad\nS: 220...\nC: NOOP\nS: 250 Fine\n"
    path = tmp_path / "x.smtp"
    path.write_text(good + bad + good + bad)
    assert main(["replay", str(path)]) == 1
    assert capfd.readouterr().out.endswith("\n4 sessions played, 2 differences\n")
    assert [each.title for each in dialogue.load(path)] == ["good", "bad", "good", "bad"]
