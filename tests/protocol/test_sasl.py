"""The mechanisms, and their exchange in base64."""

from __future__ import annotations

import base64

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.protocol.sasl import (
    MECHANISMS,
    CramMD5Credentials,
    Credentials,
    Exchange,
    PasswordCredentials,
    cram_md5_matches,
    decoded,
)

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"  # RFC 2195 2


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def run(name: str, initial: bytes | None, *answers: bytes) -> bytes | Credentials | Reply:
    exchange = Exchange(MECHANISMS[name], initial, CHALLENGE)
    step = exchange.start()
    for answer in answers:
        assert isinstance(step, bytes)
        step = exchange.respond(encoded(answer))
    return step


def test_the_example_of_rfc_2195() -> None:
    step = run("CRAM-MD5", None, b"tim " + DIGEST)
    assert step == CramMD5Credentials("tim", DIGEST, CHALLENGE)
    assert isinstance(step, CramMD5Credentials)
    assert step.matches("tanstaaftanstaaf")
    assert step.matches(b"tanstaaftanstaaf")
    assert not step.matches("tanstaaf")
    assert not step.matches("")


def test_the_challenge_is_sent_in_base64() -> None:
    assert run("CRAM-MD5", None) == b"334 " + base64.b64encode(CHALLENGE) + b"\r\n"


def test_a_digest_is_taken_in_any_case_and_a_name_with_spaces() -> None:
    step = run("CRAM-MD5", None, b"tim the great " + DIGEST.upper())
    assert isinstance(step, CramMD5Credentials)
    assert step.username == "tim the great"
    assert cram_md5_matches("tanstaaftanstaaf", CHALLENGE, step.digest)


@pytest.mark.parametrize(
    "response", [b"", b"tim", DIGEST, b" " + DIGEST, b"tim " + DIGEST[:-1], b"tim " + DIGEST + b"0"]
)
def test_what_is_no_name_and_digest(response: bytes) -> None:
    assert run("CRAM-MD5", None, response) == replies.BAD_RESPONSE


def test_plain_with_and_without_initial_response() -> None:
    wanted = PasswordCredentials("tim", "tanstaaf")
    assert run("PLAIN", b"\0tim\0tanstaaf") == wanted
    assert run("PLAIN", None) == b"334 \r\n"
    assert run("PLAIN", None, b"\0tim\0tanstaaf") == wanted
    assert run("PLAIN", b"ann\0tim\0") == PasswordCredentials("tim", "", "ann")


@pytest.mark.parametrize("response", [b"", b"tim", b"\0tim", b"\0\0x", b"a\0b\0c\0d", b"\0\0"])
def test_what_is_no_plain_message(response: bytes) -> None:
    assert run("PLAIN", response) == replies.BAD_RESPONSE


def test_login_asks_for_both() -> None:
    wanted = PasswordCredentials("tim", "tanstaaf", mechanism="LOGIN")
    assert run("LOGIN", None) == b"334 VXNlcm5hbWU6\r\n"
    assert run("LOGIN", None, b"tim") == b"334 UGFzc3dvcmQ6\r\n"
    assert run("LOGIN", None, b"tim", b"tanstaaf") == wanted
    assert run("LOGIN", b"tim", b"tanstaaf") == wanted


@pytest.mark.parametrize(
    ("name", "password"), [(b"", b"x"), (b"a\0b", b"x"), (b"a", b"x\0"), (b"\0", b"")]
)
def test_login_without_a_name_or_with_nul(name: bytes, password: bytes) -> None:
    assert run("LOGIN", None, name, password) == replies.BAD_RESPONSE


def test_octets_that_are_no_utf8_are_kept() -> None:
    step = run("PLAIN", b"\0t\xfcm\0\xff")
    assert isinstance(step, PasswordCredentials)
    assert step.username.encode(errors="surrogateescape") == b"t\xfcm"
    assert step.password.encode(errors="surrogateescape") == b"\xff"


def test_a_star_cancels() -> None:
    exchange = Exchange(MECHANISMS["LOGIN"], None, CHALLENGE)
    exchange.start()
    assert exchange.respond("*") == replies.AUTH_CANCELLED


@pytest.mark.parametrize(
    "text", ["=", "a", "ab", "abc", "ab=", "a===", "ab==cd==", "a b=", "ü=", "-_=="]
)
def test_bad_base64(text: str) -> None:
    assert decoded(text) is None
    exchange = Exchange(MECHANISMS["LOGIN"], None, CHALLENGE)
    exchange.start()
    assert exchange.respond(text) == replies.BAD_BASE64


def test_good_base64() -> None:
    assert decoded("") == b""
    assert decoded("YQ==") == b"a"
    assert decoded("YWI=") == b"ab"
    assert decoded("YWJj") == b"abc"


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(PasswordCredentials("tim", "tanstaaf")) + repr(
        CramMD5Credentials("tim", DIGEST, CHALLENGE)
    )
    assert "tim" in shown
    assert "tanstaaf" not in shown
    assert DIGEST.decode() not in shown
    assert "1896" not in shown


def test_what_shows_the_password_needs_tls() -> None:
    assert [row.name for row in MECHANISMS.values() if not row.needs_tls] == ["CRAM-MD5"]
