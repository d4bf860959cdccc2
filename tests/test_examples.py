"""Every file in examples/ runs, does what it says, and exits with 0 on SIGTERM."""

import shutil
import smtplib
import sqlite3
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path

import pytest
from scramp import ScramClient

from support.certificates import Certificates
from support.loading import look_until
from support.program import Program, Start
from support.program import start as start
from support.queueing import rows
from support.serving import certificates as certificates

EXAMPLES = Path(__file__).parents[1] / "examples"
AT_ONCE = {"PYTHONUNBUFFERED": "1"}  # they print immediately, as on a terminal


def a_mail(to: str = "bob@example.org") -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = "Grüße"
    mail["From"] = "alice@example.com"
    mail["To"] = to
    mail.set_content("Hello")
    return mail


def run(start: Start, name: str, cwd: Path) -> Program:
    return start(EXAMPLES / name, "127.0.0.1:0", cwd=cwd, env=AT_ONCE)


@pytest.fixture
def with_certificate(tmp_path: Path, certificates: Certificates) -> Path:
    """A directory with server.crt and server.key in it."""
    shutil.copy(certificates.cert_file, tmp_path / "server.crt")
    shutil.copy(certificates.key_file, tmp_path / "server.key")
    return tmp_path


def test_smallest_prints_sender_recipient_and_size(start: Start, tmp_path: Path) -> None:
    program = run(start, "smallest.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.send_message(a_mail())
    program.out.until("mail from alice@example.com for bob@example.org: ")
    assert program.stop() == 0


def test_subjects_prints_the_subject(start: Start, tmp_path: Path) -> None:
    program = run(start, "subjects.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.send_message(a_mail())
    program.out.until("mail from alice@example.com for bob@example.org with subject 'Grüße'")
    assert program.stop() == 0


def test_starttls_accepts_mail_with_and_without_tls(
    start: Start, with_certificate: Path, certificates: Certificates
) -> None:
    program = run(start, "starttls.py", with_certificate)
    host, port = program.listening()
    for tls in (True, False):
        with smtplib.SMTP(host, port) as client:
            if tls:
                client.starttls(context=certificates.client)
            client.send_message(a_mail())
        program.out.until("with subject 'Grüße'")
    assert program.stop() == 0


def test_archive_files_a_mail_once_from_its_queue(start: Start, tmp_path: Path) -> None:
    program = run(start, "archive.py", tmp_path)
    host, port = program.listening()

    def archived() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(tmp_path / "archive.db", timeout=60)) as database:
            database.execute("BEGIN IMMEDIATE")  # after the handler, which makes the table
            tables = database.execute("SELECT 1 FROM sqlite_schema").fetchall()
            query = "SELECT sender, subject FROM mail"
            return database.execute(query).fetchall() if tables else []

    for _ in range(2):
        with smtplib.SMTP(host, port) as client:
            client.send_message(a_mail())
    file = tmp_path / "mail-0.db"
    look_until(lambda: archived() != [] and rows(file) == [])
    assert archived() == [("alice@example.com", "Grüße")]
    assert program.stop() == 0


def test_one_domain_rejects_the_others(start: Start, tmp_path: Path) -> None:
    program = run(start, "one_domain.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        refused = client.send_message(a_mail("Bob@Example.com, carol@example.net"))
    assert {address: code for address, (code, _) in refused.items()} == {"carol@example.net": 550}
    program.out.until("mail from alice@example.com for Bob@Example.com\n")
    assert program.stop() == 0


def test_login_is_required_and_offered_under_tls(
    start: Start, with_certificate: Path, certificates: Certificates
) -> None:
    program = run(start, "login.py", with_certificate)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.mail("alice@example.com")[0] == 530
        client.starttls(context=certificates.client)
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["LOGIN", "PLAIN"]
        assert client.mail("alice@example.com")[0] == 530
        client.login("alice", "wonderland")
        client.send_message(a_mail())
    program.out.until("mail from alice@example.com for bob@example.org")
    assert program.stop() == 0


@pytest.mark.parametrize("username", ["alice", "nobody"])
def test_login_rejects_a_wrong_password(
    start: Start, with_certificate: Path, certificates: Certificates, username: str
) -> None:
    program = run(start, "login.py", with_certificate)
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.login(username, "guess")
        assert caught.value.smtp_code == 535
    assert program.stop() == 0


def test_the_example_of_all_options_is_complete_and_works(
    start: Start, with_certificate: Path, certificates: Certificates
) -> None:
    program = run(start, "all_options.py", with_certificate)
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
        client.ehlo()
        assert client.esmtp_features["size"] == "10000000"
        assert client.esmtp_features["auth"].split() == ["LOGIN", "PLAIN"]
        client.login("alice", "wonderland")
        assert client.send_message(a_mail("bob@example.com, eve@example.org")).keys() == {
            "eve@example.org"
        }
    program.out.until("<alice@example.com>")
    program.out.until("S: '250 2.1.0 Ok'")
    program.out.until("mail from alice@example.com for bob@example.com: ")
    assert program.stop() == 0
    assert "wonderland" not in program.out.text + program.err.text


def test_own_loop_accepts_mail(start: Start, tmp_path: Path) -> None:
    program = run(start, "own_loop.py", tmp_path)
    with smtplib.SMTP(*program.listening(program.out)) as client:
        client.send_message(a_mail())
    program.out.until("mail from alice@example.com for bob@example.org: ")
    assert program.stop() == 0


def test_in_thread_sends_and_receives(start: Start, tmp_path: Path) -> None:
    program = run(start, "in_thread.py", tmp_path)
    program.out.until("one mail sent, one mail received")
    assert program.wait() == 0


def test_submission_queues_mail_for_known_recipients(start: Start, tmp_path: Path) -> None:
    program = run(start, "submission.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        client.mail("alice@example.com")
        assert client.rcpt("eve@example.com") == (550, b"5.1.1 No such user here")
        assert client.rcpt("bob@example.com")[0] == 250
        assert client.data(a_mail().as_bytes()) == (250, b"2.0.0 Ok: queued as Q1")
    program.out.until("Q1: from <alice@example.com> for 1: ")
    assert program.stop() == 0


def test_own_extension_has_a_parameter_and_a_command(start: Start, tmp_path: Path) -> None:
    program = run(start, "own_extension.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert "xfoo" in client.esmtp_features
        assert client.docmd("XFOO", "hello") == (250, b"2.0.0 hello to you, too")
        client.mail("alice@example.com")
        assert client.rcpt("bob@example.com", ["XFOO=foo"])[0] == 501
        assert client.rcpt("bob@example.com", ["XFOO=7"])[0] == 250
        assert client.rcpt("carol@example.com")[0] == 250
        assert client.data(a_mail().as_bytes())[0] == 250
    program.out.until("foo is [7, None]")
    assert program.stop() == 0


def test_lmtp_answers_for_each_recipient(start: Start, tmp_path: Path) -> None:
    for name in ("bob@example.com", "full@example.com"):
        (tmp_path / "mailboxes" / name).mkdir(parents=True)
    for number in range(1000):
        (tmp_path / "mailboxes" / "full@example.com" / f"{number}.eml").touch()
    path = tmp_path / "socket"
    program = start(EXAMPLES / "lmtp.py", f"unix:{path}", cwd=tmp_path, env=AT_ONCE)
    program.err.until("listening on unix:")
    with smtplib.LMTP(str(path)) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("alice@example.com")
        answers = [
            client.rcpt(to)[0]
            for to in ("Bob@example.com", "full@example.com", "eve@example.com", '".."@example.com')
        ]
        assert answers == [250, 250, 550, 550]
        assert client.data(a_mail().as_bytes()) == (250, b"2.0.0 Ok: queued")
        assert client.getreply() == (452, b"4.2.2 Mailbox full")
    (delivered,) = (tmp_path / "mailboxes" / "bob@example.com").iterdir()
    assert delivered.read_bytes().startswith(b"Received: from ")
    assert program.stop() == 0


def test_scram_needs_no_password_on_the_server(
    start: Start, with_certificate: Path, certificates: Certificates
) -> None:
    program = run(start, "scram.py", with_certificate)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["SCRAM-SHA-256", "SCRAM-SHA-1"]
        scram = ScramClient(["SCRAM-SHA-256"], "alice", "wonderland")

        def respond(challenge: bytes | None = None) -> str:
            if challenge is None:
                return str(scram.get_client_first())
            if challenge.startswith(b"v="):
                scram.set_server_final(challenge.decode())
                return ""
            scram.set_server_first(challenge.decode())
            return str(scram.get_client_final())

        assert client.auth("SCRAM-SHA-256", respond)[0] == 235
        client.send_message(a_mail())
    program.out.until("mail from alice: ")
    assert program.stop() == 0
    assert "wonderland" not in program.out.text + program.err.text


def test_scram_accepts_tokens_under_tls(
    start: Start, with_certificate: Path, certificates: Certificates
) -> None:
    program = run(start, "scram.py", with_certificate)
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
        client.ehlo()
        offered = client.esmtp_features["auth"].split()
        assert offered[0] == "SCRAM-SHA-256-PLUS"
        assert offered[-2:] == ["OAUTHBEARER", "XOAUTH2"]

        def token(challenge: bytes | None = None) -> str:
            return "user=alice\x01auth=Bearer mF_9.B5f-4.1JqM\x01\x01"

        assert client.auth("XOAUTH2", token)[0] == 235
    assert program.stop() == 0


def test_own_mechanism_accepts_a_code_once(start: Start, tmp_path: Path) -> None:
    program = run(start, "own_mechanism.py", tmp_path)
    where = program.listening()

    def respond(challenge: bytes | None = None) -> str:
        return "alice" if challenge in (None, b"Name?") else "314159"

    with smtplib.SMTP(*where) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["X-ONE-TIME"]
        assert client.auth("X-ONE-TIME", respond, initial_response_ok=False)[0] == 235
        client.send_message(a_mail())
    program.out.until("mail from alice: ")
    with smtplib.SMTP(*where) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth("X-ONE-TIME", respond)
    assert program.stop() == 0


# -- hostile clients -----------------------------------------------------------------------------


def test_a_subject_of_a_megabyte_is_cut(start: Start, tmp_path: Path) -> None:
    """The standard library takes minutes for it: its time grows with the square of the field."""
    program = run(start, "subjects.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("a@example.com", "b@example.com", b"Subject: " + b"a " * 500_000 + b"\r\n")
        client.send_message(a_mail())
    program.out.until("'Grüße'")
    first = program.out.text.splitlines()[0]
    assert first.startswith("mail from a@example.com for b@example.com with subject 'a a a ")
    assert len(first) < 300
    assert program.stop() == 0


def test_nothing_that_is_shown_to_users_parses_mail_by_the_standard_library() -> None:
    root = EXAMPLES.parent
    for path in (root / "README.md", *EXAMPLES.glob("*.py"), *root.glob("docs/*.md")):
        assert "message_from_bytes" not in path.read_text(), path


def test_a_long_command_of_an_extension_has_a_reply(start: Start, tmp_path: Path) -> None:
    program = run(start, "own_extension.py", tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.docmd("XFOO", "x" * 500) == (250, b"2.0.0 " + b"x" * 100 + b" to you, too")
    assert program.stop() == 0
    assert "Traceback" not in program.err.text


def test_a_mailbox_with_a_name_that_no_file_can_have_is_rejected(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "mailboxes").mkdir()
    path = tmp_path / "socket"
    program = start(EXAMPLES / "lmtp.py", f"unix:{path}", cwd=tmp_path, env=AT_ONCE)
    program.err.until("listening on unix:")
    long = f"{'x' * 60}@{'.'.join(['y' * 60] * 4)}"
    with smtplib.LMTP(str(path)) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("alice@example.com")
        for to in (long, '"a/b"@example.com', '".."@example.com', "../x@example.com"):
            assert client.rcpt(to)[0] in (501, 550)
    assert program.stop() == 0
    assert "Traceback" not in program.err.text


def test_every_example_is_run_by_a_test() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in text, path.name
