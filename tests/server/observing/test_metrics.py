"""`/metrics` and `/readyz`, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ehlo import Peer, Server
from ehlo.server.observing import metrics
from ehlo.server.observing.metrics import Endpoint
from support.client import Client
from support.serving import DEADLINE, Box, Running, Serve


def place(running: Running) -> Peer:
    run = running.server.running
    assert run is not None
    return run.views.addresses[0]


def fetch(address: Peer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=15)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scraped(address: Peer) -> dict[str, float]:
    """Return each sample, by name and labels."""
    _, text = fetch(address, "/metrics")
    return {
        f"{sample.name}{dict(sample.labels) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_clients_did(serve: Serve, loop_name: str) -> None:
    running = serve(Box(), loop=loop_name, metrics="127.0.0.1:0")
    with running.ready() as client:
        client.mail()
        client.say("RCPT TO:<a@b.example>")
        assert scraped(place(running))["ehlo_sessions"] == 1
        client.say("QUIT")
    running.wait_until_no_sessions()
    found = scraped(place(running))
    assert found["ehlo_sessions"] == 0
    assert found["ehlo_connections_total"] == 1
    assert found["ehlo_commands_total{'verb': 'MAIL'}"] == 1
    assert found["ehlo_replies_total{'code': '354'}"] == 1
    refusal = {"code": "503", "reason": "mail_first", "verb": "RCPT"}
    assert found[f"ehlo_refusals_total{refusal}"] == 1
    assert found["ehlo_messages_total{'outcome': 'accepted'}"] == 1
    assert found["ehlo_bytes_total{'direction': 'received'}"] > 100
    assert found["ehlo_message_bytes_bucket{'le': '1024.0'}"] == 1
    assert found["ehlo_message_bytes_bucket{'le': '+Inf'}"] == 1
    assert found["ehlo_hook_seconds_count{'hook': 'on_message'}"] == 1
    assert found["ehlo_memory_limit_bytes"] > 0


def test_readyz_is_false_while_draining(serve: Serve) -> None:
    running = serve(Box(), metrics="127.0.0.1:0", grace=15.0)
    address = place(running)
    assert fetch(address, "/readyz") == (200, "ready\n")
    client = Client(running.address)
    client.begin("MAIL FROM:<a@b.example>")
    running.run(lambda: _begin_shutdown(running.server))
    assert fetch(address, "/readyz") == (503, "draining\n")
    assert scraped(address)["ehlo_draining"] == 1
    client.close()
    running.wait_until_no_sessions()


async def _begin_shutdown(server: Server) -> None:
    assert server.running is not None
    server.running.begin_shutdown()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)],
)
def test_other_requests_are_rejected(serve: Serve, method: str, path: str, status: int) -> None:
    running = serve(Box(), metrics="127.0.0.1:0")
    assert fetch(place(running), path, method)[0] == status


@pytest.mark.parametrize("sent", [b"", b"GET", b"\r\n\r\n", b"x" * 100_000])
def test_garbage_instead_of_a_request_does_no_harm(serve: Serve, sent: bytes) -> None:
    running = serve(Box(), metrics="127.0.0.1:0")
    with Client(place(running)) as client:
        with contextlib.suppress(ConnectionError):  # the endpoint does not read all of it
            client.send(sent)
            client.end()
        client.rest()
    assert fetch(place(running), "/readyz")[0] == 200


def test_a_wrong_address_is_an_error_at_the_start() -> None:
    server = Server(Box(), addr="127.0.0.1:0", metrics="nowhere")
    with pytest.raises(ValueError, match="not an address: 'nowhere'"), server.in_thread():
        pass


def test_at_most_32_requests_are_answered_at_once(serve: Serve, loop_name: str) -> None:
    address = place(serve(Box(), loop=loop_name, metrics="127.0.0.1:0"))
    with contextlib.ExitStack() as stack:
        for _ in range(Endpoint.MOST):
            stack.enter_context(socket.create_connection(address, DEADLINE))
        another = stack.enter_context(socket.create_connection(address, DEADLINE))
        with contextlib.suppress(ConnectionResetError):
            assert another.recv(1) == b""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError):  # it may not have seen yet that they have gone
            assert fetch(address, "/readyz")[0] == 200
            return
    pytest.fail("no request is answered any more")


def test_a_client_that_does_not_read_the_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.1)
    monkeypatch.setattr(metrics, "text", lambda _: bytes(100_000_000))
    left: list[int] = []

    class Nothing:
        async def snapshot(self) -> dict[str, Any]:
            return {}

        def unready(self) -> str:
            return ""

    async def work() -> None:
        endpoint, ended = Endpoint(Nothing()), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await endpoint.answer(reader, writer)
            left.append(writer.transport.get_write_buffer_size())
            ended.set()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # of both directions
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        await ended.wait()
        writer.transport.abort()
        server.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE))
    assert left == [0]
