"""Who is at both ends of a connection, whatever kind of socket it came by."""

from __future__ import annotations

import socket

import pytest

from ehlo import Peer
from ehlo.net import unmapped
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
    assert "ffff" not in caplog.text


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("::ffff:0:102:304", "::ffff:0:102:304"),  # translated (RFC 2765), which is another thing
        ("::1.2.3.4", "::1.2.3.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("1.2.3.4", "1.2.3.4"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_only_what_is_mapped_is_shown_as_ipv4(host: str, shown: str) -> None:
    assert unmapped(host) == shown
