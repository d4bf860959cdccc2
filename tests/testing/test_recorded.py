"""A session that was recorded plays again without a difference."""

from __future__ import annotations

import asyncio
import random
import re
import ssl

import pytest

from ehlo.protocol import Reply, Responder, Settings
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.testing import dialogue
from ehlo.testing.dialogue import DialogueError, Scenario
from ehlo.testing.dialogue.core import CoreLine, for_core
from ehlo.testing.dialogue.playing import Player
from ehlo.transcript import Direction, Line, Transcript, escaped
from robustness.scale import IN_FULL
from support.dialogue import DIRECTORY

ALL = [
    scenario
    for path in sorted(DIRECTORY.glob("*.smtp"))
    for scenario in dialogue.load(path)
    if "only server" not in scenario.given
    and scenario.title != "A shutdown lets a transaction end"  # which begins while it lasts
]
KINDS = {"masked": (False, False), "bodies": (False, True), "full": (True, True)}
# In `make test` each of ours is recorded in one of the forms, in turn
TURNS = [
    (scenario, [*KINDS] if IN_FULL else [[*KINDS][number % len(KINDS)]])
    for number, scenario in enumerate(ALL)
]


def played(scenario: Scenario, kind: str) -> Transcript:
    """Play a dialogue on the core; return the transcript of it."""
    transcript = Transcript(*KINDS[kind])
    line = CoreLine(scenario, transcript)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asyncio.run(Player(for_core(scenario), line, context).play())
    return transcript


@pytest.mark.parametrize("scenario", ALL, ids=str)
def test_each_dialogue_of_ours_plays_on_the_core(scenario: Scenario) -> None:
    dialogue.replay(scenario)


@pytest.mark.parametrize(("scenario", "kinds"), TURNS, ids=lambda each: str(each))
def test_what_is_recorded_plays_again_without_a_difference(
    scenario: Scenario, kinds: list[str]
) -> None:
    given = [setting for setting in scenario.given if not setting.startswith("user ")]
    for kind in kinds:
        transcript = played(scenario, kind)
        written = dialogue.text_of([dialogue.record(transcript, "Recorded", given)])
        [recorded] = dialogue.parse(written)
        dialogue.replay(recorded)


