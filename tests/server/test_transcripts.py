"""`session.transcript`: what sessions keep of their lines, and for how long it is counted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from functools import partial

import pytest

from ehlo import Handler, Message, Server, Session, Transcript
from ehlo.protocol import reply as replies
from ehlo.testing import dialogue
from support.certificates import Certificates
from support.client import Client
from support.serving import Running, Serve

SECRET = "tanstaaftanstaaf"
USER = "tim-the-user"


class Keeper(Handler):
    """Keeps the transcript of each session when it ends, and the text of one when mail comes."""

    def __init__(self) -> None:
        self.ended: list[Transcript | None] = []
        self.at_message: list[str] = []

    async def on_secret(self, session: Session, username: str) -> str | None:
        return SECRET if username == USER else None

    async def on_message(self, session: Session, message: Message) -> None:
        self.at_message.append(str(session.transcript))

    async def on_disconnect(self, session: Session) -> None:
        self.ended.append(session.transcript)


def lines(transcript: Transcript | None) -> list[str]:
    assert transcript is not None
    marks = {"client": "C:", "server": "S:", "note": "*:"}
    return [f"{marks[line.direction]} {line.text}" for line in transcript]


def ended(running: Running, keeper: Keeper) -> list[str]:
    running.wait_until_no_sessions()
    return lines(keeper.ended[-1])


MAIL = [
    "S: 220 mx.example smtpd ESMTP Service ready",
    "C: HELO client.example",
    "S: 250 mx.example greets client.example",
    "C: MAIL FROM:<a@b.example>",
    "S: 250 2.1.0 Ok",
    "C: RCPT TO:<c@d.example>",
    "S: 250 2.1.5 Ok",
    "C: DATA",
    "S: 354 Start mail input; end with <CRLF>.<CRLF>",
]


def send(client: Client, body: str) -> None:
    for line in ("HELO client.example", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
        client.say(line)
    client.send(f"{body}\r\n.\r\n".encode())
    client.reply()


@pytest.mark.usefixtures("way")
def test_a_transcript_is_masked_and_without_bodies(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked")
    with running.client() as client:
        client.reply()
        send(client, "Subject: hello\r\n\r\nbody")
        client.say("QUIT")
    assert ended(running, keeper) == [
        *MAIL,
        "*: 24 bytes of a message",
        "S: 250 2.0.0 Ok: queued",
        "C: QUIT",
        "S: 221 2.0.0 mx.example smtpd ESMTP Service closing transmission channel",
        "*: connection closed",
    ]
    assert keeper.at_message[0].endswith("*: 24 bytes of a message")


@pytest.mark.usefixtures("way")
def test_bodies_are_shown_as_they_came(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="bodies")
    with running.client() as client:
        client.reply()
        send(client, "Subject: hello\r\n\r\n..dots\r\nbare\nline\r\n\x00\t")
        client.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 9\r\n.one\r\ntwo")
        client.send(b"BDAT 3 LAST\r\n\xff\r\n")
        for _ in range(4):
            client.reply()
    assert ended(running, keeper)[len(MAIL) : len(MAIL) + 7] == [
        "C: Subject: hello",
        "C: ",
        "C: ..dots",
        r"C: bare\n",
        "C: line",
        r"C: \0\t",
        "C: .",
    ]
    chunks = ended(running, keeper)[-9:]
    assert chunks[:7] == [
        "C: BDAT 9",
        "C: .one",
        "C: two",
        f"S: {replies.octets_received(9)}",
        "C: BDAT 3 LAST",
        r"C: \xff",
        "S: 250 2.0.0 Ok: queued",
    ]


@pytest.mark.parametrize("kept", ["masked", "bodies", "full"])
def test_a_session_without_mail_has_one(serve: Serve, kept: str) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts=kept)
    with running.client() as client:
        client.reply()
        client.say("MAIL FROM:<a@b.example>")
    assert ended(running, keeper) == [
        "S: 220 mx.example smtpd ESMTP Service ready",
        "C: MAIL FROM:<a@b.example>",
        "S: 503 5.5.1 Bad sequence of commands: say EHLO first",
        "*: client closed its sending side",
        "*: connection closed",
    ]


def test_a_server_without_the_option_keeps_none(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper)
    with running.client() as client:
        client.reply()
        send(client, "x")
    running.wait_until_no_sessions()
    assert keeper.ended == [None]
    assert keeper.at_message == ["None"]


def test_a_client_that_vanishes_in_its_body_is_noted(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked")
    with running.client() as client:
        client.reply()
        for line in ("HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
            client.say(line)
        client.send(b"half of it\r\n")
        running.wait_until_received(client)
        client.reset()
    assert ended(running, keeper)[-2:] == [
        "*: 10 bytes of a message, without its end",
        "*: client disconnected",
    ]


def test_tls_is_noted_and_the_transcript_goes_on(serve: Serve, certificates: Certificates) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked", tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("NOOP")
    shown = ended(running, keeper)
    at = shown.index("C: STARTTLS")
    assert shown[at + 1].startswith("S: 220 ")
    assert shown[at + 2].startswith("*: TLSv1.3 TLS_")
    assert shown[at + 3 : at + 5] == ["C: NOOP", "S: 250 2.0.0 Ok"]


def test_a_handshake_that_fails_is_noted(serve: Serve, certificates: Certificates) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked", tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.say("STARTTLS")
        client.send(b"EHLO not.tls\r\n" * 100)
        client.rest()
    assert any(line.startswith("*: TLS failed: ") for line in ended(running, keeper))


def test_bytes_behind_starttls_are_noted(serve: Serve, certificates: Certificates) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked", tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.send(b"STARTTLS\r\nMAIL FROM:<injected@b.example>\r\n")
        client.rest()
    shown = ended(running, keeper)
    assert shown[-3:] == [
        "C: STARTTLS",
        "*: bytes followed STARTTLS in its packet",
        "*: connection closed",
    ]


# -- secrets ---------------------------------------------------------------------------------------


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def say_all(client: Client, *, lines: list[str]) -> None:
    for line in lines:
        client.say(line)


def pipeline(client: Client, *, lines: list[str]) -> None:
    client.send("".join(f"{line}\r\n" for line in lines).encode())
    for _ in lines:
        client.reply()


def cram(client: Client) -> None:
    challenge = base64.b64decode(client.say("AUTH CRAM-MD5").removeprefix("334 "))
    digest = hmac.new(SECRET.encode(), challenge, hashlib.md5).hexdigest()
    client.say(b64(f"{USER} {digest}"))


def scram(client: Client) -> None:
    challenge = client.say(f"AUTH SCRAM-SHA-256 {b64(f'n,,n={USER},r=abc')}").removeprefix("334 ")
    message = base64.b64decode(challenge).decode()
    nonce, salt, count = message.split(",")
    salted = hashlib.pbkdf2_hmac(
        "sha256", SECRET.encode(), base64.b64decode(salt[2:]), int(count[2:])
    )
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = f"n={USER},r=abc,{message},c=biws,{nonce}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    proof = b64(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    client.say(b64(f"c=biws,{nonce},p={proof}"))
    client.say("")


PLAIN = b64(f"\0{USER}\0{SECRET}")
TOKEN = b64(f"user={USER}\1auth=Bearer {SECRET}\1\1")
BEARER = b64(f"n,a={USER},\1auth=Bearer {SECRET}\1\1")
LOGINS: dict[str, Callable[[Client], object]] = {
    **{
        name: partial(say_all, lines=lines)
        for name, lines in {
            "PLAIN": [f"AUTH PLAIN {PLAIN}"],
            "PLAIN, in two lines": ["AUTH PLAIN", PLAIN],
            "PLAIN, with blanks": [f"auth  plain   {PLAIN} "],
            "LOGIN": ["AUTH LOGIN", b64(USER), b64(SECRET)],
            "LOGIN, with its name at once": [f"AUTH LOGIN {b64(USER)}", b64(SECRET)],
            "LOGIN, after a rejection": ["AUTH NO-SUCH", b64(USER), b64(SECRET)],
            "LOGIN, by hand": ["AUTH LOGIN", USER, SECRET],
            "XOAUTH2": [f"AUTH XOAUTH2 {TOKEN}", ""],
            "OAUTHBEARER": [f"AUTH OAUTHBEARER {BEARER}", "AQ=="],
            "ANONYMOUS": [f"AUTH ANONYMOUS {b64(SECRET)}"],
            "EXTERNAL": [f"AUTH EXTERNAL {b64(SECRET)}"],
            "a mistyped verb": [f"AUTHPLAIN {PLAIN}"],
            "no mechanism": [f"AUTH {PLAIN}"],
        }.items()
    },
    "PLAIN, pipelined": partial(pipeline, lines=["AUTH PLAIN", PLAIN]),
    "LOGIN, pipelined": partial(pipeline, lines=["AUTH LOGIN", b64(USER), b64(SECRET)]),
    "CRAM-MD5": cram,
    "SCRAM-SHA-256": scram,
    "a long line": lambda client: client.say(f"AUTH PLAIN {PLAIN * 999}"),
}
"""What a client sends by each mechanism; the secret is in it, as it is or by a hash of it."""

OPEN = dict.fromkeys(("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "ANONYMOUS"), True)


class Checking(Keeper):
    async def on_auth(self, session: Session, credentials: object) -> str | None:
        return USER


def secrets_of(sent: bytes) -> set[str]:
    """Return all that the client sent which could be, or have, a secret: long words."""
    words = {word for word in re.split(r"\s", sent.decode("latin-1")) if len(word) > 12}
    decoded = {base64.b64decode(word + "==").decode("latin-1") for word in words if _is_b64(word)}
    return {SECRET, USER, *words, *decoded} - KNOWN


def _is_b64(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+/]+=*", word) is not None


KNOWN = {"client.example", "SCRAM-SHA-256", "OAUTHBEARER", ""}


class Recording(Client):
    """A client that knows what it sent."""

    def send(self, data: bytes) -> None:
        self.said = getattr(self, "said", b"") + data
        super().send(data)


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize("kept", ["masked", "bodies"])
@pytest.mark.parametrize("login", LOGINS)
def test_no_secret_of_a_login_is_in_a_masked_transcript(
    serve: Serve, login: str, kept: str
) -> None:
    keeper = Checking()
    running = serve(keeper, transcripts=kept, auth_mechs=OPEN, max_auth_failures=0)
    with Recording(running.address) as client:
        client.hello()
        LOGINS[login](client)
        client.say("NOOP")
    shown = "\n".join(ended(running, keeper))
    for secret in secrets_of(client.said):
        assert secret not in shown, (secret, shown)
    assert "C: NOOP" in shown
    scenario = dialogue.record(keeper.ended[-1] or Transcript())
    written = dialogue.text_of([scenario])
    assert not [secret for secret in secrets_of(client.said) if secret in written]
    dialogue.replay(scenario)


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize("login", sorted(LOGINS.keys() - {"a long line"}))
def test_a_full_transcript_has_all_that_was_sent(serve: Serve, login: str) -> None:
    keeper = Checking()
    running = serve(keeper, transcripts="full", auth_mechs=OPEN, max_auth_failures=0)
    with Recording(running.address) as client:
        client.hello()
        LOGINS[login](client)
        client.say("NOOP")
    running.wait_until_no_sessions()
    sent = [line.upper().rstrip() for line in client.said.decode().split("\r\n")[:-1]]
    kept = keeper.ended[-1]
    assert kept is not None
    assert [line.text.upper() for line in kept if line.direction == "client"] == sent


# -- bounds ----------------------------------------------------------------------------------------


def test_transcripts_are_counted_while_their_session_lasts(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="masked", max_idle_commands=0)
    with running.client() as client:
        client.reply()
        client.send(b"NOOP\r\n" * 5_000)
        for _ in range(5_000):
            client.reply()
        (driver,) = running.drivers
        kept = driver.answers.session.transcript
        assert kept is not None
        assert len(kept) == 1_000
        assert kept.omitted > 8_000
        assert running.runtime.memory.held >= kept.size > 50_000
    running.wait_until_no_sessions()
    assert running.runtime.memory.held == 0
    assert keeper.ended == [kept]


def test_transcripts_never_take_the_room_of_mail(serve: Serve) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts="bodies", max_memory=2_000_000, max_idle_commands=0)
    most = running.runtime.memory.limit // 16
    clients = [running.ready() for _ in range(8)]
    for client in clients:
        client.send((b"NOOP " + b"x" * 400 + b"\r\n") * 400)
        for _ in range(400):
            client.reply()
    kept = [driver.answers.session.transcript for driver in running.drivers]
    assert sum(each.size for each in kept if each is not None) <= most
    assert any(each is not None and each.omitted for each in kept)
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    for client in clients:
        assert client.mail() == "250 2.0.0 Ok: queued"
        client.close()


@pytest.mark.parametrize("kept", ["masked", "bodies", "full"])
def test_lines_that_no_client_should_send_are_bounded_and_printable(
    serve: Serve, kept: str
) -> None:
    keeper = Keeper()
    running = serve(keeper, transcripts=kept, slow_errors=0, max_errors=0)
    with running.client() as client:
        client.reply()
        client.send(b"x" * 100_000 + b"\r\n" + bytes(range(128, 256)) + b"\x00\x1b[2J\r\n")
        client.send("NOOP \u202eright to left\u2028\r\n".encode() + b"HELO \xff\r\nNOOP\n")
        for _ in range(5):
            client.reply()
    running.wait_until_no_sessions()
    transcript = keeper.ended[-1]
    assert transcript is not None
    for line in transcript:
        assert line.text.isprintable()
        assert len(line.text) <= 8_100
    assert r"\x00" not in str(transcript)
    assert r"\0\x1b[2J" in str(transcript)
    assert r"HELO \xff" in str(transcript)


def test_a_wrong_value_of_the_option_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"transcripts.*masked"):
        Server(Keeper(), transcripts="on").listen_and_serve()  # type: ignore[arg-type]
