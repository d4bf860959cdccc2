"""Who is at both ends of a connection, whatever kind of socket it came by."""

from __future__ import annotations

import socket

import pytest

from ehlo import Peer
from support.client import Client
from support.serving import Collector, Serve


def test_a_client_by_ipv4_on_a_socket_for_both_is_shown_by_its_address(
    serve: Serve, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    collector = Collector()
    caplog.set_level("INFO")
    running = serve(collector, addr=f"fd:{sock.detach()}", loop=loop_name)
    port = running.address.port
    with Client(Peer("127.0.0.1", port)) as client:
        client.hello()
        client.mail()
        own = client.sock.getsockname()
    (session,) = collector.sessions
    assert (session.peer, session.local) == (Peer(*own), Peer("127.0.0.1", port))
    assert "([127.0.0.1])" in collector.messages[0].trace.decode()
    assert "::ffff" not in caplog.text
