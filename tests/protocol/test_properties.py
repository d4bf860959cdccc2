"""What holds for any input at all: found by trying, the same way in each run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ehlo.protocol import body, events, extensions
from ehlo.protocol import buffer as buffer_module
from ehlo.protocol.address import Address, is_address_literal
from ehlo.protocol.auth.mechanism import decoded
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.body import END, BareNewlines, DataReader
from ehlo.protocol.buffer import Buffer
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import Event, Waiting
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.parameters import DeliverBy, OriginalRecipient, Rrvs
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.verbs import mail
from ehlo.transcript import Transcript
from protocol.reference import Lines, body_of, normalized
from support.counting import calls_of
from support.dialogue import CorePlayer, Received, Rules, resolve, scenarios
from support.examples import each_with, examples
from support.ways import deliver, packets

pytestmark = pytest.mark.no_cover  # the other tests reach all that these do

# -- material ------------------------------------------------------------------------------------

# What is near to an end of data, rather than what is not
near_ends = st.lists(
    st.sampled_from(
        [
            *(b"\r\n", b"\r", b"\n", b".", b"\0", b"a", b"\r\n.", b"\r\n.\r\n", b"..", b" "),
            *(b"\r\r\n", b"\r\r\n.\r\r\n", b"\r\r\r"),
        ]
    ),
    max_size=30,
).map(b"".join)

WORDS = [
    *(b"HELO c", b"EHLO client.example", b"EHLO", b"MAIL FROM:<a@example.com>", b"MAIL FROM:<>"),
    *(b"MAIL FROM:<a@x> SIZE=10 BODY=8BITMIME", b"MAIL FROM:<\xc3\xbc@x> SMTPUTF8", b"MAIL FROM:a"),
    *(
        b"RCPT TO:<b@example.com>",
        b"RCPT TO:<bad@x>",
        b"RCPT TO:<postmaster>",
        b"RCPT TO:<",
        b"DATA",
    ),
    *(
        b".",
        b"..",
        b"",
        b"text",
        b"RSET",
        b"NOOP x",
        b"VRFY b",
        b"EXPN l",
        b"HELP",
        b"QUIT",
        b"BOGUS",
    ),
    *(
        b"AUTH PLAIN AHRpbQB0YW5zdGFhZg==",
        b"AUTH LOGIN",
        b"AUTH CRAM-MD5",
        b"dGlt",
        b"*",
        b"AUTH X",
    ),
    *(
        b"GET / HTTP/1.1",
        b"\x16\x03\x01",
        b"LHLO c",
        b"\xff\xfe",
        b"NOOP \0",
        b"x" * 1600,
        b"=" * 20,
    ),
    *(
        b"BDAT 0",
        b"BDAT 5",
        b"BDAT 12 LAST",
        b"bdat 0 last",
        b"BDAT 99999999999999999999",
        b"BDAT x",
        b"BDAT:5",
        b"HELO M\xdcLLER",
    ),
    *(b"LHLO client.example", b"MAIL FROM:<a@x> BODY=BINARYMIME", b"XFOO", b"xfoo bar"),
    *(b"XCLIENT ADDR=192.0.2.1 LOGIN=tim", b"XCLIENT NAME=[UNAVAILABLE]", b"XCLIENT ADDR=x"),
    *(b"XFORWARD NAME=a IDENT=b", b"XFORWARD SOURCE=x"),
]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\r\n", b"\0\r\n"]

lines = st.tuples(st.sampled_from(WORDS), st.sampled_from(ENDS)).map(b"".join)
transaction = st.lists(lines, max_size=4).map(
    lambda found: b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n" + b"".join(found) + b"\r\n.\r\n"
)
chunked = st.tuples(st.binary(max_size=9), st.sampled_from([b"", b" LAST"])).map(
    lambda found: b"BDAT %d%s\r\n%s" % (len(found[0]), found[1], found[0])
)
in_chunks = st.lists(st.one_of(chunked, chunked, lines), max_size=4).map(
    lambda found: b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n" + b"".join(found)
)
sessions = st.lists(
    st.one_of(lines, lines, transaction, in_chunks, st.binary(max_size=20)), max_size=25
).map(lambda found: b"HELO c\r\nLHLO c\r\n" + b"".join(found))

TRUSTED = frozenset({"XCLIENT", "XFORWARD"})
RULES = Rules(
    values={"trusted": " ".join(TRUSTED)},
    answers={("rcpt", "bad@x"): Reply(550, "5.1.1", "No")},
    users={"tim": "tanstaaf"},
)


OPTIONAL = [row.keyword for row in extensions.TABLE if row.default != "on"]


def offered(*, binarymime: bool = False) -> tuple[Extension, ...]:
    """All rows, with what there is by option."""
    arguments = {"FUTURERELEASE": "604800", "DELIVERBY": "240"}
    wanted = {name: arguments.get(name, True) for name in OPTIONAL}
    # It does not go with the line ends of most of the settings
    wanted["BINARYMIME"] = binarymime
    return extensions.rows(wanted, (), lambda: datetime(2030, 1, 1, tzinfo=UTC))


SETTINGS = [
    Settings(),
    Settings(
        max_size=30,
        max_recipients=1,
        strict_eol=True,
        ignore_unknown_params=True,
        lenient_addresses=True,
    ),
    Settings(mechanisms=MECHANISMS, open_mechanisms=frozenset(MECHANISMS), max_size=0),
    Settings(mechanisms=MECHANISMS, auth_required=True, open_mechanisms=frozenset({"PLAIN"})),
    Settings(bare_newlines=BareNewlines.REJECT, max_size=40),
    Settings(bare_newlines=BareNewlines.KEEP, extensions=offered(binarymime=True)),
    Settings(tls_available=True, tls_required=True),
    Settings(lmtp=True, max_size=50),
    Settings(lmtp=True, mechanisms=MECHANISMS, auth_required=True),
    Settings(extensions=(*EXTENSIONS, Extension("XFOO", 0, verbs=("XFOO",)))),
    # The last: it has all parameters
    Settings(extensions=offered(), max_messages=3, max_recipient_domains=2),
]
CONVERSATIONS = [Connection(rules, lambda: "nonce", tls=True).conversation for rules in SETTINGS]


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces."""
    positions = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    return [data[a:b] for a, b in zip([0, *positions], [*positions, len(data)], strict=True)]


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def played(
    rules: Settings, pieces: list[bytes], *, usual: bool = True
) -> tuple[bytes, list[Received], bool]:
    player = CorePlayer(rules, RULES, usual=usual)
    for piece in pieces:
        player.feed(piece)
    return player.output, player.messages, player.closed


