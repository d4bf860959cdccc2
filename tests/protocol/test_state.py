"""The table of legal moves."""

from __future__ import annotations

import pytest

from ehlo.protocol.address import NULL_PATH, Address
from ehlo.protocol.commands import LEGAL, LEGAL_IN_LMTP, VERBS
from ehlo.protocol.state import OUT_OF_SEQUENCE, TRANSITIONS, State, Transaction


def reachable(start: State) -> set[State]:
    found = {start}
    while more := {to for (at, _), to in TRANSITIONS.items() if at in found} - found:
        found |= more
    return found


def test_every_verb_of_the_table_is_one_of_ours() -> None:
    assert {verb for _, verb in TRANSITIONS} - {"."} == set(VERBS)


def test_a_body_is_ended_by_its_dot_alone() -> None:
    assert {verb for at, verb in TRANSITIONS if at in (State.DATA, State.ENDED)} == {"."}


def test_nothing_leads_out_of_the_end_or_of_tls() -> None:
    assert not [at for at, _ in TRANSITIONS if at in (State.CLOSED, State.TLS, State.GREETING)]


def test_all_can_be_reached_but_what_is_no_command() -> None:
    others = {State.REFUSED, State.AUTH}
    assert reachable(State.HELLO) == set(State) - others
    assert reachable(State.REFUSED) == {State.REFUSED, State.CLOSED}


def test_a_transaction_needs_a_hello_a_sender_and_a_recipient() -> None:
    assert [at for at, verb in TRANSITIONS if verb == "MAIL"] == [State.READY]
    assert [at for at, verb in TRANSITIONS if verb == "DATA"] == [State.RCPT]
    assert {at for at, verb in TRANSITIONS if verb == "BDAT"} == {State.RCPT, State.BDAT}
    assert {at for at, verb in TRANSITIONS if verb == "RCPT"} == {State.MAIL, State.RCPT}


def test_words_for_what_is_out_of_sequence_are_for_what_is() -> None:
    assert not OUT_OF_SEQUENCE.keys() & TRANSITIONS.keys()
    assert {reply.code for reply in OUT_OF_SEQUENCE.values()} == {503}


@pytest.mark.parametrize("state", State)
def test_functions_stand_where_the_table_has_a_row(state: State) -> None:
    looked_at = {".", "STARTTLS", "AUTH", "BDAT", "XCLIENT", "XFORWARD"}
    if state is State.BDAT:  # these give up a body that has begun
        looked_at |= {"HELO", "EHLO", "LHLO", "RSET"}
    rows = {verb for at, verb in TRANSITIONS if at is state} - looked_at
    assert set(LEGAL[state]) == rows - {"LHLO"}
    assert set(LEGAL_IN_LMTP[state]) == rows - {"HELO", "EHLO"}
    assert repr(state) == state.name


def test_a_new_transaction_knows_nothing() -> None:
    transaction = Transaction(NULL_PATH)
    assert transaction.recipients == []
    assert (transaction.refused, transaction.over_limit, transaction.size) == (0, 0, 0)
    assert transaction.refusal is None
    assert not transaction.smtputf8
    assert Transaction(Address("a", "x", {"SMTPUTF8": True})).smtputf8
