"""Each event is one log line, with the session's id and without a traceback."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Peer, Reject, Session
from ehlo.server.observing.journal import shown
from support.certificates import Certificates
from support.logins import plain
from support.serving import Box, Running, Serve

EVENTS = ("ehlo.connection", "ehlo.login", "ehlo.message", "ehlo.refusal")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return the log, which has all events from the start."""
    caplog.set_level(logging.INFO, "ehlo")
    return caplog


def of(log: pytest.LogCaptureFixture, running: Running) -> list[dict[str, Any]]:
    """Return the fields of the events, once all sessions have ended."""
    running.wait_until_no_sessions()
    return [vars(record) for record in log.records if record.name in EVENTS]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_a_session_is_logged_line_by_line(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box())
    with running.ready() as client:
        peer = str(Peer(*client.sock.getsockname()))
        client.mail(recipients=["b@example.com", "c@example.com"])
        client.say("RCPT TO:<d@example.com>")
        client.say("QUIT")
    events = of(lines, running)
    assert names(events) == [
        *("connection opened", "message accepted", "rejected", "connection closed")
    ]
    assert len({event["session"] for event in events}) == 1
    assert {event["peer"] for event in events} == {peer}
    message, rejected, closed = events[1:]
    assert (message["from"], message["recipients"]) == ("<a@example.com>", 2)
    assert message["to"] == "<b@example.com>,<c@example.com>"
    assert "queue_id" not in message
    assert message["size"] == len(b"Subject: a test\r\n\r\nHello.\r\n")
    assert message["message_id"] == f"{message['session']}-1"
    assert (rejected["verb"], rejected["code"], rejected["reason"]) == ("RCPT", 503, "mail_first")
    assert closed["messages"] == 1
    assert closed["received"] > 100
    text = message["message"]
    assert text.startswith(f"message accepted session={message['session']} peer={peer} ")
    assert " from=<a@example.com> to=<b@example.com>,<c@example.com> recipients=2 size=27 " in text


class Queue(Handler):
    """Returns a queue id for each message."""

    async def on_message(self, session: Session, message: Message) -> str:
        return "q-17"


def test_a_queue_id_and_the_first_recipients_are_logged(
    serve: Serve, lines: pytest.LogCaptureFixture
) -> None:
    running = serve(Queue())
    with running.ready() as client:
        client.mail(recipients=[f"user{number}@example.com" for number in range(12)])
    (event,) = [event for event in of(lines, running) if event["event"] == "message accepted"]
    assert event["queue_id"] == "q-17"
    assert event["to"] == ",".join(f"<user{number}@example.com>" for number in range(10))
    assert event["recipients"] == 12
    assert event["ms"] >= 0


class Picky(Handler):
    """Rejects a sender, a recipient and a message."""

    async def on_mail(self, session: Session, sender: Address, params: object) -> None:
        if sender.local == "no":
            raise Reject(550, "5.7.1", "Not from you")

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        if recipient.local == "no":
            raise Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session: Session, message: Message) -> None:
        raise Reject(554, "5.7.1", "Not this")


def test_a_rejection_names_its_mail(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Picky())
    with running.ready() as client:
        client.say("MAIL FROM:<no@a.example>")
        client.say("MAIL FROM:<>")
        client.say("RCPT TO:<no@b.example>")
        client.say("RCPT TO:<a..b@c.example>")
        client.say("RCPT hunter2")
        for number in range(11):
            client.say(f"RCPT TO:<user{number}@b.example>")
        client.say("DATA")
        client.say("x\r\n.")
        client.say("DATA")
    names = ("from", "recipient", "to", "recipients", "size", "verb", "code")
    rejected = [event for event in of(lines, running) if event["event"] == "rejected"]
    to = ",".join(f"<user{number}@b.example>" for number in range(10))
    assert [{name: event[name] for name in names if name in event} for event in rejected] == [
        {"from": "<no@a.example>", "verb": "MAIL", "code": 550},
        {"from": "<>", "recipient": "<no@b.example>", "verb": "RCPT", "code": 550},
        {"from": "<>", "recipient": "<a..b@c.example>", "verb": "RCPT", "code": 501},
        {"from": "<>", "verb": "RCPT", "code": 501},
        {"from": "<>", "to": to, "recipients": 11, "size": 3, "verb": "END-OF-DATA", "code": 554},
        {"verb": "DATA", "code": 503},
    ]
    assert "hunter2" not in lines.text
    assert " verb=RCPT from=<> recipient=<no@b.example> code=550 " in rejected[1]["message"]


def test_a_path_that_cannot_be_read_forges_no_field(
    serve: Serve, lines: pytest.LogCaptureFixture
) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.say("MAIL FROM:<a@b.example>")
        client.say(f'RCPT TO:<x"y=\u202e{"z" * 400}@c.example>')
    (event,) = [event for event in of(lines, running) if event["event"] == "rejected"]
    assert len(event["recipient"]) == 322
    assert 'recipient="<x\\"y=\\u202ez' in event["message"]