def test_a_replay_loads_no_authorities_for_a_handshake_that_is_pretended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They took most of the time of a replay."""
    monkeypatch.delattr(ssl.SSLContext, "load_default_certs")
    dialogue.replay(next(each for each in ALL if any(step.kind == "tls" for step in each.steps)))


def test_a_difference_of_the_core_is_shown() -> None:
    [scenario] = dialogue.parse("S: 220 mx.example...\nC: MAIL FROM:<a@b.example>\nS: 250 2.1.0 Ok")
    with pytest.raises(DialogueError) as raised:
        dialogue.replay(scenario)
    assert str(raised.value).splitlines()[-2:] == [
        "- S: 250 2.1.0 Ok",
        "+ S: 503 5.5.1 Bad sequence of commands: say EHLO first",
    ]


def test_a_setting_without_a_meaning_is_an_error() -> None:
    [scenario] = dialogue.parse("= max_size many\nS: 220 mx.example...")
    with pytest.raises(ValueError, match="many"):
        dialogue.replay(scenario)


def lines(*texts: str) -> list[Line]:
    """Return lines: `C: text`, `S: text`, `*: text`."""
    directions: dict[str, Direction] = {"C": "client", "S": "server", "*": "note"}
    return [Line(float(number), directions[text[0]], text[3:]) for number, text in enumerate(texts)]


def recorded(*texts: str) -> list[str]:
    """Return the lines of the dialogue, without their times."""
    written = dialogue.text_of([dialogue.record(lines(*texts), "x")])
    return [re.sub(r"@[\d.]+", "", line) for line in written.splitlines()[1:]]


def test_times_count_from_the_beginning() -> None:
    written = dialogue.text_of([dialogue.record(lines("S: 220 mx", "C: NOOP", "S: 250 Ok"), "x")])
    assert written.splitlines() == ["== x", "S@0.000: 220 mx", "C@1.000: NOOP", "S@2.000: 250 Ok"]


def test_what_is_left_out_has_a_stand_in_of_its_size() -> None:
    dialogue_lines = recorded(
        *("C: DATA", "S: 354 Go", "*: 1234 bytes of a message", "S: 250 2.0.0 Ok: queued as abc")
    )
    assert dialogue_lines[-2:] == [
        "C<: {17 * " + "x" * 70 + r"\r\n}xxxxxxxx\r\n.\r\n",
        "S: 250 2.0.0 Ok: queued as ...",
    ]
    [scenario] = dialogue.parse("\n".join(dialogue_lines))
    assert len(scenario.steps[-2].data()) == 1234 + len(".\r\n")


@pytest.mark.parametrize("size", [*range(2, 80), 299, 0, 71_999, 72_000, 72_001])
def test_a_stand_in_has_the_size_of_the_message(size: int) -> None:
    scenario = dialogue.record(lines("S: 354 Go", f"*: {size} bytes of a message"))
    data = scenario.steps[-1].data()
    assert data.endswith(b".\r\n")
    assert len(data) - 3 == size
    assert data == b".\r\n" or data.endswith(b"\r\n.\r\n")


def test_a_line_that_was_cut_has_its_length() -> None:
    transcript = Transcript()
    transcript.add("client", escaped(b"NOOP " + b"y" * 5_000))
    step = dialogue.record(transcript).steps[0]
    assert len(step.data()) == 5_007
    assert "{3005 * x}" in step.text


def test_what_no_terminal_should_see_is_written_as_escapes() -> None:
    transcript = Transcript()
    for sent in (b"\x00\xff\x1b[2J", "Grüße \u202e".encode(), b"{b64 x}", b"DOMAIN\\user", b"x "):
        transcript.add("client", escaped(sent))
    written = dialogue.text_of([dialogue.record(transcript)])
    assert all(line.isprintable() for line in written.splitlines())
    [scenario] = dialogue.parse(written)
    assert [step.data().removesuffix(b"\r\n") for step in scenario.steps] == [
        *(b"\x00\xff\x1b[2J", "Grüße \u202e".encode(), b"{b64 x}", b"DOMAIN\\user", b"x ")
    ]


def test_a_long_session_is_recorded_up_to_the_lines_that_are_not_kept() -> None:
    transcript = Transcript(most_lines=20)
    transcript.add("server", "220 mx.example smtpd ESMTP Service ready")
    for _ in range(1_000):
        transcript.add("client", "NOOP")
        transcript.add("server", "250 2.0.0 Ok")
    scenario = dialogue.record(transcript, given=["max_idle_commands 0"])
    assert scenario.steps[-1].kind == "server"
    assert len(scenario.steps) == 9
    dialogue.replay(scenario)


@pytest.mark.parametrize(
    ("note", "mark"),
    [
        ("TLSv1.3 TLS_AES_256_GCM_SHA384", ["T:"]),
        ("client closed its sending side", ["E:"]),
        ("client disconnected", ["E:"]),
        ("connection closed", ["X:"]),
        ("TLS failed: WRONG_VERSION_NUMBER", []),
    ],
)
def test_events_have_their_marks(note: str, mark: list[str]) -> None:
    assert recorded("S: 220 mx", f"*: {note}") == ["S: 220 mx", *mark]


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("C: MAIL FROM:<ada@corp.com> SIZE=5", "C: MAIL FROM:<user1@domain1.example> SIZE=5"),
        ('C: RCPT TO:<"ada b"@corp.com>', "C: RCPT TO:<user1@domain1.example>"),
        ("C: RCPT TO:<list-ada=corp.com@x.org>", "C: RCPT TO:<user1@domain1.example>"),
        ("C: MAIL FROM:<> AUTH=ada@corp.com", "C: MAIL FROM:<> AUTH=user1@domain1.example"),
        (
            "C: RCPT TO:<b@c.org> ORCPT=rfc822;ada@corp.com",
            "C: RCPT TO:<user1@domain1.example> ORCPT=rfc822;user2@domain2.example",
        ),
        ("C: EHLO laptop.corp.com", "C: EHLO client1.example"),
        ("C: EHLO [203.0.113.7]", "C: EHLO [192.0.2.1]"),
        ("C: EHLO [IPv6:2a00::1]", "C: EHLO [IPv6:2001:db8::1]"),
        ("C: VRFY ada", "C: VRFY user1"),
        (
            "C: XCLIENT NAME=laptop.corp.com ADDR=203.0.113.7 LOGIN=ada",
            "C: XCLIENT NAME=client1.example ADDR=192.0.2.1 LOGIN=client2.example",
        ),
        ("S: 550 5.1.1 ada@corp.com unknown", "S: 550 5.1.1 user1@domain1.example unknown"),
        ("C: From: Ada <ADA@corp.com>", "C: From: Ada <user1@domain1.example>"),
        ("S: 250 2.1.0 Ok", "S: 250 2.1.0 Ok"),
        ("C: MAIL FROM:<>", "C: MAIL FROM:<>"),
        ("C: RCPT TO:<postmaster>", "C: RCPT TO:<postmaster>"),
    ],
)
def test_addresses_are_replaced(line: str, other: str) -> None:
    assert dialogue.anonymous(lines(line)) == lines(other)


def test_an_address_has_the_same_stand_in_wherever_it_is() -> None:
    found = dialogue.anonymous(
        lines(
            "C: EHLO laptop.corp.com",
            "S: 250 mx.example greets laptop.corp.com",
            "C: MAIL FROM:<ada@corp.com>",
            "C: RCPT TO:<bob@corp.com>",
            "C: RCPT TO:<ADA@Corp.com>",
        )
    )
    assert [line.text for line in found] == [
        "EHLO client1.example",
        "250 mx.example greets client1.example",
        "MAIL FROM:<user1@domain1.example>",
        "RCPT TO:<user2@domain1.example>",
        "RCPT TO:<user1@domain1.example>",
    ]


# -- sessions that no client means ---------------------------------------------------------------

PIECES = [
    *(b"EHLO c\r\n", b"HELO c\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n"),
    *(b"DATA\r\n", b"Subject: x\r\n\r\n..dot\r\nbody\r\n.\r\n", b"bare\nlf\rcr\r\n.\r\n"),
    *(b"BDAT 5\r\nhello", b"BDAT 0 LAST\r\n", b"BDAT 7 LAST\r\n.\r\nx\n.\r", b"BDAT 99\r\n"),
    *(b"BDAT x\r\n", b"RSET\r\n", b"noop\n", b"NOOP {b64 x} {3 * y}\r\n", b"HELP\r\n"),
    *(b"X\\y\\x41\r\n", b"\xff\xfe\r\n", b"\x00\x01\r\n", b"AUTH PLAIN AHUAZ29vZA==\r\n"),
    *(
        b"AUTH LOGIN\r\n",
        b"dQ==\r\n",
        b"*\r\n",
        b"AUTH\r\n",
        b"AUTH NOPE x\r\n",
        b"AUTH PLAIN !!\r\n",
    ),
    *(
        b"x" * 3_000 + b"\r\n",
        b"AUTH PLAIN " + b"A" * 13_000 + b"\r\n",
        b"== title\r\n",
        b"# c\r\n",
    ),
    *(b"S: 250\r\n", b"  \r\n", b"GET / HTTP/1.1\r\n", b"... (5 more)\r\n", b"QUIT\r\n"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(30))
def test_a_session_of_anything_plays_again(seed: int, kind: str) -> None:
    chance = random.Random(seed)  # noqa: S311  they keep no secret
    known = {name: MECHANISMS[name] for name in ("PLAIN", "LOGIN")}
    settings = Settings(mechanisms=known, open_mechanisms=frozenset(known), hostname="mx.example")
    transcript = Transcript(*KINDS[kind])
    responder = Responder(
        lambda _event: chance.choice([None, None, None, Reply(452, "4.2.2", "Later")]),
        settings,
        transcript=transcript,
        nonce=lambda: "nonce",
    )
    responder.feed(b"")
    responder.feed(b"EHLO c\r\n")
    for _ in range(chance.randrange(30)):
        responder.feed(b"".join(chance.choices(PIECES, k=chance.randrange(1, 4))))
    responder.feed_eof()
    written = dialogue.text_of([dialogue.record(transcript, str(seed))])
    assert all(line.isprintable() for line in written.splitlines())
    [scenario] = dialogue.parse(written)
    dialogue.replay(scenario)
