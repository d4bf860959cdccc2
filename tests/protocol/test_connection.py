"""The connection: what the dialogues cannot show, since it lies between it and its driver."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import PasswordCredentials, ProvedCredentials
from ehlo.protocol.auth.mechanism import (
    AsyncSteps,
    AuthContext,
    Mechanism,
    MechanismError,
    SecretWanted,
    Steps,
)
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import Admission
from ehlo.protocol.events import NEED_DATA, PAUSED, Event, Waiting
from ehlo.protocol.extensions import EXTENSIONS
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts, State
from ehlo.protocol.verbs import QUESTIONS
from support.dialogue import CorePlayer, Rules
from support.ways import deliver

pytestmark = pytest.mark.usefixtures("way")

ENVELOPE = b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"


def connect(settings: Settings | None = None) -> Connection:
    """A client that has been greeted."""
    connection = Connection(settings or Settings(), lambda: "nonce")
    assert type(connection.next_event()) is events.Connect
    connection.reply()
    connection.data_to_send()
    return connection


def play(connection: Connection, data: bytes) -> list[Event]:
    """All events that `data` makes; those that ask are accepted."""
    seen: list[Event] = []
    event = deliver(connection, data)
    while not isinstance(event, Waiting):
        seen.append(event)
        match event:
            case events.Close():
                break
            case events.Tarpit():
                connection.resume()
            case events.BodyChunk() | events.BodyRefused() | events.BodyDropped() | events.Full():
                pass
            case _:
                connection.reply()
        event = connection.next_event()
    return seen


def said(connection: Connection) -> list[str]:
    return connection.data_to_send().decode().splitlines()


# -- asking and answering ------------------------------------------------------------------------


def test_an_event_pauses_until_it_is_answered_and_what_follows_waits() -> None:
    connection = connect()
    connection.receive_data(b"HELO c\r\nMAIL FROM:<a@x>\r\n")
    assert connection.next_event() == events.Hello("c", esmtp=False)
    assert connection.next_event() is PAUSED
    assert connection.buffered == len(b"MAIL FROM:<a@x>\r\n")
    assert connection.data_to_send() == b""
    connection.reply()
    assert type(connection.next_event()) is events.Mail
    connection.reply(Reply(450, "4.0.0", "Later"))
    assert connection.next_event() is NEED_DATA
    assert said(connection) == ["250 localhost greets c", "450 4.0.0 Later"]
    assert connection.data_to_send() == b""
    assert (repr(NEED_DATA), repr(PAUSED)) == ("NEED_DATA", "PAUSED")


def test_a_reply_without_a_question_is_a_bug_of_ours() -> None:
    connection = connect()
    with pytest.raises(ProtocolError, match="nothing was asked"):
        connection.reply()
    with pytest.raises(ProtocolError, match="nothing to resume"):
        connection.resume()


@pytest.mark.parametrize("code", [300, 334, 354, 399])
def test_a_3xx_is_no_answer_to_most_questions(code: int) -> None:
    connection = connect()
    connection.receive_data(b"HELO c\r\n")
    connection.next_event()
    with pytest.raises(ProtocolError, match="does not answer Hello"):
        connection.reply(Reply(code))
    connection.reply()
    assert said(connection) == ["250 localhost greets c"]


@pytest.mark.parametrize("code", [250, 299, 334, 355])
def test_a_354_alone_answers_data(code: int) -> None:
    connection = connect()
    connection.receive_data(ENVELOPE)
    for _ in range(3):
        connection.next_event()
        connection.reply()
    assert connection.next_event() == events.Data()
    with pytest.raises(ProtocolError, match="does not answer Data"):
        connection.reply(Reply(code))
    connection.reply(Reply(354, None, "Go"))
    assert said(connection)[-1] == "354 Go"


def test_the_facts_of_a_hello_are_those_of_the_last_that_was_accepted() -> None:
    connection = connect()
    play(connection, b"EHLO one\r\n")
    assert (connection.conversation.helo, connection.conversation.esmtp) == ("one", True)
    connection.receive_data(b"HELO two\r\n")
    connection.next_event()
    connection.reply(Reply(550, "5.7.1", "No"))
    assert (connection.conversation.helo, connection.conversation.esmtp) == ("one", True)


def test_what_no_hook_asks_about_is_accepted_without_an_event() -> None:
    connection = Connection(Settings(), lambda: "nonce", asks=frozenset({events.Rcpt}))
    assert connection.next_event() is NEED_DATA
    connection.receive_data(ENVELOPE + b"x\r\n.\r\nRSET\r\nVRFY a\r\n")
    seen: list[type] = []
    while not isinstance(event := connection.next_event(), Waiting):
        seen.append(type(event))
        if not isinstance(event, events.BodyChunk):
            connection.reply()
    assert seen == [events.Rcpt, events.BodyChunk, events.MessageEnd]
    codes = [line[:3] for line in said(connection)]
    assert codes == ["220", "250", "250", "250", "354", "250", "250", "252"]


# -- the end -------------------------------------------------------------------------------------


class Crowded(Admission):
    """Rejects what it is told to, and notes what it was asked about."""

    def __init__(self) -> None:
        self.answer: Reply | None = None
        self.counts_recipients = True
        self.asked: list[str] = []

    def admit_sender(self, sender: Address) -> Reply | None:
        self.asked.append(str(sender))
        return self.answer

    def admit_recipient(self) -> Reply | None:
        self.asked.append("RCPT")
        return self.answer


def test_mail_that_is_not_admitted_is_rejected_before_a_hook_is_asked() -> None:
    full = Crowded()
    connection = Connection(Settings(), lambda: "nonce", admission=full)
    play(connection, b"HELO c\r\n")
    full.answer = replies.NO_MEMORY
    assert play(connection, b"MAIL FROM:<a@x>\r\n") == []
    assert (connection.counts.messages, connection.transaction) == (1, None)
    full.answer = None
    assert len(play(connection, b"MAIL FROM:<b@x>\r\nRCPT TO:<c@x>\r\n")) == 2
    full.answer = replies.TOO_MUCH_RCPT
    assert play(connection, b"RCPT TO:<d@x>\r\n") == []
    transaction = connection.transaction
    assert transaction is not None
    assert (len(transaction.recipients), transaction.refused) == (1, 1)
    assert [line[:3] for line in said(connection)[2:]] == ["452", "250", "250", "450"]
    # What is wrong in itself is not asked about
    play(connection, b"RSET\r\nMAIL FROM:<c\r\nRCPT TO:<e@x>\r\n")
    assert full.asked == ["a@x", "b@x", "RCPT", "RCPT"]


def test_recipients_are_not_asked_about_where_they_are_not_counted() -> None:
    full = Crowded()
    full.counts_recipients = False
    connection = Connection(Settings(), lambda: "nonce", admission=full)
    assert len(play(connection, b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n")) == 4
    assert full.asked == ["a@x"]
    assert Admission().admit_recipient() is None


class Small(Admission):
    """Has room for some bytes of recipients."""

    def __init__(self, room: int) -> None:
        self.room = room

    def hold(self, size: int) -> bool:
        if size > self.room:
            return False
        self.room -= size
        return True


def test_recipients_are_held_within_the_room_that_there_is() -> None:
    small = Small(2000)
    connection = Connection(Settings(), lambda: "nonce", admission=small)
    play(connection, b"HELO c\r\nMAIL FROM:<a@x>\r\n" + b"RCPT TO:<b@x> NOTIFY=NEVER\r\n" * 9)
    codes = [line[:3] for line in said(connection)[-9:]]
    assert codes == sorted(codes)
    assert {*codes} == {"250", "452"}
    assert small.room < 2000
    play(connection, b"RSET\r\n")
    assert small.room == 2000


def test_a_client_that_has_ended_is_answered_first() -> None:
    connection = connect()
    connection.receive_data(b"NOOP\r\nHELO c\r\n")
    connection.receive_eof()
    assert type(connection.next_event()) is events.Hello
    connection.reply()
    assert connection.next_event() == events.Close()
    assert connection.next_event() == events.Close()
    assert said(connection) == ["250 2.0.0 Ok", "250 localhost greets c"]


def test_a_client_that_ended_before_it_was_greeted_is_greeted() -> None:
    connection = Connection(Settings(), lambda: "nonce")
    connection.receive_eof()
    assert type(connection.next_event()) is events.Connect
    connection.reply()
    assert connection.next_event() == events.Close()


def test_after_the_end_nothing_is_read() -> None:
    connection = connect()
    play(connection, b"QUIT\r\n")
    connection.receive_data(b"NOOP\r\n")
    assert connection.buffered == 0
    assert connection.next_event() == events.Close()
    assert said(connection)[0].startswith("221 ")


def test_hanging_up_ends_a_question_a_body_and_a_pause() -> None:
    for before in (b"HELO c\r\n", ENVELOPE, b"X\r\n" * 10):
        connection = connect()
        play(connection, before)
        connection.receive_data(b"VRFY x\r\n")
        connection.next_event()
        connection.hang_up(Reply(421, "4.3.2", "Bye"))
        assert said(connection)[-1] == "421 4.3.2 Bye"
        assert connection.next_event() == events.Close()
        assert not connection.in_transaction
        connection.hang_up(Reply(421, "4.3.2", "Bye again"))
        assert connection.data_to_send() == b""


def test_hanging_up_may_be_silent() -> None:
    connection = connect()
    connection.hang_up()
    assert connection.next_event() == events.Close()
    assert connection.data_to_send() == b""


def test_a_body_far_over_the_limit_is_left_with_the_client_still_sending() -> None:
    connection = connect(Settings(max_size=2_000_000))
    play(connection, ENVELOPE)
    assert play(connection, b"x" * 2_000_001)[-1] == events.BodyRefused(replies.TOO_LARGE)
    assert play(connection, b"x" * 1_999_999) == []
    assert play(connection, b"x") == [events.Close(linger=True)]
    assert connection.next_event() == events.Close(linger=True)
    assert said(connection)[-1] == "552 5.3.4 Message size exceeds fixed limit"


# -- bodies --------------------------------------------------------------------------------------


def test_a_body_may_be_refused_while_it_comes() -> None:
    connection = connect()
    play(connection, ENVELOPE)
    assert play(connection, b"some") == [events.BodyChunk(b"some")]
    refused = connection.refuse_body(replies.NO_MEMORY)
    assert refused == events.BodyRefused(replies.NO_MEMORY)
    assert play(connection, b" more\r\nQUIT\r\n.\r\n") == []
    assert said(connection)[-1] == "452 4.3.1 Insufficient system storage"
    assert connection.state is State.READY


@pytest.mark.parametrize(("refusal", "last"), [("NO_MEMORY", "452"), ("BARE_NEWLINE", "503")])
def test_what_came_in_chunks_may_be_refused_between_two_of_them(refusal: str, last: str) -> None:
    reply: Reply = getattr(replies, refusal)
    connection = connect()
    play(connection, ENVELOPE.replace(b"DATA\r\n", b"BDAT 4\r\nsome"))
    connection.refuse_body(reply)
    assert said(connection)[-1] == "250 2.0.0 4 octets received"
    assert play(connection, b"BDAT 4\r\nmore") == []
    assert said(connection)[-1] == str(reply)
    assert play(connection, b"BDAT 4\r\nmore") == []
    assert said(connection)[-1][:3] == "503"
    assert play(connection, b"BDAT 0 LAST\r\n") == []
    assert said(connection)[-1][:3] == last  # the server's own trouble is a 4xx here, too


def test_a_body_can_be_refused_only_where_there_is_one() -> None:
    connection = connect()
    with pytest.raises(ProtocolError, match="no body"):
        connection.refuse_body(replies.NO_MEMORY)
    play(connection, ENVELOPE)
    with pytest.raises(ProtocolError, match="no rejection"):
        connection.refuse_body(replies.OK)


COMMANDS = b"RSET\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nQUIT\r\n"


@pytest.mark.parametrize("rules", ["accepted", "on message: 554 5.6.0 No", "max_size 40"])
def test_commands_in_a_body_are_never_executed(rules: str) -> None:
    scenario = Rules()
    if rules != "accepted":
        scenario.add(rules)
    settings = Settings(max_size=scenario.number("max_size", 0))
    for variant in (b"", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\0.\r\n"):
        player = CorePlayer(settings, scenario)
        player.feed(ENVELOPE + b"text" + variant + COMMANDS + b".\r\nNOOP\r\n")
        final = {"a": "250 2.0.0 Ok: queued", "o": "554 5.6.0 No", "m": "552 5.3.4 "}[rules[0]]
        replies_after = player.output.decode().split("354 ")[1].splitlines()[1:]
        assert len(replies_after) == 2
        assert replies_after[0].startswith(final)
        assert replies_after[1] == "250 2.0.0 Ok"
        assert len(player.messages) == (1 if rules == "accepted" else 0)
        assert not player.closed


# -- chunks --------------------------------------------------------------------------------------

CHUNKED = b"HELO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"


@pytest.mark.parametrize(("parameters", "smtputf8"), [(b"", False), (b" SMTPUTF8", True)])
def test_a_transaction_knows_whether_mail_had_smtputf8(parameters: bytes, smtputf8: bool) -> None:
    connection = connect()
    play(connection, b"EHLO c\r\nMAIL FROM:<a@x>" + parameters + b"\r\n")
    assert connection.transaction is not None
    assert connection.transaction.smtputf8 is smtputf8


def test_a_transaction_knows_which_way_its_body_comes() -> None:
    for way, sent in (("DATA", b"DATA\r\n.\r\n"), ("BDAT", b"BDAT 0 LAST\r\n")):
        *_, end = play(connect(), CHUNKED + sent)
        assert isinstance(end, events.MessageEnd)
        assert end.transaction.via == way


@pytest.mark.parametrize("giving_up", [b"RSET\r\n", b"HELO c\r\n", b"EHLO c\r\n"])
@pytest.mark.parametrize("asks", [QUESTIONS, frozenset[type]()])
def test_a_body_that_is_dropped_is_reported_before_the_next_begins(
    giving_up: bytes, asks: frozenset[type]
) -> None:
    connection = Connection(Settings(), lambda: "nonce", asks=asks)
    again = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 1 LAST\r\ny"
    seen = play(connection, CHUNKED + b"BDAT 1\r\nx" + giving_up + again)
    told = [event for event in seen if isinstance(event, events.BodyChunk | events.BodyDropped)]
    assert told == [events.BodyChunk(b"x"), events.BODY_DROPPED, events.BodyChunk(b"y")]


def test_a_refused_rset_gives_up_nothing() -> None:
    connection = connect()
    play(connection, CHUNKED + b"BDAT 1\r\nx")
    connection.receive_data(b"RSET\r\n")
    connection.next_event()
    connection.reply(Reply(450, "4.0.0", "Not now"))
    kinds = [type(event) for event in play(connection, b"BDAT 1 LAST\r\ny")]
    assert kinds == [events.BodyChunk, events.MessageEnd]


def test_a_body_is_asked_about_with_its_first_chunk_only() -> None:
    seen = play(connect(), CHUNKED + b"BDAT 1\r\nxBDAT 0\r\nBDAT 1 LAST\r\ny")
    kinds = [type(event) for event in seen]
    assert kinds == [
        *(events.Hello, events.Mail, events.Rcpt),
        *(events.Data, events.BodyChunk, events.BodyChunk, events.MessageEnd),
    ]


def test_a_refusal_of_the_body_waits_for_the_bytes_of_its_first_chunk() -> None:
    connection = connect()
    play(connection, CHUNKED)
    connection.receive_data(b"BDAT 6\r\n")
    assert connection.next_event() == events.Data()
    said(connection)
    connection.reply(Reply(421, "4.7.0", "Go away"))
    assert connection.next_event() is NEED_DATA
    assert (said(connection), connection.conversation.reader is None) == ([], False)
    connection.receive_data(b"QUIT\r\nNOOP\r\n")
    assert connection.next_event() == events.Close()
    assert said(connection) == ["421 4.7.0 Go away"]


def test_a_354_may_answer_bdat_and_is_not_said() -> None:
    connection = connect()
    play(connection, CHUNKED)
    connection.receive_data(b"BDAT 0\r\n")
    connection.next_event()
    with pytest.raises(ProtocolError, match="does not answer Data"):
        connection.reply(replies.OK)
    connection.reply(Reply(354, None, "Go"))
    assert connection.next_event() is NEED_DATA
    assert said(connection)[-1] == "250 2.0.0 0 octets received"


def test_many_small_chunks_give_way_to_others_now_and_then() -> None:
    connection = connect()
    kinds = [type(event) for event in play(connection, CHUNKED + b"BDAT 1\r\nx" * 350)]
    assert kinds.count(events.Full) == 3
    assert connection.data_to_send().count(b"250 2.0.0 1 octets received\r\n") == 350


@pytest.mark.parametrize(
    ("sent", "count"), [(b"BDAT 5000000\r\n", 1), (b"BDAT 5000000 LAST\r\n", 2)]
)
def test_a_chunk_far_over_the_limit_has_its_own_number_of_replies(sent: bytes, count: int) -> None:
    connection = connect(Settings(lmtp=True, max_size=1000))
    play(connection, CHUNKED.replace(b"HELO", b"LHLO") + b"RCPT TO:<c@x>\r\n")
    said(connection)
    assert play(connection, sent) == [events.Close(linger=True)]
    assert said(connection) == ["552 5.3.4 Message size exceeds fixed limit"] * count


def test_chunks_that_add_up_to_far_over_the_limit_are_not_listened_to() -> None:
    connection = connect(Settings(lmtp=True, max_size=1_000_000))
    play(connection, CHUNKED.replace(b"HELO", b"LHLO") + b"RCPT TO:<c@x>\r\n")
    said(connection)
    chunk = b"BDAT 700000\r\n" + b"x" * 700_000
    assert play(connection, chunk)[-1] == events.BodyChunk(b"x" * 700_000)
    assert play(connection, chunk) == [events.BodyRefused(replies.TOO_LARGE)]
    assert play(connection, chunk) == [events.Close(linger=True)]
    assert [line[:3] for line in said(connection)] == ["250", "552", "552"]


def test_without_the_extension_there_is_no_bdat_and_its_bytes_are_no_commands() -> None:
    rows = tuple(row for row in EXTENSIONS if row.keyword not in ("CHUNKING", "BINARYMIME"))
    connection = connect(Settings(extensions=rows))
    play(
        connection, CHUNKED + b"BDAT 6 LAST\r\nQUIT\r\nRSET\r\nMAIL FROM:<a@x> BODY=BINARYMIME\r\n"
    )
    assert said(connection)[-3:] == [
        "502 5.5.1 Command not implemented",
        "250 2.0.0 Ok",
        "555 5.5.4 Unsupported parameter: BODY",
    ]


@pytest.mark.parametrize("size", [1000, 10_000_000])
@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 66001 LAST\r\n"])
def test_more_crs_than_are_held_are_no_line_end(begin: bytes, size: int) -> None:
    """However they come: what is held until a LF may follow is bounded."""
    connection = connect(Settings())
    play(connection, CHUNKED)
    data = begin + b"\r" * 66_000 + b"\n" + (b".\r\n" if begin.startswith(b"D") else b"")
    found = [e for at in range(0, len(data), size) for e in play(connection, data[at : at + size])]
    assert [event for event in found if not isinstance(event, events.Data)] == [
        events.BodyRefused(replies.BARE_NEWLINE)
    ]
    assert said(connection)[-1] == "550 5.6.0 Message has a bare CR or LF in it"


def test_crs_at_the_end_of_a_body_are_line_ends_within_its_limit() -> None:
    connection = connect(Settings(max_size=5))
    for crs, outcome in ((2, "250 2.0.0 Ok: queued"), (3, str(replies.TOO_LARGE))):
        play(connection, b"RSET\r\n" + CHUNKED + b"BDAT %d LAST\r\nx" % (crs + 1) + b"\r" * crs)
        assert said(connection)[-1] == outcome


# -- an answer for each recipient ----------------------------------------------------------------


def at_the_end(recipients: int, *, lmtp: bool = True) -> Connection:
    """A message whose end is asked about."""
    connection = connect(Settings(lmtp=lmtp))
    begin = b"LHLO c\r\nMAIL FROM:<a@x>\r\n" if lmtp else b"HELO c\r\nMAIL FROM:<a@x>\r\n"
    connection.receive_data(begin + b"RCPT TO:<b@x>\r\n" * recipients + b"BDAT 0 LAST\r\n")
    while type(connection.next_event()) is not events.MessageEnd:
        connection.reply()
    said(connection)
    return connection


def test_each_recipient_has_its_answer() -> None:
    connection = at_the_end(3)
    connection.reply_each([None, Reply(550, "5.1.1", "No"), Reply(250, "2.0.0", "Yes")])
    assert said(connection) == ["250 2.0.0 Ok: queued", "550 5.1.1 No", "250 2.0.0 Yes"]
    assert connection.state is State.READY
    with pytest.raises(ProtocolError, match="nothing was asked"):
        connection.reply_each([None, None, None])


@pytest.mark.parametrize(
    "answers", [[], [None], [None] * 3, [None, Reply(354)], [Reply(334), Reply(550)]]
)
def test_answers_that_do_not_fit_are_a_bug_of_ours(answers: list[Reply | None]) -> None:
    connection = at_the_end(2)
    with pytest.raises(ProtocolError, match=r"each recipient|3xx"):
        connection.reply_each(answers)
    connection.reply(replies.TROUBLE)
    assert len(said(connection)) == 2


def test_smtp_has_one_answer_for_all() -> None:
    connection = at_the_end(1, lmtp=False)
    with pytest.raises(ProtocolError, match="nothing was asked"):
        connection.reply_each([None])
    connection.reply()
    assert said(connection) == ["250 2.0.0 Ok: queued"]


# -- STARTTLS ------------------------------------------------------------------------------------


def test_after_220_nothing_is_read_any_more() -> None:
    connection = connect(Settings(tls_available=True))
    assert play(connection, b"STARTTLS\r\n") == [events.StartTLS()]
    assert said(connection) == ["220 2.0.0 Ready to start TLS"]
    assert connection.state is State.TLS
    connection.receive_data(b"NOOP\r\n")
    assert connection.next_event() is PAUSED
    with pytest.raises(ProtocolError, match="nothing was asked"):
        connection.reply()
    with pytest.raises(ProtocolError, match="nothing to resume"):
        connection.resume()
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("behind", [b"\n", b"\r\n", b"EHLO evil\r\n", b"\x16\x03\x01", b"\0"])
def test_whatever_comes_behind_starttls_closes_and_nothing_is_said(behind: bytes) -> None:
    connection = connect(Settings(tls_available=True))
    assert play(connection, b"STARTTLS\r\n" + behind) == [events.Close()]
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("behind", [b"\n", b"EHLO evil\r\n", b"\x16\x03\x01"])
def test_what_comes_while_the_server_is_asked_about_starttls_closes_too(behind: bytes) -> None:
    connection = connect(Settings(tls_available=True))
    assert deliver(connection, b"STARTTLS\r\n") == events.StartTLS()
    connection.receive_data(behind)
    connection.reply()
    assert connection.next_event() == events.Close()
    assert connection.data_to_send() == b""


def test_the_connection_after_starttls_does_not_greet() -> None:
    connection = Connection(Settings(), lambda: "nonce", tls=True, greet=False)
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b""


# -- slow and failing clients --------------------------------------------------------------------


def test_counts_survive_starttls() -> None:
    before = connect()
    play(before, b"BOGUS\r\n" * 7)
    after = Connection(Settings(), lambda: "nonce", tls=True, greet=False, counts=before.counts)
    kinds = [type(event) for event in play(after, b"BOGUS\r\n" * 3)]
    assert kinds == [events.Tarpit]
    assert before.data_to_send().count(b"500 ") == 7
    assert after.data_to_send().count(b"500 ") == 3


def test_a_burst_of_commands_gives_way_to_others_now_and_then() -> None:
    connection = connect(Settings(limits=Limits(idle_commands=0)))
    kinds = [type(event) for event in play(connection, b"NOOP\r\n" * 350)]
    assert kinds == [events.Full] * 3
    assert connection.data_to_send() == replies.OK.wire * 350


def test_a_body_is_known_to_be_one_until_its_end() -> None:
    connection = connect()
    seen = []
    for said in (b"", ENVELOPE, b"half", b"\r\n.\r\n"):
        play(connection, said)
        seen.append(connection.conversation.reader is not None)
    assert seen == [False, True, True, False]


def test_from_the_tenth_error_each_waits_a_second() -> None:
    connection = connect()
    connection.receive_data(b"X\r\n" * 12)
    assert connection.next_event() == events.Tarpit(1.0)
    assert len(said(connection)) == 10
    assert connection.next_event() is PAUSED
    with pytest.raises(ProtocolError, match="nothing was asked"):
        connection.reply()
    connection.resume()
    assert connection.next_event() == events.Tarpit(1.0)
    assert len(said(connection)) == 1
    connection.resume()
    assert connection.next_event() == events.Tarpit(1.0)
    assert len(said(connection)) == 1
    connection.resume()
    assert connection.next_event() is NEED_DATA
    connection.receive_data(b"NOOP\r\nQUIT\r\n")
    assert connection.next_event() == events.Tarpit(1.0)
    assert said(connection) == ["250 2.0.0 Ok"]


def test_a_wrong_login_may_be_the_error_that_waits() -> None:
    settings = Settings(mechanisms=MECHANISMS, limits=Limits(slow_errors=1))
    connection = connect(settings)
    cram = b"HELO c\r\nAUTH CRAM-MD5\r\ndGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n"
    connection.receive_data(cram)
    connection.next_event()
    connection.reply()
    assert type(connection.next_event()) is events.Auth
    connection.reply(replies.BAD_CREDENTIALS)
    assert connection.next_event() == events.Tarpit(1.0)
    assert connection.next_event() is PAUSED
    connection.resume()
    assert connection.next_event() is NEED_DATA
    assert not connection.conversation.authenticated


# r=abcnonce,s=...,i=4096: the same with a secret and without one
SERVER_FIRST = "334 cj1hYmNub25jZSxzPVpOcHJ2d3o3WHVxSmdiUldUUmVQZlE9PSxpPTQwOTY="


def asked_for_a_secret(settings: Settings) -> Connection:
    connection = connect(settings)
    connection.receive_data(b"HELO c\r\nAUTH SCRAM-SHA-1 bixhPXRpbSxuPXRpbSxyPWFiYw==\r\nNOOP\r\n")
    connection.next_event()
    connection.reply()
    assert connection.next_event() == events.Secret("SCRAM-SHA-1", "tim", str)
    assert connection.next_event() is PAUSED
    connection.data_to_send()
    return connection


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (replies.BAD_CREDENTIALS, ""),
        (replies.AUTH_TROUBLE, ""),
        (None, ""),  # a login that has failed cannot be accepted
        (Reply(235, "2.7.0", "Welcome"), ""),
        (replies.TOO_MANY_LOGINS, str(replies.TOO_MANY_LOGINS)),
    ],
)
def test_a_secret_is_given_when_it_is_asked_for(answer: Reply | None, wanted: str) -> None:
    connection = asked_for_a_secret(Settings(mechanisms=MECHANISMS))
    with pytest.raises(TypeError, match="on_secret returned"):
        connection.give_secret(True)
    with pytest.raises(ValueError, match="surrogates"):
        connection.give_secret("\udcff")
    assert connection.next_event() is PAUSED
    connection.give_secret("tanstaaf")
    with pytest.raises(ProtocolError, match="no secret was asked for"):
        connection.give_secret("tanstaaf")
    with pytest.raises(ProtocolError, match="no secret was asked for"):
        connection.give_derived("tanstaaf")
    event = connection.next_event()  # after NOOP, which is no command here
    assert said(connection) == [SERVER_FIRST]
    assert isinstance(event, events.Auth)
    assert event.username == "tim"
    assert event.conclusion is not None
    connection.reply(answer)
    end = connection.next_event()
    assert isinstance(end, events.Close) if wanted else end is NEED_DATA
    assert said(connection) == [wanted or "501 5.5.2 Malformed authentication response"]
    assert connection.counts.failed_logins == 1 - bool(wanted)
    assert not connection.conversation.authenticated


def test_no_secret_is_as_good_as_no_answer() -> None:
    connection = asked_for_a_secret(Settings(mechanisms=MECHANISMS))
    connection.reply()
    connection.next_event()
    assert said(connection)[0] == SERVER_FIRST


@pytest.mark.parametrize(
    ("answer", "failures"), [(replies.AUTH_TROUBLE, 0), (replies.BAD_CREDENTIALS, 1)]
)
def test_a_secret_may_be_refused(answer: Reply, failures: int) -> None:
    settings = Settings(mechanisms=MECHANISMS, limits=Limits(slow_errors=1))
    connection = asked_for_a_secret(settings)
    connection.reply(answer)
    event = connection.next_event()
    assert (event == events.Tarpit(1.0)) is bool(failures)
    assert connection.counts.failed_logins == failures
    if failures:
        connection.resume()
        connection.next_event()
    assert said(connection) == [str(answer), "250 2.0.0 Ok"]


def test_a_mechanism_that_fails_at_once_is_no_mistake_of_the_client() -> None:
    def run(initial: bytes | None, _context: AuthContext) -> Steps:
        if initial is None:
            raise MechanismError
        yield b""

    settings = Settings(mechanisms={"X-FAILS": Mechanism("X-FAILS", run, needs_tls=False)})
    connection = connect(settings)
    connection.receive_data(b"HELO c\r\nAUTH X-FAILS\r\n")
    connection.next_event()
    connection.reply()
    assert connection.next_event() is NEED_DATA
    assert said(connection)[-1] == str(replies.AUTH_TROUBLE)
    assert connection.counts.errors == 0


def test_a_further_mechanism_is_the_same_login_until_that_is_forgotten() -> None:
    counts = Counts()
    counts.add_failed_login("tim", "PLAIN")
    assert counts.is_further("tim", "LOGIN")
    assert not counts.is_further("tim", "PLAIN")
    assert not counts.is_further("tom", "LOGIN")
    counts.add_failed_login("tim", "LOGIN")
    assert counts.failed_logins == 1
    assert not counts.is_further("tim", "LOGIN")
    counts.forget_tried()
    assert not counts.is_further("tim", "CRAM-MD5")
    counts.add_failed_login("tim", "CRAM-MD5")
    counts.add_failed_login(None, "EXTERNAL")
    counts.add_failed_login(None, "ANONYMOUS")
    assert counts.failed_logins == 4
    counts.add_failed_login("tim", "PLAIN")
    assert counts.failed_logins == 5


# -- steps of a mechanism that are awaited -------------------------------------------------------


def asked_for_a_step() -> tuple[Connection, events.LoginStep]:
    async def run(initial: bytes | None, _context: AuthContext) -> AsyncSteps:
        response = (yield b"pin?") if initial is None else initial
        if not (yield PasswordCredentials("tim", response.decode(), mechanism="X-PIN")):
            yield b"no"

    settings = Settings(mechanisms={"X-PIN": Mechanism("X-PIN", run, needs_tls=False)})
    connection = connect(settings)
    connection.receive_data(b"HELO c\r\nAUTH X-PIN MQ==\r\nNOOP\r\n")
    connection.next_event()
    connection.reply()
    connection.data_to_send()
    return connection, step_of(connection)


def step_of(connection: Connection, *, last: bool = False) -> events.LoginStep:
    event = connection.next_event()
    assert isinstance(event, events.LoginStep)
    assert (event.mechanism, event.username, event.last) == ("X-PIN", "", last)
    assert connection.next_event() is PAUSED
    return event


def outcome(event: events.LoginStep) -> object:
    with pytest.raises(StopIteration) as ended:  # it waits for nothing, and so needs no loop
        event.proceed().__await__().send(None)
    return ended.value.value


@pytest.mark.parametrize(
    ("answer", "replies_to_the_client"),
    [
        (None, [str(replies.AUTHENTICATED), "250 2.0.0 Ok"]),
        (Reply(235, "2.7.0", "Welcome"), ["235 2.7.0 Welcome", "250 2.0.0 Ok"]),
        (
            replies.BAD_CREDENTIALS,
            ["334 bm8=", str(replies.BAD_CREDENTIALS)],
        ),  # NOOP is the response
        (replies.AUTH_TROUBLE, [str(replies.AUTH_TROUBLE), "250 2.0.0 Ok"]),
    ],
)
def test_a_step_is_awaited_by_the_server(
    answer: Reply | None, replies_to_the_client: list[str]
) -> None:
    connection, step = asked_for_a_step()
    connection.give_derived(outcome(step))
    event = connection.next_event()
    assert event == events.Auth("X-PIN", PasswordCredentials("tim", "1", mechanism="X-PIN"))
    connection.reply(answer)
    if answer is not replies.AUTH_TROUBLE:
        assert said(connection) == []  # the decision waits for the last step
        connection.give_derived(outcome(step_of(connection, last=True)))
        with pytest.raises(ProtocolError, match="no secret was asked for"):
            connection.give_derived(b"")
    assert connection.next_event() is NEED_DATA
    assert said(connection) == replies_to_the_client
    assert connection.counts.failed_logins == (answer is replies.BAD_CREDENTIALS)
    accepted = answer is None or answer.code == 235
    assert connection.conversation.authenticated is accepted


def test_a_step_that_is_not_awaited_is_a_failure_of_the_server() -> None:
    connection, _ = asked_for_a_step()
    connection.reply()
    event = connection.next_event()
    assert isinstance(event, events.Auth)
    connection.reply(replies.BAD_CREDENTIALS)
    assert connection.next_event() is NEED_DATA
    assert said(connection) == [str(replies.AUTH_TROUBLE), "250 2.0.0 Ok"]


def test_a_secret_may_be_the_end_of_an_exchange() -> None:
    """A mechanism that ends on it, and one that fails on it: neither is the client's mistake."""

    def run(_initial: bytes | None, _context: AuthContext) -> Steps:
        if (yield SecretWanted("tim")) == "boom":
            raise MechanismError

    settings = Settings(mechanisms={"X-ENDS": Mechanism("X-ENDS", run, needs_tls=False)})
    for secret in ("tanstaaf", "boom"):
        connection = connect(settings)
        connection.receive_data(b"HELO c\r\nAUTH X-ENDS\r\nNOOP\r\n")
        connection.next_event()
        connection.reply()
        assert connection.next_event() == events.Secret("X-ENDS", "tim", str)
        connection.give_secret(secret)
        event = connection.next_event()
        if secret == "boom":
            wanted = ProvedCredentials("tim", proved=False, mechanism="X-ENDS")
            assert event == events.Auth("X-ENDS", wanted, replies.AUTH_TROUBLE)
            connection.reply(replies.BAD_CREDENTIALS)
            assert connection.next_event() is NEED_DATA
            assert connection.counts.failed_logins == 0
            assert said(connection)[-2:] == [str(replies.AUTH_TROUBLE), "250 2.0.0 Ok"]
            assert connection.counts.errors == 0
        else:
            wanted = ProvedCredentials("tim", proved=False, mechanism="X-ENDS")
            assert event == events.Auth("X-ENDS", wanted)


