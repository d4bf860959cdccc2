"""The attributes of XCLIENT and XFORWARD: what they can say, and what they cannot."""

from __future__ import annotations

import pytest

from ehlo.protocol import events
from ehlo.protocol.connection import Connection
from ehlo.protocol.settings import Settings
from ehlo.protocol.xclient import XCLIENT, XFORWARD, attributes, endpoints
from support.dialogue import CorePlayer, Rules

LONG = "x" * 255


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("NAME=spike.porcupine.org", {"NAME": "spike.porcupine.org"}),
        ("name=a  Addr=1.2.3.4", {"NAME": "a", "ADDR": "1.2.3.4"}),
        ("ADDR=IPV6:2001:DB8:0::1", {"ADDR": "2001:db8::1"}),
        ("ADDR=ipv6:::1", {"ADDR": "::1"}),
        ("PORT=0", {"PORT": "0"}),
        ("PORT=00025", {"PORT": "25"}),
        ("PORT=65535", {"PORT": "65535"}),
        ("PROTO=esmtp", {"PROTO": "ESMTP"}),
        ("PROTO=SMTP", {"PROTO": "SMTP"}),
        ("HELO=[1.2.3.4]", {"HELO": "[1.2.3.4]"}),
        ("HELO=M+C3+9CLLER-PC", {"HELO": "MÜLLER-PC"}),
        ("HELO=M+dcLLER-PC+20x", {"HELO": "M\ufffdLLER-PC"}),
        ("LOGIN=a+c3+bc", {"LOGIN": "aü"}),
        ("LOGIN=tim+20t", {"LOGIN": "tim t"}),
        ("LOGIN=a+3Db+2Bc", {"LOGIN": "a=b+c"}),
        ("LOGIN=j+C3+BCrgen", {"LOGIN": "jürgen"}),
        ("LOGIN=jürgen+20x", {"LOGIN": "jürgen x"}),
        ("LOGIN=gro+C3+9F", {"LOGIN": "groß"}),  # whose second byte alone is a control character
        ("DESTADDR=5.6.7.8 DESTPORT=25", {"DESTADDR": "5.6.7.8", "DESTPORT": "25"}),
        ("NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL]", {"NAME": None, "ADDR": None}),
        ("PORT=[unavailable] LOGIN=[tempunavail]", {"PORT": None, "LOGIN": None}),
        ("LOGIN=+5BUNAVAILABLE+5D", {"LOGIN": None}),
        (f"NAME={LONG}", {"NAME": LONG}),
    ],
)
def test_what_xclient_says(argument: str, found: dict[str, str | None]) -> None:
    assert attributes(argument, XCLIENT) == found


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "NAME",
        "NAME=",
        "=a",
        "NAME=a NAME=b",
        "NAME=a name=b",
        "NAME=a X=b",
        "IDENT=a",
        "SOURCE=LOCAL",
        "NAME=a b",
        "NAME=a=b",
        "NAME=a+0A",
        "NAME=a+2",
        "NAME=a+zz",
        "NAME=a+20b",
        "NAME=a+C3+BC",
        "NAME=ü",
        "LOGIN=a\u2028b",
        "LOGIN=a\x85",
        "LOGIN=" + "ü" * 128,
        f"NAME={LONG}x",
        "NAME=" + "+41" * 256,
        "NAME=" + "x" * 766,
        "HELO=a+00",
        "HELO=+20b",
        "HELO=" + "+FC" * 256,
        "ADDR=1.2.3",
        "ADDR=01.2.3.4",
        "ADDR=1.2.3.4.5",
        "ADDR=2001:db8::1",
        "ADDR=IPV6:",
        "ADDR=IPV6:1.2.3.4",
        "ADDR=IPV6:fe80::1%eth0",
        "ADDR=1.2.3.4%lo",
        "ADDR=host.example",
        "ADDR=unix:/tmp/x",
        "PORT=65536",
        "PORT=-1",
        "PORT=1e3",
        "PORT=000025",
        "PORT=+D9+A3",
        "PROTO=LMTP",
        "PROTO=",
        "LOGIN=",
        "LOGIN=a+0D+0Ab",
        "LOGIN=a+C2+85",
        "LOGIN=a+E2+80+A8",
        "LOGIN=a+FF",
        "LOGIN=a+C3",
        "DESTADDR=x",
        "DESTPORT=x",
        "NAME=[UNAVAILABLE] NAME=a",
    ],
)
def test_what_xclient_cannot_say(argument: str) -> None:
    assert attributes(argument, XCLIENT) is None


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("SOURCE=local", {"SOURCE": "LOCAL"}),
        ("SOURCE=REMOTE IDENT=4Xyz", {"SOURCE": "REMOTE", "IDENT": "4Xyz"}),
        ("PROTO=UTF8SMTP", {"PROTO": "UTF8SMTP"}),
        (f"PROTO={'x' * 64}", {"PROTO": "x" * 64}),
        ("PROTO=[UNAVAILABLE]", {"PROTO": None}),
        ("PROTO=a+20b", None),
        (f"PROTO={'x' * 65}", None),
        ("SOURCE=ELSEWHERE", None),
        ("LOGIN=tim", None),
        ("DESTADDR=1.2.3.4", None),
        ("IDENT=a+20b", None),
    ],
)
def test_what_xforward_says(argument: str, found: dict[str, str | None] | None) -> None:
    assert attributes(argument, XFORWARD) == found


