"""The inbox of `ehlo` and of `ehlo serve`: its addresses, its options, and what they reject."""

from __future__ import annotations

import contextlib
import os
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from ehlo import PasswordFile
from ehlo.cli import main
from support.certificates import Certificates
from support.program import Program, Start

DEADLINE = 60.0
SMTP = ("--addr", "127.0.0.1:0")
WEB = ("--web", "127.0.0.1:0")
SHOWN = {"EHLO_NO_WEB": "0"}  # which hides the inbox in other tests
MAIL = b"Subject: hello\r\n\r\ntext\r\n"


class Caught:
    """A program that catches mail, and where."""

    def __init__(self, program: Program) -> None:
        self.program = program
        found = re.search(r"https?://[\w.:\[\]/]+", program.err.until("showing mail on "))
        assert found is not None
        self.url = found[0]
        self.smtp = program.listening()

    def send(self, mail: bytes = MAIL, user: str = "") -> None:
        with smtplib.SMTP(*self.smtp) as client:
            if user:
                client.login(user, "x")
            client.sendmail("a@x.example", ["b@y.example"], mail)

    def get(
        self, path: str, verify: ssl.SSLContext | bool = False, **options: Any
    ) -> httpx.Response:
        # httpx would load the authorities of the system, also for a URL without TLS: 28 ms
        return httpx.get(self.url + path, timeout=DEADLINE, verify=verify, **options)

    def subjects(self, **options: Any) -> list[str]:
        answer = self.get("/api/v1/messages", **options)
        answer.raise_for_status()
        return [mail["Subject"] for mail in answer.json()["messages"]]