# -- what is told to an observer -----------------------------------------------------------------


def observed(settings: Settings, *pieces: bytes) -> list[tuple[str, str, str]]:
    lines: list[tuple[str, str, str]] = []
    connection = Connection(settings, lambda: "nonce", observer=lambda *line: lines.append(line))
    for piece in pieces:
        play(connection, piece)
    return lines


def test_an_observer_is_told_of_each_line_but_not_of_bodies() -> None:
    lines = observed(Settings(), ENVELOPE + b"secret body\r\n.\r\nquit  \r\n")
    assert lines == [
        ("write", "", "220 localhost smtpd ESMTP Service ready"),
        ("read", "HELO", "HELO c"),
        ("write", "HELO", "250 localhost greets c"),
        ("read", "MAIL", "MAIL FROM:<a@x>"),
        ("write", "MAIL", "250 2.1.0 Ok"),
        ("read", "RCPT", "RCPT TO:<b@x>"),
        ("write", "RCPT", "250 2.1.5 Ok"),
        ("read", "DATA", "DATA"),
        ("write", "DATA", "354 Start mail input; end with <CRLF>.<CRLF>"),
        ("write", ".", "250 2.0.0 Ok: queued"),
        ("read", "QUIT", "QUIT"),
        ("write", "QUIT", "221 2.0.0 localhost smtpd ESMTP Service closing transmission channel"),
    ]


