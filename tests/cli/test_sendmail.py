"""`ehlo sendmail` passes a mail on as sendmail does, with its exit codes."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ehlo import Address, Handler, Message, Reject, Server, Session
from ehlo.cli import main
from support.ports import reserved_port

Run = Callable[..., int]


class Post(Handler):
    """Keeps messages, and rejects what a test wants rejected."""

    def __init__(self) -> None:
        self.mail: list[tuple[str, list[str], bytes]] = []
        self.params: list[Mapping[str, object]] = []

    async def on_mail(
        self, session: Session, sender: Address, params: Mapping[str, object]
    ) -> None:
        self.params.append(params)
        if sender.local == "unwanted":
            raise Reject(550, "5.7.1", "Not from you")

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        if recipient.local == "absent":
            raise Reject(550, "5.1.1", "No such user")
        if recipient.local == "later":
            raise Reject(450, "4.2.1", "Try later")

    async def on_message(self, session: Session, message: Message) -> None:
        if b"spam" in message.body:
            raise Reject(554, "5.7.1", "No spam")
        to = [str(each) for each in message.recipients]
        self.mail.append((str(message.sender), to, message.body))


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    handler = Post()
    with Server(handler, addr="127.0.0.1:0", hostname="mx.example").in_thread() as server:
        monkeypatch.setenv("EHLO_SMTP", str(server.addresses[0]))
        yield handler


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def begin(data: bytes, *args: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return main(["sendmail", *args])

    return begin


HEADER = (
    b"From: Alice <alice@example.com>\n"
    b"To: Bob <bob@example.org>,\n\t=?utf-8?q?J=C3=BCrgen?= <juergen@example.org>\n"
    b"Cc: team: carol@example.org, dave@example.org;\n"
    b"Bcc: eve@example.org,\n frank@example.org\n"
    b"Subject: hello\n"
)


def test_the_recipients_are_those_of_the_header_and_bcc_is_removed(post: Post, run: Run) -> None:
    assert run(HEADER + b"\nBcc: not a header\n", "-t", "-i", "-f", "me@example.com") == 0
    ((sender, to, body),) = post.mail
    names = ["bob", "juergen", "carol", "dave", "eve", "frank"]
    assert (sender, to) == ("me@example.com", [f"{name}@example.org" for name in names])
    head = HEADER.partition(b"Bcc:")[0] + b"Subject: hello\n"
    assert body == (head + b"\nBcc: not a header\n").replace(b"\n", b"\r\n")


def test_without_t_the_message_is_sent_as_it_is(post: Post, run: Run) -> None:
    assert run(HEADER + b"\ntext\n", "-i", "-f", "me@example.com", "x@example.org") == 0
    assert post.mail == [
        ("me@example.com", ["x@example.org"], (HEADER + b"\ntext\n").replace(b"\n", b"\r\n"))
    ]


def test_arguments_are_added_to_those_of_the_header_once(post: Post, run: Run) -> None:
    assert run(b"To: a@x.example\n\n", "-t", "b@x.example", "a@x.example") == 0
    assert post.mail[0][1] == ["b@x.example", "a@x.example"]


def test_a_mail_that_is_sent_again_has_other_recipients(post: Post, run: Run) -> None:
    data = b"Resent-To: b@x.example\nResent-Bcc: c@x.example\nTo: a@x.example\n\n"
    assert run(data, "-t") == 0
    assert post.mail[0][1:] == (
        ["b@x.example", "c@x.example"],
        b"Resent-To: b@x.example\r\nTo: a@x.example\r\n\r\n",
    )


@pytest.mark.parametrize("flag", ["-i", "-oi"])
def test_a_dot_ends_the_mail_unless_dots_are_ignored(post: Post, run: Run, flag: str) -> None:
    assert run(b"\nfirst\n.\nsecond\n", "a@x.example") == 0
    assert run(b"\nfirst\n.\nsecond\n", flag, "a@x.example") == 0
    assert [body for _, _, body in post.mail] == [
        b"\r\nfirst\r\n",
        b"\r\nfirst\r\n.\r\nsecond\r\n",
    ]


@pytest.mark.parametrize(
    ("given", "sender"), [("", ""), ("<>", ""), ("<a@b.example>", "a@b.example")]
)
def test_the_sender_may_be_null_or_in_brackets(
    post: Post, run: Run, given: str, sender: str
) -> None:
    assert run(b"\n", "-f", given, "x@example.org") == 0
    assert post.mail[0][0] == sender


def test_the_sender_is_the_user_by_default(
    post: Post, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "tester")
    assert run(b"\n", "x@example.org") == 0
    assert post.mail[0][0].startswith("tester@")


def test_what_programs_add_is_accepted(post: Post, run: Run) -> None:
    lines = (
        ("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root@x.example"),
        ("-oem", "-oi", "-f", "a@b.example", "--", "root@x.example"),
        ("-bm", "-odb", "-v", "-N", "never", "root@x.example"),
        ("-ti", "root@x.example"),
    )
    for args in lines:
        assert run(b"Subject: x\n\n", *args) == 0
    assert len(post.mail) == len(lines)


def test_8_bit_text_and_addresses_say_so(post: Post, run: Run) -> None:
    assert run("To: jürgen@x.example\n\nGrüße\n".encode(), "-t", "-f", "a@b.example") == 0
    assert post.mail[0][1] == ["jürgen@x.example"]
    assert post.mail[0][2].endswith("\r\n\r\nGrüße\r\n".encode())
    assert [{**each, "SIZE": 0} for each in post.params] == [
        {"SIZE": 0, "BODY": "8BITMIME", "SMTPUTF8": True}
    ]


@pytest.mark.parametrize(
    ("data", "args", "code", "said"),
    [
        (b"\n", ["absent@x.example"], 67, "absent@x.example: 550 5.1.1 No such user"),
        (b"\n", ["later@x.example"], 75, "later@x.example: 450 4.2.1 Try later"),
        (b"\n", ["a@x.example", "absent@x.example"], 67, "absent@x.example: 550 5.1.1 No such"),
        (b"\n", ["later@x.example", "absent@x.example"], 67, "450 4.2.1 Try later; absent"),
        (b"\n", ["-f", "unwanted@b.example", "a@x.example"], 69, "rejected the mail: 550 5.7.1"),
        (b"\nspam\n", ["a@x.example"], 69, "rejected the mail: 554 5.7.1 No spam"),
    ],
)
def test_a_rejection_has_the_exit_code_of_sysexits(
    post: Post,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    args: list[str],
    code: int,
    said: str,
) -> None:
    assert run(data, *args) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("ehlo: ")
    assert err.count("\n") == 1
    partly = args[0] == "a@x.example" and code == 67
    assert [to for _, to, _ in post.mail] == ([["a@x.example"]] if partly else [])


def test_a_server_that_is_not_there_is_tried_again_later(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{reserved_port()}"
    assert run(b"\n", "--smtp", where, "a@x.example") == 75
    assert capsys.readouterr().err == (
        f"ehlo: --smtp {where}: Connection refused; start ehlo there, or give another HOST:PORT\n"
    )


def test_a_name_that_decodes_to_an_address_is_no_recipient(post: Post, run: Run) -> None:
    """The sender of a name must not choose who else gets the mail (RFC 2047 5)."""
    data = b"To: =?utf-8?q?evil=40y.example=2C?= <a@x.example>\n\n"
    assert run(data, "-t") == 0
    assert post.mail[0][1] == ["a@x.example"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["-f", "\udcff@x.example", "a@x.example"], 65, "\\udcff@x.example: not UTF-8; write"),
        (["\udcff@x.example"], 65, "\\udcff@x.example: not UTF-8; write the address in UTF-8"),
        (["--smtp", "a..b:25", "a@x.example"], 68, "a..b:25: not a host name; give --smtp HOST"),
        (["--smtp", "x" * 64 + ".example:25", "a@x.example"], 68, "example:25: not a host name"),
        (["--smtp", "unix:/run/x", "a@x.example"], 64, "unix:/run/x: no host; give --smtp HOST"),
        (["--smtp", "fd:3", "a@x.example"], 64, "--smtp fd:3: no host; give --smtp HOST:PORT"),
    ],
)
def test_what_cannot_be_sent_or_reached_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], args: list[str], code: int, said: str
) -> None:
    assert run(b"\n", *args) == code
    err = capsys.readouterr().err
    assert err.startswith("ehlo: ")
    assert said in err
    assert err.count("\n") == 1


def test_comments_nested_too_deeply_are_an_error_of_one_line(
    post: Post, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    to = "(" * 100_000 + ")" * 100_000 + " a@x.example"
    assert run(f"To: {to}\n\n".encode(), "-t") == 65
    assert run(b"\n", to) == 65
    line = f"ehlo: {'(' * 40}...: comments nested too deeply; remove them\n"
    assert capsys.readouterr().err == line * 2
    assert post.mail == []


def test_comments_that_do_not_end_are_an_error(
    post: Post, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some versions of Python find no address in them, and others call themselves too often."""
    assert run(f"To: {'(' * 100_000} a@x.example\n\n".encode(), "-t") in (64, 65)
    assert capsys.readouterr().err.startswith("ehlo: ")
    assert post.mail == []


def test_it_is_a_program_that_reads_a_pipe(post: Post, tmp_path: Path) -> None:
    data = b"To: a@x.example\n\n" + b"x" * 200_000 + b"\n"
    command = [sys.executable, "-m", "ehlo", "sendmail", "-t", "-i"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert post.mail[0][2] == data.replace(b"\n", b"\r\n")