@pytest.fixture
def catch(start: Start) -> Any:
    """Start `ehlo` with an inbox: `catch("--keep", "5")`."""

    def begin(*options: str, env: Mapping[str, str] | None = None, **keywords: Any) -> Caught:
        words = ("-m", "ehlo", *SMTP, *WEB, *options)
        return Caught(start(*words, env={**SHOWN, **(env or {})}, **keywords))

    return begin


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the first line of the error of wrong usage: `fails("--keep", "x", place=here)`."""

    def run(*options: str, place: Path | None = None) -> str:
        if place is not None:
            monkeypatch.chdir(place)
        assert main(options) == 2
        return capsys.readouterr().err.splitlines()[0]

    return run


# -- where -----------------------------------------------------------------------------------------


def test_mail_is_printed_and_shown_with_one_id(catch: Any) -> None:
    caught = catch()
    caught.send()
    (mail,) = caught.get("/api/v1/messages").json()["messages"]
    assert caught.program.stop() == 0
    assert f", id {mail['ID']}\n\nSubject: hello\n\ntext\n" in caught.program.out.text


def test_without_web_the_usual_address_or_a_free_port_is_taken(start: Start) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # it is taken already
            stack.enter_context(socket.create_server(("127.0.0.1", 8025)))
        caught = Caught(program := start("-m", "ehlo", *SMTP, env=SHOWN))
    caught.send()
    assert caught.subjects() == ["hello"]
    if not caught.url.endswith(":8025"):  # another program may have let go of it just then
        taken = "127.0.0.1:8025: another process is listening there; taking a free port"
        assert taken in program.err.text


def test_a_port_that_was_given_and_is_taken_is_exit_1(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        program = start("-m", "ehlo", *SMTP, "--web", where, env=SHOWN)
        assert program.wait() == 1
    assert program.err.text == (
        f"ehlo: cannot listen on {where}: another process is listening there; "
        "try --web 127.0.0.1:0\n"
    )


def test_no_web_shows_nothing(start: Start) -> None:
    program = start("-m", "ehlo", *SMTP, "--no-web")
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("a@x.example", ["b@y.example"], MAIL)
    assert program.stop() == 0
    assert "showing mail" not in program.err.text
    assert "Subject: hello" in program.out.text


def test_no_print_prints_nothing(catch: Any) -> None:
    caught = catch("--no-print")
    caught.send()
    assert caught.subjects() == ["hello"]
    assert caught.program.stop() == 0
    assert caught.program.out.text == ""


WITHOUT = "import sys; sys.modules['starlette'] = None; from ehlo.cli import main; sys.exit(main())"


def test_without_the_extra_mail_is_printed_and_a_line_says_how_to_get_the_inbox(
    start: Start,
) -> None:
    program = start("-c", WITHOUT, *SMTP, env=SHOWN)
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("a@x.example", ["b@y.example"], MAIL)
    assert program.stop() == 0
    assert "Subject: hello" in program.out.text
    (line,) = (line for line in program.err.text.splitlines() if "ehlo[inbox]" in line)
    assert "mail is printed only; to see it in a browser: pip install 'ehlo[inbox]'" in line


@pytest.mark.parametrize(
    "options",
    [("--web", "127.0.0.1:0"), ("--store", "mail.db"), ("--label", "shop"), ("--keep", "0")],
)
def test_without_the_extra_an_inbox_that_was_asked_for_is_an_error(
    start: Start, options: tuple[str, str], tmp_path: Path
) -> None:
    program = start("-c", WITHOUT, *SMTP, *options, env=SHOWN, cwd=tmp_path)
    assert program.wait() == 2
    first = program.err.text.splitlines()[0]
    assert first == f"ehlo: {options[0]} needs starlette: pip install 'ehlo[inbox]'"


@pytest.mark.parametrize("name", ["starlette", "jinja2"])
def test_without_the_extra_the_import_says_how_to_get_the_inbox(start: Start, name: str) -> None:
    program = start("-c", f"import sys; sys.modules['{name}'] = None; import ehlo.inbox")
    assert program.wait() == 1
    assert f"{name} is not installed; run pip install 'ehlo[inbox]'" in program.err.text


def test_other_machines_without_a_login_are_warned_of(start: Start) -> None:
    program = start("-m", "ehlo", *SMTP, "--web", "0.0.0.0:0", env=SHOWN)
    Caught(program)
    assert "other machines can read the mail there without a login" in program.err.text


# -- options ---------------------------------------------------------------------------------------


def test_a_file_keeps_mail(catch: Any, tmp_path: Path) -> None:
    for count in (1, 2):
        caught = catch("--store", "mail.db", "--keep", "5", cwd=tmp_path)
        caught.send(b"Subject: %d\r\n\r\n" % count)
        assert len(caught.subjects()) == count
        assert caught.program.stop() == 0
    mode = (tmp_path / "mail.db").stat().st_mode
    assert mode & 0o077 == 0


def test_a_file_is_kept_without_pages_too(start: Start, tmp_path: Path, catch: Any) -> None:
    program = start("-m", "ehlo", *SMTP, "--no-web", "--store", "mail.db", cwd=tmp_path)
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("a@x.example", ["b@y.example"], MAIL)
    assert program.stop() == 0
    assert catch("--store", "mail.db", cwd=tmp_path).subjects() == ["hello"]


def test_a_file_that_is_no_store_is_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mail.db").write_text("something else\n" * 100)
    program = start("-m", "ehlo", *SMTP, *WEB, "--store", "mail.db", env=SHOWN, cwd=tmp_path)
    assert program.wait() == 1
    assert program.err.text.startswith("ehlo: store: mail.db: ")
    assert program.err.text.count("\n") == 1


def test_the_oldest_mail_leaves(catch: Any) -> None:
    caught = catch("--keep", "2", "--keep-age", "10m")
    for number in range(3):
        caught.send(b"Subject: %d\r\n\r\n" % number)
    assert caught.subjects() == ["2", "1"]


def test_inboxes_by_login(catch: Any) -> None:
    caught = catch("--inbox-by", "user")
    for user in ("shop", "blog"):
        caught.send(b"Subject: of %s\r\n\r\n" % user.encode(), user=user)
    for user in ("shop", "blog"):
        found = caught.get(f"/inbox/{user}/api/v1/messages").json()
        assert [mail["Subject"] for mail in found["messages"]] == [f"of {user}"]


def test_inboxes_by_a_function(catch: Any, tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def by_size(mail):\n    return f's{len(mail.message)}'\n")
    caught = catch("--inbox-by", "rules:by_size", cwd=tmp_path)
    caught.send()
    assert caught.get(f"/inbox/s{len(MAIL)}/api/v1/messages").json()["total"] == 1


@pytest.mark.parametrize("form", ["file", "environment"])
def test_a_login(catch: Any, tmp_path: Path, form: str) -> None:
    if form == "file":
        PasswordFile(str(tmp_path / "users")).set("alice", "secret")
        caught = catch("--web-auth", "users", cwd=tmp_path)
    else:
        caught = catch(env={"EHLO_WEB_AUTH": "bob:x alice:secret"})
    assert caught.get("/api/v1/messages").status_code == 401
    assert caught.get("/api/v1/messages", auth=("alice", "wrong")).status_code == 401
    assert caught.subjects(auth=("alice", "secret")) == []
    assert caught.get("/livez").status_code == 200


def test_https(catch: Any, certificates: Certificates) -> None:
    caught = catch("--web-cert", certificates.cert_file, "--web-key", certificates.key_file)
    assert caught.url.startswith("https://")
    caught.send()
    assert caught.subjects(verify=certificates.client) == ["hello"]


def test_hosts_origins_root_label_and_relay(catch: Any) -> None:
    caught = catch(
        *("--web-hosts", "mail.test", "--cors", "app.test", "--web-root", "/mail/"),
        *("--label", "shop", "--relay", "smtp://relay.test:25"),
    )
    assert caught.url.endswith("/mail")
    assert caught.get("/api/v1/info", headers={"Host": "mail.test"}).status_code == 200
    assert caught.get("/api/v1/info", headers={"Host": "evil.test"}).status_code == 403
    ours = caught.get("/api/v1/info", headers={"Origin": "http://app.test"})
    assert ours.headers["Access-Control-Allow-Origin"] == "http://app.test"
    about = caught.get("/api/v1/webui").json()
    assert about["Label"] == "shop"
    assert about["MessageRelay"]["Enabled"]


def test_faults_of_a_file_are_those_of_the_api(catch: Any, tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text('[[fault]]\nat = "mail"\nreply = "451 4.3.0 Later"\n')
    caught = catch("--faults", "faults.toml", cwd=tmp_path)
    with pytest.raises(smtplib.SMTPSenderRefused, match="Later"):
        caught.send()
    caught.send()


def test_all_of_it_can_be_in_the_environment(start: Start, tmp_path: Path) -> None:
    env = {
        **SHOWN,
        "EHLO_ADDR": "127.0.0.1:0",
        "EHLO_WEB": "127.0.0.1:0",
        "EHLO_STORE": "mail.db",
        "EHLO_KEEP": "1",
        "EHLO_KEEP_AGE": "1h",
        "EHLO_INBOX_BY": "domain",
        "EHLO_WEB_ROOT": "/mail",
        "EHLO_PRINT": "0",
    }
    caught = Caught(start("-m", "ehlo", cwd=tmp_path, env=env))
    for _ in range(2):
        caught.send()
    assert caught.get("/inbox/y.example/api/v1/messages").json()["total"] == 1
    assert caught.program.stop() == 0
    assert caught.program.out.text == ""
    assert (tmp_path / "mail.db").exists()


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--web", "8025"], "--web 8025: host missing, e.g. 127.0.0.1:8025 (or --port 8025)"),
        (["--web", "127.0.0.1"], "--web 127.0.0.1: port missing, e.g. 127.0.0.1:8025"),
        (["--keep", "-1"], "--keep -1: out of range; write a number that is 0 or more"),
        (
            ["--keep-age", "a while"],
            "--keep-age a while: not a duration; write seconds, or 30d, 12h, 10m",
        ),
        (
            ["--inbox-by", "port"],
            "--inbox-by port: write user, domain, listener or MODULE:ATTR",
        ),
        (["--inbox-by", "rules:none"], "--inbox-by: no module named 'rules'"),
        (["--web-auth", "none"], "--web-auth none: no such file or directory; check the path"),
        (["--web-key", "{key}"], "--web-key needs --web-cert; add it"),
        (["--web-cert", "{users}"], "--web-cert {users}: cannot be used "),
        (["--web-auth", "{users}"], "--web-auth {users}: "),
        (["--relay", "relay.test"], "--relay: not the URL of an SMTP server; "),
        (["--web-root", "mail"], "--web-root mail: write a path that begins with /, e.g. /mail"),
        (["--no-web", *WEB], "--web cannot be combined with --no-web; leave one out"),
        (["--no-web", "--label", "x"], "--label needs --web; write --web 127.0.0.1:8025"),
        (["--no-web", "--keep", "5"], "--keep needs --web; write --web 127.0.0.1:8025"),
        (["--no-web", "--no-print"], "--no-print needs --web or --store; leave it out"),
    ],
)
def test_wrong_values(
    fails: Any, tmp_path: Path, certificates: Certificates, options: list[str], error: str
) -> None:
    (tmp_path / "users").write_text("alice:not-a-hash\n")
    names = {"users": "users", "key": certificates.key_file}
    given = [each.format(**names) for each in options]
    said = fails(*SMTP, *given, place=tmp_path)
    assert said.startswith("ehlo: " + error.format(**names))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("alice", "EHLO_WEB_AUTH: entry 1 is not of the form user:password"),
        (":x", "EHLO_WEB_AUTH: entry 1 is not of the form user:password"),
    ],
)
def test_wrong_logins_are_not_quoted(
    fails: Any, monkeypatch: pytest.MonkeyPatch, text: str, error: str
) -> None:
    monkeypatch.setenv("EHLO_WEB_AUTH", text)
    assert fails(*SMTP, *WEB) == f"ehlo: {error}"
    assert "EHLO_WEB_AUTH" not in os.environ


@pytest.mark.parametrize("options", [WEB, ("--store", "mail.db")])
def test_workers_have_no_inbox(fails: Any, here: Path, options: tuple[str, str]) -> None:
    said = fails("serve", "app:function", *SMTP, *options, "--workers", "2", place=here)
    assert said == (
        f"ehlo: {options[0]} cannot be combined with --workers: the inbox is one process; leave "
        "one out"
    )


def test_reloading_has_no_inbox(fails: Any, here: Path) -> None:
    said = fails("serve", "app:function", *SMTP, *WEB, "--reload", place=here)
    assert said == "ehlo: --reload cannot be combined with --web or --store; leave one out"


# -- ehlo serve ------------------------------------------------------------------------------------


APP = """
import os
import ehlo