# -- any split of any session --------------------------------------------------------------------


@examples(400)
@given(st.data(), st.sampled_from(SETTINGS), sessions)
def test_any_split_of_any_session_gives_the_same(
    data: st.DataObject, rules: Settings, session: bytes
) -> None:
    # STARTTLS is not among the words: it is the one command that looks at what comes behind
    whole = played(rules, [session], usual=False)
    assert played(rules, octets(session)) == whole
    assert played(rules, packets(session)) == whole
    assert played(rules, data.draw(cuts(session))) == whole


DIALOGUES = [
    (scenario, b"".join(resolve(step, CorePlayer.CHALLENGE) for step in scenario.steps))
    for scenario in scenarios()
    if not scenario.as_written and not any(step.kind in ("tls", "event") for step in scenario.steps)
]


@given(st.data())
def test_any_split_of_any_dialogue_gives_the_same(data: st.DataObject) -> None:
    scenario, session = data.draw(st.sampled_from(DIALOGUES))
    pieces = data.draw(cuts(session))
    lines, same = (Transcript(bodies=True, clock=lambda: 0.0) for _ in range(2))
    whole = CorePlayer.of(scenario, usual=False, transcript=lines)
    cut = CorePlayer.of(scenario, transcript=same)
    whole.feed(session)
    for piece in pieces:
        cut.feed(piece)
    assert (cut.output, cut.messages, cut.closed) == (whole.output, whole.messages, whole.closed)
    assert [*same] == [*lines]


# -- nothing raises ------------------------------------------------------------------------------

answers = st.sampled_from(
    [None, None, None, None, Reply(450, "4.0.0", "l"), Reply(550, "5.0.0", "n"), Reply(421)]
)


