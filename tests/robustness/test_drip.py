"""Clients that drip a body are sent away; a slow honest one beside them is served."""

from __future__ import annotations

import contextlib

from support.clock import StoppedClock
from support.serving import Box, Serve

STEP = 10  # seconds
RATE = 500  # bytes per second that a body must bring once it is a minute old


def test_dripped_bodies_end_and_a_slow_honest_one_does_not(
    serve: Serve, clock: StoppedClock, loop_name: str
) -> None:
    box = Box()
    running = serve(box, timeout=3 * STEP, min_body_rate=RATE, loop=loop_name)
    drippers = [running.ready() for _ in range(5)]
    with running.ready() as honest:
        for client in (honest, *drippers):
            client.begin_message(b"", end=b"")
            client.replies(3)
        for step in range(20):
            for client in drippers:
                with contextlib.suppress(OSError):  # it may have been sent away
                    client.send(b"x")
            honest.send((b"y" * 98 + b"\r\n") * (STEP * RATE // 100 + 1))
            for client in (honest, *(drippers if step < 6 else ())):
                running.wait_until_received(client)
            assert running.sessions == 6 or step > 6
            clock.advance(STEP)
        running.wait_until(lambda: running.sessions == 1)
        honest.send(b".\r\n")
        assert honest.reply() == "250 2.0.0 Ok: queued"
    for client in drippers:
        assert client.rest()[:9] in (b"421 4.4.2", b"")  # lost, if it crossed a byte of the client
        client.close()
    assert len(box.bodies) == 1


def test_dripped_chunks_end(serve: Serve, clock: StoppedClock) -> None:
    running = serve(Box(), timeout=5 * STEP, min_body_rate=RATE)
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<b@example.com>")
        for _ in range(6):
            client.send(b"BDAT 1\r\nx")
            assert client.reply().startswith("250 ")
            clock.advance(STEP)
        clock.advance(STEP)
        assert client.reply().startswith("421 4.4.2 ")
