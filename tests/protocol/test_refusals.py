"""No client gets rejections without end: all are counted when they are sent."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.protocol import reply as replies
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from support.dialogue import CorePlayer, Rules, Scenario, Step, resolve, scenarios

REFUSALS = {
    name: reply
    for name, reply in vars(replies).items()
    if isinstance(reply, Reply) and reply.refuses and not reply.closes
}
# The core is given these as answers, as a hook's are, to what is asked by this name
OF_THE_SERVER = {
    "TOO_MUCH_MAIL": "mail",
    "TOO_MUCH_RCPT": "rcpt",
    "MAIL_LOOP": "message",
    # The `False` of hooks
    "CLIENT_REFUSED": "mail",
    "TLS_REFUSED": "mail",
    "REFUSED": "mail",
    "MESSAGE_REFUSED": "message",
}
# Said once, and then there is another answer: there are no more of these
ONCE = {"BAD_CHUNK"}


# -- each refusal that a dialogue shows ----------------------------------------------------------


class Moment(NamedTuple):
    """A refusal in a dialogue: what the client had said before, and what brought it."""

    scenario: Scenario
    before: tuple[Step, ...]
    brought: tuple[Step, ...]


def units_of(steps: list[Step], at: int) -> Iterator[int]:
    """Where what brought the reply at `at` may begin: after the last reply, at MAIL or AUTH."""
    begin = at
    while begin and steps[begin - 1].kind == "server":
        begin -= 1
    while begin and steps[begin - 1].kind == "client":
        begin -= 1
    yield begin
    for index in range(begin, -1, -1):
        if steps[index].text[:4].upper() in ("MAIL", "AUTH"):
            yield index
            return


@functools.cache
def moments() -> dict[str, list[Moment]]:
    """Those of each line of a reply."""
    found: dict[str, list[Moment]] = {}
    for scenario in scenarios():
        if scenario.rules.values.get("only") == "server":
            continue
        steps = scenario.steps
        for at, step in enumerate(steps):
            if step.kind == "server" and step.text[:1] in "45":
                for begin in set(units_of(steps, at)):
                    brought = tuple(each for each in steps[begin:at] if each.kind == "client")
                    found.setdefault(step.text, []).append(
                        Moment(scenario, tuple(steps[:begin]), brought)
                    )
    return found


def say(player: CorePlayer, steps: tuple[Step, ...]) -> None:
    for step in steps:
        match step.kind:
            case "client":
                player.feed(resolve(step, CorePlayer.CHALLENGE))
            case "tls":
                player.handshake()
            case "eof":
                player.eof()
            case "event":
                player.event(step.text)
            case _:
                pass


def is_ended_by_repeating(moment: Moment, wire: bytes) -> bool:
    """Say it again for as long as the answer is this one: whether that was the end."""
    player = CorePlayer.of(moment.scenario)
    say(player, moment.before)
    messages = len(player.messages)
    for _ in range(moment.scenario.settings.refusal_limit + 1):
        player.output = b""
        say(player, moment.brought)
        if player.closed:
            return player.output.startswith(b"421 ") or b"\r\n421 " in player.output
        if wire not in player.output or len(player.messages) > messages:
            return False
    raise AssertionError(f"{wire!r} without end in {moment.scenario}")


@pytest.mark.no_cover
@pytest.mark.parametrize("name", sorted(REFUSALS.keys() - OF_THE_SERVER.keys()))
def test_what_is_refused_again_and_again_ends_the_session(name: str) -> None:
    wire = REFUSALS[name].wire
    shown = moments()[wire.decode().removesuffix("\r\n")]
    ended = [is_ended_by_repeating(moment, wire) for moment in shown]
    assert any(ended) == (name not in ONCE)


# -- each question that a hook may refuse ----------------------------------------------------------

MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
LAST = replies.TOO_MANY_IDLE.wire
MESSAGE = MAIL + RCPT + b"DATA\r\n.\r\n"

# The hook, what is said before, and what is said again and again
ASKED = [
    ("hello", b"", b"EHLO c\r\n"),
    ("mail", b"", MAIL),
    ("rcpt", MAIL, RCPT),
    ("data", MAIL + RCPT, b"DATA\r\n"),
    ("data", MAIL + RCPT, b"BDAT 1\r\nx"),
    ("data", b"", MAIL + RCPT + b"BDAT 1 LAST\r\nx"),
    ("message", b"", MESSAGE),
    ("message", b"", MAIL + RCPT + b"BDAT 1 LAST\r\nx"),
    ("starttls", b"", b"STARTTLS\r\n"),
    ("auth", b"", b"AUTH PLAIN AGEAYg==\r\n"),
    ("auth", b"", b"AUTH PLAIN AGEAYg==\r\n*\r\n"),
    ("vrfy", b"", b"VRFY x\r\n"),
    ("reset", b"", b"RSET\r\n"),
    ("command", b"", b"XFOO\r\n"),
]


def played(settings: Settings, rules: Rules, said: bytes, again: bytes, times: int) -> CorePlayer:
    player = CorePlayer(settings, rules)
    player.feed((b"LHLO c\r\n" if settings.lmtp else b"EHLO c\r\n") + said)
    for _ in range(times):
        player.feed(again)
    return player


def refusals_in(output: bytes) -> int:
    return sum(line[:1] in (b"4", b"5") for line in output.split(b"\r\n"))


def settings_of(*, lmtp: bool = False) -> Settings:
    """All that can be refused is there, and messages are not limited."""
    own = Extension("XFOO", 0, verbs=("XFOO",))
    return Settings(
        lmtp=lmtp,
        max_messages=0,
        tls_available=True,
        mechanisms={"PLAIN": MECHANISMS["PLAIN"]},
        open_mechanisms=frozenset({"PLAIN"}),
        extensions=(*EXTENSIONS, own),
    )


@pytest.mark.parametrize("name", OF_THE_SERVER)
def test_what_the_server_itself_refuses_is_refused_within_a_limit(name: str) -> None:
    asked, answer = OF_THE_SERVER[name], REFUSALS[name]
    _, before, again = next(row for row in ASKED if row[0] == asked)
    player = played(settings_of(), Rules(answers={(asked, ""): answer}), before, again, 1000)
    assert player.closed
    assert player.output.count(answer.wire) == 300
    assert player.output.endswith(LAST)


@pytest.mark.parametrize("answer", [Reply(450, "4.2.0", "Later"), Reply(550, "5.7.1", "Never")])
@pytest.mark.parametrize(("hook", "before", "again"), ASKED)
@pytest.mark.parametrize("lmtp", [False, True])
def test_what_a_hook_refuses_is_refused_within_a_limit(
    hook: str, before: bytes, again: bytes, answer: Reply, lmtp: bool
) -> None:
    again = again.replace(b"EHLO", b"LHLO") if lmtp else again
    settings = settings_of(lmtp=lmtp)
    player = played(settings, Rules(answers={(hook, ""): answer}), before, again, 1000)
    assert player.closed
    assert player.output.splitlines()[-1].startswith(b"421 4.7.0 ")
    assert refusals_in(player.output) <= settings.refusal_limit + 1


# -- what the limit is ---------------------------------------------------------------------------


def test_each_recipient_of_a_list_may_be_told_to_come_again() -> None:
    rules = Rules(answers={("rcpt", ""): Reply(450, "4.7.1", "Greylisted")})
    player = played(Settings(), rules, MAIL, RCPT, 200)
    player.feed(b"DATA\r\nRSET\r\nQUIT\r\n")
    assert player.output.splitlines()[-3:] == [
        b"554 5.5.1 No valid recipients",
        replies.OK.wire.rstrip(),
        Settings().closing.wire.rstrip(),
    ]


def test_a_message_that_is_accepted_begins_the_count_again() -> None:
    rules = Rules(answers={("rcpt", "no@example.com"): Reply(450, "4.7.1", "Greylisted")})
    no = b"RCPT TO:<no@example.com>\r\n"
    player = played(Settings(), rules, b"", MAIL + no * 200 + RCPT + b"DATA\r\n.\r\n", 10)
    assert not player.closed
    player = played(Settings(), rules, b"", MAIL + no * 200 + RCPT + b"RSET\r\n", 10)
    assert player.closed
    assert refusals_in(player.output) == 301


def test_a_message_that_is_accepted_for_some_begins_it_again_in_lmtp() -> None:
    later = Reply(450, "4.2.0", "Later")
    rules = Rules(
        answers={("deliver", "b@example.com"): later, ("rcpt", "no@example.com"): replies.TROUBLE}
    )
    others = b"RCPT TO:<no@example.com>\r\nRCPT TO:<c@example.com>\r\n"
    said = MAIL + RCPT + others + b"DATA\r\n.\r\n"
    player = played(settings_of(lmtp=True), rules, b"", said, 400)
    assert not player.closed
    assert player.output.count(b"450 4.2.0 Later\r\n") == 400


def test_the_last_refusal_of_a_message_is_said_for_each_recipient_in_lmtp() -> None:
    rules = Rules(answers={("deliver", "b@example.com"): Reply(450, "4.2.0", "Later")})
    player = played(settings_of(lmtp=True), rules, b"", MAIL + RCPT * 2 + b"DATA\r\n.\r\n", 400)
    assert player.closed
    assert player.output.endswith(b"\r\n354 " + replies.START_DATA.wire[4:] + LAST * 2)
    assert player.output.count(b"450 4.2.0 Later\r\n") == 600


def test_without_a_limit_on_idle_commands_there_is_none_on_refusals() -> None:
    rules = Rules(answers={("rcpt", ""): Reply(450, "4.7.1", "Greylisted")})
    player = played(Settings(limits=Limits(idle_commands=0)), rules, MAIL, RCPT, 2000)
    assert not player.closed


# -- whatever is said ----------------------------------------------------------------------------

LINES = [
    *(MAIL, RCPT, b"DATA\r\n", b".\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", b"XFOO\r\n"),
    *(b"BDAT 1\r\nx", b"BDAT 1 LAST\r\nx", b"AUTH PLAIN AGEAYg==\r\n", b"*\r\n", b"EHLO c\r\n"),
    *(b"MAIL FROM:<\xc3\xbc@b.c>\r\n", b"RCPT TO:<\xc3\xbc@b.c>\r\n", b"XCLIENT A=b\r\n"),
    *(b"MAIL FROM:<a@b.c> SIZE=99999999\r\n", b"MAIL FROM:<a@b.c> XVERP\r\n", b"BOGUS\r\n"),
]
HOOKS = sorted({hook for hook, _, _ in ASKED} - {"starttls"})


@pytest.mark.no_cover
@given(
    said=st.lists(st.sampled_from(LINES), min_size=1, max_size=8),
    refusing=st.dictionaries(st.sampled_from(HOOKS), st.sampled_from([450, 550])),
    gated=st.booleans(),
)
def test_no_more_is_refused_than_the_limit_whatever_is_said(
    said: list[bytes], refusing: dict[str, int], gated: bool
) -> None:
    settings = Settings(
        max_recipients=3,
        auth_required=gated,
        mechanisms={"PLAIN": MECHANISMS["PLAIN"]},
        open_mechanisms=frozenset({"PLAIN"}),
        limits=Limits(idle_commands=3, excess_recipients=3),
    )
    rules = Rules(answers={(hook, ""): Reply(code, None, "No") for hook, code in refusing.items()})
    player = played(settings, rules, b"", b"".join(said), 40)
    for until_taken in player.output.split(replies.QUEUED.wire):
        assert refusals_in(until_taken) <= settings.refusal_limit + 1
