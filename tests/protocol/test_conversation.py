"""A conversation alone: what the rows of the verbs exclude."""

from __future__ import annotations

import pytest

from ehlo.protocol import events
from ehlo.protocol.address import NULL_PATH
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import no_transaction
from ehlo.protocol.reply import ProtocolError
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import State, Transaction
from ehlo.protocol.verbs import login


def test_what_needs_a_transaction_or_a_login_says_so() -> None:
    conversation = Connection(Settings(), lambda: "nonce").conversation
    with pytest.raises(ProtocolError, match="no transaction is open"):
        no_transaction()
    with pytest.raises(ProtocolError, match="no login is under way"):
        login.give(conversation, None)


def test_the_end_of_a_transaction_tells_of_chunks_that_are_abandoned() -> None:
    connection = Connection(Settings(), lambda: "nonce")
    conversation = connection.conversation
    assert conversation.end_transaction() is None
    assert conversation.state is State.GREETING
    for state, told in ((State.BDAT, events.BODY_DROPPED), (State.ENDED, None)):
        conversation.transaction, conversation.state = Transaction(NULL_PATH), state
        conversation.forwarded = {"NAME": "a"}
        assert conversation.end_transaction() is told
        assert connection.state is State.READY
        assert connection.transaction is None
        assert not conversation.forwarded


def test_the_last_reply_is_seen() -> None:
    connection = Connection(Settings(), lambda: "nonce")
    assert not connection.over
    connection.hang_up()
    assert connection.over


def test_each_transaction_has_a_namespace_for_values_of_the_user() -> None:
    transaction = Transaction(NULL_PATH)
    transaction.state.list = "news"
    assert vars(transaction.state) == {"list": "news"}
    assert vars(Transaction(NULL_PATH).state) == {}