@examples(400)
@given(st.data(), st.sampled_from(SETTINGS), st.one_of(sessions, st.binary(max_size=300)))
def test_no_input_raises_whatever_is_answered(
    data: st.DataObject, rules: Settings, session: bytes
) -> None:
    connection = Connection(rules, lambda: "nonce", trusted=TRUSTED)
    said = b""
    for piece in data.draw(cuts(session)):
        for event in _events(
            connection, deliver(connection, piece, usual=data.draw(st.booleans()))
        ):
            match event:
                case events.Tarpit():
                    connection.resume()
                case events.BodyChunk() if data.draw(st.booleans()):
                    connection.refuse_body(Reply(452, "4.3.1", "Full"))
                case (
                    events.BodyChunk() | events.BodyRefused() | events.BodyDropped() | events.Full()
                ):
                    pass
                case events.MessageEnd(transaction) if rules.lmtp and data.draw(st.booleans()):
                    count = len(transaction.recipients)
                    connection.reply_each([data.draw(answers) for _ in range(count)])
                case _:
                    connection.reply(data.draw(answers))
            said += connection.data_to_send()
    said += connection.data_to_send()
    assert_well_formed(said)


def _events(connection: Connection, first: Event | Waiting) -> Iterator[Any]:
    event = first
    while not isinstance(event, Waiting | events.Close):
        yield event
        event = connection.next_event()


def assert_well_formed(said: bytes) -> None:
    """RFC 5321 4.2: lines that end with CRLF, begin with a code and have no control characters."""
    *found, last = said.split(b"\r\n")
    assert last == b""
    for line in found:
        assert line[:3].isdigit()
        assert line[3:4] in (b" ", b"-")
        assert line.decode().isprintable()
        assert len(line) <= 510


@examples(300)
@given(st.text(max_size=60), st.booleans())
@example('"\\', False)
@example("@" * 60, True)
def test_no_argument_of_mail_or_rcpt_raises(text: str, utf8: bool) -> None:
    for argument in (text, f"FROM:{text}", f"TO:<{text}>", f"FROM:<a@x> {text}"):
        for found in (
            mail.reverse_path(CONVERSATIONS[0], argument),
            mail.forward_path(CONVERSATIONS[1], argument, smtputf8=utf8),
            mail.reverse_path(CONVERSATIONS[-1], argument),
            mail.forward_path(CONVERSATIONS[-1], argument, smtputf8=utf8),
        ):
            assert isinstance(found, Address | Reply)


TYPES = {
    "SIZE": int,
    "BODY": str,
    "SMTPUTF8": bool,
    "AUTH": str,
    "RET": str,
    "ENVID": str,
    "NOTIFY": frozenset,
    "ORCPT": OriginalRecipient,
    "REQUIRETLS": bool,
    "BY": DeliverBy,
    "HOLDFOR": int,
    "HOLDUNTIL": datetime,
    "MT-PRIORITY": int,
    "RRVS": Rrvs,
}
PARAMETERS = {**SETTINGS[-1].mail_params, **SETTINGS[-1].rcpt_params}
keywords = st.sampled_from([*PARAMETERS])
numbers = st.from_regex(r"[+-]?[0-9]{0,25}", fullmatch=True)
dates = st.from_regex(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})",
    fullmatch=True,
)
# What stands behind some parameter, whole or in pieces
values = st.one_of(
    st.none(),
    st.text(max_size=30),
    st.from_regex(r"[a-z0-9-]{1,8};(\\x\{[0-9A-F]{1,6}\}|\+[0-9A-F]{2}|[!-~])*", fullmatch=True),
    numbers,
    dates,
    st.datetimes().map(lambda date: date.isoformat() + "Z"),
    st.tuples(numbers | dates, st.sampled_from([";R", ";N", ";RT", ";n", ";C", ";", ";X"])).map(
        "".join
    ),
    st.lists(
        st.sampled_from(["NEVER", "success", "DELAY", "Failure", ",", ";", "FULL", "hdrs", "<>"])
    ).map(",".join),
)


words = st.tuples(keywords, values).map(
    lambda word: word[0] if word[1] is None else f"{word[0]}={word[1]}"
)


@examples(500)
@given(st.lists(words, max_size=6), st.sampled_from(["", "a", "ü"]), st.booleans())
def test_any_parameters_make_an_address_or_a_reply(said: list[str], local: str, utf8: bool) -> None:
    rest = " ".join(said)
    for conversation in (CONVERSATIONS[0], CONVERSATIONS[1], CONVERSATIONS[-1]):
        for found in (
            mail.reverse_path(conversation, f"FROM:<{local}@x> {rest}"),
            mail.forward_path(conversation, f"TO:<{local}@x> {rest}", smtputf8=utf8),
            mail.forward_path(conversation, f"TO:<postmaster> {rest}", smtputf8=utf8),
        ):
            assert isinstance(found, Address | Reply)


