"""Extensions by option on a real server: what reaches the hooks, and what is a mistake at start."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo import DeliverBy, Extension, OriginalRecipient, Rrvs, Server
from support.certificates import Certificates
from support.client import Client
from support.hooks import Noted, handler_of
from support.serving import Box, Serve


def color(value: str | None) -> str:
    if value not in ("red", "blue"):
        raise ValueError("no such color")
    return value


COLOR = Extension("X-COLOR", 0, argument=lambda _: "red blue", mail={"X-COLOR": color}, octets=13)


def send(client: Client, mail: str = "", rcpt: str = "") -> None:
    assert client.say(f"MAIL FROM:<a@example.com>{mail}") == "250 2.1.0 Ok"
    assert client.say(f"RCPT TO:<b@example.com>{rcpt}") == "250 2.1.5 Ok"
    assert client.say("DATA").startswith("354 ")
    assert client.say("hello\r\n.") == "250 2.0.0 Ok: queued"


def test_parameters_reach_the_message_typed(serve: Serve, certificates: Certificates) -> None:
    noted = Noted()
    wanted = dict.fromkeys(("DSN", "REQUIRETLS", "MT-PRIORITY", "RRVS"), True)
    running = serve(
        handler_of("async def", noted),
        tls_config=certificates.server(),
        tls_listener=True,
        extensions={**wanted, "DELIVERBY": "60", "FUTURERELEASE": "3600"},
    )
    with running.ready(tls=certificates.client) as client:
        send(
            client,
            " REQUIRETLS BY=60;RT HOLDFOR=60 MT-PRIORITY=-3 AUTH=a+2Bb@example.com ENVID=x",
            " ORCPT=rfc822;c@example.com RRVS=2014-04-03T23:01:00Z;C",
        )
    running.wait_until_no_sessions()
    ((_, message),) = noted.of("on_message")
    assert message.sender.params == {
        "REQUIRETLS": True,
        "BY": DeliverBy(60, "R", trace=True),
        "HOLDFOR": 60,
        "MT-PRIORITY": -3,
        "AUTH": "a+b@example.com",
        "ENVID": "x",
    }
    assert b"\r\n\tPRIORITY -3;\r\n" in message.trace  # RFC 6710 4.1
    params = dict(message.recipients[0].params)
    assert params.pop("ORCPT") == OriginalRecipient("rfc822", "c@example.com")
    rrvs = params.pop("RRVS")
    assert isinstance(rrvs, Rrvs)
    assert (rrvs.since.isoformat(), rrvs.action) == ("2014-04-03T23:01:00+00:00", "C")
    assert params == {}


def test_an_own_extension_is_offered_and_its_parameter_accepted(serve: Serve) -> None:
    noted = Noted()
    running = serve(handler_of("async def", noted), own_extensions=[COLOR])
    with running.client() as client:
        client.reply()
        assert "X-COLOR red blue" in client.say("EHLO client.example")
        wrong = client.say("MAIL FROM:<a@example.com> X-COLOR=green")
        assert wrong == "501 5.5.4 Bad value for parameter X-COLOR"
        send(client, " x-color=blue")
    running.wait_until_no_sessions()
    ((_, message),) = noted.of("on_message")
    assert message.sender.params == {"X-COLOR": "blue"}


def test_the_servers_own_clock_tells_how_far_away_the_future_may_be(serve: Serve) -> None:
    with serve(Box(), extensions={"FUTURERELEASE": "3600"}).ready() as client:
        until = client.say("EHLO client.example").partition("FUTURERELEASE 3600 ")[2][:20]
        assert client.say(f"MAIL FROM:<a@example.com> HOLDUNTIL={until}") == "250 2.1.0 Ok"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extensions": {"BURL": True}}, "extensions: no such extension: BURL"),
        ({"extensions": {"DELIVERBY": "soon"}}, "extensions: DELIVERBY=soon"),
        ({"own_extensions": [Extension("SIZE", 0)]}, "own_extensions: SIZE exists"),
        ({"own_extensions": [Extension("X", 0, argument=lambda _: "a\rb")]}, "control characters"),
        ({"own_extensions": [Extension("X", 0, argument=lambda _: "x" * 512)]}, "longer than 512"),
        ({"max_messages": -1}, "max_messages"),
        ({"max_recipient_domains": -1}, "max_recipient_domains"),
    ],
)
def test_what_cannot_be_offered_is_a_value_error_at_start(
    options: dict[str, Any], message: str
) -> None:
    server = Server(Box(), addr="127.0.0.1:0", **options)
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")


def test_a_gate_that_no_client_could_pass_is_a_value_error_at_start(
    certificates: Certificates,
) -> None:
    tls: dict[str, Any] = {"tls_config": certificates.server(), "addr": "127.0.0.1:0"}
    server = Server(Box(), tls_required=True, extensions={"starttls": False}, **tls)
    with pytest.raises(ValueError, match="tls_required needs STARTTLS"), server.in_thread():
        pytest.fail("it has started")
    server = Server(
        Box(),
        auth_handler=lambda *_: True,
        auth_required=True,
        extensions={"AUTH": False},
        **tls,
    )
    with pytest.raises(ValueError, match="no client could log in"), server.in_thread():
        pytest.fail("it has started")


def test_tls_from_the_first_byte_needs_no_starttls(
    serve: Serve, certificates: Certificates
) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_listener=True,
        tls_required=True,
        extensions={"STARTTLS": False},
    )
    with running.ready(tls=certificates.client) as client:
        send(client)
