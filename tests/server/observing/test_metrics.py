"""`/metrics` and `/readyz`, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ehlo import Peer, Server
from ehlo.server.observing import views
from ehlo.server.observing.views import Endpoint, Visit
from support.client import Client
from support.serving import DEADLINE, Box, Running, Serve


def place(running: Running) -> Peer:
    run = running.server.running
    assert run is not None
    return run.views.addresses[0]


def fetch(address: Peer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
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


def test_silent_clients_keep_no_client_from_an_answer(
    serve: Serve, loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_PATIENCE", DEADLINE)
    address = place(serve(Box(), loop=loop_name, metrics="127.0.0.1:0"))
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(address, DEADLINE))
            for _ in range(2 * Endpoint.MOST)
        ]
        for _ in range(3):
            assert fetch(address, "/readyz") == (200, "ready\n")
        for oldest in silent[: Endpoint.MOST]:
            with contextlib.suppress(ConnectionResetError):
                assert oldest.recv(1) == b""
        silent[-1].sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_has_asked_stays_longer_than_silent_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "_PATIENCE", DEADLINE)
    go_on = asyncio.Event()

    async def late(_request: bytes) -> bytes:
        await go_on.wait()
        return b"late"

    async def work() -> None:
        server = await asyncio.get_running_loop().create_server(Endpoint(late, b"!"), "127.0.0.1")
        where = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"now!")
        others = [await asyncio.open_connection(*where) for _ in range(2 * Endpoint.MOST)]
        assert await others[0][0].read() == b""
        go_on.set()
        assert await reader.read() == b"late"
        for _, each in ((reader, writer), *others):
            each.transport.abort()
        server.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE))


def test_a_client_that_does_not_read_the_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_PATIENCE", 0.1)
    left: list[int] = []

    async def large(_request: bytes) -> bytes:
        return bytes(100_000_000)

    async def work() -> None:
        ended = asyncio.Event()

        class Watched(Visit):
            def connection_lost(self, exc: Exception | None) -> None:
                left.append(self._transport.get_write_buffer_size())
                super().connection_lost(exc)
                ended.set()

        endpoint = Endpoint(large, b"\r\n\r\n")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Watched(endpoint), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # of both directions
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        await ended.wait()
        writer.transport.abort()
        server.close()

    asyncio.run(asyncio.wait_for(work(), DEADLINE))
    assert left == [0]
