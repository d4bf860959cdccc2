"""One line for each thing that happens: with the session's id, and without a traceback."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from ehlo import Peer
from ehlo.server.observing.journal import shown
from support.certificates import Certificates
from support.logins import plain
from support.serving import Box, Running, Serve

EVENTS = ("ehlo.connection", "ehlo.login", "ehlo.message", "ehlo.refusal")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, with all events in it from the start."""
    caplog.set_level(logging.INFO, "ehlo")
    return caplog


def of(log: pytest.LogCaptureFixture, running: Running) -> list[dict[str, Any]]:
    """The events, as fields, once all sessions are over."""
    running.wait_until_no_sessions()
    return [vars(record) for record in log.records if record.name in EVENTS]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_a_session_is_told_line_by_line(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box())
    with running.ready() as client:
        peer = str(Peer(*client.sock.getsockname()))
        client.mail(recipients=["b@example.com", "c@example.com"])
        client.say("RCPT TO:<d@example.com>")
        client.say("QUIT")
    events = of(lines, running)
    assert names(events) == [
        *("connection opened", "message accepted", "refused", "connection closed")
    ]
    assert len({event["session"] for event in events}) == 1
    assert {event["peer"] for event in events} == {peer}
    message, refused, closed = events[1:]
    assert (message["sender"], message["recipients"]) == ("<a@example.com>", 2)
    assert message["size"] == len(b"Subject: a test\r\n\r\nHello.\r\n")
    assert message["message_id"] == f"{message['session']}.1"
    assert (refused["verb"], refused["code"], refused["reason"]) == ("RCPT", 503, "mail_first")
    assert closed["messages"] == 1
    assert closed["received"] > 100
    text = message["message"]
    assert text.startswith(f"message accepted session={message['session']} peer={peer} ")
    assert " sender=<a@example.com> recipients=2 size=27 " in text


def test_tls_is_told_of(
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
    assert names(events)[1:-1] == ["login refused", "login accepted", "message accepted"]
    assert (events[1]["mechanism"], events[1]["code"]) == ("PLAIN", 535)
    assert "alice" not in events[1]["message"]
    assert (events[2]["user"], events[2]["mechanism"]) == ("alice", "PLAIN")
    assert events[3]["user"] == "alice"
    assert "wonder" not in lines.text
    assert "blunder" not in lines.text


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(("level", "told"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_who_a_wrong_login_claims_to_be_is_for_debugging_alone(
    serve: Serve, lines: pytest.LogCaptureFixture, level: int, told: bool
) -> None:
    lines.set_level(level, "ehlo.login")
    name = "hunter2\x1b[2J\r\nlogin accepted " + 200 * "x"
    running = serve(Box(), auth_handler=lambda *_: False, auth_mechs={"PLAIN": True})
    with running.ready() as client:
        client.say(plain(name, "pw"))
    (event,) = [event for event in of(lines, running) if event["event"] == "login refused"]
    assert ("hunter2" in lines.text) is ("claimed" in event) is told
    if told:
        assert event["claimed"] == name[:100]
        assert 'claimed="hunter2\\u001b[2J\\r\\nlogin accepted xxx' in event["message"]


def test_a_password_in_the_place_of_a_command_is_not_told(
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
    "said",
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
def test_scanners_and_who_hangs_up_are_no_errors(
    serve: Serve, lines: pytest.LogCaptureFixture, loop_name: str, said: bytes, cut: bool
) -> None:
    running = serve(Box(), loop=loop_name)
    with running.client() as client:
        client.reply()
        client.send(said)
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


def test_a_scanner_on_a_tls_port_is_no_error(
    serve: Serve, lines: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True)
    with running.client() as client:
        client.send(b"EHLO c\r\n")
        client.rest()
    assert names(of(lines, running)) == ["connection opened", "TLS failed", "connection closed"]
    assert [record for record in lines.records if record.levelno > logging.INFO] == []


def test_who_is_turned_away_has_a_line(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box(), max_connections=1)
    with running.ready(), running.client() as other:
        other.rest()
    (event,) = [event for event in of(lines, running) if "reason" in event]
    assert event["message"].startswith("connection turned away peer=127.0.0.1:")
    assert event["reason"] == "too many"


def test_a_log_that_is_not_wanted_has_no_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ehlo")
    running = serve(Box())
    with running.ready() as client:
        client.mail()
        client.say("NONSENSE")
    assert of(caplog, running) == []


def test_no_line_ends_where_a_client_wants(serve: Serve, lines: pytest.LogCaptureFixture) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.say('MAIL FROM:<"a b\\"= c"@example.com>')
        client.say("RCPT TO:<b@example.com>")
        client.say("DATA")
        client.say("x\r\n.")
    (event,) = [event for event in of(lines, running) if event["event"] == "message accepted"]
    assert re.search(r' sender="<[^"\\]*(\\.[^"\\]*)*>" recipients=1 ', event["message"])


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
def test_values_are_shown_so_that_nothing_obeys_them(value: object, text: str) -> None:
    assert shown(value) == text
