"""The `Received` field, and what cannot be smuggled into it."""

from __future__ import annotations

import email.policy
from email.parser import BytesHeaderParser

import pytest

from ehlo.protocol.settings import Settings
from ehlo.protocol.trace import by_clause, received_field, with_protocol
from support.dialogue import CorePlayer, Rules


def field(
    *,
    helo: str = "client.example",
    rdns: str = "",
    address: str = "192.0.2.1",
    appname: str = "smtpd",
    protocol: str = "ESMTP",
    tls: str = "",
    recipient: str = "",
    priority: int | None = None,
) -> str:
    return received_field(
        helo=helo,
        rdns=rdns,
        address=address,
        by=by_clause("mx.example.com", appname),
        protocol=protocol,
        tls=tls,
        id="abc-1",
        recipient=recipient,
        date="Thu, 1 Jan 2026 00:00:00 +0000",
        priority=priority,
    ).decode()


def test_the_whole_field() -> None:
    assert field(
        rdns="host.example", tls="version=TLSv1.3 cipher=X", protocol="ESMTPS", recipient="b@x"
    ) == (
        "Received: from client.example (host.example [192.0.2.1])\r\n"
        "\tby mx.example.com (smtpd) with ESMTPS\r\n"
        "\t(version=TLSv1.3 cipher=X)\r\n"
        "\tid abc-1\r\n"
        "\tfor <b@x>;\r\n"
        "\tThu, 1 Jan 2026 00:00:00 +0000\r\n"
    )


@pytest.mark.parametrize("priority", [-9, 0, 9])
def test_a_priority_is_the_last_clause(priority: int) -> None:
    assert f"for <b@x>\r\n\tPRIORITY {priority};\r\n" in field(recipient="b@x", priority=priority)
    assert f"id abc-1\r\n\tPRIORITY {priority};\r\n" in field(priority=priority)


def test_the_least_field() -> None:
    assert field(helo="", address="") == (
        "Received: from unknown\r\n"
        "\tby mx.example.com (smtpd) with ESMTP\r\n"
        "\tid abc-1;\r\n"
        "\tThu, 1 Jan 2026 00:00:00 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("192.0.2.1", "([192.0.2.1])"),
        ("2001:db8::1", "([IPv6:2001:db8::1])"),
        ("fe80::1%eth0", "([IPv6:fe80::1])"),
    ],
)
def test_addresses_are_literals(address: str, literal: str) -> None:
    assert field(address=address).startswith(f"Received: from client.example {literal}\r\n")