def test_tls_is_logged(
    serve: Serve, lines: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server())
    with running.ready() as client:
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        client.mail()
    events = of(lines, running)
    assert names(events)[1:3] == ["connection secured", "message accepted"]
    assert [event["tls"] for event in events[1:3]] == ["TLSv1.3", "TLSv1.3"]


@pytest.mark.usefixtures("no_delay")
def test_a_login_is_one_line_without_its_password(
    serve: Serve, lines: pytest.LogCaptureFixture
) -> None:
    running = serve(
        Box(),
        auth_handler=lambda _a, _m, _u, password, _s: password == b"wonder",
        auth_mechs={"PLAIN": True},
    )
    with running.ready() as client:
        client.say(plain("alice", "blunder"))
        client.say(plain("alice", "wonder"))
        client.mail()
    events = of(lines, running)
    assert names(events)[1:-1] == ["login rejected", "login accepted", "message accepted"]
    assert (events[1]["mechanism"], events[1]["code"]) == ("PLAIN", 535)
    assert "alice" not in events[1]["message"]
    assert (events[2]["user"], events[2]["mechanism"]) == ("alice", "PLAIN")
    assert events[3]["user"] == "alice"
    assert "wonder" not in lines.text
    assert "blunder" not in lines.text


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(("level", "logged"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_the_name_of_a_rejected_login_is_logged_at_debug_only(
    serve: Serve, lines: pytest.LogCaptureFixture, level: int, logged: bool
) -> None:
    lines.set_level(level, "ehlo.login")
    name = "hunter2\x1b[2J\r\nlogin accepted " + 200 * "x"
    running = serve(Box(), auth_handler=lambda *_: False, auth_mechs={"PLAIN": True})
    with running.ready() as client:
        client.say(plain(name, "pw"))
    (event,) = [event for event in of(lines, running) if event["event"] == "login rejected"]
    assert ("hunter2" in lines.text) is ("claimed" in event) is logged
    if logged:
        assert event["claimed"] == name[:100]
        assert 'claimed="hunter2\\u001b[2J\\r\\nlogin accepted xxx' in event["message"]


def test_a_password_instead_of_a_command_is_not_logged(
    serve: Serve, lines: pytest.LogCaptureFixture
) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.say("AUTH LOGIN")
        client.say("c2VjcmV0")
        client.say("hunter2 hunter2")
    events = of(lines, running)
    assert [event["verb"] for event in events[1:-1]] == ["AUTH", "unknown", "unknown"]
    assert "c2VjcmV0" not in lines.text
    assert "hunter2" not in lines.text.lower()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
        b"\x16\x03\x01\x00\n\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"",
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhalf of",
    ],
    ids=["http", "tls", "tls-line", "noise", "nothing", "half"],
)
@pytest.mark.parametrize("cut", [False, True], ids=["fin", "reset"])
def test_scanners_and_clients_that_hang_up_are_not_errors(
    serve: Serve, lines: pytest.LogCaptureFixture, loop_name: str, sent: bytes, cut: bool
) -> None:
    running = serve(Box(), loop=loop_name)
    with running.client() as client:
        client.reply()
        client.send(sent)
        if cut:
            client.reset()
        else:
            client.end()
            client.rest()
    events = of(lines, running)
    assert names(events)[0] == "connection opened"
    assert names(events)[-1] == "connection closed"
    assert {event["session"] for event in events} == {events[0]["session"]}
    assert [record for record in lines.records if record.levelno > logging.INFO] == []
    assert all(record.exc_info is None for record in lines.records)


def test_a_scanner_on_a_tls_port_is_not_an_error(
    serve: Serve, lines: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True)
    with running.client() as client:
        client.send(b"EHLO c\r\n")
        client.rest()
    assert names(of(lines, running)) == ["connection opened", "TLS failed", "connection closed"]
    assert [record for record in lines.records if record.levelno > logging.INFO] == []


def test_a_rejected_connection_has_a_line(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box(), max_connections=1)
    with running.ready(), running.client() as other:
        other.rest()
    (event,) = [event for event in of(lines, running) if "reason" in event]
    assert event["message"].startswith("connection rejected peer=127.0.0.1:")
    assert event["reason"] == "too many"


def test_a_log_at_level_warning_has_no_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ehlo")
    running = serve(Box())
    with running.ready() as client:
        client.mail()
        client.say("NONSENSE")
    assert of(caplog, running) == []


def test_an_address_cannot_end_its_field(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.say('MAIL FROM:<"a b\\"= c"@example.com>')
        client.say("RCPT TO:<b@example.com>")
        client.say("DATA")
        client.say("x\r\n.")
    (event,) = [event for event in of(lines, running) if event["event"] == "message accepted"]
    assert re.search(r' from="<[^"\\]*(\\.[^"\\]*)*>" to=<b@example.com> ', event["message"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a@example.com", "a@example.com"),
        (250, "250"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        ("Ünal", '"Ünal"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\x7f\x9b\u2028\u202e\ud800", '"\\u007f\\u009b\\u2028\\u202e\\ud800"'),
    ],
)
def test_values_are_escaped(value: object, text: str) -> None:
    assert shown(value) == text