def test_an_observer_is_told_of_chunks_but_not_of_their_bytes_and_of_each_answer() -> None:
    lines = observed(
        Settings(lmtp=True),
        CHUNKED.replace(b"HELO", b"LHLO") + b"RCPT TO:<c@x>\r\nBDAT 6\r\nsecretBDAT 0 last\r\n",
    )
    assert lines[-6:] == [
        ("write", "RCPT", "250 2.1.5 Ok"),
        ("read", "BDAT", "BDAT 6"),
        ("write", "BDAT", "250 2.0.0 6 octets received"),
        ("read", "BDAT", "BDAT 0 last"),
        ("write", ".", "250 2.0.0 Ok: queued"),
        ("write", ".", "250 2.0.0 Ok: queued"),
    ]


SECRET = "AHRpbQB0YW5zdGFhZg=="  # an AUTH PLAIN response


@pytest.mark.parametrize(
    "said_by_client",
    [
        f"AUTH PLAIN {SECRET}",
        f"auth   plain   {SECRET}",
        f"AUTH PLAIN\t{SECRET}",
        f"AUTH PLAIN\r\n{SECRET}",
        f"AUTH LOGIN\r\n{SECRET}\r\n{SECRET}",
        f"AUTH LOGIN {SECRET}\r\n{SECRET}",
        f"AUTH LOGIN !\r\n{SECRET}\r\n{SECRET}",  # refused, and the client did not wait
        f"AUTH NTLM {SECRET}\r\n{SECRET}\r\n{SECRET}",
        f"AUTH=PLAIN {SECRET}\r\n{SECRET}",
        f"AUTH CRAM-MD5 {SECRET}\r\n{SECRET}",
        f"AUTH\tPLAIN {SECRET}\r\n{SECRET}",
        f" AUTH PLAIN {SECRET}\r\n{SECRET}",
        f"AUTH {SECRET}\r\n{SECRET}",
        f"\tauth plain {SECRET}\r\n{SECRET}",
    ],
)
@pytest.mark.parametrize("opened", [frozenset({"PLAIN", "LOGIN"}), frozenset[str]()])
def test_an_observer_is_never_told_a_secret(said_by_client: str, opened: frozenset[str]) -> None:
    settings = Settings(mechanisms=MECHANISMS, open_mechanisms=opened)
    lines = observed(settings, f"HELO c\r\n{said_by_client}\r\nNOOP\r\nBOGUS\r\n".encode())
    told = "\n".join(line for _, _, line in lines)
    assert SECRET.casefold() not in told.casefold()
    assert "NOOP" in told
    assert "BOGUS" in told
    assert SECRET.casefold() not in " ".join(verb for _, verb, _ in lines).casefold()


