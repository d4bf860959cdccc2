"""The control socket: access, requests and answers."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from ehlo import Peer, Server
from ehlo.server.observing.control import ask
from support.client import Client
from support.serving import Box, Serve


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