def handler(message):
    print("a:secret" in str(os.environ), flush=True)
    if message.content.subject == "bad":
        raise ehlo.Reject(550, "5.7.1", "No, thank you")
    return "my-id"
"""


def test_serve_shows_what_a_handler_receives_and_answers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text(APP)
    words = ("-m", "ehlo", "serve", "mod:handler", *SMTP, *WEB)
    secrets = {"EHLO_WEB_AUTH": "a:secret", "EHLO_RELAY": "smtp://a:secret@127.0.0.1:9"}
    caught = Caught(start(*words, cwd=tmp_path, env=secrets))
    with smtplib.SMTP(*caught.smtp) as client:
        client.ehlo()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        assert client.data(b"Subject: good\r\n\r\n") == (250, b"2.0.0 Ok: queued as my-id")
    with pytest.raises(smtplib.SMTPDataError, match="No, thank you"):
        caught.send(b"Subject: bad\r\n\r\n")
    assert caught.subjects(auth=("a", "secret")) == ["bad", "good"]
    assert caught.program.stop() == 0
    assert caught.program.out.text == "False\nFalse\n"


def test_serve_has_no_inbox_without_web(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:function", *SMTP, cwd=here, env=SHOWN)
    program.listening()
    assert program.stop() == 0
    assert "showing" not in program.err.text
