"""A real Postfix relays to ehlo: each message arrives once, byte for byte."""

from __future__ import annotations

import hashlib
import random
import re
import smtplib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .post import DEFERRED_MARK, REFUSED, Office, Received
from .postfix import HOST, Postfix, postfix

Serve = Callable[..., Office]

COUNT = 200
SUBMITTED = 20  # of them, through the sendmail command; the others over SMTP
PATIENCE = 60.0

_NUMBER = re.compile(rb"^X-Number: (\d+)\r\n", re.MULTILINE)
# The field that Postfix adds, which is the only change that it may make
_RECEIVED = re.compile(rb"Received: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)+")


@dataclass(frozen=True)
class Letter:
    number: int
    sender: str
    recipients: list[str]
    mail: bytes

    @property
    def is_ascii(self) -> bool:
        return (self.sender + "".join(self.recipients)).isascii()


def letter(number: int, source: random.Random) -> Letter:
    """Return a message whose kind depends on its number."""
    sender, recipients = f"sender{number}@example.com", [f"anna{number}@example.org"]
    if number % 10 == 3:
        sender, recipients = f"jürgen{number}@example.com", [f"用户{number}@example.org"]
    if number % 15 == 4:
        recipients = [f"{who}{number}@example.org" for who in ("anna", "bert", "carla")]
    size = int(source.paretovariate(0.5) * 100) % 60_000
    if number % 50 == 7:
        size = (number // 50 + 1) * 900_000
    charset, body = text(number % 5, size, source)
    header = [
        f"From: Sender <sender{number}@example.com>",
        "To: Anna <anna@example.org>",
        f"Subject: Number {number}",
        "Date: Fri, 03 Jan 2025 10:11:12 +0100",
        f"Message-ID: <{number}@client.example.com>",
        f"X-Number: {number}",
        "MIME-Version: 1.0",
        f"Content-Type: text/plain; charset={charset}",
        "Content-Transfer-Encoding: 8bit",
        *("", ""),
    ]
    return Letter(number, sender, recipients, "\r\n".join(header).encode() + body)


def text(kind: int, size: int, source: random.Random) -> tuple[str, bytes]:
    """Return a charset and about `size` bytes of text in it."""
    charset, words = [
        ("us-ascii", ["lorem", "ipsum", "dolor", "sit", "amet,", "From", "QUIT"]),
        ("utf-8", ["Grüße", "γειά", "привет", "こんにちは", "👋🏽", "naïve"]),
        ("iso-8859-1", ["Été", "où", "ça", "Besançon", "ÿ", "Ã©"]),
        ("us-ascii", [".", "..", ".dots", "...more"]),
        ("us-ascii", ["x" * 300, "y" * 900, "." * 70]),
    ][kind]
    lines: list[str] = []
    length = 0
    while length < size:
        count = source.choice([0, 1, 1, 2, 8, 12])
        lines.append(" ".join(source.choice(words) for _ in range(count)))
        length += len(lines[-1]) + 2
    return charset, ("\r\n".join(lines) + "\r\n").encode(charset)


def number_of(message: Received) -> int:
    """Return the number of a message; 0 for another one."""
    found = _NUMBER.search(message.body)
    return int(found[1]) if found is not None else 0


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def without_received(body: bytes) -> bytes:
    """Return the message without the field that Postfix added."""
    field = _RECEIVED.match(body)
    assert field is not None, body[:200]
    assert b"(Postfix" in field[0]
    return body[field.end() :]


def relay(sender: Postfix, letters: list[Letter]) -> None:
    """Submit messages to Postfix over one SMTP connection."""
    with smtplib.SMTP(HOST, sender.port, timeout=60) as smtp:
        for each in letters:
            options = ["BODY=8BITMIME", *([] if each.is_ascii else ["SMTPUTF8"])]
            smtp.sendmail(each.sender, each.recipients, each.mail, options)


def test_postfix_relays_200_messages_none_lost_none_twice(serve: Serve) -> None:
    source = random.Random(5321)  # noqa: S311  the same lot in each run
    letters = [letter(number, source) for number in range(1, COUNT + 1)]
    office = serve("starttls", tls_required=True)
    with postfix(office) as sender:
        relay(sender, letters[SUBMITTED:])
        for each in letters[:SUBMITTED]:
            sender.submit(each.sender, each.recipients, each.mail)
        assert office.post.wait_for(COUNT, PATIENCE), sender.log()
        log = sender.log()
    # Postfix has ended: nothing more can come
    by_number = {number_of(message): message for message in office.received}
    counts = Counter(map(number_of, office.received))
    assert sorted(counts) == list(range(1, COUNT + 1)), log
    assert set(counts.values()) == {1}, counts.most_common(3)
    assert office.transcript.count("S: 250 2.0.0 Ok: queued as ") == COUNT
    assert "status=deferred" not in log
    assert "status=bounced" not in log
    for each in letters:
        message = by_number[each.number]
        assert message.sender == each.sender
        assert sorted(message.recipients) == sorted(each.recipients)
        assert digest(without_received(message.body)) == digest(each.mail), each.number
        assert message.tls.startswith("TLS"), "Postfix was told to verify"
        if not each.is_ascii:
            assert "SMTPUTF8" in message.params
        if not each.mail.isascii():
            assert message.params["BODY"] == "8BITMIME"
    assert "S: 250-PIPELINING" in office.transcript
    sizes = sorted(len(each.mail) for each in letters)
    assert sizes[0] < 1_000
    assert sizes[-1] > 3_000_000


def test_a_deferred_message_is_sent_again_and_arrives_once(serve: Serve) -> None:
    office = serve("starttls")
    letters = [letter(number, random.Random(number)) for number in (1, 2)]  # noqa: S311  as above
    late = letters[0].mail.replace(b"MIME-Version", DEFERRED_MARK + b"\r\nMIME-Version", 1)
    letters[0] = Letter(1, letters[0].sender, letters[0].recipients, late)
    with postfix(office) as sender:
        relay(sender, letters)
        assert office.post.wait_for(2, PATIENCE), sender.log()
        log = sender.wait_for_log(r"451 4\.3\.0 Later, please")
    assert [number_of(message) for message in office.received] == [2, 1], log
    assert without_received(office.received[1].body) == late


def test_a_rejected_recipient_causes_a_bounce_with_the_null_sender(serve: Serve) -> None:
    office = serve("starttls")
    first = letter(1, random.Random(1))  # noqa: S311  as above
    with postfix(office) as sender:
        relay(sender, [Letter(1, "sender@example.com", [REFUSED], first.mail)])
        assert office.post.wait_for(1, PATIENCE), sender.log()
    (bounce,) = office.received
    assert bounce.sender == ""
    assert bounce.recipients == ["sender@example.com"]
    assert bounce.email.get_content_type() == "multipart/report"
    assert b"550 5.1.1 No such user here" in bounce.body
