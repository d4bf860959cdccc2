"""The table of commands, and what is derived from it."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.address import NULL_PATH
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import State, Transaction
from ehlo.protocol.verbs import ASKED, QUESTIONS, TRANSITIONS, VERBS, table_of
from ehlo.protocol.verbs.verb import Question, Verb

# -- rows ----------------------------------------------------------------------------------------


def parse(_conversation: Conversation, argument: str) -> str:
    return argument


def accept(_conversation: Conversation, _subject: object, _answer: Reply | None) -> Reply:
    return replies.OK


def reject(_conversation: Conversation, _subject: object, answer: Reply) -> Reply:
    return answer


ROW: dict[str, Any] = {"since": {State.READY}, "to": None, "parse": parse, "accept": accept}
ASKS: dict[str, Any] = {"event": events.Vrfy, "reject": reject, "hook": "on_vrfy"}
PLAIN: dict[str, Any] = {
    "usual": lambda _conversation, _packet: None,
    "to": State.MAIL,
    "progress": True,
}


def test_a_row_may_have_no_more_than_it_needs() -> None:
    row = Verb("XFOO", **ROW)
    assert row.simple
    assert row.after(State.READY) is State.READY
    assert Verb("XFOO", **ROW, **ASKS).event is events.Vrfy


@pytest.mark.parametrize("name", ROW)
def test_a_row_that_lacks_something_cannot_be_made(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        Verb("XFOO", **{key: value for key, value in ROW.items() if key != name})


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("XFOO", {"event": events.Vrfy}, "event and reject go together"),
        ("XFOO", {"reject": reject}, "event and reject go together"),
        ("XFOO", {**ASKS, "hook": ""}, "no hook answers Vrfy"),
        ("XFOO", {"always": True}, "always asked, without an event"),
        ("xfoo", {}, "a name in upper case"),
        ("", {}, "a name in upper case"),
        ("XFOO", {"since": set[State]()}, "states"),
        ("XFOO", {"elsewhere": {State.READY: replies.OK}}, "legal, and out of sequence"),
        ("XFOO", {**PLAIN, "progress": False}, "plain form"),
        ("XFOO", {**PLAIN, "ends": True}, "plain form"),
        ("XFOO", {**PLAIN, "trusted": True}, "plain form"),
        ("XFOO", {**PLAIN, "to": None}, "plain form"),
        ("XFOO", {**PLAIN, "to": None, "usual_is_whole": True}, "plain form"),
        ("XFOOBAR", PLAIN, "plain form"),
    ],
)
def test_a_row_that_contradicts_itself_cannot_be_made(
    name: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Verb(name, **{**ROW, **more})


def test_a_question_that_lacks_something_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="event and reject go together"):
        Question("", to=None, accept=accept, event=events.Vrfy)


def test_two_rows_of_one_name_make_no_table() -> None:
    row = Verb("XFOO", **ROW)
    with pytest.raises(ValueError, match="two rows have the same name"):
        table_of(row, row)


# -- the table -----------------------------------------------------------------------------------


def test_all_questions_are_there_and_those_of_a_hook_name_it() -> None:
    asked = {
        *(events.Connect, events.Hello, events.Mail, events.Rcpt, events.Data, events.Vrfy),
        *(events.Reset, events.MessageEnd, events.Secret, events.Auth, events.StartTLS),
        *(events.XClient, events.Command),
    }
    assert set(ASKED) == asked
    assert {row.hook for row in ASKED.values()} == {
        *("", "on_connect", "on_hello", "on_mail", "on_rcpt", "on_data", "on_vrfy", "on_reset"),
        *("on_command", "on_starttls"),
    }
    assert {
        *(events.Connect, events.Hello, events.Mail, events.Rcpt, events.Data, events.Vrfy),
        events.Reset,
    } == QUESTIONS


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        (events.CONNECT, ()),
        (events.Hello("c", esmtp=True), ("c",)),
        (events.Mail(NULL_PATH), (NULL_PATH, NULL_PATH.params)),
        (events.Rcpt(NULL_PATH), (NULL_PATH, NULL_PATH.params)),
        (events.DATA, ()),
        (events.Vrfy("x", smtputf8=True), ("x",)),
        (events.RESET, ()),
        (events.Command("XFOO", "bar"), ("XFOO", "bar")),
    ],
)
def test_a_hook_gets_what_the_row_says(event: events.Event, arguments: tuple[object, ...]) -> None:
    assert ASKED[type(event)].arguments(event) == arguments


# -- legal moves ---------------------------------------------------------------------------------


def reachable(start: State) -> set[State]:
    found = {start}
    while more := {to for (at, _), to in TRANSITIONS.items() if at in found} - found:
        found |= more
    return found


def test_every_verb_of_the_table_is_one_of_the_rows() -> None:
    assert {verb for _, verb in TRANSITIONS} - {"."} == set(VERBS)


def test_a_body_is_ended_by_its_dot_alone() -> None:
    assert {verb for at, verb in TRANSITIONS if at in (State.DATA, State.ENDED)} == {"."}


def test_nothing_leads_out_of_the_end_or_of_tls() -> None:
    assert not [at for at, _ in TRANSITIONS if at in (State.CLOSED, State.TLS, State.GREETING)]


def test_all_can_be_reached_but_what_is_no_command() -> None:
    assert reachable(State.HELLO) == set(State) - {State.REFUSED}
    assert reachable(State.REFUSED) == {State.REFUSED, State.CLOSED}


def test_a_transaction_needs_a_hello_a_sender_and_a_recipient() -> None:
    assert [at for at, verb in TRANSITIONS if verb == "MAIL"] == [State.READY]
    assert [at for at, verb in TRANSITIONS if verb == "DATA"] == [State.RCPT]
    assert {at for at, verb in TRANSITIONS if verb == "BDAT"} == {State.RCPT, State.BDAT}
    assert {at for at, verb in TRANSITIONS if verb == "RCPT"} == {State.MAIL, State.RCPT}


@pytest.mark.parametrize("verb", ["HELO", "EHLO", "LHLO", "RSET"])
@pytest.mark.parametrize("state", [State.MAIL, State.RCPT, State.BDAT])
def test_hello_and_rset_lead_out_of_a_transaction(state: State, verb: str) -> None:
    assert TRANSITIONS[state, verb] is State.READY


@pytest.mark.parametrize("verb", ["NOOP", "HELP", "VRFY", "EXPN"])
def test_what_changes_nothing_leads_nowhere(verb: str) -> None:
    moves = {at: to for (at, name), to in TRANSITIONS.items() if name == verb}
    assert all(at is to for at, to in moves.items())
    assert len(moves) == 5
    assert TRANSITIONS[State.HELLO, "RSET"] is State.HELLO


def test_words_for_what_is_out_of_sequence_are_503() -> None:
    replied = [
        reply
        for verb in VERBS.values()
        for reply in verb.elsewhere.values()
        if isinstance(reply, Reply)
    ]
    assert {reply.code for reply in replied} == {503}


def test_a_state_shows_its_name() -> None:
    assert repr(State.READY) == "READY"


def test_a_new_transaction_knows_nothing() -> None:
    transaction = Transaction(NULL_PATH)
    assert transaction.recipients == []
    assert (transaction.refused, transaction.over_limit, transaction.size) == (0, 0, 0)
    assert transaction.refusal is None
    assert not transaction.smtputf8
