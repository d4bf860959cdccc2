"""A conversation alone: what the rows of the verbs exclude."""

from __future__ import annotations

import pytest

from ehlo.protocol import events
from ehlo.protocol.address import NULL_PATH
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import no_transaction
from ehlo.protocol.reply import REFUSED, ProtocolError
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


def hear(connection: Connection, line: bytes) -> None:
    """Pass a command to the core, which asks about it."""
    connection.receive_data(line)
    assert isinstance(connection.next_event(), events.Event)


def test_a_transaction_is_there_while_the_server_is_asked_about_its_sender() -> None:
    connection = Connection(Settings(), lambda: "nonce", greet=False)
    hear(connection, b"HELO c\r\n")
    connection.reply()
    hear(connection, b"MAIL FROM:<a@example.com>\r\n")
    asked = connection.transaction
    assert asked is not None
    assert asked.sender == "a@example.com"
    assert not asked.recipients
    assert connection.state is State.READY
    asked.state.score = 1
    connection.reply()
    assert connection.transaction is asked
    assert asked.state.score == 1
    connection.receive_data(b"MAIL FROM:<b@example.com>\r\n")
    assert connection.next_event() is events.NEED_DATA
    assert connection.transaction is asked


def test_a_rejected_mail_leaves_no_transaction_and_what_was_forwarded() -> None:
    connection = Connection(Settings(), lambda: "nonce", greet=False)
    hear(connection, b"HELO c\r\n")
    connection.reply()
    connection.conversation.forwarded = {"NAME": "a"}
    hear(connection, b"MAIL FROM:<a@example.com>\r\n")
    connection.reply(REFUSED)
    assert connection.transaction is None
    assert connection.conversation.forwarded == {"NAME": "a"}


def test_the_command_of_a_hello_is_known_while_the_server_is_asked_about_it() -> None:
    connection = Connection(Settings(), lambda: "nonce", greet=False)
    conversation = connection.conversation
    known = []
    for verb, answer in (("EHLO", REFUSED), ("EHLO", None), ("HELO", REFUSED), ("HELO", None)):
        hear(connection, f"{verb} c\r\n".encode())
        asked = conversation.esmtp
        connection.reply(answer)
        known.append((asked, conversation.esmtp))
    assert known == [(True, False), (True, True), (False, True), (False, False)]


def test_each_transaction_has_a_namespace_for_values_of_the_user() -> None:
    transaction = Transaction(NULL_PATH)
    transaction.state.list = "news"
    assert vars(transaction.state) == {"list": "news"}
    assert vars(Transaction(NULL_PATH).state) == {}
