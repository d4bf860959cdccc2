"""Each dialogue on the core: step by step, at once, in packets, byte by byte, cut around the dots.

However its bytes come, a client gets the same replies, and the handler the same messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from ehlo.protocol import reply as replies
from ehlo.transcript import Line, Transcript
from support.dialogue import CorePlayer, Scenario, Step, matches, resolve, scenarios
from support.examples import quick, turns
from support.ways import packets

Slicer = Callable[[bytes], Iterable[bytes]]

ALL = [scenario for scenario in scenarios() if scenario.rules.values.get("only") != "server"]
SLICEABLE = [scenario for scenario in ALL if not scenario.as_written]
WAYS = quick(1, most=2)
"""How many ways to cut a dialogue each one is played in, in turn."""
ENDED_BY_CLIENT = [
    scenario
    for scenario in SLICEABLE
    if not any(step.kind in ("event", "eof") for step in scenario.steps)
]
TAILS = [
    *[(b"NOO",), (b"NOOP\r\n",), (b"QUIT\r\n",), (b"\x00\xff\r\n\n\r",)],
    *[(b"DATA\r\n.\r\nQUIT\r\n",), (b".\r\n",)],
]


def sent(step: Step) -> bytes:
    return resolve(step, CorePlayer.CHALLENGE)


def act(player: CorePlayer, step: Step) -> None:
    match step.kind:
        case "tls":
            player.handshake()
        case "event":
            player.event(step.text)
        case "eof":
            player.eof()
        case _:
            pass


def expected(steps: list[Step]) -> list[str]:
    return [step.text for step in steps if step.kind == "server"]


def lines(output: bytes) -> list[str]:
    assert not output or output.endswith(b"\r\n")
    return output.decode().split("\r\n")[:-1]


def assert_said(output: bytes, awaited: list[str]) -> None:
    said = lines(output)
    assert len(said) == len(awaited), (said, awaited)
    for line, wanted in zip(said, awaited, strict=True):
        assert matches(wanted, line), (line, wanted)


def assert_as_written(scenario: Scenario, player: CorePlayer) -> None:
    assert_said(player.output, expected(scenario.steps))
    assert player.messages == scenario.messages
    assert player.closed == any(step.kind == "closed" for step in scenario.steps)


def play(
    scenario: Scenario,
    slicer: Slicer,
    *,
    ask_all: bool = True,
    usual: bool = True,
    transcript: Transcript | None = None,
) -> CorePlayer:
    """Each phase is sent as one piece, cut up by `slicer`."""
    player = CorePlayer.of(scenario, ask_all=ask_all, usual=usual, transcript=transcript)
    for phase in scenario.phases():
        for step in phase:
            if step.kind in ("tls", "event"):
                act(player, step)
        data = b"".join(sent(step) for step in phase if step.kind == "client")
        for piece in slicer(data):
            player.feed(piece)
        for step in phase:
            if step.kind == "eof":
                act(player, step)
    return player


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def octets(data: bytes) -> Iterator[bytes]:
    """One by one; a very large dialogue in small pieces of a size that fits to nothing."""
    size = 1 if len(data) < 100_000 else 997
    for start in range(0, len(data), size):
        yield data[start : start + size]


def cut_at(position: int) -> Slicer:
    def slicer(data: bytes) -> Iterator[bytes]:
        yield data[:position]
        yield data[position:]

    return slicer


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scenario", ALL, ids=str)
def test_core_answers_each_step_as_written(scenario: Scenario) -> None:
    player = CorePlayer.of(scenario)
    awaited: list[str] = []
    previous = ""
    for step in scenario.steps:
        if step.kind == "server":
            awaited.append(step.text)
        elif previous != step.kind:  # the client goes on when it has all that it waited for
            assert_said(player.output, awaited)
        if step.kind == "client":
            player.feed(sent(step))
        elif step.kind == "closed":
            assert player.closed
        else:
            act(player, step)
        previous = step.kind
    assert_as_written(scenario, player)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("scenario", "slicer", "ask_all"),
    turns(SLICEABLE, [(whole, True), (octets, False), (whole, False), (octets, True)], WAYS),
    ids=str,
)
def test_core_answers_the_same_however_it_is_cut(
    scenario: Scenario,
    slicer: Slicer,
    ask_all: bool,
) -> None:
    assert_as_written(scenario, play(scenario, slicer, ask_all=ask_all))


@pytest.mark.no_cover
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("scenario", "way", "ask_all"),
    turns(
        SLICEABLE,
        [("usual", True), ("general", False), ("usual", False), ("general", True)],
        WAYS,
    ),
    ids=str,
    indirect=["way"],
)
def test_core_answers_the_same_in_packets(scenario: Scenario, ask_all: bool) -> None:
    assert_as_written(scenario, play(scenario, packets, ask_all=ask_all))


@pytest.mark.no_cover
@pytest.mark.parametrize("scenario", SLICEABLE, ids=str)
def test_a_transcript_is_the_same_both_ways(scenario: Scenario) -> None:
    def kept(*, usual: bool) -> list[Line]:
        transcript = Transcript(bodies=True, clock=lambda: 0.0)
        play(scenario, packets, usual=usual, transcript=transcript)
        return [*transcript]

    assert kept(usual=True) == kept(usual=False)


@pytest.mark.no_cover
@pytest.mark.parametrize("scenario", SLICEABLE, ids=str)
def test_core_answers_the_same_cut_around_each_end_of_data(scenario: Scenario) -> None:
    for phase in scenario.phases():
        data = b"".join(sent(step) for step in phase if step.kind == "client")
        if len(data) > 100_000:
            continue
        ends = [found.start() for found in re.finditer(rb"[\r\n]\.", data)]
        positions = {at for end in ends for at in range(max(0, end - 4), end + 8)}
        for position in sorted(positions):
            assert_as_written(scenario, play(scenario, cut_at(position)))


@pytest.mark.no_cover
@pytest.mark.parametrize(("scenario", "tail"), turns(ENDED_BY_CLIENT, TAILS, WAYS), ids=str)
def test_core_answers_the_same_before_a_tail(scenario: Scenario, tail: bytes) -> None:
    plain = play(scenario, whole)
    *_, last = scenario.phases()
    length = sum(len(sent(step)) for step in last if step.kind == "client")

    def with_tail(data: bytes) -> Iterator[bytes]:
        yield data + tail if len(data) == length else data

    tailed = play(scenario, with_tail)
    assert tailed.output.startswith(plain.output)
    # A body that the dialogue leaves open may be ended by the tail: one more, and no other
    assert tailed.messages[: len(plain.messages)] == plain.messages


# What no session of one client shows, or a hook's `False`: with tests in tests/server
ABOVE_THE_CORE = {
    *("NO_MEMORY_AHEAD", "TOO_MANY_CONNECTIONS", "TOO_MUCH_MAIL", "TOO_MUCH_RCPT"),
    *("CLIENT_REFUSED", "TLS_REFUSED", "REFUSED", "MESSAGE_REFUSED"),
}


def test_every_reply_of_the_catalogue_is_in_a_dialogue() -> None:
    said = {step.text for scenario in scenarios() for step in scenario.steps}
    unsaid = {
        name
        for name, reply in vars(replies).items()
        if isinstance(reply, replies.Reply) and lines(reply.wire)[0] not in said
    }
    assert unsaid == ABOVE_THE_CORE
