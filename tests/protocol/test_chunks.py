"""Whatever chunks come: the bytes announced are a body's, and what follows is commands.

Hypothesis makes the plans; what is said and taken is foretold by a model that knows no buffer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.protocol import buffer as buffer_module
from ehlo.protocol import events, extensions
from ehlo.protocol import reply as replies
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.verbs import QUESTIONS
from protocol.reference import Chunked, Plan
from protocol.test_properties import (
    CountedByteArray,
    CountedBytes,
    Looked,
    cuts,
    octets,
)
from support.counting import calls_of
from support.dialogue import CorePlayer, Received, Rules
from support.examples import each_with, examples

PATIENT = Limits(
    errors=10_000, slow_errors=10_000, refused_recipients=10_000, excess_chunks=2, chunks=10_000
)
BINARY = extensions.rows({"BINARYMIME": True}, (), lambda: datetime(2030, 1, 1, tzinfo=UTC))

# -- plans ---------------------------------------------------------------------------------------

contents = st.lists(
    st.sampled_from(
        [
            *(b"\r\n", b"\r", b"\n", b".", b"a", b"", b"\0", b"\xff", b"\r\n.\r\n"),
            *(b"QUIT\r\n", b"RSET\r\n", b"BDAT 3\r\n", b"BDAT 0 LAST\r\n", b"DATA\r\n"),
            *(b"MAIL FROM:<evil@x>\r\n", b"RCPT TO:<victim@x>\r\n"),
        ]
    ),
    max_size=6,
).map(b"".join)
forms = st.sampled_from(["BDAT {}", "bdat   {}", "BDAT 00{}"])
ends = st.sampled_from([" LAST", "  last"])

Step = Callable[[Chunked], None]


def step(name: str, *arguments: object, **options: object) -> Step:
    return lambda model: getattr(model, name)(*arguments, **options)


@st.composite
def chunk(draw: st.DrawFn, *, last: bool) -> Step:
    form = draw(forms) + (draw(ends) if last else "")
    return step("bdat", form, draw(contents), last=last)


others = st.one_of(
    st.just(step("noop")),
    st.just(step("noop")),
    st.just(step("rset")),
    st.just(step("hello")),
    st.just(step("mail", "stray@x", binary=False)),
    st.just(step("rcpt", "stray@x")),
    st.just(step("data", b"by DATA\r\n")),
    chunk(last=False),
    chunk(last=True),
)


@st.composite
def message(draw: st.DrawFn) -> list[Step]:
    """A transaction as it ought to be; something may be amiss with it."""
    anew = draw(st.sampled_from([[step("rset")], [step("hello")], []]))
    sender = step("mail", f"a{draw(st.integers(0, 9))}@x", binary=draw(st.booleans()))
    to = draw(
        st.sampled_from([["b@x"], ["b@x"], ["c@x", "b@x", "b@x"], ["bad@x", "c@x"], ["bad@x"], []])
    )
    middle = st.one_of(chunk(last=False), chunk(last=False), chunk(last=False), others)
    chunks = draw(st.lists(middle, max_size=4))
    end = draw(st.one_of(chunk(last=True), chunk(last=True), chunk(last=True), others))
    return [*anew, sender, *(step("rcpt", each) for each in to), *chunks, end, step("noop")]


@st.composite
def far_over(draw: st.DrawFn) -> list[Step]:
    """The last that is said: nothing behind it is read."""
    last = draw(st.booleans())
    form = draw(forms) + (draw(ends) if last else "")
    huge = step("announce", form, draw(st.sampled_from([10**9, 10**17])), last=last)
    envelope = [step("mail", "a@x", binary=False), step("rcpt", "b@x"), step("rcpt", "c@x")]
    before = draw(st.sampled_from([[step("rset"), *envelope], [step("rset")], []]))
    return [*before, huge, step("noop")]


NO = Reply(450, "4.7.1", "Not now")
plans = st.builds(
    Plan,
    lmtp=st.booleans(),
    policy=st.sampled_from(["normalize", "reject", "keep"]),
    max_size=st.sampled_from([0, 20, 40, 33_554_432]),
    no_data=st.sampled_from([None, None, None, None, NO]),
    no_message=st.sampled_from([None, None, None, None, Reply(554, "5.6.0", "Not this")]),
    deliveries=st.just({"c@x": Reply(452, "4.2.2", "Full")}),
)


@st.composite
def sessions(draw: st.DrawFn) -> Chunked:
    plan = draw(plans)
    steps = [*draw(st.lists(others, max_size=2)), step("hello")]
    for each in draw(st.lists(message(), min_size=1, max_size=4)):
        steps += each
    if plan.max_size:
        steps += draw(st.one_of(st.just([]), far_over()))
    model = Chunked(plan)
    for each_step in steps:
        each_step(model)
    return model


def played(plan: Plan, pieces: list[bytes], asks: frozenset[type]) -> CorePlayer:
    rules = Rules()
    rules.answers["rcpt", "bad@x"] = replies.MAILBOX_UNAVAILABLE
    for recipient, answer in plan.deliveries.items():
        rules.answers["deliver", recipient] = answer
    for hook, answer_to in (("data", plan.no_data), ("message", plan.no_message)):
        if answer_to is not None:
            rules.answers[hook, ""] = answer_to
    core = Settings(
        lmtp=plan.lmtp,
        max_size=plan.max_size,
        bare_newlines=BareNewlines(plan.policy),
        limits=PATIENT,
        extensions=BINARY if plan.policy == "keep" else extensions.EXTENSIONS,
    )
    player = CorePlayer(core, rules, asks)
    for piece in pieces:
        player.feed(piece)
    return player


def final_lines(output: bytes) -> list[str]:
    """The last line of each reply."""
    return [line for line in output.decode().split("\r\n") if line[3:4] == " "]


@pytest.mark.no_cover
@examples(400)
@given(st.data(), sessions())
def test_the_bytes_read_are_those_announced_and_what_follows_is_commands(
    data: st.DataObject, model: Chunked
) -> None:
    foretold = [str(reply) for reply in model.replies]
    messages = [Received(*each) for each in model.messages]
    behind = b"NOOP\r\n" * 3 if model.closed else b""
    some = frozenset({events.Rcpt, events.Data})
    for pieces, asks in (
        ([model.sent + behind], QUESTIONS),
        (octets(model.sent + behind), some),
        (
            data.draw(cuts(model.sent + behind)),
            data.draw(st.sampled_from([some, QUESTIONS])),
        ),
    ):
        player = played(model.plan, pieces, asks)
        greeting, *said = final_lines(player.output)
        assert greeting.startswith("220 ")
        assert said == foretold
        assert player.messages == messages
        assert player.closed == model.closed
        assert player.connection.buffered == 0


# -- work is linear in what came -----------------------------------------------------------------

ENVELOPE = b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
LIMITLESS = Settings(max_size=0, limits=PATIENT)
LIMITED = Settings(max_size=10, limits=Limits(excess_chunks=100_000, chunks=100_000))
SHAPES: dict[str, Callable[[int], bytes]] = {
    "one large chunk": lambda length: b"BDAT %d LAST\r\n" % length + b"x" * length,
    "a large chunk of CRs": lambda length: b"BDAT %d LAST\r\n" % length + b"\r" * length,
    "a large chunk of CR CR LF": lambda length: (
        b"BDAT %d LAST\r\n" % (length // 3 * 3) + b"\r\r\n" * (length // 3)
    ),
    "a large chunk of lines": lambda length: b"BDAT %d\r\n" % length + b"\r\n" * (length // 2),
    "chunks of one byte": lambda length: b"BDAT 1\r\nx" * (length // 9),
    "chunks of a CR": lambda length: b"BDAT 1\r\n\r" * (length // 9),
    "chunks of nothing": lambda length: b"BDAT 0\r\n" * (length // 8),
    "chunks that are not wanted": lambda length: b"RSET\r\n" + b"BDAT 1\r\nx" * (length // 9),
    "a large chunk that is not wanted": lambda length: (
        b"RSET\r\nBDAT %d\r\n" % length + b"x" * length
    ),
}


def fed(rules: Settings, shape: str, length: int, size: int) -> Callable[[], None]:
    said = ENVELOPE + SHAPES[shape](length)
    pieces = [said[at : at + size] for at in range(0, len(said), size)]

    def feed() -> None:
        player = CorePlayer(rules, Rules())
        for piece in pieces:
            player.feed(piece)

    return feed


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("shape", "rules", "size"),
    each_with(itertools.product(SHAPES, [LIMITLESS, LIMITED]), [1, 1460, 1_000_000]),
)
def test_calls_are_linear_in_what_chunks_came(shape: str, size: int, rules: Settings) -> None:
    lengths = (500, 2_000) if size == 1 else (2_500, 10_000)
    small, large = (calls_of(fed(rules, shape, length, size)) for length in lengths)
    assert large <= 4.5 * small + 500


@pytest.mark.no_cover
@pytest.mark.parametrize("size", [1, 7, 1460, 1_000_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_byte_of_a_chunk_is_looked_at_more_than_a_few_times(
    shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer_module, "bytes", CountedBytes, raising=False)
    monkeypatch.setattr(buffer_module, "bytearray", CountedByteArray, raising=False)
    monkeypatch.setattr(Looked, "count", 0)
    length = 5_000 if size < 10 else 100_000
    fed(LIMITLESS, shape, length, size)()
    assert Looked.count <= 8 * length
