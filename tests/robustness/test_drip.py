"""Clients that drip are sent away, beside honest ones that are slow."""

from __future__ import annotations

import threading
import time

import pytest

from support.serving import Box, Serve


def drip(client_socket: object, octets: int) -> None:
    """One octet a moment, for as long as the server takes them."""
    send = client_socket.sendall  # type: ignore[attr-defined]  # a socket, plain or of TLS
    pause = threading.Event()
    try:
        for _ in range(octets):
            send(b"x")
            pause.wait(0.05)
    except OSError:
        return


def test_dripped_bodies_end_and_a_slow_honest_one_does_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, loop_name: str
) -> None:
    monkeypatch.setattr("ehlo.server.deadlines.GRACE", 0.5)
    box = Box()
    running = serve(box, timeout=2, min_body_rate=500, loop=loop_name)
    drippers = [running.ready() for _ in range(5)]
    threads = []
    for client in drippers:
        client.begin_message(b"", end=b"")
        client.replies(3)
        threads.append(threading.Thread(target=drip, args=(client.sock, 400)))
        threads[-1].start()
    pause = threading.Event()
    with running.ready() as honest:
        honest.begin_message(b"", end=b"")
        honest.replies(3)
        for _ in range(20):
            honest.send(b"y" * 198 + b"\r\n")
            pause.wait(0.1)
        honest.send(b".\r\n")
        assert honest.reply() == "250 2.0.0 Ok: queued"
    begun = time.monotonic()
    for client in drippers:
        assert b"421 4.4.2 " in client.rest() or client.is_closed()
        client.close()
    assert time.monotonic() - begun < 10
    for thread in threads:
        thread.join()
    assert len(box.bodies) == 1


def test_dripped_chunks_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ehlo.server.deadlines.GRACE", 0.5)
    running = serve(Box(), timeout=5, min_body_rate=500)
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<b@example.com>")
        begun = time.monotonic()
        pause = threading.Event()
        answer = ""
        while not answer.startswith("421") and time.monotonic() - begun < 10:
            client.send(b"BDAT 1\r\nx")
            answer = client.reply()
            pause.wait(0.1)
        assert answer.startswith("421 4.4.2 ")
        assert time.monotonic() - begun < 5