def test_the_ends_are_what_is_not_the_clients_own_saying() -> None:
    found = attributes("ADDR=1.2.3.4 HELO=a LOGIN=b PROTO=SMTP NAME=[UNAVAILABLE]", XCLIENT)
    assert found is not None
    assert endpoints(found) == {"ADDR": "1.2.3.4", "NAME": None}


def test_what_was_found_does_not_change() -> None:
    found = attributes("NAME=a", XCLIENT)
    with pytest.raises(TypeError):
        found["NAME"] = "b"  # type: ignore[index]  # that it does not is what is tested


# -- the connection ------------------------------------------------------------------------------


def trusted() -> CorePlayer:
    return CorePlayer(Settings(), Rules(values={"trusted": "XCLIENT XFORWARD"}))


def test_a_second_xclient_keeps_the_ends_of_the_first_alone() -> None:
    player = trusted()
    player.feed(b"XCLIENT NAME=a ADDR=1.2.3.4 HELO=h PROTO=ESMTP LOGIN=tim\r\n")
    connection = player.connection
    assert (
        connection.conversation.helo,
        connection.conversation.esmtp,
        connection.conversation.authenticated,
    ) == ("h", True, True)
    player.feed(b"XCLIENT ADDR=5.6.7.8 PROTO=SMTP\r\n")
    assert connection.conversation.xclient == {
        "NAME": "a",
        "ADDR": "5.6.7.8",
        "PROTO": "SMTP",
    }
    assert (
        connection.conversation.helo,
        connection.conversation.esmtp,
        connection.conversation.authenticated,
    ) == ("", False, False)
    player.feed(b"XCLIENT LOGIN=[UNAVAILABLE] HELO=[UNAVAILABLE]\r\n")
    assert (connection.conversation.helo, connection.conversation.authenticated) == ("", False)


def test_what_is_refused_changes_nothing() -> None:
    player = trusted()
    player.feed(b"HELO c\r\nXFORWARD NAME=a\r\nXCLIENT ADDR=x\r\nXFORWARD SOURCE=x\r\n")
    connection = player.connection
    assert connection.conversation.xclient == {}
    assert connection.conversation.forwarded == {"NAME": "a"}
    assert connection.conversation.helo == "c"


def test_trust_stays_with_the_peer_whichever_client_it_names() -> None:
    player = trusted()
    player.feed(b"XCLIENT ADDR=192.0.2.1\r\nEHLO c\r\n")
    assert b"250-XCLIENT NAME " in player.output
    player.feed(b"XCLIENT ADDR=192.0.2.2\r\n")
    assert player.connection.conversation.xclient == {"ADDR": "192.0.2.2"}


@pytest.mark.parametrize(
    "then",
    [
        b"RSET\r\n",
        b"EHLO d\r\n",
        b"XCLIENT NAME=b\r\n",
        b"MAIL FROM:<a@x>\r\nRSET\r\n",
        b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n",
        b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0\r\nRSET\r\n",
        b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0 LAST\r\n",
    ],
)
def test_what_xforward_said_is_for_one_message(then: bytes) -> None:
    player = trusted()
    player.feed(b"EHLO c\r\nXFORWARD NAME=a\r\nXFORWARD IDENT=b\r\nNOOP\r\n")
    assert player.connection.conversation.forwarded == {"NAME": "a", "IDENT": "b"}
    player.feed(then)
    assert player.connection.conversation.forwarded is None


def test_what_xforward_said_is_not_for_the_message_after_one_without_recipients() -> None:
    rules = Rules(values={"trusted": "XFORWARD"})
    player = CorePlayer(Settings(lmtp=True), rules)
    player.feed(b"LHLO c\r\nXFORWARD NAME=a\r\nMAIL FROM:<a@x>\r\nBDAT 0 LAST\r\n")
    assert player.connection.transaction is None
    assert player.connection.conversation.forwarded is None


def test_xforward_is_there_until_the_message_is_answered() -> None:
    connection = Connection(Settings(), lambda: "nonce", trusted=frozenset({"XFORWARD"}))
    connection.receive_data(
        b"HELO c\r\nXFORWARD NAME=a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0 LAST\r\n"
    )
    while type(connection.next_event()) is not events.MessageEnd:
        connection.reply()
    assert connection.conversation.forwarded == {"NAME": "a"}
    connection.reply()
    assert connection.conversation.forwarded is None
