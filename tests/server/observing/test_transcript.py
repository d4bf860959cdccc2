"""What is said, line by line: `debug`, `log_read`, `log_write` and the logger `ehlo.transcript`."""

from __future__ import annotations

import logging

import pytest

from ehlo import Peer
from support.logins import plain
from support.serving import Box, Serve

Line = tuple[Peer, str, str]


def transcript(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "ehlo.transcript"]


def test_callbacks_get_peer_verb_and_line(serve: Serve) -> None:
    read: list[Line] = []
    written: list[Line] = []
    running = serve(
        Box(),
        log_read=lambda *line: read.append(line),
        log_write=lambda *line: written.append(line),
    )
    with running.client() as client:
        client.reply()
        client.say("helo  client.example ")
        client.say("mail from:<a@example.com>")
        client.say("RCPT TO:<b@example.com>")
        client.say("DATA")
        client.say("secret body\r\n.")
        client.say("NONSENSE x")
        client.say("QUIT")
        peer = client.sock.getsockname()
    assert {line[0] for line in (*read, *written)} == {peer}
    assert isinstance(read[0][0], Peer)
    assert [line[1] for line in read][:4] == ["HELO", "MAIL", "RCPT", "DATA"]
    assert [line[2] for line in read][1:4] == [
        "MAIL from:<a@example.com>",
        "RCPT TO:<b@example.com>",
        "DATA",
    ]
    assert [line[2][:3] for line in written] == [
        *("220", "250", "250", "250", "354", "250", "500", "221")
    ]
    assert [line[1] for line in written][1:5] == ["HELO", "MAIL", "RCPT", "DATA"]
    assert not any("secret body" in line[2] for line in (*read, *written))
    assert not any("\r" in line[2] or "\n" in line[2] for line in (*read, *written))


def test_debug_logs_each_line_with_session_and_peer(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.transcript")
    with serve(Box(), debug=True).ready() as client:
        client.say("NOOP")
        peer = Peer(*client.sock.getsockname())
    lines = [record.getMessage() for record in transcript(caplog)]
    assert {record.levelno for record in transcript(caplog)} == {logging.INFO}
    session_id = lines[0].split()[0]
    assert lines[0] == f"{session_id} {peer} -> 220 mx.example smtpd ESMTP Service ready"
    assert lines[1] == f"{session_id} {peer} <- EHLO client.example"
    assert f"{session_id} {peer} <- NOOP" in lines
    assert lines[-1] == f"{session_id} {peer} -> 250 2.0.0 Ok"


def test_without_debug_nothing_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serve(Box()).ready() as client:
        client.mail()
    assert transcript(caplog) == []


def test_the_logger_alone_switches_it_on_for_all_servers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ehlo.transcript")
    with serve(Box()).ready() as client:
        client.say("NOOP")
    assert {record.levelno for record in transcript(caplog)} == {logging.DEBUG}
    assert any("<- NOOP" in record.getMessage() for record in transcript(caplog))


def test_credentials_are_masked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    running = serve(Box(), debug=True, auth_handler=lambda *_: True, auth_mechs={"PLAIN": True})
    with running.ready() as client:
        client.say(plain("alice", "wonder"))
    lines = [record.getMessage().split(" ", 2)[2] for record in transcript(caplog)]
    assert "<- AUTH PLAIN ****" in lines
    assert plain("alice", "wonder") not in caplog.text


def test_a_callback_that_fails_does_not_end_the_session(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with serve(Box(), log_read=fail, log_write=fail).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert "the disk is full" in caplog.text


def test_no_control_or_direction_character_is_in_a_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.transcript")
    with serve(Box(), debug=True).ready() as client:
        for line in ("NOOP \x1b[31m", "HELO a\u202eb", "MAIL FROM:<\u2066a@b.example> SMTPUTF8"):
            client.send(line.encode() + b"\r\n")
            client.reply()
    lines = [record.getMessage() for record in transcript(caplog)]
    assert all(line.isprintable() for line in lines)
    assert any(r"HELO a\u202eb" in line for line in lines)
