"""The table of extensions, and the values of their parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import EXTENSIONS, TABLE, Extension, rows
from ehlo.protocol.grammar import from_xtext
from ehlo.protocol.parameters import Facts, OriginalRecipient, UnsupportedError, read
from ehlo.protocol.settings import Settings

SETTINGS = Settings()
ALL_LENGTHS = OriginalRecipient("utf-8", "\u0100\ufffd\U00010000\U0010ffff\ud7ff")
MAIL, RCPT = SETTINGS.mail_params, SETTINGS.rcpt_params


@pytest.mark.parametrize(
    ("keyword", "value", "typed"),
    [
        ("SIZE", "0", 0),
        ("SIZE", "99999999999999999999", 99999999999999999999),
        ("BODY", "8bitmime", "8BITMIME"),
        ("BODY", "7BIT", "7BIT"),
        ("BODY", "binarymime", "BINARYMIME"),
        ("SMTPUTF8", None, True),
        ("RET", "hdrs", "HDRS"),
        ("RET", "FULL", "FULL"),
        ("ENVID", "a+2Bb+20c", "a+b c"),
        ("ENVID", "x" * 100, "x" * 100),
        ("AUTH", "<>", ""),
        ("AUTH", "e+3Dmc2@example.com", "e=mc2@example.com"),
    ],
)
def test_values_of_mail_parameters(keyword: str, value: str | None, typed: object) -> None:
    assert MAIL[keyword].parse(value) == typed


@pytest.mark.parametrize(
    ("keyword", "value", "typed"),
    [
        ("NOTIFY", "never", frozenset({"NEVER"})),
        ("NOTIFY", "success,DELAY,Failure", frozenset({"SUCCESS", "DELAY", "FAILURE"})),
        ("ORCPT", "rfc822;a+2Bb@x", OriginalRecipient("rfc822", "a+b@x")),
        ("ORCPT", "RFC822;a;b", OriginalRecipient("rfc822", "a;b")),
        ("ORCPT", "rfc822;a+2b=b@x", OriginalRecipient("rfc822", "a+=b@x")),
        ("ORCPT", "utf-8;a=\\x{fc}@x", OriginalRecipient("utf-8", "a=ü@x")),
        ("ORCPT", "utf-8;\\x{FC}@x", OriginalRecipient("utf-8", "ü@x")),
        ("ORCPT", "utf-8;ü@x", OriginalRecipient("utf-8", "ü@x")),
        ("ORCPT", "utf-8;\u00a0@x", OriginalRecipient("utf-8", "\u00a0@x")),
        ("ORCPT", "UTF-8;a\\x{2b}b\\x{5C}\\x{3D}@x", OriginalRecipient("utf-8", "a+b\\=@x")),
        ("ORCPT", "utf-8;\\x{100}\\x{FFFD}\\x{10000}\\x{10FFFF}\\x{D7FF}", ALL_LENGTHS),
    ],
)
def test_values_of_rcpt_parameters(keyword: str, value: str, typed: object) -> None:
    assert RCPT[keyword].parse(value) == typed


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        *(("SIZE", value) for value in (None, "x", "-1", "+1", "1" * 21, "١", "1.0")),
        *(("BODY", value) for value in (None, "9BIT")),
        *(("SMTPUTF8", value) for value in ("1", "yes")),
        *(("RET", value) for value in (None, "NONE")),
        *(
            ("ENVID", value)
            for value in (None, "+", "+0", "+0a", "+0A", "+7F", "+85", "ü", "x" * 101)
        ),
        *(("AUTH", value) for value in (None, "a+b", "+00")),
    ],
)
def test_values_that_mail_parameters_cannot_have(keyword: str, value: str | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has its own words, which no client sees
        MAIL[keyword].parse(value)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        *(("NOTIFY", value) for value in (None, "NEVER,SUCCESS", "SUCCESS,", "", "ALWAYS")),
        *(("ORCPT", value) for value in (None, "a@x", ";a@x", "a b;x", "rfc822;", "rfc822;+zz")),
        *(("ORCPT", f"utf-8;\\x{{{point}}}") for point in ("0A", "110000", "D800", "85", "2028")),
        *(
            ("ORCPT", f"utf-8;\\x{{{point}}}")
            for point in ("41", "1", "01", "0FC", "", "FC ", "G1")
        ),
        *(("ORCPT", f"utf-8;{text}") for text in ("", "a+40x", "a\\b", "a b", "\\x{FC")),
        ("ORCPT", "rfc822;ü"),
    ],
)
def test_values_that_rcpt_parameters_cannot_have(keyword: str, value: str | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has its own words, which no client sees
        RCPT[keyword].parse(value)


@pytest.mark.parametrize("keyword", ["REQUIRETLS", "BY", "HOLDFOR", "HOLDUNTIL", "MT-PRIORITY"])
def test_a_promise_that_the_server_cannot_keep_is_not_made(keyword: str) -> None:
    facts = Facts(SETTINGS, tls=True, mechanisms=())
    for ignore in (True, False):
        found = read(keyword, MAIL, lambda: facts, utf8=True, ignore_unknown=ignore)
        assert found == replies.unknown_parameter(keyword)


@pytest.mark.parametrize("keyword", ["DELIVERBY", "FUTURERELEASE"])
def test_a_row_without_its_argument_supports_no_value(keyword: str) -> None:
    (row,) = (row for row in TABLE if row.keyword == keyword)
    for parse in row.mail.values():
        with pytest.raises(UnsupportedError):
            parse("1")


def test_xtext_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="not xtext"):
        from_xtext("")


def test_no_two_extensions_own_the_same_parameter() -> None:
    mail = [name for row in EXTENSIONS for name in row.mail]
    rcpt = [name for row in EXTENSIONS for name in row.rcpt]
    assert len(mail) == len(set(mail)) == len(MAIL)
    assert len(rcpt) == len(set(rcpt)) == len(RCPT)
    assert all(name == name.upper() for name in (*mail, *rcpt))


def test_a_row_adds_itself_to_the_settings() -> None:
    def upper(value: str | None) -> Any:
        return (value or "").upper()

    row = Extension("XNEW", 0, mail={"XNEW": upper}, octets=11)
    settings = Settings(extensions=(*EXTENSIONS, row))
    assert settings.command_limit == SETTINGS.command_limit + 11
    assert settings.mail_params["XNEW"].parse("a") == "A"
    assert row.offered(Facts(settings, tls=False, mechanisms=()))
    assert row.argument(Facts(settings, tls=False, mechanisms=())) == ""


def test_the_command_line_is_as_long_as_the_standards_say() -> None:
    assert SETTINGS.command_limit == 512 + 26 + 16 + 10 + 500 + 530
    assert SETTINGS.line_limit == 12_288


def extensions_of(**wanted: bool) -> tuple[Extension, ...]:
    choices = {name.replace("EIGHT", "8BITMIME"): choice for name, choice in wanted.items()}
    return rows(choices, (), lambda: datetime(2030, 1, 1, tzinfo=UTC))


def test_binarymime_needs_line_ends_that_are_kept() -> None:
    """Law: bare CR and LF become CRLF unless an option says otherwise."""
    assert not Settings().binarymime
    assert not Settings(bare_newlines=BareNewlines.KEEP).binarymime
    on = extensions_of(BINARYMIME=True)
    assert Settings(bare_newlines=BareNewlines.KEEP, extensions=on).binarymime
    for policy in (BareNewlines.NORMALIZE, BareNewlines.REJECT):
        with pytest.raises(
            ValueError, match=f"BINARYMIME needs bare_newlines=keep, not {policy.value}"
        ):
            Settings(bare_newlines=policy, extensions=on)


def test_what_an_extension_needs_goes_with_it() -> None:
    """RFC 6531 3.1 item 8, RFC 3030 3."""
    without = Settings(extensions=extensions_of(EIGHT=False))
    assert not without.smtputf8
    assert Settings(extensions=extensions_of(CHUNKING=False)).smtputf8
    with pytest.raises(ValueError, match="SMTPUTF8 needs 8BITMIME; enable both"):
        extensions_of(EIGHT=False, SMTPUTF8=True)
    with pytest.raises(ValueError, match="BINARYMIME needs CHUNKING; enable both"):
        extensions_of(CHUNKING=False, BINARYMIME=True)
    assert extensions_of(EIGHT=False, SMTPUTF8=False, BINARYMIME=False)


def test_names_that_do_not_fit_into_a_reply_are_refused_at_once() -> None:
    Settings(hostname="h" * 255, appname="a" * 145)  # which makes the longest replies
    with pytest.raises(ValueError, match="hostname and appname have more than 400 characters"):
        Settings(hostname="h" * 255, appname="a" * 146)
    with pytest.raises(ValueError, match="control"):
        Settings(appname="a\r\nb")