@pytest.mark.parametrize(
    ("esmtp", "tls", "authenticated", "smtputf8", "name"),
    [
        (False, False, False, False, "SMTP"),
        (False, True, True, True, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, True, False, False, "ESMTPS"),
        (True, False, True, False, "ESMTPA"),
        (True, True, True, False, "ESMTPSA"),
        (True, False, False, True, "UTF8SMTP"),
        (True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_protocols_have_their_registered_names(
    esmtp: bool,
    tls: bool,
    authenticated: bool,
    smtputf8: bool,
    name: str,
) -> None:
    protocol = with_protocol(esmtp=esmtp, tls=tls, authenticated=authenticated, smtputf8=smtputf8)
    assert protocol == name


@pytest.mark.parametrize(
    ("tls", "authenticated", "smtputf8", "name"),
    [
        (False, False, False, "LMTP"),
        (True, False, False, "LMTPS"),
        (False, True, False, "LMTPA"),
        (True, True, False, "LMTPSA"),
        (False, False, True, "UTF8LMTP"),
        (True, True, True, "UTF8LMTPSA"),
    ],
)
@pytest.mark.parametrize("esmtp", [False, True])
def test_lmtp_has_its_own(
    esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool, name: str
) -> None:
    protocol = with_protocol(
        esmtp=esmtp, tls=tls, authenticated=authenticated, smtputf8=smtputf8, lmtp=True
    )
    assert protocol == name


EVIL = [
    "a\r\nBcc: victim@example.com",
    "a\nSubject: spam",
    "a\rX: y",
    "a\0b",
    "a) by evil.example (b",
    "a (comment",
    "a;\tThu, 1 Jan 1970 00:00:00 +0000",
    "a\u2028b\u0085c",
    "[192.0.2.9)]",
    "[192.0.2.256]",
    "[tag:192.0.2.9]",
    "[IPv6:fe80::1%x]",
    "<a@b>",
    "=?utf-8?q?x?=",
    "\\",
    "grüße",
]


@pytest.mark.parametrize("evil", EVIL)
def test_names_of_a_client_inject_nothing(evil: str) -> None:
    plain = field(rdns="host")
    for injected in (field(helo=evil, rdns="host"), field(rdns=evil)):
        assert injected.isascii()
        assert injected.count("\r\n") == plain.count("\r\n") == injected.count("\n")
        assert injected.count("\r") == injected.count("\n")
        parsed = BytesHeaderParser(policy=email.policy.compat32).parsebytes(injected.encode())
        assert parsed.keys() == ["Received"]
        for character in "()[];":
            assert injected.count(character) <= plain.count(character)


@pytest.mark.parametrize("evil", EVIL)
def test_a_name_of_ours_stays_in_its_comment(evil: str) -> None:
    injected = field(appname=evil)
    assert injected.isascii()
    assert injected.count("\r\n") == field().count("\r\n") == injected.count("\n")
    assert (injected.count("("), injected.count(")")) == (2, 2)


@pytest.mark.parametrize(
    "literal", ["[192.0.2.9]", "[IPv6:2001:db8::1]", "[ipv6:2001:DB8::192.0.2.1]"]
)
def test_an_address_literal_of_the_client_stays_as_it_is(literal: str) -> None:
    """RFC 5321 4.4: without its brackets it would be a name."""
    assert field(helo=literal).startswith(f"Received: from {literal} ([192.0.2.1])\r\n")
    assert "[" not in field(rdns=literal, address="").partition("\r\n")[0]


def test_nothing_that_is_a_name_is_left_of_it() -> None:
    assert field(helo="()<>", rdns="ü", address="").startswith("Received: from unknown\r\n")
    assert field(rdns="ü") == field()


def test_no_line_is_longer_than_rfc_5322_allows() -> None:
    whole = field(
        helo="h" * 255,
        rdns="r" * 255,
        address="2001:db8::1",
        appname="a" * 255,
        recipient="ü" * 495,
    )
    assert max(map(len, whole.encode().split(b"\r\n"))) == 998
    assert "for <" in whole


def test_a_recipient_too_long_for_a_line_is_left_out() -> None:
    """Its bytes count, of which a character has up to four."""
    assert "for <" not in field(recipient="ü" * 495 + "x")
    assert "for <" not in field(recipient="\U0001f600" * 254)


def test_a_recipient_whose_direction_misleads_is_left_out() -> None:
    assert "for <" not in field(recipient="a\u202emoc.live@x")
    assert "for <" in field(recipient="شبكة@x")


@pytest.mark.parametrize("evil", [*EVIL, '"a\r\nX: y"', "a\x0bb", "a\x85b", "a b", '"a b>c"', "\\"])
def test_no_command_brings_a_line_into_the_field(evil: str) -> None:
    """What the core lets through of HELO, MAIL and RCPT, and what the field makes of it."""
    player = CorePlayer(Settings(), Rules())
    player.feed(f"EHLO {evil}\r\nEHLO c\r\n".encode())
    player.feed(f"MAIL FROM:<{evil}@x> SMTPUTF8\r\nRSET\r\n".encode())
    player.feed(f"MAIL FROM:<a@x> SMTPUTF8\r\nRCPT TO:<{evil}@x>\r\nRCPT TO:<{evil}>\r\n".encode())
    transaction = player.connection.transaction
    recipients = [] if transaction is None else transaction.recipients
    for recipient in [str(found) for found in recipients] + ["b@x"]:
        whole = field(helo=player.connection.conversation.helo, recipient=recipient)
        assert whole.count("\r\n") == whole.count("\r") == whole.count("\n") == 5
        assert "\0" not in whole
