"""Listeners with options of their own, in one process and in several, and inherited ones."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from ehlo import Listener, Server
from support.certificates import Certificates, Files
from support.client import Client
from support.manager import Manager
from support.program import HAND_OVER, Start

APP = """
import os, ehlo

def function(remote_addr, mail_from, rcpt_tos, data):
    return f"by-{remote_addr[0]}"

def login(remote_addr, mechanism, username, password, shared):
    return True

server = ehlo.Server(
    "app:function",
    auth_handler=login,
    max_size=5000,
    listeners=[
        ehlo.Listener("127.0.0.1:0"),
        ehlo.Listener("127.0.0.1:0", tls_listener=True, max_size=10000),
        ehlo.Listener(["127.0.0.1:0", "127.0.0.1:0"], tls_required=True, auth_required=True),
        ehlo.Listener("unix:lmtp", lmtp=True, tls_config=None, unix_mode="606"),
        ehlo.Listener("127.0.0.1:0", proxy_networks=["127.0.0.0/8"]),
    ],
)
inherited = ehlo.Server(
    "app:function",
    listeners=[
        ehlo.Listener("systemd:submission", appname="Submission"),
        ehlo.Listener("fd:3", appname="Relay"),
    ],
)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_listener_has_its_own_rules(
    start: Start, app: Path, certificates: Certificates, manager: Manager, workers: str
) -> None:
    files = Files(certificates.authority, app)
    stale = app / "lmtp"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    program = start(
        *("-m", "ehlo", "serve", "app:server", "--workers", workers),
        *("--tls-cert", files.cert, "--tls-key", files.key),
        cwd=app,
        env={"NOTIFY_SOCKET": manager.address},
    )
    plain, tls, login, again, lmtp, proxied = manager.where()
    with Client(plain) as client:
        assert "SIZE 5000" in client.hello()
        assert client.mail().endswith("by-127.0.0.1")
    with Client(tls, tls=certificates.client) as client:
        assert "SIZE 10000" in client.hello()
    for address in (login, again):
        with Client(address) as client:
            client.hello()
            assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 Must issue")
            client.say("STARTTLS")
            client.wrap(certificates.client)
            client.say("EHLO c")
            assert client.say("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
    assert stale.stat().st_mode & 0o777 == 0o606
    with Client(lmtp._replace(host=f"unix:{stale}")) as client:
        assert " LMTP " in client.reply()
        assert "STARTTLS" not in client.say("LHLO c")
        assert client.mail().startswith("250 ")
    with Client(proxied) as client:
        client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 25\r\n")
        client.hello()
        assert client.mail().endswith("by-192.0.2.1")
    assert program.stop() == 0
    assert not stale.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_inherited_sockets_have_the_rules_of_their_listeners(
    start: Start, app: Path, workers: str
) -> None:
    program = start("-c", HAND_OVER, "serve", "app:inherited", "--workers", workers, cwd=app)
    relay, submission = program.out.until(" ").split()
    said = program.err.until("listening on")
    assert re.findall(r"127\.0\.0\.1:(\d+)", said) == [submission, relay]
    for port, name in ((relay, " Relay "), (submission, " Submission ")):
        with socket.create_connection(("127.0.0.1", int(port)), 15.0) as sock:
            assert name in sock.recv(1000).decode()
    assert program.stop() == 0


def test_options_of_a_listener_that_workers_cannot_have_are_an_error(
    certificates: Certificates,
) -> None:
    for options, said in (
        ({"tls_config": certificates.server()}, "tls_config cannot be passed to workers; call"),
        ({"log_read": lambda *_: None}, "log_read cannot be passed to workers"),
    ):
        listener = Listener("127.0.0.1:0", **options)
        server = Server("app:function", listeners=[listener], workers=2)
        with pytest.raises(ValueError, match=said):
            server.listen_and_serve()


def test_listeners_cannot_be_combined_with_a_socket_with_workers_either(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(app)
    server = Server("app:function", listeners=[Listener("127.0.0.1:0")], workers=2)
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        pytest.raises(ValueError, match="either listeners or a socket"),
    ):
        server.serve(own)
