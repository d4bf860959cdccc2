"""The control socket: access, requests and answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import stat
from pathlib import Path

import pytest

from ehlo import Peer, Server
from ehlo.server.observing import views
from ehlo.server.observing.stats import Snapshot
from ehlo.server.observing.views import Endpoint, ask
from ehlo.server.run import Run
from support.client import Client
from support.serving import DEADLINE, Box, Serve


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let neither end lose patience, unless a test says so: the machine may be busy."""
    monkeypatch.setattr(views, "_PATIENCE", DEADLINE)


def test_a_snapshot_is_returned(serve: Serve, loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "control"
    running = serve(Box(), loop=loop_name, control=str(path))
    with running.ready() as client:
        client.mail()
        found = ask(str(path))
    assert found["stats"]["messages"] == {"accepted": 1, "refused": 0}
    (session,) = found["sessions"]
    assert (session["helo"], session["messages"]) == ("client.example", 1)


def test_the_socket_is_for_the_own_user_only_and_goes_with_the_server(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "control"
    with Server(Box(), addr="127.0.0.1:0", control=f"unix:{path}").in_thread():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    serve(Box(), control=str(path))
    assert ask(str(path))["draining"] is False
    second = Server(Box(), addr="127.0.0.1:0", control=str(path))
    with pytest.raises(OSError, match="cannot listen on unix:"), second.in_thread():
        pass
    assert ask(str(path))["draining"] is False


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"hello\n",
        b'{"ask": "shutdown"}\n',
        b"x" * 100_000,
        b"[" * 1000 + b"\n",
    ],
)
def test_other_requests_are_errors(serve: Serve, tmp_path: Path, sent: bytes) -> None:
    path = tmp_path / "control"
    serve(Box(), control=str(path))
    with Client(Peer(f"unix:{path}", 0)) as client:
        client.send(sent)
        client.end()
        answer = client.rest()
    assert answer == b"" or json.loads(answer) == {"error": "unknown request"}
    assert "stats" in ask(str(path))


def test_a_missing_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ask(str(tmp_path / "absent"))


def test_a_long_answer_is_read_late_and_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """It does not fit into the buffers of the socket, so it leaves after the server has closed."""
    name = "x" * 1_000_000

    async def late() -> bytes:
        asked = asyncio.Event()

        async def answer(_request: bytes) -> bytes:
            asked.set()
            return name.encode()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Endpoint(answer, b"\n"), "127.0.0.1", 0)
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=4096)
        writer.write(b"\n")
        await asked.wait()
        found = await reader.read()
        writer.close()
        server.close()
        return found

    assert asyncio.run(asyncio.wait_for(late(), DEADLINE)) == name.encode()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_failure_of_an_answer_is_logged_once(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control"
    serve(Box(), control=str(path))

    async def snapshot(_self: Run) -> Snapshot:
        raise ZeroDivisionError

    monkeypatch.setattr(Run, "snapshot", snapshot)
    with Client(Peer(f"unix:{path}", 0)) as client:
        client.send(b'{"ask": "snapshot"}\n')
        assert client.rest() == b""
    (failed,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert failed.getMessage() == "a request for metrics or a snapshot failed"
    caplog.clear()


def test_clients_that_are_connected_at_the_end_are_dropped_without_a_line(
    tmp_path: Path, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control"
    server = Server(Box(), addr="127.0.0.1:0", control=str(path), loop=loop_name)  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:
        with server.in_thread():
            clients = [stack.enter_context(Client(Peer(f"unix:{path}", 0))) for _ in range(60)]
            ask(str(path))  # so that the others are connected
        assert {client.rest() for client in clients} == {b""}
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