@examples(1000)
@given(keywords, values)
def test_no_value_of_a_parameter_brings_control_characters(keyword: str, value: str | None) -> None:
    parse = PARAMETERS[keyword].parse
    try:
        typed = parse(value)
    except ValueError:
        return
    text = typed.address if isinstance(typed, OriginalRecipient) else str(typed)
    assert keyword in TYPES
    assert type(typed) is TYPES[keyword]
    if value is not None and value.isprintable():
        assert not any(ord(character) < 32 for character in text)
        text.encode()


@given(st.text(max_size=40))
def test_no_literal_and_no_base64_raises(text: str) -> None:
    assert is_address_literal(f"[{text}]") in (True, False)
    assert decoded(text) is None or text.isascii()


# -- against models ------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.binary(max_size=12)),
        st.tuples(st.just("feed"), st.sampled_from([b"\n", b"\r\n", b"ab\ncd", b"x" * 9])),
        st.tuples(st.just("line"), st.none()),
        st.tuples(st.just("line"), st.none()),
        st.tuples(st.just("take"), st.integers(0, 6)),
    ),
    max_size=40,
)


@examples(400)
@given(steps, st.integers(2, 12))
def test_the_buffer_is_as_its_model(moves: list[tuple[str, Any]], limit: int) -> None:
    buffer, model = Buffer(), Lines()
    waiting = False  # inside a line: only a line may be taken then, as the connection does
    for move, argument in moves:
        if move == "feed":
            buffer.feed(argument)
            model.feed(argument)
        elif move == "line" and not buffer.empty:
            line = buffer.take_line(limit)
            assert line == model.take_line(limit)
            waiting = line is None
        elif move == "take" and not waiting:
            assert buffer.take(argument) == model.take(argument)
        assert buffer.empty == model.empty


@examples(500)
@given(st.data(), near_ends)
def test_the_data_reader_is_as_its_model(data: st.DataObject, sent: bytes) -> None:
    model = body_of(sent)
    for way in (octets(sent), [sent], data.draw(cuts(sent))):
        reader, buffer, content, ended = DataReader(), Buffer(), b"", False
        for piece in way:
            buffer.feed(piece)
            while not ended and (chunk := reader.read(buffer)) is not None:
                ended = chunk is END
                content += b"" if chunk is END else chunk
        left = buffer.take(len(buffer))
        assert ended == model.ended
        if ended:
            assert (content, left) == (model.content, model.rest)
        else:  # what may yet be an end is held back
            assert model.content.startswith(content)
            assert len(left) <= 4


@examples(300)
@given(near_ends)
def test_bodies_are_normalized_as_by_the_model(sent: bytes) -> None:
    assert body.normalized(body.joined(sent)) == normalized(sent)
    assert body.has_bare_newline(sent) == (normalized(sent) != sent)


@examples(300)
@given(
    width=st.integers(2, 1_000),
    count=st.integers(2, 900),
    header=st.sampled_from([b"", b"Subject: hello\r\n\r\n", b"x\r", b"\n"]),
    places=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    changes=st.tuples(*[st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\n\r", b"x", b"xyz"])] * 2),
    tail=st.sampled_from([b"", b"\r", b"--end--", b"--end--\r\n"]),
)
def test_one_bare_newline_among_even_lines_is_seen(
    width: int,
    count: int,
    header: bytes,
    places: tuple[float, float],
    changes: tuple[bytes, bytes],
    tail: bytes,
) -> None:
    lines = (b"x" * (width - 2) + b"\r\n") * count
    for place, change in zip(places, changes, strict=True):
        at = int(place * len(lines))
        lines = lines[:at] + change + lines[at + len(change) :]
    sent = header + lines + tail
    rest = sent.replace(b"\r\n", b"")
    assert body.has_bare_newline(sent) == (b"\r" in rest or b"\n" in rest)


@examples(300)
@given(st.data(), near_ends)
def test_a_message_is_its_model_normalized_and_no_byte_of_it_a_command(
    data: st.DataObject, sent: bytes
) -> None:
    """RFC 5321 4.1.1.4 first, and only then the line ends."""
    begin = b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    model = body_of(sent + b"\r\n.\r\n")
    stream = begin + sent + b"\r\n.\r\n"
    output, messages, _ = played(SETTINGS[0], data.draw(cuts(stream)))
    assert messages[0].body == normalized(model.content)
    assert output.startswith(
        b"220 localhost smtpd ESMTP Service ready\r\n250 localhost greets c\r\n250 2.1.0 Ok\r\n"
        b"250 2.1.5 Ok\r\n354 Start mail input; end with <CRLF>.<CRLF>\r\n250 2.0.0 Ok: queued\r\n"
    )
    assert len(messages) == 1


@examples(60)
@given(
    st.data(),
    st.integers(30, 120),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from([b"\r", b"\n", b"\r\n.", b".\r\n"])), max_size=3
    ),
)
def test_any_split_of_an_attachment_gives_its_model(
    data: st.DataObject, width: int, changes: list[tuple[float, bytes]]
) -> None:
    sent = b"Subject: a\r\n\r\n" + (b"x" * width + b"\r\n") * 300
    for place, change in changes:
        at = int(place * len(sent))
        sent = sent[:at] + change + sent[at + len(change) :]
    stream = sent + b"\r\n.\r\n"
    begin = b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    _, messages, _ = played(SETTINGS[0], [begin, *data.draw(cuts(stream))])
    assert messages[0].body == normalized(body_of(stream).content)