def test_an_observer_sees_the_challenge() -> None:
    lines = observed(Settings(mechanisms=MECHANISMS), b"HELO c\r\nAUTH CRAM-MD5\r\n*\r\n")
    assert lines[3:] == [
        ("read", "AUTH", "AUTH CRAM-MD5"),
        ("write", "AUTH", "334 PG5vbmNlQGxvY2FsaG9zdD4="),
        ("read", "AUTH", "****"),
        ("write", "AUTH", "501 5.7.0 Authentication cancelled"),
    ]


def test_an_observer_is_not_told_what_passwords_could_be_tried_with() -> None:
    first = b"HELO c\r\nAUTH SCRAM-SHA-1 bixhPXRpbSxuPXRpbSxyPWFiYw==\r\n*\r\n"
    lines = observed(Settings(mechanisms=MECHANISMS), first)
    assert lines[3:5] == [
        ("read", "AUTH", "AUTH SCRAM-SHA-1 ****"),
        ("write", "AUTH", "334 ****"),
    ]


def test_an_observer_sees_the_names_of_ones_own_mechanisms() -> None:
    own = {"X-OWN": replace(MECHANISMS["PLAIN"], name="X-OWN")}
    lines = observed(Settings(mechanisms=own), b"HELO c\r\nAUTH x-own secret\r\nAUTH y x\r\n")
    assert [line for way, _, line in lines if way == "read"][1:] == [
        "AUTH x-own ****",
        "AUTH **** ****",
    ]


def test_lines_of_an_observer_have_no_control_characters() -> None:
    lines = observed(Settings(), b"NOOP \x1b[2J\r\nVRFY a\tb\r\nNOOP \xc2\x85\r\n")
    assert not [line for _, _, line in lines if not line.isprintable()]
