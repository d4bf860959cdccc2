"""`Session`, `TLSInfo` and `ProxyInfo`: facts about a client, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ehlo import Address, Peer, ProxyInfo, Session, TLSInfo, current_session
from ehlo.protocol.proxy import ProxyHeader

CLIENT, SERVER = Peer("192.0.2.1", 4711), Peer("192.0.2.2", 25)


def session_of(client: Peer = CLIENT, **facts: object) -> Session:
    """Return a session whose connection has these facts."""
    known = {"helo": "", "esmtp": False, "transaction": None, "xclient": {}, "forwarded": None}
    connection = cast("Any", SimpleNamespace(**(known | facts)))
    return Session("s1", client, SERVER, connection)


# -- what a session shows ------------------------------------------------------------------------


def test_a_new_session_has_ends_and_an_id_and_nothing_else() -> None:
    session = session_of()
    assert (session.id, session.peer, session.local) == ("s1", CLIENT, SERVER)
    assert (session.tls, session.user, session.proxy, session.sender) == (None, None, None, None)
    assert (session.helo, session.esmtp, session.rdns) == ("", False, "")
    assert (session.xclient, session.forwarded) == ({}, None)
    assert repr(session) == "<Session s1 192.0.2.1:4711>"


def test_a_session_shows_the_facts_of_its_connection() -> None:
    sender = Address("a", "example.com")
    session = session_of(
        helo="client.example",
        esmtp=True,
        transaction=SimpleNamespace(sender=sender),
        xclient={"NAME": None},
        forwarded={"PROTO": "SMTP"},
    )
    assert (session.helo, session.esmtp, session.sender) == ("client.example", True, sender)
    assert (session.xclient, session.forwarded) == ({"NAME": None}, {"PROTO": "SMTP"})


def test_state_keeps_the_values_of_hooks() -> None:
    session = session_of()
    session.state.score = 1
    session.state.score += 1
    assert session.state.score == 2


# -- STARTTLS and XCLIENT ------------------------------------------------------------------------


def test_starttls_resets_user_state_and_helo_and_keeps_the_rest() -> None:
    session = session_of(helo="client.example", esmtp=True)
    session.user, session.rdns, session.state.score = "alice", "client.example", 1
    session.restart(cast("Any", SimpleNamespace(helo="", esmtp=False)))
    assert session.helo == ""
    assert not session.esmtp
    assert not session.user
    assert vars(session.state) == {}
    assert (session.id, session.peer, session.rdns) == ("s1", CLIENT, "client.example")


def test_xclient_replaces_the_ends_of_the_connection() -> None:
    session = session_of()
    session.user, session.state.score = "proxy", 1
    session.speak_for(
        {
            "ADDR": "::ffff:198.51.100.7",
            "PORT": "99",
            "NAME": "c.example",
            "LOGIN": "bob",
            "DESTADDR": "2001:db8::1",
            "DESTPORT": "465",
        }
    )
    assert session.peer == Peer("198.51.100.7", 99)
    assert session.local == Peer("2001:db8::1", 465)
    assert (session.rdns, session.user) == ("c.example", "bob")
    assert vars(session.state) == {}


def test_xclient_without_an_attribute_uses_the_real_end_again() -> None:
    session = session_of()
    session.speak_for({"ADDR": "198.51.100.7", "LOGIN": "bob"})
    assert session.peer == Peer("198.51.100.7", 0)
    session.speak_for({"PORT": "99", "NAME": None})
    assert session.peer == Peer(CLIENT.host, 99)
    assert session.local == SERVER
    assert (session.rdns, session.user) == ("", None)


def test_xclient_with_a_port_alone_does_not_change_a_unix_socket() -> None:
    unix = Peer("unix:/run/ehlo.sock", 0)
    session = session_of(unix)
    session.speak_for({"PORT": "99"})
    assert session.peer == unix


# -- the facts in tuples -------------------------------------------------------------------------


def test_tls_info_is_a_tuple() -> None:
    assert TLSInfo("TLSv1.3", "X", None, None)[:2] == ("TLSv1.3", "X")


def test_proxy_info_has_the_facts_of_the_header_and_the_proxy() -> None:
    header = ProxyHeader(2, "PROXY", authority="mx.example", unique_id=b"1", tlvs={0xE0: b"x"})
    info = ProxyInfo.of(SERVER, header)
    assert info == ProxyInfo(SERVER, 2, "PROXY", "mx.example", b"1", None, b"", {0xE0: b"x"})


def test_there_is_no_current_session_outside_of_hooks() -> None:
    assert current_session.get() is None