# -- work is linear in what came -----------------------------------------------------------------


class Looked:
    """How many bytes the buffer has searched or copied."""

    count = 0


class CountedBytes(bytes):
    def find(self, *arguments: Any) -> int:
        found = super().find(*arguments)
        start = arguments[1] if len(arguments) > 1 else 0
        Looked.count += (found if found >= 0 else len(self)) - start
        return found

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        Looked.count += len(taken)
        return taken


class CountedByteArray(bytearray):
    def find(self, *arguments: Any) -> int:
        found = super().find(*arguments)
        start = arguments[1] if len(arguments) > 1 else 0
        Looked.count += (found if found >= 0 else len(self)) - start
        return found

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        Looked.count += len(taken)
        return taken

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]  # as bytearray's own
        Looked.count += len(other)
        return super().__iadd__(other)


INPUTS = {
    "an endless line": b"x",
    "empty lines": b"\r\n",
    "bare line feeds": b"\n",
    "carriage returns": b"\r",
    "commands": b"NOOP\r\n",
    "dots": b".",
    "stuffed lines": b"..\r\n",
    "quotes": b'"',
    "backslashes": b"\\",
    "at signs": b"@a",
    "parameters": b" SIZE=1",
    "nothing but blanks": b" ",
    "bytes beyond ASCII": b"\xc3\xbc",
    "almost ends": b"\r\n.\r",
    "brackets": b"<",
}
BEFORE = {
    "commands": b"HELO c\r\n",
    "an address": b"HELO c\r\nMAIL FROM:<",
    "a local part in quotes": b'HELO c\r\nMAIL FROM:<"',
    "a body": b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n",
    "a login": b"HELO c\r\nAUTH PLAIN ",
}
FED = list(itertools.product(BEFORE, INPUTS))
LIMITLESS = Settings(
    max_size=0,
    mechanisms=MECHANISMS,
    open_mechanisms=frozenset(MECHANISMS),
    limits=Limits(slow_errors=1_000_000, errors=1_000_000, idle_commands=0),
)


def fed(unit: str, before: str, length: int, size: int) -> Callable[[], None]:
    data = BEFORE[before] + INPUTS[unit] * (length // len(INPUTS[unit]))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    def feed() -> None:
        player = CorePlayer(LIMITLESS, Rules())
        for piece in pieces:
            player.feed(piece)

    return feed


@pytest.mark.parametrize(("before", "unit", "size"), each_with(FED, [1, 1460, 1_000_000]))
def test_calls_are_linear_in_what_came(unit: str, before: str, size: int) -> None:
    """Four times the input, in pieces of any size, is some four times the work."""
    lengths = (500, 2_000) if size == 1 else (2_500, 10_000)
    small, large = (calls_of(fed(unit, before, length, size)) for length in lengths)
    assert large <= 4.5 * small + 500


@pytest.mark.parametrize(("before", "unit", "size"), each_with(FED, [1, 7, 1_000_000]))
def test_no_byte_is_looked_at_more_than_a_few_times(
    unit: str, before: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer's own bytes are replaced by some that count what is searched and copied."""
    monkeypatch.setattr(buffer_module, "bytes", CountedBytes, raising=False)
    monkeypatch.setattr(buffer_module, "bytearray", CountedByteArray, raising=False)
    monkeypatch.setattr(Looked, "count", 0)
    length = 3_000 if size < 10 else 70_000  # beyond what the buffer moves at
    fed(unit, before, length, size)()
    assert length <= Looked.count <= 8 * length
